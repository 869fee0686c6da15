"""Factors and solves are the same for NumPy's arrays, by SciPy, as for all others, by torch."""

import array_api_compat.torch
import array_api_strict
import numpy as np
import pytest

from provenance.core.arrays import gpu_count, namespace_of, to_numpy
from provenance.core.solving import factor, solve, solve_lower

R = np.random.default_rng(3)
SIDES = R.standard_normal((3, 6, 9))
MATRICES = SIDES @ SIDES.swapaxes(1, 2)
RIGHT = R.standard_normal((6, 4))
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no GPU")])


@pytest.fixture(params=[np, array_api_strict, array_api_compat.torch, GPU], ids=["numpy", "strict", "torch", "cuda"])
def xp(request):
    return namespace_of("cuda") if request.param == "cuda" else request.param


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_factors_of_one_matrix_and_of_several(xp, level):
    expected = np.linalg.cholesky(MATRICES + level * np.eye(6))
    assert np.allclose(to_numpy(factor(xp.asarray(MATRICES.copy()), level)), expected)
    assert np.allclose(to_numpy(factor(xp.asarray(MATRICES[1].copy()), level)), expected[1])


def test_solves(xp):
    lower = np.linalg.cholesky(MATRICES)
    solved = solve(xp.asarray(lower[0]), xp.asarray(RIGHT))
    assert np.allclose(MATRICES[0] @ to_numpy(solved), RIGHT)
    of_all, of_one = solve_lower(xp.asarray(lower), xp.asarray(RIGHT)), solve_lower(xp.asarray(lower[2]), xp.asarray(RIGHT))
    assert np.allclose(lower @ to_numpy(of_all), RIGHT)
    assert np.allclose(to_numpy(of_one), to_numpy(of_all)[2])


def test_a_factor_in_float32_solves_in_float64(xp):
    lower = np.linalg.cholesky(MATRICES[0]).astype(np.float32)
    solved = to_numpy(solve(xp.asarray(lower), xp.asarray(RIGHT)))
    assert solved.dtype == np.float64
    whole = lower.astype(np.float64)
    assert np.allclose(whole @ whole.T @ solved, RIGHT, rtol=1e-9)
