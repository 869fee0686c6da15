"""What a pass over the corpus gathers: how often a token occurs and how large its gradient rows are.

Sums over examples, which merge in any order; from them come the row normalisers, a learnt inverse document frequency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.arrays import runs, to_numpy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provenance.core.rows import Rows

# Rare tokens weigh no more than if their mean squared row norm were this part of the average token's.
FLOOR = 0.01


@dataclass(frozen=True)
class Occurrence:
    """Sums for the tokens that occur in a sparse part.

    Attributes:
        token: `(w,)`, ascending.
        squares: squared norms of the token's vectors, summed over examples, `(w,)` float64.
        examples: how many examples hold the token, `(w,)`.
        mass: the vectors' first numbers, summed over examples: of counts, the counts, `(w,)` float64.
    """

    token: np.ndarray
    squares: np.ndarray
    examples: np.ndarray
    mass: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Sums over the examples of shards."""

    examples: int
    parts: dict[str, Occurrence]


def gather(rows: Rows) -> Statistics:
    """The sums of one shard."""
    parts = {}
    for name, part in rows.sparse.items():
        token, start, count = (to_numpy(side) for side in runs(part.token))
        values = to_numpy(part.values).astype(np.float64)
        squares = np.add.reduceat((values**2).sum(axis=1), start) if len(start) else np.zeros(0)
        mass = np.add.reduceat(values[:, 0], start) if len(start) else np.zeros(0)
        parts[name] = Occurrence(token.astype(np.int64), squares, count.astype(np.int64), mass)
    return Statistics(rows.examples, parts)


def merge(one: Statistics, two: Statistics) -> Statistics:
    """The sums of both."""
    parts = {}
    for name in one.parts | two.parts:
        found = [statistics.parts[name] for statistics in (one, two) if name in statistics.parts]
        token, inverse = np.unique(np.concatenate([part.token for part in found]), return_inverse=True)
        sums = []
        for field in ("squares", "examples", "mass"):
            values = np.concatenate([getattr(part, field) for part in found])
            sums.append(np.bincount(inverse, weights=values, minlength=len(token)).astype(values.dtype))
        parts[name] = Occurrence(token, *sums)
    return Statistics(one.examples + two.examples, parts)


def row_weights(occurrence: Occurrence, examples: int, vocabulary: int) -> np.ndarray:
    """`1 / (r_w + 0.01 mean r)` for each token that occurs, with r_w its mean squared row norm; mean over the vocabulary.

    Scaled so that the kernel `sum_w weight_w <a_w, b_w>` of an example with itself is 1 on average.
    """
    mean_squares = occurrence.squares / examples
    weights = 1 / (mean_squares + FLOOR * mean_squares.sum() / vocabulary)
    diagonal = float((weights * mean_squares).sum())
    found: np.ndarray = weights / diagonal if diagonal > 0 else weights
    return found


def to_tensors(statistics: Statistics) -> dict[str, np.ndarray]:
    """The arrays that are stored."""
    tensors = {"examples": np.asarray([statistics.examples], dtype=np.int64)}
    for name, part in statistics.parts.items():
        for field in ("token", "squares", "examples", "mass"):
            tensors[f"{name}:{field}"] = getattr(part, field)
    return tensors


def from_tensors(tensors: Mapping[str, np.ndarray]) -> Statistics:
    """The inverse of `to_tensors`."""
    names = sorted({key.rpartition(":")[0] for key in tensors if key.endswith(":token")})
    fields = ("token", "squares", "examples", "mass")
    parts = {name: Occurrence(*(tensors[f"{name}:{field}"] for field in fields)) for name in names}
    return Statistics(int(tensors["examples"][0]), parts)
