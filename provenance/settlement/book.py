"""Stage `book`: the day's amounts enter the ledger, by difference from what is booked for the day already."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import polars as pl

from provenance.core.errors import CheckFailed
from provenance.core.store import Store, digest
from provenance.inputs.night import Night, load_night, read_manifest, read_written, with_terms
from provenance.settlement import ledger
from provenance.settlement.accounts import Account
from provenance.settlement.accrual import accrue, credit_outputs
from tasks.dag_parameters import approval
from tasks.database import open_ledger
from tasks.settings import with_store

log = logging.getLogger("provenance.book")


def book(folder: str, request: Mapping[str, Any] | None = None, answer: Mapping[str, Any] | None = None) -> str:
    """Book a night; returns its day.

    Args:
        request: what `review` found; without it nobody is asked.
        answer: what a person said to it.

    Raises:
        CheckFailed: there are reasons to ask a person, and nobody has approved just this.
    """
    settings, store = with_store()
    night = load_night(store, folder)
    amounts = accrued(store, night, night.read_outputs(store))
    cause = cause_of(store, folder)
    facts = _approved(request, answer, cause) if request else {}
    before = len(ledger.bookings(engine := open_ledger(settings.database, store), night.date))
    booking = ledger.book(engine, night.date, amounts, night=folder, cause=cause, facts=facts)
    new = booking.revision > before
    log.info(
        "booking %d of %s, revision %d: %s", booking.booking_id, night.day, booking.revision, "new" if new else "as it was"
    )
    return night.day


def cause_of(store: Store, folder: str) -> str:
    """Digest of all that decides what a night amounts to."""
    return digest([folder, read_manifest(store, folder, "shares")["writes"]])


def accrued(store: Store, night: Night, outputs: pl.DataFrame) -> dict[Account, int]:
    """What a night amounts to."""
    return accrue(with_terms(store, night, outputs), credited(store, night, outputs))


def credited(store: Store, night: Night, outputs: pl.DataFrame) -> pl.DataFrame:
    """The amounts of every output of a night and party."""
    shares = read_written(store, night.folder, "shares", "shares.parquet")
    return credit_outputs(with_terms(store, night, outputs), shares)


def _approved(request: Mapping[str, Any], answer: Mapping[str, Any] | None, cause: str) -> dict[str, Any]:
    """What the ledger keeps of an approval; nothing of a night for which nobody need be asked."""
    if request["cause"] != cause:
        raise CheckFailed(
            "what would be booked is not what was reviewed: clear settlement.review, so that it is looked at again"
        )
    if not request["reasons"]:
        return {}
    if not answer:
        raise CheckFailed("nobody has approved this night: clear settlement.approve, and have somebody answer it")
    said = approval(answer)
    if answer.get("chosen_options") != ["Approve"]:
        raise CheckFailed(f"{said.by} did not approve this night")
    return {"reasons": list(request["reasons"]), "approved_by": said.by, "approved_at": said.at.isoformat()}
