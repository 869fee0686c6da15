"""Keeps the ledger: double entry in PostgreSQL, in integer minor units, append-only.

The entries of a booking sum to zero in each currency. A booking has two dates: the day that it is for, and the time of booking.
Balances chain in the order of booking. A night that is booked again is booked *by difference*: its entries are the new amounts
of the day less the booked ones, and it names the booking that it corrects. The database refuses updates, deletes, and bookings
that do not balance.

A booking counts in the period of its day or, if that is closed, in the first open period. Other kinds of bookings are `hold`,
`release`, `claim` and `advance`, and those of `settling`: `rate`, `close` (of a period), `payments` and `answer` (of a bank).
Earnings of an owner on hold are held from the first cent on. Amounts for a claimed escrow go to the claimant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from provenance.core.errors import InputError, StoreError
from provenance.core.locks import Lock, lock
from provenance.core.store import digest
from provenance.core.tables import ESCROW, PAYABLE
from provenance.settlement import books
from provenance.settlement.accounts import ADVANCE, FUNDING, OWED, Account, Standing
from provenance.settlement.books import ADVANCED, BOOKING, CLAIM, ENTRY, HOLD, NIGHT, STORE, Booking
from provenance.settlement.exports.payouts import Movements

# Alembic's own table.
VERSION = sa.table("alembic_version", sa.column("version_num"))


def migrate(engine: sa.Engine) -> None:
    """Migrate the ledger's schema to this version; raises StoreError if a later version has migrated it."""
    if _is_current(engine):
        return
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        lock(connection, Lock.MIGRATING)
        config.attributes["connection"] = connection
        current = MigrationContext.configure(connection).get_current_revision()
        revisions = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if current is not None and current not in revisions:
            raise StoreError(
                "the ledger",
                expected="a schema that this version knows",
                found=repr(current),
                hint="Below 0004: start version 0.1 once, which migrates it. Above: install that later version again.",
            )
        command.upgrade(config, "head")


def _is_current(engine: sa.Engine) -> bool:
    """Whether the schema is of this version; asked without alembic, whose imports take longer than its answer."""
    newest = max(path.stem for path in (Path(__file__).parent / "migrations/versions").glob("v*.py"))  # v0006_outcomes
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(VERSION.name):
            return False
        return connection.execute(sa.select(VERSION.c.version_num)).scalars().all() == [newest[1:5]]


def bind(engine: sa.Engine, store_id: str) -> str:
    """Bind the ledger to a store, once; returns the id of the bound store, which may be another one."""
    with engine.begin() as connection:
        lock(connection, Lock.BOOKING)
        bound = connection.execute(sa.select(STORE.c.store_id)).scalar_one_or_none()
        if bound is None:
            connection.execute(sa.insert(STORE), {"store_id": store_id})
        return str(bound or store_id)


def book(
    engine: sa.Engine,
    day: date,
    amounts: Mapping[Account, int],
    *,
    night: str,
    cause: str,
    facts: Mapping[str, Any] | None = None,
) -> Booking:
    """Book a night's amounts, by difference from the amounts booked for its day.

    Args:
        amounts: of the day, summing to zero in each currency.
        cause: digest of the inputs that decided the amounts; if the booking in force has the same cause, nothing is booked.
        facts: such as the person who approved.

    Returns:
        The booking in force for the day.
    """
    with books.booking_transaction(engine) as connection:
        last = books.last(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day))
        if last and books.cause_of(connection, last) == digest([cause, last.corrects]):
            return last
        booked = books.sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day))
        return books.post(
            connection,
            {
                "kind": NIGHT,
                "day": day,
                "revision": last.revision + 1 if last else 1,
                "night": night,
                "cause_sha256": digest([cause, last.booking_id if last else None]),
                "corrects": last.booking_id if last else None,
                "facts": dict(facts or {}),
            },
            books.standing(connection).difference(amounts, booked),
        )


def hold(engine: sa.Engine, owner_id: str, *, day: date, reason: str, by: str) -> Booking:
    """Hold an owner's amounts, also future ones, until `release`; a hold for the same reason is placed once."""
    with books.booking_transaction(engine) as connection:
        if reason in books.standing(connection).holds.get(owner_id, ()):
            same_reason = BOOKING.c.facts["reason"].astext == reason
            placed = books.last(connection, (BOOKING.c.kind == HOLD) & _concerns(owner_id) & same_reason)
            assert placed is not None
            return placed
        return books.hold(connection, [owner_id], day=day, reason=reason, by=by)


def release(engine: sa.Engine, owner_id: str, *, day: date, reason: str, by: str) -> Booking:
    """End the hold that was placed for a reason; when the last hold ends, held amounts become payable.

    Raises:
        InputError: no such hold is in force.
    """
    with books.booking_transaction(engine) as connection:
        reasons = books.standing(connection).holds.get(owner_id, ())
        if reason not in reasons:
            in_force = "; ".join(map(repr, reasons)) or "none"
            raise InputError(f"owner {owner_id}", expected=f"a hold in force because of {reason!r}", found=in_force)
        return books.release(connection, [owner_id], day=day, reason=reason, by=by)


def _concerns(owner_id: str) -> sa.ColumnElement[bool]:
    """Bookings that name an owner in their facts; such a booking may have no entry for it."""
    return sa.or_(BOOKING.c.facts["owner_id"].astext == owner_id, BOOKING.c.facts["owners"].contains([owner_id]))


def claim(engine: sa.Engine, escrow_id: str, owner_id: str, *, day: date, evidence: str, by: str) -> Booking:
    """Give an escrow to an owner, with all amounts that it gets later; each escrow is claimed once."""
    with books.booking_transaction(engine) as connection:
        booking = books.last(connection, (BOOKING.c.kind == CLAIM) & (BOOKING.c.facts["escrow_id"].astext == escrow_id))
        if booking and booking.facts["owner_id"] == owner_id:
            return booking
        if booking:
            claimed = f"a claim of {booking.facts['owner_id']}, booked as {booking.booking_id}"
            raise InputError(f"escrow {escrow_id}", expected="a name that nobody has claimed", found=claimed)
        others = sorted({*books.claimants(connection).get(escrow_id, {})} - {owner_id})
        if others:
            raise InputError(
                f"escrow {escrow_id}",
                expected=f"{owner_id} to be its only claimant",
                found=f"claims of {', '.join(others)}, too",
                hint="Decide between them: `provenance escrow claimant NAME OWNER --withdrawn`. If each owns a part, deliver "
                "claims with stakes, and run the days again.",
            )
        books.require_in_escrow(connection, escrow_id)
        entries: dict[Account, int] = {}
        standing = books.standing(connection)
        for account, amount in books.sums(connection, (ENTRY.c.account == ESCROW) & (ENTRY.c.party_id == escrow_id)).items():
            entries |= {account: -amount, standing.current_account(Account(PAYABLE, owner_id, account.currency)): amount}
        facts = {"escrow_id": escrow_id, "owner_id": owner_id, "evidence": evidence, "by": by}
        return books.post(connection, books.booking_row(connection, CLAIM, day, facts), entries)


def advance(engine: sa.Engine, owner_id: str, currency: str, amount: int, *, day: date, reason: str, by: str) -> Booking:
    """Record an advance that was paid to an owner, to be set off against earnings; the same advance is recorded once."""
    if amount <= 0:
        raise InputError(f"advance to {owner_id}", expected="an amount above 0", found=str(amount))
    facts = {"owner_id": owner_id, "amount_minor": str(amount), "currency": currency, "reason": reason, "by": by}
    row = {"kind": ADVANCED, "day": day, "facts": facts, "cause_sha256": digest([ADVANCED, str(day), *sorted(facts.items())])}
    with books.booking_transaction(engine) as connection:
        booking = books.last(connection, BOOKING.c.cause_sha256 == row["cause_sha256"])
        entries = {Account(ADVANCE, owner_id, currency): amount, Account(FUNDING, "", currency): -amount}
        return booking or books.post(connection, row, entries)


def bookings(
    engine: sa.Engine, day: date | None = None, *, kind: str | None = None, after: int = 0, through: int | None = None
) -> list[Booking]:
    """Bookings in the order of booking: all, or those of a day or kind, or those in (`after`, `through`]."""
    query = sa.select(BOOKING).where(BOOKING.c.booking_id > after).order_by(BOOKING.c.booking_id)
    if through is not None:
        query = query.where(BOOKING.c.booking_id <= through)
    if day is not None:
        query = query.where(BOOKING.c.day == day)
    if kind is not None:
        query = query.where(BOOKING.c.kind == kind)
    with engine.connect() as connection:
        return [books.as_booking(row) for row in connection.execute(query)]


def standing(engine: sa.Engine, *, through: int) -> Standing:
    """Holds and claims in force after a booking."""
    with engine.connect() as connection:
        return books.standing(connection, through)


def balances(engine: sa.Engine, *, through: int) -> dict[Account, int]:
    """Balance of every account after a booking; after booking 0, the ledger is empty."""
    with engine.connect() as connection:
        return books.sums(connection, BOOKING.c.booking_id <= through)


def newest(engine: sa.Engine) -> int:
    """Number of the last booking; 0 in an empty ledger."""
    with engine.connect() as connection:
        return books.newest(connection)


def other_movements(engine: sa.Engine, *, after: int, through: int) -> dict[Account, int]:
    """Changes by account of bookings in (`after`, `through`] other than nights."""
    between = (BOOKING.c.booking_id > after) & (BOOKING.c.booking_id <= through)
    with engine.connect() as connection:
        return books.sums(connection, (BOOKING.c.kind != NIGHT) & between)


def day_amounts(engine: sa.Engine, day: date, *, through: int) -> dict[Account, int]:
    """Amounts booked for the nights of a day, after a booking; `Standing.earned` gives their beneficiaries."""
    with engine.connect() as connection:
        return books.sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day) & (BOOKING.c.booking_id <= through))


def night_amounts(engine: sa.Engine, *, since: date, through: date) -> dict[date, dict[Account, int]]:
    """Amounts booked for the nights of each day in [`since`, `through`], after the last booking."""
    nights = (BOOKING.c.kind == NIGHT) & BOOKING.c.day.between(since, through)
    amounts: dict[date, dict[Account, int]] = {}
    with engine.connect() as connection:
        for account, day, amount in books.sums_by(connection, nights, BOOKING.c.day):
            amounts.setdefault(day, {})[account] = amount
    return amounts


def movements(engine: sa.Engine, booking: Booking, *, after: int) -> Movements:
    """Movements by the bookings in (`after`, `booking`], as the export of a night's booking shows them."""
    through, day = booking.booking_id, booking.day
    standing_after = standing(engine, through=through)
    return Movements(
        opening=balances(engine, through=after),
        closing=balances(engine, through=through),
        day_before=standing_after.earned(day_amounts(engine, day, through=after)),
        day_after=standing_after.earned(day_amounts(engine, day, through=through)),
        moved=other_movements(engine, after=after, through=through),
        standing=standing_after,
    )


def owners(engine: sa.Engine) -> list[str]:
    """Owners that the ledger has ever owed anything."""
    with engine.connect() as connection:
        return sorted({owner for account in OWED for owner in books.parties(connection, account)})


def by_day(engine: sa.Engine, name: str, *, through: int) -> dict[tuple[Account, date], int]:
    """Amounts in an account of the chart, by party and day of the booking, without parties of balance zero."""
    open_accounts = balances(engine, through=through)
    in_account = (ENTRY.c.account == name) & (BOOKING.c.booking_id <= through)
    with engine.connect() as connection:
        rows = books.sums_by(connection, in_account, BOOKING.c.day)
        return {(account, day): amount for account, day, amount in rows if account in open_accounts}


def party_bookings(engine: sa.Engine, party_id: str) -> list[tuple[Booking, list[tuple[Account, int]]]]:
    """Bookings that concern a party, in the order of booking, each with the party's entries."""
    query = (
        sa.select(BOOKING, ENTRY.c.account, ENTRY.c.currency, ENTRY.c.amount_minor)
        .outerjoin(ENTRY, (ENTRY.c.booking_id == BOOKING.c.booking_id) & (ENTRY.c.party_id == party_id))
        .where((ENTRY.c.party_id == party_id) | _concerns(party_id))
        .order_by(BOOKING.c.booking_id, ENTRY.c.line)
    )
    history: dict[int, tuple[Booking, list[tuple[Account, int]]]] = {}
    with engine.connect() as connection:
        for row in connection.execute(query):
            _, lines = history.setdefault(row.booking_id, (books.as_booking(row), []))
            if row.account is not None:
                lines.append((Account(row.account, party_id, row.currency), row.amount_minor))
    return list(history.values())


def opening(engine: sa.Engine, period: str) -> dict[Account, int]:
    """Opening balances of a period: those of all bookings in earlier periods."""
    with engine.connect() as connection:
        return books.sums(connection, BOOKING.c.period < period)


def period_entries(engine: sa.Engine, period: str, party_id: str | None = None) -> list[tuple[Booking, Account, int]]:
    """Entries of all parties, or of one, in the bookings of a period, in the order of booking."""
    query = (
        sa.select(BOOKING, ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, ENTRY.c.amount_minor)
        .join(ENTRY)
        .where((BOOKING.c.period == period) & (ENTRY.c.party_id != ""))
        .order_by(BOOKING.c.booking_id, ENTRY.c.line)
    )
    if party_id is not None:
        query = query.where(ENTRY.c.party_id == party_id)
    with engine.connect() as connection:
        rows = list(connection.execute(query))
    return [(books.as_booking(r), Account(r.account, r.party_id, r.currency), r.amount_minor) for r in rows]


def earned_by_period(engine: sa.Engine, through: str) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Earnings of nights by owner and currency: a list by period, oldest first, without corrections in later periods."""
    in_own_period = sa.func.to_char(BOOKING.c.day, "YYYY-MM") == BOOKING.c.period
    query = (
        sa.select(ENTRY.c.party_id, ENTRY.c.currency, BOOKING.c.period, sa.func.sum(ENTRY.c.amount_minor))
        .join(BOOKING)
        .where((BOOKING.c.kind == NIGHT) & in_own_period & ENTRY.c.account.in_(OWED) & (BOOKING.c.period <= through))
        .group_by(ENTRY.c.party_id, ENTRY.c.currency, BOOKING.c.period)
        .order_by(BOOKING.c.period)
    )
    earned: dict[tuple[str, str], list[tuple[str, int]]] = {}
    with engine.connect() as connection:
        for party, currency, period, amount in connection.execute(query):
            earned.setdefault((party, currency), []).append((period, -int(amount)))
    return earned


def entries(engine: sa.Engine, booking_id: int) -> list[tuple[Account, int]]:
    """The entries of a booking, in order."""
    query = (
        sa.select(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, ENTRY.c.amount_minor)
        .where(ENTRY.c.booking_id == booking_id)
        .order_by(ENTRY.c.line)
    )
    with engine.connect() as connection:
        return [(Account(*row[:3]), row[3]) for row in connection.execute(query)]
