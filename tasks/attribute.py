"""Influence without money: a corpus folder, a model folder and a file of outputs in, tables out. No database, no Airflow.

The stages are the night's own. What they keep on the way (frozen inputs, features, curvature) lies in `work/` below the
result, so that the same command again, or with other outputs, computes what is new alone.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.arrays import gpu_count
from provenance.core.contracts import ESCROW
from provenance.core.errors import ContractError, SettingsError
from provenance.core.store import Store, canonical_json, sha256
from provenance.corpus.examples import read_corpus
from provenance.corpus.outputs import read_output_file
from provenance.corpus.shards import freeze_corpus
from provenance.features.model import read_model
from tasks.cluster import open_cluster
from tasks.curvature import fit_curvature
from tasks.featurise import covered, featurise
from tasks.freeze import chosen_checkpoints, freeze_model, freeze_outputs, influence_method, with_modality
from tasks.night import Night, read_written
from tasks.score import score
from tasks.settings import Settings, load
from tasks.shard import shard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

WORK = "work"


@dataclass(frozen=True)
class Request:
    """What `provenance attribute` is asked for.

    Attributes:
        day: on which claims must be valid.
    """

    corpus: Path
    model: Path
    outputs: Path
    out: Path
    day: date


def local_settings(*, method: str, hybrid_weight: float | None, device: str, workers: int | None) -> Settings:
    """The settings file's, with the method and the machine that are asked for.

    Args:
        device: `auto`, `cpu` or `cuda`; the last without a GPU is an error, never a silent fallback.
        workers: by default one for each GPU or core.
    """
    settings = load()
    gpus = gpu_count() if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise SettingsError("--device", expected="a CUDA device and CuPy", found="none", hint="Use --device cpu or auto.")
    influence = settings.influence.model_copy(update={"method": method, "hybrid_weight": hybrid_weight})
    count = workers or gpus or len(os.sched_getaffinity(0))
    cluster = settings.cluster.model_copy(
        # In processes of their own, which no Airflow forbids here.
        update={"address": "", "device": "cuda" if gpus else "cpu", "workers": count, "processes": count > 1 or bool(gpus)}
    )
    return settings.model_copy(update={"influence": influence, "cluster": cluster})


@contextmanager
def opened(request: Request, settings: Settings) -> Iterator[tuple[Settings, Night]]:
    """The request's inputs, checked and frozen in the work folder, and settings for its store and a cluster that runs.

    Raises:
        InputError: naming file, row, column, expected and found.
    """
    settings = settings.at(request.out / WORK, request.model.resolve())
    method = influence_method(settings) | {"values": None}
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContractError(f"--out {request.out}", expected="a folder to write to", found=str(error)) from error
    store = settings.store.open()
    if not request.corpus.is_dir():
        raise ContractError(str(request.corpus), expected="a corpus folder with examples.parquet", found="no such folder")
    corpus = read_corpus(Store(f"file://{request.corpus.resolve().parent}", {}), request.corpus.resolve().name)
    model = read_model(request.model)
    outputs = read_output_file(Store(f"file://{request.outputs.resolve().parent}", {}), request.outputs.name)
    if outputs.is_empty():
        raise ContractError(str(request.outputs), expected="at least one output", found="none")
    frozen = freeze_corpus(store, corpus, shard_examples=settings.corpus.shard_examples)
    outputs = with_modality(store, frozen, outputs)
    night = Night(
        day=str(request.day),
        corpus=frozen.digest,
        outputs=freeze_outputs(store, outputs),
        model=freeze_model(store, model),
        model_id=model.card.model_id,
        model_files=model.files,
        checkpoints=chosen_checkpoints(model, settings),
        method=method,
        contract={},
    )
    store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
    with open_cluster(settings.cluster) as client:  # one for all stages: starting one takes longer than many a stage
        cluster = settings.cluster.model_copy(update={"address": client.scheduler_info()["address"]})
        yield settings.model_copy(update={"cluster": cluster}), night


def attribute(request: Request, settings: Settings) -> dict[str, Any]:
    """Write `scores.parquet`, `owner_influence.parquet`, `examples.parquet` and, last, `manifest.json`; returns the manifest.

    Args:
        settings: method, projection and cluster; their store and model are replaced by the request's.

    Raises:
        InputError: naming file, row, column, expected and found.
    """
    with opened(request, settings) as (here, night):
        keep = score_every_example(night, here)
    store = here.store.open()
    return _write(request, store, night, keep, covered(night, here))


def score_every_example(night: Night, settings: Settings) -> str:
    """Run the stages of a night that pays nobody; returns the folder of the store with every example's scores."""
    keep = f"{night.folder}/every"
    shard(night.folder, settings)
    featurise(night.folder, settings)
    fit_curvature(night.folder, settings)
    score(night.folder, settings, keep=keep)
    return keep


def _write(request: Request, store: Store, night: Night, keep: str, covered: dict[str, Any] | None) -> dict[str, Any]:
    """The tables, and the manifest that makes them real."""
    manifest_file = request.out / "manifest.json"
    manifest_file.unlink(missing_ok=True)
    parts = sorted((request.out / WORK / keep).glob("*.parquet"))
    pl.scan_parquet(parts).sink_parquet(request.out / "scores.parquet", compression="zstd")
    influence = read_written(store, night.folder, "scores", "party_influence.parquet")
    owners = influence.group_by("output_id", owner_id="party_id", escrow=pl.col("account") == ESCROW).agg(
        pl.col("influence").sum()
    )
    owners = owners.select("output_id", "owner_id", "influence", "escrow").sort("output_id", "owner_id")
    owners.write_parquet(request.out / "owner_influence.parquet")
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
        "parameters_covered": covered,
        "writes": {name: sha256((request.out / name).read_bytes()) for name in files},
    }
    manifest_file.write_bytes(canonical_json(manifest))
    return manifest
