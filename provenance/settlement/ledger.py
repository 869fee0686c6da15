"""The ledger: double entry in PostgreSQL, integer minor units, only ever added to.

A booking belongs to a day and has entries that sum to zero in each currency. A day booked again is booked *by
difference*: its entries are what the day should be less what it already is, and they name the booking they correct. The
database refuses to update or delete, or to commit a booking that does not balance.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from provenance.core.store import digest
from provenance.settlement.accrual import Account

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date

METADATA = sa.MetaData()
BOOKING = sa.Table(
    "booking",
    METADATA,
    sa.Column("booking_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("cause_sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("night", sa.Text, nullable=False),
    sa.Column("corrects", sa.BigInteger, sa.ForeignKey("booking.booking_id")),
    sa.Column("booked_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("transaction_id", sa.BigInteger, nullable=False, server_default=sa.text("txid_current()")),
    sa.UniqueConstraint("day", "revision"),
)
ENTRY = sa.Table(
    "entry",
    METADATA,
    sa.Column("booking_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("party_id", sa.Text, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.CheckConstraint("amount_minor <> 0"),
)
STORE = sa.Table(
    "store",
    METADATA,
    sa.Column("single", sa.Boolean, sa.CheckConstraint("single"), primary_key=True, server_default=sa.true()),
    sa.Column("store_id", sa.Text, nullable=False),
)
# Serialises bookings, so that each one's opening balance is its predecessor's closing balance.
BOOKING_LOCK = 7_304_512_009
# Serialises publishing, so that no late writer touches what another has published.
PUBLISHING_LOCK = 7_304_512_010


@dataclass(frozen=True)
class Booking:
    """One booking of a day. `night` is the store key of the manifest whose shares it books."""

    booking_id: int
    day: date
    revision: int
    night: str
    corrects: int | None


def migrate(engine: sa.Engine) -> None:
    """Bring the ledger's schema up to date."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def bind(engine: sa.Engine, store_id: str) -> str:
    """The id of the store whose nights this ledger books: `store_id` if it has none yet."""
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": BOOKING_LOCK})
        bound = connection.execute(sa.select(STORE.c.store_id)).scalar_one_or_none()
        if bound is None:
            connection.execute(sa.insert(STORE), {"store_id": store_id})
        return str(bound or store_id)


@contextmanager
def publishing(engine: sa.Engine) -> Iterator[None]:
    """Hold the right to publish; one process at a time."""
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": PUBLISHING_LOCK})
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": PUBLISHING_LOCK})


def book(engine: sa.Engine, day: date, amounts: Mapping[Account, int], *, night: str, cause: str) -> Booking:
    """Book what a day amounts to, by difference from what is booked for it; once for each cause.

    Args:
        amounts: what the day should be, summing to zero in each currency.
        cause: digest of all that decided the amounts. The booking in force having the same cause, nothing is booked.

    Returns:
        The booking in force for the day.
    """
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": BOOKING_LOCK})
        last = _booking(connection, BOOKING.c.day == day)
        key = digest([cause, last.corrects if last else None])
        if last and _cause(connection, last) == key:
            return last
        booked = _sums(connection, BOOKING.c.day == day)
        changes = {a: amounts.get(a, 0) - booked.get(a, 0) for a in sorted({*amounts, *booked})}
        # Counted under the lock and not by a sequence, which a killed transaction would leave with a gap.
        newest = connection.execute(sa.select(sa.func.max(BOOKING.c.booking_id))).scalar_one()
        booking_id = (newest or 0) + 1
        connection.execute(
            sa.insert(BOOKING),
            {
                "booking_id": booking_id,
                "day": day,
                "revision": last.revision + 1 if last else 1,
                "night": night,
                "cause_sha256": digest([cause, last.booking_id if last else None]),
                "corrects": last.booking_id if last else None,
            },
        )
        entries = [
            {
                "booking_id": booking_id,
                "line": line,
                "account": account.account,
                "party_id": account.party_id,
                "currency": account.currency,
                "amount_minor": amount,
            }
            for line, (account, amount) in enumerate((a, c) for a, c in changes.items() if c)
        ]
        if entries:
            connection.execute(sa.insert(ENTRY), entries)
        booking = _booking(connection, BOOKING.c.booking_id == booking_id)
    assert booking is not None
    return booking


def bookings(engine: sa.Engine, day: date | None = None) -> list[Booking]:
    """All bookings, or those of a day, in the order in which they were booked."""
    query = sa.select(*_columns()).order_by(BOOKING.c.booking_id)
    with engine.connect() as connection:
        rows = connection.execute(query if day is None else query.where(BOOKING.c.day == day))
        return [_as_booking(row) for row in rows]


def balances(engine: sa.Engine, *, through: int) -> dict[Account, int]:
    """Balance of every account after a booking; 0 is the empty ledger."""
    with engine.connect() as connection:
        return _sums(connection, BOOKING.c.booking_id <= through)


def of_day(engine: sa.Engine, day: date, *, through: int) -> dict[Account, int]:
    """What a day amounted to, after a booking."""
    with engine.connect() as connection:
        return _sums(connection, (BOOKING.c.day == day) & (BOOKING.c.booking_id <= through))


def entries(engine: sa.Engine, booking_id: int) -> list[tuple[Account, int]]:
    """The entries of a booking, in order."""
    query = (
        sa.select(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, ENTRY.c.amount_minor)
        .where(ENTRY.c.booking_id == booking_id)
        .order_by(ENTRY.c.line)
    )
    with engine.connect() as connection:
        return [(Account(*row[:3]), row[3]) for row in connection.execute(query)]


def _as_booking(row: sa.Row[Any]) -> Booking:
    return Booking(row.booking_id, row.day, row.revision, row.night, row.corrects)


def _columns() -> list[sa.Column[Any]]:
    return [BOOKING.c.booking_id, BOOKING.c.day, BOOKING.c.revision, BOOKING.c.night, BOOKING.c.corrects]


def _booking(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Booking | None:
    query = sa.select(*_columns()).where(where).order_by(BOOKING.c.booking_id.desc()).limit(1)
    row = connection.execute(query).first()
    return _as_booking(row) if row else None


def _cause(connection: sa.Connection, booking: Booking) -> str:
    query = sa.select(BOOKING.c.cause_sha256).where(BOOKING.c.booking_id == booking.booking_id)
    return str(connection.execute(query).scalar_one())


def _sums(connection: sa.Connection, where: sa.ColumnElement[bool]) -> dict[Account, int]:
    total = sa.func.sum(ENTRY.c.amount_minor)
    query = (
        sa.select(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, total)
        .join(BOOKING)
        .where(where)
        .group_by(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency)
        .having(total != 0)
    )
    return {Account(*row[:3]): int(row[3]) for row in connection.execute(query)}
