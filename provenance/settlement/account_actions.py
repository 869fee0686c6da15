"""Runs people's actions on accounts (holds, releases, claims on escrow, advances, rates), and shows accounts."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

from provenance.core.errors import InputError, did_you_mean
from provenance.core.money import check_currency, format_minor, parse_minor
from provenance.core.published import revision_folder
from provenance.core.store import Store
from provenance.core.tables import DISPUTED, OWNERS
from provenance.core.text import plain
from provenance.corpus.ownership import dispute_names
from provenance.corpus.shards import CURRENT, corpus_in_force
from provenance.settlement import escrow, ledger
from provenance.settlement.accounts import Account, trial_balance
from provenance.settlement.books import CLOSE, NIGHT, Booking
from provenance.settlement.months import settling
from provenance.settlement.months.periods import parse_period

if TYPE_CHECKING:
    from provenance.core.where import Where


def hold(where: Where, owner_id: str, *, reason: str, by: str) -> Booking:
    """Hold an owner's amounts, also future ones."""
    engine = _open(where, owner_id)
    return ledger.hold(engine, owner_id, day=_today(), reason=_required_text("reason", reason), by=_required_text("by", by))


def release(where: Where, owner_id: str, *, reason: str, by: str) -> Booking:
    """End an owner's hold that was placed for a reason."""
    return ledger.release(_open(where, owner_id), owner_id, day=_today(), reason=reason, by=_required_text("by", by))


def claim(where: Where, escrow_id: str, owner_id: str, *, evidence: str, by: str) -> Booking:
    """Give an escrow to an owner."""
    engine = _open(where, owner_id)
    facts = {"evidence": _required_text("evidence", evidence), "by": _required_text("by", by)}
    _refuse_open_dispute(where.store, escrow_id)
    return ledger.claim(engine, escrow_id, owner_id, day=_today(), **facts)


def claimant(where: Where, escrow_id: str, owner_id: str, *, evidence: str, by: str, withdrawn: bool = False) -> Booking:
    """Record that an owner claims a name in escrow, or does not any more."""
    engine = _open(where, owner_id)
    facts = {"evidence": _required_text("evidence", evidence), "by": _required_text("by", by)}
    return escrow.record_claimant(engine, escrow_id, owner_id, day=_today(), withdrawn=withdrawn, **facts)


def remind(where: Where, escrow_id: str, *, evidence: str, by: str) -> Booking:
    """Record that somebody looked for the owner of a name in escrow again."""
    facts = {"evidence": _required_text("evidence", evidence), "by": _required_text("by", by)}
    return escrow.remind(where.ledger, escrow_id, day=_today(), **facts)


def apply_policy(where: Where, escrow_id: str, *, evidence: str, by: str, approved_by: str, back: bool = False) -> Booking:
    """Apply the policy of escrow to a name, or bring back what it gave away."""
    evidence, by = _required_text("evidence", evidence), _required_text("by", by)
    if back:
        return escrow.give_back(where.ledger, escrow_id, on=_today(), evidence=evidence, by=by)
    policy = escrow.read_policy(where.settings.settlement.escrow)
    return escrow.apply(where.ledger, escrow_id, policy, on=_today(), evidence=evidence, by=(by, approved_by))


def escrow_steps(where: Where) -> list[dict[str, Any]]:
    """What is in escrow by name and currency, with claimants, reminders and the next step by the policy."""
    policy, today = escrow.read_policy(where.settings.settlement.escrow), _today()
    return [
        {
            "escrow_id": one.escrow_id,
            "currency": one.currency,
            "amount_minor": one.amount,
            "since": str(one.since),
            "claimants": dict(one.claimants),
            "reminded": [str(day) for day in one.reminded],
            "next": one.next_step(policy, today),
        }
        for one in escrow.kept(where.ledger, through=ledger.newest(where.ledger))
    ]


def _refuse_open_dispute(store: Store, escrow_id: str) -> None:
    """Refuse the escrow of an open dispute: a claim would also give its future amounts to the owner."""
    if not escrow_id.startswith(DISPUTED) or not store.exists(CURRENT):
        return
    disputes = corpus_in_force(store).disputes
    if disputes and escrow_id in dispute_names(store.read_table(disputes.key), _today())["dispute"]:
        hint = "Deliver corpus/disputes.parquet with the day on which it ended (closed_on), and give it out after that day."
        raise InputError(f"escrow {escrow_id}", expected="a dispute that is over", found="one that is open", hint=hint)


def advance(where: Where, owner_id: str, currency: str, amount: str, *, reason: str, by: str) -> Booking:
    """Record an advance that was paid to an owner; `amount` is decimal text, such as 12.50."""
    facts = {"reason": _required_text("reason", reason), "by": _required_text("by", by)}
    units = parse_minor("AMOUNT", amount, currency)
    return ledger.advance(_open(where, owner_id), owner_id, currency, units, day=_today(), **facts)


def record_rate(
    where: Where, period: str, pair: tuple[str, str], rate: str, *, evidence: str, by: str, unusual: bool = False
) -> Booking:
    """Record the rate at which a period converts one currency into another."""
    for currency in pair:
        check_currency("currency", currency)
    try:
        value = Decimal(rate)
    except InvalidOperation:
        raise InputError("RATE", expected="a decimal number", found=repr(rate)) from None
    facts = {"evidence": _required_text("evidence", evidence), "by": _required_text("by", by)}
    period = parse_period("PERIOD", period)
    return settling.record_rate(where.ledger, period, pair, value, day=_today(), unusual=unusual, **facts)


def balance(where: Where, owner_id: str | None = None) -> dict[str, Any]:
    """All balances, holds and escrows; or one owner's balances, holds and bookings."""
    engine = _open(where, owner_id)
    through = ledger.newest(engine)
    standing, balances = ledger.standing(engine, through=through), ledger.balances(engine, through=through)
    if owner_id is None:
        return {
            "through": through,
            "trial_balance": trial_balance(balances),
            "holds": {owner: list(reasons) for owner, reasons in sorted(standing.holds.items())},
            "escrow": escrow_by_age(engine, through),
        }
    of_owner = [(account, amount) for account, amount in sorted(balances.items()) if account.party_id == owner_id]
    return {
        "through": through,
        "owner_id": owner_id,
        "accounts": [_line(account, amount) for account, amount in of_owner],
        "holds": list(standing.holds.get(owner_id, ())),
        "bookings": [
            {
                "booking_id": booking.booking_id,
                "kind": booking.kind,
                "day": str(booking.day),
                "booked_at": booking.booked_at.isoformat(timespec="seconds"),
                "facts": dict(booking.facts),
                "entries": [_line(account, amount) for account, amount in entries],
            }
            for booking, entries in ledger.party_bookings(engine, owner_id)
        ],
    }


def booked_amounts(where: Where, owner_id: str, booking: Booking) -> list[str]:
    """An owner's entries in a booking, as text."""
    bookings = ledger.party_bookings(where.ledger, owner_id)
    entries = next((lines for other, lines in bookings if other.booking_id == booking.booking_id), [])
    return [f"{account.account} {format_minor(amount, account.currency)}" for account, amount in sorted(entries)]


def newest(where: Where) -> int:
    """Number of the last booking; 0 in an empty ledger."""
    return ledger.newest(where.ledger)


def last_closed(where: Where) -> str:
    """The last closed period; raises InputError if none is closed."""
    closed = ledger.bookings(where.ledger, kind=CLOSE)
    if not closed:
        raise InputError("PERIOD", expected="a closed period", found="none is closed yet", hint="Run the DAG settle_period.")
    return closed[-1].period


def payments_of(where: Where, period: str | None = None) -> dict[str, Any]:
    """A closed period's payments with their status; by default of the last closed one."""
    engine = where.ledger
    period = parse_period("PERIOD", period) if period else last_closed(where)
    booking, lines = settling.lines(engine, period)
    names = owner_names(where)
    return {
        "period": period,
        "closed_as": booking.booking_id,
        "approvals": settling.approvals(engine, period),
        "outcomes": Counter(line.outcome for line in lines),
        "payments": [
            {
                "payment_id": payment.payment_id,
                "owner_id": payment.line.owner_id,
                "owner_name": names.get(payment.line.owner_id, payment.line.owner_id),
                "currency": payment.line.pay_currency,
                "paid_minor": payment.line.paid,
                "status": payment.status,
                "reason": payment.reason,
            }
            for payment in settling.payments(engine, period)
        ],
    }


def escrow_by_age(engine: sa.Engine, through: int) -> list[dict[str, Any]]:
    """Amounts in escrow by name and currency, each with the oldest day that it is from."""
    return [
        {"escrow_id": one.escrow_id, "currency": one.currency, "amount_minor": one.amount, "since": str(one.since)}
        for one in escrow.kept(engine, through=through)
    ]


def _line(account: Account, amount: int) -> dict[str, Any]:
    """A balance or an entry as an owner reads it: credits are above zero."""
    return {"account": account.account, "currency": account.currency, "amount_minor": -amount}


def _open(where: Where, owner_id: str | None) -> sa.Engine:
    """The ledger, after checking that it or the corpus in force knows the owner."""
    if owner_id is not None:
        check_owners(where, [owner_id])
    return where.ledger


def check_owners(where: Where, owners: Sequence[str]) -> None:
    """Raise InputError naming the first owner that is neither in the ledger nor in the corpus in force."""
    all_owners = sorted({*ledger.owners(where.ledger), *owners_in_force(where.store)["owner_id"]})
    for owner_id in sorted({*owners} - {*all_owners}):
        raise InputError(
            f"owner {owner_id}",
            expected="an owner in the ledger or in the corpus in force",
            found="none of that id",
            hint=_owner_hint(where.store, owner_id, all_owners),
        )


def _owner_hint(store: Store, text: str, owners: Sequence[str]) -> str:
    """A hint with the id near a text, or the id of the owner whose name is near it."""
    if near := did_you_mean(text, owners):
        return near
    ids = {str(name).casefold(): owner for owner, name in owners_in_force(store).select("owner_id", "name").iter_rows() if name}
    named = ids.get(text.casefold())
    if named is None and (close := difflib.get_close_matches(text.casefold(), ids, n=1)):
        named = ids[close[0]]
    return f"Did you mean {named!r}?" if named else "`provenance owners` lists all."


def owners_in_force(store: Store) -> pl.DataFrame:
    """Owners of the corpus in force; empty without a corpus."""
    return store.read_table(corpus_in_force(store).owners.key) if store.exists(CURRENT) else OWNERS.frame()


def owner_names(where: Where) -> dict[str, str]:
    """Owners' names by id: from the corpus in force, and of others from the last published night."""
    store, nights = where.store, reversed(ledger.bookings(where.ledger, kind=NIGHT))
    last = next((key for key in map(_payouts_of, nights) if store.exists(key)), None)
    tables = [store.read_table(last, columns=["owner_id", "owner_name"])] if last else []
    tables.append(owners_in_force(store).select("owner_id", "name"))
    return {owner_id: plain(name or "") or owner_id for table in tables for owner_id, name in table.iter_rows()}


def _payouts_of(night: Booking) -> str:
    return f"{revision_folder(night.day, night.revision)}/payouts.parquet"


def _required_text(name: str, text: str) -> str:
    if not plain(text):
        raise InputError(f"--{name}", expected="some text, which the ledger keeps for good", found="nothing")
    return text.strip()


def _today() -> date:
    return datetime.now(UTC).date()
