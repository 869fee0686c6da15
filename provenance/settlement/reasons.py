"""Finds the reasons why a night waits for a person, and writes the request to that person.

A night waits if it differs much from the nights before, if audits got worse, or if a contract's rule fails its check and the
contract says `unsupported = "wait"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

import sqlalchemy as sa

from provenance.core.money import format_minor
from provenance.core.store import Store
from provenance.influence.audits import audits
from provenance.inputs.night import Night, load_night
from provenance.royalty.support import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, Standing
from provenance.settlement.accrual import accrued
from provenance.settlement.anomaly_bounds import Figures, changes, drift, figures
from provenance.settlement.books import NIGHT
from provenance.settlement.months.closings import markdown

if TYPE_CHECKING:
    from provenance.core.where import Where

# Owners that a request lists; the others are counted.
LISTED = 20


def amounts_and_booked(where: Where, folder: str) -> tuple[dict[Account, int], dict[Account, int]]:
    """A night's amounts, and those booked for its day, both by beneficiary."""
    night, engine = load_night(where.store, folder), where.ledger
    standing = _standing(engine)
    wanted = accrued(where.store, night, night.read_outputs(where.store))
    return standing.earned(wanted), standing.earned(ledger.day_amounts(engine, night.date, through=ledger.newest(engine)))


def nights_before(engine: sa.Engine, day: date, count: int) -> list[Figures]:
    """Figures of the last `count` booked days before a day, by present beneficiaries."""
    days = sorted({booking.day for booking in ledger.bookings(engine, kind=NIGHT) if booking.day < day})[-count:]
    if not days:
        return []
    amounts, standing = ledger.night_amounts(engine, since=days[0], through=days[-1]), _standing(engine)
    return [figures(each, standing.earned(amounts.get(each, {}))) for each in days]


def _standing(engine: sa.Engine) -> Standing:
    return ledger.standing(engine, through=ledger.newest(engine))


def falling_audits(store: Store, last: int) -> Iterator[str]:
    """Figures of the audit in force whose interval lies below the one of the audit before."""
    recent = audits(store, last=last)
    if len(recent) < 2:
        return
    before = {(figure.family, figure.method): figure for figure in recent[-2].figures}
    for figure in recent[-1].figures:
        earlier = before.get((figure.family, figure.method))
        if earlier and figure.high < earlier.low:
            yield (
                f"audit of {recent[-1].day}, {figure.family}: {figure.method} scores {figure.score:.2f} "
                f"({figure.low:.2f} to {figure.high:.2f}), before {earlier.score:.2f} ({earlier.low:.2f} to {earlier.high:.2f})"
            )


def unsupported_rules(store: Store, night: Night) -> Iterator[str]:
    """Contracts whose rule fails its check tonight, and that ask a person before their fallback pays."""
    fidelity = fidelity_of(store, night) or {}
    for contract in night.contracts:
        failed = fidelity[contract.name]["failed"] if contract.name in fidelity else []
        if failed and contract.unsupported == "wait":
            yield (
                f"contract {contract.name!r}: its rule {contract.rule} fails its check ({'; '.join(failed)}), "
                f"so its fallback {contract.fallback} pays if this is approved"
            )


def request_text(day: str, reasons: Sequence[str], now: Figures, then: Figures, before: Sequence[Figures]) -> str:
    """The request to a person, in Markdown; text from outside is escaped."""
    lines = [f"The night of **{day}** waits for a person. Compared with the {len(before)} nights before it:", ""]
    lines += [f"- {markdown(reason)}" for reason in reasons]
    lines.append("")
    if (moved := drift(now, before)) is not None:
        lines.append(f"- shares have moved by {moved:.1%} from the mean of those nights")
    for currency, revenue in sorted(now.revenue.items()):
        escrowed = format_minor(now.escrowed.get(currency, 0), currency)
        lines.append(f"- revenue **{format_minor(revenue, currency)}**, of which {escrowed} to escrow")
    rows = changes(now, then)
    if rows:
        lines += ["", f"| {len(rows):,} owners would be booked | now booked | then | change |", "|---|---:|---:|---:|"]
        for owner, currency, was, will in rows[:LISTED]:
            amounts = " | ".join(format_minor(amount, currency) for amount in (was, will, will - was))
            lines.append(f"| {markdown(owner)} | {amounts} |")
        lines += [f"| and {len(rows) - LISTED:,} more | | | |"] if len(rows) > LISTED else []
    lines += ["", "If you approve, it is booked, with your name. If you reject, the run fails and nothing is booked:"]
    lines += ["mend the cause, and trigger the day again."]
    return "\n".join(lines)
