"""Owner shares of outputs whose influences `provenance attribute` has found, by any rule."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.contracts import ESCROW, UNATTRIBUTED
from provenance.core.errors import ContractError
from provenance.core.store import Store, canonical_json
from provenance.features.featurise import featurise
from provenance.features.plan import shard
from provenance.influence.fit_curvature import fit_curvature
from provenance.influence.score import score
from provenance.inputs.contracts import Contract
from provenance.inputs.night import VERSIONS, Night, load_night, read_manifest, read_written
from provenance.local.attribute import WORK, bring
from provenance.models.counterfactuals import Subject, with_duplicates
from provenance.royalty.estimate_stage import estimate
from provenance.royalty.fidelity import unsupported
from provenance.royalty.likelihoods import likelihoods
from provenance.royalty.shares import by_contract
from tasks.settings import Settings

log = logging.getLogger("provenance.royalty")


def royalty(
    influence: Path, rule: str, *, duplicates: bool, out: Path, settings: Settings, counterfactuals: Path | None = None
) -> dict[str, Any]:
    """Write owner shares under a rule: `output_id, owner_id, account, share_ppb, low_ppb, high_ppb`; returns counts.

    Args:
        influence: what `provenance attribute` wrote.
        duplicates: whether copies count once.
        settings: of the cluster and of royalties; their store and model are the folder's.
        counterfactuals: a folder that `provenance counterfactuals` wrote; without one, those that `attribute` was given.
    """
    manifest, hint = influence / "manifest.json", "Run `provenance attribute --out` with it first."
    if not manifest.is_file() or not (influence / WORK).is_dir():
        expected = f"a folder that `attribute` wrote, with its subfolder {WORK}"
        raise ContractError(str(influence), expected=expected, found="none", hint=hint)
    try:
        folder = json.loads(manifest.read_text())["night"]
    except (ValueError, LookupError, TypeError) as error:
        raise ContractError(str(manifest), expected="what `attribute` wrote", found=repr(error), hint=hint) from error
    if out.is_dir():
        raise ContractError(f"--out {out}", expected="a Parquet file to write", found="a folder")
    settings = settings.at(influence / WORK)
    store = settings.store.open()
    contract = Contract(
        name="asked", developer_ppb=0, rule=rule, duplicates="earliest" if duplicates else "off", fallback="proportional"
    )
    night = load_night(store, folder)
    if counterfactuals is not None:
        brought = bring(counterfactuals, Subject.of(store, night, settings.model.cache))
        night = replace(night, counterfactuals=brought)
    night = value_night(store, night, contract, settings)
    table = read_written(store, night.folder, "estimate", "rule_shares.parquet")
    asked = night.read_outputs(store).select("output_id").with_columns(contract=pl.lit("asked"))
    report = read_manifest(store, night.folder, "estimate")["copies"][contract.duplicates]
    failed = unsupported({contract.duplicates: report}, contract)
    shares = by_contract(table, asked, {"asked": contract}, {"asked": 0.0 if failed else 1.0})
    frame = shares.select("output_id", pl.col("party_id").alias("owner_id"), "account", "share_ppb", "low_ppb", "high_ppb")
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(out)
    paid = frame.filter(~pl.col("account").is_in([ESCROW, UNATTRIBUTED]))
    return {
        "rule": rule,
        "paid_by": contract.fallback if failed else rule,
        "unsupported": failed,
        "counterfactuals": report,
        "outputs": asked.height,
        "owners": paid["owner_id"].n_unique(),
        "unattributed": frame.filter(pl.col("account") == UNATTRIBUTED).height,
        "mean_share": {
            owner: share / asked.height / 1e9
            for owner, share in paid.group_by("owner_id")
            .agg(pl.col("share_ppb").sum())
            .sort("share_ppb", descending=True)
            .iter_rows()
        },
        "folder": night.folder,
    }


def value_night(store: Store, night: Night, contract: Contract, settings: Settings) -> Night:
    """Run the stages of a night that pays nobody, up to the shares under every rule that the contract needs."""
    frozen = night.frozen_corpus(store)
    if contract.duplicates != "off" and frozen.duplicates is None:
        frozen = with_duplicates(store, frozen)
    mine = replace(
        night,
        corpus=frozen.digest,
        method=night.method | {"versions": VERSIONS},
        contract={"contracts": [contract.model_dump(mode="json")]},
    )
    store.write(f"{mine.folder}/inputs.json", canonical_json(mine.inputs))
    for stage in (shard, featurise, fit_curvature, score, likelihoods, estimate):
        stage(mine.folder, settings)
    return mine
