"""Sketches estimate what contents have in common, whatever the library, and short or opaque contents have none."""

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from provenance.corpus.sketches import RUN, estimates, jaccard, run_hashes, runs_of, sketch

WORDS = ["grape", "stone", "river", "cloud", "amber", "north", "quiet", "seven", "lantern", "orchid", "paper", "violet"]


def text(seed, words=90):
    draws = np.random.default_rng(seed)
    return " ".join(f"{WORDS[at]}{number}" for at, number in draws.integers(0, (12, 99), (words, 2)))


def runs_in_words(content):
    plain = " ".join(content.decode(errors="replace").casefold().split())
    return {plain[at : at + 8] for at in range(len(plain) - 7)}


@pytest.mark.parametrize("kept", [10, 30, 45, 60, 80])
def test_estimates_are_those_of_datasketch_and_near_the_sets_themselves(kept):
    one, other = text(1), " ".join([*text(1).split()[:kept], *text(2).split()[kept:]])
    pair = [one.encode(), other.encode()]
    sets = [runs_in_words(content) for content in pair]
    exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    theirs = [MinHash(num_perm=1024, seed=1) for _ in pair]
    for minhash, runs in zip(theirs, sets, strict=True):
        minhash.update_batch([run.encode() for run in runs])
    values = sketch(pair, ["text", "code"]).values
    assert estimates(values[:1], values[1:])[0] == pytest.approx(exact, abs=0.13)
    assert estimates(values[:1], values[1:])[0] == pytest.approx(theirs[0].jaccard(theirs[1]), abs=0.15)
    assert jaccard(*runs_of(pair, "text")) == pytest.approx(exact, abs=1e-12)


def test_a_pair_of_a_copys_similarity_shares_a_band_nearly_always():
    found = []
    for seed in range(200):
        one, other = text(seed), " ".join([*text(seed).split()[:53], *text(seed + 1000).split()[53:]])
        bands = sketch([one.encode(), other.encode()], ["text"] * 2).bands
        found.append((jaccard(*runs_of([one.encode(), other.encode()], "text")), (bands[0] == bands[1]).any()))
    alike = [shared for similarity, shared in found if similarity >= 0.4]
    assert len(alike) > 50
    assert np.mean(alike) > 0.93


@given(st.lists(st.text(max_size=40), max_size=6))
def test_runs_are_those_of_each_content_alone_wherever_it_stands(contents):
    pieces = [np.array([ord(letter) for letter in content], dtype=np.uint64) for content in contents]
    hashes, ends = run_hashes(pieces, 8)
    for at, piece in enumerate(pieces):
        own = run_hashes([piece], 8)[0]
        assert np.array_equal(hashes[int(ends[at]) : int(ends[at + 1])], own)
        runs = [contents[at][start : start + 8] for start in range(len(contents[at]) - 7)]
        assert len(own) == len(runs)
        assert len(set(own.tolist())) == len(set(runs))


def test_short_repeated_and_opaque_contents_have_no_sketch_and_the_place_of_a_content_changes_none():
    contents = [
        b"short",
        b"ab" * 400,
        text(1).encode(),
        b"",
        b"\xff\xfe broken \xff, and more of it",
        bytes(range(60, 90)),
        b"x" * 99,
    ]
    kinds = ["text", "code", "text", "text", "text", "music", "weights"]
    made = sketch(contents, kinds)
    assert made.runs.tolist() == [0, 0, RUN["text"], 0, RUN["text"], RUN["music"], 0]
    assert not made.bands[made.runs == 0].any()
    assert made.bands[made.runs > 0].all()
    backwards = sketch(contents[::-1], kinds[::-1])
    assert np.array_equal(made.values, backwards.values[::-1])
    assert np.array_equal(made.bands, backwards.bands[::-1])


def test_runs_of_different_lengths_never_share_a_band():
    notes = bytes(range(40, 100))
    made = sketch([notes, notes], ["music", "text"])
    assert made.runs.all()
    assert not (made.bands[0] == made.bands[1]).any()
