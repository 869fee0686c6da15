"""Does a published export hold? Checksums, identities, totals and the chain, from the files; balances, from the ledger."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.contracts import ESCROW, PAYABLE, UNATTRIBUTED
from provenance.core.errors import InputError, StoreError, did_you_mean
from provenance.core.money import NANO, PPB
from provenance.core.store import Store, sha256
from provenance.core.text import uncelled
from provenance.settlement.accounts import HELD, OWED, RECEIVABLE, TOTALS, Account, Standing, imbalances, totals
from provenance.settlement.books import Booking
from provenance.settlement.exports.export import MANIFEST, payout_lines, revision_folder, signature_of
from provenance.settlement.exports.payouts import closing
from provenance.settlement.exports.proofs import is_signed, prove, proven, root


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was wrong with it, if anything."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it held."""
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
        ledger: balances after the revision's booking; None to check the files alone.
        day: what the ledger has for the day after that booking, by whom it is for; None to check the files alone.
        standing: who was on hold after that booking, and what had been claimed; None to check the files alone.
        keys: public keys of which one must have signed it, as PEM; none to take the store's word.
        chain: whether the manifest before this one is at hand.
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
        credits = store.read_table(f"{folder}/credits.parquet")
        checks += [
            Check("row identities", tuple(_rows(rows))),
            Check("tree of lines", tuple(_tree(data, manifest))),
            Check("control totals", tuple(_totals(rows, manifest))),
            Check("shares of each output", tuple(_shares(credits))),
            Check("credits against totals", tuple(_credits(credits, manifest))),
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
    known = keys or [store.read(key) for key in store.list("exports/keys")]
    if not any(is_signed(pem, data, signature) for pem in known):
        whose = "a key that these settings trust" if keys else f"any of the {len(known)} keys in exports/keys"
        yield f"{file}: not by {whose}, or not on this {name.removesuffix('.json')}"


def _parsed(data: bytes) -> list[dict[str, str]]:
    """The rows of payouts.csv, as the text that was written into its cells."""
    rows = csv.DictReader(io.StringIO(data.decode()))
    return [{name: uncelled(cell) for name, cell in row.items()} for row in rows]


def _tree(data: bytes, manifest: Mapping[str, Any]) -> Iterator[str]:
    found = root(payout_lines(data))
    if found != manifest.get("merkle_root"):
        yield f"payouts.csv: the root over its lines is {found}, the manifest says {manifest.get('merkle_root')}"


def prove_line(store: Store, folder: str, owner_id: str) -> list[dict[str, Any]]:
    """What an owner needs to see that its lines are in a published file, without seeing any other: proofs."""
    manifest, data = store.read(f"{folder}/{MANIFEST}"), store.read(f"{folder}/payouts.csv")
    lines, rows = payout_lines(data), _parsed(data)
    at = [index for index, row in enumerate(rows) if row["owner_id"] == owner_id]
    if not at:
        known = sorted({row["owner_id"] for row in rows})
        expected = f"a line of {owner_id} in it"
        raise StoreError(f"{folder}/payouts.csv", expected=expected, found="none", hint=did_you_mean(owner_id, known))
    said = json.loads(manifest)
    return [
        {
            "day": said["day"],
            "revision": said["revision"],
            "columns": data.splitlines()[0].decode(),
            "line": lines[index].decode(),
            "steps": prove(lines, index),
            "merkle_root": said["merkle_root"],
            "manifest_sha256": sha256(manifest),
        }
        for index in at
    ]


def read_json(path: Path) -> Any:
    """What a file of JSON says; raises InputError where it is none."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(str(path), expected="JSON: a manifest, or proofs", found=str(error)) from None


def check_proof(proof: Mapping[str, Any]) -> Check:
    """Whether a line is among those that a root stands for; that the root is the manifest's, the signed manifest tells."""
    try:
        what = f"line of {proof['day']}, revision {proof['revision']}"
        root = proof["merkle_root"]
        found = proven(str(proof["line"]).encode(), [(side, node) for side, node in proof["steps"]])
    except (KeyError, TypeError, ValueError) as error:
        expected = "day, revision, line, steps and merkle_root, as `provenance proof` writes them"
        raise InputError("proof", expected=expected, found=f"{type(error).__name__}: {error}") from None
    return Check(what, () if found == root else (f"the line leads to the root {found}, the proof says {root}",))


def earlier_revisions(store: Store, day: str, revision: int, keys: Sequence[bytes] = ()) -> Check:
    """Revisions of a day that are no longer in force are still what was published, and signed."""
    problems = []
    for number in range(1, revision):
        folder = revision_folder(day, number)
        try:
            manifest = store.read_json(f"{folder}/{MANIFEST}")
        except StoreError as error:
            problems.append(f"rev={number:04d}/{MANIFEST}: {error.found}")
            continue
        found = [*_checksums(store, folder, manifest), *_signature(store, folder, keys)]
        problems += [f"rev={number:04d}/{problem}" for problem in found]
    return Check("earlier revisions", tuple(problems))


def booked_and_published(store: Store, booked: Iterable[Booking], day: date, through: int) -> Check:
    """Every night that the ledger has booked has an export that says so: all of a day, and those up to a booking."""
    problems = []
    for booking in booked:
        if booking.booking_id > through and booking.day != day:
            continue
        folder = revision_folder(booking.day, booking.revision)
        where = f"booking {booking.booking_id}, revision {booking.revision} of {booking.day}"
        if not store.exists(f"{folder}/{MANIFEST}"):
            problems.append(f"{where}: in the ledger, but there is no {folder}/{MANIFEST}")
            continue
        said = store.read_json(f"{folder}/{MANIFEST}")
        if (said["booking_id"], said["night"]) != (booking.booking_id, booking.night):
            problems.append(f"{where}: {folder} is of booking {said['booking_id']} and {said['night']}")
    return Check("an export of every booking", tuple(problems))


def _checksums(store: Store, folder: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    for name, stated in manifest["files"].items():
        try:
            found = sha256(store.read(f"{folder}/{name}"))
        except StoreError as error:
            yield f"{name}: {error.found}"
            continue
        if found != stated["sha256"]:
            yield f"{name}: SHA-256 is {found}, the manifest says {stated['sha256']}"


def _rows(rows: list[dict[str, str]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=2):
        stated, found = int(row["closing_balance_minor"]), closing(row)
        if found != stated:
            yield f"payouts.csv line {number} ({row['owner_id']}): closing is {stated}, adds up to {found}"
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


def _shares(credits: pl.DataFrame) -> Iterator[str]:
    sums = credits.group_by("output_id").agg(pl.col("share_ppb").sum()).sort("output_id")
    for output, total in sums.iter_rows():
        if total != PPB:
            yield f"output {output}: shares sum to {total:,}, not {PPB:,}"


def _credits(credits: pl.DataFrame, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Totals are rounded sums of credits: within one unit for each party."""
    sums = credits.group_by("currency", "account").agg(
        pl.col("amount_nanominor").cast(pl.Int128).sum(), parties=pl.struct("owner_id", "escrow_id").n_unique()
    )
    found = {(currency, account): (int(amount), parties) for currency, account, amount, parties in sums.iter_rows()}
    for currency, stated in manifest["totals"].items():
        for account in (PAYABLE, ESCROW, UNATTRIBUTED):
            name = TOTALS[account]
            amount, parties = found.get((currency, account), (0, 0))
            parties = 1 if account == UNATTRIBUTED else parties  # whoever is named there, it is one account
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
    """Every manifest back to the first night's is the one that its successor names; the first that is not ends the chain."""
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
