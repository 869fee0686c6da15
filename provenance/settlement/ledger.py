"""The ledger: double entry in PostgreSQL, integer minor units, only ever added to.

A booking has entries that sum to zero in each currency, and two dates: the day that it is for, and when it was booked.
Balances chain in the order of booking. A night booked again is booked *by difference*: its entries are what the day should
be less what it already is, and they name the booking they correct. The database refuses to update or delete, or to commit a
booking that does not balance.

A booking counts in the period of its day or, that being closed, in the first that is open. Besides nights there are bookings
that move what is owed: `hold`, `release`, `claim`, `advance`, `close` (of a period), `payments` and `return`. What an owner on
hold earns is held from the first cent on, and what is put in escrow under a name that somebody has claimed is the claimant's.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects.postgresql import JSONB

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import digest
from provenance.settlement.accounts import ADVANCE, FUNDING, HELD, OWED, Account, Standing
from provenance.settlement.periods import PAY, Line, closing_entries, payment_entries
from provenance.settlement.periods import close as close_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date, datetime

    from provenance.settlement.periods import Payee, Terms

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
PAYMENT = sa.Table(
    "payment",
    METADATA,
    sa.Column("payment_id", sa.String(32), primary_key=True),
    sa.Column("close_id", sa.BigInteger, sa.ForeignKey("booking.booking_id"), nullable=False, index=True),
    sa.Column("owner_id", sa.Text, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("net_minor", sa.BigInteger, nullable=False),
    sa.Column("withheld_minor", sa.BigInteger, nullable=False),
    sa.Column("pay_currency", sa.String(3), nullable=False),
    sa.Column("paid_minor", sa.BigInteger, nullable=False),
    sa.CheckConstraint("net_minor > 0 AND withheld_minor >= 0 AND paid_minor > 0", name="payment_is_of_something"),
    sa.UniqueConstraint("close_id", "owner_id", "currency"),
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


NIGHT, HOLD, RELEASE, CLAIM = "night", "hold", "release", "claim"
ADVANCED, CLOSE, PAYMENTS, RETURN = "advance", "close", "payments", "return"


@dataclass(frozen=True)
class Booking:
    """One booking.

    Attributes:
        day: that it is for; booked_at: when it was posted.
        revision, night: of a night, the how manieth of its day, and the store key of the manifest whose shares it books.
        facts: what else there is to say: who asked for it, and why.
        period: in which it counts, YYYY-MM: its day's, or the first open one where that is closed.
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


@dataclass(frozen=True)
class Payment:
    """What a close has found to be paid; `payment_id` is the end-to-end identifier that the bank gets.

    Attributes:
        booked: by which booking it was paid, if any; returned: by which it came back.
    """

    payment_id: str
    close_id: int
    line: Line
    booked: int | None = None
    returned: int | None = None


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
    """Book what a night amounts to, by difference from what is booked for its day; once for each cause.

    Args:
        amounts: what the day should be, summing to zero in each currency.
        cause: digest of all that decided the amounts. The booking in force having the same cause, nothing is booked.

    Returns:
        The booking in force for the day.
    """
    with _booking_alone(engine) as connection:
        last = _booking(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day))
        if last and _cause(connection, last) == digest([cause, last.corrects]):
            return last
        booked = _sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day))
        return _post(
            connection,
            {
                "kind": NIGHT,
                "day": day,
                "revision": last.revision + 1 if last else 1,
                "night": night,
                "cause_sha256": digest([cause, last.booking_id if last else None]),
                "corrects": last.booking_id if last else None,
            },
            _standing(connection).difference(amounts, booked),
        )


def hold(engine: sa.Engine, owner_id: str, *, day: date, reason: str, by: str) -> Booking:
    """Hold what an owner is owed, and what it will earn, until `release`; a hold for the same reason is placed once."""
    with _booking_alone(engine) as connection:
        for placed in _open_holds(connection):
            if (placed.facts["owner_id"], placed.facts["reason"]) == (owner_id, reason):
                return placed
        facts = {"owner_id": owner_id, "reason": reason, "by": by}
        return _post(connection, _other(HOLD, day, facts, _newest(connection)), _moved(connection, PAYABLE, HELD, owner_id))


def release(engine: sa.Engine, owner_id: str, *, day: date, reason: str, by: str) -> Booking:
    """End a hold; with the last one, what was held is payable again.

    Args:
        reason: of the hold.

    Raises:
        InputError: no such hold is in force.
    """
    with _booking_alone(engine) as connection:
        mine = [placed for placed in _open_holds(connection) if placed.facts["owner_id"] == owner_id]
        ended = next((placed for placed in mine if placed.facts["reason"] == reason), None)
        if ended is None:
            found = "; ".join(repr(placed.facts["reason"]) for placed in mine) or "none"
            raise InputError(f"owner {owner_id}", expected=f"a hold in force because of {reason!r}", found=found)
        facts = {"owner_id": owner_id, "reason": reason, "by": by, "hold": str(ended.booking_id)}
        entries = _moved(connection, HELD, PAYABLE, owner_id) if len(mine) == 1 else {}
        return _post(connection, _other(RELEASE, day, facts, _newest(connection)), entries)


def claim(engine: sa.Engine, escrow_id: str, owner_id: str, *, day: date, evidence: str, by: str) -> Booking:
    """Give an owner what lies in escrow under a name, and what will be put there; a name is claimed once.

    Raises:
        InputError: nothing ever lay in escrow under that name, or somebody else has claimed it.
    """
    with _booking_alone(engine) as connection:
        made = _booking(connection, (BOOKING.c.kind == CLAIM) & (BOOKING.c.facts["escrow_id"].astext == escrow_id))
        if made and made.facts["owner_id"] == owner_id:
            return made
        if made:
            found = f"a claim of {made.facts['owner_id']}, booked as {made.booking_id}"
            raise InputError(f"escrow {escrow_id}", expected="a name that nobody has claimed", found=found)
        names = _parties(connection, ESCROW)
        if escrow_id not in names:
            raise InputError(
                f"escrow {escrow_id}",
                expected="a name under which something lies in escrow",
                found="none",
                hint=did_you_mean(escrow_id, names) or f"There are: {', '.join(names) or 'none'}.",
            )
        entries: dict[Account, int] = {}
        standing = _standing(connection)
        for account, amount in _sums(connection, (ENTRY.c.account == ESCROW) & (ENTRY.c.party_id == escrow_id)).items():
            entries |= {account: -amount, standing.lies(Account(PAYABLE, owner_id, account.currency)): amount}
        facts = {"escrow_id": escrow_id, "owner_id": owner_id, "evidence": evidence, "by": by}
        return _post(connection, _other(CLAIM, day, facts, _newest(connection)), entries)


def advance(engine: sa.Engine, owner_id: str, currency: str, amount: int, *, day: date, reason: str, by: str) -> Booking:
    """Note an advance that was paid to an owner, to be set off against what it will earn.

    Args:
        reason: names the advance; the same owner, currency, amount, day and reason are booked once.
    """
    if amount <= 0:
        raise InputError(f"advance to {owner_id}", expected="an amount above 0", found=str(amount))
    facts = {"owner_id": owner_id, "amount_minor": str(amount), "currency": currency, "reason": reason, "by": by}
    row = {"kind": ADVANCED, "day": day, "facts": facts, "cause_sha256": digest([ADVANCED, str(day), *sorted(facts.items())])}
    with _booking_alone(engine) as connection:
        made = _booking(connection, BOOKING.c.cause_sha256 == row["cause_sha256"])
        entries = {Account(ADVANCE, owner_id, currency): amount, Account(FUNDING, "", currency): -amount}
        return made or _post(connection, row, entries)


def close(
    engine: sa.Engine, period: str, payees: Mapping[str, Payee], terms: Terms, *, day: date, by: str
) -> tuple[Booking, list[Payment]]:
    """Close and lock a period, and all before it; what is to be paid waits for a second person. A period is closed once.

    Args:
        period: YYYY-MM; day: of the close, not before the period's end.

    Returns:
        The booking of the close, and its payments.

    Raises:
        InputError: the period is not over, or a later one is closed; or as `periods.close`.
    """
    if f"{day:%Y-%m}" <= period:
        raise InputError(f"period {period}", expected="one that is over", found=f"{day}, which is in it or before it")
    with _booking_alone(engine) as connection:
        made = _booking(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period == period))
        later = _booking(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period > period))
        if later and not made:
            found = f"{later.period} is closed"
            raise InputError(f"period {period}", expected="one after the last that was closed", found=found)
        if not made:
            lines = close_lines(_to_close(connection, period), payees, terms)
            facts = {"by": by, "lines": digest([str(line) for line in lines])}
            row = {"kind": CLOSE, "day": day, "period": period, "facts": facts, "cause_sha256": digest([CLOSE, period])}
            made = _post(connection, row, closing_entries(lines))
            rows = [_payment_row(made, line) for line in lines if line.outcome == PAY]
            if rows:
                connection.execute(sa.insert(PAYMENT), rows)
        return made, _payments(connection, PAYMENT.c.close_id == made.booking_id)


def pay(engine: sa.Engine, period: str, *, day: date, by: str) -> tuple[Booking, list[Payment], dict[str, str]]:
    """Book the payments of a closed period, on the word of somebody else than who closed it; once.

    What has changed since is not paid but stays owed: an owner put on hold, or one that is owed less now.

    Returns:
        The booking, the payments that it paid, and why others were left out, by payment.

    Raises:
        InputError: the period is not closed, or the two are one person.
    """
    with _booking_alone(engine) as connection:
        closed = _booking(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period == period))
        if closed is None:
            raise InputError(f"period {period}", expected="one that is closed", found="one that is open")
        if closed.facts["by"].strip().casefold() == by.strip().casefold():
            raise InputError(f"payments of {period}", expected=f"approval by somebody else than {by}, who closed it", found=by)
        waiting = _payments(connection, PAYMENT.c.close_id == closed.booking_id)
        made = _booking(connection, (BOOKING.c.kind == PAYMENTS) & (BOOKING.c.facts["close"].astext == str(closed.booking_id)))
        if made is None:
            left_out = _left_out(connection, waiting)
            paid = [payment for payment in waiting if payment.payment_id not in left_out]
            who = {"prepared_by": closed.facts["by"], "approved_by": by}
            facts = {"close": str(closed.booking_id), **who, "left_out": left_out}
            row = {"kind": PAYMENTS, "day": day, "facts": facts, "cause_sha256": digest([PAYMENTS, closed.booking_id])}
            made = _post(connection, row, payment_entries(payment.line for payment in paid))
            waiting = _payments(connection, PAYMENT.c.close_id == closed.booking_id)
        return made, [payment for payment in waiting if payment.booked], dict(made.facts["left_out"])


def give_back(engine: sa.Engine, payment_id: str, *, day: date, reason: str, source: str) -> Booking:
    """Book that a payment came back or was never made: what it paid and withheld is owed again; once.

    Args:
        source: digest of the bank's answer that says so.

    Raises:
        InputError: no such payment was booked.
    """
    with _booking_alone(engine) as connection:
        found = _payments(connection, PAYMENT.c.payment_id == payment_id)
        if not found or found[0].booked is None:
            what = "one that was never approved" if found else "none of that identifier"
            raise InputError(f"payment {payment_id}", expected="a payment that was booked", found=what)
        payment = found[0]
        if payment.returned:
            made = _booking(connection, BOOKING.c.booking_id == payment.returned)
            assert made is not None
            return made
        standing = _standing(connection)
        entries = {standing.lies(account): -amount for account, amount in payment_entries([payment.line]).items()}
        facts = {"payment": payment_id, "owner_id": payment.line.owner_id, "reason": reason, "source": source}
        row = {"kind": RETURN, "day": day, "facts": facts, "cause_sha256": digest([RETURN, payment_id])}
        return _post(connection, row, entries)


def payments(engine: sa.Engine, period: str) -> list[Payment]:
    """Payments of a closed period, by owner and currency."""
    with engine.connect() as connection:
        closed = _booking(connection, (BOOKING.c.kind == CLOSE) & (BOOKING.c.period == period))
        return _payments(connection, PAYMENT.c.close_id == closed.booking_id) if closed else []


def next_period(period: str) -> str:
    """`2026-12` as `2027-01`."""
    year, month = map(int, period.split("-"))
    return f"{year + month // 12}-{month % 12 + 1:02d}"


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
        return [_as_booking(row) for row in connection.execute(query)]


def standing(engine: sa.Engine, *, through: int) -> Standing:
    """Who was on hold, and what had been claimed, after a booking."""
    with engine.connect() as connection:
        return _standing(connection, through)


def balances(engine: sa.Engine, *, through: int) -> dict[Account, int]:
    """Balance of every account after a booking; 0 is the empty ledger."""
    with engine.connect() as connection:
        return _sums(connection, BOOKING.c.booking_id <= through)


def newest(engine: sa.Engine) -> int:
    """The last booking; 0 in an empty ledger."""
    with engine.connect() as connection:
        return _newest(connection)


def moved(engine: sa.Engine, *, after: int, through: int) -> dict[Account, int]:
    """What bookings other than nights did to each account, from after one booking through another."""
    between = (BOOKING.c.booking_id > after) & (BOOKING.c.booking_id <= through)
    with engine.connect() as connection:
        return _sums(connection, (BOOKING.c.kind != NIGHT) & between)


def of_day(engine: sa.Engine, day: date, *, through: int) -> dict[Account, int]:
    """What the nights of a day amounted to, after a booking; `Standing.earned` says whose that is."""
    with engine.connect() as connection:
        return _sums(connection, (BOOKING.c.kind == NIGHT) & (BOOKING.c.day == day) & (BOOKING.c.booking_id <= through))


def owners(engine: sa.Engine) -> list[str]:
    """Everybody who has ever been owed anything."""
    with engine.connect() as connection:
        return sorted({owner for account in OWED for owner in _parties(connection, account)})


def since(engine: sa.Engine, account: Account) -> date:
    """The first day for which something lies in an account."""
    query = (
        sa.select(sa.func.min(BOOKING.c.day))
        .join(ENTRY)
        .where(ENTRY.c.account == account.account)
        .where(ENTRY.c.party_id == account.party_id)
        .where(ENTRY.c.currency == account.currency)
    )
    with engine.connect() as connection:
        found: date = connection.execute(query).scalar_one()
        return found


def of_party(engine: sa.Engine, party_id: str) -> list[tuple[Booking, list[tuple[Account, int]]]]:
    """Bookings that touch a party, in the order of booking, with its entries of each."""
    query = (
        sa.select(BOOKING, ENTRY.c.account, ENTRY.c.currency, ENTRY.c.amount_minor)
        .outerjoin(ENTRY, (ENTRY.c.booking_id == BOOKING.c.booking_id) & (ENTRY.c.party_id == party_id))
        .where((ENTRY.c.party_id == party_id) | (BOOKING.c.facts["owner_id"].astext == party_id))
        .order_by(BOOKING.c.booking_id, ENTRY.c.line)
    )
    found: dict[int, tuple[Booking, list[tuple[Account, int]]]] = {}
    with engine.connect() as connection:
        for row in connection.execute(query):
            _, lines = found.setdefault(row.booking_id, (_as_booking(row), []))
            if row.account is not None:
                lines.append((Account(row.account, party_id, row.currency), row.amount_minor))
    return list(found.values())


def entries(engine: sa.Engine, booking_id: int) -> list[tuple[Account, int]]:
    """The entries of a booking, in order."""
    query = (
        sa.select(ENTRY.c.account, ENTRY.c.party_id, ENTRY.c.currency, ENTRY.c.amount_minor)
        .where(ENTRY.c.booking_id == booking_id)
        .order_by(ENTRY.c.line)
    )
    with engine.connect() as connection:
        return [(Account(*row[:3]), row[3]) for row in connection.execute(query)]


@contextmanager
def _booking_alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction in which nobody else books."""
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": BOOKING_LOCK})
        yield connection


def _post(connection: sa.Connection, row: Mapping[str, Any], entries: Mapping[Account, int]) -> Booking:
    """Add a booking with its entries, in the order of accounts."""
    # Counted under the lock and not by a sequence, which a killed transaction would leave with a gap.
    booking_id = _newest(connection) + 1
    period = _open_period(connection, row["day"])
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
    booking = _booking(connection, BOOKING.c.booking_id == booking_id)
    assert booking is not None
    return booking


def _to_close(connection: sa.Connection, period: str) -> dict[Account, int]:
    """Balances as a period closes with them: what was booked in it, but no more than is payable now."""
    now = _sums(connection, sa.true())
    then = _sums(connection, BOOKING.c.period <= period)
    payable = {a for a in {*now, *then} if a.account == PAYABLE}
    kept = {a: amount for a, amount in now.items() if a.account != PAYABLE}
    return kept | {a: max(now.get(a, 0), then.get(a, 0)) for a in payable}  # owed is below zero


def _left_out(connection: sa.Connection, waiting: Sequence[Payment]) -> dict[str, str]:
    """Why payments that wait cannot be paid any more, by payment."""
    now, standing = _sums(connection, ENTRY.c.account == PAYABLE), _standing(connection)
    found = {}
    for payment in waiting:
        line = payment.line
        owed = -now.get(Account(PAYABLE, line.owner_id, line.currency), 0)
        if line.owner_id in standing.held:
            found[payment.payment_id] = f"on hold: {standing.held[line.owner_id][0]}"
        elif owed < line.net + line.withheld:
            found[payment.payment_id] = f"{owed} minor units of {line.currency} are payable now"
    return found


def _payment_row(closed: Booking, line: Line) -> dict[str, Any]:
    return {
        "payment_id": digest([closed.period, line.owner_id, line.currency])[:32],
        "close_id": closed.booking_id,
        "owner_id": line.owner_id,
        "currency": line.currency,
        "net_minor": line.net,
        "withheld_minor": line.withheld,
        "pay_currency": line.pay_currency,
        "paid_minor": line.paid,
    }


def _payments(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Payment]:
    """Payments, with what became of them."""
    booked = sa.select(BOOKING.c.facts["close"].astext.label("close"), BOOKING.c.booking_id, BOOKING.c.facts)
    by_close = {row.close: row for row in connection.execute(booked.where(BOOKING.c.kind == PAYMENTS))}
    came_back = sa.select(BOOKING.c.facts["payment"].astext, BOOKING.c.booking_id).where(BOOKING.c.kind == RETURN)
    returned: dict[str, int] = {row[0]: row[1] for row in connection.execute(came_back)}
    found = []
    for row in connection.execute(sa.select(PAYMENT).where(where).order_by(PAYMENT.c.owner_id, PAYMENT.c.currency)):
        by = by_close.get(str(row.close_id))
        line = Line(
            row.owner_id,
            row.currency,
            row.net_minor + row.withheld_minor,
            withheld=row.withheld_minor,
            net=row.net_minor,
            pay_currency=row.pay_currency,
            paid=row.paid_minor,
            outcome=PAY,
        )
        number = by.booking_id if by is not None and row.payment_id not in by.facts["left_out"] else None
        found.append(Payment(row.payment_id, row.close_id, line, number, returned.get(row.payment_id)))
    return found


def _other(kind: str, day: date, facts: Mapping[str, str], after: int) -> dict[str, Any]:
    """The row of a booking that is not a night's; the booking that it comes after makes its cause its own."""
    return {"kind": kind, "day": day, "facts": facts, "cause_sha256": digest([kind, *sorted(facts.items()), after])}


def _open_period(connection: sa.Connection, day: date) -> str:
    """The period in which a booking for a day counts."""
    closed = connection.execute(sa.select(sa.func.max(BOOKING.c.period)).where(BOOKING.c.kind == CLOSE)).scalar_one()
    return max(f"{day:%Y-%m}", next_period(closed)) if closed else f"{day:%Y-%m}"


def _newest(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.max(BOOKING.c.booking_id))).scalar_one() or 0)


def _moved(connection: sa.Connection, source: str, target: str, owner_id: str) -> dict[Account, int]:
    """Entries that move all that an owner has in one account to another."""
    found: dict[Account, int] = {}
    for account, amount in _sums(connection, (ENTRY.c.account == source) & (ENTRY.c.party_id == owner_id)).items():
        found |= {account: -amount, Account(target, owner_id, account.currency): amount}
    return found


def _open_holds(connection: sa.Connection, through: int | None = None) -> list[Booking]:
    """Holds that no release has ended, in the order in which they were placed."""
    query = sa.select(BOOKING).where(BOOKING.c.kind.in_([HOLD, RELEASE])).order_by(BOOKING.c.booking_id)
    if through is not None:
        query = query.where(BOOKING.c.booking_id <= through)
    found = [_as_booking(row) for row in connection.execute(query)]
    ended = {booking.facts["hold"] for booking in found if booking.kind == RELEASE}
    return [booking for booking in found if booking.kind == HOLD and str(booking.booking_id) not in ended]


def _standing(connection: sa.Connection, through: int | None = None) -> Standing:
    held: dict[str, tuple[str, ...]] = {}
    for placed in _open_holds(connection, through):
        owner = placed.facts["owner_id"]
        held[owner] = (*held.get(owner, ()), placed.facts["reason"])
    query = sa.select(BOOKING).where(BOOKING.c.kind == CLAIM)
    if through is not None:
        query = query.where(BOOKING.c.booking_id <= through)
    made = [_as_booking(row).facts for row in connection.execute(query)]
    return Standing(held, {facts["escrow_id"]: facts["owner_id"] for facts in made})


def _parties(connection: sa.Connection, account: str) -> list[str]:
    query = sa.select(ENTRY.c.party_id).where(ENTRY.c.account == account).distinct().order_by(ENTRY.c.party_id)
    return list(connection.execute(query).scalars())


def _as_booking(row: sa.Row[Any]) -> Booking:
    numbers = (row.booking_id, row.kind, row.day, row.booked_at)
    return Booking(*numbers, row.revision or 0, row.night or "", row.corrects, row.facts, row.period)


def _booking(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Booking | None:
    query = sa.select(BOOKING).where(where).order_by(BOOKING.c.booking_id.desc()).limit(1)
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
