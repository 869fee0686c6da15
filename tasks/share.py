"""Stage `owner shares`: influence becomes parts per billion."""

from __future__ import annotations

import logging

import polars as pl

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.store import canonical_json
from provenance.royalty.shares import proportional
from tasks.night import read_written
from tasks.settings import load

log = logging.getLogger("provenance.share")


def share(folder: str) -> str:
    """Write `shares.parquet` and its manifest; returns the night's folder."""
    store = load().store.open()
    if store.exists(f"{folder}/shares.json"):
        log.info("shares: reused")
        return folder
    shares = proportional(read_written(store, folder, "scores", "party_influence.parquet"))
    manifest = {
        "reads": store.read_json(f"{folder}/scores.json")["writes"],
        "writes": {"shares.parquet": store.write_table(f"{folder}/shares.parquet", shares)},
    }
    store.write(f"{folder}/shares.json", canonical_json(manifest))
    counts = {account: shares.filter(pl.col("account") == account)["party_id"].n_unique() for account in (PAYABLE, ESCROW)}
    log.info("shares: %d owners credited, %d in escrow", counts[PAYABLE], counts[ESCROW])
    return folder
