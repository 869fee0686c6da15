"""Makes statements of owners for a period from the ledger and the nights' exports, and writes them to the store."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl
import sqlalchemy as sa

from provenance.core.errors import InputError, did_you_mean
from provenance.core.published import MANIFEST, revision_folder
from provenance.core.store import Store, from_csv, sha256
from provenance.core.tables import INTERVALS, PAYABLE
from provenance.core.version import code_version
from provenance.corpus.identifiers import OF_OWNERS
from provenance.settlement import ledger
from provenance.settlement.account_actions import owner_names, owners_in_force
from provenance.settlement.accounts import EXCHANGE, OWED, PAID, RECOUPED, WITHHELD, Account
from provenance.settlement.books import CLOSE, NIGHT, Booking
from provenance.settlement.exports.export import described, read_credits, write_folder
from provenance.settlement.exports.keys import signing_key
from provenance.settlement.exports.trust import in_words
from provenance.settlement.months import settling
from provenance.settlement.months.credited import OWNER_CURRENCY, Credited, gather
from provenance.settlement.months.periods import closes_on, following, statements_folder
from provenance.settlement.months.settling import Payment
from provenance.settlement.months.statement_documents import FORMS, documents
from provenance.settlement.months.statements import Earning, Movement, PaymentLine, Section, Statement

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.statements")

# The form of statements, in their manifest. Raise it when they look different for the same entries: published ones stay.
FORMAT = 2
LONGEST_NAME = 120
# The month of a payment, the payment, the day of its last booking, and the rate by which it was converted, if it was.
StatedPayment = tuple[str, Payment, date | None, str]


@dataclass(frozen=True)
class StatedNight:
    """Facts of a night's export.

    Attributes:
        fidelity: None if it was not measured, and empty if nothing was divided.
        inputs: as the manifest names them.
    """

    booking: Booking
    manifest_sha256: str
    notice: str
    fidelity: Mapping[str, Any] | None
    inputs: Mapping[str, Any]
    counts: Mapping[tuple[str, str], int]
    intervals: Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True)
class StatedPeriod:
    """The data of a period's statements.

    Attributes:
        credited: what earnings rest on, in all nights that count in the period, by owner and currency.
        outcomes: of the close, by owner and currency.
        payments: by owner: period, payment, and day of its last status.
        closed_on: day of the close; None while the period is open.
    """

    period: str
    through: int
    opening: Mapping[Account, int]
    entries: Mapping[str, Sequence[tuple[Booking, Account, int]]]
    nights: Mapping[str, StatedNight]
    credited: Mapping[tuple[str, str], Credited]
    outcomes: Mapping[tuple[str, str], str]
    history: Mapping[tuple[str, str], Sequence[tuple[str, int]]]
    holds: Mapping[str, tuple[str, ...]]
    payments: Mapping[str, Sequence[StatedPayment]]
    closed_on: date | None
    names: Mapping[str, str]
    identifiers: Mapping[str, Mapping[str, str]]
    contact: str

    @property
    def owners(self) -> list[str]:
        """Owners with an opening balance or an entry."""
        opened = {account.party_id for account in self.opening if account.account in OWED}
        moved = {owner for owner, rows in self.entries.items() if any(account.account in OWED for _, account, _ in rows)}
        return sorted(opened | moved)


def write_statements(where: Where, period: str) -> int:
    """Write statements of a closed period as web pages and PDFs; returns their number. Existing statements stay."""
    store, facts = where.store, _gather(where, period)
    missing = [owner for owner in facts.owners if not store.exists(f"{statement_folder(period, owner)}/statement.pdf")]
    statements = [_statement(facts, owner) for owner in missing]
    for _ in where.workers.map(_write, store, statements, what="statements", name=attrgetter("owner_id")):
        pass
    folder = statements_folder(period)
    names = [f"owner={file_name(owner)}/statement.{form}" for owner in facts.owners for form in FORMS]
    files = {name: store.read(f"{folder}/{name}") for name in names}
    manifest = {
        "format": FORMAT,
        "booking_id": facts.through,
        "code_version": code_version(),
        "files": described(files),
    }
    write_folder(store, folder, {}, manifest, signing_key(where.settings.settlement))
    return len(facts.owners)


def statement(where: Where, owner_id: str, period: str) -> Statement:
    """An owner's statement of a period, open or closed; raises InputError if the ledger has no such owner."""
    owners = ledger.owners(where.ledger)
    if owner_id not in owners:
        hint = did_you_mean(owner_id, owners)
        raise InputError(f"owner {owner_id}", expected="an owner in the ledger", found="none of that id", hint=hint)
    return _statement(_gather(where, period, owner_id), owner_id)


def statement_folder(period: str, owner_id: str) -> str:
    """The store folder of an owner's statement."""
    return f"{statements_folder(period)}/owner={file_name(owner_id)}"


def signed_link(where: Where, owner_id: str, period: str, *, days: int) -> str:
    """A private address of an owner's page of a closed period, good for some days.

    Raises:
        InputError: the owner has no page of that period, or the store cannot sign.
    """
    key = f"{statement_folder(period, owner_id)}/statement.html"
    if not where.store.exists(key):
        raise InputError(
            f"statement of {owner_id}, {period}",
            expected="one that settle_period has written",
            found="none",
            hint="Statements are written once a month is closed and approved; --out writes one of any period.",
        )
    return where.store.signed_link(key, days=days, content_type="text/html; charset=utf-8")


def file_name(owner_id: str) -> str:
    """An owner's id as a part of a file name, also for disks that ignore case or cut dots at the end."""
    name = quote(owner_id, safe="")
    if len(name) <= LONGEST_NAME and owner_id == owner_id.lower() and not name.endswith("."):
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(owner_id.encode()).hexdigest()[:16]}"


def _write(store: Store, statement: Statement) -> None:
    for form, document in documents(statement).items():
        store.create(f"{statement_folder(statement.period, statement.owner_id)}/statement.{form}", document)


def _gather(where: Where, period: str, owner_id: str | None = None) -> StatedPeriod:
    store, engine = where.store, where.ledger
    bookings = ledger.bookings(engine)
    if not any(booking.period == period for booking in bookings):
        periods = sorted({booking.period for booking in bookings})
        expected = f"a period with bookings, from {periods[0]} to {periods[-1]}" if periods else "a period with bookings"
        raise InputError(f"period {period}", expected=expected, found="none in it")
    entries: dict[str, list[tuple[Booking, Account, int]]] = defaultdict(list)
    for row in ledger.period_entries(engine, period, owner_id):
        entries[row[1].party_id].append(row)
    nights = {str(b.day): b for b in bookings if b.kind == NIGHT and b.period == period == f"{b.day:%Y-%m}"}
    nights_read = {day: _read_night(store, booking, owner_id) for day, booking in sorted(nights.items())}
    through = max(booking.booking_id for booking in bookings if booking.period <= period)
    owners = owners_in_force(store)
    closed_on = next((closed.day for closed in ledger.bookings(engine, kind=CLOSE) if closed.period == period), None)
    outcomes = {(line.owner_id, line.currency): line.outcome for line in settling.lines(engine, period)[1]} if closed_on else {}
    credits = [credits for _, credits in nights_read.values()]
    quote = where.settings.settlement.quote_outputs
    return StatedPeriod(
        period=period,
        through=through,
        opening=ledger.opening(engine, period),
        entries=entries,
        nights={day: night for day, (night, _) in nights_read.items()},
        credited=gather(store, pl.concat(credits), {day: night.inputs for day, (night, _) in nights_read.items()}, quote=quote)
        if credits
        else {},
        outcomes=outcomes,
        history=ledger.earned_by_period(engine, period),
        holds=ledger.standing(engine, through=through).holds,
        payments=_payments(engine, period, {booking.booking_id: booking for booking in bookings}, owner_id),
        closed_on=closed_on,
        names=owner_names(where),
        identifiers={row["owner_id"]: _identified(row) for row in owners.iter_rows(named=True)},
        contact=where.settings.settlement.contact,
    )


def _payments(
    engine: sa.Engine, period: str, bookings: Mapping[int, Booking], owner_id: str | None
) -> dict[str, list[StatedPayment]]:
    """Payments of a period, and those of other periods with a booking in it, by owner."""
    payments: dict[str, list[StatedPayment]] = defaultdict(list)
    for closed in ledger.bookings(engine, kind=CLOSE):
        rates = {pair: str(rate) for pair, (rate, _) in settling.rates(engine, closed.period).items()}
        for payment in settling.payments(engine, closed.period, owner_id):
            booking = bookings.get(payment.booking_id or 0)
            if period in (closed.period, booking.period if booking else ""):
                rate = rates.get((payment.line.currency, payment.line.pay_currency), "")
                payments[payment.line.owner_id].append((closed.period, payment, booking.day if booking else None, rate))
    return payments


def _identified(owner: Mapping[str, str | None]) -> dict[str, str]:
    return {kind.upper(): number for kind in OF_OWNERS if (number := owner.get(kind))}


def _read_night(store: Store, booking: Booking, owner_id: str | None) -> tuple[StatedNight, pl.DataFrame]:
    """Facts and credits of a night's export; raises InputError if it is not published yet."""
    folder = revision_folder(booking.day, booking.revision)
    if not store.exists(f"{folder}/{MANIFEST}"):
        raise InputError(
            f"night of {booking.day}, revision {booking.revision}",
            expected="its export, since it is booked",
            found="none",
            hint="Clear settlement.publish of its run.",
        )
    manifest = store.read(f"{folder}/{MANIFEST}")
    stated = json.loads(manifest)
    payable = pl.col("account") == PAYABLE  # a statement is of money
    intervals = from_csv(store.read(f"{folder}/intervals.csv"), INTERVALS.schema)
    counts = read_credits(store, folder, *OWNER_CURRENCY, wanted=payable).group_by(OWNER_CURRENCY).len()
    credits = read_credits(store, folder, wanted=payable if owner_id is None else payable & (pl.col("owner_id") == owner_id))
    night = StatedNight(
        booking,
        sha256(manifest),
        str(stated.get("notice") or ""),
        stated.get("fidelity") if stated["rows"]["credits"] else {},
        stated["inputs"],
        {(owner, currency): count for owner, currency, count in counts.iter_rows()},
        {(o, c): (low, high) for o, c, low, high in intervals.select(*OWNER_CURRENCY, "low_minor", "high_minor").iter_rows()},
    )
    columns = ["day", "output_id", *OWNER_CURRENCY, "share_ppb", "low_ppb", "high_ppb", "amount_nanominor", "top_works"]
    return night, credits.select(columns)


def _statement(facts: StatedPeriod, owner_id: str) -> Statement:
    entries = facts.entries.get(owner_id, ())
    opened = {a.currency for a in facts.opening if a.party_id == owner_id and a.account in OWED}
    currencies = sorted(opened | {account.currency for _, account, _ in entries if account.account in OWED})
    open_yet = "" if facts.closed_on else f"Provisional: {facts.period} is not closed yet, and this may change. "
    notice = next((night.notice for night in facts.nights.values() if night.notice), "")
    outputs, works = next((own.in_any_currency for (owner, _), own in facts.credited.items() if owner == owner_id), (0, 0))
    return Statement(
        owner_id=owner_id,
        owner_name=facts.names.get(owner_id, owner_id),
        period=facts.period,
        through=facts.through,
        made_on=facts.closed_on or datetime.now(UTC).date(),
        contact=facts.contact,
        identifiers=facts.identifiers.get(owner_id, {}),
        holds=facts.holds.get(owner_id, ()),
        sections=tuple(_section(facts, owner_id, currency, entries) for currency in currencies),
        payments=tuple(
            PaymentLine(
                p.payment_id,
                of,
                p.line.pay_currency,
                p.line.paid,
                _status(p),
                on,
                p.line.net,
                p.line.currency,
                p.line.withheld,
                rate,
            )
            for of, p, on, rate in facts.payments.get(owner_id, ())
        ),
        notice=f"{open_yet}{notice}".strip(),
        trust=in_words(night.fidelity for night in facts.nights.values()),
        models=tuple(sorted({str(night.inputs["model_id"]) for night in facts.nights.values()})),
        outputs=outputs,
        works=works,
        closed=facts.closed_on is not None,
        next_on=closes_on(following(facts.period) if facts.closed_on else facts.period),
    )


def _status(payment: Payment) -> str:
    return f"{payment.status}: {payment.reason}" if payment.reason else payment.status


def _section(facts: StatedPeriod, owner_id: str, currency: str, entries: Iterable[tuple[Booking, Account, int]]) -> Section:
    by_booking: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    bookings: dict[int, Booking] = {}
    for booking, account, amount in entries:
        if account.currency == currency:
            bookings[booking.booking_id] = booking
            by_booking[booking.booking_id][account.account] -= amount

    def opened(*names: str) -> int:
        return -sum(facts.opening.get(Account(name, owner_id, currency), 0) for name in names)

    def moved(*names: str) -> int:
        return sum(amounts.get(name, 0) for amounts in by_booking.values() for name in names)

    movements = tuple(
        Movement(number, booking.day, booking.booked_at, _title(booking), change)
        for number, booking in sorted(bookings.items())
        if (change := sum(by_booking[number].get(name, 0) for name in OWED))
    )
    earnings = tuple(_earnings(facts, owner_id, currency, by_booking, bookings))
    earned = sum(earning.earned for earning in earnings)
    outgoing = {"recouped": moved(RECOUPED), "withheld": moved(WITHHELD), "paid": moved(PAID, EXCHANGE)}
    owed = opened(*OWED) + moved(*OWED)
    credited = facts.credited.get((owner_id, currency), Credited((), 0, (), 0))
    return Section(
        currency=currency,
        opening=opened(*OWED),
        movements=movements,
        closing=owed,
        held=max(0, owed) if owner_id in facts.holds else 0,
        earnings=earnings,
        outputs=credited.outputs,
        outputs_in_all=credited.outputs_in_all,
        works=credited.works,
        works_in_all=credited.works_in_all,
        earned=earned,
        adjusted=moved(*OWED) + sum(outgoing.values()) - earned,
        history=tuple(facts.history.get((owner_id, currency), ())),
        outcome=facts.outcomes.get((owner_id, currency), ""),
        **outgoing,
    )


def _earnings(
    facts: StatedPeriod,
    owner_id: str,
    currency: str,
    by_booking: Mapping[int, Mapping[str, int]],
    bookings: Mapping[int, Booking],
) -> Iterator[Earning]:
    """Earnings of each night of the period, over all revisions that count in it."""
    by_day: dict[str, int] = defaultdict(int)
    for number, booking in bookings.items():
        if booking.kind == NIGHT and str(booking.day) in facts.nights:
            by_day[str(booking.day)] += sum(by_booking[number].get(name, 0) for name in OWED)
    key = (owner_id, currency)
    for day in sorted(by_day):
        night = facts.nights[day]
        low, high = night.intervals.get(key, (None, None))
        yield Earning(day, night.booking.revision, night.counts.get(key, 0), by_day[day], low, high, night.manifest_sha256)


def _title(booking: Booking) -> str:
    """A booking's title for its owner."""
    if booking.kind == NIGHT:
        again = f", revision {booking.revision}" if booking.revision > 1 else ""
        return f"outputs of {booking.day}{again}"
    titles = {
        "claim": "works found to be yours",
        "close": "set off when the period was closed",
        "payments": "paid, with the tax withheld",
        "answer": "a payment that was returned",
    }
    return titles.get(booking.kind, booking.kind)
