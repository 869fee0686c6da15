"""Holds frozen weights once in a process.

Workers may be threads of one process, and each needs a module of its own, because it hooks it. The modules that stand on one
base share the storage of its parameters; a base stays in memory as long as a module that stands on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    import torch


_BASES: WeakValueDictionary[Hashable, torch.nn.Module] = WeakValueDictionary()
_LOADING = Lock()
_DEVICE: ContextVar[str] = ContextVar("_DEVICE", default="cpu")


class _Held:
    """Keeps a base in memory; a copy of the module that has it keeps the same one."""

    def __init__(self, base: torch.nn.Module) -> None:
        self.base = base

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self


@contextmanager
def placed(device: str) -> Iterator[None]:
    """Bases that the block asks for lie on a device."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def shared_base(key: Hashable, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A module whose parameters, all frozen, share their storage with every other one of this key in this process.

    Args:
        key: all that decides the module that `load` returns.
        load: reads the base; it is called only if no module of this key is in memory.
    """
    import torch

    device = _DEVICE.get()
    with _LOADING:
        base = _BASES.get((key, device))
        if base is None:
            base = load().requires_grad_(False).eval().to(device)
            _BASES[key, device] = base
        # Buffers are copied, because some architectures change theirs, but not quantised weights.
        shared = [*base.parameters(), *(buffer for buffer in base.buffers() if buffer.dtype == torch.int8)]
        memo: dict[int, Any] = {id(tensor): _alias(tensor) for tensor in shared}
        module = copy.deepcopy(base, memo)
    module.__dict__["_held"] = _Held(base)  # past __setattr__, which would make it a submodule
    return module


def own_trained(module: torch.nn.Module) -> torch.nn.Module:
    """Give the trainable parameters of a module, and only these, storage of their own; returns the module."""
    held = module.__dict__.get("_held")
    if held is None:
        return module
    base = dict(held.base.named_parameters())
    for name, parameter in module.named_parameters():
        source = base.get(name)
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()
        elif source is not None and source.shape == parameter.shape:
            parameter.data = source.data
    return module


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(tensor.data, requires_grad=False)
    return tensor
