"""Stage `likelihoods`: how likely the day's outputs are under the model served, its base, and every counterfactual model.

One forward pass for each output and model.

likelihoods/<digest>.parquet     losses of a part of the outputs under one checkpoint: computed once
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import polars as pl

from provenance.core.errors import ExampleError, ModelError
from provenance.core.store import Store, canonical_json, digest
from provenance.corpus.shards import Part, part_key
from provenance.features.featurise import close_models, open_model
from provenance.inputs.night import Night, night_to_compute, read_manifest
from provenance.models.counterfactuals import read_record
from provenance.models.frozen import fetch_model
from provenance.models.model import all_losses
from tasks.cluster import compute, open_cluster
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.likelihoods")

BASE, SERVED = "base", "served"


@dataclass(frozen=True)
class _Checkpoint:
    """One set of weights: of a frozen model folder, the files and the checkpoint."""

    model: str
    files: dict[str, str]
    file: str


@dataclass(frozen=True)
class _Pass:
    """A part of the outputs under one checkpoint."""

    checkpoint: _Checkpoint
    part: str
    key: str


@dataclass(frozen=True)
class _Where:
    store: Store
    cache: str
    device: str
    batch_size: int


def likelihoods(folder: str, settings: Settings | None = None) -> str:
    """Compute what the store lacks, and write which files a night's likelihoods are; returns the night's folder."""
    settings, store = with_store(settings)
    if store.exists(f"{folder}/likelihoods.json"):
        log.info("likelihoods: reused")
        return folder
    night = night_to_compute(store, folder)
    checkpoints = _checkpoints(store, night, settings)
    keys = {name: [_key(night, checkpoint, part) for part in night.parts] for name, checkpoint in checkpoints.items()}
    passes = [
        _Pass(checkpoint, part.sha256, key)
        for name, checkpoint in checkpoints.items()
        for part, key in zip(night.parts, keys[name], strict=True)
    ]
    missing = list({each.key: each for each in passes if not store.exists(each.key)}.values())
    if missing:
        where = _Where(store, settings.model.cache, settings.cluster.device, settings.features.batch_size)
        with open_cluster(settings.cluster) as client:
            for _ in compute(client, _evaluate, where, missing, settings=settings.cluster, what="likelihoods of outputs"):
                pass
            client.run(close_models)
    log.info("likelihoods: %d reused, %d computed", len(passes) - len(missing), len(missing))
    store.write(f"{folder}/likelihoods.json", canonical_json({"files": keys}))
    return folder


def read_likelihoods(store: Store, folder: str) -> dict[str, np.ndarray]:
    """Log-likelihoods of all outputs, `(Q,)`, under `base`, `served` and every counterfactual model by name."""
    files = read_manifest(store, folder, "likelihoods")["files"]
    return {
        name: -np.concatenate([store.read_table(key)["loss"].to_numpy() for key in keys] or [np.zeros(0)])
        for name, keys in files.items()
    }


def _checkpoints(store: Store, night: Night, settings: Settings) -> dict[str, _Checkpoint]:
    """The model served before and after its training, and the last checkpoint of every counterfactual model."""
    card = fetch_model(store, night.model, night.model_files, settings.model.cache).card
    found = {
        BASE: _Checkpoint(night.model, night.model_files, card.checkpoints[0].file),
        SERVED: _Checkpoint(night.model, night.model_files, card.checkpoints[-1].file),
    }
    for name, folder in night.counterfactuals.items():
        record = read_record(store, night.model, name)
        if record.folder != folder:
            where = store.locate(record.key)
            raise ModelError(where, expected=f"the model folder {folder} that the night was frozen with", found=record.folder)
        found[name] = _Checkpoint(record.folder, record.files, record.checkpoint)
    return found


def _key(night: Night, checkpoint: _Checkpoint, part: Part) -> str:
    made_of = {
        "version": night.method["versions"]["likelihoods"],
        "model": checkpoint.model,
        "checkpoint": checkpoint.file,
        "content": part.content_digest,
    }
    return f"likelihoods/{digest(made_of)}.parquet"


def _evaluate(where: _Where, each: _Pass) -> str:
    frame = where.store.read_table(part_key(each.part), columns=["output_id", "content"])
    checkpoint = each.checkpoint
    adapter, module = open_model(
        where.store, checkpoint.model, checkpoint.files, checkpoint.file, cache=where.cache, device=where.device
    )
    try:
        losses = all_losses(adapter, module, frame["content"].to_list(), batch_size=where.batch_size)
    except ExampleError:
        for name, content in frame.iter_rows():
            try:
                all_losses(adapter, module, [content], batch_size=1)
            except ExampleError as error:
                raise ModelError(f"output_id {name!r}", expected=error.expected, found=error.found, hint=error.hint) from error
        raise
    where.store.write_table(each.key, pl.DataFrame({"loss": losses}))
    return each.key
