"""Books the settlement of a period: rates, the close, payments after two approvals, and answers of banks.

    rate -> close -> payments -> answer

A close locks its period and stores a line for every owner. Its payments are booked once, after one person has prepared and
another has approved them. Payments that a bank rejects or returns are owed again in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import digest
from provenance.core.tables import PAYABLE
from provenance.settlement import books, ledger
from provenance.settlement.accounts import CHARGES, FUNDING, HELD, Account
from provenance.settlement.approvals import Approval, are_two
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED, Outcome
from provenance.settlement.books import ANSWER, BOOKING, CLOSE, CLOSED, ENTRY, MINOR, NIGHT, OUTCOME, PAYMENTS, RATE, Booking
from provenance.settlement.months.periods import (
    LACKING,
    PAY,
    ClosingTerms,
    Line,
    Payee,
    closing_entries,
    incomplete,
    last_day,
    payment_entries,
)
from provenance.settlement.months.periods import close as close_lines
from provenance.settlement.months.periods import preview as preview_lines

# Statuses of a payment: not approved yet, left out, sent to the bank; then the bank's statuses.
WAITING, LEFT_OUT, SENT = "waiting", "left out", "sent"
# Beginnings of the names of answers that show money moving.
STATEMENTS = ("camt.", "paypal ", "nacha ")
# Outcomes that statements show, with the facts of a booking that have the banks' names of them.
MOVES = {PAID: "debits", RETURNED: "credits"}
BY_HAND = "`provenance answer-by-hand` books it on evidence and two names."
# The name under which owners with missing data are held and released.
SETTLEMENT = "settle_period"
# Largest deviation of a rate times its reverse rate from 1; more is a typing error.
SPREAD = Decimal("0.1")
# A rate above this multiple of the last one, or below its inverse, may have a misplaced point.
UNUSUAL = 2
# A difference from the ordered amount that no charge states is one up to this part of it (a twentieth).
MOST_UNSTATED = 20


@dataclass(frozen=True)
class Payment:
    """A payment of a close; `payment_id` is the end-to-end identifier that the bank gets.

    Attributes:
        status: one of the statuses above; booking_id: the booking that set it, if any.
        reason: why it was left out, rejected or returned.
    """

    payment_id: str
    close_id: int
    line: Line
    status: str = WAITING
    booking_id: int | None = None
    reason: str = ""


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
    """Record a rate for the close of a period: units of the second currency for one of the first.

    The last rate of a pair counts; an equal one is not recorded again.

    Args:
        unusual: accept a rate far from the last one of any period.

    Raises:
        InputError: the period is closed, the rate is not above zero, or it is far from its reverse or the last rate.
    """
    where = f"rate {pair[0]} to {pair[1]} of {period}"
    if not rate.is_finite() or rate <= 0:
        raise InputError(where, expected="a number above 0", found=str(rate))
    text = format(rate.normalize(), "f")
    facts = {"period": period, "source": pair[0], "target": pair[1], "rate": text, "evidence": evidence, "by": by}
    with books.booking_transaction(engine) as connection:
        _require_open(connection, period, where)
        reverse = _rates(connection, period).get((pair[1], pair[0]))
        if reverse and not 1 - SPREAD < rate * reverse < 1 + SPREAD:
            expected = f"about {1 / reverse:.6g}, since {pair[1]} to {pair[0]} is {reverse}"
            raise InputError(where, expected=expected, found=text, hint="Mend the other one first, if that is the wrong one.")
        recorded = books.last(connection, _rates_of_pair(pair, period))
        if recorded and recorded.facts == facts:
            return recorded
        last = books.last(connection, _rates_of_pair(pair))
        if last and not unusual:
            _check_usual(where, rate, last)
        return books.post(connection, books.booking_row(connection, RATE, day, facts), {})


def rates(engine: sa.Engine, period: str) -> dict[tuple[str, str], tuple[Decimal, str]]:
    """The recorded rates of a period with their evidence, by pair."""
    with engine.connect() as connection:
        return {pair: (Decimal(facts["rate"]), facts["evidence"]) for pair, facts in _rate_facts(connection, period).items()}


def close(
    engine: sa.Engine, period: str, payees: Mapping[str, Payee], terms: ClosingTerms, *, day: date, by: str
) -> tuple[Booking, list[Line]]:
    """Close and lock a period and all before it, once; payments then wait for two approvals.

    First, owners with a balance and missing data are put on hold, and those with complete data are released.

    Args:
        period: YYYY-MM; day: of the close, after the period's end.
        terms: recorded rates of the period are added to it.

    Returns:
        The booking of the close, and its lines by owner.

    Raises:
        InputError: the period is not over, or a later one is closed; or as `periods.close`.
    """
    if f"{day:%Y-%m}" <= period:
        raise InputError(f"period {period}", expected="one that is over", found=f"{day}, which is in it or before it")
    with books.booking_transaction(engine) as connection:
        booking = _close_booking(connection, period)
        if booking is None:
            balances, terms = _prepare_close(connection, period, payees, terms, day)
            lines = close_lines(balances, payees, terms)
            facts = {
                "by": by,
                "lines": digest([str(line) for line in lines]),
                "minimum": {currency: str(amount) for currency, amount in sorted(terms.minimum.items())},
                "rates": {f"{source} to {target}": str(rate) for (source, target), rate in sorted(terms.rates.items())},
            }
            row = {"kind": CLOSE, "day": day, "period": period, "facts": facts, "cause_sha256": digest([CLOSE, period])}
            booking = books.post(connection, row, closing_entries(lines))
            if lines:
                connection.execute(sa.insert(CLOSED), [_row(booking, line) for line in lines])
        return booking, [line for _, line in _lines(connection, booking.booking_id)]


def preview(
    engine: sa.Engine, period: str, payees: Mapping[str, Payee], terms: ClosingTerms, *, day: date
) -> tuple[list[Line], dict[str, tuple[str, ...]]]:
    """The lines of a `close` now, and reasons of holds by owner; nothing is booked.

    The period need not be over. A balance without a rate has the outcome `NO_RATE`.

    Raises:
        InputError: it is closed, or a later one is.
    """
    with books.booking_transaction(engine) as connection:
        balances, terms = _prepare_close(connection, period, payees, terms, day)
        holds = books.standing(connection).holds
        connection.rollback()  # undoes the holds and releases of `_prepare_close`
    return preview_lines(balances, payees, terms), dict(holds)


def lines(engine: sa.Engine, period: str) -> tuple[Booking, list[Line]]:
    """The booking and the lines of a close, by owner and currency; raises InputError if the period is open."""
    with engine.connect() as connection:
        booking = _require_closed(connection, period)
        return booking, [line for _, line in _lines(connection, booking.booking_id)]


def pay(
    engine: sa.Engine, period: str, *, prepared: Approval, approved: Approval, day: date
) -> tuple[Booking, list[Payment], dict[str, str]]:
    """Book the payments of a closed period after two approvals; once.

    Payments to owners that were put on hold since, or are owed less now, are left out and stay owed.

    Returns:
        The booking, its payments, and reasons of the payments left out, by id.

    Raises:
        CheckFailed: a person did not approve.
        InputError: the period is not closed, or there are not two persons.
    """
    for approval in (prepared, approved):
        if not approval.granted:
            raise CheckFailed(f"{approval.by} did not approve the payments of {period}")
    hint = "Clear settlement.approve, and have somebody else answer."
    check_two_persons(f"payments of {period}", prepared.by, approved.by, hint=hint)
    with books.booking_transaction(engine) as connection:
        closed = _require_closed(connection, period)
        booking = _payments_booking(connection, closed)
        if booking is None:
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
            booking = books.post(connection, row, payment_entries(paid))
        left_out = dict(booking.facts["left_out"])
        return booking, [p for p in _payments(connection, closed) if p.payment_id not in left_out], left_out


def answer(engine: sa.Engine, outcomes: Sequence[Outcome], *, day: date, message: str, source: str) -> Booking:
    """Book a bank's answer, whole or not at all; what is in the books already is not booked again.

    A rejected or returned payment is owed again, with the tax that was withheld. A rejection as a duplicate changes nothing:
    the first copy stands.

    Args:
        message: name of the answer; source: digest of its bytes.

    Raises:
        InputError: the answer names an unknown payment, one that was not sent, or another amount; or it contradicts what is
        booked.
    """
    booking, problems = answer_in_parts(engine, outcomes, day=day, message=message, source=source, whole=True)
    if problems:
        raise problems[0][1]
    assert booking is not None
    return booking


def answer_in_parts(
    engine: sa.Engine, outcomes: Sequence[Outcome], *, day: date, message: str, source: str, whole: bool = False
) -> tuple[Booking | None, list[tuple[Outcome, InputError]]]:
    """Book the outcomes of an answer that hold, as `answer` does.

    Args:
        whole: book nothing if one does not hold.

    Returns:
        The last booking of this answer, if any; and the outcomes that do not hold, each with its error.
    """
    with books.booking_transaction(engine) as connection:
        before = books.last(connection, (BOOKING.c.kind == ANSWER) & (BOOKING.c.facts["source"].astext == source))
        histories = _histories(connection, [outcome.payment_id for outcome in outcomes])
        moves = message.startswith(STATEMENTS)
        new, problems = [], []
        shown: dict[tuple[str, str], str] = {}  # references of what this answer has shown of each payment
        for outcome in outcomes:
            history = histories.get(outcome.payment_id)
            try:
                charge = _check_outcome(outcome, history, message, shown)
            except InputError as error:
                problems.append((outcome, error))
                continue
            if moves and outcome.status in MOVES:
                shown[outcome.payment_id, outcome.status] = outcome.reference
            if history is not None and not history.has(outcome, moves=moves):
                counted = moves and outcome.status in history.on_statement
                new.append((outcome, history.line, 0 if counted else charge, history.owes_again(outcome)))
                history.add(outcome, moves=moves)
        if (problems and (whole or not new)) or (before and not new):
            return before, problems
        facts = {"message": message, "source": source}
        return _post_answer(connection, new, day=day, facts=facts, cause=[ANSWER, source] if before is None else None), problems


def answer_by_hand(
    engine: sa.Engine, payment_ids: Sequence[str], status: str, *, day: date, entry: str, evidence: str, by: str, second: str
) -> Booking:
    """Book by hand what became of payments, or that an entry concerns none of ours; the same is booked once.

    It may contradict what is booked: a debit after a rejection is booked as paid again, a rejection after a debit as owed
    again.

    Args:
        payment_ids: none, if the entry is nobody's of ours; status: `paid`, `rejected` or `returned`, or empty without
            payments.
        entry: key of the entry of a bank's file that this settles, if any.
        evidence: such as the bank's letter; by, second: the two persons who decided.

    Raises:
        InputError: there are not two persons, no evidence, or no payment and no entry; or a payment is unknown, was not sent,
            or has this outcome already.
    """
    where = f"entry {entry}" if entry else f"payment {', '.join(payment_ids)}"
    check_two_persons(where, by, second, hint="Have somebody else look at the evidence, too.")
    if not evidence.strip():
        raise InputError(f"{where}: --evidence", expected="some text, which the ledger keeps for good", found="nothing")
    if not entry and not payment_ids:
        raise InputError("by hand", expected="a payment, an entry of a bank's file, or both", found="neither")
    if bool(payment_ids) != bool(status):
        raise InputError(where, expected="payments with their outcome, or neither", found="one without the other")
    facts = {"message": "by hand", "source": entry, "entry": entry, "status": status, "payments": sorted({*payment_ids})}
    facts |= {"evidence": evidence.strip(), "by": by.strip(), "second": second.strip()}
    cause = [ANSWER, "by hand", sorted(facts.items())]
    with books.booking_transaction(engine) as connection:
        same = books.last(connection, BOOKING.c.cause_sha256 == digest(cause))
        histories, new = _histories(connection, payment_ids), []
        if same and all(histories[payment_id].now == status for payment_id in payment_ids):
            return same
        for payment_id in sorted({*payment_ids}):
            outcome, history = Outcome(payment_id, status, reason="by hand"), histories.get(payment_id)
            _require_sent(outcome, history, "by hand")
            assert history is not None
            told = outcome.status == history.now and (outcome.status != PAID or history.debited)
            if told or RETURNED in history.statuses:
                raise InputError(f"payment {payment_id}", expected=f"one that is not {history.now} yet", found=history.now)
            new.append((outcome, history.line, 0, history.owes_again(outcome)))
        return _post_answer(connection, new, day=day, facts=facts, cause=None if same else cause)


def settled_by_hand(engine: sa.Engine) -> set[str]:
    """Keys of the entries of banks' files that were settled by hand."""
    query = sa.select(BOOKING.c.facts["entry"].astext).where((BOOKING.c.kind == ANSWER) & BOOKING.c.facts.has_key("entry"))
    with engine.connect() as connection:
        return {key for key in connection.execute(query).scalars() if key}


def payments_like(engine: sa.Engine, beginnings: Iterable[str], letters: int) -> list[Payment]:
    """Payments whose ids begin with one of some texts of as many letters."""
    wanted = sorted({*beginnings})
    if not wanted:
        return []
    with engine.connect() as connection:
        query = sa.select(CLOSED.c.payment_id).where(sa.func.left(CLOSED.c.payment_id, letters).in_(wanted))
        return _payments_named(connection, list(connection.execute(query).scalars()))


def check_two_persons(where: str, first: str, second: str, *, hint: str) -> None:
    """Raise InputError unless two different persons are named."""
    if not are_two(first, second):
        expected = "one person who prepared and another who approves"
        raise InputError(where, expected=expected, found=f"{first or 'nobody'} and {second or 'nobody'}", hint=hint)


@dataclass
class _History:
    """What banks have said of one payment.

    Attributes:
        debited: whether a statement, or a person, has booked its debit.
        on_statement: what statements have shown, a debit or a return; references: of these, where they have any.
    """

    line: Line
    sent: str
    statuses: list[str] = field(default_factory=list)
    debited: bool = False
    on_statement: set[str] = field(default_factory=set)
    references: dict[str, list[str]] = field(default_factory=dict)

    @property
    def now(self) -> str:
        return current_status(self.statuses) or self.sent

    def has(self, outcome: Outcome, *, moves: bool) -> bool:
        """Whether an outcome changes nothing; so the order of answers does not matter.

        What a report or a person told is booked once more when a statement shows it (`moves`), with its charge; and what a
        statement showed without a reference once more when another has one, which a second entry is known by.
        """
        if outcome.status in MOVES and moves:
            learns = outcome.reference and not self.references.get(outcome.status) and outcome.status == self.now
            return outcome.status in self.on_statement and not learns
        stands = outcome.duplicate and outcome.status == REJECTED
        late = outcome.status == REJECTED and RETURNED in self.statuses
        return stands or late or outcome.status in self.statuses

    def differs(self, outcome: Outcome) -> bool:
        """Whether a debit or return cannot be one of those that statements have shown."""
        known = self.references.get(outcome.status, [])
        return bool(known) and not any(_same_entry(each, outcome.reference) for each in known)

    def owes_again(self, outcome: Outcome) -> int:
        """1: the payment is owed again with this outcome; -1: it counts as paid again; 0: neither."""
        owed, owes = self.now in (REJECTED, RETURNED), outcome.status in (REJECTED, RETURNED)
        return 0 if RETURNED in self.statuses else owes - owed

    def add(self, outcome: Outcome, *, moves: bool, by_hand: bool = False) -> None:
        self.statuses.append(outcome.status)
        self.debited |= (moves or by_hand) and outcome.status == PAID
        if moves and outcome.status in MOVES:
            self.on_statement.add(outcome.status)
            if outcome.reference:
                self.references.setdefault(outcome.status, []).append(outcome.reference)


def current_status(statuses: Sequence[str]) -> str:
    """The status of a payment after several, the oldest first: whatever came back stays so."""
    return RETURNED if RETURNED in statuses else statuses[-1] if statuses else ""


def _histories(connection: sa.Connection, names: Sequence[str]) -> dict[str, _History]:
    payments = _payments_named(connection, names)
    query = (
        sa.select(
            OUTCOME.c.payment_id,
            OUTCOME.c.status,
            BOOKING.c.facts["message"].astext,
            *(BOOKING.c.facts[fact][OUTCOME.c.payment_id].astext.label(fact) for fact in MOVES.values()),
        )
        .join(BOOKING, BOOKING.c.booking_id == OUTCOME.c.booking_id)
        .where(OUTCOME.c.payment_id.in_(names))
        .order_by(OUTCOME.c.booking_id)
    )
    histories = {p.payment_id: _History(p.line, p.status) for p in payments}
    for payment_id, status, message, *references in connection.execute(query):
        reference = dict(zip(MOVES, references, strict=True)).get(status)
        moves, by_hand = message.startswith(STATEMENTS), message == "by hand"
        histories[payment_id].add(Outcome(payment_id, status, reference=reference or ""), moves=moves, by_hand=by_hand)
    return histories


def _post_answer(
    connection: sa.Connection,
    new: Sequence[tuple[Outcome, Line, int, int]],
    *,
    day: date,
    facts: Mapping[str, Any],
    cause: Any | None,
) -> Booking:
    """Book outcomes: each with its line, the charge of banks, and whether it is owed again (1) or counts as paid again (-1)."""
    standing = books.standing(connection)
    entries: Counter[Account] = Counter()
    for _, line, _, again in new:
        for account, amount in payment_entries([line]).items() if again else ():
            entries[standing.current_account(account)] -= again * amount
    charges: dict[str, str] = {}
    for outcome, line, charge, _ in new:
        if charge:
            entries[Account(CHARGES, "", line.pay_currency)] += charge
            entries[Account(FUNDING, "", line.pay_currency)] -= charge
            charges[f"{outcome.payment_id} {outcome.status}"] = f"{charge} {line.pay_currency}"
    references = {
        fact: {outcome.payment_id: outcome.reference for outcome, *_ in new if outcome.status == status and outcome.reference}
        for status, fact in MOVES.items()
    }
    counts = Counter(outcome.status for outcome, *_ in new)
    facts = {**facts, **{status: str(counts[status]) for status in (PAID, REJECTED, RETURNED)}}
    facts |= {name: fact for name, fact in {"charges": charges, **references}.items() if fact}
    row = books.booking_row(connection, ANSWER, day, facts) if cause is None else {"kind": ANSWER, "day": day, "facts": facts}
    booking = books.post(connection, row if cause is None else {**row, "cause_sha256": digest(cause)}, entries)
    if new:
        rows = [
            {"payment_id": o.payment_id, "status": o.status, "reason": o.reason, "booking_id": booking.booking_id}
            for o, *_ in new
        ]
        connection.execute(sa.insert(OUTCOME), rows)
    return booking


def payments(engine: sa.Engine, period: str, owner_id: str | None = None) -> list[Payment]:
    """Payments of a period with their status, to all owners or to one; empty if the period is open."""
    with engine.connect() as connection:
        closed = _close_booking(connection, period)
        return _payments(connection, closed, owner_id) if closed else []


def payments_named(engine: sa.Engine, names: Sequence[str]) -> list[Payment]:
    """Payments by their ids, with their status."""
    wanted = set(names)
    with engine.connect() as connection:
        return [payment for payment in _payments_named(connection, names) if payment.payment_id in wanted]


def approvals(engine: sa.Engine, period: str) -> dict[str, str]:
    """Who prepared and who approved a period's payments, and when (ISO 8601); empty while they wait."""
    with engine.connect() as connection:
        booked = _payments_booking(connection, _require_closed(connection, period))
    names = ("prepared_by", "prepared_at", "approved_by", "approved_at")
    return {name: str(booked.facts[name]) for name in names} if booked else {}


def days_without_a_night(engine: sa.Engine, period: str) -> list[date]:
    """Days of a period without a paid night."""
    last = last_day(period)
    paid = {booking.day for booking in ledger.bookings(engine, kind=NIGHT)}
    days = [last.replace(day=number) for number in range(1, last.day + 1)]
    return [day for day in days if day not in paid]


def _check_usual(where: str, rate: Decimal, last: Booking) -> None:
    before = Decimal(last.facts["rate"])
    if not before / UNUSUAL <= rate <= before * UNUSUAL:
        expected = f"one near {before:f}, as recorded for {last.facts['period']}"
        hint = "Is the point in the right place? If the rate is right, add --unusual."
        raise InputError(where, expected=expected, found=f"{rate.normalize():f}", hint=hint)


def _require_sent(outcome: Outcome, history: _History | None, message: str) -> None:
    where = f"{message}: payment {outcome.payment_id}"
    if history is None:
        raise InputError(where, expected="a payment of this ledger", found="none of that identifier")
    if history.now in {WAITING, LEFT_OUT}:
        raise InputError(where, expected="a payment that was sent", found=f"one that is {history.now}")


def _check_outcome(outcome: Outcome, history: _History | None, message: str, shown: Mapping[tuple[str, str], str]) -> int:
    """The charge that a bank added to a debit or kept of a return, in minor units.

    Args:
        shown: references of what the same answer has shown already, by payment and status.

    Raises:
        InputError: the outcome does not hold.
    """
    _require_sent(outcome, history, message)
    assert history is not None
    where, line = f"{message}: payment {outcome.payment_id}", history.line
    charge = _charge(outcome, line)
    if charge is None:
        expected = f"{line.paid} minor units of {line.pay_currency}, as sent"
        stated = f", with charges of {outcome.charge}" if outcome.charge else ""
        raise InputError(where, expected=expected, found=f"{outcome.amount} of {outcome.currency}{stated}", hint=BY_HAND)
    if outcome.status == RETURNED and outcome.duplicate:
        found = f"that a second copy came back ({outcome.reason})"
        hint = f"Is there one debit, or two? {BY_HAND}"
        raise InputError(where, expected="a return of the payment itself", found=found, hint=hint)
    moves = outcome.status == PAID and message.startswith(STATEMENTS)
    _require_first(outcome, history, message, shown)
    again = PAID in history.on_statement if moves else outcome.status in history.statuses
    if outcome.status == PAID and history.now == REJECTED and not again:
        hint = (
            "A rejected payment is owed again: hold the owner and ask the bank, before it is paid a second time. "
            f"Was it debited, book it by hand as paid: then it is owed no more. {BY_HAND}"
        )
        raise InputError(where, expected="no later outcome of a rejected payment", found="that it was paid", hint=hint)
    if outcome.status in history.statuses or RETURNED in history.statuses:
        return charge
    if outcome.status == REJECTED and outcome.perhaps and not outcome.duplicate:
        found = f"words that may mean a second copy ({outcome.reason})"
        hint = f"Then the first copy stands: ask the bank. If this one was rejected, book it by hand as rejected. {BY_HAND}"
        raise InputError(where, expected="a rejection of the payment itself", found=found, hint=hint)
    if outcome.status == REJECTED and history.debited and not outcome.duplicate:
        hint = f"It stays paid until the amount is seen to come back: ask the bank which copy it rejected. {BY_HAND}"
        found = f"that it was rejected ({outcome.reason or 'no reason given'})"
        raise InputError(where, expected="no rejection of a payment whose debit a statement has booked", found=found, hint=hint)
    return charge


def _require_first(outcome: Outcome, history: _History, message: str, shown: Mapping[tuple[str, str], str]) -> None:
    """Raise InputError if a statement shows a second debit of a payment, or that it came back twice."""
    # PayPal tells of one return in two rows: the payout's own, and the reversal's.
    if outcome.status not in MOVES or not message.startswith(STATEMENTS if outcome.status == PAID else "camt."):
        return
    before = [shown[outcome.payment_id, outcome.status]] if (outcome.payment_id, outcome.status) in shown else []
    if all(_same_entry(each, outcome.reference, in_one=True) for each in before) and not history.differs(outcome):
        return
    first = ", ".join(filter(None, (*history.references.get(outcome.status, ()), *before))) or "without a reference"
    found = f"a second one ({outcome.reference or 'without a reference'}; the first: {first})"
    what, may = ("debit", "paid") if outcome.status == PAID else ("return", "sent back")
    hint = f"It may have been {may} twice: ask the bank. If it concerns no payment, settle it without one. {BY_HAND}"
    raise InputError(f"{message}: payment {outcome.payment_id}", expected=f"one {what} of a payment", found=found, hint=hint)


def _same_entry(first: str, second: str, *, in_one: bool = False) -> bool:
    """Whether two references may be of one entry: they have a name in common, or no names and the same day.

    In one statement, two entries without a reference are two.
    """
    if not first or not second:
        return not in_one
    (day, *names), (other_day, *others) = first.split(), second.split()
    if names and others:
        return not {*names}.isdisjoint(others)
    return "-" in (day, other_day) or (day == other_day and not in_one)


def _charge(outcome: Outcome, line: Line) -> int | None:
    """The charge between an amount and what was sent; None if charges do not explain the difference."""
    if outcome.amount is None:
        return 0
    if outcome.currency != line.pay_currency:
        return None
    difference = outcome.amount - line.paid if outcome.status == PAID else line.paid - outcome.amount
    if not difference:
        return 0
    plausible = outcome.instructed == line.paid and difference * MOST_UNSTATED <= line.paid
    explained = plausible or outcome.charge == difference
    return difference if difference > 0 and explained and outcome.status != REJECTED else None


def _prepare_close(
    connection: sa.Connection, period: str, payees: Mapping[str, Payee], terms: ClosingTerms, day: date
) -> tuple[dict[Account, int], ClosingTerms]:
    """Hold and release owners by their data; returns the balances to close, and the terms with recorded rates."""
    _require_open(connection, period, f"period {period}")
    _hold_and_release(connection, payees, day)
    return _closing_balances(connection, period), replace(terms, rates={**terms.rates, **_rates(connection, period)})


def _hold_and_release(connection: sa.Connection, payees: Mapping[str, Payee], day: date) -> None:
    """Hold owners with missing data, and release owners whose data is complete now."""
    holds = books.standing(connection).holds
    owed = {a.party_id for a in books.sums(connection, ENTRY.c.account.in_([PAYABLE, HELD])) if a.party_id}
    lacking = incomplete(sorted(owed), payees)
    for reason in LACKING:
        now = {owner for owner, missing in lacking.items() if missing == reason}
        before = {owner for owner, reasons in holds.items() if reason in reasons}
        if incomplete_now := sorted(now - before):
            books.hold(connection, incomplete_now, day=day, reason=reason, by=SETTLEMENT)
        if complete := sorted(before - now):
            books.release(connection, complete, day=day, reason=reason, by=SETTLEMENT)


def _closing_balances(connection: sa.Connection, period: str) -> dict[Account, int]:
    """The balances that a close of a period pays: those at its end, but no more than is payable now.

    Current holds apply, whenever placed; amounts that were held at the end and are released now are paid.
    """
    now = books.sums(connection, sa.true())
    then = books.sums(connection, BOOKING.c.period <= period)
    holds = books.standing(connection).holds
    balances = {a: amount for a, amount in now.items() if a.account not in (PAYABLE, HELD)}
    for owner, currency in {(a.party_id, a.currency) for a in {*now, *then} if a.account in (PAYABLE, HELD)}:
        payable, kept = Account(PAYABLE, owner, currency), Account(HELD, owner, currency)
        booked = then.get(payable, 0) + then.get(kept, 0)
        if owner in holds:
            balances[kept] = booked
        else:
            balances[payable] = max(booked, now.get(payable, 0))  # owed is below zero
    return balances


def _left_out(connection: sa.Connection, waiting: Iterable[Payment]) -> dict[str, str]:
    """Reasons of waiting payments that can no longer be paid, by payment."""
    now, standing = books.sums(connection, ENTRY.c.account == PAYABLE), books.standing(connection)
    reasons = {}
    for payment in waiting:
        line = payment.line
        owed = -now.get(Account(PAYABLE, line.owner_id, line.currency), 0)
        if line.owner_id in standing.holds:
            reasons[payment.payment_id] = f"on hold: {standing.holds[line.owner_id][0]}"
        elif owed < line.net + line.withheld:
            reasons[payment.payment_id] = f"{owed} minor units of {line.currency} are payable now"
    return reasons


def _row(closed: Booking, line: Line) -> dict[str, Any]:
    payment_id = digest([closed.period, line.owner_id, line.currency])[:32] if line.outcome == PAY else None
    row = {field.name: getattr(line, field.name) for field in fields(line) if field.name not in MINOR}
    return (
        row
        | {f"{name}_minor": getattr(line, name) for name in MINOR}
        | {"close_id": closed.booking_id, "payment_id": payment_id}
    )


def _lines(connection: sa.Connection, close_id: int, owner_id: str | None = None) -> list[tuple[str | None, Line]]:
    """Lines of a close, each with its payment's id, if any."""
    query = sa.select(CLOSED).where(CLOSED.c.close_id == close_id).order_by(CLOSED.c.owner_id, CLOSED.c.currency)
    if owner_id is not None:
        query = query.where(CLOSED.c.owner_id == owner_id)
    lines = []
    for row in connection.execute(query):
        values = {name: getattr(row, f"{name}_minor") for name in MINOR}
        rest = {field.name: getattr(row, field.name) for field in fields(Line) if field.name not in MINOR}
        lines.append((row.payment_id, Line(**values, **rest)))
    return lines


def _payments(connection: sa.Connection, closed: Booking, owner_id: str | None = None) -> list[Payment]:
    """Payments of a close with their status."""
    booked = _payments_booking(connection, closed)
    left_out = booked.facts["left_out"] if booked else {}
    of_close = sa.select(CLOSED.c.payment_id).where(CLOSED.c.close_id == closed.booking_id)
    query = sa.select(OUTCOME).where(OUTCOME.c.payment_id.in_(of_close)).order_by(OUTCOME.c.booking_id)
    outcomes: dict[str, Any] = {}
    for row in connection.execute(query):
        if row.payment_id not in outcomes or outcomes[row.payment_id].status != RETURNED:
            outcomes[row.payment_id] = row
    payments = []
    for payment_id, line in _lines(connection, closed.booking_id, owner_id):
        if payment_id is None:
            continue
        payment = Payment(payment_id, closed.booking_id, line)
        if payment_id in outcomes:
            outcome = outcomes[payment_id]
            payment = replace(payment, status=outcome.status, booking_id=outcome.booking_id, reason=outcome.reason)
        elif booked:
            status, reason = (LEFT_OUT, left_out[payment_id]) if payment_id in left_out else (SENT, "")
            payment = replace(payment, status=status, booking_id=booked.booking_id, reason=reason)
        payments.append(payment)
    return payments


def _payments_named(connection: sa.Connection, names: Sequence[str]) -> list[Payment]:
    close_ids = sa.select(CLOSED.c.close_id).where(CLOSED.c.payment_id.in_(names)).distinct()
    query = sa.select(BOOKING).where(BOOKING.c.booking_id.in_(close_ids))
    closes = [books.as_booking(row) for row in connection.execute(query)]
    return [payment for closed in closes for payment in _payments(connection, closed)]


def _payments_booking(connection: sa.Connection, closed: Booking) -> Booking | None:
    return books.last(connection, (BOOKING.c.kind == PAYMENTS) & (BOOKING.c.facts["close"].astext == str(closed.booking_id)))


def _close_booking(connection: sa.Connection, period: str) -> Booking | None:
    return books.last(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period == period))


def _require_closed(connection: sa.Connection, period: str) -> Booking:
    booking = _close_booking(connection, period)
    if booking is None:
        hint = f"`provenance payments {period} --preview` shows a close without booking it."
        raise InputError(f"period {period}", expected="one that is closed", found="one that is open", hint=hint)
    return booking


def _require_open(connection: sa.Connection, period: str, where: str) -> None:
    later = books.last(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period >= period))
    if later:
        raise InputError(where, expected="a period after the last closed one", found=f"{later.period} is closed")


def _rates_of_pair(pair: tuple[str, str], period: str = "") -> sa.ColumnElement[bool]:
    """A condition: bookings of rates of a pair, of one period or of all."""
    facts = {"source": pair[0], "target": pair[1]} | ({"period": period} if period else {})
    return sa.and_(BOOKING.c.kind == RATE, *(BOOKING.c.facts[name].astext == value for name, value in facts.items()))


def _rates(connection: sa.Connection, period: str) -> dict[tuple[str, str], Decimal]:
    return {pair: Decimal(facts["rate"]) for pair, facts in _rate_facts(connection, period).items()}


def _rate_facts(connection: sa.Connection, period: str) -> dict[tuple[str, str], Mapping[str, str]]:
    """Facts of the last recorded rate of each pair."""
    query = sa.select(BOOKING.c.facts).where(BOOKING.c.kind == RATE).where(BOOKING.c.facts["period"].astext == period)
    recorded = connection.execute(query.order_by(BOOKING.c.booking_id)).scalars()
    return {(facts["source"], facts["target"]): facts for facts in recorded}
