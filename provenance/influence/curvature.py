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
from scipy.linalg import cho_solve, cholesky

from provenance.core.arrays import Array, look_up, namespace
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, concatenate, spread
from provenance.features.statistics import Statistics, row_weights
from provenance.influence.index import Table, multiply, tabulate, tokens_of

# Coordinates of the dense part are scaled by their mean square to the power -1/4, half way between raw and whitened.
SCALE_POWER = -0.25
SCALE_FLOOR = 0.01
# Landmarks in a block of products; the table of a block must fit into memory.
BLOCK = 128


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

    def precondition(self, queries: np.ndarray) -> np.ndarray:
        """`D (D F D + lambda I)^-1 D q` for rows `(q, p)`, float64."""
        scaled = queries.astype(np.float64) * self.scale
        solved: np.ndarray = cho_solve((self.factor, True), scaled.T, check_finite=False).T * self.scale
        return solved


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


def fit_dense(total: np.ndarray, terms: int, examples: int) -> Dense:
    """Factor the curvature of the dense part.

    Args:
        total: `sum g g'` over `terms` sampled terms of `examples` examples, `(p, p)`.

    Raises:
        ContractError: there are no terms, or their gradients are all zero.
    """
    if terms == 0 or not np.any(np.diagonal(total)):
        raise ContractError("curvature", expected="gradients of sampled loss terms", found=f"none in {terms} terms")
    mean_square = np.diagonal(total) / terms
    scale = (mean_square + SCALE_FLOOR * mean_square.mean()) ** SCALE_POWER
    scaled = total / terms * scale[:, None] * scale[None, :]
    trace = float(np.trace(scaled))
    damping = shrinkage(trace, float(np.vdot(scaled, scaled)), len(scaled), examples)
    scaled[np.diag_indices_from(scaled)] += damping
    factor = cholesky(scaled, lower=True, overwrite_a=True, check_finite=False)
    return Dense(np.tril(factor).astype(np.float32), scale, damping / (trace / len(scaled)))


def metric(statistics: Statistics, vocabulary: int) -> Weights:
    """The weights of the sparse part: each block's kernel is 1 on average between an example and itself."""
    return Weights(statistics.tokens.token, row_weights(statistics.tokens, statistics.examples, vocabulary))


def fit_landmarks(rows: Rows, weights: Weights) -> Landmarks | None:
    """Factor the curvature of the sparse part in the metric of the weights; None if no row has a weighted token.

    Args:
        rows: features for sampled targets, as NumPy arrays.
    """
    count, part = rows.examples, rows.sparse
    products = np.zeros((count, count))
    weighted, tokens = _weighted(part, weights), tokens_of(part)
    for start in range(0, count, BLOCK):
        columns = slice(start, start + BLOCK)
        identity = np.eye(count, min(BLOCK, count - start), -start, dtype=np.float32)
        products[:, columns] = multiply(part, tabulate(weighted, identity, tokens), count)
    width = int(np.count_nonzero(weights.weight, axis=0) @ np.asarray(part.blocks, dtype=np.int64))
    trace = float(np.trace(products)) / max(1, count)
    if trace == 0:
        return None
    damping = shrinkage(trace, float(np.vdot(products, products)) / count**2, width, count)
    level = max(damping * count, trace * 1e-6)
    products[np.diag_indices_from(products)] += level
    factor = cholesky(products, lower=True, overwrite_a=True, check_finite=False)
    return Landmarks(Rows(rows.dense[:, :0], (), part), np.tril(factor).astype(np.float32), level / trace)


def sparse_queries(queries: Rows, weights: Weights, landmarks: Landmarks | None) -> Table:
    """The table of queries: its products with examples are influences of the sparse part, up to a common factor.

    Args:
        queries: features of outputs, as NumPy arrays.
        landmarks: None for plain products, without curvature.
    """
    part, coefficients = queries.sparse, np.eye(queries.examples, dtype=np.float32)
    if landmarks is not None:
        plain = tabulate(_weighted(part, weights), coefficients, tokens_of(part))
        products = multiply(landmarks.rows.sparse, plain, landmarks.rows.examples)
        combination = -cho_solve((landmarks.factor, True), np.asarray(products, dtype=np.float64), check_finite=False)
        coefficients = np.concatenate([coefficients, combination.astype(np.float32)])
        part = concatenate([Rows(queries.dense[:, :0], (), part), landmarks.rows]).sparse
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
