"""Factors and solves of positive definite matrices: SciPy for NumPy's arrays, torch where an array lies for all others."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from provenance.core.arrays import Array, namespace


def factor(matrix: Array, level: float = 0.0) -> Array:
    """The lower Cholesky factor of `matrix + level I`, `(..., n, n)`; may overwrite the matrix."""
    if namespace(matrix) is np:
        if matrix.ndim > 2:
            return np.stack([factor(one, level) for one in matrix])
        if level:
            matrix[np.diag_indices_from(matrix)] += level
        return cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
    torch, whole = _tensors(matrix)
    if level:
        whole.diagonal(dim1=-2, dim2=-1).add_(level)
    return _like(matrix, torch.linalg.cholesky(whole))


def solve(lower: Array, right: Array) -> Array:
    """`(L L')^-1 right`, `(n, k)`, in the type of `right`."""
    if namespace(right) is np:
        return cho_solve((lower, True), right, check_finite=False)
    torch, left, columns = _tensors(lower, right)
    return _like(right, torch.cholesky_solve(columns, left.to(columns.dtype)))


def solve_lower(lower: Array, right: Array) -> Array:
    """`L^-1 right` for one or several factors L: `(..., n, n)` and `(n, k)` give `(..., n, k)`."""
    if namespace(right) is np:
        if lower.ndim > 2:
            return np.stack([solve_lower(one, right) for one in lower])
        return solve_triangular(lower, right, lower=True)
    torch, left, columns = _tensors(lower, right)
    return _like(right, torch.linalg.solve_triangular(left, columns, upper=False))


def _tensors(*arrays: Array) -> tuple[Any, ...]:
    """torch, and the arrays as its tensors, without a copy."""
    torch = importlib.import_module("torch")
    return (torch, *(torch.from_dlpack(array) for array in arrays))


def _like(array: Array, tensor: Any) -> Array:
    return namespace(array).from_dlpack(tensor.contiguous())
