"""Publishes a closed period: the outcome of every balance, the age of escrow, and the payments; writes the request to approve.

exports/periods/period=2026-11/closing/{closing.csv, escrow.csv, manifest.json, manifest.sig}
exports/periods/period=2026-11/payments/{payments.csv, manifest.json, manifest.sig}     after two people have approved
bank/period=2026-11/{<message>.xml, ..., manifest.json, manifest.sig}                    also then, for the treasury only
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.money import format_minor
from provenance.core.tables import CLOSING, ESCROW_AGES, PAYMENTS
from provenance.core.version import code_version
from provenance.settlement.accounts import Account
from provenance.settlement.books import MINOR
from provenance.settlement.escrow import left_of
from provenance.settlement.exports.export import described, write_folder
from provenance.settlement.exports.keys import signing_key
from provenance.settlement.months.periods import LACKING, ON_HOLD, PAY, Line
from provenance.settlement.months.settling import LEFT_OUT, SENT, Payment

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.settle")

# Ages in days, with the columns of amounts up to that age.
AGES = ((90, "up_to_90_days_minor"), (365, "up_to_one_year_minor"), (3 * 365, "up_to_three_years_minor"))
OLDER = "older_minor"
LARGEST = 10


def publish(where: Where, folder: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Publish a signed folder, once; its manifest has the files and some facts."""
    manifest = {**facts, "code_version": code_version(), "files": described(files)}
    if write_folder(where.store, folder, files, manifest, signing_key(where.settings.settlement)):
        log.info("published %s", where.store.locate(folder))


def closing_table(period: str, lines: Iterable[Line], rates: Mapping[str, str]) -> pl.DataFrame:
    """The closing table of a close's lines, with the rates of its booking (`USD to EUR`)."""
    rows = [
        {
            "period": period,
            "owner_id": line.owner_id,
            "currency": line.currency,
            "outcome": line.outcome,
            **{f"{name}_minor": getattr(line, name) for name in (*MINOR, "left")},
            "pay_currency": line.pay_currency,
            "rate": _rate(line, rates),
        }
        for line in lines
    ]
    return CLOSING.frame(rows).sort(*CLOSING.key)


def _rate(line: Line, rates: Mapping[str, str]) -> str:
    """The rate of a line; empty if it was not converted."""
    return rates.get(f"{line.currency} to {line.pay_currency}", "")


def escrow_ages(by_day: Mapping[tuple[Account, date], int], on: date) -> pl.DataFrame:
    """Amounts in escrow by their age on a day, without amounts of later days; `by_day` is from `ledger.by_day`."""
    amounts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys([*dict(AGES).values(), OLDER], 0))
    for account, days in left_of({key: amount for key, amount in by_day.items() if key[1] <= on}).items():
        for day, amount in days:
            column = next((name for most, name in AGES if (on - day).days <= most), OLDER)
            amounts[account.party_id, account.currency][column] += amount
    rows = [
        {"escrow_id": name, "currency": currency, "amount_minor": sum(ages.values()), **ages}
        for (name, currency), ages in amounts.items()
    ]
    return ESCROW_AGES.frame(rows).sort(*ESCROW_AGES.key)


def payments_table(
    period: str, payments: Iterable[Payment], messages: Mapping[str, str], rates: Mapping[str, str]
) -> pl.DataFrame:
    """The payments table: payments sent to banks, by message, and payments left out."""
    rows = [
        {
            "period": period,
            "payment_id": payment.payment_id,
            "owner_id": payment.line.owner_id,
            "currency": payment.line.currency,
            "net_minor": payment.line.net,
            "withheld_minor": payment.line.withheld,
            "pay_currency": payment.line.pay_currency,
            "paid_minor": payment.line.paid,
            # This file is written once; later answers of banks are in the ledger.
            "status": SENT if payment.payment_id in messages else LEFT_OUT,
            "reason": "" if payment.payment_id in messages else payment.reason,
            "message_id": messages.get(payment.payment_id, ""),
            "rate": _rate(payment.line, rates),
        }
        for payment in payments
    ]
    return PAYMENTS.frame(rows).sort(*PAYMENTS.key)


def unpaid(lines: Iterable[Line], holds: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, dict[str, int]]]:
    """Owners on hold and amounts owed to them, by their joined reasons; missing data first, then most owners."""
    owners: dict[str, set[str]] = defaultdict(set)
    owed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in lines:
        if line.outcome == ON_HOLD:
            reason = "; ".join(sorted(holds[line.owner_id]))
            owners[reason].add(line.owner_id)
            owed[reason][line.currency] += line.owed
    reasons = sorted(owners, key=lambda reason: (reason not in LACKING, -len(owners[reason]), reason))
    return {reason: (len(owners[reason]), dict(sorted(owed[reason].items()))) for reason in reasons}


def request(
    period: str,
    lines: Sequence[Line],
    rates: Mapping[str, str],
    *,
    names: Mapping[str, str],
    holds: Mapping[str, Sequence[str]],
    missing: Sequence[date],
    digest: str,
    place: str,
    link: str = "",
) -> str:
    """The request to approve payments, in Markdown; of owners it shows only name and amount.

    Args:
        rates: with their evidence, by pair of currencies.
        names: of owners by id; an id stands where two owners on the list have one name.
        holds: reasons by owner, after the close.
        missing: days of the period without a paid night.
        digest: of closing.csv; it ties the approval to this file.
        place: of closing.csv in the store; link: an address where people read it, if there is one.
    """
    paid: dict[str, list[int]] = defaultdict(list)
    outcomes: dict[str, int] = defaultdict(int)
    for line in lines:
        outcomes[line.outcome] += 1
        if line.outcome == PAY:
            paid[line.pay_currency].append(line.paid)
    payable = [line for line in lines if line.outcome == PAY]
    payable.sort(key=lambda line: (-line.paid, line.owner_id, line.currency))
    text = [f"Pay what was owed at the end of **{period}**?", ""]
    text += [f"- **{format_minor(sum(amounts), c)}** in {len(amounts)} payments" for c, amounts in sorted(paid.items())]
    text += [] if paid else ["- nothing is to be paid"]
    text += [f"- {count} balances: {outcome}" for outcome, count in sorted(outcomes.items()) if outcome != PAY]
    text += [f"- {pair}: **{markdown(rate)}**" for pair, rate in sorted(rates.items())]
    text += [f"- **no night has paid {ranges(missing)}**"] if missing else []
    text += _on_hold(unpaid(lines, holds))
    if payable:
        text += ["", "| largest payments | owed, less tax | paid |", "|---|---:|---:|"]
        called = _told_apart([line.owner_id for line in payable[:LARGEST]], names)
        for line in payable[:LARGEST]:
            owed, sent = format_minor(line.net, line.currency), format_minor(line.paid, line.pay_currency)
            text.append(f"| {markdown(called[line.owner_id])} | {owed} | {sent} |")
    text += ["", f"All lines: [closing.csv]({link}), in the store `{place}`" if link else f"All lines: `{place}`"]
    text += ["", f"SHA-256 of closing.csv: `{digest}`", ""]
    text += ["Two people have to approve, one after the other. Until then, no payment is booked and no bank file is written."]
    text += ["If you reject, nothing is paid: it stays owed, and the next month pays it, at that month's rates."]
    return "\n".join(text)


def _told_apart(owners: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Names by id; where two owners have one name, with their ids."""
    called = {owner_id: names.get(owner_id, owner_id) for owner_id in owners}
    several = Counter(called.values())
    return {owner_id: f"{name} ({owner_id})" if several[name] > 1 else name for owner_id, name in called.items()}


def _on_hold(reasons: Mapping[str, tuple[int, Mapping[str, int]]]) -> list[str]:
    """A table of owners on hold by reason, and how to release them."""
    if not reasons:
        return []
    text = ["", "| not paid, because on hold | owners | owed |", "|---|---:|---:|"]
    for reason, (count, owed) in list(reasons.items())[:LARGEST]:
        text.append(f"| {markdown(reason)} | {count} | {', '.join(format_minor(a, c) for c, a in owed.items())} |")
    more = len(reasons) - LARGEST
    text += ["", f"{more} more reasons: `provenance balance` has them all."] if more > 0 else []
    if any(lacking in reason for reason in reasons for lacking in LACKING):
        text += ["", "A close holds owners without payee or tax data. `provenance payee import` adds the data;"]
        text += ["the next close then releases and pays these owners."]
    return text


def ranges(days: Sequence[date]) -> str:
    """Days as text, with ranges: `2026-11-01 to 2026-11-04, 2026-11-09`."""
    runs: list[list[date]] = []
    for day in days:
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def markdown(text: str) -> str:
    """Escape text from outside for Markdown, on one line."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|~" else c for c in " ".join(text.split()))
