"""Multiplies sparse rows of examples with a table of queries, token by token: a contextual inverted index."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provenance.core.arrays import Array, device_of, look_up, namespace, runs, to_numpy
from provenance.core.kernels import sparse_products
from provenance.core.rows import Sparse


@dataclass(frozen=True)
class Table:
    """The vectors of queries at each token.

    Attributes:
        token: `(w,)`, ascending.
        values: `(w, d, q)` float32.
    """

    token: Array
    values: Array


def multiply(part: Sparse, table: Table, examples: int) -> Array:
    """`sum_w <g_i[w], q[w]>` for every example and query: `(examples, q)`."""
    shared, at = restrict(part, table.token)
    return sparse_products(shared.values, shared.example, at, table.values, examples)


def tabulate(part: Sparse, coefficients: Array, token: Array) -> Table:
    """The table of combinations of examples: `values[w] = sum_i g_i[w] c_i'`.

    Args:
        coefficients: `(examples, q)`.
        token: the tokens of the table, ascending; others are left out.
    """
    xp = namespace(coefficients)
    shared, at = restrict(part, token)
    shape = token.shape[0], part.values.shape[1], coefficients.shape[1]
    values = xp.zeros(shape, dtype=xp.float32, device=device_of(coefficients))
    for place, start, count in zip(*(to_numpy(side).tolist() for side in runs(at)), strict=True):
        weights = xp.take(coefficients, shared.example[start : start + count], axis=0)
        values[place, ...] = xp.matrix_transpose(shared.values[start : start + count, :]) @ weights
    return Table(token, values)


def table_of(part: Sparse, token: Array, columns: slice) -> Table:
    """The table of some examples themselves, one in a column; vectors stand by token, then by example.

    Args:
        token: the tokens of the table, ascending.
        columns: the first of these examples, and the one after the last.
    """
    xp, device = namespace(part.values), device_of(part.values)
    some = xp.arange(columns.start, columns.stop, device=device)
    most = max(columns.stop, int(xp.max(part.example)) + 1 if part.example.shape[0] else 0)
    cells = xp.reshape(token[:, None] * most + some[None, :], (-1,))
    found = look_up(cells, part.token * most + part.example, part.values)
    values = xp.zeros((token.shape[0], part.values.shape[1], some.shape[0]), dtype=xp.float32, device=device)
    values[...] = xp.matrix_transpose(xp.reshape(found, (token.shape[0], some.shape[0], part.values.shape[1])))
    return Table(token, values)


def tokens_of(part: Sparse) -> Array:
    """The tokens of sparse rows, ascending."""
    return runs(part.token)[0]


def restrict(part: Sparse, token: Array) -> tuple[Sparse, Array]:
    """The vectors at some tokens (ascending), and the position of each vector's token among them."""
    xp = namespace(part.values)
    if token.shape[0] == 0 or part.token.shape[0] == 0:
        none = xp.zeros(0, dtype=xp.int64)
        return replace(part, example=none, token=none, values=part.values[:0, :]), none
    at = xp.minimum(xp.searchsorted(token, part.token), xp.asarray(token.shape[0] - 1))
    shared = xp.nonzero(xp.take(token, at) == part.token)[0]
    if shared.shape[0] == part.token.shape[0]:
        return part, at
    example, values = xp.take(part.example, shared), xp.take(part.values, shared, axis=0)
    return replace(part, example=example, token=xp.take(part.token, shared), values=values), xp.take(at, shared)
