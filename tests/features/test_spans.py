"""Spans of a content lie side by side, end where sentences and lines do, and have the terms of the loss that lie in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.features.spans import spans_of
from provenance.models.model import Example


class Bytes:
    """An adapter whose loss has a term for each byte, and one after the last."""

    def places(self, contents, prompts):
        return [[*((at, at + 1) for at in range(len(content))), (len(content), len(content))] for content in contents]

    def restrict(self, batch, parts):
        return batch


class Words(Bytes):
    """Terms as tokenizers have them: a blank belongs to the word after it, and the first word has no loss."""

    def places(self, contents, prompts):
        (content,) = contents
        places, at = [], 0
        for word in content.split(b" "):
            end = at + len(word) + (at > 0)
            places.append((at, end))
            at = end
        return [places[1:]]


class Whole:
    """An adapter whose loss has no parts."""


def cut(content, adapter=None, modality="text", most=16):
    return spans_of(adapter or Bytes(), Example(content), modality, most=most)


def texts(content, **how):
    return [content[span.start : span.end].decode() for span in cut(content, **how)]


def test_spans_end_with_sentences_and_lines():
    text = (
        b"A sentence has some words in it. Another one follows, as they do.\nAnd a line that does not end the sentence\nhere."
    )
    assert texts(text) == [
        "A sentence has some words in it.",
        " Another one follows, as they do.",
        "\nAnd a line that does not end the sentence\nhere.",
    ]
    code = b"def f(x):\n    y = x.strip().lower()\n    return [y for y in things if y]\n"
    assert texts(code, modality="code") == [
        "def f(x):",
        "\n    y = x.strip().lower()",
        "\n    return [y for y in things if y]\n",
    ]


def test_a_sentence_without_end_is_cut_all_the_same_and_no_end_is_tiny():
    text = b"one two three four five " * 12 + b"end"
    spans = texts(text)
    assert "".join(spans) == text.decode()
    assert all(5 <= len(span.split()) <= 21 for span in spans)
    without_blanks = "村上春樹は書いた。" * 12
    assert len(texts(without_blanks.encode())) > 2


def test_long_texts_have_about_so_many_spans():
    text = b"A few words, then. " * 200
    assert 4 <= len(cut(text, most=8)) <= 12
    assert 24 <= len(cut(text, most=48)) <= 60


def test_music_is_cut_into_equal_stretches():
    spans = cut(bytes(range(100, 200)), modality="music", most=16)
    assert {span.end - span.start for span in spans[:-1]} == {8}
    assert all(span.part[0] == span.start for span in spans)


@given(st.text(max_size=300), st.integers(1, 20))
def test_spans_and_their_terms_lie_side_by_side(text, most):
    content = text.encode()
    spans = cut(content, most=most) if content else []
    if spans:
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == len(content)
        assert [span.part[0] for span in spans] == [0, *(span.part[1] for span in spans[:-1])]
        assert spans[-1].part[1] == len(content) + 1, "the term after the content counts with the last span"


@given(st.binary(min_size=1, max_size=200))
def test_what_is_no_text_is_cut_all_the_same(content):
    spans = cut(content)
    assert b"".join(content[span.start : span.end] for span in spans) == content


def test_a_term_belongs_where_its_word_is():
    text = b"one two three four five, six seven eight nine ten eleven."
    first, second = cut(text, Words())
    assert text[first.start : first.end] == b"one two three four five,"
    assert (first.part, second.part) == ((0, 4), (4, 10)), "the first word has no loss"


@pytest.mark.parametrize("adapter", [Whole()])
def test_an_adapter_whose_loss_has_no_parts_has_no_spans(adapter):
    assert cut(b"one two three four five six", adapter) == []

    class Unknown(Bytes):
        def places(self, contents, prompts):
            return [[] for _ in contents]

    assert cut(b"one two three four five six", Unknown()) == []
