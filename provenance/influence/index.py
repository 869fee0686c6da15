"""Products with sparse rows, token by token: a contextual inverted index.

Sparse rows of examples meet a table of what the queries hold at each token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from provenance.core.arrays import Array, namespace, runs, to_numpy
from provenance.core.kernels import sparse_products
from provenance.core.rows import Sparse


@dataclass(frozen=True)
class Table:
    """What queries hold at each token.

    Attributes:
        token: `(w,)`, ascending.
        values: `(w, d, q)` float32.
    """

    token: Array
    values: Array


def apply(part: Sparse, table: Table, examples: int) -> Array:
    """`sum_w <g_i[w], q[w]>` for every example and query: `(examples, q)`."""
    kept, at = restrict(part, table.token)
    return sparse_products(kept.values, kept.example, at, table.values, examples)


def tabulate(part: Sparse, coefficients: Array, token: Array) -> Table:
    """The table of combinations of examples: `values[w] = sum_i g_i[w] c_i'`.

    Args:
        coefficients: `(examples, q)`.
        token: the tokens of the table, ascending; others are left out.
    """
    xp = namespace(coefficients)
    kept, at = restrict(part, token)
    values = xp.zeros((token.shape[0], part.values.shape[1], coefficients.shape[1]), dtype=xp.float32)
    for place, start, count in zip(*(to_numpy(side).tolist() for side in runs(at)), strict=True):
        weights = xp.take(coefficients, kept.example[start : start + count], axis=0)
        values[place, ...] = xp.matrix_transpose(kept.values[start : start + count, :]) @ weights
    return Table(token, values)


def tokens_of(part: Sparse) -> Array:
    """The tokens that a part holds, ascending."""
    return runs(part.token)[0]


def restrict(part: Sparse, token: Array) -> tuple[Sparse, Array]:
    """The vectors at the given tokens (ascending), and at which of these each stands."""
    xp = namespace(part.values)
    if token.shape[0] == 0 or part.token.shape[0] == 0:
        none = xp.zeros(0, dtype=xp.int64)
        return replace(part, example=none, token=none, values=part.values[:0, :]), none
    at = xp.minimum(xp.searchsorted(token, part.token), xp.asarray(token.shape[0] - 1))
    there = xp.nonzero(xp.take(token, at) == part.token)[0]
    if there.shape[0] == part.token.shape[0]:
        return part, at
    example, values = xp.take(part.example, there), xp.take(part.values, there, axis=0)
    return replace(part, example=example, token=xp.take(part.token, there), values=values), xp.take(at, there)
