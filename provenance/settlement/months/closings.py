"""What a closed period publishes: what became of every balance, how old escrow is, and what was sent to banks.

exports/periods/period=2026-11/closing/{closing.csv, escrow.csv, manifest.json, manifest.sig}
exports/periods/period=2026-11/payments/{payments.csv, manifest.json, manifest.sig}     once two people have approved
bank/period=2026-11/{<message>.xml, ..., manifest.json, manifest.sig}                    the same, for the treasury alone
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import polars as pl

from provenance.core.contracts import CLOSING, ESCROW_AGES, PAYMENTS
from provenance.core.money import format_minor
from provenance.settlement.accounts import Account
from provenance.settlement.books import MINOR
from provenance.settlement.months.periods import LACKING, ON_HOLD, PAY, Line
from provenance.settlement.months.settling import LEFT_OUT, SENT, Payment

# Days, and the column that counts what is no older.
AGES = ((90, "up_to_90_days_minor"), (365, "up_to_one_year_minor"), (3 * 365, "up_to_three_years_minor"))
OLDER = "older_minor"
LARGEST = 10


def closing_table(period: str, lines: Iterable[Line], rates: Mapping[str, str]) -> pl.DataFrame:
    """What a close found, as accountants get it, with the rates of its booking (`USD to EUR`): the closing table."""
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
    """At which a line was converted, if it was."""
    return rates.get(f"{line.currency} to {line.pay_currency}", "")


def escrow_ages(by_day: Mapping[tuple[Account, date], int], on: date) -> pl.DataFrame:
    """What lies in escrow for days up to one, by how long ago they were then, of what `ledger.by_day` has."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys([*dict(AGES).values(), OLDER], 0))
    for (account, day), amount in by_day.items():
        if day > on:
            continue
        column = next((name for most, name in AGES if (on - day).days <= most), OLDER)
        found[account.party_id, account.currency][column] -= amount
    rows = [
        {"escrow_id": name, "currency": currency, "amount_minor": sum(ages.values()), **ages}
        for (name, currency), ages in found.items()
    ]
    return ESCROW_AGES.frame(rows).sort(*ESCROW_AGES.key)


def payments_table(
    period: str, payments: Iterable[Payment], messages: Mapping[str, str], rates: Mapping[str, str]
) -> pl.DataFrame:
    """What was sent to banks, with the bank file by payment, and what was left out: the payments table."""
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
            # What banks have answered since is told by the ledger: this file is written once.
            "status": SENT if payment.payment_id in messages else LEFT_OUT,
            "reason": "" if payment.payment_id in messages else payment.reason,
            "message_id": messages.get(payment.payment_id, ""),
            "rate": _rate(payment.line, rates),
        }
        for payment in payments
    ]
    return PAYMENTS.frame(rows).sort(*PAYMENTS.key)


def unpaid(lines: Iterable[Line], holds: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, dict[str, int]]]:
    """Why owners are on hold, all their reasons together: how many, what is owed; missing data first, then the most."""
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
    holds: Mapping[str, Sequence[str]],
    missing: Sequence[date],
    digest: str,
    where: str,
) -> str:
    """What people are asked to approve, in Markdown; no more of an owner than its name and amount.

    Args:
        rates: with what each rests on, by pair.
        holds: why owners are on hold once it is closed.
        missing: days of the period that no night has paid.
        digest: of closing.csv, so that it is known what was approved.
    """
    paid: dict[str, list[int]] = defaultdict(list)
    outcomes: dict[str, int] = defaultdict(int)
    for line in lines:
        outcomes[line.outcome] += 1
        if line.outcome == PAY:
            paid[line.pay_currency].append(line.paid)
    payable = [line for line in lines if line.outcome == PAY]
    payable.sort(key=lambda line: (-line.paid, line.owner_id, line.currency))
    said = [f"Pay what was owed at the end of **{period}**?", ""]
    said += [f"- **{format_minor(sum(amounts), c)}** in {len(amounts)} payments" for c, amounts in sorted(paid.items())]
    said += [] if paid else ["- nothing is to be paid"]
    said += [f"- {count} balances: {outcome}" for outcome, count in sorted(outcomes.items()) if outcome != PAY]
    said += [f"- {pair}: **{markdown(told)}**" for pair, told in sorted(rates.items())]
    said += [f"- **no night has paid {ranges(missing)}**"] if missing else []
    said += _on_hold(unpaid(lines, holds))
    if payable:
        said += ["", "| largest payments | owed, less tax | paid |", "|---|---:|---:|"]
        for line in payable[:LARGEST]:
            owed, sent = format_minor(line.net, line.currency), format_minor(line.paid, line.pay_currency)
            said.append(f"| {markdown(line.owner_id)} | {owed} | {sent} |")
    said += ["", f"All lines: `{where}`", "", f"SHA-256 of closing.csv: `{digest}`", ""]
    said += ["Two people have to approve, one after the other; without both no payment is booked and no bank file is written."]
    said += ["If you reject, nothing is paid: it stays owed, and the next month pays it, at that month's rates."]
    return "\n".join(said)


def _on_hold(reasons: Mapping[str, tuple[int, Mapping[str, int]]]) -> list[str]:
    """Who is not paid and why, as a table, and what to do about it."""
    if not reasons:
        return []
    said = ["", "| not paid, since on hold | owners | owed |", "|---|---:|---:|"]
    for reason, (count, owed) in list(reasons.items())[:LARGEST]:
        said.append(f"| {markdown(reason)} | {count} | {', '.join(format_minor(a, c) for c, a in owed.items())} |")
    more = len(reasons) - LARGEST
    said += ["", f"{more} more reasons: `provenance balance` has them all."] if more > 0 else []
    if any(lacking in reason for reason in reasons for lacking in LACKING):
        said += ["", "Closing puts on hold who has no payee or no tax data: `provenance payee import` adds it."]
        said += ["The first close that finds it releases them, and pays."]
    return said


def ranges(days: Sequence[date]) -> str:
    """Days as people list them: `2026-11-01 to 2026-11-04, 2026-11-09`."""
    runs: list[list[date]] = []
    for day in days:
        if runs and (day - runs[-1][-1]).days == 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def markdown(text: str) -> str:
    """A stranger's text in Markdown, on one line, where it means nothing but itself."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#+-.!|~" else c for c in " ".join(text.split()))
