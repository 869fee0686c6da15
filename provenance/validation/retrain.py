"""Retraining, as audits and appeals need it: what the outputs' losses are after training on some of the examples.

audits/truth/<digest>.parquet    losses under one model; found again, it is not trained again
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from provenance.core.store import Store, digest
from provenance.inputs.night import Night
from provenance.models.counterfactuals import (
    WORKS,
    Subject,
    check_alike,
    check_trainable,
    compute_trainings,
    recipe_of,
    train_model,
)
from provenance.models.model import all_losses, read_model
from tasks.settings import Settings

log = logging.getLogger("provenance.retrain")

BATCH = 64
# Raised when a built-in adapter trains otherwise: what was trained before is not the truth of what is trained now.
VERSION = 3
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
    def key(self) -> str:
        """Where the losses lie."""
        return f"{TRUTH}/{self.name}.parquet"


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
    """What `retrain` computes, mask by mask; nothing is trained yet. ModelError: nothing says how to train."""
    subject = Subject.of(settings.store.open(), night, settings.model.cache)
    model, contents = subject.open(), subject.read("content_sha256")["content_sha256"].to_numpy()
    check_trainable(model)
    base = model.files[model.card.checkpoints[0].file]
    made_of = {"version": VERSION, "recipe": recipe_of(model), "base": base, "outputs": _outputs(subject.store, night)}
    found = []
    for mask, seed in zip(masks, seeds, strict=True):
        inside = tuple(np.flatnonzero(mask).tolist())
        name = digest({**made_of, "examples": contents[mask].tolist(), "seed": seed})
        found.append(Job(name, inside, seed, -1 if inside else 0))
    return found


def base_and_served(settings: Settings, night: Night) -> np.ndarray:
    """Log-likelihoods of the outputs under the model before and after its training, `(2, outputs)`."""
    subject = Subject.of(settings.store.open(), night, settings.model.cache)
    made_of = {"version": VERSION, "model": night.model, "outputs": _outputs(subject.store, night)}
    files = [checkpoint.file for checkpoint in subject.open().card.checkpoints]
    passes = [Job(digest({**made_of, "checkpoint": files[at]}), (), None, at) for at in (0, -1)]
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
        shared = (Subject.of(store, night, settings.model.cache), night)
        compute_trainings(_losses_of, shared, lacking, settings.cluster, what=what, name=lambda job: job.key)
    log.info("%s: %d reused, %d trained", what, len(wanted) - len(lacking), len(lacking))
    return np.stack([store.read_table(job.key)["loss"].to_numpy() for job in wanted])


def _losses_of(shared: tuple[Subject, Night], job: Job) -> None:
    subject, night = shared
    outputs, model = night.read_outputs(subject.store).select("output_id", "content"), subject.open()
    with tempfile.TemporaryDirectory() as folder:
        if job.seed is not None:
            works = subject.read(*WORKS, rows=job.examples or [0])
            train_model(model, works, seed=job.seed, folder=Path(folder) / "model")
            trained = read_model(Path(folder) / "model")
            check_alike(model, trained)
            model = trained
        module = model.load(model.card.checkpoints[job.checkpoint])
        found = all_losses(model.adapter(), module, outputs["content"].to_list(), batch_size=BATCH)
    subject.store.write_table(job.key, outputs.select("output_id").with_columns(loss=found))
