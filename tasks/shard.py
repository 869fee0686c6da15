"""Stage `shard`: which feature files the night needs, each under the digest of all that goes into it."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from provenance.core.store import canonical_json, digest
from tasks.night import fetch_model, load_night
from tasks.settings import load

if TYPE_CHECKING:
    from provenance.core.store import Store
    from provenance.corpus.shards import Part

log = logging.getLogger("provenance.shard")


@dataclass(frozen=True)
class FeatureFile:
    """The gradient features of one part at one checkpoint.

    Attributes:
        part: SHA-256 of the frozen part that holds the contents.
    """

    key: str
    part: str
    rows: int
    checkpoint: str


@dataclass(frozen=True)
class Plan:
    """All feature files of a night: of the corpus by checkpoint and shard, and of the day's outputs."""

    corpus: tuple[FeatureFile, ...]
    outputs: tuple[FeatureFile, ...]


def shard(folder: str) -> str:
    """Write the plan of a night; returns the night's folder."""
    settings = load()
    store = settings.store.open()
    night = load_night(store, folder)
    model = fetch_model(store, night.model, night.model_files, settings.model.cache)
    corpus = night.frozen_corpus(store)
    made_of = {
        "architecture": model.architecture(),
        "projection": night.method["projection"],
        "version": night.method["versions"]["features"],
    }

    def file(part: Part, checkpoint: str) -> FeatureFile:
        # The checkpoint's name, too: projections are seeded by it.
        weights = {"checkpoint": checkpoint, "weights": night.model_files[checkpoint]}
        key = digest({**made_of, **weights, "content": part.content_digest})
        return FeatureFile(f"features/{key}.safetensors", part.sha256, part.rows, checkpoint)

    def files(parts: tuple[Part, ...]) -> tuple[FeatureFile, ...]:
        return tuple(file(part, checkpoint) for checkpoint in night.checkpoints for part in parts if part.rows)

    plan = Plan(files(corpus.shards), files(night.outputs))
    store.write(f"{folder}/plan.json", canonical_json(asdict(plan)))
    log.info(
        "%d shards and %d parts of outputs at %d checkpoints",
        len(corpus.shards),
        len(night.outputs),
        len(night.checkpoints),
    )
    return folder


def load_plan(store: Store, folder: str) -> Plan:
    """The plan of a night."""
    stored = store.read_json(f"{folder}/plan.json")
    return Plan(*(tuple(FeatureFile(**file) for file in stored[name]) for name in ("corpus", "outputs")))
