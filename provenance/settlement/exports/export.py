"""Writes the payout export: files, a manifest that proves them, and the pointer to the revision in force.

    exports/payouts/day=2026-11-20/rev=0001/
        {payouts.csv,.parquet,.xlsx, intervals.csv, credits.parquet, journal.beancount, manifest.json, manifest.sig}
    exports/payouts/day=2026-11-20/current.json
    exports/main.beancount                             includes every journal
    exports/keys/<id>.pem                              public keys of the signatures

A revision exists as soon as its manifest does, and is never edited.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provenance.core.errors import StoreError
from provenance.core.money import format_minor
from provenance.core.published import MANIFEST, current_key, in_force, revision_folder
from provenance.core.store import Store, canonical_json, sha256, to_csv, to_parquet
from provenance.core.text import plain
from provenance.settlement.accounts import DEVELOPER, RECEIVABLE, Account
from provenance.settlement.books import NIGHT, Booking
from provenance.settlement.exports.payouts import CreditsFile
from provenance.settlement.exports.proofs import public_pem, root, sign
from provenance.settlement.exports.workbook import workbook

# The report on an appeal; it is the manifest of the appeal's page.
APPEALS, REPORT = "appeals", "report.json"
# Longest component of an account's name in the journal.
LETTERS_OF_ACCOUNT = 100
# The form of exports, in their manifests. Raise it when a file looks different for the same booking: published ones stay.
FORMAT = 3
# The ledger in the beancount language: journals of all revisions, since each has the entries since the one before.
BOOKS = "exports/main.beancount"
INCLUDING = """; The whole ledger, as far as it is published: the journal of every night, with the bookings of people before it.
; Open it with `fava main.beancount`, or check it with `bean-check main.beancount`, in a copy of the folder exports/.
option "title" "Royalties"
{currencies}plugin "beancount.plugins.auto_accounts"
include "payouts/day=*/rev=*/journal.beancount"
"""
ROOTS = {RECEIVABLE: "Assets:Receivable", DEVELOPER: "Income:Developer"}


@dataclass(frozen=True)
class Export:
    """One revision: its files by name, and its manifest."""

    day: date
    revision: int
    files: dict[str, bytes]
    manifest: dict[str, Any]

    @property
    def folder(self) -> str:
        """The revision's folder in the store."""
        return revision_folder(self.day, self.revision)


def read_export(store: Store, day: str) -> tuple[dict[str, Any], pl.DataFrame]:
    """Manifest, with its `folder`, and payouts of a day's revision in force."""
    folder = in_force(store, day)["folder"]
    manifest = store.read_json(f"{folder}/{MANIFEST}") | {"folder": folder}
    return manifest, store.read_table(f"{folder}/payouts.parquet")


def read_credits(store: Store, folder: str, *columns: str, wanted: pl.Expr | None = None) -> pl.DataFrame:
    """Credits of a revision by its folder: some columns and rows, by default all. A large night has millions."""
    with store.scan(f"{folder}/credits.parquet") as table:
        chosen = table if wanted is None else table.filter(wanted)
        return chosen.select(columns or pl.all()).collect()


def count_outputs(store: Store, manifest: Mapping[str, Any]) -> int:
    """Number of a night's outputs: of its frozen inputs, or of the revision's credits where housekeeping removed the night."""
    frozen = f"{manifest['night']}/inputs.json"
    if store.exists(frozen):
        return sum(part["rows"] for part in store.read_json(frozen)["outputs"])
    folder = revision_folder(manifest["day"], manifest["revision"])
    return int(read_credits(store, folder, "output_id")["output_id"].n_unique())


def build(
    day: date,
    revision: int,
    *,
    payouts: pl.DataFrame,
    intervals: pl.DataFrame,
    credits: CreditsFile,
    entries: Sequence[tuple[Booking, Sequence[tuple[Account, int]]]],
    totals: Mapping[str, Mapping[str, int]],
    facts: Mapping[str, Any],
) -> Export:
    """Make all files of a revision; equal arguments give equal bytes.

    Args:
        entries: bookings since the export before, through the night's, with their entries.
        totals: control totals by currency.
        facts: other fields of the manifest: digests of inputs, code version, the previous manifest, a notice.
    """
    files = {
        "payouts.csv": to_csv(payouts),
        "payouts.parquet": to_parquet(payouts),
        "payouts.xlsx": workbook(
            day,
            revision,
            payouts=payouts,
            totals=totals,
            balances=facts.get("trial_balance", {}),
            notice=str(facts.get("notice") or ""),
        ),
        "intervals.csv": to_csv(intervals),
        "credits.parquet": credits.data,
        "journal.beancount": _journal(entries, str(facts.get("notice") or "")).encode(),
    }
    manifest = {
        **facts,
        "day": str(day),
        "revision": revision,
        "nil": not any(amounts["revenue_minor"] for amounts in totals.values()),
        "rows": {"payouts": payouts.height, "credits": credits.rows},
        "merkle_root": root(payout_lines(files["payouts.csv"])),
        "totals": totals,
        "files": described(files),
    }
    return Export(day, revision, files, manifest)


def payout_lines(csv: bytes) -> list[bytes]:
    """The lines of payouts.csv below its header: the leaves of the manifest's tree of hashes."""
    return csv.splitlines()[1:]


def key_file(pem: bytes) -> str:
    """The store key of a public key."""
    return f"exports/keys/{sha256(pem)[:16]}.pem"


def write(store: Store, export: Export, key: Ed25519PrivateKey) -> bool:
    """Publish a revision: files and signature, then the manifest, then the pointer. False if it was published before."""
    new = write_folder(store, export.folder, export.files, export.manifest, key)
    finish(store, export.day, export.revision)
    return new


def finish(store: Store, day: date, revision: int) -> None:
    """Write what follows a revision's manifest: the file that includes every journal, and the pointer."""
    manifest = store.read_json(f"{revision_folder(day, revision)}/{MANIFEST}")
    _include_all(store, {*manifest["totals"], *manifest.get("trial_balance", {})})
    point_to(store, day, revision)


def _include_all(store: Store, currencies: Iterable[str]) -> None:
    """Write the file that includes every journal; it changes only when the ledger gets another currency."""
    named = "".join(f'option "operating_currency" "{currency}"\n' for currency in sorted(currencies))
    books = INCLUDING.format(currencies=named).encode()
    if not store.create(BOOKS, books) and store.read(BOOKS) != books:
        store.write(BOOKS, books)


def described(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Digests and sizes of files, as manifests have them."""
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}


def signature_of(manifest: str) -> str:
    """The name of the file with a manifest's signature."""
    return f"{manifest.removesuffix('.json')}.sig"


def write_folder(
    store: Store,
    folder: str,
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    key: Ed25519PrivateKey,
    *,
    name: str = MANIFEST,
) -> bool:
    """Publish a folder, whose manifest is written last. False if it was published before.

    Args:
        name: of the manifest's file.

    Raises:
        StoreError: it was published before with other files, or the store has another public key under the same name.
    """
    manifest_key = f"{folder}/{name}"
    data = canonical_json(manifest)
    published = store.exists(manifest_key)
    if not published:
        _publish_key(store, public_pem(key))
        for file, content in {**files, signature_of(name): sign(key, data)}.items():
            store.write(f"{folder}/{file}", content)
        published = not store.create(manifest_key, data)
    if published and store.read_json(manifest_key)["files"] != manifest["files"]:
        raise StoreError(
            store.locate(manifest_key),
            expected="the files that were published",
            found="others from the same booking",
            hint="Published files are never edited. Run `provenance verify` to see the changes.",
        )
    return not published


def _publish_key(store: Store, pem: bytes) -> None:
    """Publish a public key; again if the store has it, but no list: SeaweedFS can lose folders while its disk is full."""
    key = key_file(pem)
    if not store.create(key, pem) and store.read(key) != pem:
        raise StoreError(store.locate(key), expected="the public key of what is signed now", found="something else")
    if key not in store.list("exports/keys"):
        store.remove(key)
        store.write(key, pem)


def point_to(store: Store, day: date, revision: int) -> None:
    """Put a revision in force, unless a later one is; safe if several processes do so at once."""
    key, folder = current_key(day), revision_folder(day, revision)
    manifest = sha256(store.read(f"{folder}/{MANIFEST}"))
    pointer = canonical_json({"day": str(day), "revision": revision, "folder": folder, "manifest_sha256": manifest})
    while not store.create(key, pointer):
        previous = store.read(key)
        if json.loads(previous)["revision"] >= revision or store.replace(key, pointer, previous=previous):
            return


def _journal(entries: Sequence[tuple[Booking, Sequence[tuple[Account, int]]]], notice: str) -> str:
    """Bookings in the beancount language; the plugin opens accounts at their first use."""
    lines = [f"; {plain(line)}" for line in notice.splitlines()]
    lines += ['plugin "beancount.plugins.auto_accounts"', ""]
    for booking, posted in entries:
        by_currency: dict[str, list[str]] = {}
        for account, amount in posted:
            name = ROOTS.get(account.account) or f"Liabilities:{account.account.capitalize()}"
            if account.party_id:
                name = f"{name}:{_component(account.party_id)}"
            posting = f"  {name}  {format_minor(amount, account.currency, symbol=False)} {account.currency}"
            by_currency.setdefault(account.currency, []).append(posting)
        for currency, postings in sorted(by_currency.items()):
            title = json.dumps(plain(f"{_title(booking)}, {currency}"), ensure_ascii=False)
            lines += [f'{booking.day} * "Provenance" {title}', f"  booking: {booking.booking_id}", *postings, ""]
    return "\n".join(lines)


def _title(booking: Booking) -> str:
    if booking.kind != NIGHT:
        return f"{booking.kind.capitalize()}: {booking.facts_text}"
    by = ", booked by difference" if booking.revision > 1 else ""
    return f"Model outputs of {booking.day}, revision {booking.revision}{by}"


def _component(party_id: str) -> str:
    """A party as a component of a beancount account; a digest is added where plain forms could be equal."""
    named = re.sub(r"[^A-Za-z0-9]+", "-", party_id).strip("-")[:LETTERS_OF_ACCOUNT]
    component = named[:1].upper() + named[1:]
    # A name that ends like a digest gets one, too, or it could equal the component of another party.
    if named == party_id and named[:1].islower() and not re.search("-[0-9a-f]{8}$", named):
        return component
    return f"{component or 'X'}-{hashlib.sha256(party_id.encode()).hexdigest()[:8]}"
