"""Stages of influence: `fit_curvature` fits each source to the corpus, `score` compares every output with every example."""

from __future__ import annotations

import logging
from typing import Any

from provenance.core.store import canonical_json
from provenance.core.where import Where
from provenance.features.plan import fitted_key, load_plan
from provenance.inputs.night import night_to_compute
from provenance.models.frozen import close_models

log = logging.getLogger("provenance.score")
curvature_log = logging.getLogger("provenance.curvature")


def fit_curvature(where: Where, folder: str) -> str:
    """Fit the sources that the store lacks; returns the night's folder."""
    night, plan = night_to_compute(where.store, folder), load_plan(where.store, folder)
    missing = [source for source in plan.sources if not where.store.exists(fitted_key(night, plan, source))]
    if missing:
        from provenance.influence.night_curvature import fit_source  # with torch, which a night without news does without

        for source in missing:
            fit_source(where, night, plan, source)
        where.workers.everywhere(close_models)
    curvature_log.info("curvature: %d sources reused, %d computed", len(plan.sources) - len(missing), len(missing))
    return folder


def score(where: Where, folder: str, *, keep: str = "") -> str:
    """Write sums per party and component, candidates for evidence and, last, `scores.json`; returns the night's folder.

    Args:
        keep: a folder of the store for the scores of every example by component, one file per shard and part of the outputs;
            empty to keep none.
    """
    store = where.store
    if store.exists(f"{folder}/scores.json"):
        log.info("scores: reused")
        return folder
    from provenance.influence.night_scores import components, write_influence

    night, plan = night_to_compute(store, folder), load_plan(store, folder)
    names = components(where, night, plan)
    manifest: dict[str, Any] = {
        "reads": {"inputs": f"{folder}/inputs.json", "features": [file.key for file in plan.corpus + plan.outputs]},
        "writes": write_influence(where, night, plan, names, keep=keep),
        "components": list(names),
    }
    store.write(f"{folder}/scores.json", canonical_json(manifest))
    outputs, examples = sum(part.rows for part in night.outputs), night.frozen_corpus(store).examples
    log.info("scores: %d outputs against %d examples, by %d components", outputs, examples, len(names))
    return folder
