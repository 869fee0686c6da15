"""Passages that stand word for word in works: what is shared is found, as long as it is, and what is common is left alone."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import freeze, table

from provenance.core.settings import Settings
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.core.words import words
from provenance.corpus import ngrams
from provenance.corpus.ngrams import CANDIDATES, FOLDER, cut, find_matches, index_missing
from provenance.corpus.packages.music import encode
from provenance.corpus.shards import freeze_part, with_tokens

POEM = b"The river that nobody crosses runs backwards in the month of May, and every stone of it remembers rain."
CODE = b"def count_words(text: str) -> dict[str, int]:\n    return Counter(word.lower() for word in text.split())\n"


def corpus_of(store, *rows, modality="text"):
    examples = table("work_id content example_id position owner_id", *((*row, at, "ann") for at, row in enumerate(rows)))
    return freeze(store, {"examples": examples.with_columns(modality=pl.lit(modality))}, shard_examples=2)


def found(store, corpus, content, modality="text"):
    index_missing(Where(Settings(), store), corpus)
    outputs = pl.DataFrame({"output_id": ["o"], "content": [content], "modality": [modality]})
    return find_matches(Where(Settings(), store), corpus, outputs)


def texts(matches, content):
    return sorted({content[start:end] for start, end in matches.select("start", "end").iter_rows()})


def test_a_passage_is_found_as_long_as_it_is_with_its_place_in_the_work(store):
    corpus = corpus_of(store, ("poem", b"Yesterday. " + POEM, "p"), ("other", b"something else altogether " * 5, "x"))
    output = b"He said: the river that nobody crosses runs backwards in the\n  month of May, or in June."
    (row,) = found(store, corpus, output).to_dicts()
    passage = output[row["start"] : row["end"]]
    assert passage == b"river that nobody crosses runs backwards in the\n  month of May,", "blanks do not matter, capitals do"
    assert (row["work_id"], row["example_id"], row["works"]) == ("poem", "p", 1)
    assert (b"Yesterday. " + POEM)[row["at"] :].startswith(b"river that nobody")


def test_what_is_short_or_has_few_words_is_nobodys(store):
    corpus = corpus_of(store, ("code", b"for i in range(0, 10):\n    a[i] = (i, i, i)\n" + POEM, "c"))
    assert found(store, corpus, b"x = 1\nfor i in range(0, 10):\n    a[i] = (i, i, i)\n").is_empty(), "signs and single letters"
    assert found(store, corpus, b"The river that nobody crosses today").is_empty(), "five words"
    assert found(store, corpus, b"nothing in common at all with what is in there, by any means").is_empty()
    assert found(store, corpus, b"").is_empty()


def test_a_passage_of_many_works_names_some_and_counts_them(store):
    rows = [(f"work-{n:02d}", b"%d: " % n + POEM, f"e{n:02d}") for n in range(9)]
    corpus = corpus_of(store, *rows, ("more", b"It goes on: " + POEM + b" And on, for ever and ever, amen.", "m"))
    output = POEM + b" And on, for ever"
    matches = found(store, corpus, output)
    assert texts(matches, output) == [output], "a part of a longer passage is not told by itself"
    assert matches["work_id"].to_list() == ["more"]
    alone = found(store, corpus, POEM)
    assert alone["work_id"].to_list() == ["more", "work-00", "work-01"]
    assert set(alone["works"]) == {10}


def test_two_passages_of_different_works_are_two(store):
    corpus = corpus_of(store, ("poem", POEM, "p"), ("code", CODE, "c"))
    output = b"Here it is. " + POEM[:60] + b" -- and " + CODE[:90]
    matches = found(store, corpus, output)
    assert matches.sort("start")["work_id"].to_list() == ["poem", "code"]


def test_text_is_found_in_code_and_music_only_in_music(store):
    notes = encode([(60 + n % 5, 1) for n in range(20)])
    as_text = corpus_of(store, ("code", CODE, "c"), modality="code")
    assert not found(store, as_text, CODE, "text").is_empty()
    music = corpus_of(store, ("tune", notes, "t"), modality="music")
    (row,) = found(store, music, notes[4:30], "music").to_dicts()
    assert (row["start"], row["end"], row["at"]) == (0, 26, 4)
    assert found(store, music, notes[4:16], "music").is_empty(), "six notes"
    assert found(store, music, notes, "text").is_empty()
    assert found(store, music, notes, "molecule").is_empty()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe" + POEM + b"\xc3", "Über naïve 村上春樹 Wörter läßt sich leicht streiten, sagte sie.".encode()]
)
def test_bytes_have_their_places_whatever_their_encoding(content):
    words = cut(content, "text")
    assert all(content[a:b] == word for a, b, word in zip(words.starts, words.ends, words.words, strict=True))
    assert b"".join(words.words) == b"".join(content.split())


def test_shards_are_indexed_once_and_anew_with_other_content(store):
    corpus = corpus_of(store, *((f"work-{n}", b"%d " % n + POEM, f"e{n}") for n in range(6)))
    assert index_missing(Where(Settings(), store), corpus) == len(corpus.shards) > 1
    assert index_missing(Where(Settings(), store), corpus) == 0
    longer = corpus_of(store, *((f"work-{n}", b"%d " % n + POEM, f"e{n}") for n in range(6)), ("work-9", CODE, "c"))
    new = {part.sha256 for part in longer.shards} - {part.sha256 for part in corpus.shards}
    assert index_missing(Where(Settings(), store), longer) == len(new) < len(longer.shards)
    assert len(store.list(FOLDER)) == len({part.sha256 for part in (*corpus.shards, *longer.shards)})


def test_examples_that_share_most_are_compared_first(store):
    # Many examples share a run with the output; the one that has all of it is among those compared.
    rows = [
        (f"w{n:03d}", b"The river that nobody crosses runs backwards in %d" % n, f"e{n:03d}") for n in range(2 * CANDIDATES)
    ]
    examples = table("work_id content example_id owner_id", *((*row, "ann") for row in [*rows, ("whole", POEM, "z")]))
    corpus = freeze(store, {"examples": examples}, shard_examples=4 * CANDIDATES)
    assert found(store, corpus, POEM)["work_id"].to_list() == ["whole"]


ODD = st.text(st.sampled_from("ab_9 .,-\t\n\x0b\x1c\x1f\x85\u00a0\u0130e\u0301\u4e2d\x00"), max_size=60)


@given(st.lists(st.tuples(ODD.map(str.encode), st.sampled_from(["text", "code", "music", "image"])), min_size=1, max_size=6))
def test_an_index_has_the_runs_of_each_content_cut_alone_and_words_are_counted_as_they_are_cut(tmp_path_factory, contents):
    store = Store(f"file://{tmp_path_factory.mktemp('index')}", {})
    contents = [(content, "text" if kind == "image" else kind) for content, kind in contents]
    frame = pl.DataFrame(contents, schema={"content": pl.Binary, "modality": pl.String}, orient="row")
    part = freeze_part(store, frame)
    ngrams._index(store, part, ngrams._WordHashes())
    expected = {(run, row) for row, (content, kind) in enumerate(contents) for run in ngrams.cut(content, kind).runs.tolist()}
    index = store.read_table(ngrams.index_key(part))
    assert index.rows() == sorted(expected)
    counted = with_tokens(frame.with_columns(example_id=pl.lit("e")))["tokens"].to_list()
    assert counted == [len(words(content, kind, 0)) for content, kind in contents]


def test_words_keep_their_hashes_from_text_to_text():
    known, draws = ngrams._WordHashes(), np.random.default_rng(1)
    for _ in range(50):
        some = [f"word-{number}" for number in draws.integers(300, size=20)]
        assert known.of_all(pl.Series(some)).tolist() == [ngrams._WordHashes()[word] for word in some]
