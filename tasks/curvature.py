"""Stage `fit curvature`: one damped Cholesky factor per checkpoint, kept for as long as corpus and model stay the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.store import digest
from provenance.influence.curvature import Curvature, fit, from_tensors, gram, to_tensors
from tasks.cluster import compute, open_cluster
from tasks.featurise import read_features
from tasks.night import load_night
from tasks.settings import load
from tasks.shard import FeatureFile, load_plan

if TYPE_CHECKING:
    from provenance.core.store import Store
    from tasks.night import Night
    from tasks.shard import Plan

log = logging.getLogger("provenance.curvature")

# Shards whose Gram matrices one worker adds up, in order, before it hands over a sum.
GROUP = 8


def fit_curvature(folder: str) -> str:
    """Fit what the store lacks; returns the night's folder."""
    settings = load()
    store = settings.store.open()
    night, plan = load_night(store, folder), load_plan(store, folder)
    missing = [c for c in night.checkpoints if not store.exists(curvature_key(night, plan, c))]
    if missing:
        with open_cluster(settings.cluster) as client:
            for checkpoint in missing:
                files = [file for file in plan.corpus if file.checkpoint == checkpoint]
                groups = [tuple(files[start : start + GROUP]) for start in range(0, len(files), GROUP)]
                total = None
                parts = compute(
                    client,
                    _gram_of,
                    (store, settings.cluster.device),
                    groups,
                    settings=settings.cluster,
                    what=f"curvature of {checkpoint}",
                )
                for part in parts:  # added as they come, in the order of groups: memory does not grow with the corpus
                    total = part if total is None else np.add(total, part, out=total)
                assert total is not None
                curvature = fit(total, sum(file.rows for file in files), damping=night.method["damping"])
                store.write(curvature_key(night, plan, checkpoint), save_tensors(to_tensors(curvature)))
    log.info("curvature: %d checkpoints reused, %d computed", len(night.checkpoints) - len(missing), len(missing))
    return folder


def curvature_key(night: Night, plan: Plan, checkpoint: str) -> str:
    """Where the curvature of the night's corpus at a checkpoint lies."""
    files = sorted(file.key for file in plan.corpus if file.checkpoint == checkpoint)
    made_of = {"features": files, "damping": night.method["damping"], "version": night.method["versions"]["curvature"]}
    return f"curvature/{digest(made_of)}.safetensors"


def read_curvature(store: Store, key: str) -> Curvature:
    """A curvature as it was fitted."""
    return from_tensors(load_tensors(store.read(key)))


def _gram_of(where: tuple[Store, str], files: tuple[FeatureFile, ...]) -> np.ndarray:
    store, device = where
    xp = namespace_of(device)
    total = None
    for file in files:
        part = gram(xp.asarray(read_features(store, file)))
        total = part if total is None else total + part
    return to_numpy(total)
