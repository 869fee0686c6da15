"""Retraining, as audits and appeals need it: what the outputs' losses are after training on some of the examples.

audits/truth/<digest>.parquet    losses under one model; found again, it is not trained again
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.store import digest
from provenance.features.model import all_losses, read_model
from tasks.counterfactuals import check_trainable, compute_trainings, train_model
from tasks.models import fetch_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.store import Store
    from provenance.features.model import Model
    from tasks.night import Night
    from tasks.settings import Settings

log = logging.getLogger("provenance.retrain")

BATCH = 64
# Raised when a built-in adapter trains otherwise: what was trained before is not the truth of what is trained now.
VERSION = 2
TRUTH = "audits/truth"


@dataclass(frozen=True)
class Job:
    """Losses to be had under one model.

    Attributes:
        name: the digest of all that decides them.
        examples: what to train on, by their places in the order of the shards.
        seed: of the training; None for the model served, as it is.
        checkpoint: the base (0) or the last (-1); who trains on nothing has the base.
    """

    name: str
    examples: tuple[int, ...]
    seed: int | None
    checkpoint: int

    @property
    def called(self) -> str:
        """What people read of it."""
        return self.key

    @property
    def key(self) -> str:
        """Where the losses lie."""
        return f"{TRUTH}/{self.name}.parquet"


@dataclass(frozen=True)
class _Work:
    """What every worker needs to retrain."""

    store: Store
    night: Night
    cache: str

    @property
    def model(self) -> Model:
        """The model served, on this machine."""
        return fetch_model(self.store, self.night.model, self.night.model_files, self.cache)


def retrain(settings: Settings, night: Night, masks: np.ndarray, seeds: int | Sequence[int], what: str) -> np.ndarray:
    """Losses of the outputs after training on each of the masks, `(masks, outputs)`; what the store has is not repeated.

    Args:
        masks: which examples are in, `(masks, examples)`; where none is, the model is the one before its first step.
        seeds: one for all, or one for each mask.
    """
    if isinstance(seeds, int):
        what, seeds = f"{what}, seed {seeds}", [seeds] * len(masks)
    return losses(settings, night, jobs(settings, night, masks, seeds), f"retraining on {what}")


def jobs(settings: Settings, night: Night, masks: np.ndarray, seeds: Sequence[int]) -> list[Job]:
    """What `retrain` computes, mask by mask; nothing is trained yet.

    Raises:
        ModelError: nothing says how the model is trained.
    """
    store = settings.store.open()
    model = _Work(store, night, settings.model.cache).model
    check_trainable(model)
    made_of = {"version": VERSION, "architecture": model.architecture(), "outputs": _outputs(store, night)}
    contents = night.read_corpus(store, "content_sha256")["content_sha256"].to_numpy()
    found = []
    for mask, seed in zip(masks, seeds, strict=True):
        inside = tuple(np.flatnonzero(mask).tolist())
        name = digest({**made_of, "examples": contents[mask].tolist(), "seed": seed})
        found.append(Job(name, inside, seed, -1 if inside else 0))
    return found


def base_and_served(settings: Settings, night: Night) -> np.ndarray:
    """Log-likelihoods of the outputs under the model before and after its training, `(2, outputs)`."""
    store = settings.store.open()
    checkpoints = _Work(store, night, settings.model.cache).model.card.checkpoints
    made_of = {"version": VERSION, "model": night.model, "outputs": _outputs(store, night)}
    passes = [Job(digest({**made_of, "checkpoint": checkpoints[at].file}), (), None, at) for at in (0, -1)]
    return -losses(settings, night, passes, "likelihoods of outputs")


def _outputs(store: Store, night: Night) -> list[tuple[str, ...]]:
    return night.read_outputs(store).select("output_id", "content_sha256").rows()


def missing(store: Store, wanted: Sequence[Job]) -> list[Job]:
    """Those that the store lacks, once each."""
    there = set(store.list(TRUTH))
    return list({job.key: job for job in wanted if job.key not in there}.values())


def losses(settings: Settings, night: Night, wanted: Sequence[Job], what: str) -> np.ndarray:
    """Losses of the outputs, `(jobs, outputs)`; computed on the cluster where the store lacks them."""
    store = settings.store.open()
    lacking = missing(store, wanted)
    if lacking:
        work = _Work(store, night, settings.model.cache)
        compute_trainings(_losses_of, work, lacking, settings.cluster, what=what)
    log.info("%s: %d reused, %d trained", what, len(wanted) - len(lacking), len(lacking))
    return np.stack([store.read_table(job.key)["loss"].to_numpy() for job in wanted])


def _losses_of(work: _Work, job: Job) -> None:
    outputs = work.night.read_outputs(work.store).select("output_id", "content")
    model = work.model
    with tempfile.TemporaryDirectory() as folder:
        if job.seed is not None:
            columns = ("work_id", "example_id", "position", "content_sha256", "content")
            examples = work.night.read_corpus(work.store, *columns, rows=job.examples or [0])
            train_model(model, examples, seed=job.seed, folder=Path(folder) / "model")
            model = read_model(Path(folder) / "model")
        module = model.load(model.card.checkpoints[job.checkpoint])
        found = all_losses(model.adapter(), module, outputs["content"].to_list(), batch_size=BATCH)
    work.store.write_table(job.key, outputs.select("output_id").with_columns(loss=found))
