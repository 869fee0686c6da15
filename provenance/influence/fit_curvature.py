"""Stage `fit curvature`: what each source of influence needs of the corpus, kept for as long as corpus and model stay the same.

Sums over all shards give the row normalisers; a sample of examples, with targets sampled from the model, the curvature. Both
are added up on the cluster, pair by pair.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import to_numpy
from provenance.core.rows import concatenate, move
from provenance.core.store import Store, digest
from provenance.corpus.shards import part_key
from provenance.features.featurise import Recipe, close_models, features_of, recipe
from provenance.features.plan import FeatureFile, Plan, compared, load_plan
from provenance.features.sampled import DATA, sampled_features
from provenance.influence import statistics
from provenance.influence.curvature import gram
from provenance.influence.methods import Fitted, Sampled, fit, from_tensors, to_tensors
from provenance.inputs.night import Night, night_to_compute
from tasks.cluster import compute_tree, open_cluster
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.curvature")

# Examples of the sample that one task takes, and that one pass takes: fixed, so that no setting of shards, batches or workers
# changes what is sampled.
CHUNK, BATCH = 64, 16
# Statistics files that one task adds up.
GROUP = 64


@dataclass(frozen=True)
class _Chunk:
    """A stretch of the sample, for one source."""

    part: str
    start: int
    kind: str
    checkpoint: str
    comparison: str
    draws: int


def fit_curvature(folder: str, settings: Settings | None = None) -> str:
    """Fit what the store lacks; returns the night's folder."""
    settings, store = with_store(settings)
    night, plan = night_to_compute(store, folder), load_plan(store, folder)
    missing = [source for source in plan.sources if not store.exists(fitted_key(night, plan, source))]
    if missing:
        made = recipe(store, night, settings)
        with open_cluster(settings.cluster) as client:
            for source in missing:
                files, _ = plan.of(source)
                kind, checkpoint = files[0].kind, files[0].checkpoint
                comparison = compared(night)[kind]
                groups = [tuple(files[start : start + GROUP]) for start in range(0, len(files), GROUP)]
                sums = compute_tree(
                    client, _gather, store, groups, _merge, settings=settings.cluster, what=f"statistics of {source}"
                )
                chunks = [
                    _Chunk(plan.sample.sha256, start, kind, checkpoint, comparison, night.method["draws"])
                    for start in range(0, plan.sample.rows, CHUNK)
                ]
                sampled = compute_tree(
                    client, _sample, made, chunks, _join, settings=settings.cluster, what=f"curvature of {source}"
                )
                fitted = fit(comparison, sums, sampled)
                store.write(fitted_key(night, plan, source), save_tensors(to_tensors(fitted)))
                _tell(source, fitted)
            client.run(close_models)
    log.info("curvature: %d sources reused, %d computed", len(plan.sources) - len(missing), len(missing))
    return folder


def fitted_key(night: Night, plan: Plan, source: str) -> str:
    """Where what was fitted for a source lies."""
    files, _ = plan.of(source)
    made_of = {
        "features": sorted(file.key for file in files),
        "sample": plan.sample.content_digest,
        "comparison": compared(night)[files[0].kind],
        "draws": night.method["draws"],
        "version": night.method["versions"]["curvature"],
    }
    return f"curvature/{digest(made_of)}.safetensors"


def read_fitted(store: Store, night: Night, plan: Plan, source: str) -> Fitted:
    """What was fitted for a source."""
    files, _ = plan.of(source)
    comparison = compared(night)[files[0].kind]
    return from_tensors(comparison, load_tensors(store.read(fitted_key(night, plan, source))))


def _gather(store: Store, files: tuple[FeatureFile, ...]) -> statistics.Statistics:
    return _merge([statistics.from_tensors(load_tensors(store.read(file.statistics))) for file in files])


def _merge(parts: Sequence[statistics.Statistics]) -> statistics.Statistics:
    return reduce(statistics.merge, parts)


def _sample(made: Recipe, chunk: _Chunk) -> Sampled:
    """The features of a stretch of the sample, and of targets sampled for it."""
    frame = made.store.read_table(part_key(chunk.part)).slice(chunk.start, CHUNK)
    contents = frame["content"].to_list()
    if chunk.comparison != "curved":
        return Sampled(move(features_of(made, chunk.kind, chunk.checkpoint)(frame), np))
    adapter, module = made.open(chunk.checkpoint)
    where: dict[str, Any] = {"projection": made.projection, "checkpoint": chunk.checkpoint, "batch_size": BATCH}
    batches = list(sampled_features(adapter, module, contents, **where, draws=chunk.draws))
    if any(batch.law == DATA for batch in batches):
        log.warning("%s: targets cannot be sampled from this loss; curvature rests on the data's own", chunk.checkpoint)
    return Sampled(
        move(concatenate([batch.data for batch in batches[:: chunk.draws]]), np),  # it comes with each of a batch's draws
        move(concatenate([batch.sampled for batch in batches]), np),
        to_numpy(sum(gram(batch.terms) for batch in batches)),
        sum(len(batch.terms) for batch in batches),
    )


def _join(parts: Sequence[Sampled]) -> Sampled:
    data = concatenate([part.data for part in parts])
    if parts[0].total is None:
        return Sampled(data)
    landmarks = concatenate([part.landmarks for part in parts if part.landmarks is not None])
    total = sum(part.total for part in parts if part.total is not None)
    return Sampled(data, landmarks, np.asarray(total), sum(part.terms for part in parts))


def _tell(source: str, fitted: Fitted) -> None:
    found = [
        f"{name} damping {half.damping:.2g} of the mean eigenvalue"
        for name, half in (("dense", fitted.dense), ("sparse", fitted.landmarks))
        if half is not None
    ]
    log.info("%s: %s", source, ", ".join(found) or "no curvature needed")
