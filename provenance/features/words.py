"""Word counts: what a comparison of contents sees that knows nothing of any model.

Of music also runs of two and three events count. Words are known by a hash of 32 bits, so no vocabulary has to be agreed on
first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.rows import Rows, by_token
from provenance.core.words import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.rows import Sparse

VOCABULARY = 2**32
EVENTS = (1, 2, 3)


def word_features(contents: Sequence[bytes], modalities: Sequence[str]) -> Rows:
    """Counts of each content's words, cut as its modality says, as rows with one number per word."""
    examples, tokens, counts = [], [], []
    for row, (content, modality) in enumerate(zip(contents, modalities, strict=True)):
        for word, count in _counted(content, modality, row).items():
            examples.append(row)
            tokens.append(int.from_bytes(hashlib.blake2b(word, digest_size=4).digest()))
            counts.append(float(count))
    index = np.asarray(examples, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
    part = by_token(VOCABULARY, (1,), *index, np.asarray(counts, dtype=np.float32).reshape(-1, 1))
    return Rows(np.zeros((len(contents), 0), dtype=np.float32), (), _distinct(part))


def _counted(content: bytes, modality: str, row: int) -> Counter[bytes]:
    found = words(content, modality, row)
    if modality == "music":
        return Counter(b"".join(found[at : at + size]) for size in EVENTS for at in range(len(found) - size + 1))
    return Counter(found)


def _distinct(part: Sparse) -> Sparse:
    """Words of one content whose hashes fall together, as one."""
    same = np.flatnonzero((part.token[1:] == part.token[:-1]) & (part.example[1:] == part.example[:-1])) + 1
    if not len(same):
        return part
    starts = np.setdiff1d(np.arange(len(part.token)), same)
    values = np.add.reduceat(part.values, starts, axis=0)
    return replace(part, example=part.example[starts], token=part.token[starts], values=values)
