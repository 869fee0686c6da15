"""A night on a corpus that grew on top of another is replayed to the same bytes, and pays as on one that came at once."""

import polars as pl
import pytest
from samples import DAY, corpus_frames
from stages import SMALL, night, run

from provenance.corpus.shards import CURRENT, corpus_in_force
from provenance.inputs.night import read_whole
from provenance.settlement.exports.nights import check_day
from provenance.validation.replay import recompute

LATER = "-[12]$"  # works that the first delivery lacks


def without(frames, works):
    """A corpus without some works."""
    kept = {name: frames[name].filter(~pl.col("work_id").str.contains(works)) for name in ("examples", "claims")}
    return frames | kept


def shares(store, folder):
    """The shares of a night: `{(output, account, party): ppb}`."""
    columns = ["output_id", "account", "party_id", "share_ppb"]
    return {(o, a, p): s for o, a, p, s in read_whole(store, folder, "shares", "shares").select(columns).iter_rows()}


def test_a_night_on_a_grown_corpus_is_replayed_and_pays_as_on_a_fresh_one(store, ingested, doors):
    ingested(without(corpus_frames(), LATER), (), **SMALL)
    first = corpus_in_force(store)
    ingested(corpus_frames(), **SMALL)
    grown = corpus_in_force(store)
    assert grown.places is not None
    assert set(first.shards) & set(grown.shards)
    folder = night()
    assert [check.problems for check in check_day(doors(), DAY)[1] if not check.passed] == []
    _, checks = recompute(doors(), DAY)
    assert [check.problems for check in checks if not check.passed] == []

    store.remove(CURRENT)
    assert run("corpus.ingest") != grown.digest
    fresh = corpus_in_force(store)
    assert fresh.places is None
    assert sum(part.rows for part in fresh.shards) == sum(part.rows for part in grown.shards)
    assert shares(store, night()) == pytest.approx(shares(store, folder), abs=10_000), "but for last digits, of 1,000,000,000"
