"""Record opt-outs of owners, list them, and give the choices in force to nights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store, sha256
from provenance.core.tables import OPTOUTS
from provenance.corpus import records
from provenance.corpus.ownership import PAID, valid_on
from provenance.corpus.rights.optouts import NO_CHOICES, OPTOUT, PAIR, WITHDRAW, Wish, in_force, latest, new_rows, read_file
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpora, corpus_in_force, load_frozen, works_of

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
    """Record an owner's opt-out of a work, or of all its works in the corpus in force; returns the new rows.

    Args:
        work_id: the work; None for all works of the owner.
        day: the first day of its effect; by default today (UTC).
        now: time of the record; by default the clock's.

    Raises:
        InputError: the work is unknown, or the owner never had a stake in it.
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
    """Record that an owner withdraws the opt-out of a work, or all its opt-outs; returns the new rows."""
    now = now or datetime.now(UTC)
    works = [work_id] if work_id is not None else _opted_out(store, owner_id)
    wishes = [Wish(work, owner_id, WITHDRAW, PAID, evidence, day) for work in works]
    return _record(store, wishes, by=by, now=now, keep_unknown=True)  # so that opt-outs of unknown works can be withdrawn


def import_file(
    store: Store, path: Path, *, by: str, keep_unknown: bool = False, now: datetime | None = None
) -> tuple[int, pl.DataFrame]:
    """Record all lines of a CSV file, or none; importing a file again adds nothing.

    Returns:
        The number of its lines, and the new rows.
    """
    if not path.is_file():
        raise InputError(str(path), expected="a CSV file", found="no such file")
    data = path.read_bytes()
    wishes = read_file(data, str(path))
    rows = _record(store, wishes, by=by, now=now or datetime.now(UTC), keep_unknown=keep_unknown, file_sha256=sha256(data))
    records.keep_raw(store, data)
    return len(wishes), rows


def _record(store: Store, wishes: Sequence[Wish], *, now: datetime, **options: Any) -> pl.DataFrame:
    rows = new_rows(wishes, read_optouts(store), stakes(store), works=frozenset(_works(store)), now=now, **options)
    if rows.height:
        records.append(store, OPTOUTS, rows, now=now)
    log.info("opt-outs: %d of %d recorded", rows.height, len(wishes))
    return rows


def read_optouts(store: Store, known: datetime | None = None) -> pl.DataFrame:
    """The opt-outs table, now or as known at a time."""
    return records.read(store, OPTOUTS, known=known)


def stakes(store: Store) -> pl.DataFrame:
    """`work_id, owner_id` of all present and past stakes in any stored corpus."""
    parts = {load_frozen(store, name).claims.key for name in corpora(store)}
    tables = [store.read_table(key, columns=PAIR) for key in sorted(parts)]
    return pl.concat([pl.DataFrame(schema=dict.fromkeys(PAIR, pl.String)), *tables]).unique().sort(PAIR)


def _works_of(store: Store, owner_id: str, day: date) -> list[str]:
    """The works of the corpus in force in which an owner has a stake on a day or later."""
    claims = store.read_table(corpus_in_force(store).claims.key)
    own = claims.filter(pl.col("owner_id") == owner_id)
    works: list[str] = own.filter(pl.col("valid_to").fill_null(day) >= day)["work_id"].unique().sort().to_list()
    if not works:
        hint = did_you_mean(owner_id, claims["owner_id"].unique().sort())
        expected = "an owner with works in the corpus in force"
        raise InputError(f"owner {owner_id}", expected=expected, found="none of that id", hint=hint)
    return works


def _opted_out(store: Store, owner_id: str) -> list[str]:
    last = latest(read_optouts(store)).filter(pl.col("action") == OPTOUT)
    works: list[str] = last.filter(pl.col("owner_id") == owner_id)["work_id"].to_list()
    if not works:
        hint = did_you_mean(owner_id, last["owner_id"].unique().sort())
        raise InputError(f"owner {owner_id}", expected="an owner who has opted out", found="none of that id", hint=hint)
    return works


def list_optouts(store: Store, *, known: datetime | None = None, now: datetime | None = None) -> pl.DataFrame:
    """The last opt-out of each work and owner, now or at `known`, with `state`: in force, withdrawn, or later."""
    moment = known or now or datetime.now(UTC)
    rows, future = read_optouts(store, known), pl.col("effective_on") > moment.date()
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
    """The works of the corpus in force, if there is one."""
    return works_of(store, corpus_in_force(store)) if store.exists(CURRENT) else []


def choices_on(store: Store, corpus: FrozenCorpus, day: date) -> pl.DataFrame:
    """The choices in force on a day of owners with a stake in works of a corpus: `work_id, owner_id, choice`."""
    choices = in_force(read_optouts(store), day)
    if choices.is_empty():
        return NO_CHOICES
    claims = valid_on(store.read_table(corpus.claims.key), day)
    return choices.join(claims.select(PAIR).unique(), on=PAIR, how="semi").sort(PAIR)
