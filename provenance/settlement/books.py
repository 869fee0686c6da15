"""Defines the ledger's tables, and the steps of a transaction that books.

Bookings, entries, lines of closes and outcomes of payments are append-only: the database refuses updates, deletes, and
bookings that do not balance. Booking takes a lock, so bookings are numbered without gaps and each opening balance is the
closing balance of the booking before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from provenance.core.errors import InputError, did_you_mean
from provenance.core.locks import Lock, lock
from provenance.core.store import digest
from provenance.core.tables import ESCROW, PAYABLE
from provenance.settlement.accounts import HELD, Account, Standing

# Amounts in a line of a close.
MINOR = ("owed", "carried_over", "repaid", "recouped", "withheld", "net", "paid")
METADATA = sa.MetaData()
BOOKING = sa.Table(
    "booking",
    METADATA,
    sa.Column("booking_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False, index=True),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("revision", sa.Integer),
    sa.Column("cause_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("night", sa.Text),
    sa.Column("corrects", sa.BigInteger, sa.ForeignKey("booking.booking_id")),
    sa.Column("facts", JSONB, nullable=False, server_default="{}"),
    sa.Column("period", sa.String(7), nullable=False, index=True),
    sa.Column("booked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("transaction_id", sa.BigInteger, nullable=False, server_default=sa.text("txid_current()")),
    sa.UniqueConstraint("day", "revision"),
    sa.CheckConstraint(
        "(kind = 'night') = (revision IS NOT NULL AND night IS NOT NULL)", name="booking_nights_alone_have_revisions"
    ),
)
ENTRY = sa.Table(
    "entry",
    METADATA,
    sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("party_id", sa.Text, nullable=False, index=True),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.CheckConstraint("amount_minor <> 0"),
)
CLOSED = sa.Table(
    "closed",
    METADATA,
    sa.Column("close_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
    sa.Column("owner_id", sa.Text, primary_key=True),
    sa.Column("currency", sa.String(3), primary_key=True),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("payment_id", sa.String(32), unique=True),
    sa.Column("payee_version", sa.Integer, nullable=False),
    sa.Column("withholding_ppb", sa.BigInteger, nullable=False),
    sa.Column("pay_currency", sa.String(3), nullable=False),
    *(sa.Column(f"{name}_minor", sa.BigInteger, nullable=False) for name in MINOR),
    sa.CheckConstraint(
        "(payment_id IS NOT NULL) = (net_minor > 0) AND (net_minor > 0) = (paid_minor > 0) AND withheld_minor >= 0",
        name="closed_payments_are_of_something",
    ),
)
OUTCOME = sa.Table(
    "outcome",
    METADATA,
    sa.Column("payment_id", sa.String(32), sa.ForeignKey("closed.payment_id"), primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
)
# Amounts of an invoice.
INVOICED = ("taxable", "vat", "rounding", "total", "withheld", "due")
INVOICE = sa.Table(
    "invoice",
    METADATA,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("invoice_id", sa.Text, nullable=False, unique=True),
    sa.Column("batch", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("corrects", sa.Text, sa.ForeignKey("invoice.invoice_id"), unique=True),
    sa.Column("issued_on", sa.Date, nullable=False),
    sa.Column("period", sa.String(7), nullable=False),
    sa.Column("payment_id", sa.String(32), sa.ForeignKey("closed.payment_id"), nullable=False, index=True),
    sa.Column("owner_id", sa.Text, nullable=False, index=True),
    sa.Column("payee_version", sa.Integer, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("vat_category", sa.Text, nullable=False),
    sa.Column("vat_rate", sa.Text, nullable=False),
    *(sa.Column(f"{name}_minor", sa.BigInteger, nullable=False) for name in INVOICED),
    sa.Column("document_sha256", sa.String(64), nullable=False),
)
STORE = sa.Table(
    "store",
    METADATA,
    sa.Column("single", sa.Boolean, sa.CheckConstraint("single"), primary_key=True, server_default=sa.true()),
    sa.Column("store_id", sa.Text, nullable=False),
)

NIGHT, HOLD, RELEASE, CLAIM = "night", "hold", "release", "claim"
ADVANCED, RATE, CLOSE, PAYMENTS, ANSWER = "advance", "rate", "close", "payments", "answer"
# Of escrow: who claims a name, who was reminded, what the policy gave away.
CLAIMANT, REMINDER, APPLIED = "claimant", "reminder", "applied"
# Values of a list that `Booking.facts_text` shows; the rest is counted.
FEW = 5
# The database role for work on the ledger: it may read and add rows, and cannot read payees.
ROLE = "provenance_ledger"


@dataclass(frozen=True)
class Booking:
    """One booking.

    Attributes:
        day: that it is for; booked_at: time of the booking.
        revision: of a night, its revision number, from 1.
        night: of a night, the store key of the folder with its shares.
        facts: such as the person who asked for it, and the reason.
        period: YYYY-MM in which it counts: its day's, or the first open period if that is closed.
    """

    booking_id: int
    kind: str
    day: date
    booked_at: datetime
    revision: int = 0
    night: str = ""
    corrects: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    period: str = ""

    @property
    def facts_text(self) -> str:
        """The facts in one line."""
        return "; ".join(f"{name.replace('_', ' ')}: {_short(fact)}" for name, fact in sorted(self.facts.items()))


def _short(fact: Any) -> str:
    """A fact as text; long lists are cut after `FEW` values."""
    if isinstance(fact, dict):
        fact = [f"{name} {value}" for name, value in sorted(fact.items())]
    if not isinstance(fact, list):
        return str(fact)
    more = [f"{len(fact) - FEW:,} more"] if len(fact) > FEW else []
    return ", ".join([str(part) for part in fact[:FEW]] + more) or "none"


def next_period(period: str) -> str:
    """The period after one: `2027-01` after `2026-12`."""
    year, month = map(int, period.split("-"))
    return f"{year + month // 12}-{month % 12 + 1:02d}"


@contextmanager
def booking_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that holds the lock on booking."""
    with engine.begin() as connection:
        lock(connection, Lock.BOOKING)
        yield connection


def post(connection: sa.Connection, row: Mapping[str, Any], entries: Mapping[Account, int]) -> Booking:
    """Add a booking with its entries, in the order of accounts."""
    # Counted under the lock: a sequence would leave a gap after a killed transaction.
    booking_id = newest(connection) + 1
    period = open_period(connection, row["day"])
    connection.execute(sa.insert(BOOKING), {"booking_id": booking_id, "period": period, **row})
    lines = [
        {
            "booking_id": booking_id,
            "line": line,
            "account": account.account,
            "party_id": account.party_id,
            "currency": account.currency,
            "amount_minor": amount,
        }
        for line, (account, amount) in enumerate(sorted((a, m) for a, m in entries.items() if m))
    ]
    if lines:
        connection.execute(sa.insert(ENTRY), lines)
    booking = last(connection, BOOKING.c.booking_id == booking_id)
    assert booking is not None
    return booking


def booking_row(connection: sa.Connection, kind: str, day: date, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a booking other than a night's; the number of the booking before makes its cause unique."""
    cause = digest([kind, *sorted(facts.items()), newest(connection)])
    return {"kind": kind, "day": day, "facts": facts, "cause_sha256": cause}


def open_period(connection: sa.Connection, day: date) -> str:
    """The period in which a booking for a day counts."""
    closed = connection.execute(sa.select(sa.func.max(BOOKING.c.period)).where(BOOKING.c.kind == CLOSE)).scalar_one()
    return max(f"{day:%Y-%m}", next_period(closed)) if closed else f"{day:%Y-%m}"


def newest(connection: sa.Connection) -> int:
    """Number of the last booking; 0 in an empty ledger."""
    return int(connection.execute(sa.select(sa.func.max(BOOKING.c.booking_id))).scalar_one() or 0)


def hold(connection: sa.Connection, owners: Sequence[str], *, day: date, reason: str, by: str) -> Booking:
    """Hold the amounts of owners that have no hold for this reason yet."""
    holds, facts = standing(connection).holds, {"owners": sorted(owners), "reason": reason, "by": by}
    entries = _transfer(connection, PAYABLE, HELD, {owner for owner in owners if owner not in holds})
    return post(connection, booking_row(connection, HOLD, day, facts), entries)


def release(connection: sa.Connection, owners: Sequence[str], *, day: date, reason: str, by: str) -> Booking:
    """End holds for a reason; amounts without another hold become payable."""
    holds, facts = standing(connection).holds, {"owners": sorted(owners), "reason": reason, "by": by}
    entries = _transfer(connection, HELD, PAYABLE, {owner for owner in owners if holds[owner] == (reason,)})
    return post(connection, booking_row(connection, RELEASE, day, facts), entries)


def _transfer(connection: sa.Connection, source: str, target: str, owners: set[str]) -> dict[Account, int]:
    """Entries that move all of some owners' amounts from one account to another."""
    entries: dict[Account, int] = {}
    for account, amount in sums(connection, ENTRY.c.account == source).items():
        if account.party_id in owners:
            entries |= {account: -amount, Account(target, account.party_id, account.currency): amount}
    return entries


def standing(connection: sa.Connection, through: int | None = None) -> Standing:
    """Holds and claims in force after a booking, or now."""
    query = sa.select(BOOKING.c.kind, BOOKING.c.facts).where(BOOKING.c.kind.in_([HOLD, RELEASE, CLAIM]))
    if through is not None:
        query = query.where(BOOKING.c.booking_id <= through)
    holds: dict[str, tuple[str, ...]] = {}
    claimed: dict[str, str] = {}
    for kind, facts in connection.execute(query.order_by(BOOKING.c.booking_id)):
        if kind == CLAIM:
            claimed[facts["escrow_id"]] = facts["owner_id"]
            continue
        for owner in facts["owners"]:
            remaining = tuple(reason for reason in holds.get(owner, ()) if reason != facts["reason"])
            holds[owner] = (*remaining, facts["reason"]) if kind == HOLD else remaining
    return Standing({owner: reasons for owner, reasons in holds.items() if reasons}, claimed)


def claimants(connection: sa.Connection) -> dict[str, dict[str, str]]:
    """Owners that claim a name in escrow, by name, with their evidence; without claims that were withdrawn or granted."""
    found: dict[str, dict[str, str]] = {}
    query = sa.select(BOOKING.c.kind, BOOKING.c.facts).where(BOOKING.c.kind.in_([CLAIMANT, CLAIM]))
    for kind, facts in connection.execute(query.order_by(BOOKING.c.booking_id)):
        owners = found.setdefault(facts["escrow_id"], {})
        if kind == CLAIM or facts["withdrawn"]:
            owners.pop(facts["owner_id"], None)
        else:
            owners[facts["owner_id"]] = facts["evidence"]
    return {name: owners for name, owners in found.items() if owners}


def parties(connection: sa.Connection, account: str) -> list[str]:
    """Parties that have ever had an entry in an account of the chart."""
    query = sa.select(ENTRY.c.party_id).where(ENTRY.c.account == account).distinct().order_by(ENTRY.c.party_id)
    return list(connection.execute(query).scalars())


def require_in_escrow(connection: sa.Connection, escrow_id: str, hint: str = "") -> None:
    """Raise InputError unless something lies, or lay, in escrow under a name.

    Args:
        hint: where no name is like it; by default the names that there are.
    """
    names = parties(connection, ESCROW)
    if escrow_id not in names:
        raise InputError(
            f"escrow {escrow_id}",
            expected="a name under which something lies in escrow",
            found="none",
            hint=did_you_mean(escrow_id, names) or hint or f"There are: {', '.join(names) or 'none'}.",
        )


def as_booking(row: sa.Row[Any]) -> Booking:
    """A booking from a row of its table."""
    numbers = (row.booking_id, row.kind, row.day, row.booked_at)
    return Booking(*numbers, row.revision or 0, row.night or "", row.corrects, row.facts, row.period)


def last(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Booking | None:
    """The last booking that meets a condition."""
    query = sa.select(BOOKING).where(where).order_by(BOOKING.c.booking_id.desc()).limit(1)
    row = connection.execute(query).first()
    return as_booking(row) if row else None


def cause_of(connection: sa.Connection, booking: Booking) -> str:
    """Digest of a booking's cause."""
    query = sa.select(BOOKING.c.cause_sha256).where(BOOKING.c.booking_id == booking.booking_id)
    return str(connection.execute(query).scalar_one())


def sums(connection: sa.Connection, where: sa.ColumnElement[bool]) -> dict[Account, int]:
    """Sums of the entries that meet a condition, by account; sums of zero are left out."""
    return dict(sums_by(connection, where))


def sums_by(connection: sa.Connection, where: sa.ColumnElement[bool], *columns: sa.Column[Any]) -> Iterator[tuple[Any, ...]]:
    """Like `sums`, also by other columns; yields account, values of the columns, and sum."""
    keys, total = (ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, *columns), sa.func.sum(ENTRY.c.amount_minor)
    query = sa.select(*keys, total).select_from(ENTRY).join(BOOKING).where(where).group_by(*keys).having(total != 0)
    for name, party, currency, *values, amount in connection.execute(query):
        yield Account(name, party, currency), *values, int(amount)
