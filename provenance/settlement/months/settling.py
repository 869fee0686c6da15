"""Settling a period: it is closed, its payments are booked on the word of two people, and banks answer.

    rate -> close -> payments -> answer

A close locks its period and keeps what it found for every owner. What it found payable is booked as paid once, and only after
one person has prepared and another has approved it. Of payments that a bank rejects, or that come back, all is owed again.
"""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from provenance.core.contracts import PAYABLE
from provenance.core.errors import InputError
from provenance.core.store import digest
from provenance.settlement import books
from provenance.settlement.accounts import HELD, Account
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED, Outcome
from provenance.settlement.books import ANSWER, BOOKING, CLOSE, CLOSED, ENTRY, MINOR, OUTCOME, PAYMENTS, RATE, Booking
from provenance.settlement.months.periods import LACKING, PAY, Line, Payee, Terms, closing_entries, incomplete, payment_entries
from provenance.settlement.months.periods import close as close_lines
from provenance.settlement.months.periods import preview as preview_lines

# What became of a payment: nobody has approved it, it was left out, the bank has it; from then on, what the bank says.
WAITING, LEFT_OUT, SENT = "waiting", "left out", "sent"
# Who puts owners on hold for data that is missing, and ends that.
SETTLEMENT = "settle_period"
# By how much a rate and its reverse may miss each other; more is a slip of somebody's finger.
SPREAD = Decimal("0.1")
# More than so many times the last rate, or less than such a part of it: its point may be in the wrong place.
UNUSUAL = 2


@dataclass(frozen=True)
class Approval:
    """Who said yes, and when."""

    by: str
    at: datetime


@dataclass(frozen=True)
class Payment:
    """What a close has found to be paid; `payment_id` is the end-to-end identifier that the bank gets.

    Attributes:
        status: one of those above, and since which booking, if any.
        reason: why it was left out, rejected or returned.
    """

    payment_id: str
    close_id: int
    line: Line
    status: str = WAITING
    booking_id: int | None = None
    reason: str = ""


def parse_period(where: str, text: str) -> str:
    """A period as YYYY-MM and in no other spelling; `where` names it in the error."""
    try:
        found = f"{date.fromisoformat(f'{text}-01'):%Y-%m}"
    except ValueError:
        found = ""
    if not found or found != text:
        raise InputError(where, expected="a period as YYYY-MM", found=repr(text))
    return text


def last_day(period: str) -> date:
    """The day with which a period ends."""
    year, month = map(int, period.split("-"))
    return date(year, month, calendar.monthrange(year, month)[1])


def record_rate(
    engine: sa.Engine,
    period: str,
    pair: tuple[str, str],
    rate: Decimal,
    *,
    day: date,
    evidence: str,
    by: str,
    unusual: bool = False,
) -> Booking:
    """Note at how many units of the second currency one of the first is converted when a period closes.

    The last one noted counts; the same again is noted once.

    Args:
        unusual: it may be far from the last one noted, of whichever period.

    Raises:
        InputError: the period is closed, the rate is not above zero, or far from what its reverse or the last one says.
    """
    where = f"rate {pair[0]} to {pair[1]} of {period}"
    if not rate.is_finite() or rate <= 0:
        raise InputError(where, expected="a number above 0", found=str(rate))
    text = format(rate.normalize(), "f")
    facts = {"period": period, "source": pair[0], "target": pair[1], "rate": text, "evidence": evidence, "by": by}
    with books.alone(engine) as connection:
        _still_open(connection, period, where)
        reverse = _rates(connection, period).get((pair[1], pair[0]))
        if reverse and not 1 - SPREAD < rate * reverse < 1 + SPREAD:
            expected = f"about {1 / reverse:.6g}, since {pair[1]} to {pair[0]} is {reverse}"
            raise InputError(where, expected=expected, found=text, hint="Mend the other one first, if that is the wrong one.")
        noted = books.last(connection, _of_pair(pair, period))
        if noted and noted.facts == facts:
            return noted
        last = books.last(connection, _of_pair(pair))
        if last and not unusual:
            _check_usual(where, rate, last)
        return books.post(connection, books.other(connection, RATE, day, facts), {})


def rates(engine: sa.Engine, period: str) -> dict[tuple[str, str], tuple[Decimal, str]]:
    """The rates noted for a period, and what each rests on."""
    with engine.connect() as connection:
        return {pair: (Decimal(facts["rate"]), facts["evidence"]) for pair, facts in _noted(connection, period).items()}


def close(
    engine: sa.Engine, period: str, payees: Mapping[str, Payee], terms: Terms, *, day: date, by: str
) -> tuple[Booking, list[Line]]:
    """Close and lock a period, and all before it; what is to be paid waits for two people. A period is closed once.

    Owners that are owed something while their data is missing are put on hold first, and those whose data has come are
    released.

    Args:
        period: YYYY-MM; day: of the close, not before the period's end.
        terms: rates noted for the period come on top of its own.

    Returns:
        The booking of the close, and what it found for every owner.

    Raises:
        InputError: the period is not over, or a later one is closed; or as `periods.close`.
    """
    if f"{day:%Y-%m}" <= period:
        raise InputError(f"period {period}", expected="one that is over", found=f"{day}, which is in it or before it")
    with books.alone(engine) as connection:
        made = _closed(connection, period)
        if made is None:
            balances, terms = _ready(connection, period, payees, terms, day)
            lines = close_lines(balances, payees, terms)
            facts = {
                "by": by,
                "lines": digest([str(line) for line in lines]),
                "minimum": {currency: str(amount) for currency, amount in sorted(terms.minimum.items())},
                "rates": {f"{source} to {target}": str(rate) for (source, target), rate in sorted(terms.rates.items())},
            }
            row = {"kind": CLOSE, "day": day, "period": period, "facts": facts, "cause_sha256": digest([CLOSE, period])}
            made = books.post(connection, row, closing_entries(lines))
            if lines:
                connection.execute(sa.insert(CLOSED), [_row(made, line) for line in lines])
        return made, [line for _, line in _lines(connection, made.booking_id)]


def preview(
    engine: sa.Engine, period: str, payees: Mapping[str, Payee], terms: Terms, *, day: date
) -> tuple[list[Line], dict[str, tuple[str, ...]]]:
    """What `close` would find now, and why owners would then be on hold; nothing is booked.

    The period may be one that is not over. A balance that waits for a rate has the outcome `NO_RATE`.

    Raises:
        InputError: it is closed, or a later one is.
    """
    with books.alone(engine) as connection:
        balances, terms = _ready(connection, period, payees, terms, day)
        held = books.standing(connection).held
        connection.rollback()  # of who was put on hold and released
    return preview_lines(balances, payees, terms), dict(held)


def lines(engine: sa.Engine, period: str) -> tuple[Booking, list[Line]]:
    """What a close found for every owner, by owner and currency; raises InputError where the period is open."""
    with engine.connect() as connection:
        made = _must_be_closed(connection, period)
        return made, [line for _, line in _lines(connection, made.booking_id)]


def pay(
    engine: sa.Engine, period: str, *, prepared: Approval, approved: Approval, day: date
) -> tuple[Booking, list[Payment], dict[str, str]]:
    """Book the payments of a closed period, on the word of two people; once.

    What has changed since is not paid but stays owed: an owner put on hold, or one that is owed less now.

    Returns:
        The booking, the payments that it paid, and why others were left out, by payment.

    Raises:
        InputError: the period is not closed, or the two are one person, or nobody.
    """
    names = [approval.by.strip().casefold() for approval in (prepared, approved)]
    if not all(names) or names[0] == names[1]:
        raise InputError(
            f"payments of {period}",
            expected="one person who prepared and another who approves",
            found=f"{prepared.by or 'nobody'} and {approved.by or 'nobody'}",
            hint="Clear settlement.approve, and have somebody else answer.",
        )
    with books.alone(engine) as connection:
        closed = _must_be_closed(connection, period)
        made = _paid(connection, closed)
        if made is None:
            waiting = _payments(connection, closed)
            left_out = _left_out(connection, waiting)
            facts = {
                "close": str(closed.booking_id),
                "closed_period": period,
                "prepared_by": prepared.by.strip(),
                "prepared_at": prepared.at.isoformat(timespec="seconds"),
                "approved_by": approved.by.strip(),
                "approved_at": approved.at.isoformat(timespec="seconds"),
                "left_out": left_out,
            }
            row = {"kind": PAYMENTS, "day": day, "facts": facts, "cause_sha256": digest([PAYMENTS, closed.booking_id])}
            paid = (payment.line for payment in waiting if payment.payment_id not in left_out)
            made = books.post(connection, row, payment_entries(paid))
        left_out = dict(made.facts["left_out"])
        return made, [p for p in _payments(connection, closed) if p.payment_id not in left_out], left_out


def answer(engine: sa.Engine, outcomes: Sequence[Outcome], *, day: date, message: str, source: str) -> Booking:
    """Book what a bank answered, all of it or nothing; one answer is booked once.

    A payment that is rejected, or that came back, is owed again with the tax withheld from it; what a bank says of one
    that has come back before changes nothing.

    Args:
        message: the answer's own name; source: digest of its bytes.

    Raises:
        InputError: it names a payment that does not exist or was not booked, or another amount.
    """
    with books.alone(engine) as connection:
        cause = digest([ANSWER, source])
        made = books.last(connection, BOOKING.c.cause_sha256 == cause)
        if made:
            return made
        found = {p.payment_id: p for p in _payments_named(connection, [o.payment_id for o in outcomes])}
        for outcome in outcomes:
            _check(outcome, found.get(outcome.payment_id), message)
        back, rows, counts = [], [], Counter({PAID: 0, REJECTED: 0, RETURNED: 0})
        for outcome in outcomes:
            status = found[outcome.payment_id].status
            if status in {REJECTED, RETURNED, outcome.status}:
                continue
            found[outcome.payment_id] = replace(found[outcome.payment_id], status=outcome.status)
            counts[outcome.status] += 1
            rows.append({"payment_id": outcome.payment_id, "status": outcome.status, "reason": outcome.reason})
            if outcome.status != PAID:
                back.append(found[outcome.payment_id].line)
        standing = books.standing(connection)
        entries: Counter[Account] = Counter()
        for account, amount in payment_entries(back).items():
            entries[standing.lies(account)] -= amount
        facts = {"message": message, "source": source, **{status: str(count) for status, count in counts.items()}}
        made = books.post(connection, {"kind": ANSWER, "day": day, "facts": facts, "cause_sha256": cause}, entries)
        if rows:
            connection.execute(sa.insert(OUTCOME), [{**row, "booking_id": made.booking_id} for row in rows])
        return made


def payments(engine: sa.Engine, period: str, owner_id: str | None = None) -> list[Payment]:
    """Payments of a closed period, or those to one owner, with what became of them; none of one that is open."""
    with engine.connect() as connection:
        closed = _closed(connection, period)
        return _payments(connection, closed, owner_id) if closed else []


def _check_usual(where: str, rate: Decimal, last: Booking) -> None:
    before = Decimal(last.facts["rate"])
    if not before / UNUSUAL <= rate <= before * UNUSUAL:
        expected = f"one near {before:f}, as noted for {last.facts['period']}"
        hint = "Is the point in the right place? If the rate is right, add --unusual."
        raise InputError(where, expected=expected, found=f"{rate.normalize():f}", hint=hint)


def _check(outcome: Outcome, payment: Payment | None, message: str) -> None:
    where = f"{message}: payment {outcome.payment_id}"
    if payment is None:
        raise InputError(where, expected="a payment of this ledger", found="none of that identifier")
    if payment.status in {WAITING, LEFT_OUT}:
        raise InputError(where, expected="a payment that was sent", found=f"one that is {payment.status}")
    line = payment.line
    if (outcome.status, payment.status) == (PAID, REJECTED):
        hint = "What was rejected is owed again: hold the owner, and ask the bank, before it is paid a second time."
        raise InputError(where, expected="nothing more of a payment that was rejected", found="that it was paid", hint=hint)
    if outcome.amount is not None and (outcome.amount, outcome.currency) != (line.paid, line.pay_currency):
        expected = f"{line.paid} minor units of {line.pay_currency}, as sent"
        raise InputError(where, expected=expected, found=f"{outcome.amount} of {outcome.currency}")


def _ready(
    connection: sa.Connection, period: str, payees: Mapping[str, Payee], terms: Terms, day: date
) -> tuple[dict[Account, int], Terms]:
    """The balances that a period closes with, once who lacks data is on hold, and its terms with its rates."""
    _still_open(connection, period, f"period {period}")
    _hold_and_release(connection, payees, day)
    return _to_close(connection, period), replace(terms, rates={**terms.rates, **_rates(connection, period)})


def _hold_and_release(connection: sa.Connection, payees: Mapping[str, Payee], day: date) -> None:
    """Put on hold who cannot be paid for want of data, and release who could not but can now."""
    held = books.standing(connection).held
    owed = {a.party_id for a in books.sums(connection, ENTRY.c.account.in_([PAYABLE, HELD])) if a.party_id}
    lacking = incomplete(sorted(owed), payees)
    for reason in LACKING:
        now = {owner for owner, why in lacking.items() if why == reason}
        before = {owner for owner, reasons in held.items() if reason in reasons}
        if fresh := sorted(now - before):
            books.hold(connection, fresh, day=day, reason=reason, by=SETTLEMENT)
        if there := sorted(before - now):
            books.release(connection, there, day=day, reason=reason, by=SETTLEMENT)


def _to_close(connection: sa.Connection, period: str) -> dict[Account, int]:
    """Balances as a period closes with them: what was booked in it, wherever it lay, but no more than is payable now.

    Who is on hold now is on hold with it, since when ever; who is not is paid, even if what was booked was held then.
    """
    now = books.sums(connection, sa.true())
    then = books.sums(connection, BOOKING.c.period <= period)
    held, found = books.standing(connection).held, {a: amount for a, amount in now.items() if a.account not in (PAYABLE, HELD)}
    for owner, currency in {(a.party_id, a.currency) for a in {*now, *then} if a.account in (PAYABLE, HELD)}:
        payable, kept = Account(PAYABLE, owner, currency), Account(HELD, owner, currency)
        booked = then.get(payable, 0) + then.get(kept, 0)
        if owner in held:
            found[kept] = booked
        else:
            found[payable] = max(booked, now.get(payable, 0))  # owed is below zero
    return found


def _left_out(connection: sa.Connection, waiting: Iterable[Payment]) -> dict[str, str]:
    """Why payments that wait cannot be paid any more, by payment."""
    now, standing = books.sums(connection, ENTRY.c.account == PAYABLE), books.standing(connection)
    found = {}
    for payment in waiting:
        line = payment.line
        owed = -now.get(Account(PAYABLE, line.owner_id, line.currency), 0)
        if line.owner_id in standing.held:
            found[payment.payment_id] = f"on hold: {standing.held[line.owner_id][0]}"
        elif owed < line.net + line.withheld:
            found[payment.payment_id] = f"{owed} minor units of {line.currency} are payable now"
    return found


def _row(closed: Booking, line: Line) -> dict[str, Any]:
    payment_id = digest([closed.period, line.owner_id, line.currency])[:32] if line.outcome == PAY else None
    row = {field.name: getattr(line, field.name) for field in fields(line) if field.name not in MINOR}
    return (
        row
        | {f"{name}_minor": getattr(line, name) for name in MINOR}
        | {"close_id": closed.booking_id, "payment_id": payment_id}
    )


def _lines(connection: sa.Connection, close_id: int, owner_id: str | None = None) -> list[tuple[str | None, Line]]:
    """Lines of a close, with the payments of those that are paid."""
    query = sa.select(CLOSED).where(CLOSED.c.close_id == close_id).order_by(CLOSED.c.owner_id, CLOSED.c.currency)
    if owner_id is not None:
        query = query.where(CLOSED.c.owner_id == owner_id)
    found = []
    for row in connection.execute(query):
        values = {name: getattr(row, f"{name}_minor") for name in MINOR}
        others = {field.name: getattr(row, field.name) for field in fields(Line) if field.name not in MINOR}
        found.append((row.payment_id, Line(**values, **others)))
    return found


def _payments(connection: sa.Connection, closed: Booking, owner_id: str | None = None) -> list[Payment]:
    """Payments of a close, with what became of them."""
    booked = _paid(connection, closed)
    left_out = booked.facts["left_out"] if booked else {}
    of_close = sa.select(CLOSED.c.payment_id).where(CLOSED.c.close_id == closed.booking_id)
    query = sa.select(OUTCOME).where(OUTCOME.c.payment_id.in_(of_close)).order_by(OUTCOME.c.booking_id)
    outcomes = {row.payment_id: row for row in connection.execute(query)}
    found = []
    for payment_id, line in _lines(connection, closed.booking_id, owner_id):
        if payment_id is None:
            continue
        payment = Payment(payment_id, closed.booking_id, line)
        if payment_id in outcomes:
            said = outcomes[payment_id]
            payment = replace(payment, status=said.status, booking_id=said.booking_id, reason=said.reason)
        elif booked:
            status, reason = (LEFT_OUT, left_out[payment_id]) if payment_id in left_out else (SENT, "")
            payment = replace(payment, status=status, booking_id=booked.booking_id, reason=reason)
        found.append(payment)
    return found


def _payments_named(connection: sa.Connection, names: Sequence[str]) -> list[Payment]:
    of = sa.select(CLOSED.c.close_id).where(CLOSED.c.payment_id.in_(names)).distinct()
    query = sa.select(BOOKING).where(BOOKING.c.booking_id.in_(of))
    closes = [books.as_booking(row) for row in connection.execute(query)]
    return [payment for closed in closes for payment in _payments(connection, closed)]


def _paid(connection: sa.Connection, closed: Booking) -> Booking | None:
    return books.last(connection, (BOOKING.c.kind == PAYMENTS) & (BOOKING.c.facts["close"].astext == str(closed.booking_id)))


def _closed(connection: sa.Connection, period: str) -> Booking | None:
    return books.last(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period == period))


def _must_be_closed(connection: sa.Connection, period: str) -> Booking:
    made = _closed(connection, period)
    if made is None:
        hint = f"`provenance payments {period} --preview` shows what closing it now would find."
        raise InputError(f"period {period}", expected="one that is closed", found="one that is open", hint=hint)
    return made


def _still_open(connection: sa.Connection, period: str, where: str) -> None:
    later = books.last(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period >= period))
    if later:
        found = f"{later.period} is closed"
        raise InputError(where, expected="a period after the last that was closed", found=found)


def _of_pair(pair: tuple[str, str], period: str = "") -> sa.ColumnElement[bool]:
    """Rates of a pair of currencies, of one period or of all."""
    said = {"source": pair[0], "target": pair[1]} | ({"period": period} if period else {})
    return sa.and_(BOOKING.c.kind == RATE, *(BOOKING.c.facts[name].astext == value for name, value in said.items()))


def _rates(connection: sa.Connection, period: str) -> dict[tuple[str, str], Decimal]:
    return {pair: Decimal(facts["rate"]) for pair, facts in _noted(connection, period).items()}


def _noted(connection: sa.Connection, period: str) -> dict[tuple[str, str], Mapping[str, str]]:
    """The last rate noted for each pair of currencies."""
    query = sa.select(BOOKING.c.facts).where(BOOKING.c.kind == RATE).where(BOOKING.c.facts["period"].astext == period)
    noted = connection.execute(query.order_by(BOOKING.c.booking_id)).scalars()
    return {(facts["source"], facts["target"]): facts for facts in noted}
