"""What people do to accounts: holds, releases and claims on what lies in escrow; and what is in an account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import polars as pl
import sqlalchemy as sa

from provenance.core.contracts import DISPUTED, ESCROW, OWNERS
from provenance.core.errors import InputError, did_you_mean
from provenance.core.money import check_currency, format_minor, parse_minor
from provenance.core.store import Store
from provenance.core.text import plain
from provenance.corpus.examples import dispute_names
from provenance.corpus.shards import CURRENT, corpus_in_force
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, trial_balance
from provenance.settlement.books import CLOSE, Booking
from provenance.settlement.months import settling
from provenance.settlement.months.settling import parse_period
from tasks.database import open_books
from tasks.settings import Settings


def hold(settings: Settings, owner_id: str, *, reason: str, by: str) -> Booking:
    """Hold what an owner is owed and what it will earn."""
    engine = _open(settings, owner_id)
    return ledger.hold(engine, owner_id, day=_today(), reason=_said("reason", reason), by=_said("by", by))


def release(settings: Settings, owner_id: str, *, reason: str, by: str) -> Booking:
    """End the hold that was placed for a reason."""
    return ledger.release(_open(settings, owner_id), owner_id, day=_today(), reason=reason, by=_said("by", by))


def claim(settings: Settings, escrow_id: str, owner_id: str, *, evidence: str, by: str) -> Booking:
    """Give an owner what lies in escrow under a name."""
    engine = _open(settings, owner_id)
    said = {"evidence": _said("evidence", evidence), "by": _said("by", by)}
    _refuse_open_dispute(settings.store.open(), escrow_id)
    return ledger.claim(engine, escrow_id, owner_id, day=_today(), **said)


def _refuse_open_dispute(store: Store, escrow_id: str) -> None:
    """What is given out is given from then on, too, so nothing is while somebody still disputes it."""
    if not escrow_id.startswith(DISPUTED) or not store.exists(CURRENT):
        return
    disputes = corpus_in_force(store).disputes
    if disputes and escrow_id in dispute_names(store.read_table(disputes.key), _today())["dispute"]:
        hint = "Deliver corpus/disputes.parquet with the day on which it ended (closed_on), and give it out after that day."
        raise InputError(f"escrow {escrow_id}", expected="a dispute that is over", found="one that is open", hint=hint)


def advance(settings: Settings, owner_id: str, currency: str, amount: str, *, reason: str, by: str) -> Booking:
    """Note an advance that was paid to an owner; the amount as people write it, such as 12.50."""
    said = {"reason": _said("reason", reason), "by": _said("by", by)}
    units = parse_minor("AMOUNT", amount, currency)
    return ledger.advance(_open(settings, owner_id), owner_id, currency, units, day=_today(), **said)


def record_rate(
    settings: Settings, period: str, pair: tuple[str, str], rate: str, *, evidence: str, by: str, unusual: bool = False
) -> Booking:
    """Note at which rate a period converts one currency into another."""
    for currency in pair:
        check_currency("currency", currency)
    try:
        value = Decimal(rate)
    except InvalidOperation:
        raise InputError("RATE", expected="a decimal number", found=repr(rate)) from None
    why, who, engine = _said("evidence", evidence), _said("by", by), _open(settings, None)
    return settling.record_rate(
        engine, parse_period("PERIOD", period), pair, value, day=_today(), evidence=why, by=who, unusual=unusual
    )


def balance(settings: Settings, owner_id: str | None = None) -> dict[str, Any]:
    """What is in every account, who is on hold and what lies in escrow; or an owner's accounts and bookings."""
    engine = _open(settings, owner_id)
    through = ledger.newest(engine)
    standing, balances = ledger.standing(engine, through=through), ledger.balances(engine, through=through)
    if owner_id is None:
        return {
            "through": through,
            "trial_balance": trial_balance(balances),
            "holds": {owner: list(reasons) for owner, reasons in sorted(standing.held.items())},
            "escrow": escrow_by_age(engine, through),
        }
    mine = [(account, amount) for account, amount in sorted(balances.items()) if account.party_id == owner_id]
    return {
        "through": through,
        "owner_id": owner_id,
        "accounts": [_line(account, amount) for account, amount in mine],
        "holds": list(standing.held.get(owner_id, ())),
        "bookings": [
            {
                "booking_id": booking.booking_id,
                "kind": booking.kind,
                "day": str(booking.day),
                "booked_at": booking.booked_at.isoformat(timespec="seconds"),
                "facts": dict(booking.facts),
                "entries": [_line(account, amount) for account, amount in entries],
            }
            for booking, entries in ledger.of_party(engine, owner_id)
        ],
    }


def moved(settings: Settings, owner_id: str, booking: Booking) -> list[str]:
    """What a booking added to an owner's accounts, or took from them, as people write it."""
    of_owner = ledger.of_party(_open(settings, None), owner_id)
    entries = next((lines for one, lines in of_owner if one.booking_id == booking.booking_id), [])
    return [f"{account.account} {format_minor(amount, account.currency)}" for account, amount in sorted(entries)]


def newest(settings: Settings) -> int:
    """The number of the last booking."""
    return ledger.newest(_open(settings, None))


def last_closed(settings: Settings) -> str:
    """The period that was closed last; raises InputError where none is."""
    closed = ledger.bookings(_open(settings, None), kind=CLOSE)
    if not closed:
        raise InputError("PERIOD", expected="a closed period", found="none is closed yet", hint="Run the DAG settle_period.")
    return closed[-1].period


def payments_of(settings: Settings, period: str | None = None) -> dict[str, Any]:
    """What a closed period pays, and what became of each payment."""
    engine = _open(settings, None)
    period = parse_period("PERIOD", period) if period else last_closed(settings)
    booking, lines = settling.lines(engine, period)
    return {
        "period": period,
        "closed_as": booking.booking_id,
        "outcomes": Counter(line.outcome for line in lines),
        "payments": [
            {
                "payment_id": payment.payment_id,
                "owner_id": payment.line.owner_id,
                "currency": payment.line.pay_currency,
                "paid_minor": payment.line.paid,
                "status": payment.status,
                "reason": payment.reason,
            }
            for payment in settling.payments(engine, period)
        ],
    }


def escrow_by_age(engine: sa.Engine, through: int) -> list[dict[str, Any]]:
    """What lies in escrow, by name and currency, and since the first day for which it does."""
    found: dict[Account, tuple[date, int]] = {}
    for (account, day), amount in sorted(ledger.by_day(engine, ESCROW, through=through).items()):
        since, before = found.get(account, (day, 0))
        found[account] = (min(since, day), before - amount)
    return [
        {"escrow_id": a.party_id, "currency": a.currency, "amount_minor": amount, "since": str(since)}
        for a, (since, amount) in found.items()
    ]


def _line(account: Account, amount: int) -> dict[str, Any]:
    """An owner's side of an account: what it is owed or has had is above zero."""
    return {"account": account.account, "currency": account.currency, "amount_minor": -amount}


def _open(settings: Settings, owner_id: str | None) -> sa.Engine:
    """The ledger, an owner being one that it or the corpus in force knows."""
    store, engine = open_books(settings)
    if owner_id is not None:
        check_owners(store, engine, [owner_id])
    return engine


def check_owners(store: Store, engine: sa.Engine, owners: Sequence[str]) -> None:
    """Raise InputError naming the first owner that neither the ledger nor the corpus in force knows."""
    known = sorted({*ledger.owners(engine), *owners_in_force(store)["owner_id"]})
    for owner_id in sorted({*owners} - {*known}):
        raise InputError(
            f"owner {owner_id}",
            expected="an owner in the ledger or in the corpus in force",
            found="none of that id",
            hint=did_you_mean(owner_id, known),
        )


def owners_in_force(store: Store) -> pl.DataFrame:
    """Owners of the corpus in force; none where there is no corpus yet."""
    return store.read_table(corpus_in_force(store).owners.key) if store.exists(CURRENT) else OWNERS.frame()


def _said(name: str, text: str) -> str:
    if not plain(text):
        raise InputError(f"--{name}", expected="some words: they stand in the ledger for good", found="nothing")
    return text.strip()


def _today() -> date:
    return datetime.now(UTC).date()
