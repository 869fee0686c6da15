"""What owners do not want: recorded, listed, and frozen for a night."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.contracts import CORPORA, OPTOUTS
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store, sha256
from provenance.corpus import records
from provenance.corpus.examples import PAID, valid_on
from provenance.corpus.rights.optouts import NO_CHOICES, OPTOUT, PAIR, WITHDRAW, Wish, in_force, latest, new_rows, read_file
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force, corpus_key, load_frozen, works_of

log = logging.getLogger("provenance.optouts")

IN_FORCE, LATER, WITHDRAWN = "in force", "later", "withdrawn"


def opt_out(
    store: Store,
    owner_id: str,
    work_id: str | None,
    *,
    choice: str,
    evidence: str,
    by: str,
    day: date | None = None,
    keep_unknown: bool = False,
    now: datetime | None = None,
) -> pl.DataFrame:
    """Record an owner's opt-out of a work, or of all its works in the corpus in force; returns the rows that are new.

    Args:
        work_id: None for all of them.
        day: the first on which it counts; by default today (UTC).
        now: when it is; by default now.

    Raises:
        InputError: nobody knows the work, or the owner never had a stake in it.
    """
    now = now or datetime.now(UTC)
    works = _works_of(store, owner_id, day or now.date()) if work_id is None else [work_id]
    wishes = [Wish(work, owner_id, OPTOUT, choice, evidence, day) for work in works]
    return _record(store, wishes, by=by, now=now, keep_unknown=keep_unknown)


def withdraw(
    store: Store,
    owner_id: str,
    work_id: str | None,
    *,
    evidence: str,
    by: str,
    day: date | None = None,
    now: datetime | None = None,
) -> pl.DataFrame:
    """Record that an owner agrees again, to a work or to all that it opted out of; returns the rows that are new."""
    now = now or datetime.now(UTC)
    works = [work_id] if work_id is not None else _opted_out(store, owner_id)
    wishes = [Wish(work, owner_id, WITHDRAW, PAID, evidence, day) for work in works]
    return _record(store, wishes, by=by, now=now, keep_unknown=True)  # what was recorded before it was known can be taken back


def import_file(
    store: Store, path: Path, *, by: str, keep_unknown: bool = False, now: datetime | None = None
) -> tuple[int, pl.DataFrame]:
    """Record all lines of a CSV file, or none; the same file again adds nothing.

    Returns:
        how many lines it has, and the rows that are new.
    """
    if not path.is_file():
        raise InputError(str(path), expected="a CSV file", found="no such file")
    data = path.read_bytes()
    wishes = read_file(data, str(path))
    rows = _record(store, wishes, by=by, now=now or datetime.now(UTC), keep_unknown=keep_unknown, file_sha256=sha256(data))
    records.keep_raw(store, data)
    return len(wishes), rows


def _record(store: Store, wishes: Sequence[Wish], *, now: datetime, **how: Any) -> pl.DataFrame:
    rows = new_rows(wishes, recorded(store), stakes(store), works=frozenset(_works(store)), now=now, **how)
    if rows.height:
        records.append(store, OPTOUTS, rows, now=now)
    log.info("opt-outs: %d of %d recorded", rows.height, len(wishes))
    return rows


def recorded(store: Store, known: datetime | None = None) -> pl.DataFrame:
    """The opt-outs table, as it was known at a time."""
    return records.read(store, OPTOUTS, known=known)


def corpora(store: Store) -> list[str]:
    """Digests of the corpora that have been in force, the latest last, as far as they are still there."""
    names = records.read(store, CORPORA)["corpus_sha256"].to_list()
    if store.exists(CURRENT):
        names.append(store.read_json(CURRENT)["digest"])  # put in force before there was a record of it
    found = dict.fromkeys(reversed(names))
    return [name for name in reversed(found) if store.exists(corpus_key(name))]


def stakes(store: Store) -> pl.DataFrame:
    """`work_id, owner_id` of all that anybody holds or has held, in any corpus that is still there."""
    parts = {load_frozen(store, name).claims.key for name in corpora(store)}
    tables = [store.read_table(key, columns=PAIR) for key in sorted(parts)]
    return pl.concat([pl.DataFrame(schema=dict.fromkeys(PAIR, pl.String)), *tables]).unique().sort(PAIR)


def _works_of(store: Store, owner_id: str, day: date) -> list[str]:
    """Works of the corpus in force in which an owner has a stake on a day or later."""
    claims = store.read_table(corpus_in_force(store).claims.key)
    mine = claims.filter(pl.col("owner_id") == owner_id)
    works: list[str] = mine.filter(pl.col("valid_to").fill_null(day) >= day)["work_id"].unique().sort().to_list()
    if not works:
        hint = did_you_mean(owner_id, claims["owner_id"].unique().sort())
        expected = "an owner with works in the corpus in force"
        raise InputError(f"owner {owner_id}", expected=expected, found="none of that id", hint=hint)
    return works


def _opted_out(store: Store, owner_id: str) -> list[str]:
    last = latest(recorded(store)).filter(pl.col("action") == OPTOUT)
    works: list[str] = last.filter(pl.col("owner_id") == owner_id)["work_id"].to_list()
    if not works:
        hint = did_you_mean(owner_id, last["owner_id"].unique().sort())
        raise InputError(f"owner {owner_id}", expected="an owner who has opted out", found="none of that id", hint=hint)
    return works


def listed(store: Store, *, known: datetime | None = None, now: datetime | None = None) -> pl.DataFrame:
    """For each work and owner what counts now, or counted when `known`, and what will: in force, withdrawn, or later."""
    moment = known or now or datetime.now(UTC)
    rows, future = recorded(store, known), pl.col("effective_on") > moment.date()
    last = pl.concat([latest(rows.filter(~future)), latest(rows).filter(future)]).sort(PAIR, maintain_order=True)
    state = (
        pl.when(pl.col("effective_on") > moment.date())
        .then(pl.lit(LATER))
        .when(pl.col("action") == WITHDRAW)
        .then(pl.lit(WITHDRAWN))
        .otherwise(pl.lit(IN_FORCE))
    )
    return last.with_columns(state=state, in_corpus=pl.col("work_id").is_in(_works(store)))


def _works(store: Store) -> list[str]:
    """Works of the corpus in force, if there is one."""
    return works_of(store, corpus_in_force(store)) if store.exists(CURRENT) else []


def choices_on(store: Store, corpus: FrozenCorpus, day: date) -> pl.DataFrame:
    """What owners with a stake in works of a corpus on a day have chosen: `work_id, owner_id, choice`."""
    chosen = in_force(recorded(store), day)
    if chosen.is_empty():
        return NO_CHOICES
    held = valid_on(store.read_table(corpus.claims.key), day)
    return chosen.join(held.select(PAIR).unique(), on=PAIR, how="semi").sort(PAIR)
