"""Stage `book`: the day's amounts enter the ledger, by difference from what is booked for the day already."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from provenance.core.store import digest
from provenance.settlement import ledger
from provenance.settlement.accrual import accrue, credit_outputs
from tasks.database import open_ledger
from tasks.night import load_night, read_written
from tasks.settings import load
from tasks.values import with_terms

if TYPE_CHECKING:
    import polars as pl

    from provenance.core.store import Store
    from tasks.night import Night

log = logging.getLogger("provenance.book")


def book(folder: str) -> str:
    """Book a night; returns its day."""
    settings = load()
    store = settings.store.open()
    night = load_night(store, folder)
    outputs = night.read_outputs(store)
    amounts = accrue(with_terms(store, night, outputs), credited(store, night, outputs))
    cause = digest([folder, store.read_json(f"{folder}/shares.json")["writes"]])
    before = len(ledger.bookings(engine := open_ledger(settings.database, store), night.date))
    booking = ledger.book(engine, night.date, amounts, night=folder, cause=cause)
    new = booking.revision > before
    log.info(
        "booking %d of %s, revision %d: %s",
        booking.booking_id,
        night.day,
        booking.revision,
        "new" if new else "as it was",
    )
    return night.day


def credited(store: Store, night: Night, outputs: pl.DataFrame) -> pl.DataFrame:
    """The amounts of every output of a night and party."""
    shares = read_written(store, night.folder, "shares", "shares.parquet")
    return credit_outputs(with_terms(store, night, outputs), shares)
