"""Collects months for the page: closed, prepared, approved, sent, paid or returned, from the ledger and Airflow's answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

import sqlalchemy as sa

from infra.monitor.earned import PartyOfNight
from infra.monitor.frozen import read_frozen
from infra.monitor.runs import Answer
from provenance.core.errors import ContractError
from provenance.core.published import MANIFEST
from provenance.core.store import Store
from provenance.core.tables import ESCROW, PAYABLE
from provenance.settlement import books, ledger
from provenance.settlement.accounts import Account, totals
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED
from provenance.settlement.books import BOOKING, CLOSE, NIGHT, PAYMENTS, Booking
from provenance.settlement.months import settling
from provenance.settlement.months.periods import PAY, Line, closing_folder, last_day, payments_folder, statements_folder
from provenance.settlement.months.settling import LEFT_OUT, SENT, Payment

PREPARE, APPROVE = "settlement.prepare", "settlement.approve"
# Steps of a month, and how far each is: not begun, waiting for somebody, done, refused or gone wrong.
CLOSED, PREPARED, APPROVED, SENT_OUT, SETTLED = "closed", "prepared", "approved", "sent", "paid"
STEPS = (CLOSED, PREPARED, APPROVED, SENT_OUT, SETTLED)
LATER, NOW, DONE, WRONG = "later", "now", "done", "wrong"


@dataclass(frozen=True)
class Step:
    """One step of a month.

    Attributes:
        state: later, now, done or wrong.
        by: the person, or the bank; at: when; text: further facts in words.
    """

    name: str
    state: str
    by: str = ""
    at: datetime | date | None = None
    text: str = ""


@dataclass(frozen=True)
class Folder:
    """A published folder of a month, with its key; `files` have name, SHA-256 and size in bytes."""

    name: str
    folder: str
    files: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Month:
    """A month in short.

    Attributes:
        steps: closed, prepared, approved, sent, paid; in this order.
        nights: days of the month that are paid; missing: days that are over and are not.
        totals: of its nights, by currency, in minor units.
        pays: by currency and status of payments: their number and amount.
    """

    period: str
    steps: tuple[Step, ...]
    nights: int
    missing: tuple[date, ...]
    totals: Mapping[str, Mapping[str, int]]
    pays: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether the month is closed."""
        return self.steps[0].state == DONE

    @property
    def step(self) -> Step:
        """The step that the month stands at: what went wrong or waits, or else the last that is done."""
        waiting = [step for step in self.steps if step.state in {NOW, WRONG}]
        done = [step for step in self.steps if step.state == DONE]
        return (waiting or done[-1:] or self.steps)[0]


@dataclass(frozen=True)
class MonthDetail:
    """A month with its payments and files.

    Attributes:
        balances: lines of the close, largest first; empty while the month is open. outcomes: their numbers by outcome.
        payments: with their day of the last status, largest first.
        rates: recorded rates with their evidence, by pair in words.
        holds: reasons of owners on hold after the close.
        parties: who got what of the nights that count in the month, largest first.
    """

    month: Month
    names: Mapping[str, str]
    balances: tuple[Line, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    payments: tuple[tuple[Payment, date | None], ...] = ()
    rates: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parties: tuple[PartyOfNight, ...] = ()
    folders: tuple[Folder, ...] = ()
    statements: int = 0


def months(
    engine: sa.Engine, answers: Mapping[str, Mapping[str, Answer | None]], today: date, *, last: int = 12
) -> list[Month]:
    """The last months with bookings, the newest first.

    Args:
        answers: of people, by month and task, as `infra.monitor.runs.answers` has them.
    """
    bookings = ledger.bookings(engine)
    periods = sorted({booking.period for booking in bookings}, reverse=True)[:last]
    return [_month(engine, period, bookings, answers.get(period, {}), today) for period in periods]


def month(
    store: Store,
    engine: sa.Engine,
    period: str,
    *,
    answers: Mapping[str, Answer | None],
    names: Mapping[str, str],
    today: date,
) -> MonthDetail:
    """One month with its payments and files; raises ContractError if nothing is booked in it."""
    bookings = ledger.bookings(engine)
    if not any(booking.period == period for booking in bookings):
        periods = sorted({booking.period for booking in bookings})
        found = f"none; there are: {', '.join(periods[-12:])}" if periods else "none"
        raise ContractError(f"month {period}", expected="a month with bookings", found=found)
    facts = _month(engine, period, bookings, answers, today)
    folders = tuple(_folders(store, period))
    parties = tuple(_parties(_night_amounts(engine, period), facts.totals, names))
    if not facts.closed:
        return MonthDetail(facts, names, folders=folders, parties=parties)
    closed, lines = settling.lines(engine, period)
    days = {booking.booking_id: booking.day for booking in bookings}
    paid = [(payment, days.get(payment.booking_id or 0)) for payment in settling.payments(engine, period)]
    paid.sort(key=lambda row: (row[0].line.pay_currency, -row[0].line.paid, row[0].line.owner_id))
    rates = {
        f"{source} to {target}": f"{rate} ({why})" for (source, target), (rate, why) in settling.rates(engine, period).items()
    }
    statements = f"{statements_folder(period)}/{MANIFEST}"
    return MonthDetail(
        facts,
        names,
        outcomes=dict(sorted(Counter(line.outcome for line in lines).items(), key=lambda row: (row[0] != PAY, row[0]))),
        balances=tuple(sorted(lines, key=lambda line: (line.currency, -line.owed, line.owner_id))),
        payments=tuple(paid),
        rates=rates,
        holds=ledger.standing(engine, through=closed.booking_id).holds,
        folders=folders,
        parties=parties,
        statements=len(read_frozen(store, statements)["files"]) // 2 if store.exists(statements) else 0,
    )


def _month(
    engine: sa.Engine,
    period: str,
    bookings: Iterable[Booking],
    answers: Mapping[str, Answer | None],
    today: date,
) -> Month:
    bookings = list(bookings)
    paid_days = {booking.day for booking in bookings if booking.kind == NIGHT and f"{booking.day:%Y-%m}" == period}
    days = [last_day(period).replace(day=number) for number in range(1, last_day(period).day + 1)]
    missing = tuple(day for day in days if day < today and day not in paid_days)
    closed = next((booking for booking in bookings if booking.kind == CLOSE and booking.period == period), None)
    day_totals = totals(_night_amounts(engine, period))
    if closed is None:
        over = period < f"{today:%Y-%m}"
        step = Step(CLOSED, NOW if over else LATER, text="" if over else "the month is not over")
        return Month(period, (step, *(Step(name, LATER) for name in STEPS[1:])), len(paid_days), missing, day_totals)
    payments = settling.payments(engine, period)
    pays: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for payment in payments:
        count, amount = pays[payment.line.pay_currency].get(payment.status, (0, 0))
        pays[payment.line.pay_currency][payment.status] = (count + 1, amount + payment.line.paid)
    booked = next((b for b in bookings if b.kind == PAYMENTS and b.facts["close"] == str(closed.booking_id)), None)
    return Month(
        period,
        tuple(_steps(closed, booked, payments, answers)),
        len(paid_days),
        missing,
        day_totals,
        {currency: dict(by_status) for currency, by_status in sorted(pays.items())},
    )


def _steps(
    closed: Booking, booked: Booking | None, payments: list[Payment], answers: Mapping[str, Answer | None]
) -> Iterator[Step]:
    yield Step(CLOSED, DONE, closed.facts.get("by", ""), closed.booked_at, f"booking {closed.booking_id}")
    if booked:
        for name, who in ((PREPARED, "prepared"), (APPROVED, "approved")):
            yield Step(name, DONE, booked.facts[f"{who}_by"], datetime.fromisoformat(booked.facts[f"{who}_at"]))
    else:
        ready = True
        for name, task in ((PREPARED, PREPARE), (APPROVED, APPROVE)):
            answer = answers.get(task)
            state = LATER if not ready else NOW if answer is None else DONE if answer.granted else WRONG
            ready = state == DONE
            text = "refused" if state == WRONG else "waits for a person" if state == NOW else ""
            yield Step(name, state, answer.by if answer and state != LATER else "", answer.at if answer else None, text)
    counts = Counter(payment.status for payment in payments)
    if booked is None:
        yield from (Step(SENT_OUT, LATER), Step(SETTLED, LATER))
        return
    sent = len(payments) - counts[LEFT_OUT]
    left_out = f", {counts[LEFT_OUT]} left out" if counts[LEFT_OUT] else ""
    yield Step(SENT_OUT, DONE, "", booked.booked_at, f"{_payments(sent)}{left_out}")
    back, done = counts[REJECTED] + counts[RETURNED], counts[PAID]
    said = [f"{count} {status}" for status in (PAID, RETURNED, REJECTED) if (count := counts[status])]
    said += [f"{counts[SENT]} without an answer"] if counts[SENT] else []
    state = WRONG if back else DONE if done == sent else NOW
    yield Step(SETTLED, state, "", None, ", ".join(said) or "nothing was to be paid")


def _payments(count: int) -> str:
    return f"{count} payment" if count == 1 else f"{count} payments"


def _parties(
    amounts: Mapping[Account, int], totals_of_month: Mapping[str, Mapping[str, int]], names: Mapping[str, str]
) -> list[PartyOfNight]:
    parties = []
    for account, amount in amounts.items():
        row = totals_of_month[account.currency]
        pool = row["revenue_minor"] - row["developer_minor"]
        if account.account in (PAYABLE, ESCROW) and amount and pool:
            name = names.get(account.party_id) or account.party_id
            parties.append(
                PartyOfNight(account.account, account.party_id, name, account.currency, -amount / pool, None, None, -amount)
            )
    return sorted(parties, key=lambda party: (party.currency, -party.share, party.party_id))


def _night_amounts(engine: sa.Engine, period: str) -> dict[Account, int]:
    """Amounts of the nights that count in a month, by beneficiary."""
    with engine.connect() as connection:
        booked = books.sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.period == period))
        return books.standing(connection).earned(booked)


def _folders(store: Store, period: str) -> Iterator[Folder]:
    """Published folders of a month that accountants read, with their manifests."""
    for name, folder in (("closing", closing_folder(period)), ("payments", payments_folder(period))):
        key = f"{folder}/{MANIFEST}"
        if store.exists(key):
            files = read_frozen(store, key)["files"]
            yield Folder(name, folder, tuple((file, entry["sha256"], entry["bytes"]) for file, entry in files.items()))
