"""Draws the matrices of the factored random projection, which projects each layer's gradient on both sides.

The gradient of a linear layer is `sum_t x_t d_t'` with inputs `x_t` and output gradients `d_t`. Projected it is
`sum_t (A'x_t)(B'd_t)'`, so the full gradient is never formed (LoGra: Choe et al. 2024, arXiv 2405.13954, section 3). A
convolution is a linear layer on patches. The vocabulary axis of an embedding or an output head is never projected, because that
would lose more accuracy than any other projection.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

OPERATION, UNSEEN, AUTOGRAD = "operation", "operation, not seen", "autograd"


@dataclass(frozen=True)
class Projection:
    """The size of projected gradients, and the seed of the matrices.

    Attributes:
        dense: numbers for all inner layers together; it decides the rank of their projections.
        dense_alone: the same for a model without a vocabulary.
        dense_most: the same for a model so large that the rank would be less than `least_rank` otherwise.
        least_rank: rank of an inner layer's projections for which more numbers than `dense` are kept, up to `dense_most`.
        token_rank: numbers for the hidden side of an embedding or output head.
    """

    seed: int = 20_261_120
    dense: int = 1536
    dense_alone: int = 4096
    dense_most: int = 8192
    least_rank: int = 8
    token_rank: int = 32


@dataclass(frozen=True)
class Block:
    """One weight's part of a feature row.

    Attributes:
        name: of the layer, which seeds the projections; of the weight, if its layer has several.
        kind: `dense`; or `input_tokens` (an embedding) or `output_tokens` (a head), with one vector per token.
        inputs, outputs: sizes of the weight's sides.
        rows, columns: sizes of the projected sides.
        groups: matrices of this size, each projected by itself (groups of a convolution, experts).
        joined: matrices whose outputs are projected together; they are too many for numbers of their own.
        weight: name of the parameter.
        form: how the axes of the weight lie (`operations`).
        by: how its gradient is followed: `OPERATION`; `UNSEEN`, the same, but held against autograd once it has a gradient;
            or `AUTOGRAD` for each example by itself.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    rows: int
    columns: int
    groups: int = 1
    joined: int = 1
    weight: str = ""
    form: str = ""
    by: str = OPERATION

    @property
    def size(self) -> int:
        """Numbers in the dense part of a feature row."""
        return self.groups * self.rows * self.columns if self.kind == "dense" else 0

    @property
    def vocabulary(self) -> int:
        """The number of tokens, for a layer over a vocabulary."""
        return self.inputs if self.kind == "input_tokens" else self.outputs


def matrix(size: int, rank: int, *key: object) -> np.ndarray:
    """A `(size, rank)` matrix with orthogonal columns, scaled so that inner products keep their mean; float32.

    It is drawn from a digest of `key`, so it is the same on every machine and at any time.
    """
    if rank >= size:
        return np.eye(size, dtype=np.float32)
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:16])
    gaussian = np.random.Generator(np.random.Philox(seed)).standard_normal((size, rank))
    q, r = np.linalg.qr(gaussian)
    projection: np.ndarray = q * np.sign(np.diag(r)) * np.sqrt(size / rank)
    return projection.astype(np.float32)


def matrices(block: Block, projection: Projection, checkpoint: str) -> tuple[np.ndarray, np.ndarray]:
    """The projections of a block's inputs and outputs, seeded by layer and checkpoint; empty for a vocabulary side."""
    key = (projection.seed, checkpoint, block.name)
    none = np.empty((0, 0), dtype=np.float32)
    a = none if block.kind == "input_tokens" else matrix(block.inputs, block.rows, *key, "in")
    b = none if block.kind == "output_tokens" else matrix(block.joined * block.outputs, block.columns, *key, "out")
    return a, b
