"""Feature rows: what is kept of each example, in memory as floats and in a file as 4- or 8-bit numbers.

A row has a dense part, blocks of a few numbers per inner layer, and sparse parts: for a layer as wide as a vocabulary, one
short vector for each token that the example holds, the rest being zero. Sparse parts lie token by token, not example by
example, because a score is one matrix product per token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import namespace, to_numpy
from provenance.core.kernels import pack_nibbles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provenance.core.arrays import Array

# The largest code of each width; the width in bits is what a file says.
LARGEST = {4: 7, 8: 127}
# Scales are powers of two in 256 steps to each doubling.
STEPS = 256
TINY = 2.0**-120


@dataclass(frozen=True)
class Sparse:
    """A part of the rows over a vocabulary.

    Attributes:
        vocabulary: number of tokens.
        example: `(m,)`, which example of the shard a vector belongs to.
        token: `(m,)`, ascending; within a token examples ascend.
        values: `(m, d)` float32.
    """

    vocabulary: int
    example: Array
    token: Array
    values: Array


@dataclass(frozen=True)
class Rows:
    """The features of a shard's examples.

    Attributes:
        dense: `(n, p)` float32; p may be 0.
        blocks: how many of the p numbers belong to each layer, in order; each has its own scale in a file.
        sparse: parts over a vocabulary, by name.
    """

    dense: Array
    blocks: tuple[int, ...]
    sparse: dict[str, Sparse] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        """How many rows there are."""
        return int(self.dense.shape[0])


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Shards one after another as one."""
    first = parts[0]
    xp = namespace(first.dense)
    starts = np.cumsum([0, *(part.examples for part in parts)]).tolist()
    sparse = {}
    for name in first.sparse:
        pieces = [part.sparse[name] for part in parts]
        example = xp.concat([piece.example + start for piece, start in zip(pieces, starts, strict=False)])
        token = xp.concat([piece.token for piece in pieces])
        values = xp.concat([piece.values for piece in pieces])
        sparse[name] = by_token(first.sparse[name].vocabulary, example, token, values)
    return Rows(xp.concat([part.dense for part in parts]), first.blocks, sparse)


def by_token(vocabulary: int, example: Array, token: Array, values: Array) -> Sparse:
    """A sparse part in its order: by token, then by example."""
    xp = namespace(values)
    order = xp.argsort(token * (int(xp.max(example)) + 1 if example.shape[0] else 1) + example)
    return Sparse(vocabulary, xp.take(example, order), xp.take(token, order), xp.take(values, order, axis=0))


def move(rows: Rows, xp: Any) -> Rows:
    """The rows as arrays of another namespace, such as CuPy's."""
    sparse = {
        name: Sparse(part.vocabulary, xp.asarray(part.example), xp.asarray(part.token), xp.asarray(part.values))
        for name, part in rows.sparse.items()
    }
    return Rows(xp.asarray(rows.dense), rows.blocks, sparse)


def encode(rows: Rows, *, dense_bits: int, sparse_bits: int) -> dict[str, np.ndarray]:
    """The arrays of a file: codes, the scale of each block or vector, and where sparse vectors belong.

    Args:
        dense_bits, sparse_bits: 4, 8, or 32 for no rounding at all.
    """
    xp = namespace(rows.dense)
    facts = np.asarray([rows.examples, rows.dense.shape[1], dense_bits, sparse_bits], dtype=np.int64)
    tensors: dict[str, np.ndarray] = {"facts": facts, "dense.blocks": np.asarray(rows.blocks, dtype=np.int64)}
    codes, scales = [], []
    at = 0
    for size in rows.blocks:
        code, scale = _quantise(rows.dense[:, at : at + size], dense_bits)
        codes.append(code)
        scales.append(scale)
        at += size
    if codes:
        joined = xp.concat(codes, axis=1)
        tensors["dense.codes"] = to_numpy(pack_nibbles(joined) if dense_bits == 4 else joined)
        tensors["dense.scales"] = to_numpy(xp.concat(scales, axis=1))
    for name, part in rows.sparse.items():
        code, scale = _quantise(part.values, sparse_bits)
        token = to_numpy(part.token)
        present, counts = np.unique(token, return_counts=True)
        tensors |= {
            f"sparse/{name}.shape": np.asarray([part.vocabulary, part.values.shape[1]], dtype=np.int64),
            f"sparse/{name}.tokens": present.astype(np.uint32),
            f"sparse/{name}.counts": counts.astype(np.uint32),
            f"sparse/{name}.examples": to_numpy(part.example).astype(np.uint16 if rows.examples < 2**16 else np.uint32),
            f"sparse/{name}.codes": to_numpy(pack_nibbles(code) if sparse_bits == 4 else code),
            f"sparse/{name}.scales": to_numpy(scale[:, 0]),
        }
    return tensors


def decode(tensors: Mapping[str, np.ndarray], xp: Any) -> Rows:
    """The inverse of `encode`, up to rounding, as arrays of `xp`."""
    n, p, dense_bits, sparse_bits = tensors["facts"].tolist()
    blocks = tuple(tensors["dense.blocks"].tolist())
    dense = xp.zeros((n, p), dtype=xp.float32)
    if blocks:
        values = _values(xp.asarray(tensors["dense.codes"]), p, dense_bits)
        scales = _scale(xp.asarray(tensors["dense.scales"]))
        wide = [xp.broadcast_to(scales[:, b : b + 1], (n, size)) for b, size in enumerate(blocks)]
        dense = values * xp.concat(wide, axis=1)
    sparse = {}
    for name in sorted(key[len("sparse/") : -len(".tokens")] for key in tensors if key.endswith(".tokens")):
        vocabulary, columns = tensors[f"sparse/{name}.shape"].tolist()
        token = np.repeat(tensors[f"sparse/{name}.tokens"].astype(np.int64), tensors[f"sparse/{name}.counts"])
        values = _values(xp.asarray(tensors[f"sparse/{name}.codes"]), columns, sparse_bits)
        scale = _scale(xp.asarray(tensors[f"sparse/{name}.scales"]))
        example = xp.asarray(tensors[f"sparse/{name}.examples"].astype(np.int64))
        sparse[name] = Sparse(vocabulary, example, xp.asarray(token), values * scale[:, None])
    return Rows(dense, blocks, sparse)


def _quantise(values: Array, bits: int) -> tuple[Array, Array]:
    """Codes `(m, d)` and the exponents `(m, 1)` of their scales: `codes * 2 ** (exponent / 256)` is close to the values.

    An exponent has 16 bits, the range of float32 and no dependence on other rows; the code makes up for its rounding.
    """
    xp = namespace(values)
    if bits == 32:
        return values, xp.zeros((values.shape[0], 1), dtype=xp.int16)
    largest = xp.max(xp.abs(values), axis=1, keepdims=True) / LARGEST[bits]
    tiny = xp.asarray(TINY, dtype=xp.float32)
    exponent = xp.astype(xp.ceil(xp.log2(xp.maximum(largest, tiny)) * STEPS), xp.int16)
    codes = xp.clip(xp.round(values / _scale(exponent)), -LARGEST[bits], LARGEST[bits])
    return xp.astype(codes, xp.int8), exponent


def _scale(exponent: Array) -> Array:
    """`2 ** (exponent / 256)` as float32."""
    xp = namespace(exponent)
    return xp.pow(xp.asarray(2.0, dtype=xp.float32), xp.astype(exponent, xp.float32) / STEPS)


def _values(codes: Array, columns: int, bits: int) -> Array:
    """Codes as float32."""
    xp = namespace(codes)
    if bits != 4:
        return xp.astype(codes, xp.float32)
    low = xp.bitwise_and(codes, xp.asarray(15, dtype=xp.uint8))
    high = xp.bitwise_right_shift(codes, xp.asarray(4, dtype=xp.uint8))
    both = xp.reshape(xp.stack([low, high], axis=2), (codes.shape[0], 2 * codes.shape[1]))[:, :columns]
    return xp.astype(both, xp.float32) - 8.0
