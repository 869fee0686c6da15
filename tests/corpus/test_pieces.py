"""A delivery read in pieces is the delivery read whole: same checks, same copies, same shards, whatever the pieces."""

from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import corpus_frames, deliver

from provenance.core.errors import ContractError
from provenance.core.settings import Settings
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.corpus import pieces, shards
from provenance.corpus.delivery import read_corpus
from provenance.corpus.duplicates import find_duplicates
from provenance.corpus.ownership import since
from provenance.corpus.pieces import SCRATCH, read_pieces
from provenance.corpus.shards import freeze_corpus


@pytest.fixture
def small(monkeypatch):
    for module, name, value in ((pieces, "PIECE_ROWS", 7), (pieces, "LEAF_ROWS", 3), (shards, "STRETCH_ROWS", 5)):
        monkeypatch.setattr(module, name, value)


@contextmanager
def in_pieces(store):
    with read_pieces(Where(Settings(), store), "corpus") as corpus:
        yield corpus


def frozen_whole(store):
    corpus = read_corpus(store, "corpus")
    train = corpus.examples.filter(pl.col("split") == "train")
    return freeze_corpus(store, corpus, shard_examples=8, duplicates=find_duplicates(since(train, corpus.claims)))


def frozen_in_pieces(store):
    with in_pieces(store) as corpus:
        train = since(corpus.examples.filter(pl.col("split") == "train"), corpus.claims).sort("place")
        copies = find_duplicates(train, sketched=corpus.contents.pieces)
        return freeze_corpus(store, corpus, shard_examples=8, duplicates=copies)


def examples(count=40):
    """Examples with copies, prompts, held-out ones, an extra column, and works that have no order in their file."""
    draws = np.random.default_rng(5)
    frame = corpus_frames(owners=5, each=count // 5)["examples"].with_row_index("mood")
    text = [content * 3 for content in frame["content"]]
    text[7], text[21], text[30] = text[2], text[2] + b" and so on", b"yes"
    prompts = [b"what?" if at in (3, 30) else None for at in range(frame.height)]
    split = ["held_out" if at % 9 == 8 else "train" for at in range(frame.height)]
    return frame.with_columns(content=pl.Series(text), prompt=pl.Series(prompts), split=pl.Series(split))[
        draws.permutation(frame.height)
    ]


@pytest.mark.parametrize("parts", [1, 3])
def test_the_corpus_is_that_of_a_delivery_read_whole(store, small, parts):
    frames = corpus_frames(owners=5, each=8) | {"examples": examples()}
    deliver(store, {name: frame for name, frame in frames.items() if name != "examples" or parts == 1}, days=())
    for part in range(parts if parts > 1 else 0):
        store.write_table(f"corpus/examples.parquet/part-{part}.parquet", frames["examples"][part::parts])
    whole = frozen_whole(store)
    with in_pieces(store) as corpus:
        assert len(corpus.contents.pieces) > parts
        assert sum(len(piece.leaves) for piece in corpus.contents.pieces) > len(corpus.contents.pieces)
    assert frozen_in_pieces(store) == whole
    assert store.list(SCRATCH) == []
    assert whole.held_out
    assert store.read_table(whole.duplicates.key).height >= 3


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(40)), piece=st.integers(1, 41), leaf=st.integers(1, 9), stretch=st.integers(1, 30))
def test_no_order_and_no_size_of_pieces_changes_the_corpus(tmp_path_factory, order, piece, leaf, stretch):
    store = Store(f"file://{tmp_path_factory.mktemp('pieces')}", {})
    frames = corpus_frames(owners=5, each=8) | {"examples": examples()}
    deliver(store, frames, days=())
    with pytest.MonkeyPatch.context() as patch:
        whole = frozen_whole(store)
        store.write_table("corpus/examples.parquet", frames["examples"][order])
        for module, name, value in (
            (pieces, "PIECE_ROWS", piece),
            (pieces, "LEAF_ROWS", leaf),
            (shards, "STRETCH_ROWS", stretch),
        ):
            patch.setattr(module, name, value)
        assert frozen_in_pieces(store) == whole


def test_an_error_names_the_row_of_its_file_and_leaves_no_scratch(store, small):
    frames = corpus_frames(owners=5, each=8)
    bad = (
        frames["examples"]
        .with_row_index("at")
        .with_columns(content=pl.when(pl.col("at") == 23).then(pl.lit(b"")).otherwise("content"))
    )
    deliver(store, frames | {"examples": bad.drop("at")}, days=())
    with (
        pytest.raises(ContractError, match=r"examples\.parquet: row 23 .*column 'content': expected at least one byte"),
        in_pieces(store),
    ):
        pass
    assert store.list(SCRATCH, hidden=True) == []


def test_what_examples_must_keep_together_holds_across_pieces(store, small):
    frames = corpus_frames(owners=5, each=8)
    twice = frames["examples"].with_columns(example_id=pl.Series([*(f"e{at}" for at in range(39)), "e3"]))
    deliver(store, frames | {"examples": twice}, days=())
    with (
        pytest.raises(ContractError, match=r"row 39: example_id: expected a key .*'e3', which row 3 has too"),
        in_pieces(store),
    ):
        pass
    store.remove("corpus/examples.parquet")
    for part, mood in enumerate(([1.5] * 20, ["glad"] * 20)):
        rows = frames["examples"][part * 20 : part * 20 + 20].with_columns(mood=pl.Series(mood))
        store.write_table(f"corpus/examples.parquet/part-{part}.parquet", rows)
    with (
        pytest.raises(ContractError, match=r"part-1\.parquet: column 'mood': expected type Float64, as in part-0"),
        in_pieces(store),
    ):
        pass


def test_leaves_hold_few_bytes(store, monkeypatch):
    monkeypatch.setattr(pieces, "LEAF_BYTES", 1000)
    frames = corpus_frames(owners=5, each=8)
    long = frames["examples"].with_columns(content=pl.Series([bytes([65 + at % 26]) * (at * 50 + 1) for at in range(40)]))
    deliver(store, frames | {"examples": long}, days=())
    with in_pieces(store) as corpus:
        (piece,) = corpus.contents.pieces
        sizes = [piece.read_leaf(at)["content"].bin.size().to_list() for at in range(len(piece.leaves))]
    assert all(sum(own) <= 1000 or len(own) == 1 for own in sizes)
    assert sum(map(len, sizes)) == 40
    assert frozen_in_pieces(store) == frozen_whole(store)
