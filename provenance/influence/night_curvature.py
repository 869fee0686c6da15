"""Fits each source of influence of a night to the corpus on the workers, and stores the result.

Sums over all shards give the row weights. A sample of examples, with targets sampled from the model, gives the curvature. The
workers add up both, pair by pair. The result is reused while corpus, model and method stay the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace, namespace_of, to_numpy
from provenance.core.rows import concatenate, move
from provenance.core.store import Store
from provenance.core.where import Where, on_device
from provenance.corpus.shards import part_key
from provenance.features import statistics
from provenance.features.featurise import Featuriser, features_of, featuriser
from provenance.features.plan import FeatureFile, Plan, comparisons_of, fitted_key
from provenance.features.sampled import DATA, sampled_features
from provenance.influence.curvature import gram
from provenance.influence.methods import Fitted, Sampled, fit, from_tensors, to_tensors
from provenance.inputs.night import Night
from provenance.models.model import examples_in

log = logging.getLogger("provenance.curvature")

# Examples of the sample in one task.
CHUNK = 64
# Statistics files in one task.
GROUP = 64


@dataclass(frozen=True)
class _Chunk:
    """Consecutive examples of the sample, for one source."""

    part: str
    start: int
    kind: str
    checkpoint: str
    comparison: str
    draws: int


def fit_source(where: Where, night: Night, plan: Plan, source: str) -> None:
    """Fit one source on the workers, and write the result."""
    files, _ = plan.of(source)
    kind, checkpoint = files[0].kind, files[0].checkpoint
    comparison = comparisons_of(night)[kind]
    groups = [tuple(files[start : start + GROUP]) for start in range(0, len(files), GROUP)]
    sums = where.workers.reduce(_gather, where.store, groups, _merge, what=f"statistics of {source}")
    chunks = [
        _Chunk(plan.sample.sha256, start, kind, checkpoint, comparison, night.method["draws"])
        for start in range(0, plan.sample.rows, CHUNK)
    ]
    sampled = where.workers.reduce(_sample, featuriser(where, night, plan), chunks, _join, what=f"curvature of {source}")
    fitted = on_device(where, _fit, (comparison, sums, sampled), what=f"fit of {source}")
    where.store.write(fitted_key(night, plan, source), save_tensors(to_tensors(fitted)))
    _log_damping(source, fitted)


def _fit(device: str, source: tuple[str, statistics.Statistics, Sampled]) -> Fitted:
    return fit(*source, namespace_of(device))


def read_fitted(store: Store, night: Night, plan: Plan, source: str) -> Fitted:
    """A source's fitted comparison."""
    files, _ = plan.of(source)
    comparison = comparisons_of(night)[files[0].kind]
    return from_tensors(comparison, load_tensors(store.read(fitted_key(night, plan, source))))


def _gather(store: Store, files: tuple[FeatureFile, ...]) -> statistics.Statistics:
    return _merge([statistics.from_tensors(load_tensors(store.read(file.statistics))) for file in files])


def _merge(parts: Sequence[statistics.Statistics]) -> statistics.Statistics:
    return reduce(statistics.merge, parts)


def _sample(featuriser: Featuriser, chunk: _Chunk) -> Sampled:
    """The features of a chunk's examples, and of targets sampled for them."""
    frame = featuriser.store.read_table(part_key(chunk.part)).slice(chunk.start, CHUNK)
    if chunk.comparison != "curved":
        return Sampled(move(features_of(featuriser, chunk.kind, chunk.checkpoint)(frame), np))
    adapter, module = featuriser.open(chunk.checkpoint)
    batches = list(
        sampled_features(adapter, module, examples_in(frame), **featuriser.passes(chunk.checkpoint), draws=chunk.draws)
    )
    if any(batch.law == DATA for batch in batches):
        log.warning("%s: targets cannot be sampled from this loss; curvature rests on the data's own", chunk.checkpoint)
    xp = namespace(batches[0].terms)
    terms = xp.concat([batch.terms for batch in batches], axis=0)
    return Sampled(
        move(concatenate([batch.data for batch in batches[:: chunk.draws]]), np),  # each draw of a batch repeats its data
        move(concatenate([batch.sampled for batch in batches]), np),
        to_numpy(gram(terms)),
        len(terms),
    )


def _join(parts: Sequence[Sampled]) -> Sampled:
    data = concatenate([part.data for part in parts])
    if parts[0].total is None:
        return Sampled(data)
    landmarks = concatenate([part.landmarks for part in parts if part.landmarks is not None])
    total = sum(part.total for part in parts if part.total is not None)
    return Sampled(data, landmarks, np.asarray(total), sum(part.terms for part in parts))


def _log_damping(source: str, fitted: Fitted) -> None:
    dampings = [
        f"{name} damping {part.damping:.2g} of the mean eigenvalue"
        for name, part in (("dense", fitted.dense), ("sparse", fitted.landmarks))
        if part is not None
    ]
    log.info("%s: %s", source, ", ".join(dampings) or "no curvature needed")
