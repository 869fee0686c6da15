"""CUDA kernels where CuPy's own operations are slow, each beside the plain operations that define it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from provenance.core.arrays import TORCH, Array, device_of, from_torch, namespace, namespace_of, on_gpu, runs, to_numpy

THREADS = 256
# Products kept before they are summed: as many as fit a core's own cache, and a gigabyte of a GPU's memory.
CELLS = 2**20
GPU_CELLS = 2**28
SOURCE = r"""
// products[r, q] = <values[r], table[place[r], :, q]>. Vectors at one place follow one another, so its numbers are read from
// memory once and from the cache after that; neighbouring threads have neighbouring queries.
extern "C" __global__ void token_products(const float* values, const long long* place, const float* table, float* products,
                                          const long long vectors, const long long columns, const long long queries) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= vectors * queries) return;
    const long long row = at / queries, query = at % queries;
    const float* vector = values + row * columns;
    const float* column = table + place[row] * columns * queries + query;
    float sum = 0.0f;
    for (long long d = 0; d < columns; ++d) sum += vector[d] * column[d * queries];
    products[at] = sum;
}

// sums[g, c] = sum over i in [starts[g], starts[g + 1]) of values[order[i], c]. Each thread owns one cell of the result, so
// the order of additions, and with it the sum, is always the same.
extern "C" __global__ void add_by_group(const float* values, const long long* order, const long long* starts, float* sums,
                                        const long long groups, const long long columns) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= groups * columns) return;
    const long long group = at / columns, column = at % columns;
    float sum = 0.0f;
    for (long long i = starts[group]; i < starts[group + 1]; ++i) sum += values[order[i] * columns + column];
    sums[at] = sum;
}
"""


def sparse_products(values: Array, example: Array, place: Array, table: Array, examples: int) -> Array:
    """`sum_r <values[r], table[place[r], :, q]>` over the vectors r of each example: `(examples, q)` float32.

    Args:
        values: `(m, d)`; example: `(m,)`; place: `(m,)`, ascending; table: `(w, d, q)`.
    """
    xp = namespace(values)
    queries = table.shape[2]
    sums = xp.zeros((examples, queries), dtype=xp.float32)
    room = max(1, (GPU_CELLS if on_gpu(xp) else CELLS) // max(1, queries))
    for start in range(0, place.shape[0], room):
        some = slice(start, min(start + room, place.shape[0]))
        sums = sums + add_by_group(_products(values[some, :], place[some], table), example[some], examples)
    return sums


def _products(values: Array, place: Array, table: Array) -> Array:
    """`<values[r], table[place[r], :, q]>`, `(m, q)`: on a CPU one matrix product for each place."""
    xp = namespace(values)
    columns, queries = table.shape[1], table.shape[2]
    products = xp.empty((place.shape[0], queries), dtype=xp.float32)
    if on_gpu(xp):
        arrays = [xp.ascontiguousarray(array) for array in (values, place, table)]
        _launch("token_products", products.size, *arrays, products, place.shape[0], columns, queries)
        return products
    product = np.matmul if xp is np else _product
    for at, start, count in zip(*(to_numpy(side).tolist() for side in runs(place)), strict=True):
        product(values[start : start + count, :], table[at, ...], products[start : start + count, :])
    return products


def _product(left: Array, right: Array, result: Array) -> None:
    result[...] = left @ right  # the standard's `matmul` has no `out`


def add_by_group(values: Array, group: Array, groups: int) -> Array:
    """Sum rows by group, in their order: `(m, d)` and `(m,)` give `(groups, d)`."""
    xp = namespace(values)
    if xp is np:
        ones = np.ones(len(group), dtype=values.dtype)
        members = csc_array((ones, group, np.arange(len(group) + 1)), shape=(groups, len(group)))
        total: Array = members @ values
        return total
    if xp.__name__ == TORCH and values.is_cuda:  # torch's own sums by group take the order of threads
        cupy = namespace_of("cuda")
        return xp.from_dlpack(add_by_group(from_torch(values, cupy), from_torch(group, cupy), groups))
    order, starts = _by_group(group, groups)
    if on_gpu(xp) and values.dtype == xp.float32:
        sums = xp.empty((groups, values.shape[1]), dtype=xp.float32)
        _launch("add_by_group", sums.size, xp.ascontiguousarray(values), order, starts, sums, groups, values.shape[1])
        return sums
    lengths = starts[1:] - starts[:-1]
    longest = int(xp.max(lengths)) if groups else 0
    device = device_of(values)
    padded = xp.concat([xp.take(values, order, axis=0), xp.zeros((1, values.shape[1]), dtype=values.dtype, device=device)])
    total = xp.zeros((groups, values.shape[1]), dtype=values.dtype, device=device)
    for step in range(longest):
        at = xp.where(step < lengths, starts[:-1] + step, values.shape[0])
        total = total + xp.take(padded, at, axis=0)
    return total


def _by_group(group: Array, groups: int) -> tuple[Array, Array]:
    """An order of rows by group, and `(groups + 1,)` the place at which each group begins in it."""
    xp = namespace(group)
    order = xp.argsort(group, stable=True)
    device = device_of(group)
    ends = xp.searchsorted(xp.take(group, order), xp.arange(groups, dtype=group.dtype, device=device), side="right")
    return order, xp.concat([xp.zeros(1, dtype=ends.dtype, device=device), ends])


@cache
def _module() -> Any:
    import cupy

    return cupy.RawModule(code=SOURCE, options=("-std=c++17",))


def _launch(name: str, threads: int, *arguments: Any) -> None:
    plain = tuple(np.int64(a) if isinstance(a, int) else a for a in arguments)
    if threads:
        _module().get_function(name)(((threads + THREADS - 1) // THREADS,), (THREADS,), plain)
