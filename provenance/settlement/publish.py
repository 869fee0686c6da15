"""Stage `publish`: every booking that has no export yet gets one, in the order of booking, so that manifests chain."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
from collections.abc import Mapping
from typing import Any

import polars as pl
import sqlalchemy as sa

from provenance.core.contracts import DISPUTED, ESCROW, HELD_FOR, NIGHT_SHARES
from provenance.core.store import Store, sha256
from provenance.inputs.night import EVIDENCE_OF, load_night, read_manifest, read_written, shares_stage
from provenance.royalty.share import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, totals, trial_balance
from provenance.settlement.book import credited
from provenance.settlement.books import NIGHT, Booking
from provenance.settlement.exports import export as exports
from provenance.settlement.exports.keys import signing_key
from provenance.settlement.exports.payouts import as_claimed, intervals
from provenance.settlement.exports.payouts import credits as credits_table
from provenance.settlement.exports.payouts import payouts as payouts_table
from provenance.validation import results
from tasks.database import open_books
from tasks.settings import CHECKOUT, load

log = logging.getLogger("provenance.publish")

NIGHT_SHARES_FILE = "night_shares.parquet"


def publish(day: str) -> str:
    """Publish what is booked and not yet published; returns the folder of the day's revision in force."""
    settings = load()
    store, engine = open_books(settings)
    with ledger.publishing(engine):
        booked = ledger.bookings(engine, kind=NIGHT)
        first = len(booked)
        while first and not store.exists(f"{_folder(booked[first - 1])}/{exports.MANIFEST}"):
            first -= 1
        if first:  # a kill may have come between its manifest and its pointer
            exports.point_to(store, booked[first - 1].day, booked[first - 1].revision)
        key = signing_key(settings.settlement)
        for index in range(first, len(booked)):
            export = make_export(store, engine, booked[index], booked[index - 1] if index else None)
            exports.write(store, export, key)
            log.info("published %s", store.locate(export.folder))
    last = [booking for booking in booked if str(booking.day) == day][-1]
    if first == len(booked):
        log.info("nothing new: revision %d of %s stays in force", last.revision, day)
    return _folder(last)


def _folder(booking: Booking) -> str:
    return exports.revision_folder(booking.day, booking.revision)


def make_export(
    store: Store, engine: sa.Engine, booking: Booking, previous: Booking | None, *, published: Store | None = None
) -> exports.Export:
    """The export of a night's booking, the same bytes each time; `published` has the exports before it."""
    published = published or store
    night = load_night(store, booking.night)
    corpus = night.frozen_corpus(store)
    before = previous.booking_id if previous else 0
    movements = ledger.movements(engine, booking, after=before)
    standing = movements.standing
    outputs, owners = night.read_outputs(store), store.read_table(corpus.owners.key)
    stage = shares_stage(store, night.folder)
    credits = credits_table(
        night.date,
        as_claimed(credited(store, night, outputs), standing),
        as_claimed(read_written(store, night.folder, stage, EVIDENCE_OF[stage]), standing),
        as_claimed(read_written(store, night.folder, stage, "rule_shares.parquet"), standing),
    )
    payouts = payouts_table(
        booking.day,
        booking.revision,
        movements=movements,
        credits=credits,
        names=_names(published, previous) | dict(owners.select("owner_id", "name").iter_rows()),
    )
    shared = read_manifest(store, night.folder, "shares")
    night_shares = NIGHT_SHARES.frame()
    if NIGHT_SHARES_FILE in shared["writes"]:  # a night of an earlier version has none
        night_shares = read_written(store, night.folder, "shares", NIGHT_SHARES_FILE)
    fidelity = fidelity_of(store, night)
    facts: dict[str, Any] = {
        "format": 1,
        "code_version": code_version(),
        "booking_id": booking.booking_id,
        "corrects_booking_id": booking.corrects,
        "night": booking.night,
        "inputs": {
            "corpus": night.corpus,
            "model": night.model,
            "model_id": night.model_id,
            "outputs": [part.sha256 for part in night.outputs],
            **({"choices": night.choices.sha256} if night.choices else {}),
            **({"counterfactuals": night.counterfactuals} if night.counterfactuals else {}),
            "shares": shared["writes"]["shares.parquet"],
            "night_shares": shared["writes"].get(NIGHT_SHARES_FILE),
            "scores": read_manifest(store, night.folder, "scores")["writes"],
            stage: read_manifest(store, night.folder, stage)["writes"],
        },
        "method": night.method,
        "audit": results.in_force(published),
        "contract": night.contract | {"weights": shared["weights"]},
        **({} if fidelity is None else {"fidelity": fidelity}),
        "notice": " ".join(outputs["notice"].drop_nulls().unique().sort()),
        "trial_balance": trial_balance(movements.closing),
        "escrow": _escrow(movements.day_after, store.read_table(corpus.unmatched.key)),
        "previous": previous and _reference(published, previous),
    }
    return exports.build(
        booking.day,
        booking.revision,
        payouts=payouts,
        intervals=intervals(payouts, as_claimed(night_shares, standing)),
        credits=credits,
        entries=[
            (posted, ledger.entries(engine, posted.booking_id))
            for posted in ledger.bookings(engine, after=before, through=booking.booking_id)
        ],
        totals=totals(movements.day_after),
        facts=facts,
    )


def _escrow(amounts: Mapping[Account, int], unmatched: pl.DataFrame) -> list[dict[str, Any]]:
    """What the day put aside, for whom, and why."""
    reasons = dict(unmatched.select("escrow_id", "reason").iter_rows())
    return [
        {
            "escrow_id": account.party_id,
            "currency": account.currency,
            "amount_minor": -amount,
            "reason": reasons.get(account.party_id) or _why_in_escrow(account.party_id),
        }
        for account, amount in sorted(amounts.items())
        if account.account == ESCROW
    ]


def _why_in_escrow(party_id: str) -> str:
    if party_id.startswith(HELD_FOR):
        return "its owner wants it held"
    return "it is disputed whose it is" if party_id.startswith(DISPUTED) else "no claim is in force"


def _names(store: Store, previous: Booking | None) -> dict[str, str]:
    """Names in the export before: an owner whose works have been withdrawn still has a balance."""
    if previous is None:
        return {}
    table = store.read_table(f"{_folder(previous)}/payouts.parquet")
    return dict(table.select("owner_id", "owner_name").iter_rows())


def _reference(store: Store, booking: Booking) -> dict[str, Any]:
    manifest = store.read(f"{_folder(booking)}/{exports.MANIFEST}")
    return {"day": str(booking.day), "revision": booking.revision, "manifest_sha256": sha256(manifest)}


def code_version() -> str:
    """The package's version and, in a checkout, the commit."""
    version = importlib.metadata.version("provenance")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version}+{git.stdout.strip()}" if git.returncode == 0 else version
