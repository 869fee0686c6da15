"""Curvature: what the training examples' gradients look like together, and its damped inverse.

The influence of example i on output q is `q' D (D H D + lambda I)^-1 D g_i` with `H = sum_i g_i g_i' / n` the empirical
Fisher of the projected gradients (Koh and Liang 2017, arXiv 1703.04730, section 2; for projected gradients Park et al.
2023, arXiv 2303.14186) and `D` a diagonal scale that keeps common coordinates from drowning rare ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve, cholesky

from provenance.core.arrays import namespace, to_numpy
from provenance.core.errors import ContractError

if TYPE_CHECKING:
    from provenance.core.arrays import Array

# Coordinates are scaled by the power -1/4 of their mean square: half way between raw gradients and whitened ones.
SCALE_POWER = -0.25
SCALE_FLOOR = 0.01


@dataclass(frozen=True)
class Curvature:
    """The damped curvature of one checkpoint.

    Attributes:
        factor: lower Cholesky factor of `D H D + lambda I`, `(p, p)`, float32.
        scale: the diagonal of D, `(p,)`.
        damping: lambda.
        examples: how many gradients it rests on.
    """

    factor: np.ndarray
    scale: np.ndarray
    damping: float
    examples: int

    def precondition(self, queries: Array) -> Array:
        """Queries as the vectors whose plain products with features are influences, in standard deviations.

        Dividing by the root mean square of the influence over queries and examples puts checkpoints on one scale. It
        needs no pass over the examples: the mean square is `y' (D H D) y` with `y = (D H D + lambda I)^-1 D q`.

        Args:
            queries: gradient features of outputs, `(q, p)`.

        Returns:
            `(q, p)` float32, of the queries' kind.
        """
        xp = namespace(queries)
        scaled = to_numpy(queries).astype(np.float64) * self.scale
        solved = cho_solve((self.factor, True), scaled.T, check_finite=False).T
        mean_square = float(np.mean(np.sum(solved * scaled, axis=1) - self.damping * np.sum(solved**2, axis=1)))
        spread = np.sqrt(mean_square) if mean_square > 0 else 1.0
        return xp.asarray((solved * self.scale / spread).astype(np.float32))


def gram(features: Array) -> Array:
    """`sum_i g_i g_i'` of a shard, `(p, p)`, accumulated in float64."""
    xp = namespace(features)
    wide = xp.astype(features, xp.float64)
    return xp.matmul(xp.matrix_transpose(wide), wide)


def fit(total: np.ndarray, examples: int, *, damping: float) -> Curvature:
    """Factor the curvature.

    Args:
        total: the Gram matrix summed over all shards, `(p, p)`.
        damping: lambda as a multiple of the mean eigenvalue of `D H D`.

    Raises:
        ContractError: there are no examples, or their gradients are all zero.
    """
    if examples == 0 or not np.any(np.diagonal(total)):
        raise ContractError("curvature", expected="gradients of training examples", found=f"none in {examples} examples")
    mean_square = np.diagonal(total) / examples
    scale = (mean_square + SCALE_FLOOR * mean_square.mean()) ** SCALE_POWER
    scaled = total / examples * scale[:, None] * scale[None, :]
    level = damping * float(np.trace(scaled)) / len(scaled)
    scaled[np.diag_indices_from(scaled)] += level
    factor = cholesky(scaled, lower=True, overwrite_a=True, check_finite=False)
    return Curvature(np.tril(factor).astype(np.float32), scale, level, examples)


def to_tensors(curvature: Curvature) -> dict[str, np.ndarray]:
    """The arrays that are stored."""
    facts = {"damping": np.array([curvature.damping]), "examples": np.array([curvature.examples])}
    return {"factor": curvature.factor, "scale": curvature.scale, **facts}


def from_tensors(tensors: dict[str, np.ndarray]) -> Curvature:
    """The inverse of `to_tensors`."""
    return Curvature(tensors["factor"], tensors["scale"], float(tensors["damping"][0]), int(tensors["examples"][0]))
