"""One code for NumPy, CuPy and torch: functions take an array's namespace and never name the library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, cast

import array_api_compat
import numpy as np

from provenance.core.errors import SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

# NumPy's, CuPy's or torch's; all spell the operations used here alike.
Array = Any
TORCH = "array_api_compat.torch"


def namespace(array: Array) -> ModuleType:
    """The module whose functions work on `array`: `numpy`, `cupy`, `torch`, or a strict stand-in in tests."""
    if hasattr(array, "__array_namespace__"):
        return cast("ModuleType", array.__array_namespace__())
    return array_api_compat.array_namespace(array)  # CuPy's arrays and tensors lack the method


def device_of(array: Array) -> Any:
    """Where the array lies, for functions that make another beside it: only torch does not do so by itself."""
    return array_api_compat.device(array)


def on_gpu(xp: ModuleType) -> bool:
    """Whether a namespace is CuPy's."""
    return xp.__name__.endswith("cupy")


def namespace_of(device: str) -> ModuleType:
    """The array module of a device, `cpu` or `cuda`; SettingsError where there is no CUDA device."""
    if device == "cpu":
        return np
    if not gpu_count():
        raise SettingsError("device", expected="a CUDA device and CuPy", found="none", hint="Use device = 'cpu'.")
    return importlib.import_module("array_api_compat.cupy")


def pass_namespace(device: str) -> ModuleType:
    """The array module in which a model's passes are followed: NumPy on a CPU, torch on a GPU.

    On a GPU a small model's operations cost less than to hand their tensors to another library.

    Raises:
        SettingsError: there is no CUDA device.
    """
    return np if namespace_of(device) is np else importlib.import_module(TORCH)


def gpu_count() -> int:
    """The number of CUDA devices that both CuPy and torch can use; 0 without CuPy, torch, driver or device."""
    try:
        if not importlib.import_module("torch").cuda.is_available():
            return 0
        cupy = importlib.import_module("cupy")
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # noqa: BLE001, CuPy raises errors of its own where there is no driver
        return 0


def from_torch(tensor: torch.Tensor, xp: Any = None) -> Array:
    """A view of a torch tensor as an array of its device's module, or of `xp`, without a copy (DLPack).

    Half precision becomes float32.
    """
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.element_size() < 4:  # NumPy lacks bfloat16, and sums need the range
        tensor = tensor.float()
    xp = xp or namespace_of(tensor.device.type)
    return tensor if xp.__name__ == TORCH else xp.from_dlpack(tensor)


def to_numpy(array: Array) -> np.ndarray:
    """The array in host memory."""
    if hasattr(array, "get"):
        return np.asarray(array.get())
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def runs(ascending: Array) -> tuple[Array, Array, Array]:
    """The distinct values of an ascending array, the index at which each begins, and its count.

    The standard's own `unique_values` promises no order.
    """
    xp = namespace(ascending)
    size = ascending.shape[0]
    if size == 0:
        none = xp.zeros(0, dtype=xp.int64, device=device_of(ascending))
        return ascending, none, none
    begins = xp.concat([xp.ones(1, dtype=xp.bool, device=device_of(ascending)), ascending[1:] != ascending[:-1]])
    starts = xp.nonzero(begins)[0]
    ends = xp.concat([starts[1:], xp.full((1,), size, dtype=starts.dtype, device=device_of(ascending))])
    return xp.take(ascending, starts), starts, ends - starts


def look_up(keys: Array, known: Array, values: Array) -> Array:
    """The rows of `values` at `keys`; `values` has one row for each of the `known` keys (ascending). Zeros for unknown keys."""
    xp = namespace(values)
    if known.shape[0] == 0:
        return xp.zeros((keys.shape[0], values.shape[1]), dtype=values.dtype, device=device_of(values))
    at = xp.clip(xp.searchsorted(known, keys), max=known.shape[0] - 1)
    present = xp.astype(xp.take(known, at) == keys, values.dtype)
    return xp.take(values, at, axis=0) * present[:, None]


def positive_shares(values: Array) -> Array:
    """`max(0, v) / sum max(0, v)` of each column of `(n, m)`; zeros where nothing is positive."""
    xp = namespace(values)
    positive = xp.where(values > 0, values, xp.zeros_like(values))
    whole = xp.sum(positive, axis=0, keepdims=True)
    return positive / xp.where(whole > 0, whole, xp.ones_like(whole))
