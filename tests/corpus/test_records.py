"""Records are append-only, and past states can be read."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from samples import optout_row

from provenance.core.errors import ContractError
from provenance.core.tables import OPTOUTS
from provenance.corpus.records import append, keep_raw, raw_key, read

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def optout(work, at=NOON, **columns):
    return pl.DataFrame([optout_row(at, work, "a") | columns])


def test_what_was_known_at_a_time_is_what_had_been_added_by_then(store):
    assert read(store, OPTOUTS).schema == OPTOUTS.schema
    for hours, work in enumerate(("first", "second", "third")):
        append(store, OPTOUTS, optout(work), now=NOON + timedelta(hours=hours))
    assert read(store, OPTOUTS)["work_id"].to_list() == ["first", "second", "third"]
    assert read(store, OPTOUTS, known=NOON + timedelta(hours=1))["work_id"].to_list() == ["first", "second"]
    assert read(store, OPTOUTS, known=NOON - timedelta(seconds=1)).is_empty()


def test_the_same_at_the_same_time_is_there_once_and_so_are_raw_bytes_under_their_digest(store):
    assert append(store, OPTOUTS, optout("w"), now=NOON) == append(store, OPTOUTS, optout("w"), now=NOON)
    assert read(store, OPTOUTS).height == 1
    sha = keep_raw(store, b"User-agent: *\n")
    assert keep_raw(store, b"User-agent: *\n") == sha
    assert store.read(raw_key(sha)) == b"User-agent: *\n"


def test_what_breaks_the_contract_is_not_added(store):
    with pytest.raises(ContractError, match="column 'evidence'"):
        append(store, OPTOUTS, optout("w").drop("evidence"))
    assert not store.list("rights")
