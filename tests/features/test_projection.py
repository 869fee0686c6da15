import array_api_strict
import numpy as np
import pytest

from provenance.features.projection import Block, matrix, offsets, project_linear


def test_a_matrix_is_a_function_of_its_key():
    assert np.array_equal(matrix(96, 8, 1, "a"), matrix(96, 8, 1, "a"))
    assert not np.array_equal(matrix(96, 8, 1, "a"), matrix(96, 8, 2, "a"))
    # Written down once: today and next year project alike.
    assert np.allclose(matrix(5, 2, "pinned"), PINNED, atol=1e-6)


PINNED = [
    [0.21258326, 1.0423857],
    [-0.9854914, 0.00955861],
    [1.1656359, -0.38732186],
    [-0.02587653, -0.9443066],
    [-0.35247449, -0.6095962],
]


def test_columns_are_orthogonal_and_inner_products_keep_their_mean():
    a = matrix(64, 8, "x").astype(np.float64)
    assert np.allclose(a.T @ a, 8.0 * np.eye(8), atol=1e-5)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(64), rng.standard_normal(64)
    products = [(x @ matrix(64, 8, seed)) @ (y @ matrix(64, 8, seed)) for seed in range(3000)]
    assert np.mean(products) == pytest.approx(x @ y, abs=4 * np.std(products) / np.sqrt(3000))


def test_a_narrow_side_is_left_as_it_is():
    assert np.array_equal(matrix(4, 8, "x"), np.eye(4))


def test_numpy_and_the_strict_standard_agree():
    rng = np.random.default_rng(1)
    x, d = rng.standard_normal((3, 5, 6)), rng.standard_normal((3, 5, 4))
    a, b = rng.standard_normal((6, 2)), rng.standard_normal((4, 3))
    plain = project_linear(x, d, a, b)
    strict = project_linear(*(array_api_strict.asarray(v) for v in (x, d, a, b)))
    assert np.allclose(plain, np.asarray(strict), rtol=1e-12)
    oracle = np.stack([(a.T @ xi.T @ di @ b).ravel() for xi, di in zip(x, d, strict=True)])
    assert np.allclose(plain, oracle)


def test_blocks_lie_one_after_another():
    blocks = [Block("a", "linear", 9, 9, 2, 3), Block("b", "head", 9, 9, 4, 9)]
    assert offsets(blocks) == {"a": slice(0, 6), "b": slice(6, 42)}
