"""Melodies of music21's scores, by composer."""

from fractions import Fraction

import pytest
from samples import assert_checked

from provenance.corpus.packages import music as music_corpus
from provenance.corpus.packages.music import DURATIONS, FIRST_DURATION, REST, Source, encode


@pytest.fixture(scope="module")
def corpus():
    sources = (Source("chopin", "Frédéric Chopin"), Source("oneills1850", "O'Neill's Music of Ireland", 2))
    more = (Source("joplin", "Scott Joplin"), Source("no-such-folder", "Nobody"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(music_corpus, "SOURCES", sources + more)
        return music_corpus.collect(owners=9, examples_each=12, held_out_each=2)


def test_melodies_have_owners(corpus, store):
    assert_checked(corpus, store)
    assert set(corpus.owners["name"]) <= {"Frédéric Chopin", "O'Neill's Music of Ireland", "Scott Joplin"}
    assert corpus.owners.height >= 2
    assert corpus.examples.filter(split="train").height >= 2 * music_corpus.LEAST
    for content in corpus.examples["content"]:
        sounds, lengths = content[::2], content[1::2]
        assert len(content) <= 2 * music_corpus.NOTES
        assert all(sound <= REST for sound in sounds)
        assert all(FIRST_DURATION <= length < FIRST_DURATION + len(DURATIONS) for length in lengths)
        assert sum(sound < REST for sound in sounds) > 0


def test_events_are_pitches_rests_and_the_nearest_durations():
    events = encode([(60, Fraction(1)), (None, Fraction(1, 2)), (127, Fraction(100))])
    whole, half, longest = (FIRST_DURATION + DURATIONS.index(Fraction(n)) for n in ("1", "1/2", "16"))
    assert list(events) == [60, whole, REST, half, 127, longest]
