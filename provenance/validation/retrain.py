"""Retrains on some of the examples, for audits and appeals, and computes the outputs' losses.

audits/truth/<digest>.parquet    losses under one model; it is trained once
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from provenance.core.store import Store, digest
from provenance.core.where import Where
from provenance.corpus.delivery import identities
from provenance.inputs.night import Night, subject_of_night
from provenance.models.counterfactual_checks import check_same_recipe
from provenance.models.counterfactual_training import EXAMPLE_COLUMNS, compute_trainings
from provenance.models.model import all_losses, examples_in, read_model
from provenance.models.subject import Subject, recipe_of
from provenance.models.trainer import check_trainable, train_model

log = logging.getLogger("provenance.retrain")

BATCH = 64
# Raised when a built-in adapter trains differently, so that older losses are not reused.
VERSION = 4
TRUTH = "audits/truth"


@dataclass(frozen=True)
class Job:
    """Losses to compute under one model.

    Attributes:
        name: the digest of all inputs.
        examples: to train on, by their places in the order of the shards.
        seed: of the training; None for the model served, which is not retrained.
        checkpoint: the base (0) or the last (-1); a training on nothing has the base.
    """

    name: str
    examples: tuple[int, ...]
    seed: int | None
    checkpoint: int

    @property
    def key(self) -> str:
        """The key of the losses."""
        return f"{TRUTH}/{self.name}.parquet"


def retrain(where: Where, night: Night, masks: np.ndarray, seeds: int | Sequence[int], what: str) -> np.ndarray:
    """Losses of the outputs after training on each of the masks, `(masks, outputs)`; losses in the store are reused.

    Args:
        masks: the examples to train on, `(masks, examples)` bool; without examples the model is the one before its first step.
        seeds: one for all, or one for each mask.
    """
    if isinstance(seeds, int):
        what, seeds = f"{what}, seed {seeds}", [seeds] * len(masks)
    return losses(where, night, jobs(where, night, masks, seeds), f"retraining on {what}")


def jobs(where: Where, night: Night, masks: np.ndarray, seeds: Sequence[int]) -> list[Job]:
    """The jobs of `retrain`, one for each mask; nothing is trained yet. ModelError: the adapter has no training."""
    subject = _subject(where, night)
    model, contents = subject.open(), np.asarray(identities(subject.read("content_sha256", "prompt")))
    check_trainable(model)
    base = model.files[model.card.checkpoints[0].file]
    inputs = {"version": VERSION, "recipe": recipe_of(model), "base": base, "outputs": _outputs(subject.store, night)}
    wanted = []
    for mask, seed in zip(masks, seeds, strict=True):
        examples = tuple(np.flatnonzero(mask).tolist())
        name = digest({**inputs, "examples": contents[mask].tolist(), "seed": seed})
        wanted.append(Job(name, examples, seed, -1 if examples else 0))
    return wanted


def base_and_served(where: Where, night: Night) -> np.ndarray:
    """Log-likelihoods of the outputs under the model before and after its training, `(2, outputs)`."""
    subject = _subject(where, night)
    inputs = {"version": VERSION, "model": night.model, "outputs": _outputs(subject.store, night)}
    files = [checkpoint.file for checkpoint in subject.open().card.checkpoints]
    passes = [Job(digest({**inputs, "checkpoint": files[at]}), (), None, at) for at in (0, -1)]
    return -losses(where, night, passes, "likelihoods of outputs")


def _outputs(store: Store, night: Night) -> list[tuple[str, str]]:
    outputs = night.read_outputs(store)
    return list(zip(outputs["output_id"], identities(outputs), strict=True))


def missing(store: Store, wanted: Sequence[Job]) -> list[Job]:
    """The jobs that the store lacks, each once."""
    keys = set(store.list(TRUTH))
    return list({job.key: job for job in wanted if job.key not in keys}.values())


def losses(where: Where, night: Night, wanted: Sequence[Job], what: str) -> np.ndarray:
    """Losses of the outputs, `(jobs, outputs)`; the workers compute those that the store lacks."""
    lacking = missing(where.store, wanted)
    if lacking:
        shared = (_subject(where, night), night, where.workers.device)
        compute_trainings(where, _losses_of, shared, lacking, what=what, name=lambda job: job.key)
    log.info("%s: %d reused, %d trained", what, len(wanted) - len(lacking), len(lacking))
    return np.stack([where.store.read_table(job.key)["loss"].to_numpy() for job in wanted])


def _subject(where: Where, night: Night) -> Subject:
    return subject_of_night(where.store, night, where.settings.model.cache)


def _losses_of(shared: tuple[Subject, Night, str], job: Job) -> None:
    subject, night, device = shared
    outputs, model = night.read_outputs(subject.store), subject.open()
    with tempfile.TemporaryDirectory() as folder:
        # A training on nothing ends where it started.
        if job.seed is not None and (job.examples or model.card.training.start != "base"):
            works = subject.read(*EXAMPLE_COLUMNS, rows=job.examples or [0])
            train_model(model, works, seed=job.seed, folder=Path(folder) / "model", device=device, ends_only=True)
            trained = read_model(Path(folder) / "model", base=model.base)
            check_same_recipe(model, trained)
            model = trained
        module = model.load(model.card.checkpoints[job.checkpoint], device=device)
        values = all_losses(model.adapter(), module, examples_in(outputs), batch_size=BATCH)
    subject.store.write_table(job.key, outputs.select("output_id").with_columns(loss=values))
