"""Stages of features: `plan` lists the feature files that a night needs, `featurise` computes the missing ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from provenance.core.store import Store, canonical_json
from provenance.core.where import TOGETHER, Where, batched
from provenance.features.plan import FeatureFile, Plan, coverage, load_plan, plan_of
from provenance.features.recomputed import count_new_examples, count_recomputed
from provenance.features.run_notes import RunNote, add_note
from provenance.inputs.night import Night, night_to_compute
from provenance.models.frozen import close_models

log = logging.getLogger("provenance.featurise")
plan_log = logging.getLogger("provenance.shard")


def plan(where: Where, folder: str) -> str:
    """Write the plan of a night; returns the night's folder."""
    night = night_to_compute(where.store, folder)
    planned = plan_of(where, night)
    where.store.write(f"{folder}/plan.json", canonical_json(asdict(planned)))
    shards, parts = len(night.frozen_corpus(where.store).shards), len(night.outputs)
    plan_log.info("%d shards and %d parts of outputs, from %s", shards, parts, ", ".join(planned.sources))
    return folder


def featurise(where: Where, folder: str) -> str:
    """Compute the missing feature files of a night's plan on the workers; returns the night's folder."""
    store = where.store
    night, planned = night_to_compute(store, folder), load_plan(store, folder)
    corpus, outputs = _missing(store, planned.corpus, planned.outputs)
    missing = sorted(corpus + outputs, key=lambda file: file.source)  # so that a worker keeps its model open
    if missing:
        _compute(where, night, planned, missing)
    for name, files, computed in (("corpus shards", planned.corpus, corpus), ("outputs", planned.outputs, outputs)):
        log.info("features of %s: %d reused, %d computed", name, len(files) - len(computed), len(computed))
    # Words take next to no time, and are counted again where the labels of a shard change.
    dear = [file for file in corpus if file.checkpoint] if planned.check else corpus
    shards, anew = _examples(planned.corpus), _examples(dear)
    new = count_new_examples(store, night) if corpus else None
    if new is not None:
        log.info(
            "%.1f %% of the corpus is new since the night before: %d of %d examples", 100 * new / (shards or 1), new, shards
        )
    log.info("features of %.1f %% of the corpus are computed: %d of %d examples", 100 * anew / (shards or 1), anew, shards)
    note = RunNote(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        corpus_computed=len(corpus),
        corpus_reused=len(planned.corpus) - len(corpus),
        outputs_computed=len(outputs),
        outputs_reused=len(planned.outputs) - len(outputs),
        without_cause=count_recomputed(store, night, (file.key for file in corpus)),
        parameters_covered=(coverage(store, planned) or {}).get("share") if missing else None,
        examples=shards,
        examples_computed=anew,
        examples_new=new,
    )
    if note.without_cause:
        log.warning("%d feature files of the corpus were computed though an earlier night had them", note.without_cause)
    add_note(store, folder, note)
    return folder


def _compute(where: Where, night: Night, planned: Plan, missing: Sequence[FeatureFile]) -> None:
    """Compute some feature files on the workers."""
    from provenance.features.featurise import featurise_some, featuriser  # with torch, which a night without news does without

    shared = featuriser(where, night, planned)
    groups = list(batched(missing, TOGETHER.get(where.workers.device, 1)))
    for _ in where.workers.map(featurise_some, shared, groups, what="features", name=_named):
        pass
    where.workers.everywhere(close_models)


def _named(files: Sequence[FeatureFile]) -> str:
    return ", ".join(f"part {file.part} ({file.source})" for file in files)


def _examples(files: Iterable[FeatureFile]) -> int:
    """The number of examples in the shards of some files; files of one shard, one for each source, count once."""
    return sum({file.part: file.rows for file in files}.values())


def _missing(store: Store, *groups: tuple[FeatureFile, ...]) -> list[list[FeatureFile]]:
    """The files of each group that the store lacks, with or without their statistics; each once."""
    stored = set(store.list("features")) & {key.replace("statistics/", "features/", 1) for key in store.list("statistics")}
    return [list({file.key: file for file in files if file.key not in stored}.values()) for files in groups]
