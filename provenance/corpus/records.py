"""Append-only records: lists of sources, signals, opt-outs, corpora in force.

    rights/optouts/20261120T101500123456Z-<digest>.parquet
    rights/raw/<SHA-256>                                        the file from which a record was read

Each addition is an object of its own, so writers need no lock, and past states can be read.
"""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from provenance.core.checks import conform, stack
from provenance.core.store import Store, sha256, to_parquet
from provenance.core.tables import TableSchema

ROOT = "rights"
_STAMP = "%Y%m%dT%H%M%S%fZ"


def append(store: Store, contract: TableSchema, frame: pl.DataFrame, *, now: datetime | None = None) -> str:
    """Check rows of a table and add them; returns the key.

    Args:
        now: time of the addition; by default the clock's.
    """
    checked = conform(contract, frame, contract.name)
    if {*checked.columns} - {*contract.columns}:
        stack(contract, {"what is recorded": read(store, contract), contract.name: checked})
    data = to_parquet(checked)
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime(_STAMP)
    key = f"{ROOT}/{contract.name}/{stamp}-{sha256(data)[:32]}.parquet"
    store.create(key, data)
    return key


def read(store: Store, contract: TableSchema, *, known: datetime | None = None) -> pl.DataFrame:
    """All rows of a table in order of addition; with `known`, only rows added by that time."""
    until = known.astimezone(UTC).strftime(_STAMP) if known else None
    keys = store.list(f"{ROOT}/{contract.name}")
    added = [key for key in keys if until is None or key.rsplit("/", 1)[-1].split("-")[0] <= until]
    empty = pl.DataFrame(schema=contract.schema)
    return pl.concat([empty, *(store.read_table(key) for key in added)], how="diagonal_relaxed")


def keep_raw(store: Store, data: bytes) -> str:
    """Store received bytes unchanged, once; returns their SHA-256."""
    name = sha256(data)
    store.create(raw_key(name), data)
    return name


def raw_key(sha: str) -> str:
    """The key of received bytes with a SHA-256."""
    return f"{ROOT}/raw/{sha}"
