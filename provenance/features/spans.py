"""Cuts a content into spans, each with the terms of the loss that lie in it, such as its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from provenance.models.model import Adapter, Example, Splittable

# Words, signs and blanks; long words, as of scripts without blanks, in pieces.
UNITS = re.compile(r"\w{1,12}|[^\w\s]|\s+")
# A span ends best after one of these, or before a new line.
ENDS = frozenset(".,;:!?)]}\u3002\uff0c\uff1b\uff01\uff1f")
# Fewest words of a span where there are so many, and fewest events of a span of music.
LEAST_WORDS, LEAST_TERMS = 5, 8


@dataclass(frozen=True)
class Span:
    """A stretch of a content.

    Attributes:
        start, end: its first byte, and the one after its last.
        part: the first term of the loss that lies in it, and the one after the last.
    """

    start: int
    end: int
    part: tuple[int, int]


def spans_of(adapter: Adapter, example: Example, modality: str, *, most: int) -> list[Span]:
    """The spans of a content, in order; none if the adapter's loss has no places in it.

    Args:
        most: spans of a content, about.
    """
    if not isinstance(adapter, Splittable):
        return []
    (places,) = adapter.places([example.content], [example.prompt])
    if not places:
        return []
    ends = [end for _, end in places]
    cuts = list(_cuts_of_text(example.content, most)) if modality in ("text", "code") else list(_cuts_of_terms(ends, most))
    # A term belongs where its last byte is, since a token may begin with a blank; one that lies nowhere, to the term before.
    last = np.maximum.accumulate([max(first, end - 1) if first < end else -1 for first, end in places])
    number = np.searchsorted(cuts, np.minimum(last, len(example.content) - 1), side="right")
    starts = [0, *cuts[:-1]]
    found = []
    for span in np.unique(number).tolist():
        terms = np.flatnonzero(number == span)
        found.append(Span(starts[span], cuts[span], (int(terms[0]), int(terms[-1]) + 1)))
    return found


def _cuts_of_text(content: bytes, most: int) -> Iterator[int]:
    """The bytes at which spans of a text end: near ends of sentences and lines."""
    text = content.decode(errors="surrogateescape")
    at = [0, *accumulate(len(character.encode(errors="surrogateescape")) for character in text)]
    units = list(UNITS.finditer(text))
    words = sum(not unit[0].isspace() for unit in units)
    least, count, left = max(LEAST_WORDS, -(-words // most)), 0, words
    for unit, following in zip(units, [*(unit[0] for unit in units[1:]), "\n"], strict=True):
        if unit[0].isspace():
            continue
        count, left = count + 1, left - 1
        blank = following.isspace()
        ends_well = (unit[0] in ENDS and (blank or not unit[0].isascii())) or (blank and "\n" in following)
        if left >= least / 2 and ((ends_well and count >= least) or (count >= 2 * least and (blank or count >= 4 * least))):
            yield at[unit.end()]
            count = 0
    yield len(content)


def _cuts_of_terms(ends: list[int], most: int) -> Iterator[int]:
    """The bytes at which spans of equally many terms end."""
    size = LEAST_TERMS * max(1, -(-len(ends) // (most * LEAST_TERMS)))
    for at in range(size, len(ends), size):
        if len(ends) - at >= size // 2:
            yield ends[at - 1]
    yield ends[-1]
