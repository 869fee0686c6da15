"""Measures how much of a GPU's memory a pass may take."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

# The peak memory of a pass, as a multiple of what autograd keeps between its halves: gradients of activations come on top.
TRANSIENT = 2.0
# The part of the free memory that passes may take: the rest is for blocks that the allocator cannot join.
FILLED = 0.8
FULL = re.compile("out[ _]of[ _]memory|allocate memory")


def measure_room(device: torch.device, kept: int, run: Callable[[], object]) -> int:
    """Bytes that autograd may keep in a pass on a GPU, so that its peak fits into the memory that is free; 0 on a CPU.

    Args:
        kept: bytes that autograd keeps in `run`, a pass.
    """
    if not kept or device.type == "cpu":
        return 0
    run()  # a first pass makes plans and workspaces, which stay
    return int(FILLED * free_bytes(device) * kept / max(kept, peak_bytes(device, run) or TRANSIENT * kept))


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """The most bytes that a call had allocated on a GPU at one time, without those from before it; 0 if nobody counts them."""
    if torch.cuda.get_allocator_backend() == "pluggable":  # RMM's
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def of_memory(error: BaseException) -> bool:
    """Whether an error of torch, CuPy or NumPy says that memory is full."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or FULL.search(str(error)) is not None
