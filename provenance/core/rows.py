"""Feature rows: the features of examples, in memory as floats and in files as 4- or 8-bit numbers.

A row has a dense part, blocks of a few numbers per inner layer, and a sparse part: for layers as wide as a vocabulary, one
short vector for each token of the example; the rest is zero. The sparse part lies token by token, because a score is one matrix
product per token; the parts of several layers lie side by side in a token's vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from provenance.core.arrays import Array, device_of, namespace, runs, to_numpy

# The largest code of each width in bits.
LARGEST = {4: 7, 8: 127}
# Scales are powers of two in 256 steps to each doubling.
STEPS = 256
TINY = 2.0**-120


@dataclass(frozen=True)
class Sparse:
    """The part of the rows over a vocabulary.

    Attributes:
        vocabulary: number of tokens.
        blocks: how many of a vector's d numbers belong to each layer, in order; each has its own scale in a file.
        example: `(m,)`, the vector's example by its place in the shard.
        token: `(m,)`, ascending; within a token examples ascend.
        values: `(m, d)` float32.
    """

    vocabulary: int
    blocks: tuple[int, ...]
    example: Array
    token: Array
    values: Array


@dataclass(frozen=True)
class Rows:
    """The features of a shard's examples.

    Attributes:
        dense: `(n, p)` float32; p may be 0.
        blocks: how many of the p numbers belong to each layer, in order; each has its own scale in a file.
        sparse: the part over a vocabulary; `no_tokens` where there is none.
    """

    dense: Array
    blocks: tuple[int, ...]
    sparse: Sparse

    @property
    def examples(self) -> int:
        """The number of rows."""
        return int(self.dense.shape[0])


def no_tokens(xp: Any, device: Any = None) -> Sparse:
    """An empty sparse part."""
    none = xp.zeros(0, dtype=xp.int64, device=device)
    return Sparse(0, (), none, none, xp.zeros((0, 0), dtype=xp.float32, device=device))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Join shards, one after another."""
    first = parts[0]
    xp = namespace(first.dense)
    starts = np.cumsum([0, *(part.examples for part in parts)]).tolist()
    example = xp.concat([part.sparse.example + start for part, start in zip(parts, starts, strict=False)])
    token = xp.concat([part.sparse.token for part in parts])
    values = xp.concat([part.sparse.values for part in parts])
    sparse = by_token(first.sparse.vocabulary, first.sparse.blocks, example, token, values)
    return Rows(xp.concat([part.dense for part in parts]), first.blocks, sparse)


def some(rows: Rows, places: np.ndarray) -> Rows:
    """The rows of the examples at some places, ascending; for NumPy arrays."""
    part, place = rows.sparse, np.full(rows.examples, -1)
    place[places] = np.arange(len(places))
    is_chosen = place[part.example] >= 0
    sparse = replace(part, example=place[part.example[is_chosen]], token=part.token[is_chosen], values=part.values[is_chosen])
    return Rows(rows.dense[places], rows.blocks, sparse)


def sparse_only(rows: Rows) -> Rows:
    """The rows without their dense part."""
    return Rows(rows.dense[:, :0], (), rows.sparse)


def by_token(vocabulary: int, blocks: tuple[int, ...], example: Array, token: Array, values: Array) -> Sparse:
    """Sort a sparse part by token, then by example."""
    if example.shape[0] == 0:
        return Sparse(vocabulary, blocks, example, token, values)
    xp = namespace(values)
    order = xp.argsort(token * (int(xp.max(example)) + 1) + example)
    return Sparse(vocabulary, blocks, xp.take(example, order), xp.take(token, order), xp.take(values, order, axis=0))


def by_block(values: Array, blocks: Sequence[int]) -> list[Array]:
    """The columns of each block: views of `values`, `(n, sum of blocks)`."""
    ends = np.cumsum(blocks, dtype=np.int64).tolist()
    return [values[:, end - size : end] for size, end in zip(blocks, ends, strict=True)]


def spread(values: Array, blocks: Sequence[int]) -> Array:
    """Repeat the number of each block, `(n, blocks)`, for each of its columns: `(n, sum of blocks)`."""
    xp = namespace(values)
    wide = [xp.broadcast_to(values[:, at : at + 1], (values.shape[0], size)) for at, size in enumerate(blocks)]
    return xp.concat(wide, axis=1) if wide else values[:, :0]


def move(rows: Rows, xp: Any) -> Rows:
    """The rows as arrays of another namespace, such as CuPy's."""
    part = rows.sparse
    convert = to_numpy if xp is np else xp.asarray  # arrays of a GPU convert to NumPy's only explicitly
    moved = (convert(side) for side in (part.example, part.token, part.values))
    return Rows(convert(rows.dense), rows.blocks, Sparse(part.vocabulary, part.blocks, *moved))


def encode(rows: Rows, *, dense_bits: int, sparse_bits: int) -> dict[str, np.ndarray]:
    """The arrays of a file: codes, scales of blocks, tokens and examples of sparse vectors. 32 bits are not rounded."""
    rounded = quantise(rows, dense_bits=dense_bits, sparse_bits=sparse_bits)
    return narrow({name: to_numpy(array) for name, array in rounded.items()})


def quantise(rows: Rows, *, dense_bits: int, sparse_bits: int) -> dict[str, Array]:
    """The arrays of a file where the rows lie, with integers as wide as there; `narrow` makes them those of `encode`."""
    part = rows.sparse
    present, _, counts = runs(part.token)
    facts = [rows.examples, dense_bits, sparse_bits, part.vocabulary]
    return {
        "facts": np.asarray(facts, dtype=np.int64),
        **_encode_blocks("dense", rows.dense, rows.blocks, dense_bits),
        **_encode_blocks("sparse", part.values, part.blocks, sparse_bits),
        "sparse.tokens": present,
        "sparse.counts": counts,
        "sparse.examples": part.example,
    }


def narrow(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of `quantise`, in host memory, with integers as narrow as in a file."""
    few = arrays["facts"][0] < 2**16
    types = {"sparse.tokens": np.uint32, "sparse.counts": np.uint32, "sparse.examples": np.uint16 if few else np.uint32}
    narrowed = {name: array.astype(types[name]) if name in types else array for name, array in arrays.items()}
    return {name: np.ascontiguousarray(array) for name, array in narrowed.items()}


def decode(tensors: Mapping[str, np.ndarray], xp: Any, moved: Mapping[str, Array] | None = None) -> Rows:
    """The inverse of `encode`, up to rounding, as arrays of `xp`.

    Args:
        moved: `to_move(tensors)` as arrays of `xp`, if they were moved before.
    """
    moved = {name: xp.asarray(array) for name, array in to_move(tensors).items()} if moved is None else moved
    examples, _, _, vocabulary = tensors["facts"].tolist()
    dense, blocks = _decode_blocks("dense", tensors, moved, examples)
    token = moved["token"]
    values, widths = _decode_blocks("sparse", tensors, moved, token.shape[0])
    example = xp.astype(moved["sparse.examples"], xp.int64)
    return Rows(dense, blocks, Sparse(vocabulary, widths, example, token, values))


def to_move(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The large arrays of a file, as `decode` needs them on a device."""
    large = {name: tensors[name] for name in tensors if name.endswith((".codes", ".scales", ".examples"))}
    return large | {"token": np.repeat(tensors["sparse.tokens"].astype(np.int64), tensors["sparse.counts"])}


def _encode_blocks(name: str, values: Array, blocks: tuple[int, ...], bits: int) -> dict[str, Array]:
    tensors: dict[str, Array] = {f"{name}.blocks": np.asarray(blocks, dtype=np.int64)}
    if not blocks:
        return tensors
    xp = namespace(values)
    parts = [_quantise(block, bits) for block in by_block(values, blocks)]
    codes = xp.concat([code for code, _ in parts], axis=1)
    tensors[f"{name}.codes"] = pack_nibbles(codes) if bits == 4 else codes
    if bits != 32:
        tensors[f"{name}.scales"] = xp.concat([scale for _, scale in parts], axis=1)
    return tensors


def _decode_blocks(
    name: str, tensors: Mapping[str, np.ndarray], moved: Mapping[str, Array], rows: int
) -> tuple[Array, tuple[int, ...]]:
    blocks, bits = tuple(tensors[f"{name}.blocks"].tolist()), int(tensors["facts"][1 if name == "dense" else 2])
    if not blocks:
        xp = namespace(moved["token"])
        return xp.zeros((rows, 0), dtype=xp.float32), ()
    values = _values(moved[f"{name}.codes"], sum(blocks), bits)
    return values if bits == 32 else values * spread(_scale(moved[f"{name}.scales"]), blocks), blocks


def _quantise(values: Array, bits: int) -> tuple[Array, Array]:
    """Codes `(m, d)` and the exponents `(m, 1)` of their scales: `codes * 2 ** (exponent / 256)` is close to the values.

    An exponent has 16 bits and the range of float32, and depends on no other row. Codes compensate for its rounding.
    """
    xp = namespace(values)
    if bits == 32:
        return values, values[:, :0]
    largest = xp.max(xp.abs(values), axis=1, keepdims=True) / LARGEST[bits]
    tiny = xp.asarray(TINY, dtype=xp.float32, device=device_of(values))
    exponent = xp.astype(xp.ceil(xp.log2(xp.maximum(largest, tiny)) * STEPS), xp.int16)
    codes = xp.clip(xp.round(values / _scale(exponent)), -LARGEST[bits], LARGEST[bits])
    return xp.astype(codes, xp.int8), exponent


def _scale(exponent: Array) -> Array:
    """`2 ** (exponent / 256)` as float32."""
    xp = namespace(exponent)
    two = xp.asarray(2.0, dtype=xp.float32, device=device_of(exponent))
    return xp.pow(two, xp.astype(exponent, xp.float32) / STEPS)


def pack_nibbles(codes: Array) -> Array:
    """Pack codes from -7 to 7 two to a byte: `(m, d)` int8 as `(m, ceil(d / 2))` uint8, the first in the low half."""
    xp = namespace(codes)
    (rows, columns), device = codes.shape, device_of(codes)
    lifted = xp.astype(codes + xp.asarray(8, dtype=xp.int8, device=device), xp.uint8)
    if columns % 2:
        lifted = xp.concat([lifted, xp.full((rows, 1), 8, dtype=xp.uint8, device=device)], axis=1)
    four = xp.asarray(4, dtype=xp.uint8, device=device)
    return xp.bitwise_or(lifted[:, ::2], xp.bitwise_left_shift(lifted[:, 1::2], four))


def _values(codes: Array, columns: int, bits: int) -> Array:
    """Codes as float32."""
    xp = namespace(codes)
    if bits != 4:
        return xp.astype(codes, xp.float32)
    low = xp.bitwise_and(codes, xp.asarray(15, dtype=xp.uint8, device=device_of(codes)))
    high = xp.bitwise_right_shift(codes, xp.asarray(4, dtype=xp.uint8, device=device_of(codes)))
    pairs = xp.reshape(xp.stack([low, high], axis=2), (codes.shape[0], 2 * codes.shape[1]))[:, :columns]
    return xp.astype(pairs, xp.float32) - 8.0
