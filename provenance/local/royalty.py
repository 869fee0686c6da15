"""Computes owner shares by any rule, from a result of `provenance attribute`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import ContractError
from provenance.core.store import canonical_json
from provenance.core.tables import ESCROW, UNATTRIBUTED
from provenance.core.where import Where
from provenance.features.stage import featurise, plan
from provenance.influence.stage import fit_curvature, score
from provenance.inputs.contracts import Contract
from provenance.inputs.night import VERSIONS, Night, load_night, read_manifest, read_whole, subject_of_night
from provenance.local.attribute import WORK, copy_models
from provenance.models.subject import with_duplicates
from provenance.royalty.shares import by_contract
from provenance.royalty.stage import estimate, likelihoods
from provenance.royalty.support import unsupported

# The name of the contract; a part of the night's digest.
CONTRACT = "asked"


def royalty(
    where: Where, influence: Path, rule: str, *, duplicates: bool, out: Path, counterfactuals: Path | None = None
) -> dict[str, Any]:
    """Write owner shares under a rule: `output_id, owner_id, account, share_ppb, low_ppb, high_ppb`; returns counts.

    Args:
        where: gives the settings of royalties and workers; store and model are the folder's.
        influence: a folder that `provenance attribute` wrote.
        duplicates: whether copies count once.
        counterfactuals: a folder that `provenance counterfactuals` wrote; by default the models of `attribute`.
    """
    manifest, hint = influence / "manifest.json", "Run `provenance attribute --out` with it first."
    if not manifest.is_file() or not (influence / WORK).is_dir():
        expected = f"a folder that `attribute` wrote, with its subfolder {WORK}"
        raise ContractError(str(influence), expected=expected, found="none", hint=hint)
    try:
        folder = json.loads(manifest.read_text())["night"]
    except (ValueError, LookupError, TypeError) as error:
        raise ContractError(
            str(manifest), expected="a manifest that `attribute` wrote", found=repr(error), hint=hint
        ) from error
    if out.is_dir():
        raise ContractError(f"--out {out}", expected="a Parquet file to write", found="a folder")
    local = where.at(influence / WORK)
    store = local.store
    contract = Contract(
        name=CONTRACT, developer_ppb=0, rule=rule, duplicates="earliest" if duplicates else "off", fallback="proportional"
    )
    night = load_night(store, folder)
    if counterfactuals is not None:
        models = copy_models(counterfactuals, subject_of_night(store, night, local.settings.model.cache))
        night = replace(night, counterfactuals=models)
    night = value_night(local, night, contract)
    table = read_whole(store, night.folder, "estimate", "rule_shares")
    outputs = night.read_outputs(store).select("output_id").with_columns(contract=pl.lit(CONTRACT))
    report = read_manifest(store, night.folder, "estimate")["copies"][contract.duplicates]
    failed = unsupported({contract.duplicates: report}, contract)
    shares = by_contract(table, outputs, {CONTRACT: contract}, {CONTRACT: 0.0 if failed else 1.0})
    frame = shares.select("output_id", pl.col("party_id").alias("owner_id"), "account", "share_ppb", "low_ppb", "high_ppb")
    out.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(out)
    paid = frame.filter(~pl.col("account").is_in([ESCROW, UNATTRIBUTED]))
    return {
        "rule": rule,
        "paid_by": contract.fallback if failed else rule,
        "unsupported": failed,
        "counterfactuals": report,
        "outputs": outputs.height,
        "owners": paid["owner_id"].n_unique(),
        "unattributed": frame.filter(pl.col("account") == UNATTRIBUTED).height,
        "mean_share": {
            owner: share / outputs.height / 1e9
            for owner, share in paid.group_by("owner_id")
            .agg(pl.col("share_ppb").sum())
            .sort("share_ppb", descending=True)
            .iter_rows()
        },
        "folder": night.folder,
    }


def value_night(where: Where, night: Night, contract: Contract) -> Night:
    """Run the stages of a night that pays nobody, up to the shares under the contract's rules."""
    store = where.store
    frozen = night.frozen_corpus(store)
    if contract.duplicates != "off" and frozen.duplicates is None:
        frozen = with_duplicates(store, frozen)
    night = replace(
        night,
        corpus=frozen.digest,
        method=night.method | {"versions": VERSIONS},
        contract={"contracts": [contract.model_dump(mode="json")]},
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
    for stage in (plan, featurise, fit_curvature, score, likelihoods, estimate):
        stage(where, night.folder)
    return night
