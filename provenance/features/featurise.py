"""Computes and writes the features of a part on a worker, and reads them back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of
from provenance.core.errors import ExampleError, SettingsError, StoreError
from provenance.core.overlap import begin_download, begin_upload, behind
from provenance.core.rows import Rows, decode, narrow, quantise, to_move
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.corpus.shards import part_key
from provenance.features import statistics
from provenance.features.gradients import gradient_features, without_gradient
from provenance.features.night_check import raise_by_id, read_check
from provenance.features.plan import FeatureFile, Plan
from provenance.features.projection import Projection
from provenance.features.report import Following
from provenance.features.room import TRANSIENT, of_memory
from provenance.features.words import word_features
from provenance.inputs.methods import WORDS
from provenance.inputs.night import Night
from provenance.models.frozen import open_model
from provenance.models.model import Adapter, examples_in

log = logging.getLogger("provenance.featurise")


@dataclass(frozen=True)
class Featuriser:
    """The settings with which workers compute a night's features.

    Attributes:
        memory: bytes that autograd may keep in a pass; less where the check of the model measured a GPU that has less.
        following: how the model is followed, as its check found; None if the method uses no gradients.
    """

    store: Store
    model: str
    model_files: dict[str, str]
    cache: Path
    projection: Projection
    bits: dict[str, int]
    batch_size: int
    memory: float
    device: str
    precision: str
    following: Following | None

    def passes(self, checkpoint: str) -> dict[str, Any]:
        """The arguments of `gradient_features` and `sampled_features` for a checkpoint."""
        return {
            "projection": self.projection,
            "checkpoint": checkpoint,
            "batch_size": self.batch_size,
            "memory": self.memory,
            "following": self.following,
        }

    def open(self, checkpoint: str) -> tuple[Adapter, torch.nn.Module]:
        """The adapter, and the module at a checkpoint."""
        return open_model(
            self.store,
            self.model,
            self.model_files,
            checkpoint,
            cache=self.cache,
            device=self.device,
            precision=self.precision,
        )


def featuriser(where: Where, night: Night, plan: Plan | None = None) -> Featuriser:
    """The featuriser of a night; before it has a plan, one that only opens models."""
    return Featuriser(
        where.store,
        night.model,
        night.model_files,
        where.settings.model.cache,
        Projection(**night.method["projection"]),
        night.method["bits"],
        where.settings.features.batch_size,
        where.settings.features.memory_gb * 1e9 / TRANSIENT,
        where.workers.device,
        night.precision,
        read_check(where.store, plan.check).following if plan and plan.check else None,
    )


def read_features(store: Store, file: FeatureFile, device: str = "cpu") -> Rows:
    """Read a feature file; StoreError if it has another number of examples."""
    return begin_reading(store, device, file)()


def begin_reading(store: Store, device: str, file: FeatureFile) -> Callable[[], Rows]:
    """Read a feature file and begin to copy it to a device; returns a function that gives its rows there (`read_features`)."""
    tensors = load_tensors(store.read(file.key))
    if (found := int(tensors["facts"][0])) != file.rows:
        raise StoreError(store.locate(file.key), expected=f"features of {file.rows} examples", found=f"of {found}")
    receive = begin_upload(to_move(tensors), device)
    return lambda: decode(tensors, namespace_of(device), receive())


def features_of(featuriser: Featuriser, kind: str, checkpoint: str) -> Callable[[pl.DataFrame], Rows]:
    """A function from a table with `content`, `prompt` and `modality` to features of a kind; the model is opened once.

    Words are those of contents: an output owes nothing for words of its prompt.
    """
    if kind == WORDS:
        return lambda frame: word_features(frame["content"].to_list(), frame["modality"].to_list())
    adapter, module = featuriser.open(checkpoint)
    return lambda frame: gradient_features(adapter, module, examples_in(frame), **featuriser.passes(checkpoint))


def featurise_some(featuriser: Featuriser, files: Sequence[FeatureFile]) -> None:
    """Compute and write the features of parts; on a GPU those of one are copied and written while the next are computed."""
    with behind(overlap=featuriser.device != "cpu") as later:
        for file in files:
            later(_computed(featuriser, file))


def featurise_one(featuriser: Featuriser, file: FeatureFile) -> str:
    """Compute and write the features of one part and their statistics; returns the key."""
    return _computed(featuriser, file)()


def _computed(featuriser: Featuriser, file: FeatureFile) -> Callable[[], str]:
    """Compute the features of one part and their statistics; returns a function that writes them and returns the key."""
    frame = featuriser.store.read_table(part_key(file.part))
    features = features_of(featuriser, file.kind, file.checkpoint)
    try:
        rows = features(frame)
    except ExampleError:
        raise_by_id(features, frame)
        raise
    except (MemoryError, RuntimeError) as error:
        if not of_memory(error):
            raise
        # Smaller batches would round otherwise than those of a worker with more memory.
        expected, found = "passes that fit the memory of every worker", str(error).partition("\n")[0]
        hint = f"Set it below {featuriser.memory * TRANSIENT / 1e9:.3g}, or leave the memory to one worker."
        raise SettingsError("features.memory_gb", expected=expected, found=found, hint=hint) from error
    if file.kind != WORDS and (none := without_gradient(rows)):
        log.warning("part %s at %s: %d of %d examples have no gradient", file.part, file.checkpoint, none, rows.examples)
    bits = {"dense": 32, "sparse": 32} if file.kind == WORDS else featuriser.bits  # word counts stay exact
    receive = begin_download(quantise(rows, dense_bits=bits["dense"], sparse_bits=bits["sparse"]))
    sums = statistics.to_tensors(statistics.gather(rows))

    def write() -> str:
        metadata = {"source": file.source}  # safetensors writes several keys in any order
        featuriser.store.write(file.statistics, save_tensors(sums))
        featuriser.store.write(file.key, save_tensors(narrow(receive()), metadata=metadata))
        return file.key

    return write
