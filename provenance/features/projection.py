"""Factored random projection: each layer's gradient, a matrix, is projected on both sides.

The gradient of a linear layer is `sum_t x_t d_t'` with inputs `x_t` and output gradients `d_t`; projected it is
`sum_t (A'x_t)(B'd_t)'`, so the matrix itself is never formed (LoGra: Choe et al. 2024, arXiv 2405.13954, section 3). A
convolution is a linear layer on patches. The vocabulary axis of an embedding or an output head is never projected: that
costs more truth than anything else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Projection:
    """How much is kept of a gradient, and the seed of the matrices.

    Attributes:
        dense: numbers kept of all inner layers together, at most; the rank of their projections follows from it.
        dense_alone: the same of a model without a vocabulary, of which nothing else is kept.
        token_rank: numbers kept of the hidden side of an embedding or output head.
    """

    seed: int = 20_261_120
    dense: int = 1536
    dense_alone: int = 4096
    token_rank: int = 32


@dataclass(frozen=True)
class Block:
    """What is kept of one layer.

    Attributes:
        kind: `dense`; or `input_tokens` (an embedding) and `output_tokens` (a head), whose rows are kept token by token.
        inputs, outputs: sizes of the layer's sides.
        rows, columns: what they are projected to.
        groups: of a grouped convolution; each has such sides of its own.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    rows: int
    columns: int
    groups: int = 1

    @property
    def size(self) -> int:
        """Numbers in the dense part of a feature row."""
        return self.groups * self.rows * self.columns if self.kind == "dense" else 0

    @property
    def vocabulary(self) -> int:
        """Tokens on the side that is a vocabulary."""
        return self.inputs if self.kind == "input_tokens" else self.outputs


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


def matrices(block: Block, projection: Projection, checkpoint: str) -> tuple[np.ndarray, np.ndarray]:
    """The projections of a block's inputs and outputs, seeded by layer and checkpoint.

    A vocabulary side has none and gets an empty matrix.
    """
    key = (projection.seed, checkpoint, block.name)
    none = np.empty((0, 0), dtype=np.float32)
    a = none if block.kind == "input_tokens" else matrix(block.inputs, block.rows, *key, "in")
    b = none if block.kind == "output_tokens" else matrix(block.outputs, block.columns, *key, "out")
    return a, b
