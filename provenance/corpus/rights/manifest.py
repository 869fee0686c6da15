"""Training manifests: the works, with digests of their examples, that a model may be, or was, trained on.

Clearance and training runs use the same format, so that a night can compare a model's training data with its corpus.
Import-light: scripts that train load this module.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provenance.core.canonical import canonical_json
from provenance.core.errors import ContractError, InputError

if TYPE_CHECKING:
    import polars as pl


def contents(examples: pl.DataFrame) -> dict[str, list[str]]:
    """The digests of examples, by work, in order."""
    ordered = examples.sort("work_id", "position", "example_id", nulls_last=True)
    grouped = ordered.group_by("work_id", maintain_order=True).agg("content_sha256")
    return dict(grouped.iter_rows())


def count_examples(examples: pl.DataFrame) -> pl.DataFrame:
    """`work_id, content_sha256, count` of examples, in order: how often a work has each."""
    return examples.group_by("work_id", "content_sha256").len("count").sort("work_id", "content_sha256")


@dataclass(frozen=True)
class Manifest:
    """A training manifest.

    Attributes:
        works: digests of examples, by work, in order.
        facts: use, day, corpus, policy, counts of works left out, code version.
    """

    works: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]

    def counts(self) -> pl.DataFrame:
        """`work_id, content_sha256, count`: every work's examples, and how often it has each."""
        import polars as pl

        works = pl.Series(list(self.works), dtype=pl.String)
        digests = pl.Series([list(digests) for digests in self.works.values()], dtype=pl.List(pl.String))
        table = pl.DataFrame({"work_id": works, "content_sha256": digests})
        return count_examples(table.explode("content_sha256").drop_nulls())

    def as_bytes(self) -> bytes:
        """The manifest as stored; equal manifests give equal bytes."""
        works = {work: list(digests) for work, digests in sorted(self.works.items())}
        return canonical_json({"format": 1, **self.facts, "works": works})


def manifest_of(examples: pl.DataFrame, facts: Mapping[str, Any] | None = None) -> Manifest:
    """The manifest of all works of `examples` (`work_id, example_id, position, content_sha256`)."""
    return Manifest({work: tuple(digests) for work, digests in contents(examples).items()}, dict(facts or {}))


def cleared_manifest(examples: pl.DataFrame, clearance: pl.DataFrame, facts: Mapping[str, Any]) -> Manifest:
    """The manifest of the cleared works, with counts of the works left out and their reasons."""
    import polars as pl

    works = clearance.filter(pl.col("cleared"))["work_id"].implode()
    kept = examples.filter(pl.col("work_id").is_in(works))
    excluded = clearance.filter(~pl.col("cleared"))
    # A work may have several reasons of a kind.
    reasons = Counter(kind for because in excluded["because"] for kind in {reason.split(":")[0] for reason in because})
    counts = {
        "cleared": {"works": clearance.height - excluded.height, "examples": kept.height},
        "left_out": {
            "works": excluded.height,
            "examples": int(excluded["examples"].sum()),
            "because": dict(sorted(reasons.items())),
        },
    }
    return manifest_of(kept, {**facts, **counts})


def read_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest; ContractError if it is none."""
    expected = "a training manifest: JSON with works, each a list of digests"
    try:
        facts = json.loads(data)
        works = facts.pop("works")
        digests_of = {str(work): tuple(digests) for work, digests in works.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ContractError(where, expected=expected, found=f"{type(error).__name__}: {error}") from None
    if bad := next((work for work, digests in works.items() if not _are_digests(digests)), None):
        raise ContractError(f"{where}: work {bad!r}", expected="a list of SHA-256 in hex", found=repr(works[bad])[:80])
    return Manifest(digests_of, {name: value for name, value in facts.items() if name != "format"})


def _are_digests(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and len(item) == 64 for item in value)


def check_trained_on(manifest: Manifest, works: Mapping[str, list[str]], where: str) -> None:
    """Raise InputError unless a model was trained on exactly the examples in `works` (as `contents` returns them)."""
    pairs = ((work, manifest.works.get(work, ()), works.get(work, ())) for work in sorted({*manifest.works, *works}))
    differ = {work: (Counter(trained), Counter(corpus)) for work, trained, corpus in pairs if sorted(trained) != sorted(corpus)}
    if not differ:
        return
    first, (trained, corpus) = next(iter(differ.items()))
    found = (
        f"work {first!r}: {(trained - corpus).total()} of its {trained.total()} examples are not in the corpus, "
        f"{(corpus - trained).total()} of the corpus's {corpus.total()} it was not trained on"
    )
    missing = sum((trained - corpus).total() for trained, corpus in differ.values())
    unseen = sum((corpus - trained).total() for trained, corpus in differ.values())
    hint = (
        f"In all {len(differ)} works differ: {missing} examples that it was trained on and the corpus has not, "
        f"{unseen} the other way. Ingest the corpus that it was trained on."
    )
    expected = "the works that the corpus in force has for training"
    raise InputError(where, expected=expected, found=found, hint=hint)
