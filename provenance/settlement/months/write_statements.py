"""Statements: what the ledger and the nights' exports say of an owner and a period, put together and written down."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import Any
from urllib.parse import quote

import polars as pl
import sqlalchemy as sa

from provenance.core.contracts import INTERVALS, PAYABLE
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store, from_csv, from_parquet, sha256
from provenance.corpus.identifiers import OF_OWNERS
from provenance.settlement import ledger
from provenance.settlement.account_actions import owners_in_force
from provenance.settlement.accounts import EXCHANGE, OWED, PAID, RECOUPED, WITHHELD, Account
from provenance.settlement.books import CLOSE, NIGHT, Booking
from provenance.settlement.exports.export import MANIFEST, described, revision_folder, write_folder
from provenance.settlement.exports.keys import signing_key
from provenance.settlement.exports.trust import in_words
from provenance.settlement.months import settling
from provenance.settlement.months.periods import statements_folder
from provenance.settlement.months.settling import Payment
from provenance.settlement.months.statements import (
    Earning,
    Movement,
    Output,
    PaymentLine,
    Section,
    Statement,
    Work,
    as_html,
    as_pdf,
)
from provenance.settlement.publish import code_version
from tasks.cluster import compute, open_cluster
from tasks.database import open_books, open_ledger
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.statements")

# Outputs and works that are listed, largest first.
LISTED = 25
FORMS: dict[str, Callable[[Statement], bytes]] = {"html": as_html, "pdf": as_pdf}
WHOSE = ["owner_id", "currency"]
LONGEST_NAME = 120


@dataclass(frozen=True)
class _Night:
    """What a night's export says; `fidelity` is None where it was not measured, and empty where nothing was divided."""

    booking: Booking
    manifest_sha256: str
    notice: str
    fidelity: Mapping[str, Any] | None
    counts: Mapping[tuple[str, str], int]
    intervals: Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True)
class _Period:
    """All that statements of a period are made from.

    Attributes:
        credits: of owners, of all nights that count in the period.
        payments: to each owner, with the period that they are for, and when the last of them was heard.
        closed_on: when the period was closed; None while it is open.
    """

    period: str
    through: int
    opening: Mapping[Account, int]
    entries: Mapping[str, Sequence[tuple[Booking, Account, int]]]
    nights: Mapping[str, _Night]
    credits: pl.DataFrame
    history: Mapping[tuple[str, str], Sequence[tuple[str, int]]]
    held: Mapping[str, tuple[str, ...]]
    payments: Mapping[str, Sequence[tuple[str, Payment, date | None]]]
    closed_on: date | None
    names: Mapping[str, str]
    identifiers: Mapping[str, Mapping[str, str]]
    contact: str

    @property
    def owners(self) -> list[str]:
        """Everybody who is owed something, or has an entry."""
        opened = {account.party_id for account in self.opening if account.account in OWED}
        moved = {owner for owner, rows in self.entries.items() if any(account.account in OWED for _, account, _ in rows)}
        return sorted(opened | moved)


def write_statements(period: str) -> int:
    """Write everybody's statement of a closed period, as a web page and a PDF; returns how many there are.

    What was written before stays as it is.
    """
    settings, store = with_store()
    facts = _gather(store, open_ledger(settings.database, store), period, settings.settlement.contact)
    missing = [owner for owner in facts.owners if not store.exists(f"{statement_folder(period, owner)}/statement.pdf")]
    with open_cluster(settings.cluster) as client:
        made = (_statement(facts, owner) for owner in missing)
        whose = attrgetter("owner_id")
        for _ in compute(client, _write, store, list(made), settings=settings.cluster, what="statements", name=whose):
            pass
    folder = statements_folder(period)
    names = [f"owner={file_name(owner)}/statement.{form}" for owner in facts.owners for form in FORMS]
    files = {name: store.read(f"{folder}/{name}") for name in names}
    manifest = {"booking_id": facts.through, "code_version": code_version(), "files": described(files)}
    write_folder(store, folder, {}, manifest, signing_key(settings.settlement))
    return len(facts.owners)


def statement(settings: Settings, owner_id: str, period: str) -> Statement:
    """An owner's statement of a period, which may still be open; raises InputError if the ledger has no such owner."""
    store, engine = open_books(settings)
    known = ledger.owners(engine)
    if owner_id not in known:
        hint = did_you_mean(owner_id, known)
        raise InputError(f"owner {owner_id}", expected="an owner in the ledger", found="none of that id", hint=hint)
    return _statement(_gather(store, engine, period, settings.settlement.contact, owner_id), owner_id)


def statement_folder(period: str, owner_id: str) -> str:
    """Where an owner's statement lies; an id is one folder's name, whatever is in it."""
    return f"{statements_folder(period)}/owner={file_name(owner_id)}"


def file_name(owner_id: str) -> str:
    """An owner's id as a part of a file's name, also on disks that know no capitals and cut dots off."""
    name = quote(owner_id, safe="")
    if len(name) <= LONGEST_NAME and owner_id == owner_id.lower() and not name.endswith("."):
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(owner_id.encode()).hexdigest()[:16]}"


def _write(store: Store, made: Statement) -> None:
    for form, render in FORMS.items():
        store.create(f"{statement_folder(made.period, made.owner_id)}/statement.{form}", render(made))


def _gather(store: Store, engine: sa.Engine, period: str, contact: str, owner_id: str | None = None) -> _Period:
    bookings = ledger.bookings(engine)
    if not any(booking.period == period for booking in bookings):
        known = sorted({booking.period for booking in bookings})
        expected = f"a period with bookings, from {known[0]} to {known[-1]}" if known else "a period with bookings"
        raise InputError(f"period {period}", expected=expected, found="none in it")
    entries: dict[str, list[tuple[Booking, Account, int]]] = defaultdict(list)
    for row in ledger.of_period(engine, period, owner_id):
        entries[row[1].party_id].append(row)
    nights = {str(b.day): b for b in bookings if b.kind == NIGHT and b.period == period == f"{b.day:%Y-%m}"}
    read = {day: _read_night(store, booking, owner_id) for day, booking in sorted(nights.items())}
    through = max(booking.booking_id for booking in bookings if booking.period <= period)
    owners = owners_in_force(store)
    return _Period(
        period=period,
        through=through,
        opening=ledger.opening(engine, period),
        entries=entries,
        nights={day: night for day, (night, _) in read.items()},
        credits=pl.concat([credits for _, credits in read.values()]) if read else pl.DataFrame(),
        history=ledger.earned_by_period(engine, period),
        held=ledger.standing(engine, through=through).held,
        payments=_payments(engine, period, {booking.booking_id: booking for booking in bookings}, owner_id),
        closed_on=next((closed.day for closed in ledger.bookings(engine, kind=CLOSE) if closed.period == period), None),
        names=dict(owners.select("owner_id", "name").iter_rows()),
        identifiers={row["owner_id"]: _identified(row) for row in owners.iter_rows(named=True)},
        contact=contact,
    )


def _payments(
    engine: sa.Engine, period: str, bookings: Mapping[int, Booking], owner_id: str | None
) -> dict[str, list[tuple[str, Payment, date | None]]]:
    """Payments for a period, and those for others of which something was booked in it."""
    found: dict[str, list[tuple[str, Payment, date | None]]] = defaultdict(list)
    for closed in ledger.bookings(engine, kind=CLOSE):
        for payment in settling.payments(engine, closed.period, owner_id):
            heard = bookings.get(payment.booking_id or 0)
            if period in (closed.period, heard.period if heard else ""):
                found[payment.line.owner_id].append((closed.period, payment, heard.day if heard else None))
    return found


def _identified(owner: Mapping[str, str | None]) -> dict[str, str]:
    return {kind.upper(): number for kind in OF_OWNERS if (number := owner.get(kind))}


def _read_night(store: Store, booking: Booking, owner_id: str | None) -> tuple[_Night, pl.DataFrame]:
    """What an export says of owners, and its credits; nothing of one that is not published yet."""
    folder = revision_folder(booking.day, booking.revision)
    if not store.exists(f"{folder}/{MANIFEST}"):
        raise InputError(
            f"night of {booking.day}, revision {booking.revision}",
            expected="its export, since it is booked",
            found="none",
            hint="Clear settlement.publish of its run.",
        )
    manifest = store.read(f"{folder}/{MANIFEST}")
    said = json.loads(manifest)
    credits = from_parquet(store.read(f"{folder}/credits.parquet"), folder)
    credits = credits.filter(pl.col("account") == PAYABLE)  # a statement is of money
    intervals = from_csv(store.read(f"{folder}/intervals.csv"), INTERVALS.schema)
    counts = credits.group_by(WHOSE).len()
    if owner_id is not None:
        credits = credits.filter(pl.col("owner_id") == owner_id)
    night = _Night(
        booking,
        sha256(manifest),
        str(said.get("notice") or ""),
        said.get("fidelity") if said["rows"]["credits"] else {},
        {(owner, currency): count for owner, currency, count in counts.iter_rows()},
        {(o, c): (low, high) for o, c, low, high in intervals.select(*WHOSE, "low_minor", "high_minor").iter_rows()},
    )
    columns = ["day", "output_id", *WHOSE, "share_ppb", "low_ppb", "high_ppb", "amount_nanominor", "top_works"]
    return night, credits.select(columns)


def _statement(facts: _Period, owner_id: str) -> Statement:
    entries = facts.entries.get(owner_id, ())
    opened = {a.currency for a in facts.opening if a.party_id == owner_id and a.account in OWED}
    currencies = sorted(opened | {account.currency for _, account, _ in entries if account.account in OWED})
    open_yet = "" if facts.closed_on else f"Provisional: {facts.period} is not closed yet, and this may change. "
    notice = next((night.notice for night in facts.nights.values() if night.notice), "")
    return Statement(
        owner_id=owner_id,
        owner_name=facts.names.get(owner_id, owner_id),
        period=facts.period,
        through=facts.through,
        made_on=facts.closed_on or datetime.now(UTC).date(),
        contact=facts.contact,
        identifiers=facts.identifiers.get(owner_id, {}),
        holds=facts.held.get(owner_id, ()),
        sections=tuple(_section(facts, owner_id, currency, entries) for currency in currencies),
        payments=tuple(
            PaymentLine(p.payment_id, of, p.line.pay_currency, p.line.paid, _status(p), on, p.line.net, p.line.currency)
            for of, p, on in facts.payments.get(owner_id, ())
        ),
        notice=f"{open_yet}{notice}".strip(),
        trust=in_words(night.fidelity for night in facts.nights.values()),
    )


def _status(payment: Payment) -> str:
    return f"{payment.status}: {payment.reason}" if payment.reason else payment.status


def _section(facts: _Period, owner_id: str, currency: str, entries: Iterable[tuple[Booking, Account, int]]) -> Section:
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
        Movement(number, booking.day, booking.booked_at, _what(booking), change)
        for number, booking in sorted(bookings.items())
        if (change := sum(by_booking[number].get(name, 0) for name in OWED))
    )
    earnings = tuple(_earnings(facts, owner_id, currency, by_booking, bookings))
    earned = sum(earning.earned for earning in earnings)
    gone = {"recouped": moved(RECOUPED), "withheld": moved(WITHHELD), "paid": moved(PAID, EXCHANGE)}
    owed = opened(*OWED) + moved(*OWED)
    outputs = _outputs(facts, owner_id, currency)
    works = _works(outputs)
    return Section(
        currency=currency,
        opening=opened(*OWED),
        movements=movements,
        closing=owed,
        held=max(0, owed) if owner_id in facts.held else 0,
        earnings=earnings,
        outputs=tuple(_listed(outputs.head(LISTED))),
        outputs_in_all=outputs.height,
        works=tuple(works[:LISTED]),
        works_in_all=len(works),
        earned=earned,
        adjusted=moved(*OWED) + sum(gone.values()) - earned,
        history=tuple(facts.history.get((owner_id, currency), ())),
        **gone,
    )


def _earnings(
    facts: _Period, owner_id: str, currency: str, by_booking: Mapping[int, Mapping[str, int]], bookings: Mapping[int, Booking]
) -> Iterator[Earning]:
    """Each night of the period with all its revisions that count in it."""
    by_day: dict[str, int] = defaultdict(int)
    for number, booking in bookings.items():
        if booking.kind == NIGHT and str(booking.day) in facts.nights:
            by_day[str(booking.day)] += sum(by_booking[number].get(name, 0) for name in OWED)
    whose = (owner_id, currency)
    for day in sorted(by_day):
        night = facts.nights[day]
        low, high = night.intervals.get(whose, (None, None))
        yield Earning(day, night.booking.revision, night.counts.get(whose, 0), by_day[day], low, high, night.manifest_sha256)


def _outputs(facts: _Period, owner_id: str, currency: str) -> pl.DataFrame:
    """The owner's credits, largest first."""
    if facts.credits.is_empty():
        return facts.credits
    mine = facts.credits.filter((pl.col("owner_id") == owner_id) & (pl.col("currency") == currency))
    return mine.sort("amount_nanominor", "day", "output_id", descending=[True, False, False])


def _listed(outputs: pl.DataFrame) -> Iterator[Output]:
    for row in outputs.iter_rows(named=True):
        works = tuple(dict.fromkeys(work["work_id"] for work in row["top_works"]))
        numbers = (row["share_ppb"], row["low_ppb"], row["high_ppb"], row["amount_nanominor"])
        yield Output(row["day"], row["output_id"], *numbers, works)


def _works(outputs: pl.DataFrame) -> list[Work]:
    """Works among the most influential for an output, by what those outputs brought."""
    found: dict[str, Work] = {}
    for row in outputs.iter_rows(named=True):
        for work_id, uri in {work["work_id"]: work["source_uri"] or "" for work in row["top_works"]}.items():
            before = found.get(work_id, Work(work_id, uri, 0, 0))
            found[work_id] = Work(work_id, uri, before.outputs + 1, before.amount_nanominor + row["amount_nanominor"])
    return sorted(found.values(), key=lambda work: (-work.amount_nanominor, work.work_id))


def _what(booking: Booking) -> str:
    """A booking as an owner reads it."""
    if booking.kind == NIGHT:
        again = f", revision {booking.revision}" if booking.revision > 1 else ""
        return f"outputs of {booking.day}{again}"
    said = {
        "claim": "works found to be yours",
        "close": "set off when the period was closed",
        "payments": "paid, with the tax withheld",
        "answer": "a payment that came back",
    }
    return said.get(booking.kind, booking.kind)
