"""Sketch contents, so that alike ones are found without comparing all pairs (MinHash: Broder 1997; rensa's R-MinHash).

A content is the set of its runs: eight characters in a row, regardless of case and blanks; six events of music; patches of an
image, with their places. Two sketches agree in about as many of their 128 values as the sets have in common (Jaccard). Values
are cut into bands; contents that share a band are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise

import numpy as np
from rensa import RMinHash

from provenance.core.where import batched
from provenance.core.words import whole_runs, words

# Two contents are copies from this Jaccard similarity of their runs on.
ALIKE = {"text": 0.4, "code": 0.4, "music": 0.5, "image": 0.5}
# Characters or events in a run: shorter runs would match common phrases. Patches of an image include their place.
RUN = {"text": 8, "code": 8, "music": 6, "image": 1}
# Contents with fewer runs are only compared as a whole, together with their prompts.
FEWEST = 16
PERMUTATIONS, SEED = 128, 1
# Bands, and values in each. Contents of similarity .4 share a band with probability .94, of .5 with .996, of .1 with .04.
BANDS, WIDTH = 42, 3
# Contents sketched at a time: few, so that their runs stay in the processor's cache.
AT_ONCE = 128
# Odd multipliers of 64-bit hashes (splitmix64, Steele et al. 2014).
ODD, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class Sketches:
    """The sketches of some contents, in order.

    Attributes:
        runs: length of a content's runs, (n,) uint8; 0 for a content with fewer than 16 runs, or of an opaque modality.
        values: the low 16 bits of each value, (n, 128) uint16: two different values seem equal once in 65,536 times.
        bands: a hash of each band, (n, 42) uint64; 0 where a content has no sketch.
    """

    runs: np.ndarray
    values: np.ndarray
    bands: np.ndarray


def sketch(contents: Sequence[bytes], modalities: Sequence[str]) -> Sketches:
    """Sketch contents; an error names the row."""
    count = len(contents)
    made = Sketches(
        np.zeros(count, np.uint8),
        np.zeros((count, PERMUTATIONS), np.uint16),
        np.zeros((count, BANDS), np.uint64),
    )
    rows: dict[int, list[int]] = {}
    for row, modality in enumerate(modalities):
        if modality in RUN:
            rows.setdefault(RUN[modality], []).append(row)
    for size, own in rows.items():
        for start in range(0, len(own), AT_ONCE):
            chosen = np.array(own[start : start + AT_ONCE])
            pieces = [_pieces(contents[row], modalities[row], row) for row in chosen]
            hashes, ends = run_hashes(pieces, size)
            enough = _has_enough(hashes, ends)
            values = _minima(hashes, ends)[enough]
            chosen = chosen[enough]
            made.runs[chosen] = size
            made.values[chosen] = values.astype(np.uint16)
            made.bands[chosen] = _bands(values, size)
    return made


def estimates(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarities of rows of values, (n, 128) uint16 each: (n,) float64, with an error of up to .044."""
    return np.asarray((one == other).sum(axis=1) / PERMUTATIONS)


def runs_of(contents: Sequence[bytes], modality: str) -> list[np.ndarray]:
    """The sets of runs of contents of one modality, each as sorted hashes, uint64."""
    sets: list[np.ndarray] = []
    for own in batched(contents, AT_ONCE):
        hashes, ends = run_hashes([_pieces(content, modality, 0) for content in own], RUN[modality])
        for start, end in pairwise(ends.tolist()):
            runs = np.sort(hashes[start:end])  # np.unique takes several times as long
            sets.append(runs[np.diff(runs, prepend=~runs[:1]) != 0])
    return sets


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """What two sets of runs have in common, as a part of what either has."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def run_hashes(pieces: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of each content: all in a row, uint64, and where each content's begin, with the end of the last.

    Args:
        pieces: the contents' characters or events as numbers, uint64.
        size: how many pieces make a run.
    """
    lengths = np.array([len(own) for own in pieces])
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - size + 1, 0))]).astype(np.uint64)
    flat = np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)
    count = len(flat) - size + 1
    if count <= 0:
        return np.zeros(0, np.uint64), offsets
    hashes = flat[:count] * ODD
    for at in range(1, size):
        hashes += flat[at : at + count]
        hashes *= ODD
    hashes ^= hashes >> np.uint64(31)
    hashes *= MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes[whole_runs(lengths, size)], offsets


def _pieces(content: bytes, modality: str, row: int) -> np.ndarray:
    """A content's characters, regardless of case and blanks, its events, or hashes of its patches, as uint64."""
    if modality in ("text", "code"):
        plain = " ".join(content.decode(errors="replace").casefold().split())
        return np.frombuffer(plain.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if modality == "music":
        return np.frombuffer(content, dtype=np.uint8).astype(np.uint64)
    return np.array([_hash(word) for word in words(content, modality, row)], dtype=np.uint64)


@cache
def _hash(word: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest())


def _has_enough(hashes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether each content has at least 16 different runs."""
    starts, counts = ends[:-1].astype(np.int64), np.diff(ends.astype(np.int64))
    # The first few tell it of most contents; the others are counted.
    first = 4 * FEWEST
    long = np.flatnonzero(counts >= first)
    few = np.sort(hashes[starts[long, None] + np.arange(first)], axis=1)
    enough = np.zeros(len(counts), dtype=bool)
    enough[long] = (few[:, 1:] != few[:, :-1]).sum(axis=1) + 1 >= FEWEST
    for row in np.flatnonzero(~enough & (counts >= FEWEST)):
        enough[row] = len(np.unique(hashes[starts[row] : starts[row] + counts[row]])) >= FEWEST
    return enough


def _minima(hashes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The MinHash values of each content, (n, 128) uint32."""
    rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, PERMUTATIONS, SEED).to_rows()
    count = (len(ends) - 1) * PERMUTATIONS
    return np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=count).reshape(-1, PERMUTATIONS)


def _bands(values: np.ndarray, size: int) -> np.ndarray:
    """A hash of each band of values, (n, bands) uint64, never 0; bands of runs of different lengths differ."""
    cut = values[:, : BANDS * WIDTH].reshape(-1, BANDS, WIDTH).astype(np.uint64)
    hashes = np.full(cut.shape[:2], size, dtype=np.uint64)
    for at in range(WIDTH):
        hashes = (hashes ^ cut[:, :, at]) * ODD
        hashes ^= hashes >> np.uint64(29)
    return hashes * MIX | np.uint64(1)
