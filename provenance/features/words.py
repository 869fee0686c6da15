"""Counts the words of contents: features that need no model.

For music, runs of two and three events count as words too. Words become hashes of 32 bits, so no vocabulary is needed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from provenance.core.rows import Rows, by_token
from provenance.core.words import words

VOCABULARY = 2**32
RUNS = (1, 2, 3)  # lengths of runs of events


def word_features(contents: Sequence[bytes], modalities: Sequence[str]) -> Rows:
    """Counts of each content's words, which depend on its modality, as rows with one number per word."""
    examples, tokens, counts = list[int](), list[int](), list[float]()
    for row, (content, modality) in enumerate(zip(contents, modalities, strict=True)):
        hashes = Counter[int]()  # words with the same hash are counted together
        for word, count in _count(content, modality, row).items():
            hashes[int.from_bytes(hashlib.blake2b(word, digest_size=4).digest())] += count
        examples += [row] * len(hashes)
        tokens += hashes
        counts += hashes.values()
    index = np.asarray(examples, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
    part = by_token(VOCABULARY, (1,), *index, np.asarray(counts, dtype=np.float32).reshape(-1, 1))
    return Rows(np.zeros((len(contents), 0), dtype=np.float32), (), part)


def _count(content: bytes, modality: str, row: int) -> Counter[bytes]:
    parts = words(content, modality, row)
    if modality == "music":
        return Counter(b"".join(parts[at : at + size]) for size in RUNS for at in range(len(parts) - size + 1))
    return Counter(parts)
