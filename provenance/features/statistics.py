"""Counts tokens of a corpus and sums the squares of their gradient rows; weights tokens by these sums.

Sums over examples merge in any order. The weights act like a learnt inverse document frequency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from provenance.core.arrays import namespace, runs, to_numpy
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, by_block

# A floor for the mean squared row norm of rare tokens, as a part of the average token's.
FLOOR = 0.01
FIELDS = ("squares", "examples", "mass")


@dataclass(frozen=True)
class Occurrence:
    """Sums for the tokens that occur in the sparse part.

    Attributes:
        token: `(w,)`, ascending.
        squares: squared norms of each block of the token's vectors, summed over examples, `(w, blocks)` float64.
        examples: number of examples with the token, `(w,)`.
        mass: first numbers of the vectors, summed over examples, `(w,)` float64; for words, their counts.
    """

    token: np.ndarray
    squares: np.ndarray
    examples: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Sums over the examples of shards."""

    examples: int
    tokens: Occurrence


def gather(rows: Rows) -> Statistics:
    """The statistics of one shard."""
    part = rows.sparse
    xp = namespace(part.values)
    token, start, count = (to_numpy(side) for side in runs(part.token))
    if not len(token):
        return Statistics(rows.examples, Occurrence(token, np.zeros((0, len(part.blocks))), count, np.zeros(0)))
    wide = (xp.astype(block, xp.float64) for block in by_block(part.values, part.blocks))
    squares = np.stack([to_numpy(xp.sum(block**2, axis=1)) for block in wide], axis=1)
    mass = to_numpy(part.values[:, 0]).astype(np.float64)
    return Statistics(rows.examples, Occurrence(token, np.add.reduceat(squares, start), count, np.add.reduceat(mass, start)))


def merge(one: Statistics, two: Statistics) -> Statistics:
    """The statistics of both together."""
    token, inverse = np.unique(np.concatenate([one.tokens.token, two.tokens.token]), return_inverse=True)
    sums = []
    for field in FIELDS:
        values = np.concatenate([getattr(part.tokens, field) for part in (one, two)])
        total = add_by_group(values.reshape(len(inverse), math.prod(values.shape[1:])), inverse, len(token))
        sums.append(total.reshape(len(token), *values.shape[1:]))
    return Statistics(one.examples + two.examples, Occurrence(token, *sums))


def row_weights(occurrence: Occurrence, examples: int, vocabulary: int) -> np.ndarray:
    """Weights `1 / (r_w + 0.01 mean r)` of each token and block, with r_w its mean squared row norm; mean over the vocabulary.

    Scaled so that the kernel `sum_w weight_w <a_w, b_w>` of an example with itself is 1 on average, in each block. A token
    that does not occur in a block has weight 0 there.
    """
    mean_squares = occurrence.squares / examples
    floor = FLOOR * mean_squares.sum(axis=0) / vocabulary
    weights = np.divide(1, mean_squares + floor, out=np.zeros_like(mean_squares), where=mean_squares > 0)
    diagonal = (weights * mean_squares).sum(axis=0)
    scaled: np.ndarray = weights / np.where(diagonal > 0, diagonal, 1)
    return scaled


def to_tensors(statistics: Statistics) -> dict[str, np.ndarray]:
    """Arrays for the store."""
    tensors = {"count": np.asarray([statistics.examples], dtype=np.int64)}
    return tensors | {field: getattr(statistics.tokens, field) for field in ("token", *FIELDS)}


def from_tensors(tensors: Mapping[str, np.ndarray]) -> Statistics:
    """The inverse of `to_tensors`."""
    tokens = Occurrence(*(tensors[field] for field in ("token", *FIELDS)))
    return Statistics(int(tensors["count"][0]), tokens)
