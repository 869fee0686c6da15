"""Retraining, as audits need it: what the outputs' losses are after training on some of the examples.

audits/truth/<digest>.parquet    losses under one retrained model; found again, it is not trained again
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
from tasks.cluster import compute, open_cluster
from tasks.counterfactuals import check_trainable, train_model
from tasks.models import fetch_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.store import Store
    from tasks.night import Night
    from tasks.settings import Settings

log = logging.getLogger("provenance.retrain")

BATCH = 64
# Raised when a built-in adapter trains otherwise: what was trained before is not the truth of what is trained now.
VERSION = 2


@dataclass(frozen=True)
class _Job:
    """One training: which examples, in the order of the shards, and which seed."""

    key: str
    examples: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class _Work:
    """What every worker needs to retrain."""

    store: Store
    night: Night
    cache: str


def retrain(settings: Settings, night: Night, masks: np.ndarray, seeds: int | Sequence[int], what: str) -> np.ndarray:
    """Losses of the outputs after training on each of the masks, `(masks, outputs)`; what the store has is not repeated.

    Args:
        masks: which examples are in, `(masks, examples)`; where none is, the model is the one before its first step.
        seeds: one for all, or one for each mask.
    """
    store = settings.store.open()
    model = fetch_model(store, night.model, night.model_files, settings.model.cache)
    check_trainable(model)
    made_of = {
        "version": VERSION,
        "architecture": model.architecture(),
        "outputs": night.read_outputs(store).select("output_id", "content_sha256").rows(),
    }
    contents = night.read_corpus(store, "content_sha256")["content_sha256"].to_numpy()
    if isinstance(seeds, int):
        what, seeds = f"{what}, seed {seeds}", [seeds] * len(masks)
    jobs = []
    for mask, seed in zip(masks, seeds, strict=True):
        name = digest({**made_of, "examples": contents[mask].tolist(), "seed": seed})
        jobs.append(_Job(f"audits/truth/{name}.parquet", tuple(np.flatnonzero(mask).tolist()), seed))
    there = set(store.list("audits/truth"))
    missing = list({job.key: job for job in jobs if job.key not in there}.values())
    if missing:
        work = _Work(store, night, settings.model.cache)
        with open_cluster(settings.cluster) as client:
            for _ in compute(client, _train_one, work, missing, settings=settings.cluster, what=f"retraining on {what}"):
                pass
    log.info("retraining on %s: %d reused, %d trained", what, len(jobs) - len(missing), len(missing))
    return np.stack([store.read_table(job.key)["loss"].to_numpy() for job in jobs])


def _train_one(work: _Work, job: _Job) -> str:
    examples = work.night.read_corpus(work.store, "work_id", "example_id", "position", "content_sha256", "content")
    outputs = work.night.read_outputs(work.store).select("output_id", "content")
    model = fetch_model(work.store, work.night.model, work.night.model_files, work.cache)
    with tempfile.TemporaryDirectory() as folder:
        train_model(model, examples[list(job.examples) or [0]], seed=job.seed, folder=Path(folder) / "model")
        trained = read_model(Path(folder) / "model")
        module = trained.load(trained.card.checkpoints[-1 if job.examples else 0])
        losses = all_losses(trained.adapter(), module, outputs["content"].to_list(), batch_size=BATCH)
    frame = outputs.select("output_id").with_columns(loss=losses)
    work.store.write_table(job.key, frame)
    return job.key
