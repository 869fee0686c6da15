"""What a model may be trained on: works against which nothing speaks, and the manifest that lists them.

A manifest says what a model may be, or was, trained on: works, and the digests of their examples. What a training run was given
is stated in the same form, so that a night can hold it against its corpus.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from provenance.core.contracts import CLEARANCE
from provenance.core.errors import ContractError, InputError
from provenance.core.store import canonical_json, digest

TRAIN = "train"
# How reasons begin, by what speaks against a work.
QUARANTINED, UNKNOWN_TERMS, OPTED_OUT, DISPUTED, FORBIDDEN = "quarantine", "terms", "opt-out", "dispute", "signal"


def clear(
    examples: pl.DataFrame,
    rights: pl.DataFrame | None,
    optouts: pl.DataFrame,
    verdicts: pl.DataFrame,
    use: str = TRAIN,
    *,
    disputes: pl.DataFrame | None = None,
    copied: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Which works may be used: the clearance table, sorted by work.

    Args:
        examples: `work_id, example_id, position, content_sha256, source_uri`.
        rights: the rights table; None where nobody has looked, and then no work is cleared.
        optouts: `work_id, owner_id` of what is in force, whatever was chosen.
        verdicts: `source_uri, allowed, because` of signals; an address that it has not, or for which it says neither, is free.
        disputes: those that are open.
        copied: `copies` of what owners have opted out of.
    """
    against: dict[str, list[str]] = defaultdict(list)
    works = examples["work_id"].unique().sort()
    terms = _terms(rights)
    for work in works:
        if work not in terms:
            against[work].append(f"{UNKNOWN_TERMS}: nobody has looked under which it came")
        elif refusal := terms[work][0]:
            against[work].append(f"{QUARANTINED}: {refusal}")
    for work, owner in optouts.select("work_id", "owner_id").sort("work_id", "owner_id").iter_rows():
        against[work].append(f"{OPTED_OUT}: of {owner}")
    for work, original in [] if copied is None else copied.iter_rows():
        against[work].append(is_copy_of(original))
    if disputes is not None:
        for work, owner, day in disputes.select("work_id", "owner_id", "opened_on").sort("work_id", "owner_id").iter_rows():
            against[work].append(f"{DISPUTED}: by {owner} since {day}")
    forbidden = verdicts.filter(~pl.col("allowed").fill_null(value=True)).select("source_uri", "because")
    signalled = examples.select("work_id", "source_uri").unique().join(forbidden, on="source_uri").sort("work_id", "source_uri")
    for work, uri, because in signalled.iter_rows():
        against[work].append(f"{FORBIDDEN}: {uri}: {because}")
    found = contents(examples)
    rows = [
        {
            "work_id": work,
            "use": use,
            "cleared": work not in against,
            "because": against.get(work) or [terms[work][1]],
            "examples": len(found[work]),
            "content_sha256": digest(found[work]),
        }
        for work in works
    ]
    return pl.DataFrame(rows, schema=CLEARANCE.schema)


def copies(examples: pl.DataFrame, originals: pl.DataFrame) -> pl.DataFrame:
    """Works of which every example has the bytes of one of some works, as `work_id, original`, sorted.

    What is known to be older than the work that has its bytes is no copy. A work that shares some examples alone, such as the
    text of a licence, is none either.

    Args:
        examples, originals: `work_id, content_sha256, since`, the day since when each work is claimed, or was collected, if
            known.
    """
    others = examples.join(originals, on="work_id", how="anti")
    ordered = originals.sort("since", "work_id", nulls_last=True)
    first = ordered.group_by("content_sha256").agg(pl.col("work_id", "since").first().name.prefix("first_"))
    found = (
        others.join(first, on="content_sha256", how="left")
        .group_by("work_id")
        .agg(
            original=pl.col("first_work_id").sort_by("first_since", "first_work_id", nulls_last=True).first(),
            whole=pl.col("first_work_id").is_not_null().all(),
            older=(pl.col("since") < pl.col("first_since")).any(),
        )
    )
    return found.filter(pl.col("whole") & ~pl.col("older")).select("work_id", "original").sort("work_id")


def is_copy_of(original: str) -> str:
    """What speaks against a copy of a work that its owner opted out of."""
    return f"{OPTED_OUT}: a copy of {original}"


def _terms(rights: pl.DataFrame | None) -> dict[str, tuple[str, str]]:
    """By work, why it is in quarantine (nothing, where it is not), and the terms that permit it."""
    if rights is None:
        return {}
    columns = ("work_id", "quarantine", "licence_spdx", "licence_class", "asserted_by")
    return {
        work: (quarantine, f"{UNKNOWN_TERMS}: {licence or 'none that can be read'} ({kind}), by {who}")
        for work, quarantine, licence, kind, who in rights.select(columns).iter_rows()
    }


def contents(examples: pl.DataFrame) -> dict[str, list[str]]:
    """By work, the digests of its examples, in their order."""
    ordered = examples.sort("work_id", "position", "example_id", nulls_last=True)
    grouped = ordered.group_by("work_id", maintain_order=True).agg("content_sha256")
    return dict(grouped.iter_rows())


@dataclass(frozen=True)
class Manifest:
    """What a model may be, or was, trained on.

    Attributes:
        works: by work, the digests of its examples, in their order.
        facts: what else it says: use, day, corpus, policy, what was left out, who made it.
    """

    works: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]

    def as_bytes(self) -> bytes:
        """The manifest as it is stored; equal ones are equal bytes."""
        works = {work: list(digests) for work, digests in sorted(self.works.items())}
        return canonical_json({"format": 1, **self.facts, "works": works})


def stated(examples: pl.DataFrame, facts: Mapping[str, Any] | None = None) -> Manifest:
    """What a training run was given, as a manifest of `work_id, example_id, position, content_sha256`."""
    return Manifest({work: tuple(digests) for work, digests in contents(examples).items()}, dict(facts or {}))


def cleared(examples: pl.DataFrame, clearance: pl.DataFrame, facts: Mapping[str, Any]) -> Manifest:
    """Exactly the works that are cleared, and what was left out and why, in counts."""
    works = clearance.filter(pl.col("cleared"))["work_id"].implode()
    chosen = examples.filter(pl.col("work_id").is_in(works))
    out = clearance.filter(~pl.col("cleared"))
    # A work may have several reasons of a kind.
    reasons = Counter(kind for because in out["because"] for kind in {reason.split(":")[0] for reason in because})
    counts = {
        "cleared": {"works": clearance.height - out.height, "examples": chosen.height},
        "left_out": {"works": out.height, "examples": int(out["examples"].sum()), "because": dict(sorted(reasons.items()))},
    }
    return stated(chosen, {**facts, **counts})


def read_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from its bytes; raises ContractError where they are none."""
    expected = "a training manifest: JSON with works, each a list of digests"
    try:
        said = json.loads(data)
        works = said.pop("works")
        read = {str(work): tuple(digests) for work, digests in works.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ContractError(where, expected=expected, found=f"{type(error).__name__}: {error}") from None
    if bad := next((work for work, found in read.items() if not _are_digests(works[work], found)), None):
        raise ContractError(f"{where}: work {bad!r}", expected="a list of SHA-256 in hex", found=repr(works[bad])[:80])
    return Manifest(read, {name: value for name, value in said.items() if name != "format"})


def _are_digests(said: object, found: tuple[object, ...]) -> bool:
    return isinstance(said, list) and all(isinstance(name, str) and len(name) == 64 for name in found)


def check_trained_on(manifest: Manifest, works: Mapping[str, list[str]], where: str) -> None:
    """Raise InputError naming the first work of which a model was trained on other examples than `contents` has."""
    both = ((work, manifest.works.get(work, ()), works.get(work, ())) for work in sorted({*manifest.works, *works}))
    differ = {work: (Counter(trained), Counter(here)) for work, trained, here in both if sorted(trained) != sorted(here)}
    if not differ:
        return
    first, (trained, here) = next(iter(differ.items()))
    found = (
        f"work {first!r}: {(trained - here).total()} of its {trained.total()} examples are not in the corpus, "
        f"{(here - trained).total()} of the corpus's {here.total()} it was not trained on"
    )
    lacking = sum((trained - here).total() for trained, here in differ.values())
    unseen = sum((here - trained).total() for trained, here in differ.values())
    hint = (
        f"In all {len(differ)} works differ: {lacking} examples that it was trained on and the corpus has not, "
        f"{unseen} the other way. Ingest the corpus that it was trained on."
    )
    expected = "the works that the corpus in force has for training"
    raise InputError(where, expected=expected, found=found, hint=hint)
