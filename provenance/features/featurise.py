"""Computes and writes the features of a part on a worker, and reads them back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of
from provenance.core.errors import ExampleError, ModelError, StoreError, in_batch
from provenance.core.rows import Rows, decode, encode
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.corpus.shards import part_key
from provenance.features import statistics
from provenance.features.gradients import gradient_features
from provenance.features.layers import layout
from provenance.features.plan import FeatureFile, comparisons_of
from provenance.features.projection import Projection
from provenance.features.words import word_features
from provenance.inputs.methods import FACTORED, WORDS
from provenance.inputs.night import Night
from provenance.models.frozen import fetch_model, open_model
from provenance.models.model import Adapter, examples_in


@dataclass(frozen=True)
class Featuriser:
    """The settings with which workers compute a night's features."""

    store: Store
    model: str
    model_files: dict[str, str]
    cache: Path
    projection: Projection
    bits: dict[str, int]
    batch_size: int
    device: str

    def open(self, checkpoint: str) -> tuple[Adapter, torch.nn.Module]:
        """The adapter, and the module at a checkpoint."""
        return open_model(self.store, self.model, self.model_files, checkpoint, cache=self.cache, device=self.device)


def featuriser(where: Where, night: Night) -> Featuriser:
    """The featuriser of a night."""
    return Featuriser(
        where.store,
        night.model,
        night.model_files,
        where.settings.model.cache,
        Projection(**night.method["projection"]),
        night.method["bits"],
        where.settings.features.batch_size,
        where.workers.device,
    )


def coverage(where: Where, night: Night) -> dict[str, Any] | None:
    """The `share` of parameters that features cover, and sizes of those `left_out`; None if the method uses no gradients."""
    if FACTORED not in comparisons_of(night):
        return None
    model = fetch_model(where.store, night.model, night.model_files, where.settings.model.cache)
    shape = layout(model.adapter().module(), Projection(**where.settings.features.projection))
    return {"share": shape.covered, "left_out": shape.left_out}


def read_features(store: Store, file: FeatureFile, device: str = "cpu") -> Rows:
    """Read a feature file; StoreError if it has another number of examples."""
    rows = decode(load_tensors(store.read(file.key)), namespace_of(device))
    if rows.examples != file.rows:
        found = f"of {rows.examples}"
        raise StoreError(store.locate(file.key), expected=f"features of {file.rows} examples", found=found)
    return rows


def features_of(featuriser: Featuriser, kind: str, checkpoint: str) -> Callable[[pl.DataFrame], Rows]:
    """A function from a table with `content`, `prompt` and `modality` to features of a kind; the model is opened once.

    Words are those of contents: an output owes nothing for words of its prompt.
    """
    if kind == WORDS:
        return lambda frame: word_features(frame["content"].to_list(), frame["modality"].to_list())
    adapter, module = featuriser.open(checkpoint)
    projection, batch_size = featuriser.projection, featuriser.batch_size
    return lambda frame: gradient_features(
        adapter, module, examples_in(frame), projection=projection, checkpoint=checkpoint, batch_size=batch_size
    )


def _raise_by_id(features: Callable[[pl.DataFrame], Rows], frame: pl.DataFrame) -> None:
    """Raise ModelError with the id of the first example that fails alone; the error of a batch names only a row."""
    name = next(column for column in ("example_id", "output_id") if column in frame.columns)
    for row in frame.iter_slices(1):
        try:
            features(row)
        except ExampleError as error:
            where = f"{name} {row[name][0]!r}"
            where += "" if error.where == in_batch(0) else f": {error.where}"
            raise ModelError(where, expected=error.expected, found=error.found, hint=error.hint) from error


def featurise_one(featuriser: Featuriser, file: FeatureFile) -> str:
    """Compute and write the features of one part and their statistics; returns the key."""
    frame = featuriser.store.read_table(part_key(file.part))
    features = features_of(featuriser, file.kind, file.checkpoint)
    try:
        rows = features(frame)
    except ExampleError:
        _raise_by_id(features, frame)
        raise
    bits = {"dense": 32, "sparse": 32} if file.kind == WORDS else featuriser.bits  # word counts stay exact
    tensors = encode(rows, dense_bits=bits["dense"], sparse_bits=bits["sparse"])
    metadata = {"kind": file.kind, "checkpoint": file.checkpoint}
    featuriser.store.write(file.statistics, save_tensors(statistics.to_tensors(statistics.gather(rows))))
    featuriser.store.write(file.key, save_tensors(tensors, metadata=metadata))
    return file.key
