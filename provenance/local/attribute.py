"""Computes influence without money: reads a corpus folder, a model folder and a file of outputs, and writes tables.

The stages are the night's own. They keep frozen inputs, features and curvature in `work/` below the result, so another run
with other outputs computes only the new parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from provenance.core.errors import ContractError
from provenance.core.store import Store, canonical_json, sha256
from provenance.core.tables import ESCROW
from provenance.core.where import Where
from provenance.corpus.outputs import read_output_file, with_modality
from provenance.features.plan import coverage, load_plan
from provenance.features.stage import featurise, plan
from provenance.influence.methods import default_weights
from provenance.influence.night_scores import kept_scores, read_influence, read_parties
from provenance.influence.scores import party_influence
from provenance.influence.stage import fit_curvature, score
from provenance.inputs.frozen import freeze_night, influence_method
from provenance.inputs.night import Night, read_manifest
from provenance.models.counterfactual_checks import usable_models
from provenance.models.counterfactual_records import copy_set
from provenance.models.model import read_model
from provenance.models.subject import Subject, freeze_folder
from provenance.royalty.division import estimate_copies
from provenance.royalty.holdings import corpus_holdings
from provenance.royalty.stage import likelihoods

WORK = "work"


@dataclass(frozen=True)
class Request:
    """The arguments of `provenance attribute`.

    Attributes:
        day: on which claims must be valid.
        counterfactuals: a folder that `provenance counterfactuals` wrote; components of influence are weighed by its models.
    """

    corpus: Path
    model: Path
    outputs: Path
    out: Path
    day: date
    counterfactuals: Path | None = None


def folder_night(where: Where, request: Request) -> tuple[Where, Night]:
    """Check and freeze a request's inputs in the work folder; returns the doors to that folder, and the night of the inputs."""
    method = influence_method(where.settings)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContractError(f"--out {request.out}", expected="a folder to write to", found=str(error)) from error
    local = where.at(request.out / WORK, request.model.resolve())
    frozen = freeze_folder(local.store, request.corpus, local.settings.corpus.shard_examples)
    model = read_model(request.model)
    outputs = read_output_file(Store(f"file://{request.outputs.resolve().parent}", {}), request.outputs.name)
    if outputs.is_empty():
        raise ContractError(str(request.outputs), expected="at least one output", found="none")
    outputs, counterfactuals = with_modality(local.store, frozen, outputs), partial(copy_models, request.counterfactuals)
    night = freeze_night(
        local, request.day, frozen, model, outputs, counterfactuals=counterfactuals, method=method, contract={}
    )
    return local, night


def copy_models(folder: Path | None, subject: Subject) -> dict[str, str]:
    """Copy a set of counterfactual models to the subject's store; returns the digest of each model's folder by name.

    Args:
        folder: of the set; None for no set.

    Raises:
        InputError: the set has no models of the model served, or one of them is damaged.
    """
    if folder is None:
        return {}
    where, served = f"--counterfactuals {folder}", subject.model
    expected = f"counterfactual models of the model {served[:12]}, as `provenance counterfactuals train --out` writes them"
    if not folder.is_dir():
        raise ContractError(where, expected=expected, found="no such folder")
    copied = copy_set(Store(f"file://{folder.resolve()}", {}), subject.store, served)
    if not copied:
        hint = "Train some for this very model folder: `provenance counterfactuals train --help`."
        raise ContractError(where, expected=expected, found="none", hint=hint)
    return usable_models(subject, copied)


def attribute(where: Where, request: Request) -> dict[str, Any]:
    """Write `scores.parquet`, `owner_influence.parquet`, `examples.parquet` and, last, `manifest.json`; returns the manifest.

    Args:
        where: gives the settings (method, projection) and workers; store and model are the request's.
    """
    local, night = folder_night(where, request)
    folder = score_every_example(local, night)
    names = read_manifest(local.store, night.folder, "scores")["components"]
    weights, report = default_weights(names), {"weights": "default"}
    if night.counterfactuals:
        likelihoods(local, night.folder)
        estimated = estimate_copies(local, night, "off", corpus_holdings(local.store, night, "off"))
        weights, report = estimated.weights, estimated.report
    facts = {
        "parameters_covered": coverage(local.store, load_plan(local.store, night.folder)),
        "counterfactuals": {"components": dict(zip(names, weights.tolist(), strict=True)), **report},
    }
    return _write(request, local.store, night, folder, facts)


def score_every_example(where: Where, night: Night) -> str:
    """Run the stages of a night that pays nobody; returns the folder of the store with every example's scores."""
    folder = f"{night.folder}/every"
    for stage in (plan, featurise, fit_curvature):
        stage(where, night.folder)
    score(where, night.folder, keep=folder)
    return folder


def _write(request: Request, store: Store, night: Night, folder: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the tables, then the manifest that commits them."""
    manifest_file = request.out / "manifest.json"
    manifest_file.unlink(missing_ok=True)
    weights = np.array(list(facts["counterfactuals"]["components"].values()))
    parts, owners = [], []
    parties = read_parties(store, night.folder, "off")
    for number in range(len(night.parts)):
        influence = read_influence(store, night, "off", number)
        summed = np.einsum("k,kqn->qn", weights, influence.sums)
        owners.append(party_influence(parties, summed, influence.output_ids))
        parts.append(kept_scores(store, night, folder, number, weights))
    pl.concat(parts).write_parquet(request.out / "scores.parquet", compression="zstd")
    pl.concat(owners).select("output_id", owner_id="party_id", influence="influence", escrow=pl.col("account") == ESCROW).sort(
        "output_id", "owner_id"
    ).write_parquet(request.out / "owner_influence.parquet")
    night.read_corpus(store, "example_id", "work_id", "position").write_parquet(request.out / "examples.parquet")
    files = ("scores.parquet", "owner_influence.parquet", "examples.parquet")
    manifest = {
        "reads": {
            "corpus": night.corpus,
            "model": night.model,
            "model_id": night.model_id,
            "checkpoints": list(night.checkpoints),
            "outputs": [part.sha256 for part in night.outputs],
            "claims_valid_on": night.day,
        },
        "method": night.method,
        "night": night.folder,
        **facts,
        "writes": {name: sha256((request.out / name).read_bytes()) for name in files},
    }
    manifest_file.write_bytes(canonical_json(manifest))
    return manifest
