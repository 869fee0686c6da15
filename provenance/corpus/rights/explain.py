"""Explain the rights in a work, and summarise the terms of a corpus.

`explain` has one function for each section; to add a kind of evidence, add a function to `SECTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cached_property
from typing import Any

import polars as pl

from provenance.core.errors import ContractError, InputError, did_you_mean
from provenance.core.store import Store
from provenance.core.tables import OPTOUTS, SIGNALS, SOURCES
from provenance.core.where import Where
from provenance.corpus import records
from provenance.corpus.delivery import read_delivered
from provenance.corpus.ownership import ownership
from provenance.corpus.rights.clearance import TRAIN, copies_withheld, is_copy_of
from provenance.corpus.rights.content_codes import codes_of, iscc_of
from provenance.corpus.rights.licences import terms_of, weigh
from provenance.corpus.rights.optouts import OPTOUT, in_force
from provenance.corpus.rights.policy import CLASSES, USES, RightsPolicy, read_policy
from provenance.corpus.rights.signals.embedded import address_of
from provenance.corpus.rights.signals.verdicts import verdicts
from provenance.corpus.rights.signals.verdicts import weigh as weigh_signals
from provenance.corpus.shards import LIST_WORKS, FrozenCorpus, corpus_in_force, read_examples

# Columns of a list of works.
LISTED = ("work_id", "licence_class", "licence_spdx", "asserted_by", "source_id", "conflict", "expired", "quarantine")
COLUMNS = ("work_id", "source_uri", "acquired_at", "owner_id", "unmatched_reason", "split", "content_sha256")


@dataclass(frozen=True)
class Subject:
    """One work of the corpus in force, on a day.

    Attributes:
        rights: the work's row of the rights table.
        examples: the work's examples.
        assertions: the work's assertions in the frozen corpus.
        days: the age up to which a signal's permission counts.
    """

    where: Where
    corpus: FrozenCorpus
    policy: RightsPolicy
    work_id: str
    day: date
    rights: Mapping[str, Any]
    examples: pl.DataFrame
    assertions: tuple[Mapping[str, Any], ...]
    days: int

    @property
    def store(self) -> Store:
        """The store of the corpus."""
        return self.where.store

    @property
    def end(self) -> datetime:
        """The last moment of the day."""
        return datetime.combine(self.day, time.max, UTC)

    @cached_property
    def signals(self) -> pl.DataFrame:
        """The signals of all sites collected by the end of the day."""
        return records.read(self.store, SIGNALS).filter(pl.col("fetched_at") <= self.end)

    @cached_property
    def optouts(self) -> pl.DataFrame:
        """All recorded opt-outs and withdrawals, of any day."""
        return records.read(self.store, OPTOUTS)

    @cached_property
    def choices(self) -> pl.DataFrame:
        """The choices in force on the day."""
        return in_force(self.optouts, self.day)


def explain(where: Where, work_id: str, day: date) -> dict[str, Any]:
    """Explain a work's source, the assertions of its terms, the permitted uses, and its claims.

    Args:
        day: the day for claims, assertions and opt-outs; the current policy judges terms.

    Raises:
        ContractError: there is no corpus in force, it has no rights table, or no such work.
    """
    store, settings = where.store, where.settings
    corpus, rights, assertions = _read_rights(store)
    judged = rights.filter(pl.col("work_id") == work_id)
    if judged.is_empty():
        hint = did_you_mean(work_id, rights["work_id"].to_list()) or LIST_WORKS
        raise ContractError(f"work {work_id!r}", expected="a work of the corpus in force", found="none of that name", hint=hint)
    subject = Subject(
        where, corpus, read_policy(settings.rights.policy), work_id, day, judged.row(0, named=True),
        _examples(store, corpus, settings.corpus.folder, work_id),
        tuple(assertions.filter(pl.col("work_id") == work_id).iter_rows(named=True)), settings.signals.days,
    )  # fmt: skip
    sections = {name: section(subject) for name, section in SECTIONS.items()}
    return {
        "work_id": work_id,
        "day": day,
        "corpus": corpus.digest,
        **sections,
        "against_training": _against(subject, sections),
    }


def _against(subject: Subject, sections: Mapping[str, Any]) -> list[str]:
    """The reasons that keep a work out of the day's training manifest: terms, opt-outs, disputes, signals, held out."""
    refused = sections["terms"]["uses"]["train"]
    against = [] if refused == "allowed" else [f"terms: {refused}"]
    against += [f"opt-out of {row['owner_id']} ({row['choice']})" for row in sections["optouts"] if row["counts"]]
    copied = copies_withheld(subject.where, subject.corpus, subject.choices)
    against += [is_copy_of(original) for original in copied.filter(pl.col("work_id") == subject.work_id)["original"]]
    against += [f"dispute: {row['owner_id']} says that it is theirs" for row in sections["claims"]["disputes"]]
    if TRAIN not in subject.examples["split"]:
        against.append("held out: all of it is kept to measure models by")
    judged = verdicts(subject.signals, _places(subject), now=subject.end, days=subject.days)
    return against + [f"signal: {why}" for why in judged.filter(~pl.col("allowed").fill_null(value=True))["because"]]


def summary(where: Where) -> dict[str, Any]:
    """Count the works of the corpus in force by class, conflict, expired assertion and quarantine."""
    store = where.store
    corpus, rights, _ = _read_rights(store)
    trained_on = read_examples(store, corpus, "work_id")["work_id"].unique()
    counts = dict(rights["licence_class"].value_counts().iter_rows())

    def reasons(column: str) -> list[dict[str, Any]]:
        groups = rights.filter(pl.col(column) != "").group_by(because=column)
        counted = groups.agg(works=pl.len(), such_as=pl.col("work_id").min())
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


def list_works(
    store: Store, *, licence_class: str = "", conflicts: bool = False, quarantined: bool = False, like: str = ""
) -> pl.DataFrame:
    """The works of the corpus in force that meet all conditions, as they were judged when it was ingested; sorted.

    Args:
        licence_class: a class of the policy; empty: any.
        conflicts: only works whose assertions conflict, or have expired.
        quarantined: only works in quarantine.
        like: a text in the name of the work or its source, in any case.

    Returns:
        `work_id, licence_class, licence_spdx, asserted_by, source_id, conflict, expired, quarantine`.

    Raises:
        InputError: the class is none of the policy's.
    """
    if licence_class and licence_class not in CLASSES:
        hint = did_you_mean(licence_class, CLASSES)
        raise InputError("--class", expected=f"one of {', '.join(CLASSES)}", found=repr(licence_class), hint=hint)
    _, rights, _ = _read_rights(store)
    conditions = [pl.lit(value=True)]
    if licence_class:
        conditions.append(pl.col("licence_class") == licence_class)
    if conflicts:
        conditions.append((pl.col("conflict") != "") | (pl.col("expired") != ""))
    if quarantined:
        conditions.append(pl.col("quarantine") != "")
    names = pl.col("work_id") + "\n" + pl.col("source_id").fill_null("")
    conditions.append(names.str.to_lowercase().str.contains(like.lower(), literal=True))
    return rights.filter(*conditions).select(LISTED).sort("work_id")


def source_section(subject: Subject) -> dict[str, Any]:
    """The place and time of the work's collection, and the collectors' records."""
    uris = subject.examples["source_uri"].drop_nulls().unique().sort()
    recorded = records.read(subject.store, SOURCES).filter(pl.col("source_uri").is_in(uris.implode()))
    return {
        "source_id": subject.rights["source_id"],
        "uris": uris.to_list(),
        "acquired_at": subject.examples["acquired_at"].min(),
        "examples": dict(sorted(subject.examples["split"].value_counts().iter_rows())),
        "codes": _codes(subject),
        "records": recorded.select("collector", "acquired_at", "evidence", "identifiers").to_dicts(),
    }


def _codes(subject: Subject) -> list[dict[str, str]]:
    """Digest and ISCC of the work's contents that models are trained on, as far as they have one."""
    rows = (read_examples(subject.store, subject.corpus, "work_id")["work_id"] == subject.work_id).arg_true().to_list()
    if not rows:
        return []
    contents = read_examples(subject.store, subject.corpus, "content", "modality", "content_sha256", rows=rows)
    codes = codes_of(contents.unique("content_sha256")).sort("content_sha256")
    return [{"content_sha256": digest, "iscc": iscc_of(unit, code)} for digest, unit, code in codes.iter_rows()]


def terms_section(subject: Subject) -> dict[str, Any]:
    """The assertions of the work's terms with their standing, and the resulting class, conflicts and uses."""
    read = terms_of((row["licence"] for row in subject.assertions), subject.policy)
    outcome = weigh(subject.assertions, subject.policy, subject.end, read)
    return {
        "assertions": [
            {key: value for key, value in weighed.row.items() if key != "work_id"}
            | {"licence_class": weighed.terms.licence_class, "read_as": weighed.terms.because, "standing": weighed.standing}
            for weighed in outcome.assertions
        ],
        "asserted_by": outcome.asserted_by,
        "licence_spdx": outcome.terms.licence_spdx,
        "licence_class": outcome.terms.licence_class,
        "because": outcome.terms.because,
        "conflict": outcome.conflict,
        "expired": outcome.expired,
        "as_ingested": {key: subject.rights[key] for key in ("licence_spdx", "licence_class", "asserted_by", "quarantine")},
        "uses": {use: subject.policy.refusal(outcome.terms.licence_class, use) or "allowed" for use in USES},
    }


def claims_section(subject: Subject) -> dict[str, Any]:
    """The owners of the work on the day, and the parties to which its money is booked."""
    trained_on = subject.examples.filter(pl.col("split") == TRAIN)
    return ownership(subject.store, subject.corpus, subject.work_id, subject.day, examples=trained_on, choices=subject.choices)


def signals_section(subject: Subject) -> list[dict[str, Any]]:
    """The signals on training at the work's addresses and in its files, and whether they count."""
    rows = []
    for uri in _places(subject):
        _, weighed = weigh_signals(subject.signals, uri, now=subject.end, days=subject.days)
        rows += [w.signal | {"source_uri": uri, "counts": w.counts, "why": w.why} for w in weighed]
    return rows


def _places(subject: Subject) -> list[str]:
    """The work's addresses, and those of its contents (`sha256:`)."""
    uris = subject.examples["source_uri"].drop_nulls().unique().sort().to_list()
    return uris + [address_of(digest) for digest in _digests(subject)]


def _digests(subject: Subject) -> list[str]:
    """The digests of the work's contents; a delivery may have left them out."""
    if "content_sha256" not in subject.examples.columns:
        return []
    digests: list[str] = subject.examples["content_sha256"].drop_nulls().unique().sort().to_list()
    return digests


def optouts_section(subject: Subject) -> list[dict[str, Any]]:
    """Opt-outs and withdrawals of the work effective by the day, the last first, and whether they are in force."""
    recorded = subject.optouts.filter(pl.col("work_id") == subject.work_id)
    in_effect = {(row["owner_id"], row["choice"]) for row in in_force(recorded, subject.day).iter_rows(named=True)}
    rows = recorded.filter(pl.col("effective_on") <= subject.day).reverse().to_dicts()
    marked = []
    for row in rows:
        counts = row["action"] == OPTOUT and (row["owner_id"], row["choice"]) in in_effect
        in_effect -= {(row["owner_id"], row["choice"])}
        marked.append(row | {"counts": counts})
    return marked


SECTIONS: dict[str, Callable[[Subject], Any]] = {
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
    """A work's examples: frozen ones, or those of the delivery, since held-out works are not frozen."""
    frozen = read_examples(store, corpus, *COLUMNS).filter(pl.col("work_id") == work_id)
    table, _ = read_delivered(store, folder, "examples")
    if not frozen.is_empty() or table is None:
        return frozen
    rows = table.select(name for name in COLUMNS if name in table.columns).filter(pl.col("work_id") == work_id)
    return pl.concat([frozen, rows.with_columns(split=pl.lit("held_out"))], how="diagonal_relaxed")
