"""Word counts: what a comparison of contents sees that knows nothing of any model.

Of music also runs of two and three events count. Words are known by a hash of 32 bits, so no vocabulary has to be agreed on
first.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from provenance.core.rows import Rows, by_token
from provenance.core.words import words

VOCABULARY = 2**32
EVENTS = (1, 2, 3)


def word_features(contents: Sequence[bytes], modalities: Sequence[str]) -> Rows:
    """Counts of each content's words, cut as its modality says, as rows with one number per word."""
    examples, tokens, counts = list[int](), list[int](), list[float]()
    for row, (content, modality) in enumerate(zip(contents, modalities, strict=True)):
        held = Counter[int]()  # words whose hashes fall together are one
        for word, count in _counted(content, modality, row).items():
            held[int.from_bytes(hashlib.blake2b(word, digest_size=4).digest())] += count
        examples += [row] * len(held)
        tokens += held
        counts += held.values()
    index = np.asarray(examples, dtype=np.int64), np.asarray(tokens, dtype=np.int64)
    part = by_token(VOCABULARY, (1,), *index, np.asarray(counts, dtype=np.float32).reshape(-1, 1))
    return Rows(np.zeros((len(contents), 0), dtype=np.float32), (), part)


def _counted(content: bytes, modality: str, row: int) -> Counter[bytes]:
    found = words(content, modality, row)
    if modality == "music":
        return Counter(b"".join(found[at : at + size]) for size in EVENTS for at in range(len(found) - size + 1))
    return Counter(found)
