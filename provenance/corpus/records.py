"""Records that are added and never edited: lists of sources, signals, opt-outs, which corpus was in force.

    rights/optouts/20261120T101500123456Z-<digest>.parquet
    rights/raw/<SHA-256>                                        what a record was read from

Every addition is an object of its own, so writers need no lock, and what was known at a time is what had been added by then.
"""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from provenance.core.contracts import Contract, conform
from provenance.core.store import Store, sha256, to_parquet

ROOT = "rights"
_STAMP = "%Y%m%dT%H%M%S%fZ"


def append(store: Store, contract: Contract, frame: pl.DataFrame, *, now: datetime | None = None) -> str:
    """Add rows of a table, checked; returns the key.

    Args:
        now: when they are added; by default now.
    """
    data = to_parquet(conform(contract, frame, contract.name))
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime(_STAMP)
    key = f"{ROOT}/{contract.name}/{stamp}-{sha256(data)[:32]}.parquet"
    store.create(key, data)
    return key


def read(store: Store, contract: Contract, *, known: datetime | None = None) -> pl.DataFrame:
    """All rows of a table in the order in which they were added; with `known`, those that had been added by then."""
    until = known.astimezone(UTC).strftime(_STAMP) if known else None
    keys = store.list(f"{ROOT}/{contract.name}")
    chosen = [key for key in keys if until is None or key.rsplit("/", 1)[-1].split("-")[0] <= until]
    empty = pl.DataFrame(schema=contract.schema)
    return pl.concat([empty, *(store.read_table(key) for key in chosen)], how="diagonal_relaxed")


def keep_raw(store: Store, data: bytes) -> str:
    """Keep bytes as they came, once; returns their SHA-256."""
    name = sha256(data)
    store.create(raw_key(name), data)
    return name


def raw_key(sha: str) -> str:
    """Where bytes with a SHA-256 are kept as they came."""
    return f"{ROOT}/raw/{sha}"
