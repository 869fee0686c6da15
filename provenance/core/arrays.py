"""One body for NumPy and CuPy: code asks an array for its namespace and never names the library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.errors import SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    import torch

# NumPy or CuPy; both spell the operations used here alike.
Array = Any


def namespace(array: Array) -> ModuleType:
    """The module whose functions work on `array`: `numpy`, `cupy`, or a strict stand-in in tests."""
    module: ModuleType = array.__array_namespace__()
    return module


def namespace_of(device: str) -> ModuleType:
    """The array module of a device, `cpu` or `cuda`. There is no silent fallback from one to the other."""
    if device == "cpu":
        return np
    try:
        cupy = importlib.import_module("cupy")
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise SettingsError(
            "device", expected="a CUDA device and CuPy", found=str(error), hint="Use device = 'cpu'."
        ) from error
    if count == 0:
        raise SettingsError("device", expected="a CUDA device", found="none", hint="Use device = 'cpu'.")
    module: ModuleType = cupy
    return module


def from_torch(tensor: torch.Tensor) -> Array:
    """A view of a torch tensor as a NumPy or CuPy array, without a copy (DLPack)."""
    tensor = tensor.detach()
    return namespace_of(tensor.device.type).from_dlpack(tensor)


def to_numpy(array: Array) -> np.ndarray:
    """The array in host memory."""
    return np.asarray(array.get() if hasattr(array, "get") else array)
