"""Does a published export hold? Checksums, identities, totals and the chain, from the files; balances, from the ledger."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.errors import StoreError
from provenance.core.money import PPB
from provenance.core.store import sha256
from provenance.settlement.exports import MANIFEST, revision_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from provenance.core.store import Store
    from provenance.settlement.accrual import Account


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was wrong with it, if anything."""

    name: str
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it held."""
        return not self.problems


def verify(store: Store, folder: str, *, ledger: Mapping[Account, int] | None = None, chain: bool = True) -> list[Check]:
    """Check a published revision.

    Args:
        folder: the revision's key in the store.
        ledger: balances after the revision's booking; None to check the files alone.
        chain: whether the manifest before this one is at hand.
    """
    manifest = store.read_json(f"{folder}/{MANIFEST}")
    checks = [Check("checksums", tuple(_checksums(store, folder, manifest)))]
    if checks[0].passed:
        rows = list(csv.DictReader(io.StringIO(store.read(f"{folder}/payouts.csv").decode())))
        checks += [
            Check("row identities", tuple(_rows(rows))),
            Check("control totals", tuple(_totals(rows, manifest))),
            Check("shares of each output", tuple(_shares(store, folder))),
        ]
        if ledger is not None:
            checks.append(Check("ledger", tuple(_ledger(rows, ledger))))
    if chain:
        checks.append(Check("previous manifest", tuple(_previous(store, manifest))))
    return checks


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
        m = {name.removesuffix("_minor"): int(value) for name, value in row.items() if name.endswith("_minor")}
        closing = m["opening_balance"] + m["earned"] + m["adjustment"] - m["recouped"] - m["withheld"] - m["paid"]
        if closing != m["closing_balance"]:
            yield f"payouts.csv line {number} ({row['owner_id']}): closing is {m['closing_balance']}, adds up to {closing}"


def _totals(rows: list[dict[str, str]], manifest: Mapping[str, Any]) -> Iterator[str]:
    if len(rows) != manifest["rows"]["payouts"]:
        yield f"payouts.csv has {len(rows)} rows, the manifest says {manifest['rows']['payouts']}"
    earned: dict[str, int] = defaultdict(int)
    for row in rows:
        earned[row["currency"]] += int(row["earned_minor"])
    for currency, t in manifest["totals"].items():
        if earned[currency] != t["earned_minor"]:
            yield f"{currency}: rows earn {earned[currency]}, the manifest says {t['earned_minor']}"
        parts = t["developer_minor"] + t["earned_minor"] + t["escrowed_minor"] + t["unattributed_minor"]
        if parts != t["revenue_minor"]:
            yield f"{currency}: revenue is {t['revenue_minor']}, its parts add up to {parts}"


def _shares(store: Store, folder: str) -> Iterator[str]:
    table = store.read_table(f"{folder}/credits.parquet")
    sums = table.group_by("output_id").agg(pl.col("share_ppb").sum()).sort("output_id")
    for output, total in sums.iter_rows():
        if total != PPB:
            yield f"output {output}: shares sum to {total:,}, not {PPB:,}"


def _ledger(rows: list[dict[str, str]], ledger: Mapping[Account, int]) -> Iterator[str]:
    stated = {(row["owner_id"], row["currency"]): int(row["closing_balance_minor"]) for row in rows}
    booked = {(a.party_id, a.currency): -amount for a, amount in ledger.items() if a.account == "payable"}
    for key in sorted({*stated, *booked}):
        if stated.get(key, 0) != booked.get(key, 0):
            yield f"{key[0]} {key[1]}: the file closes at {stated.get(key, 0)}, the ledger at {booked.get(key, 0)}"


def _previous(store: Store, manifest: Mapping[str, Any]) -> Iterator[str]:
    previous = manifest.get("previous")
    if not previous:
        return
    key = f"{revision_folder(previous['day'], previous['revision'])}/{MANIFEST}"
    try:
        found = sha256(store.read(key))
    except StoreError as error:
        yield f"{key}: {error.found}"
        return
    if found != previous["manifest_sha256"]:
        yield f"{key}: SHA-256 is {found}, the chain says {previous['manifest_sha256']}"
