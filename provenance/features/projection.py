"""Factored random projection: each layer's gradient, a matrix, is projected on both sides.

The gradient of a linear layer is `sum_t x_t d_t'` with inputs `x_t` and output gradients `d_t`; projected it is
`sum_t (A'x_t)(B'd_t)'`, so the matrix itself is never formed (LoGra: Choe et al. 2024, arXiv 2405.13954, section 3).
The vocabulary axis of an embedding or an output head is left as it is: projecting it costs more truth than anything else.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.arrays import Array


@dataclass(frozen=True)
class Projection:
    """How wide the projections are, and the seed.

    Attributes:
        rank: numbers kept of each side of an inner layer.
        token_rank: numbers kept of the hidden side of an embedding or output head.
    """

    seed: int = 20_261_120
    rank: int = 8
    token_rank: int = 4

    def as_json(self) -> dict[str, Any]:
        """For digests and manifests."""
        return asdict(self)


@dataclass(frozen=True)
class Block:
    """One layer's part of a feature row: `rows x columns` numbers.

    Attributes:
        kind: `linear` (an inner layer), `head` (inputs x vocabulary) or `embedding` (vocabulary x outputs).
        inputs, outputs: sizes of the layer's sides.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Numbers in a feature row."""
        return self.rows * self.columns


def matrix(size: int, rank: int, *key: object) -> np.ndarray:
    """A `(size, rank)` matrix with orthogonal columns, scaled so that inner products keep their mean; float32.

    Drawn from a digest of `key`, so that CPU and GPU, today and next year, project alike.
    """
    if rank >= size:
        return np.eye(size, dtype=np.float32)
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:16])
    gaussian = np.random.Generator(np.random.Philox(seed)).standard_normal((size, rank))
    q, r = np.linalg.qr(gaussian)
    projection: np.ndarray = q * np.sign(np.diag(r)) * np.sqrt(size / rank)
    return projection.astype(np.float32)


def project_linear(x: Array, d: Array, a: Array, b: Array) -> Array:
    """`sum_t (x_t A)' (d_t B)` for each example.

    Args:
        x: inputs, `(n, t, inputs)`.
        d: gradients with respect to the outputs, `(n, t, outputs)`.
        a, b: projections, `(inputs, rows)` and `(outputs, columns)`; None for none.

    Returns:
        `(n, rows * columns)`.
    """
    xp = namespace(x)
    n = x.shape[0]
    left, right = _apply(x, a), _apply(d, b)
    return xp.reshape(xp.matmul(xp.matrix_transpose(left), right), (n, -1))


def project_embedding(ids: Array, d: Array, b: Array, vocabulary: int) -> Array:
    """`sum_t e(id_t) (d_t B)` for each example, with `e` the unit vectors of the vocabulary.

    Args:
        ids: `(n, t)`; d: `(n, t, outputs)`; b: `(outputs, columns)`.

    Returns:
        `(n, vocabulary * columns)`.
    """
    xp = namespace(d)
    n = ids.shape[0]
    right = _apply(d, b)
    columns = right.shape[-1]
    cell = (xp.reshape(xp.arange(n), (n, 1)) * vocabulary + ids)[:, :, None] * columns + xp.arange(columns)
    summed = xp.bincount(xp.reshape(cell, (-1,)), weights=xp.reshape(right, (-1,)), minlength=n * vocabulary * columns)
    return xp.reshape(xp.astype(summed, d.dtype), (n, vocabulary * columns))


def _apply(values: Array, projection: Array | None) -> Array:
    if projection is None:
        return values
    xp = namespace(values)
    flat = xp.reshape(values, (-1, values.shape[-1]))
    return xp.reshape(xp.matmul(flat, projection), (*values.shape[:-1], projection.shape[1]))


def offsets(blocks: Sequence[Block]) -> dict[str, slice]:
    """Where each block lies in a feature row."""
    ends = np.cumsum([block.size for block in blocks]).tolist()
    return {block.name: slice(end - block.size, end) for block, end in zip(blocks, ends, strict=True)}
