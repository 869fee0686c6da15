"""Makes a night's export from the ledger and the night's files, and checks published exports against the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

from provenance.core.published import MANIFEST, in_force, revision_folder
from provenance.core.store import Store, sha256
from provenance.core.tables import DISPUTED, ESCROW, HELD_FOR, NIGHT_SHARES
from provenance.core.version import code_version
from provenance.influence import audits
from provenance.inputs.night import EVIDENCE_OF, digest_of, load_night, read_manifest, read_parts, read_written, shares_stage
from provenance.royalty.support import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, totals, trial_balance
from provenance.settlement.accrual import credited
from provenance.settlement.books import NIGHT, Booking
from provenance.settlement.exports.export import FORMAT, Export, build
from provenance.settlement.exports.keys import trusted_keys
from provenance.settlement.exports.payouts import as_claimed, credits_file, intervals
from provenance.settlement.exports.payouts import credits as credits_table
from provenance.settlement.exports.payouts import payouts as payouts_table
from provenance.settlement.exports.verification import Check, booked_and_published, earlier_revisions, verify

if TYPE_CHECKING:
    from provenance.core.where import Where

NIGHT_SHARES_FILE = "night_shares.parquet"


def count_published(store: Store, booked: Sequence[Booking]) -> int:
    """Number of published bookings among all bookings of nights; these are the first ones, since the order is kept."""
    count = len(booked)
    while count and not store.exists(f"{_folder(booked[count - 1])}/{MANIFEST}"):
        count -= 1
    return count


def _folder(booking: Booking) -> str:
    return revision_folder(booking.day, booking.revision)


def make_export(
    store: Store, engine: sa.Engine, booking: Booking, previous: Booking | None, *, published: Store | None = None
) -> Export:
    """The export of a night's booking, with the same bytes each time.

    Args:
        previous: the booking of a night before it, if any.
        published: a store with the exports before it, by default `store`.
    """
    published = published or store
    night = load_night(store, booking.night)
    corpus = night.frozen_corpus(store)
    before = previous.booking_id if previous else 0
    movements = ledger.movements(engine, booking, after=before)
    standing = movements.standing
    outputs, owners = night.read_outputs(store), store.read_table(corpus.owners.key)
    stage = shares_stage(store, night.folder)
    parts = zip(
        credited(store, night, outputs),
        read_parts(store, night.folder, stage, EVIDENCE_OF[stage]),
        read_parts(store, night.folder, stage, "rule_shares"),
        strict=True,
    )
    credits = credits_file(credits_table(night.date, *(as_claimed(one, standing) for one in part)) for part in parts)
    payouts = payouts_table(
        booking.day,
        booking.revision,
        movements=movements,
        outputs=credits.outputs,
        names=_names(published, previous) | dict(owners.select("owner_id", "name").iter_rows()),
    )
    shared = read_manifest(store, night.folder, "shares")
    night_shares = NIGHT_SHARES.frame()
    if NIGHT_SHARES_FILE in shared["writes"]:  # a night of an earlier version has none
        night_shares = read_written(store, night.folder, "shares", NIGHT_SHARES_FILE)
    fidelity = fidelity_of(store, night)
    facts: dict[str, Any] = {
        "format": FORMAT,
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
            "shares": digest_of(shared["writes"], "shares"),
            "night_shares": shared["writes"].get(NIGHT_SHARES_FILE),
            "scores": read_manifest(store, night.folder, "scores")["writes"],
            stage: read_manifest(store, night.folder, stage)["writes"],
        },
        "method": night.method,
        "audit": audits.in_force(published),
        "contract": night.contract | {"weights": shared["weights"]},
        **({} if fidelity is None else {"fidelity": fidelity}),
        "notice": " ".join(outputs["notice"].drop_nulls().unique().sort()),
        "trial_balance": trial_balance(movements.closing),
        "escrow": _escrow(movements.day_after, store.read_table(corpus.unmatched.key)),
        "previous": previous and _reference(published, previous),
    }
    return build(
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
    """The day's amounts for escrow, with reasons."""
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
    """Owners' names in the export before: owners with withdrawn works still have balances."""
    if previous is None:
        return {}
    table = store.read_table(f"{_folder(previous)}/payouts.parquet")
    return dict(table.select("owner_id", "owner_name").iter_rows())


def _reference(store: Store, booking: Booking) -> dict[str, Any]:
    manifest = store.read(f"{_folder(booking)}/{MANIFEST}")
    return {"day": str(booking.day), "revision": booking.revision, "manifest_sha256": sha256(manifest)}


def check_day(where: Where, day: str) -> tuple[str, list[Check]]:
    """The folder of a day's revision in force, and the results of its checks."""
    store = where.store
    current = in_force(store, day)
    folder = current["folder"]
    if not store.exists(f"{folder}/{MANIFEST}"):
        return folder, [Check("manifest", (f"{MANIFEST} is gone, so nothing proves the files beside it",))]
    manifest = store.read(f"{folder}/{MANIFEST}")
    same = sha256(manifest) == current["manifest_sha256"]
    pointer = Check("pointer", () if same else (f"{MANIFEST} is not the one that current.json names",))
    booking = json.loads(manifest)["booking_id"]
    engine = where.ledger
    balances = ledger.balances(engine, through=booking)
    standing = ledger.standing(engine, through=booking)
    of_day = standing.earned(ledger.day_amounts(engine, date.fromisoformat(day), through=booking))
    keys = trusted_keys(where.settings.settlement)
    checks = verify(store, folder, ledger=balances, day=of_day, standing=standing, keys=keys)
    earlier = earlier_revisions(store, day, current["revision"], keys)
    booked = ledger.bookings(engine, kind=NIGHT)
    exported = booked_and_published(store, booked, date.fromisoformat(day), booking)
    return folder, [pointer, *checks, earlier, exported]
