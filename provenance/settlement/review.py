"""Stage `review`: some nights wait for a person, who is told why, and what they would change for whom.

They are those unlike the nights before them, and those whose contract wants a person asked where its rule fails its check.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import sqlalchemy as sa

from infra.monitor.nights import audits
from provenance.core.money import format_minor
from provenance.core.store import Store
from provenance.inputs.night import Night, load_night
from provenance.royalty.share import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, Standing
from provenance.settlement.anomaly_bounds import Bounds, Figures, changes, drift, figures, unusual
from provenance.settlement.book import accrued, cause_of
from provenance.settlement.books import NIGHT
from provenance.settlement.months.closings import markdown
from tasks.database import open_ledger
from tasks.settings import load, with_store

log = logging.getLogger("provenance.review")

# Owners whose amounts a request lists; the others are counted.
LISTED = 20


def review(folder: str) -> dict[str, Any]:
    """Hold a night that is about to be booked against those before it.

    Returns:
        `reasons`, none for a usual night; `subject` and `body`, what a person is asked, in Markdown; `cause`, the digest of
        what would be booked, so that nothing else is booked on this word.
    """
    settings, store = with_store()
    night = load_night(store, folder)
    engine = open_ledger(settings.database, store)
    wanted, booked = amounts_and_booked(store, folder)
    bounds = Bounds(**settings.review.model_dump())
    before = _nights_before(engine, night.date, bounds.nights)
    now, then = figures(night.date, wanted), figures(night.date, booked)
    reasons = [
        *unusual(now, before, bounds, booked=then),
        *_falling_audits(store, bounds.nights),
        *_unsupported_rules(store, night),
    ]
    if reasons:
        log.warning("%s waits for a person, under Required Actions in Airflow's UI: %s", night.day, "; ".join(reasons))
    else:
        log.info("%s: usual, beside %d nights before", night.day, len(before))
    return {
        "cause": cause_of(store, folder),
        "reasons": reasons,
        "subject": f"Pay {night.day}? {len(reasons)} reason{'' if len(reasons) == 1 else 's'} to look at it first",
        "body": _request(night.day, reasons, now, then, before),
    }


def amounts_and_booked(store: Store, folder: str) -> tuple[dict[Account, int], dict[Account, int]]:
    """What a night amounts to, and what is booked for its day, both by whom they are for."""
    night = load_night(store, folder)
    engine = open_ledger(load().database, store)
    standing = _standing(engine)
    wanted = accrued(store, night, night.read_outputs(store))
    return standing.earned(wanted), standing.earned(ledger.of_day(engine, night.date, through=ledger.newest(engine)))


def _nights_before(engine: sa.Engine, day: date, count: int) -> list[Figures]:
    """Figures of the last so many days before one that are booked, by whom amounts are for now."""
    days = sorted({booking.day for booking in ledger.bookings(engine, kind=NIGHT) if booking.day < day})[-count:]
    if not days:
        return []
    amounts, standing = ledger.of_nights(engine, since=days[0], through=days[-1]), _standing(engine)
    return [figures(each, standing.earned(amounts.get(each, {}))) for each in days]


def _standing(engine: sa.Engine) -> Standing:
    return ledger.standing(engine, through=ledger.newest(engine))


def _falling_audits(store: Store, last: int) -> Iterator[str]:
    """Figures of the audit in force that are below those of the one before, beyond what their intervals explain."""
    known = audits(store, last=last)
    if len(known) < 2:
        return
    before = {(figure.family, figure.method): figure for figure in known[-2].figures}
    for figure in known[-1].figures:
        earlier = before.get((figure.family, figure.method))
        if earlier and figure.high < earlier.low:
            yield (
                f"audit of {known[-1].day}, {figure.family}: {figure.method} scores {figure.score:.2f} "
                f"({figure.low:.2f} to {figure.high:.2f}), before {earlier.score:.2f} ({earlier.low:.2f} to {earlier.high:.2f})"
            )


def _unsupported_rules(store: Store, night: Night) -> Iterator[str]:
    """Contracts whose rule fails its check tonight, and that want a person asked before their fallback pays."""
    fidelity = fidelity_of(store, night) or {}
    for contract in night.contracts:
        failed = fidelity[contract.name]["failed"] if contract.name in fidelity else []
        if failed and contract.unsupported == "wait":
            yield (
                f"contract {contract.name!r}: its rule {contract.rule} fails its check ({'; '.join(failed)}), "
                f"so its fallback {contract.fallback} pays if this is approved"
            )


def _request(day: str, reasons: Sequence[str], now: Figures, then: Figures, before: Sequence[Figures]) -> str:
    """What a person is asked, in Markdown; names are strangers' and mean nothing in it."""
    said = [f"The night of **{day}** waits for a person, held against the {len(before)} before it:", ""]
    said += [f"- {markdown(reason)}" for reason in reasons]
    said.append("")
    if (moved := drift(now, before)) is not None:
        said.append(f"- shares have moved by {moved:.1%} from those nights' mean")
    for currency, revenue in sorted(now.revenue.items()):
        escrowed = format_minor(now.escrowed.get(currency, 0), currency)
        said.append(f"- revenue **{format_minor(revenue, currency)}**, of which {escrowed} to escrow")
    rows = changes(now, then)
    if rows:
        said += ["", f"| {len(rows):,} owners would be booked | now booked | then | change |", "|---|---:|---:|---:|"]
        for owner, currency, was, will in rows[:LISTED]:
            amounts = " | ".join(format_minor(amount, currency) for amount in (was, will, will - was))
            said.append(f"| {markdown(owner)} | {amounts} |")
        said += [f"| and {len(rows) - LISTED:,} more | | | |"] if len(rows) > LISTED else []
    said += ["", "Approved, it is booked, with your name. Rejected, the run fails and nothing is booked; mend the cause and",
             "trigger the day again."]  # fmt: skip
    return "\n".join(said)
