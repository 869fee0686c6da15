import numpy as np
import pytest

from provenance.features.projection import matrix


def test_a_matrix_is_a_function_of_its_key_and_a_narrow_side_is_not_projected():
    assert np.array_equal(matrix(96, 8, 1, "a"), matrix(96, 8, 1, "a"))
    assert not np.array_equal(matrix(96, 8, 1, "a"), matrix(96, 8, 2, "a"))
    # Pinned, because the matrix must never change.
    assert np.allclose(matrix(5, 2, "pinned"), PINNED, atol=1e-6)
    assert np.array_equal(matrix(4, 8, "x"), np.eye(4))


FIRST = (0.21258326, -0.9854914, 1.1656359, -0.02587653, -0.35247449)
SECOND = (1.0423857, 0.00955861, -0.38732186, -0.9443066, -0.6095962)
PINNED = np.stack([FIRST, SECOND], axis=1)


def test_columns_are_orthogonal_and_inner_products_keep_their_mean():
    a = matrix(64, 8, "x").astype(np.float64)
    assert np.allclose(a.T @ a, 8.0 * np.eye(8), atol=1e-5)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(64), rng.standard_normal(64)
    products = [(x @ matrix(64, 8, seed)) @ (y @ matrix(64, 8, seed)) for seed in range(3000)]
    assert np.mean(products) == pytest.approx(x @ y, abs=4 * np.std(products) / np.sqrt(3000))
