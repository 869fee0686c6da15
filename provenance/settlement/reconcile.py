"""Stage `reconcile`: what was published is read back and held against the ledger."""

from __future__ import annotations

import json
import logging
from datetime import date

from provenance.core.errors import CheckFailed
from provenance.core.store import sha256
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT
from provenance.settlement.exports.export import MANIFEST, in_force
from provenance.settlement.exports.keys import trusted_keys
from provenance.settlement.exports.verification import Check, booked_and_published, earlier_revisions, verify
from tasks.database import open_ledger
from tasks.settings import Settings, load

log = logging.getLogger("provenance.reconcile")


def reconcile(day: str) -> str:
    """Check the day's revision in force; returns its folder, or raises CheckFailed naming every problem."""
    folder, checks = check_day(load(), day)
    problems = [f"{check.name}: {problem}" for check in checks for problem in check.problems]
    if problems:
        raise CheckFailed(f"{folder} does not hold: {'; '.join(problems)}")
    log.info("%s holds: %s", folder, ", ".join(check.name for check in checks))
    return folder


def check_day(settings: Settings, day: str) -> tuple[str, list[Check]]:
    """The folder of a day's revision in force, and what was checked of it."""
    store = settings.store.open()
    current = in_force(store, day)
    folder = current["folder"]
    if not store.exists(f"{folder}/{MANIFEST}"):
        return folder, [Check("manifest", (f"{MANIFEST} is gone, and with it all that proves the files beside it",))]
    manifest = store.read(f"{folder}/{MANIFEST}")
    pointed = [] if sha256(manifest) == current["manifest_sha256"] else [f"{MANIFEST} is not the one that current.json names"]
    booking = json.loads(manifest)["booking_id"]
    engine = open_ledger(settings.database, store)
    balances = ledger.balances(engine, through=booking)
    standing = ledger.standing(engine, through=booking)
    of_day = standing.earned(ledger.of_day(engine, date.fromisoformat(day), through=booking))
    keys = trusted_keys(settings.settlement)
    checks = verify(store, folder, ledger=balances, day=of_day, standing=standing, keys=keys)
    earlier = earlier_revisions(store, day, current["revision"], keys)
    booked = ledger.bookings(engine, kind=NIGHT)
    exported = booked_and_published(store, booked, date.fromisoformat(day), booking)
    return folder, [Check("pointer", tuple(pointed)), *checks, earlier, exported]
