"""Influence without money: a corpus folder, a model folder and a file of outputs in, tables out. No database, no Airflow.

The stages are the night's own. What they keep on the way (frozen inputs, features, curvature) lies in `work/` below the
result, so that the same command again, or with other outputs, computes what is new alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import gpu_count
from provenance.core.contracts import ESCROW
from provenance.core.errors import ContractError, SettingsError
from provenance.core.store import Store, canonical_json, sha256
from provenance.corpus.outputs import read_output_file
from provenance.features.featurise import covered, featurise
from provenance.features.plan import shard
from provenance.influence.fit_curvature import fit_curvature
from provenance.influence.methods import default_weights
from provenance.influence.score import every_score, read_influence, read_parties, score
from provenance.influence.scores import party_influence
from provenance.inputs.freeze import freeze_night, influence_method, with_modality
from provenance.inputs.night import Night, read_manifest
from provenance.models.counterfactuals import Subject, copy_set, freeze_folder, in_use
from provenance.models.model import read_model
from provenance.royalty.estimate_stage import corpus_holdings, estimate_copies
from provenance.royalty.likelihoods import likelihoods
from tasks.cluster import open_cluster
from tasks.settings import Settings, load

WORK = "work"


@dataclass(frozen=True)
class Request:
    """What `provenance attribute` is asked for.

    Attributes:
        day: on which claims must be valid.
        counterfactuals: a folder that `provenance counterfactuals` wrote, by which components of influence are weighed.
    """

    corpus: Path
    model: Path
    outputs: Path
    out: Path
    day: date
    counterfactuals: Path | None = None


def local_settings(*, method: str = "fitted", device: str, workers: int | None) -> Settings:
    """The settings file's, with the method and the machine that are asked for.

    Args:
        device: `auto`, `cpu` or `cuda`; the last without a GPU is an error, never a silent fallback.
        workers: by default one for each GPU or core.
    """
    settings = load()
    gpus = gpu_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise SettingsError("--device", expected="a CUDA device and CuPy", found="none", hint="Use --device cpu or auto.")
    influence = settings.influence.model_copy(update={"method": method})
    count = workers or gpus or len(os.sched_getaffinity(0))
    cluster = settings.cluster.model_copy(
        # In processes of their own, which no Airflow forbids here.
        update={"address": "", "device": "cuda" if gpus else "cpu", "workers": count, "processes": count > 1 or bool(gpus)}
    )
    return settings.model_copy(update={"influence": influence, "cluster": cluster})


@contextmanager
def opened(request: Request, settings: Settings) -> Iterator[tuple[Settings, Night]]:
    """The request's inputs, checked and frozen in the work folder, and settings for its store and a cluster that runs."""
    settings = settings.at(request.out / WORK, request.model.resolve())
    method = influence_method(settings)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContractError(f"--out {request.out}", expected="a folder to write to", found=str(error)) from error
    store = settings.store.open()
    frozen = freeze_folder(store, request.corpus, settings.corpus.shard_examples)
    model = read_model(request.model)
    outputs = read_output_file(Store(f"file://{request.outputs.resolve().parent}", {}), request.outputs.name)
    if outputs.is_empty():
        raise ContractError(str(request.outputs), expected="at least one output", found="none")
    outputs, brought = with_modality(store, frozen, outputs), partial(bring, request.counterfactuals)
    night = freeze_night(settings, request.day, frozen, model, outputs, counterfactuals=brought, method=method, contract={})
    with open_cluster(settings.cluster) as client:  # one for all stages: starting one takes longer than many a stage
        cluster = settings.cluster.model_copy(update={"address": client.scheduler_info()["address"]})
        yield settings.model_copy(update={"cluster": cluster}), night


def bring(folder: Path | None, subject: Subject) -> dict[str, str]:
    """Copy a set of counterfactual models beside what is computed: digest of each model's folder by name.

    Args:
        folder: where the set lies; None for no set.

    Raises:
        InputError: there are none of this model, or one is not what it says.
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
    return in_use(subject, copied)


def attribute(request: Request, settings: Settings) -> dict[str, Any]:
    """Write `scores.parquet`, `owner_influence.parquet`, `examples.parquet` and, last, `manifest.json`; returns the manifest.

    Args:
        settings: method, projection and cluster; their store and model are replaced by the request's.
    """
    with opened(request, settings) as (here, night):
        keep = score_every_example(night, here)
        store = here.store.open()
        names = read_manifest(store, night.folder, "scores")["components"]
        weights, report = default_weights(names), {"weights": "default"}
        if night.counterfactuals:
            likelihoods(night.folder, here)
            found = estimate_copies(store, night, "off", corpus_holdings(store, night, "off"), here)
            weights, report = found.weights, found.report
    said = {"components": dict(zip(names, weights.tolist(), strict=True)), **report}
    return _write(request, store, night, keep, {"parameters_covered": covered(night, here), "counterfactuals": said})


def score_every_example(night: Night, settings: Settings) -> str:
    """Run the stages of a night that pays nobody; returns the folder of the store with every example's scores."""
    keep = f"{night.folder}/every"
    shard(night.folder, settings)
    featurise(night.folder, settings)
    fit_curvature(night.folder, settings)
    score(night.folder, settings, keep=keep)
    return keep


def _write(request: Request, store: Store, night: Night, keep: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The tables, and the manifest that makes them real."""
    manifest_file = request.out / "manifest.json"
    manifest_file.unlink(missing_ok=True)
    weights = np.array(list(facts["counterfactuals"]["components"].values()))
    parts, owners = [], []
    parties = read_parties(store, night.folder, "off")
    for number in range(len(night.parts)):
        influence = read_influence(store, night, "off", number)
        summed = np.einsum("k,kqn->qn", weights, influence.sums)
        owners.append(party_influence(parties, summed, influence.output_ids))
        parts.append(every_score(store, night, keep, number, weights))
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
