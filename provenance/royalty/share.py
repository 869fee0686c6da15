"""Stage `owner shares`: shares under every rule become parts per billion, as each output's contract says."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import polars as pl

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.money import PPB
from provenance.core.store import Store, canonical_json
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, night_to_compute, read_manifest, read_written, with_terms
from provenance.royalty.fidelity import signal_of, unsupported
from provenance.royalty.opted_out import WITHDRAWN_FILE, withdrawn
from provenance.royalty.shares import by_contract, over_night, rule_weight
from tasks.settings import Settings, load

log = logging.getLogger("provenance.share")


def share(folder: str, settings: Settings | None = None) -> str:
    """Write `shares.parquet`, `night_shares.parquet` and their manifest; returns the night's folder."""
    store = (settings or load()).store.open()
    if store.exists(f"{folder}/shares.json"):
        log.info("shares: reused")
        return folder
    night, estimated = night_to_compute(store, folder), read_manifest(store, folder, "estimate")
    contracts = {contract.name: contract for contract in night.contracts}
    failed = {name: unsupported(estimated["copies"], contract) for name, contract in contracts.items()}
    weights = {
        name: 0.0 if failed[name] else rule_weight(signal_of(estimated["copies"], contract), contract.signal_to_noise)
        for name, contract in contracts.items()
    }
    outputs = pl.DataFrame(
        list(estimated["contracts"].items()), schema={"output_id": pl.String, "contract": pl.String}, orient="row"
    )
    shares = by_contract(read_written(store, folder, "estimate", "rule_shares.parquet"), outputs, contracts, weights)
    pools = with_terms(store, night, night.read_outputs(store)).select(
        "output_id", "currency", pool=pl.col("revenue_minor").cast(pl.Float64) * (PPB - pl.col("developer_ppb"))
    )
    manifest: dict[str, Any] = {
        "reads": estimated["writes"],
        "writes": {
            "shares.parquet": store.write_table(f"{folder}/shares.parquet", shares),
            "night_shares.parquet": store.write_table(f"{folder}/night_shares.parquet", over_night(shares, pools)),
        },
        "weights": weights,
        "unsupported": failed,
    }
    if night.choices:
        table = withdrawn(store, night, outputs=outputs, contracts=contracts, weights=weights, shares=shares, pools=pools)
        manifest["writes"][WITHDRAWN_FILE] = store.write_table(f"{folder}/{WITHDRAWN_FILE}", table)
    store.write(f"{folder}/shares.json", canonical_json(manifest))
    for name, contract in contracts.items():
        if weights[name] < 1:
            reasons = failed[name] or ["its signal is too weak"]
            rest = 100 * (1 - weights[name])
            log.warning("contract %r, %s: %s; %.0f %% by %s", name, contract.rule, "; ".join(reasons), rest, contract.fallback)
    counts = {account: shares.filter(pl.col("account") == account)["party_id"].n_unique() for account in (PAYABLE, ESCROW)}
    log.info("shares: %d owners credited, %d in escrow", counts[PAYABLE], counts[ESCROW])
    return folder


def fidelity_of(store: Store, night: Night) -> dict[str, Any] | None:
    """How far a night's shares can be trusted, by contract that covers some of its outputs.

    Returns:
        None where it was not measured: of a night of version 0.1, or of one without shares yet. By contract its `rule`;
        `paid_by`, the part that each rule decides; `models`, how many counterfactual models were left out and predicted;
        `lds`, how well, by what predicted them; `intervals_hold`, the part of what came that lay in the intervals, by which
        models; `failed`, why the rule pays nothing. Where there are too few models `lds` and `intervals_hold` are empty.
    """
    if not all(store.exists(f"{night.folder}/{stage}.json") for stage in ("estimate", "shares")):
        return None
    estimated, shared = (read_manifest(store, night.folder, stage) for stage in ("estimate", "shares"))
    covered = Counter(estimated["contracts"].values())
    found = {}
    for contract in night.contracts:
        if covered[contract.name]:
            report = estimated["copies"][contract.duplicates]
            found[contract.name] = {
                "rule": contract.rule,
                "paid_by": _paid_by(contract, shared["weights"][contract.name]),
                "models": report["models"],
                "lds": report.get("lds", {}),
                "intervals_hold": report.get("intervals_hold", {}),
                "failed": shared["unsupported"][contract.name],
            }
    return found


def _paid_by(contract: Contract, weight: float) -> dict[str, float]:
    if contract.rule == contract.fallback:
        return {contract.rule: 1.0}
    return {rule: part for rule, part in ((contract.rule, weight), (contract.fallback, 1 - weight)) if part}
