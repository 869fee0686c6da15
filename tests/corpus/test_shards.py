from dataclasses import asdict
from datetime import UTC, datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from samples import corpus_frames, deliver, freeze

from provenance.core.settings import Settings
from provenance.core.store import canonical_json, digest
from provenance.corpus.delivery import check_examples, read_corpus
from provenance.corpus.layout import cut
from provenance.corpus.rights.licences import rights_of
from provenance.corpus.rights.policy import read_policy
from provenance.corpus.shards import CURRENT, freeze_corpus, load_frozen


def examples(numbers):
    frame = pl.DataFrame({"work_id": [f"{n:06d}" for n in numbers], "content": [b"%d" % n for n in numbers]})
    return check_examples(frame.with_columns(owner_id=pl.lit("o")), "f")


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=300), st.integers(1, 40))
def test_every_example_is_in_one_shard_and_no_shard_is_too_large(numbers, size):
    shards = list(cut(examples(numbers), size))
    assert pl.concat(shards)["work_id"].to_list() == sorted(f"{n:06d}" for n in numbers)
    assert all(shard.height <= 2 * size for shard in shards)


def test_a_work_added_changes_few_shards():
    before = {tuple(s["work_id"]) for s in cut(examples(range(0, 4000, 2)), 32)}
    after = {tuple(s["work_id"]) for s in cut(examples([*range(0, 4000, 2), 1001]), 32)}
    assert len(before) > 40
    assert len(after - before) <= 3


def test_freezing_twice_is_freezing_once(store):
    deliver(store, corpus_frames())
    corpus = read_corpus(store, "corpus")
    first = freeze_corpus(store, corpus, shard_examples=8)
    keys = store.list("frozen")
    assert freeze_corpus(store, corpus, shard_examples=8) == first
    assert store.list("frozen") == keys
    assert store.read_json(CURRENT)["digest"] == first.digest
    assert load_frozen(store, first.digest) == first
    unmatched = store.read_table(first.unmatched.key)
    assert unmatched.rows() == [("unmatched-somebody", "no author is named", 4, 12)]


def test_held_out_examples_are_in_no_shard_and_labels_do_not_change_what_a_model_would_see(store):
    frames = corpus_frames()
    held_out = pl.when(pl.col("work_id").str.ends_with("-3")).then(pl.lit("held_out")).otherwise(pl.lit("train"))
    frozen = freeze(store, {**frames, "examples": frames["examples"].with_columns(split=held_out)})
    assert (frozen.examples, frozen.held_out) == (45, 15)
    assert sum(shard.rows for shard in frozen.shards) == 45
    labelled = {**frames, "examples": frames["examples"].with_columns(licence_spdx=pl.lit("MIT"))}
    plain, relabelled = freeze(store, frames), freeze(store, labelled)
    assert plain.digest != relabelled.digest
    assert [s.content_digest for s in plain.shards] == [s.content_digest for s in relabelled.shards]


def test_rights_are_frozen_with_the_corpus_and_corpora_without_them_keep_their_digests(store):
    deliver(store, corpus_frames())
    corpus = read_corpus(store, "corpus")
    before = freeze_corpus(store, corpus, shard_examples=8)
    of_then = {key: value for key, value in asdict(before).items() if key not in {"disputes", "rights", "assertions", "places"}}
    assert before.digest == digest(of_then), "as it was before there was a table of rights"
    assert store.read(f"frozen/corpus/{before.digest}.json") == canonical_json(of_then)
    policy = read_policy(Settings().rights.policy)
    rights = rights_of(corpus.examples, corpus.assertions, policy, now=datetime(2026, 11, 20, tzinfo=UTC))
    after = freeze_corpus(store, corpus, shard_examples=8, rights=rights)
    assert (after.shards, after.claims) == (before.shards, before.claims)
    assert store.read_table(after.rights.key).equals(rights)
    assert load_frozen(store, after.digest) == after
    assert load_frozen(store, before.digest) == before
    assert set(after.parts) - set(before.parts) == {after.rights, after.assertions}
    assert all(store.exists(part.key) for part in after.parts)
