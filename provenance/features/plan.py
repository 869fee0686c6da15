"""Stage `shard`: which feature files the night needs, each under the digest of all that goes into it."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import polars as pl

from provenance.core.store import Store, canonical_json, digest
from provenance.corpus.shards import FrozenCorpus, Part, freeze_part, part_key
from provenance.influence.methods import WORDS, comparisons
from provenance.inputs.night import Night, night_to_compute
from provenance.models.frozen import fetch_model
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.shard")


@dataclass(frozen=True)
class FeatureFile:
    """The features of one part, of one kind and, for gradients, at one checkpoint.

    Attributes:
        part: SHA-256 of the frozen part that holds the contents.
        checkpoint: file of the checkpoint; empty for features that need no model.
    """

    key: str
    part: str
    rows: int
    kind: str
    checkpoint: str

    @property
    def source(self) -> str:
        """What to call an influence that rests on this file: the checkpoint, or else the kind of features."""
        return self.checkpoint or self.kind

    @property
    def statistics(self) -> str:
        """Where the file's sums lie, gathered in the same pass."""
        return self.key.replace("features/", "statistics/", 1)


@dataclass(frozen=True)
class Plan:
    """A night's feature files, of the corpus by source and shard, of outputs by source and part; the curvature's sample."""

    corpus: tuple[FeatureFile, ...]
    outputs: tuple[FeatureFile, ...]
    sample: Part

    @property
    def sources(self) -> tuple[str, ...]:
        """What influences rest on, in order."""
        return tuple(dict.fromkeys(file.source for file in self.corpus))

    def of(self, source: str) -> tuple[list[FeatureFile], list[FeatureFile]]:
        """The files of one source, of the corpus and of the outputs."""
        return [f for f in self.corpus if f.source == source], [f for f in self.outputs if f.source == source]


def shard(folder: str, settings: Settings | None = None) -> str:
    """Write the plan of a night; returns the night's folder."""
    settings, store = with_store(settings)
    night = night_to_compute(store, folder)
    corpus = night.frozen_corpus(store)
    made_of = _made_of(store, night, settings)

    def file(part: Part, kind: str, checkpoint: str) -> FeatureFile:
        content = part.sha256 if kind == WORDS else part.content_digest  # words depend on the modality, too
        key = digest({**made_of[kind, checkpoint], "content": content})
        return FeatureFile(f"features/{key}.safetensors", part.sha256, part.rows, kind, checkpoint)

    def files(parts: tuple[Part, ...]) -> tuple[FeatureFile, ...]:
        return tuple(file(part, *source) for source in made_of for part in parts if part.rows)

    sample = freeze_part(store, sample_of(store, corpus, night.method["sample"]))
    plan = Plan(files(corpus.shards), files(night.outputs), sample)
    store.write(f"{folder}/plan.json", canonical_json(asdict(plan)))
    log.info("%d shards and %d parts of outputs, from %s", len(corpus.shards), len(night.outputs), ", ".join(plan.sources))
    return folder


def load_plan(store: Store, folder: str) -> Plan:
    """The plan of a night."""
    stored = store.read_json(f"{folder}/plan.json")
    corpus, outputs = (tuple(FeatureFile(**file) for file in stored[name]) for name in ("corpus", "outputs"))
    return Plan(corpus, outputs, Part(**stored["sample"]))


def compared(night: Night) -> dict[str, str]:
    """How the night's method of influence compares features, by their kind."""
    return comparisons(night.method["name"])


def sample_of(store: Store, corpus: FrozenCorpus, size: int) -> pl.DataFrame:
    """The examples whose contents have the smallest digests: as good as drawn at random, and the same in whatever shards."""

    def digests() -> Iterator[tuple[str, str, int]]:
        for part in corpus.shards:
            for row, content in enumerate(store.read_table(part.key, columns=["content_sha256"])["content_sha256"]):
                yield content, part.sha256, row

    chosen: dict[str, list[int]] = {}
    for _, part, row in heapq.nsmallest(size, digests()):
        chosen.setdefault(part, []).append(row)
    columns = ["example_id", "content", "content_sha256", "modality"]
    frames = [store.read_table(part_key(part), columns=columns)[rows] for part, rows in chosen.items()]
    # By length, because examples of a batch are padded to the longest.
    return pl.concat(frames).sort(pl.col("content").bin.size(), "content_sha256")


def _made_of(store: Store, night: Night, settings: Settings) -> dict[tuple[str, str], dict[str, object]]:
    """What goes into features besides contents, by kind and checkpoint."""
    found: dict[tuple[str, str], dict[str, object]] = {}
    version = night.method["versions"]["features"]
    for kind in compared(night):
        if kind == WORDS:
            found[kind, ""] = {"kind": kind, "version": version}
            continue
        model = fetch_model(store, night.model, night.model_files, settings.model.cache)
        common = {
            "kind": kind,
            "architecture": model.architecture(),
            "projection": night.method["projection"],
            "bits": night.method["bits"],
            "version": version,
        }
        for checkpoint in night.checkpoints:
            # The checkpoint's name, too: projections are seeded by it.
            found[kind, checkpoint] = {**common, "checkpoint": checkpoint, "weights": night.model_files[checkpoint]}
    return found
