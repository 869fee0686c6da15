"""Shows the owners of a work with stakes and evidence: on a day, by the corpus in force at a time or by that of a night."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from provenance.core.errors import InputError, did_you_mean
from provenance.core.published import night_in_force
from provenance.core.store import Store
from provenance.corpus.ownership import ownership
from provenance.corpus.rights.optout_records import read_optouts
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.shards import LIST_WORKS, corpus_at, load_frozen, read_examples, works_of
from provenance.inputs.night import load_night


def claims_of(
    store: Store,
    work_id: str,
    *,
    day: date | None = None,
    known: datetime | None = None,
    night: date | None = None,
) -> dict[str, Any]:
    """The owners of a work on a day, by the corpus and opt-outs at a time.

    Args:
        day: by default the day of `known`.
        known: time whose corpus in force and recorded opt-outs are used; by default now.
        night: a published day whose corpus and opt-outs are used instead.

    Returns:
        `work_id`, `corpus`, `day`, `known` (None for a night), and the keys of `ownership`.

    Raises:
        InputError: no corpus was in force at that time, or it lacks the work.
    """
    moment = known or datetime.now(UTC)
    if night is not None:
        published = load_night(store, night_in_force(store, night))
        corpus, day = published.corpus, night
        choices = published.read_choices(store)
    else:
        corpus, day = corpus_at(store, moment), day or moment.date()
        choices = in_force(read_optouts(store, known), day)
    frozen = load_frozen(store, corpus)
    examples = read_examples(store, frozen, "work_id", "owner_id", "unmatched_reason")
    of_work = examples.filter(pl.col("work_id") == work_id)
    if of_work.is_empty() and work_id not in (works := works_of(store, frozen)):
        hint = did_you_mean(work_id, works) or LIST_WORKS
        where = f"work {work_id!r}"
        raise InputError(where, expected=f"a work of the corpus {corpus[:12]}", found="none of that id", hint=hint)
    return {
        "work_id": work_id,
        "day": day,
        "known": None if night else moment,
        "corpus": corpus,
        **ownership(store, frozen, work_id, day, examples=of_work, choices=choices),
    }
