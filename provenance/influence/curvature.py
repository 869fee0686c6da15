"""Curvature: the Fisher information of the loss terms, damped, and its inverse, applied to queries alone.

The influence of example i on output q is `q' (F + lambda)^-1 g_i` (Koh and Liang 2017, arXiv 1703.04730, section 2; for
projected gradients Park et al. 2023, arXiv 2303.14186) with F a mean of outer products over sampled loss terms. A feature row
has two parts, and each is corrected in the form that is small for it:

- dense: F is a matrix over the p numbers, across all inner layers, summed over many terms and factored.
- sparse: too wide for a matrix. With m sampled rows S as landmarks, `(S'S / m + lambda)^-1` is, by Woodbury's identity,
  `(1 - S' (S S' + m lambda)^-1 S) / lambda`: an m x m problem, and the corrected query is the query less a combination of
  landmarks. Tokens are weighted first by how large their rows are (`statistics.row_weights`).

lambda is not chosen by hand: it is the oracle-approximating shrinkage of F towards a multiple of the identity (Chen et al.
2010, IEEE Trans. Signal Processing 58(10), equation 23), which needs the two first moments of the eigenvalues and how many
independent observations F is the mean of. For the dense part these are examples: an example's terms share its inputs, most of
all the noise draws of an image. For the sparse part, where rows are fewer than dimensions, they are rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, cholesky

from provenance.core.arrays import Array, look_up, namespace
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, concatenate, spread
from provenance.influence.index import Table, apply, tabulate, tokens_of
from provenance.influence.statistics import Statistics, row_weights

# Coordinates of the dense part are scaled by the power -1/4 of their mean square: half way between raw and whitened ones.
SCALE_POWER = -0.25
SCALE_FLOOR = 0.01
# Landmarks are corrected against one another in blocks of so many: a block's table is what has to fit into memory.
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
    """The metric of the sparse part: tokens, ascending, and what a product at each counts for, `(w, blocks)`."""

    token: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Landmarks:
    """Curvature of the sparse part.

    Attributes:
        rows: the sampled rows, the sparse part alone.
        factor: lower Cholesky factor of `S S' + m lambda I`, `(m, m)`, float32.
        damping: lambda, as a multiple of the mean eigenvalue over the span of the landmarks.
    """

    rows: Rows
    factor: np.ndarray
    damping: float


def gram(rows: Array) -> Array:
    """`sum_i g_i g_i'` of some terms, `(p, p)`, accumulated in float64."""
    xp = namespace(rows)
    wide = xp.astype(rows, xp.float64)
    return xp.matmul(xp.matrix_transpose(wide), wide)


def shrinkage(trace: float, trace_of_square: float, size: int, count: int) -> float:
    """The damping lambda of a mean of outer products S, by the oracle-approximating shrinkage.

    `(1 - rho) S + rho tr(S)/p I` is, up to a factor, `S + lambda I` with `lambda = rho / (1 - rho) tr(S) / p`.

    Args:
        trace: tr(S); trace_of_square: tr(S S); size: p; count: how many independent outer products S is the mean of.
    """
    numerator = (1 - 2 / size) * trace_of_square + trace**2
    denominator = (count + 1 - 2 / size) * (trace_of_square - trace**2 / size)
    # rho is 1 where nothing but noise is seen; the identity times a very large number says the same.
    rho = min(numerator / denominator, 1 - 1e-6) if denominator > 0 else 1 - 1e-6
    return rho / (1 - rho) * trace / size


def fit_dense(total: np.ndarray, terms: int, examples: int) -> Dense:
    """Factor the curvature of the dense part.

    Args:
        total: `sum g g'` over the sampled terms of so many examples, `(p, p)`.

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
    """Factor the curvature of the sparse part, in the metric that the weights give; None where there is none.

    Args:
        rows: features for sampled targets, as NumPy arrays.
    """
    count, part = rows.examples, rows.sparse
    products = np.zeros((count, count))
    heavy, tokens = _weighted(part, weights), tokens_of(part)
    for start in range(0, count, BLOCK):
        chosen = np.zeros((count, min(BLOCK, count - start)), dtype=np.float32)
        chosen[np.arange(start, start + chosen.shape[1]), np.arange(chosen.shape[1])] = 1
        products[:, start : start + chosen.shape[1]] = apply(part, tabulate(heavy, chosen, tokens), count)
    width = int(np.count_nonzero(weights.weight, axis=0) @ np.asarray(part.blocks, dtype=np.int64))
    trace = float(np.trace(products)) / max(1, count)
    if trace == 0:  # no sampled target meets a token that the corpus holds
        return None
    damping = shrinkage(trace, float(np.vdot(products, products)) / count**2, width, count)
    level = max(damping * count, trace * 1e-6)
    products[np.diag_indices_from(products)] += level
    factor = cholesky(products, lower=True, overwrite_a=True, check_finite=False)
    return Landmarks(Rows(rows.dense[:, :0], (), part), np.tril(factor).astype(np.float32), level / trace)


def sparse_queries(queries: Rows, weights: Weights, landmarks: Landmarks | None) -> Table:
    """A table whose products with examples are influences through the sparse part, up to a common factor.

    Args:
        queries: features of outputs, as NumPy arrays.
        landmarks: None for the products alone, without curvature.
    """
    part, coefficients = queries.sparse, np.eye(queries.examples, dtype=np.float32)
    if landmarks is not None:
        plain = tabulate(_weighted(part, weights), coefficients, tokens_of(part))
        products = apply(landmarks.rows.sparse, plain, landmarks.rows.examples)
        combination = -cho_solve((landmarks.factor, True), np.asarray(products, dtype=np.float64), check_finite=False)
        coefficients = np.concatenate([coefficients, combination.astype(np.float32)])
        part = concatenate([Rows(queries.dense[:, :0], (), part), landmarks.rows]).sparse
    return tabulate(_weighted(part, weights), coefficients, tokens_of(part))


def squared_norms(rows: Rows, weights: Weights) -> Array:
    """`<g_i, g_i>` of each example, the sparse part in the given metric: `(n,)`."""
    part = rows.sparse
    xp = namespace(part.values)
    of_vectors = xp.sum(part.values**2 * _weights_at(part, weights), axis=1, keepdims=True)
    return xp.sum(rows.dense**2, axis=1) + add_by_group(of_vectors, part.example, rows.examples)[:, 0]


def _weighted(part: Sparse, weights: Weights) -> Sparse:
    return replace(part, values=part.values * _weights_at(part, weights))


def _weights_at(part: Sparse, weights: Weights) -> Array:
    """What each number of the vectors counts for: `(m, d)`; nothing at a token that no example holds."""
    xp = namespace(part.values)
    known, weight = xp.asarray(weights.token), xp.asarray(weights.weight.astype(np.float32))
    return spread(look_up(part.token, known, weight), part.blocks)
