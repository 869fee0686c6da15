"""One body for NumPy and CuPy: code asks an array for its namespace and never names the library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np

from provenance.core.errors import SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

# NumPy or CuPy; both spell the operations used here alike.
Array = Any


def namespace(array: Array) -> ModuleType:
    """The module whose functions work on `array`: `numpy`, `cupy`, or a strict stand-in in tests."""
    if hasattr(array, "__array_namespace__"):
        module: ModuleType = array.__array_namespace__()
        return module
    found: ModuleType = array_api_compat.array_namespace(array)  # CuPy's arrays do not say it themselves
    return found


def on_gpu(xp: ModuleType) -> bool:
    """Whether a namespace is CuPy's."""
    return xp.__name__.endswith("cupy")


def namespace_of(device: str) -> ModuleType:
    """The array module of a device, `cpu` or `cuda`. There is no silent fallback from one to the other."""
    if device == "cpu":
        return np
    if not gpu_count():
        raise SettingsError("device", expected="a CUDA device and CuPy", found="none", hint="Use device = 'cpu'.")
    return importlib.import_module("array_api_compat.cupy")


def gpu_count() -> int:
    """CUDA devices that CuPy and torch can use here; 0 without either, a driver or a device."""
    try:
        if not importlib.import_module("torch").cuda.is_available():
            return 0
        cupy = importlib.import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # noqa: BLE001, CuPy raises errors of its own where there is no driver
        return 0


def from_torch(tensor: torch.Tensor, xp: Any = None) -> Array:
    """A view of a torch tensor as an array of its device's module, or of `xp`, without a copy (DLPack)."""
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() < 4:  # NumPy knows no bfloat16, and sums need the room
        tensor = tensor.float()
    return (xp or namespace_of(tensor.device.type)).from_dlpack(tensor)


def to_numpy(array: Array) -> np.ndarray:
    """The array in host memory."""
    return np.asarray(array.get() if hasattr(array, "get") else array)


def runs(ascending: Array) -> tuple[Array, Array, Array]:
    """The distinct values of an ascending array, where each begins, and how many there are of it.

    The standard's own `unique_values` promises no order.
    """
    xp = namespace(ascending)
    size = ascending.shape[0]
    if size == 0:
        none = xp.zeros(0, dtype=xp.int64)
        return ascending, none, none
    begins = xp.concat([xp.ones(1, dtype=xp.bool), ascending[1:] != ascending[:-1]])
    starts = xp.nonzero(begins)[0]
    ends = xp.concat([starts[1:], xp.full((1,), size, dtype=starts.dtype)])
    return xp.take(ascending, starts), starts, ends - starts


def look_up(keys: Array, known: Array, values: Array) -> Array:
    """The rows of `values`, one for each of the `known` keys (ascending), at the keys asked for; zeros for others."""
    xp = namespace(values)
    if known.shape[0] == 0:
        return xp.zeros((keys.shape[0], values.shape[1]), dtype=values.dtype)
    at = xp.minimum(xp.searchsorted(known, keys), xp.asarray(known.shape[0] - 1))
    there = xp.astype(xp.take(known, at) == keys, values.dtype)
    return xp.take(values, at, axis=0) * there[:, None]


def positive_shares(values: Array) -> Array:
    """`max(0, v) / sum max(0, v)` of each column of `(n, m)`; zeros where nothing is positive."""
    xp = namespace(values)
    positive = xp.where(values > 0, values, xp.zeros_like(values))
    whole = xp.sum(positive, axis=0, keepdims=True)
    return positive / xp.where(whole > 0, whole, xp.ones_like(whole))
