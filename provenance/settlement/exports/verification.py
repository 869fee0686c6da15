"""Checks a published export: checksums, identities, totals and the chain by its files, balances by the ledger."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import InputError, StoreError, did_you_mean
from provenance.core.money import NANO, PPB
from provenance.core.published import MANIFEST, revision_folder
from provenance.core.store import Store, sha256
from provenance.core.tables import ESCROW, PAYABLE, UNATTRIBUTED
from provenance.core.text import uncelled
from provenance.settlement.accounts import HELD, OWED, RECEIVABLE, TOTALS, Account, Standing, imbalances, totals
from provenance.settlement.books import Booking
from provenance.settlement.exports.export import payout_lines, signature_of
from provenance.settlement.exports.payouts import closing
from provenance.settlement.exports.proofs import is_signed, prove, proven, root

# Manifests read from the store in parallel.
AT_ONCE = 8


@dataclass(frozen=True)
class Check:
    """The result of one check; without problems it has passed."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def verify(
    store: Store,
    folder: str,
    *,
    ledger: Mapping[Account, int] | None = None,
    day: Mapping[Account, int] | None = None,
    standing: Standing | None = None,
    keys: Sequence[bytes] = (),
    chain: bool = True,
    name: str = MANIFEST,
) -> list[Check]:
    """Check a published revision, or another folder that a signed manifest proves.

    Args:
        folder: the revision's key in the store.
        ledger: balances after the revision's booking; None to check files only.
        day: the ledger's amounts of the day after that booking, by beneficiary; None to check files only.
        standing: holds and claims after that booking; None to check files only.
        keys: public keys as PEM, of which one must have signed; without any, those in the store are trusted.
        chain: whether to check the manifests before this one.
        name: of the manifest's file.
    """
    manifest = store.read_json(f"{folder}/{name}")
    checks = [
        Check("checksums", tuple(_checksums(store, folder, manifest))),
        Check("signature", tuple(_signature(store, folder, keys, name))),
    ]
    if checks[0].passed and "payouts.csv" in manifest["files"]:
        data = store.read(f"{folder}/payouts.csv")
        rows = _parsed(data)
        with store.scan(f"{folder}/credits.parquet") as credits:
            of_outputs, of_totals = tuple(_shares(credits)), tuple(_credits(credits, manifest))
        checks += [
            Check("row identities", tuple(_rows(rows))),
            Check("tree of lines", tuple(_tree(data, manifest))),
            Check("control totals", tuple(_totals(rows, manifest))),
            Check("shares of each output", of_outputs),
            Check("credits against totals", of_totals),
        ]
        if ledger is not None:
            checks.append(Check("ledger", tuple(_ledger(rows, ledger))))
            if standing is not None:
                checks.append(Check("trial balance", tuple(imbalances(ledger, standing))))
        if day is not None:
            checks.append(Check("ledger of the day", tuple(_day(manifest, day))))
    if chain:
        checks.append(Check("chain of manifests", tuple(_previous(store, manifest))))
    return checks


def _signature(store: Store, folder: str, keys: Sequence[bytes], name: str = MANIFEST) -> Iterator[str]:
    file = signature_of(name)
    try:
        data, signature = store.read(f"{folder}/{name}"), store.read(f"{folder}/{file}")
    except StoreError as error:
        yield f"{file}: {error.found}"
        return
    candidates = keys or [store.read(key) for key in store.list("exports/keys")]
    if not candidates:
        yield f"{file}: there is no public key to check it by; name the signer's with --key"
    elif not any(is_signed(pem, data, signature) for pem in candidates):
        signers = "a key that these settings trust" if keys else f"any of the {len(candidates)} keys in exports/keys"
        yield f"{file}: not by {signers}, or not on this {name.removesuffix('.json')}"


def _parsed(data: bytes) -> list[dict[str, str]]:
    """The rows of payouts.csv, with the original text of cells."""
    rows = csv.DictReader(io.StringIO(data.decode()))
    return [{name: uncelled(cell) for name, cell in row.items()} for row in rows]


def _tree(data: bytes, manifest: Mapping[str, Any]) -> Iterator[str]:
    computed = root(payout_lines(data))
    if computed != manifest.get("merkle_root"):
        yield f"payouts.csv: the root over its lines is {computed}, the manifest says {manifest.get('merkle_root')}"


def prove_line(store: Store, folder: str, owner_id: str) -> list[dict[str, Any]]:
    """Proofs that an owner's lines are in the published payouts; they show no other line."""
    manifest, data = store.read(f"{folder}/{MANIFEST}"), store.read(f"{folder}/payouts.csv")
    lines, rows = payout_lines(data), _parsed(data)
    indices = [index for index, row in enumerate(rows) if row["owner_id"] == owner_id]
    if not indices:
        owners = sorted({row["owner_id"] for row in rows})
        expected = f"a line of {owner_id} in it"
        raise StoreError(f"{folder}/payouts.csv", expected=expected, found="none", hint=did_you_mean(owner_id, owners))
    stated = json.loads(manifest)
    return [
        {
            "day": stated["day"],
            "revision": stated["revision"],
            "columns": data.splitlines()[0].decode(),
            "line": lines[index].decode(),
            "steps": prove(lines, index),
            "merkle_root": stated["merkle_root"],
            "manifest_sha256": sha256(manifest),
        }
        for index in indices
    ]


def read_json(path: Path) -> Any:
    """Read a JSON file; raises InputError if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(str(path), expected="JSON: a manifest, or proofs", found=str(error)) from None


def check_proof(proof: Mapping[str, Any]) -> Check:
    """Check that a line leads to the root in its proof; compare that root with the signed manifest's yourself."""
    try:
        name = f"line of {proof['day']}, revision {proof['revision']}"
        root = proof["merkle_root"]
        computed = proven(str(proof["line"]).encode(), [(side, node) for side, node in proof["steps"]])
    except (KeyError, TypeError, ValueError) as error:
        expected = "day, revision, line, steps and merkle_root, as `provenance proof` writes them"
        raise InputError("proof", expected=expected, found=f"{type(error).__name__}: {error}") from None
    return Check(name, () if computed == root else (f"the line leads to the root {computed}, the proof says {root}",))


def lines_that_differ(store: Store, key: str, wanted: str) -> Iterator[str]:
    """The first three lines of a published table that differ from the ledger."""
    name, published = key.rsplit("/", 1)[-1], store.read(key).decode(errors="replace")
    pairs = zip_longest(published.splitlines(), wanted.splitlines(), fillvalue="nothing")
    differ = ((number, has, says) for number, (has, says) in enumerate(pairs, start=1) if has != says)
    yield from (f"{name} line {number}: {has!r}, the ledger says {says!r}" for number, has, says in islice(differ, 3))


def earlier_revisions(store: Store, day: str, revision: int, keys: Sequence[bytes] = ()) -> Check:
    """Check that earlier revisions of a day are unchanged and signed."""
    problems = []
    for number in range(1, revision):
        folder = revision_folder(day, number)
        try:
            manifest = store.read_json(f"{folder}/{MANIFEST}")
        except StoreError as error:
            problems.append(f"rev={number:04d}/{MANIFEST}: {error.found}")
            continue
        faults = [*_checksums(store, folder, manifest), *_signature(store, folder, keys)]
        problems += [f"rev={number:04d}/{problem}" for problem in faults]
    return Check("earlier revisions", tuple(problems))


def booked_and_published(store: Store, booked: Iterable[Booking], day: date, through: int) -> Check:
    """Check that bookings have their exports: all of a day, and all others up to a booking."""

    def problem(booking: Booking) -> str | None:
        folder = revision_folder(booking.day, booking.revision)
        place = f"booking {booking.booking_id}, revision {booking.revision} of {booking.day}"
        if not store.exists(f"{folder}/{MANIFEST}"):
            return f"{place}: in the ledger, but there is no {folder}/{MANIFEST}"
        manifest = store.read_json(f"{folder}/{MANIFEST}")
        if (manifest["booking_id"], manifest["night"]) != (booking.booking_id, booking.night):
            return f"{place}: {folder} is of booking {manifest['booking_id']} and {manifest['night']}"
        return None

    checked = [booking for booking in booked if booking.booking_id <= through or booking.day == day]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # object stores answer requests in parallel
        problems = [found for found in pool.map(problem, checked) if found]
    return Check("an export of every booking", tuple(problems))


def _checksums(store: Store, folder: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    for name, stated in manifest["files"].items():
        try:
            digest = sha256(store.read(f"{folder}/{name}"))
        except StoreError as error:
            yield f"{name}: {error.found}"
            continue
        if digest != stated["sha256"]:
            yield f"{name}: SHA-256 is {digest}, the manifest says {stated['sha256']}"


def _rows(rows: list[dict[str, str]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=2):
        stated, total = int(row["closing_balance_minor"]), closing(row)
        if total != stated:
            yield f"payouts.csv line {number} ({row['owner_id']}): closing is {stated}, adds up to {total}"
        if int(row["held_minor"]) and not row["hold_reason"]:
            yield f"payouts.csv line {number} ({row['owner_id']}): {row['held_minor']} are held for no reason"


def _totals(rows: list[dict[str, str]], manifest: Mapping[str, Any]) -> Iterator[str]:
    if len(rows) != manifest["rows"]["payouts"]:
        yield f"payouts.csv has {len(rows)} rows, the manifest says {manifest['rows']['payouts']}"
    earned: dict[str, int] = defaultdict(int)
    for row in rows:
        earned[row["currency"]] += int(row["earned_minor"])
    for currency, t in manifest["totals"].items():
        if earned[currency] != t["earned_minor"]:
            yield f"{currency}: rows earn {earned[currency]}, the manifest says {t['earned_minor']}"
        parts = sum(t[name] for account, name in TOTALS.items() if account != RECEIVABLE)
        if parts != t["revenue_minor"]:
            yield f"{currency}: revenue is {t['revenue_minor']}, its parts add up to {parts}"


def _shares(credits: pl.LazyFrame) -> Iterator[str]:
    sums = credits.group_by("output_id").agg(pl.col("share_ppb").sum()).collect(engine="streaming").sort("output_id")
    for output, total in sums.iter_rows():
        if total != PPB:
            yield f"output {output}: shares sum to {total:,}, not {PPB:,}"


def _credits(credits: pl.LazyFrame, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Check control totals against sums of credits; rounding may move them by one minor unit for each party."""
    by_party = credits.group_by("currency", "account", "owner_id", "escrow_id")
    amounts = by_party.agg(pl.col("amount_nanominor").cast(pl.Int128).sum()).collect(engine="streaming")
    sums = amounts.group_by("currency", "account").agg(pl.col("amount_nanominor").sum(), parties=pl.len())
    credited = {(currency, account): (int(amount), parties) for currency, account, amount, parties in sums.iter_rows()}
    for currency, stated in manifest["totals"].items():
        for account in (PAYABLE, ESCROW, UNATTRIBUTED):
            name = TOTALS[account]
            amount, parties = credited.get((currency, account), (0, 0))
            parties = 1 if account == UNATTRIBUTED else parties  # one account, whatever parties its credits name
            if abs(stated[name] * NANO - amount) > parties * NANO:
                yield f"{currency}: the manifest says {name} {stated[name]}, credits add up to {amount // NANO}"


def _day(manifest: Mapping[str, Any], day: Mapping[Account, int]) -> Iterator[str]:
    booked = totals(day)
    for currency in sorted({*booked, *manifest["totals"]}):
        stated = manifest["totals"].get(currency, {})
        for name in sorted({*stated, *booked.get(currency, {})}):
            if stated.get(name, 0) != booked.get(currency, {}).get(name, 0):
                yield f"{currency}: the manifest says {name} {stated.get(name, 0)}, the ledger {booked[currency].get(name, 0)}"


def _ledger(rows: list[dict[str, str]], ledger: Mapping[Account, int]) -> Iterator[str]:
    for name, accounts in (("closing_balance_minor", OWED), ("held_minor", (HELD,))):
        stated = {(row["owner_id"], row["currency"]): int(row[name]) for row in rows}
        booked: dict[tuple[str, str], int] = defaultdict(int)
        for account, amount in ledger.items():
            if account.account in accounts:
                booked[account.party_id, account.currency] -= amount
        for key in sorted({*stated, *booked}):
            if stated.get(key, 0) != booked[key]:
                yield f"{key[0]} {key[1]}: {name} is {stated.get(key, 0)} in the file, {booked[key]} in the ledger"


def _previous(store: Store, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Check the chain back to the first manifest, and stop at the first break."""
    while previous := manifest.get("previous"):
        key = f"{revision_folder(previous['day'], previous['revision'])}/{MANIFEST}"
        try:
            data = store.read(key)
        except StoreError as error:
            yield f"{key}: {error.found}"
            return
        if sha256(data) != previous["manifest_sha256"]:
            yield f"{key}: SHA-256 is {sha256(data)}, the chain says {previous['manifest_sha256']}"
            return
        manifest = json.loads(data)
