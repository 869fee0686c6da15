"""Fits the curvature, the damped Fisher information of the loss terms, and applies its inverse to queries.

The influence of example i on output q is `q' (F + lambda)^-1 g_i` (Koh and Liang 2017, arXiv 1703.04730, section 2; for
projected gradients Park et al. 2023, arXiv 2303.14186) with F a mean of outer products over sampled loss terms. A feature row
has two parts, and each has its own form of the correction:

- dense: F is a matrix over the p numbers of all inner layers, summed over many terms and factored.
- sparse: too wide for a matrix. With m sampled rows S as landmarks, `(S'S / m + lambda)^-1` is, by Woodbury's identity,
  `(1 - S' (S S' + m lambda)^-1 S) / lambda`: an m x m problem, and the corrected query is the query minus a combination of
  landmarks. Tokens are first weighted by the size of their rows (`statistics.row_weights`).

lambda is computed, not chosen: it is the oracle-approximating shrinkage of F towards a multiple of the identity (Chen et al.
2010, IEEE Trans. Signal Processing 58(10), equation 23). It needs the first two moments of the eigenvalues and the number of
independent observations in F. For the dense part these are examples, because the terms of an example share its inputs (the
noise draws of an image most of all). For the sparse part, with fewer rows than dimensions, they are rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from provenance.core.arrays import Array, device_of, look_up, namespace, to_numpy
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, concatenate, move, sparse_only, spread
from provenance.core.solving import factor, solve
from provenance.features.statistics import Statistics, row_weights
from provenance.influence.index import Table, multiply, table_of, tabulate, tokens_of

# Coordinates of the dense part are scaled by their mean square to the power -1/4, half way between raw and whitened.
SCALE_POWER = -0.25
SCALE_FLOOR = 0.01
# Examples in a block of products; the table of a block must fit into memory.
BLOCK = 128


# Results lie in host memory; the arrays that they are computed from are NumPy's or, on a GPU, CuPy's.


@dataclass(frozen=True)
class Dense:
    """Curvature of the dense part.

    Attributes:
        factor: lower Cholesky factor of `D F D + lambda I`, `(p, p)`, float32.
        scale: the diagonal of D, `(p,)`.
        damping: lambda, as a multiple of the mean eigenvalue.
    """

    factor: np.ndarray
    scale: np.ndarray
    damping: float

    def precondition(self, queries: Array) -> Array:
        """`D (D F D + lambda I)^-1 D q` for rows `(q, p)`, float64."""
        xp = namespace(queries)
        scale = xp.asarray(self.scale)
        scaled = xp.astype(queries, xp.float64) * scale
        return xp.matrix_transpose(solve(xp.asarray(self.factor), xp.matrix_transpose(scaled))) * scale


@dataclass(frozen=True)
class Weights:
    """The metric of the sparse part: tokens, ascending, and the weight of a product at each, `(w, blocks)`."""

    token: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Landmarks:
    """Curvature of the sparse part.

    Attributes:
        rows: the sparse part of the sampled rows.
        factor: lower Cholesky factor of `S S' + m lambda I`, `(m, m)`, float32.
        damping: lambda, as a multiple of the mean eigenvalue over the span of the landmarks.
    """

    rows: Rows
    factor: np.ndarray
    damping: float


def gram(rows: Array) -> Array:
    """`sum_i g_i g_i'` over rows, `(p, p)`, accumulated in float64."""
    xp = namespace(rows)
    wide = xp.astype(rows, xp.float64)
    return xp.matmul(xp.matrix_transpose(wide), wide)


def shrinkage(trace: float, trace_of_square: float, size: int, count: int) -> float:
    """The damping lambda of a mean of outer products S, by the oracle-approximating shrinkage.

    `(1 - rho) S + rho tr(S)/p I` is, up to a factor, `S + lambda I` with `lambda = rho / (1 - rho) tr(S) / p`.

    Args:
        trace: tr(S).
        trace_of_square: tr(S S).
        size: p.
        count: number of independent outer products in S.
    """
    numerator = (1 - 2 / size) * trace_of_square + trace**2
    denominator = (count + 1 - 2 / size) * (trace_of_square - trace**2 / size)
    # rho is 1 for pure noise; a very large lambda has the same effect.
    rho = min(numerator / denominator, 1 - 1e-6) if denominator > 0 else 1 - 1e-6
    return rho / (1 - rho) * trace / size


def fit_dense(total: Array, terms: int, examples: int) -> Dense:
    """Factor the curvature of the dense part.

    Args:
        total: `sum g g'` over `terms` sampled terms of `examples` examples, `(p, p)`.

    Raises:
        ContractError: there are no terms, or their gradients are all zero.
    """
    xp, size = namespace(total), total.shape[0]
    squares = xp.linalg.diagonal(total)
    if terms == 0 or not bool(xp.any(squares != 0)):
        raise ContractError("curvature", expected="gradients of sampled loss terms", found=f"none in {terms} terms")
    mean_square = squares / terms
    scale = (mean_square + SCALE_FLOOR * xp.mean(mean_square)) ** SCALE_POWER
    scaled = total / terms * scale[:, None] * scale[None, :]
    trace, of_square = _moments(scaled)
    damping = shrinkage(trace, of_square, size, examples)
    lower = to_numpy(xp.astype(factor(scaled, damping), xp.float32))
    return Dense(lower, to_numpy(scale), damping / (trace / size))


def metric(statistics: Statistics, vocabulary: int) -> Weights:
    """The weights of the sparse part: each block's kernel is 1 on average between an example and itself."""
    return Weights(statistics.tokens.token, row_weights(statistics.tokens, statistics.examples, vocabulary))


def fit_landmarks(rows: Rows, weights: Weights) -> Landmarks | None:
    """Factor the curvature of the sparse part in the metric of the weights; None if no row has a weighted token.

    Args:
        rows: features for sampled targets.
    """
    count, part = rows.examples, rows.sparse
    xp, tokens = namespace(part.values), tokens_of(part)
    products = xp.zeros((count, count), dtype=xp.float64, device=device_of(part.values))
    weighted = _weighted(part, weights)
    for start in range(0, count, BLOCK):
        columns = slice(start, min(start + BLOCK, count))
        products[:, columns] = xp.astype(multiply(part, table_of(weighted, tokens, columns), count), xp.float64)
    width = int(np.count_nonzero(weights.weight, axis=0) @ np.asarray(part.blocks, dtype=np.int64))
    trace, of_square = (moment / max(1, count) ** power for power, moment in enumerate(_moments(products), start=1))
    if trace == 0:
        return None
    damping = shrinkage(trace, of_square, width, count)
    level = max(damping * count, trace * 1e-6)
    lower = to_numpy(xp.astype(factor(products, level), xp.float32))
    return Landmarks(move(sparse_only(rows), np), lower, level / trace)


def _moments(matrix: Array) -> tuple[float, float]:
    """The traces of a symmetric matrix and of its square."""
    xp = namespace(matrix)
    flat = xp.reshape(matrix, (-1,))
    return float(xp.linalg.trace(matrix)), float(xp.vecdot(flat, flat))


def sparse_queries(queries: Rows, weights: Weights, landmarks: Landmarks | None) -> Table:
    """The table of queries: its products with examples are influences of the sparse part, up to a common factor.

    Args:
        queries: features of outputs.
        landmarks: None for plain products, without curvature.
    """
    xp, part = namespace(queries.dense), queries.sparse
    coefficients = xp.eye(queries.examples, dtype=xp.float32, device=device_of(queries.dense))
    if landmarks is not None:
        rows = move(landmarks.rows, xp)
        plain = tabulate(_weighted(part, weights), coefficients, tokens_of(part))
        products = multiply(rows.sparse, plain, rows.examples)
        combination = -solve(xp.asarray(landmarks.factor), xp.astype(products, xp.float64))
        coefficients = xp.concat([coefficients, xp.astype(combination, xp.float32)])
        part = concatenate([sparse_only(queries), rows]).sparse
    return tabulate(_weighted(part, weights), coefficients, tokens_of(part))


def squared_norms(rows: Rows, weights: Weights) -> Array:
    """`<g_i, g_i>` of each example, with the sparse part in the metric of the weights: `(n,)`."""
    part = rows.sparse
    xp = namespace(part.values)
    of_vectors = xp.sum(part.values**2 * _weights_at(part, weights), axis=1, keepdims=True)
    return xp.sum(rows.dense**2, axis=1) + add_by_group(of_vectors, part.example, rows.examples)[:, 0]


def _weighted(part: Sparse, weights: Weights) -> Sparse:
    return replace(part, values=part.values * _weights_at(part, weights))


def _weights_at(part: Sparse, weights: Weights) -> Array:
    """The weight of each number of the vectors, `(m, d)`; zero at a token without a weight."""
    xp = namespace(part.values)
    token, weight = xp.asarray(weights.token), xp.asarray(weights.weight.astype(np.float32))
    return spread(look_up(part.token, token, weight), part.blocks)
