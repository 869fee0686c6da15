"""Fits each source of influence of a night to the corpus on the workers, and stores the result.

Sums over all shards give the row weights. A sample of examples, with targets sampled from the model, gives the curvature. The
workers add up both, pair by pair. Stored features of some examples give the scale. The result is reused while corpus, model and
method stay the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import polars as pl
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of
from provenance.core.rows import concatenate, some
from provenance.core.store import Store
from provenance.core.where import Where, on_device
from provenance.corpus.shards import part_key, read_part
from provenance.features import statistics
from provenance.features.featurise import Featuriser, featuriser, read_features
from provenance.features.plan import FeatureFile, Plan, comparisons_of, fitted_key
from provenance.features.sampled import DATA, sampled_features
from provenance.influence.methods import Fitted, Sampled, fit, from_tensors, join, sampled_of, to_tensors
from provenance.inputs.night import Night
from provenance.models.model import examples_in

log = logging.getLogger("provenance.curvature")

# Examples of the sample in one task.
CHUNK = 64
# Statistics files in one task.
GROUP = 64
# Examples of the sample that set the scale.
SCALE_EXAMPLES = 256


@dataclass(frozen=True)
class _Chunk:
    """Consecutive examples of the sample, at one checkpoint."""

    part: str
    start: int
    checkpoint: str
    draws: int


@dataclass(frozen=True)
class _Source:
    """What a source of influence is fitted to.

    Attributes:
        rows: by feature file, its rows that set the scale.
    """

    store: Store
    rows: list[tuple[FeatureFile, list[int]]]
    sums: statistics.Statistics
    sampled: Sampled | None


def fit_source(where: Where, night: Night, plan: Plan, source: str) -> None:
    """Fit one source on the workers, and write the result."""
    files, _ = plan.of(source)
    groups = [tuple(files[start : start + GROUP]) for start in range(0, len(files), GROUP)]
    sums = where.workers.reduce(_gather, where.store, groups, _merge, what=f"statistics of {source}")
    sampled = None
    if comparisons_of(night)[files[0].kind] == "curved":
        chunks = [
            _Chunk(plan.sample.sha256, start, files[0].checkpoint, night.method["draws"])
            for start in range(0, plan.sample.rows, CHUNK)
        ]
        sampled = where.workers.reduce(_sample, featuriser(where, night, plan), chunks, join, what=f"curvature of {source}")
    item = _Source(where.store, _rows_of_scale(where.store, plan, files), sums, sampled)
    fitted = on_device(where, _fit, item, what=f"fit of {source}")
    where.store.write(fitted_key(night, plan, source), save_tensors(to_tensors(fitted)))
    _log_damping(source, fitted)


def _fit(device: str, source: _Source) -> Fitted:
    examples = concatenate([some(read_features(source.store, file), np.asarray(rows)) for file, rows in source.rows])
    return fit(source.sums, examples, source.sampled, namespace_of(device))


def _rows_of_scale(store: Store, plan: Plan, files: Sequence[FeatureFile]) -> list[tuple[FeatureFile, list[int]]]:
    """The rows that set the scale: those of a part of the sample, which does not depend on how shards are cut."""
    sample = read_part(store, plan.sample.sha256, "part", "row")
    places = np.linspace(0, sample.height - 1, min(SCALE_EXAMPLES, sample.height)).astype(np.int64)  # it is sorted by length
    rows = sample[places].group_by("part").agg(pl.col("row").unique().sort())
    chosen = dict(rows.iter_rows())
    return [(file, chosen[file.part]) for file in files if file.part in chosen]


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
    """Gradients of a chunk's examples for sampled targets."""
    examples = examples_in(featuriser.store.read_table(part_key(chunk.part)).slice(chunk.start, CHUNK))
    adapter, module = featuriser.open(chunk.checkpoint)
    passes = list(sampled_features(adapter, module, examples, **featuriser.passes(chunk.checkpoint), draws=chunk.draws))
    if any(each.law == DATA for each in passes):
        log.warning("%s: targets cannot be sampled from this loss; curvature rests on the data's own", chunk.checkpoint)
    return sampled_of(passes, len(examples))


def _log_damping(source: str, fitted: Fitted) -> None:
    dampings = [
        f"{name} damping {part.damping:.2g} of the mean eigenvalue"
        for name, part in (("dense", fitted.dense), ("sparse", fitted.landmarks))
        if part is not None
    ]
    log.info("%s: %s", source, ", ".join(dampings) or "no curvature needed")
