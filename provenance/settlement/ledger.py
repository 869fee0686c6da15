"""The ledger: double entry in PostgreSQL, integer minor units, only ever added to.

A booking has entries that sum to zero in each currency, and two dates: the day that it is for, and when it was booked.
Balances chain in the order of booking. A night booked again is booked *by difference*: its entries are what the day should
be less what it already is, and they name the booking they correct. The database refuses to update or delete, or to commit a
booking that does not balance.

A booking counts in the period of its day or, that being closed, in the first that is open. Besides nights there are bookings
that move what is owed: `hold`, `release`, `claim`, `advance`, and those of `settling`: `rate`, `close` (of a period),
`payments` and `answer` (of a bank). What an owner on hold earns is held from the first cent on, and what is put in escrow
under a name that somebody has claimed is the claimant's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.errors import InputError, StoreError, did_you_mean
from provenance.core.locks import Lock, held, lock
from provenance.core.store import digest
from provenance.settlement import books
from provenance.settlement.accounts import ADVANCE, FUNDING, OWED, Account, Standing
from provenance.settlement.books import ADVANCED, BOOKING, CLAIM, ENTRY, HOLD, NIGHT, STORE, Booking
from provenance.settlement.exports.payouts import Movements


def migrate(engine: sa.Engine) -> None:
    """Bring the ledger's schema up to date; raises StoreError where a later version of this program has been here."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        lock(connection, Lock.MIGRATING)
        config.attributes["connection"] = connection
        now = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if now is not None and now not in known:
            raise StoreError(
                "the ledger",
                expected="a schema that this version knows",
                found=repr(now),
                hint="A later version has migrated it: install that one again, or restore the backup from before the upgrade.",
            )
        command.upgrade(config, "head")


def bind(engine: sa.Engine, store_id: str) -> str:
    """The id of the store whose nights this ledger books: `store_id` if it has none yet."""
    with engine.begin() as connection:
        lock(connection, Lock.BOOKING)
        bound = connection.execute(sa.select(STORE.c.store_id)).scalar_one_or_none()
        if bound is None:
            connection.execute(sa.insert(STORE), {"store_id": store_id})
        return str(bound or store_id)


def now(engine: sa.Engine) -> datetime:
    """The time by the ledger's clock: machines have one each, and the ledger is one."""
    with engine.connect() as connection:
        found: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
        return found


def publishing(engine: sa.Engine) -> AbstractContextManager[None]:
    """Hold the right to publish; one process at a time."""
    return held(engine, Lock.PUBLISHING)


def freezing(engine: sa.Engine) -> AbstractContextManager[None]:
    """Have what is frozen now stay: nothing is cleared away meanwhile."""
    return held(engine, Lock.CLEARING, shared=True)


def clearing(engine: sa.Engine) -> AbstractContextManager[None]:
    """Hold the right to clear away what no night needs; nothing is frozen meanwhile."""
    return held(engine, Lock.CLEARING)


def book(
    engine: sa.Engine,
    day: date,
    amounts: Mapping[Account, int],
    *,
    night: str,
    cause: str,
    facts: Mapping[str, Any] | None = None,
) -> Booking:
    """Book what a night amounts to, by difference from what is booked for its day; once for each cause.

    Args:
        amounts: what the day should be, summing to zero in each currency.
        cause: digest of all that decided the amounts. The booking in force having the same cause, nothing is booked.
        facts: what else there is to say, such as who approved it.

    Returns:
        The booking in force for the day.
    """
    with books.alone(engine) as connection:
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
    """Hold what an owner is owed, and what it will earn, until `release`; a hold for the same reason is placed once."""
    with books.alone(engine) as connection:
        if reason in books.standing(connection).held.get(owner_id, ()):
            because = BOOKING.c.facts["reason"].astext == reason
            placed = books.last(connection, (BOOKING.c.kind == HOLD) & _concerns(owner_id) & because)
            assert placed is not None
            return placed
        return books.hold(connection, [owner_id], day=day, reason=reason, by=by)


def release(engine: sa.Engine, owner_id: str, *, day: date, reason: str, by: str) -> Booking:
    """End a hold; with the last one, what was held is payable again.

    Args:
        reason: of the hold.

    Raises:
        InputError: no such hold is in force.
    """
    with books.alone(engine) as connection:
        reasons = books.standing(connection).held.get(owner_id, ())
        if reason not in reasons:
            found = "; ".join(map(repr, reasons)) or "none"
            raise InputError(f"owner {owner_id}", expected=f"a hold in force because of {reason!r}", found=found)
        return books.release(connection, [owner_id], day=day, reason=reason, by=by)


def _concerns(owner_id: str) -> sa.ColumnElement[bool]:
    """Bookings that name an owner, whether or not they have an entry for it."""
    return sa.or_(BOOKING.c.facts["owner_id"].astext == owner_id, BOOKING.c.facts["owners"].contains([owner_id]))


def claim(engine: sa.Engine, escrow_id: str, owner_id: str, *, day: date, evidence: str, by: str) -> Booking:
    """Give an owner what lies in escrow under a name, and what will be put there; each name is claimed once."""
    with books.alone(engine) as connection:
        made = books.last(connection, (BOOKING.c.kind == CLAIM) & (BOOKING.c.facts["escrow_id"].astext == escrow_id))
        if made and made.facts["owner_id"] == owner_id:
            return made
        if made:
            found = f"a claim of {made.facts['owner_id']}, booked as {made.booking_id}"
            raise InputError(f"escrow {escrow_id}", expected="a name that nobody has claimed", found=found)
        names = books.parties(connection, ESCROW)
        if escrow_id not in names:
            raise InputError(
                f"escrow {escrow_id}",
                expected="a name under which something lies in escrow",
                found="none",
                hint=did_you_mean(escrow_id, names) or f"There are: {', '.join(names) or 'none'}.",
            )
        entries: dict[Account, int] = {}
        standing = books.standing(connection)
        for account, amount in books.sums(connection, (ENTRY.c.account == ESCROW) & (ENTRY.c.party_id == escrow_id)).items():
            entries |= {account: -amount, standing.lies(Account(PAYABLE, owner_id, account.currency)): amount}
        facts = {"escrow_id": escrow_id, "owner_id": owner_id, "evidence": evidence, "by": by}
        return books.post(connection, books.other(connection, CLAIM, day, facts), entries)


def advance(engine: sa.Engine, owner_id: str, currency: str, amount: int, *, day: date, reason: str, by: str) -> Booking:
    """Note an advance that was paid, to be set off against what its owner will earn; the same for one reason once."""
    if amount <= 0:
        raise InputError(f"advance to {owner_id}", expected="an amount above 0", found=str(amount))
    facts = {"owner_id": owner_id, "amount_minor": str(amount), "currency": currency, "reason": reason, "by": by}
    row = {"kind": ADVANCED, "day": day, "facts": facts, "cause_sha256": digest([ADVANCED, str(day), *sorted(facts.items())])}
    with books.alone(engine) as connection:
        made = books.last(connection, BOOKING.c.cause_sha256 == row["cause_sha256"])
        entries = {Account(ADVANCE, owner_id, currency): amount, Account(FUNDING, "", currency): -amount}
        return made or books.post(connection, row, entries)


def bookings(
    engine: sa.Engine, day: date | None = None, *, kind: str | None = None, after: int = 0, through: int | None = None
) -> list[Booking]:
    """All bookings, or those for a day, of a kind or from after one through another, in the order of booking."""
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
    """Who was on hold, and what had been claimed, after a booking."""
    with engine.connect() as connection:
        return books.standing(connection, through)


def balances(engine: sa.Engine, *, through: int) -> dict[Account, int]:
    """Balance of every account after a booking; 0 is the empty ledger."""
    with engine.connect() as connection:
        return books.sums(connection, BOOKING.c.booking_id <= through)


def newest(engine: sa.Engine) -> int:
    """The last booking; 0 in an empty ledger."""
    with engine.connect() as connection:
        return books.newest(connection)


def moved(engine: sa.Engine, *, after: int, through: int) -> dict[Account, int]:
    """What bookings other than nights did to each account, from after one booking through another."""
    between = (BOOKING.c.booking_id > after) & (BOOKING.c.booking_id <= through)
    with engine.connect() as connection:
        return books.sums(connection, (BOOKING.c.kind != NIGHT) & between)


def of_day(engine: sa.Engine, day: date, *, through: int) -> dict[Account, int]:
    """What the nights of a day amounted to, after a booking; `Standing.earned` says whose that is."""
    with engine.connect() as connection:
        return books.sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day) & (BOOKING.c.booking_id <= through))


def of_nights(engine: sa.Engine, *, since: date, through: date) -> dict[date, dict[Account, int]]:
    """The same of every day from one through another, after the last booking."""
    nights = (BOOKING.c.kind == NIGHT) & BOOKING.c.day.between(since, through)
    found: dict[date, dict[Account, int]] = {}
    with engine.connect() as connection:
        for account, day, amount in books.sums_by(connection, nights, BOOKING.c.day):
            found.setdefault(day, {})[account] = amount
    return found


def movements(engine: sa.Engine, booking: Booking, *, after: int) -> Movements:
    """What a night's booking and those since an earlier one did, as its export tells it."""
    through, day = booking.booking_id, booking.day
    held_then = standing(engine, through=through)
    return Movements(
        opening=balances(engine, through=after),
        closing=balances(engine, through=through),
        day_before=held_then.earned(of_day(engine, day, through=after)),
        day_after=held_then.earned(of_day(engine, day, through=through)),
        moved=moved(engine, after=after, through=through),
        standing=held_then,
    )


def owners(engine: sa.Engine) -> list[str]:
    """Everybody who has ever been owed anything."""
    with engine.connect() as connection:
        return sorted({owner for account in OWED for owner in books.parties(connection, account)})


def by_day(engine: sa.Engine, account: str, *, through: int) -> dict[tuple[Account, date], int]:
    """What lies in an account, by whom it is for and the day for which it was put there."""
    now = balances(engine, through=through)
    there = (ENTRY.c.account == account) & (BOOKING.c.booking_id <= through)
    with engine.connect() as connection:
        return {(whose, day): amount for whose, day, amount in books.sums_by(connection, there, BOOKING.c.day) if whose in now}


def of_party(engine: sa.Engine, party_id: str) -> list[tuple[Booking, list[tuple[Account, int]]]]:
    """Bookings that touch a party, in the order of booking, with its entries of each."""
    query = (
        sa.select(BOOKING, ENTRY.c.account, ENTRY.c.currency, ENTRY.c.amount_minor)
        .outerjoin(ENTRY, (ENTRY.c.booking_id == BOOKING.c.booking_id) & (ENTRY.c.party_id == party_id))
        .where((ENTRY.c.party_id == party_id) | _concerns(party_id))
        .order_by(BOOKING.c.booking_id, ENTRY.c.line)
    )
    found: dict[int, tuple[Booking, list[tuple[Account, int]]]] = {}
    with engine.connect() as connection:
        for row in connection.execute(query):
            _, lines = found.setdefault(row.booking_id, (books.as_booking(row), []))
            if row.account is not None:
                lines.append((Account(row.account, party_id, row.currency), row.amount_minor))
    return list(found.values())


def opening(engine: sa.Engine, period: str) -> dict[Account, int]:
    """Balances with which a period opens: of all bookings that count in those before it."""
    with engine.connect() as connection:
        return books.sums(connection, BOOKING.c.period < period)


def of_period(engine: sa.Engine, period: str, party_id: str | None = None) -> list[tuple[Booking, Account, int]]:
    """Entries for anybody, or for one, of the bookings that count in a period, in the order of booking."""
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
    """What nights of each period, as they counted in it, brought every owner and currency, oldest first."""
    own = sa.func.to_char(BOOKING.c.day, "YYYY-MM") == BOOKING.c.period
    query = (
        sa.select(ENTRY.c.party_id, ENTRY.c.currency, BOOKING.c.period, sa.func.sum(ENTRY.c.amount_minor))
        .join(BOOKING)
        .where((BOOKING.c.kind == NIGHT) & own & ENTRY.c.account.in_(OWED) & (BOOKING.c.period <= through))
        .group_by(ENTRY.c.party_id, ENTRY.c.currency, BOOKING.c.period)
        .order_by(BOOKING.c.period)
    )
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    with engine.connect() as connection:
        for party, currency, period, amount in connection.execute(query):
            found.setdefault((party, currency), []).append((period, -int(amount)))
    return found


def entries(engine: sa.Engine, booking_id: int) -> list[tuple[Account, int]]:
    """The entries of a booking, in order."""
    query = (
        sa.select(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, ENTRY.c.amount_minor)
        .where(ENTRY.c.booking_id == booking_id)
        .order_by(ENTRY.c.line)
    )
    with engine.connect() as connection:
        return [(Account(*row[:3]), row[3]) for row in connection.execute(query)]
