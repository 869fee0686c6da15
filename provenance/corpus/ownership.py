"""Who owned what, in which stakes and on what evidence: on any day, as it was believed at any time."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from provenance.core.contracts import CORPORA
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store
from provenance.corpus import records
from provenance.corpus.examples import open_on, parties, valid_on, with_choices
from provenance.corpus.rights.optout_records import recorded
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_key, load_frozen, read_examples, works_of
from provenance.inputs.night import load_night
from provenance.settlement.exports.export import MANIFEST
from provenance.settlement.exports.export import in_force as export_in_force

LIST_WORKS = "`provenance disclose csv --out FOLDER` writes a list of all works."


def claims_of(
    store: Store,
    work_id: str,
    *,
    day: date | None = None,
    known: datetime | None = None,
    night: date | None = None,
) -> dict[str, Any]:
    """Who owns a work on a day, as it was believed at a time.

    Args:
        day: by default that of `known`.
        known: at which the corpus was in force that is asked; by default now.
        night: a published day, which is asked with its own corpus and choices instead.

    Returns:
        `corpus`, `day`, `known` (None for a night), and the `ownership`.

    Raises:
        InputError: no corpus was in force then, or it has no such work.
    """
    moment = known or datetime.now(UTC)
    if night is not None:
        folder = export_in_force(store, night)["folder"]
        frozen_night = load_night(store, store.read_json(f"{folder}/{MANIFEST}")["night"])
        corpus, day = frozen_night.corpus, night
        choices = frozen_night.read_choices(store)
    else:
        corpus, day = corpus_at(store, moment), day or moment.date()
        choices = in_force(recorded(store, known), day)
    frozen = load_frozen(store, corpus)
    examples = read_examples(store, frozen, "work_id", "owner_id", "unmatched_reason")
    mine = examples.filter(pl.col("work_id") == work_id)
    if mine.is_empty() and work_id not in (works := works_of(store, frozen)):
        hint = did_you_mean(work_id, works) or LIST_WORKS
        where = f"work {work_id!r}"
        raise InputError(where, expected=f"a work of the corpus {corpus[:12]}", found="none of that id", hint=hint)
    return {
        "work_id": work_id,
        "day": day,
        "known": None if night else moment,
        "corpus": corpus,
        **ownership(store, frozen, work_id, day, examples=mine, choices=choices),
    }


def ownership(
    store: Store, corpus: FrozenCorpus, work_id: str, day: date, *, examples: pl.DataFrame, choices: pl.DataFrame
) -> dict[str, Any]:
    """Who owns a work of a corpus on a day.

    Args:
        examples: `work_id, owner_id, unmatched_reason` of the work's examples that models are trained on.
        choices: `work_id, owner_id, choice` in force on the day.

    Returns:
        `stakes` in force on the day, `others` that are not, open `disputes`, `unmatched_reason`, and `parties`: for whom its
        money is booked. There are no parties where all of the work is held out.
    """
    said = store.read_table(corpus.claims.key).filter(pl.col("work_id") == work_id)
    disputes = store.read_table(corpus.disputes.key).filter(pl.col("work_id") == work_id) if corpus.disputes else None
    names = dict(store.read_table(corpus.owners.key).select("owner_id", "name").iter_rows())
    stakes = valid_on(said, day)
    others = said.join(stakes, on=said.columns, how="anti", nulls_equal=True)
    chosen = {owner: choice for work, owner, choice in choices.iter_rows() if work == work_id}
    booked = parties(examples, with_choices(said, day, choices, disputes), day)
    return {
        "stakes": [_said(row, names) | {"choice": chosen.get(row["owner_id"])} for row in stakes.iter_rows(named=True)],
        "others": [_said(row, names) for row in others.iter_rows(named=True)],
        "disputes": [] if disputes is None else open_on(disputes, day).drop("work_id").to_dicts(),
        "unmatched_reason": examples["unmatched_reason"].drop_nulls().min(),
        "parties": booked.drop("work_id").to_dicts(),
    }


def _said(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    owner = row["owner_id"]
    return {"owner_id": owner, "owner_name": names.get(owner, owner)} | {
        name: row[name] for name in ("stake_ppb", "valid_from", "valid_to", "evidence")
    }


def later_than(store: Store, corpus: str, day: date) -> str:
    """A notice that a corpus came only after a day; empty where it did not, or where nobody recorded when it came."""
    since = records.read(store, CORPORA).filter(pl.col("corpus_sha256") == corpus)["in_force_since"].min()
    if not isinstance(since, datetime) or since.date() <= day:
        return ""
    return f"The corpus {corpus[:12]} was put in force on {since:%Y-%m-%d}, after {day}: nobody knew it on that day."


def corpus_at(store: Store, moment: datetime) -> str:
    """Digest of the corpus that was in force at a time; an error says so if it is not known, or not stored any more."""
    history = records.read(store, CORPORA).sort("in_force_since", maintain_order=True)
    before = history.filter(pl.col("in_force_since") <= moment)
    if before.is_empty() and history.is_empty() and store.exists(CURRENT):
        return str(store.read_json(CURRENT)["digest"])  # put in force before there were records of it
    where = f"corpus in force at {moment.isoformat(timespec='seconds')}"
    if before.is_empty():
        first = history["in_force_since"].min()
        found = f"none before {first:%Y-%m-%dT%H:%M:%SZ}" if isinstance(first, datetime) else "none; run the DAG ingest_corpus"
        raise InputError(where, expected="one that is known", found=found)
    corpus = str(before["corpus_sha256"][-1])
    if not store.exists(corpus_key(corpus)):
        hint = "Deliver it again, or ask for a published night (--night)."
        raise InputError(where, expected=f"the corpus {corpus[:12]}", found="that housekeeping has removed it", hint=hint)
    return corpus
