"""Amounts in escrow as they age: who claims a name, when to look for its owner again, and what becomes of it then.

    kept -> reminders, each on its day -> what the contract says: kept for ever, or given to the developer or to nobody

The policy is stated in a file (`settlement.escrow`); it moves nothing by itself. A person applies it to a name, another agrees;
one booking brings back what was applied. Amounts in dispute, or held for an owner who asked for that, never age. A name that
several owners claim is given to none of them. Bookings of the kinds `claimant` and `reminder` have no entries, `applied` has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from provenance.core.errors import InputError
from provenance.core.tables import DISPUTED, ESCROW, HELD_FOR, PAYABLE, UNATTRIBUTED
from provenance.core.toml import read_toml, validated
from provenance.settlement import books, ledger
from provenance.settlement.accounts import DEVELOPER, Account
from provenance.settlement.approvals import are_two
from provenance.settlement.books import APPLIED, BOOKING, CLAIMANT, REMINDER, Booking

KEEP = "keep"
LISTED = "`provenance escrow list` lists them."
GIVEN_TO = {"developer": DEVELOPER, "unattributed": UNATTRIBUTED}


class Policy(BaseModel):
    """What becomes of unclaimed amounts; days count from the day that an amount is for.

    Attributes:
        reminders: ages in days at which somebody looks for the owner again.
        after: age in days at which the contract decides.
        then: what it says: `keep`, or who gets the amounts: `developer`, or `unattributed` (nobody).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reminders: tuple[Annotated[int, Field(ge=1)], ...] = ()
    after: Annotated[int, Field(ge=1)] = 1095
    then: Literal["keep", "developer", "unattributed"] = "keep"

    @model_validator(mode="after")
    def _in_order(self) -> Policy:
        if list(self.reminders) != sorted({*self.reminders}) or any(days > self.after for days in self.reminders):
            raise ValueError(f"reminders in order, each at most after ({self.after} days)")
        return self


@dataclass(frozen=True)
class Kept:
    """Amounts under one name in one currency.

    Attributes:
        amounts: days with what is left of their amounts, in minor units, oldest first.
        claimants: owners that claim the name, with their evidence; reminded: days on which somebody looked for its owner.
    """

    escrow_id: str
    currency: str
    amounts: tuple[tuple[date, int], ...]
    claimants: Mapping[str, str]
    reminded: tuple[date, ...]

    @property
    def amount(self) -> int:
        """All that is kept."""
        return sum(amount for _, amount in self.amounts)

    @property
    def since(self) -> date:
        """The day of the oldest amount."""
        return self.amounts[0][0]

    @property
    def ages(self) -> bool:
        """Whether the policy applies: nobody is known whom it is kept for, and no dispute."""
        return not self.escrow_id.startswith((DISPUTED, HELD_FOR))

    def older_than(self, days: int, on: date) -> int:
        """The part that is at least so many days old."""
        return sum(amount for day, amount in self.amounts if (on - day).days >= days)

    def reminders_due(self, policy: Policy, on: date) -> int:
        """Reminders whose day has come and that nobody has recorded."""
        if not self.ages:
            return 0
        ages, due = sorted((day - self.since).days for day in self.reminded), 0
        for days in policy.reminders:
            # One that was recorded before its day was another's, or none's.
            ages = [age for age in ages if age >= days]
            if ages:
                ages = ages[1:]
            else:
                due += (on - self.since).days >= days
        return due

    def next_step(self, policy: Policy, on: date) -> str:
        """What is to be done, in words."""
        if not self.ages:
            return (
                "in dispute: nothing ages" if self.escrow_id.startswith(DISPUTED) else "kept for its owner, who asked for that"
            )
        if self.amount < 0:  # a night that was booked again took back what was given away
            return "less than nothing: bring back what was given away (`provenance escrow apply --back`)"
        if self.claimants:
            several = f"{len(self.claimants)} owners claim it: decide between them"
            return several if len(self.claimants) > 1 else f"decide on the claim of {next(iter(self.claimants))}"
        if due := self.reminders_due(policy, on):
            return f"look for its owner again: {due} reminder{'s' if due > 1 else ''} due"
        days = [*(age for age in policy.reminders if age > (on - self.since).days), policy.after]
        if self.older_than(policy.after, on):
            return "kept, as the contract says" if policy.then == KEEP else f"the contract gives it: {policy.then}"
        return f"wait until {self.since + timedelta(days=days[0])}"


def read_policy(path: Path) -> Policy:
    """The policy of a TOML file; raises InputError naming file, key and value."""
    return validated(Policy, read_toml(path, "a policy of escrow"), str(path))


def left_of(by_day: Mapping[tuple[Account, date], int]) -> dict[Account, list[tuple[date, int]]]:
    """What is left of each day's amounts by account, oldest first; `by_day` has the ledger's signs (`ledger.by_day`).

    What went out was taken from the oldest amounts.
    """
    days: dict[Account, list[tuple[date, int]]] = defaultdict(list)
    out: dict[Account, int] = defaultdict(int)
    for (account, day), amount in sorted(by_day.items()):
        if amount < 0:
            days[account].append((day, -amount))
        else:
            out[account] += amount
    left: dict[Account, list[tuple[date, int]]] = {}
    for account in sorted({account for account, _ in by_day}):
        rest, kept = out[account], []
        for day, amount in days[account]:
            taken = min(rest, amount)
            rest -= taken
            if amount > taken:
                kept.append((day, amount - taken))
        if rest:  # more went out than ever came in: shown, not hidden
            kept.append((max(day for of, day in by_day if of == account), -rest))
        if kept:
            left[account] = kept
    return left


def kept(engine: sa.Engine, *, through: int) -> list[Kept]:
    """All that is in escrow after a booking, by name and currency."""
    left = left_of(ledger.by_day(engine, ESCROW, through=through))
    with engine.connect() as connection:
        claimants, reminded = books.claimants(connection), _reminded(connection)
    return [
        Kept(a.party_id, a.currency, tuple(days), claimants.get(a.party_id, {}), tuple(reminded.get(a.party_id, ())))
        for a, days in left.items()
    ]


def record_claimant(
    engine: sa.Engine, escrow_id: str, owner_id: str, *, day: date, evidence: str, by: str, withdrawn: bool = False
) -> Booking:
    """Record that an owner claims a name, or does not any more; the same is recorded once. Nothing is paid by it."""
    with books.booking_transaction(engine) as connection:
        books.require_in_escrow(connection, escrow_id, LISTED)
        claims = owner_id in books.claimants(connection).get(escrow_id, {})
        facts = {"escrow_id": escrow_id, "owner_id": owner_id, "evidence": evidence, "by": by, "withdrawn": withdrawn}
        if claims != withdrawn:
            same = (BOOKING.c.kind == CLAIMANT) & (BOOKING.c.facts["escrow_id"].astext == escrow_id)
            booking = books.last(connection, same & (BOOKING.c.facts["owner_id"].astext == owner_id))
            if booking is None:
                raise InputError(f"escrow {escrow_id}", expected=f"a claim of {owner_id} that is recorded", found="none")
            return booking
        return books.post(connection, books.booking_row(connection, CLAIMANT, day, facts), {})


def remind(engine: sa.Engine, escrow_id: str, *, day: date, evidence: str, by: str) -> Booking:
    """Record that somebody looked for the owner of a name again; once a day."""
    with books.booking_transaction(engine) as connection:
        books.require_in_escrow(connection, escrow_id, LISTED)
        if day in _reminded(connection).get(escrow_id, ()):
            same = (BOOKING.c.kind == REMINDER) & (BOOKING.c.facts["escrow_id"].astext == escrow_id) & (BOOKING.c.day == day)
            booking = books.last(connection, same)
            assert booking is not None
            return booking
        facts = {"escrow_id": escrow_id, "evidence": evidence, "by": by}
        return books.post(connection, books.booking_row(connection, REMINDER, day, facts), {})


def apply(engine: sa.Engine, escrow_id: str, policy: Policy, *, on: date, evidence: str, by: Sequence[str]) -> Booking:
    """Give what is old enough under a name to whom the contract names; two people decide.

    Raises:
        InputError: there are not two, the policy keeps everything or does not apply, nothing is old enough, a reminder is due,
            or somebody claims the name.
    """
    where = f"escrow {escrow_id}"
    names = [name.strip() for name in by]
    if not are_two(*names):
        raise InputError(where, expected="two people who decide", found=" and ".join(filter(None, names)) or "nobody")
    if policy.then == KEEP:
        raise InputError(where, expected="a policy that gives it to somebody", found="one that keeps it (`then` is keep)")
    with books.booking_transaction(engine) as connection:
        books.require_in_escrow(connection, escrow_id, LISTED)
    found = [one for one in kept(engine, through=ledger.newest(engine)) if one.escrow_id == escrow_id]
    amounts = {one.currency: one.older_than(policy.after, on) for one in found if one.amount > 0}
    for one in found:
        if not one.ages or one.claimants or one.reminders_due(policy, on) or one.amount < 0:
            raise InputError(
                where, expected="a name that nobody claims, with all its reminders", found=one.next_step(policy, on)
            )
    if not any(amount > 0 for amount in amounts.values()):
        expected = f"amounts that are {policy.after} days old"
        raise InputError(where, expected=expected, found=found[0].next_step(policy, on) if found else "nothing in escrow")
    facts = {"escrow_id": escrow_id, "then": policy.then, "evidence": evidence, "by": names[0], "approved_by": names[1]}
    return _move(
        engine, escrow_id, {(GIVEN_TO[policy.then], currency): amount for currency, amount in amounts.items()}, facts, on
    )


def give_back(engine: sa.Engine, escrow_id: str, *, on: date, evidence: str, by: str) -> Booking:
    """Bring back into escrow all that the policy gave away under a name, for an owner who has come after all."""
    given: dict[tuple[str, str], int] = defaultdict(int)
    for booking in ledger.bookings(engine, kind=APPLIED):
        if booking.facts["escrow_id"] == escrow_id:
            for account, amount in ledger.entries(engine, booking.booking_id):
                if account.account != ESCROW:
                    given[account.account, account.currency] -= amount
    if not any(given.values()):
        raise InputError(f"escrow {escrow_id}", expected="amounts that the policy gave away", found="none")
    facts = {"escrow_id": escrow_id, "then": "given back", "evidence": evidence, "by": by}
    return _move(engine, escrow_id, {key: -amount for key, amount in given.items()}, facts, on)


def _move(
    engine: sa.Engine, escrow_id: str, amounts: Mapping[tuple[str, str], int], facts: Mapping[str, Any], on: date
) -> Booking:
    """Book amounts by account and currency out of escrow, or back into it where they are below zero."""
    entries: dict[Account, int] = defaultdict(int)
    with books.booking_transaction(engine) as connection:
        standing = books.standing(connection)
        for (account, currency), amount in amounts.items():
            name = Account(ESCROW, escrow_id, currency)
            if escrow_id in standing.claimed:  # its amounts are the claimant's
                name = standing.current_account(Account(PAYABLE, standing.claimed[escrow_id], currency))
            entries[name] += amount
            entries[Account(account, "", currency)] -= amount
        in_escrow = books.sums(connection, (books.ENTRY.c.account == ESCROW) & (books.ENTRY.c.party_id == escrow_id))
        for of, amount in entries.items():
            there = -in_escrow.get(of, 0)
            if of.account == ESCROW and amount > 0 and (amount > there or books.claimants(connection).get(escrow_id)):
                expected = f"{amount} minor units of {of.currency} that nobody claims"
                raise InputError(f"escrow {escrow_id}", expected=expected, found=f"{there}, or a claim, by now")
        return books.post(connection, books.booking_row(connection, APPLIED, on, facts), entries)


def _reminded(connection: sa.Connection) -> dict[str, list[date]]:
    """Days on which somebody looked for the owner of a name."""
    days: dict[str, list[date]] = defaultdict(list)
    query = sa.select(BOOKING.c.day, BOOKING.c.facts).where(BOOKING.c.kind == REMINDER).order_by(BOOKING.c.booking_id)
    for day, facts in connection.execute(query):
        days[facts["escrow_id"]].append(day)
    return days
