"""Lists the feature files that a night needs, each under the digest of all its ingredients."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from provenance.core.store import Store, digest
from provenance.core.where import Where
from provenance.corpus.delivery import identities
from provenance.corpus.shards import FrozenCorpus, Part, freeze_part, read_part
from provenance.features.night_check import check_night, read_check
from provenance.inputs.methods import FACTORED, WORDS, comparisons
from provenance.inputs.night import Night
from provenance.models.frozen import fetch_model


@dataclass(frozen=True)
class FeatureFile:
    """The features of one frozen part, of one kind and, for gradients, at one checkpoint.

    Attributes:
        part: SHA-256 of the frozen part with the contents.
        checkpoint: file of the checkpoint; empty for features that need no model.
    """

    key: str
    part: str
    rows: int
    kind: str
    checkpoint: str

    @property
    def source(self) -> str:
        """The source of influence that the file belongs to: the checkpoint, or else the kind of features."""
        return self.checkpoint or self.kind

    @property
    def statistics(self) -> str:
        """The key of the file's statistics, which are gathered in the same pass."""
        return self.key.replace("features/", "statistics/", 1)


@dataclass(frozen=True)
class Plan:
    """A night's feature files.

    Attributes:
        corpus: files by source and shard.
        outputs: files by source and part of the outputs.
        sample: frozen examples for the curvature.
        check: key of the check of how the model is followed; empty if the method uses no gradients.
    """

    corpus: tuple[FeatureFile, ...]
    outputs: tuple[FeatureFile, ...]
    sample: Part
    check: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of influence, in order."""
        return tuple(dict.fromkeys(file.source for file in self.corpus))

    def of(self, source: str) -> tuple[list[FeatureFile], list[FeatureFile]]:
        """The files of one source, of the corpus and of the outputs."""
        return [f for f in self.corpus if f.source == source], [f for f in self.outputs if f.source == source]


def plan_of(where: Where, night: Night) -> Plan:
    """The plan of a night; freezes its sample, and checks how the model is followed.

    Raises:
        ModelError: the model cannot be followed (`checks`).
    """
    store, corpus = where.store, night.frozen_corpus(where.store)
    sample = freeze_part(store, sample_of(store, corpus, night.method["sample"]))
    check = check_night(where, night, sample) if FACTORED in comparisons_of(night) else ""
    ingredients = _ingredients(where, night, check)

    def file(part: Part, kind: str, checkpoint: str) -> FeatureFile:
        content = part.sha256 if kind == WORDS else part.content_digest  # words depend also on the modality
        key = digest({**ingredients[kind, checkpoint], "content": content})
        return FeatureFile(f"features/{key}.safetensors", part.sha256, part.rows, kind, checkpoint)

    def files(parts: tuple[Part, ...]) -> tuple[FeatureFile, ...]:
        return tuple(file(part, *source) for source in ingredients for part in parts if part.rows)

    return Plan(files(corpus.shards), files(night.outputs), sample, check)


def load_plan(store: Store, folder: str) -> Plan:
    """The plan of a night."""
    plan = store.read_json(f"{folder}/plan.json")
    corpus, outputs = (tuple(FeatureFile(**file) for file in plan[name]) for name in ("corpus", "outputs"))
    return Plan(corpus, outputs, Part(**plan["sample"]), plan.get("check", ""))


def coverage(store: Store, plan: Plan) -> dict[str, Any] | None:
    """What of the model is followed; None if the method uses no gradients.

    Returns:
        `share` of the trainable parameters; sizes of those `left_out`; and the `check` against autograd.
    """
    if not plan.check:
        return None
    report = read_check(store, plan.check)
    shape = report.following.layout
    return {"share": shape.covered, "left_out": shape.left_out, "check": report.summary()}


def comparisons_of(night: Night) -> dict[str, str]:
    """The comparison of each kind of features by the night's method of influence."""
    return comparisons(night.method["name"])


def fitted_key(night: Night, plan: Plan, source: str) -> str:
    """The key of the comparison that is fitted to the features of a source (`influence.night_curvature`)."""
    files, _ = plan.of(source)
    ingredients = {
        "features": sorted(file.key for file in files),
        "sample": plan.sample.content_digest,
        "comparison": comparisons_of(night)[files[0].kind],
        "draws": night.method["draws"],
        "version": night.method["versions"]["curvature"],
    }
    return f"curvature/{digest(ingredients)}.safetensors"


def sample_of(store: Store, corpus: FrozenCorpus, size: int) -> pl.DataFrame:
    """The `size` examples with the smallest digests of content and prompt: a random sample that does not depend on shards.

    Returns:
        a table with the columns that passes read, and `part` and `row`, where each example is in the corpus.
    """

    def digests() -> Iterator[tuple[str, str, str, int]]:
        for part in corpus.shards:
            frame = read_part(store, part.sha256, "example_id", "content_sha256", "prompt")
            for row, (identity, name) in enumerate(zip(identities(frame), frame["example_id"], strict=True)):
                yield identity, name, part.sha256, row

    chosen: dict[str, list[int]] = {}
    for _, _, part, row in heapq.nsmallest(size, digests()):
        chosen.setdefault(part, []).append(row)
    columns = ["example_id", "content", "prompt", "content_sha256", "modality"]
    frames = [
        read_part(store, part, *columns)[rows].with_columns(part=pl.lit(part), row=pl.Series(rows, dtype=pl.Int64))
        for part, rows in chosen.items()
    ]
    # Sorted by length, because examples of a batch are padded to the longest.
    frame = pl.concat(frames)
    length = pl.col("content").bin.size() + pl.col("prompt").bin.size().fill_null(0)
    return frame.sort(length, pl.Series(identities(frame), dtype=pl.String), "example_id")


def _ingredients(where: Where, night: Night, check: str) -> dict[tuple[str, str], dict[str, object]]:
    """All that decides features besides contents, by kind and checkpoint.

    Args:
        check: key of the check of the model.
    """
    ingredients: dict[tuple[str, str], dict[str, object]] = {}
    version = night.method["versions"]["features"]
    for kind in comparisons_of(night):
        if kind == WORDS:
            ingredients[kind, ""] = {"kind": kind, "version": version}
            continue
        model = fetch_model(where.store, night.model, night.model_files, where.settings.model.cache)
        common = {
            "kind": kind,
            "architecture": model.architecture(),
            "projection": night.method["projection"],
            "layout": digest(asdict(read_check(where.store, check).following.layout)),
            "bits": night.method["bits"],
            "version": version,
            **({} if night.precision == "float32" else {"precision": night.precision}),
        }
        for checkpoint in night.checkpoints:
            # With the checkpoint's name, which seeds the projections.
            ingredients[kind, checkpoint] = {**common, "checkpoint": checkpoint, "weights": night.model_files[checkpoint]}
    return ingredients
