"""Word counts: what a comparison of contents sees that knows nothing of any model.

Text and code are cut into words and signs; music into runs of one to three events; images into small patches, coarsely
graded, with where they stand. Words are known by a hash of 32 bits, so no vocabulary has to be agreed on first.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.rows import Rows, by_token
from provenance.features.images import open_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provenance.core.rows import Sparse

VOCABULARY = 2**32
SIGNS = re.compile(r"\w+|[^\w\s]")
EVENTS = (1, 2, 3)
PATCH, STRIDE, GRADES, GRID = 4, 2, 4, 4


def word_features(contents: Sequence[bytes], modalities: Sequence[str]) -> Rows:
    """Counts of each content's words, cut as its modality says, as rows with one number per word."""
    examples, tokens, counts = [], [], []
    for row, (content, modality) in enumerate(zip(contents, modalities, strict=True)):
        for word, count in Counter(_words(content, modality, row)).items():
            examples.append(row)
            tokens.append(int.from_bytes(hashlib.blake2b(word, digest_size=4).digest()))
            counts.append(float(count))
    index = np.asarray(examples, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
    part = by_token(VOCABULARY, (1,), *index, np.asarray(counts, dtype=np.float32).reshape(-1, 1))
    return Rows(np.zeros((len(contents), 0), dtype=np.float32), (), _distinct(part))


def _words(content: bytes, modality: str, row: int) -> Iterator[bytes]:
    if modality == "image":
        yield from _patches(content, row)
    elif modality == "music":
        for size in EVENTS:
            yield from (content[at : at + size] for at in range(len(content) - size + 1))
    else:
        yield from (word.encode() for word in SIGNS.findall(content.decode(errors="replace").lower()))


def _patches(content: bytes, row: int) -> Iterator[bytes]:
    """Patches of 4 x 4 pixels every 2 pixels, each of its quarters in four grades of grey, and where in a 4 x 4 grid it is."""
    grey = np.asarray(open_image(row, content).convert("L"), dtype=np.float32) / 256
    height, width = grey.shape
    for top in range(0, height - PATCH + 1, STRIDE):
        for left in range(0, width - PATCH + 1, STRIDE):
            patch = grey[top : top + PATCH, left : left + PATCH]
            quarters = patch.reshape(2, PATCH // 2, 2, PATCH // 2).mean(axis=(1, 3))
            place = (top * GRID // height, left * GRID // width)
            yield bytes((*place, *(quarters * GRADES).astype(np.uint8).ravel()))


def _distinct(part: Sparse) -> Sparse:
    """Words of one content whose hashes fall together, as one."""
    same = np.flatnonzero((part.token[1:] == part.token[:-1]) & (part.example[1:] == part.example[:-1])) + 1
    if not len(same):
        return part
    starts = np.setdiff1d(np.arange(len(part.token)), same)
    values = np.add.reduceat(part.values, starts, axis=0)
    return replace(part, example=part.example[starts], token=part.token[starts], values=values)
