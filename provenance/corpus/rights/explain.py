"""What is known of the rights in works: the chain of one work, and what the terms of a corpus come to.

`explain` is made of sections, one function each, so that whoever adds a kind of evidence adds a function to `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cached_property
from typing import Any

import polars as pl

from provenance.core.contracts import OPTOUTS, SIGNALS, SOURCES
from provenance.core.errors import ContractError, did_you_mean
from provenance.core.store import Store
from provenance.corpus import records
from provenance.corpus.examples import delivered
from provenance.corpus.ownership import LIST_WORKS, ownership
from provenance.corpus.rights.clearance import TRAIN, is_copy_of
from provenance.corpus.rights.licences import terms_of, weigh
from provenance.corpus.rights.optouts import OPTOUT, in_force
from provenance.corpus.rights.policy import CLASSES, USES, RightsPolicy, read_policy
from provenance.corpus.rights.signals.verdicts import verdicts
from provenance.corpus.rights.signals.verdicts import weigh as weigh_signals
from provenance.corpus.rights.training_clearance import copies_withheld
from provenance.corpus.shards import FrozenCorpus, corpus_in_force, read_examples
from tasks.settings import Settings

COLUMNS = ("work_id", "source_uri", "acquired_at", "owner_id", "unmatched_reason", "split")


@dataclass(frozen=True)
class Asked:
    """One work of the corpus in force, on a day.

    Attributes:
        rights: its row of the rights table; examples: its examples.
        assertions: rows about it, as the corpus was frozen with them.
        days: the age up to which a signal's permission counts.
    """

    store: Store
    corpus: FrozenCorpus
    policy: RightsPolicy
    work_id: str
    day: date
    rights: Mapping[str, Any]
    examples: pl.DataFrame
    assertions: tuple[Mapping[str, Any], ...]
    days: int

    @property
    def end(self) -> datetime:
        """The last moment of the day."""
        return datetime.combine(self.day, time.max, UTC)

    @cached_property
    def signals(self) -> pl.DataFrame:
        """What had been collected by then of all sites."""
        return records.read(self.store, SIGNALS).filter(pl.col("fetched_at") <= self.end)

    @cached_property
    def optouts(self) -> pl.DataFrame:
        """What owners of all works have asked for, whenever it counts."""
        return records.read(self.store, OPTOUTS)

    @cached_property
    def choices(self) -> pl.DataFrame:
        """What of it is in force on the day."""
        return in_force(self.optouts, self.day)


def explain(settings: Settings, work_id: str, day: date) -> dict[str, Any]:
    """Where a work comes from, who said what of its terms and what counts, what it may be used for, and who claims it.

    Args:
        day: on which claims, assertions and opt-outs are looked at; terms are judged by the policy as it is now.

    Raises:
        ContractError: there is no corpus in force, its terms were not judged, or it has no such work.
    """
    store = settings.store.open()
    corpus, rights, assertions = _read_rights(store)
    found = rights.filter(pl.col("work_id") == work_id)
    if found.is_empty():
        hint = did_you_mean(work_id, rights["work_id"].to_list()) or LIST_WORKS
        raise ContractError(f"work {work_id!r}", expected="a work of the corpus in force", found="none of that name", hint=hint)
    asked = Asked(
        store, corpus, read_policy(settings.rights.policy), work_id, day, found.row(0, named=True),
        _examples(store, corpus, settings.corpus.folder, work_id),
        tuple(assertions.filter(pl.col("work_id") == work_id).iter_rows(named=True)), settings.signals.days,
    )  # fmt: skip
    told = {name: say(asked) for name, say in SECTIONS.items()}
    return {"work_id": work_id, "day": day, "corpus": corpus.digest, **told, "against_training": _against(asked, told)}


def _against(asked: Asked, found: Mapping[str, Any]) -> list[str]:
    """What keeps a work out of the training manifest of the day: terms, opt-outs, disputes, signals, or being held out."""
    refused = found["terms"]["uses"]["train"]
    against = [] if refused == "allowed" else [f"terms: {refused}"]
    against += [f"opt-out of {one['owner_id']} ({one['choice']})" for one in found["optouts"] if one["counts"]]
    copied = copies_withheld(asked.store, asked.corpus, asked.choices)
    against += [is_copy_of(original) for original in copied.filter(pl.col("work_id") == asked.work_id)["original"]]
    against += [f"dispute: {one['owner_id']} says that it is theirs" for one in found["claims"]["disputes"]]
    if TRAIN not in asked.examples["split"]:
        against.append("held out: all of it is kept to measure models by")
    uris = asked.examples["source_uri"].drop_nulls().unique()
    said = verdicts(asked.signals, uris, now=asked.end, days=asked.days)
    return against + [f"signal: {why}" for why in said.filter(~pl.col("allowed").fill_null(value=True))["because"]]


def summary(settings: Settings) -> dict[str, Any]:
    """How many works of the corpus in force each class has, where words differ, have expired, or are in quarantine."""
    store = settings.store.open()
    corpus, rights, _ = _read_rights(store)
    trained_on = read_examples(store, corpus, "work_id")["work_id"].unique()
    counts = dict(rights["licence_class"].value_counts().iter_rows())

    def reasons(column: str) -> list[dict[str, Any]]:
        said = rights.filter(pl.col(column) != "").group_by(because=column)
        counted = said.agg(works=pl.len(), such_as=pl.col("work_id").min())
        return counted.sort("works", "because", descending=[True, False]).to_dicts()

    return {
        "corpus": corpus.digest,
        "works": rights.height,
        "held_out": rights.height - trained_on.len(),
        "classes": {name: counts[name] for name in CLASSES if name in counts},
        "asserted_by": dict(sorted(rights["asserted_by"].value_counts().iter_rows())),
        "conflicts": reasons("conflict"),
        "expired": reasons("expired"),
        "quarantine": reasons("quarantine"),
    }


# Sections of what is explained.


def source_section(asked: Asked) -> dict[str, Any]:
    """Where the work was collected and when, and what collectors recorded of it."""
    uris = asked.examples["source_uri"].drop_nulls().unique().sort()
    noted = records.read(asked.store, SOURCES).filter(pl.col("source_uri").is_in(uris.implode()))
    return {
        "source_id": asked.rights["source_id"],
        "uris": uris.to_list(),
        "acquired_at": asked.examples["acquired_at"].min(),
        "examples": dict(sorted(asked.examples["split"].value_counts().iter_rows())),
        "records": noted.select("collector", "acquired_at", "evidence", "identifiers").to_dicts(),
    }


def terms_section(asked: Asked) -> dict[str, Any]:
    """Every assertion with who, when and evidence, which counts and why; the class that follows, and conflicts."""
    read = terms_of((row["licence"] for row in asked.assertions), asked.policy)
    outcome = weigh(asked.assertions, asked.policy, asked.end, read)
    return {
        "assertions": [
            {key: value for key, value in one.row.items() if key != "work_id"}
            | {"licence_class": one.terms.licence_class, "read_as": one.terms.because, "standing": one.standing}
            for one in outcome.said
        ],
        "asserted_by": outcome.asserted_by,
        "licence_spdx": outcome.terms.licence_spdx,
        "licence_class": outcome.terms.licence_class,
        "because": outcome.terms.because,
        "conflict": outcome.conflict,
        "expired": outcome.expired,
        "as_ingested": {key: asked.rights[key] for key in ("licence_spdx", "licence_class", "asserted_by", "quarantine")},
        "uses": {use: asked.policy.refusal(outcome.terms.licence_class, use) or "allowed" for use in USES},
    }


def claims_section(asked: Asked) -> dict[str, Any]:
    """Whose the work is on the day, and for whom its money is booked."""
    trained_on = asked.examples.filter(pl.col("split") == TRAIN)
    return ownership(asked.store, asked.corpus, asked.work_id, asked.day, examples=trained_on, choices=asked.choices)


def signals_section(asked: Asked) -> list[dict[str, Any]]:
    """What sites say of training on what lies at the addresses that the work was collected at, and what of it counts."""
    said = []
    for uri in asked.examples["source_uri"].drop_nulls().unique().sort():
        _, weighed = weigh_signals(asked.signals, uri, now=asked.end, days=asked.days)
        said += [one.signal | {"source_uri": uri, "counts": one.counts, "why": one.why} for one in weighed]
    return said


def optouts_section(asked: Asked) -> list[dict[str, Any]]:
    """What owners of the work have asked for by the day, the last first, and which of it is in force."""
    said = asked.optouts.filter(pl.col("work_id") == asked.work_id)
    valid = {(row["owner_id"], row["choice"]) for row in in_force(said, asked.day).iter_rows(named=True)}
    rows = said.filter(pl.col("effective_on") <= asked.day).reverse().to_dicts()
    found = []
    for row in rows:
        counts = row["action"] == OPTOUT and (row["owner_id"], row["choice"]) in valid
        valid -= {(row["owner_id"], row["choice"])}
        found.append(row | {"counts": counts})
    return found


SECTIONS: dict[str, Callable[[Asked], Any]] = {
    "source": source_section,
    "terms": terms_section,
    "claims": claims_section,
    "signals": signals_section,
    "optouts": optouts_section,
}


def _read_rights(store: Store) -> tuple[FrozenCorpus, pl.DataFrame, pl.DataFrame]:
    corpus = corpus_in_force(store)
    if corpus.rights is None or corpus.assertions is None:
        where, hint = f"corpus {corpus.digest[:12]}", "It was frozen before terms were judged. Ingest it again."
        raise ContractError(where, expected="one with a table of rights", found="none", hint=hint)
    return corpus, store.read_table(corpus.rights.key), store.read_table(corpus.assertions.key)


def _examples(store: Store, corpus: FrozenCorpus, folder: str, work_id: str) -> pl.DataFrame:
    """A work's examples; those that are held out of training are not frozen, and stand in the delivery alone."""
    found = read_examples(store, corpus, *COLUMNS).filter(pl.col("work_id") == work_id)
    table, _ = delivered(store, folder, "examples")
    if not found.is_empty() or table is None:
        return found
    known = table.select(name for name in COLUMNS if name in table.columns).filter(pl.col("work_id") == work_id)
    return pl.concat([found, known.with_columns(split=pl.lit("held_out"))], how="diagonal_relaxed")
