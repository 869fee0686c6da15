"""Feature rows survive their file up to rounding, in any shard."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from provenance.core.arrays import to_numpy
from provenance.core.rows import Rows, Sparse, by_token, concatenate, decode, encode, move, no_tokens, some


def rows(seed=0, examples=6, blocks=(5, 3), widths=(4, 3), scale=1.0):
    r = np.random.default_rng(seed)
    cells = sorted({(int(r.integers(9)), int(r.integers(examples))) for _ in range(20)})
    token, example = (np.array(side) for side in zip(*cells, strict=True))
    values = r.standard_normal((len(cells), sum(widths))).astype(np.float32) * np.float32(scale)
    dense = r.standard_normal((examples, sum(blocks))).astype(np.float32) * np.float32(scale)
    return Rows(dense, blocks, Sparse(9, widths, example, token, values))


def dense_only(values, blocks):
    return Rows(values, blocks, no_tokens(np))


def read_back(original, dense_bits=8, sparse_bits=4, xp=np):
    return decode(encode(original, dense_bits=dense_bits, sparse_bits=sparse_bits), xp)


@pytest.mark.parametrize(("bits", "worst"), [(4, 1 / 7), (8, 1 / 127), (32, 1e-9)])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rounding_is_bounded_by_half_a_step_of_the_largest_number(bits, worst, scale):
    original = rows(scale=scale)
    decoded = read_back(original, bits, bits)
    for before, after, blocks in (
        (original.dense, decoded.dense, (slice(0, 5), slice(5, 8))),
        (original.sparse.values, decoded.sparse.values, (slice(0, 4), slice(4, 7))),
    ):
        for block in blocks:
            bound = 0.51 * worst * np.abs(before[:, block]).max(axis=1, keepdims=True)
            assert (np.abs(before[:, block] - after[:, block]) <= bound).all()
    assert np.array_equal(decoded.sparse.token, original.sparse.token)
    assert np.array_equal(decoded.sparse.example, original.sparse.example)


@given(arrays(np.float32, (3, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_a_row_is_rounded_alike_whatever_stands_beside_it(values):
    together = read_back(dense_only(values, (4,)), 4)
    alone = np.concatenate([read_back(dense_only(values[row : row + 1], (4,)), 4).dense for row in range(3)])
    assert np.array_equal(together.dense, alone)


def test_concatenated_shards_equal_one_shard():
    first, second = rows(1), rows(2)
    joined = concatenate([first, second])
    assert joined.examples == 12
    part = joined.sparse
    assert np.array_equal(part.token, np.sort(part.token))
    for number, shard in enumerate((first, second)):
        is_own = part.example // 6 == number
        order = np.lexsort((shard.sparse.example, shard.sparse.token))
        assert np.array_equal(part.values[is_own], shard.sparse.values[order])


def test_rows_may_lack_either_part_or_all_examples():
    lexical = Rows(np.zeros((3, 0), np.float32), (), rows(examples=3).sparse)
    assert read_back(lexical, 32, 32).dense.shape == (3, 0)
    decoded = read_back(dense_only(rows().dense, (5, 3)))
    assert decoded.sparse.vocabulary == 0
    assert decoded.sparse.values.shape == (0, 0)
    none = np.zeros(0, np.int64)
    empty = Rows(np.zeros((0, 8), np.float32), (5, 3), Sparse(9, (4, 3), none, none, np.zeros((0, 7), np.float32)))
    decoded = read_back(empty)
    assert decoded.dense.shape == (0, 8)
    assert decoded.sparse.values.shape == (0, 7)


class Elsewhere:
    """An array like CuPy's, which converts to NumPy only explicitly."""

    def __init__(self, array):
        self.array = array

    def get(self):
        return self.array

    def __array__(self, *_args, **_more):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")


def test_rows_come_back_from_where_numpy_cannot_reach():
    local, part = rows(), rows().sparse
    remote_part = replace(part, **{side: Elsewhere(getattr(part, side)) for side in ("example", "token", "values")})
    back = move(Rows(Elsewhere(local.dense), local.blocks, remote_part), np)
    assert np.array_equal(back.dense, local.dense)
    assert np.array_equal(back.sparse.values, part.values)


def test_some_rows_are_those_asked_for():
    original = rows()
    picked = some(original, np.array([1, 4]))
    assert np.array_equal(picked.dense, original.dense[[1, 4]])
    for new, old in ((0, 1), (1, 4)):
        new_place, old_place = picked.sparse.example == new, original.sparse.example == old
        assert np.array_equal(picked.sparse.token[new_place], original.sparse.token[old_place])
        assert np.array_equal(picked.sparse.values[new_place], original.sparse.values[old_place])


def test_only_the_array_standard_is_needed():
    strict = move(rows(), array_api_strict)
    part = strict.sparse
    again = by_token(9, part.blocks, part.example, part.token, part.values)
    assert np.array_equal(to_numpy(again.values), to_numpy(part.values))
    plain, standard = encode(rows(), dense_bits=8, sparse_bits=4), encode(strict, dense_bits=8, sparse_bits=4)
    assert all(np.array_equal(plain[key], standard[key]) for key in plain)
    assert np.array_equal(to_numpy(decode(plain, array_api_strict).dense), decode(plain, np).dense)
