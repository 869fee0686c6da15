"""Measures how much of a GPU's memory a pass may take."""

from __future__ import annotations

from collections.abc import Callable

import torch

# The part of the free memory that passes may take: the rest is for blocks that the allocator cannot join.
FILLED = 0.8


def measure_room(device: torch.device, kept: int, run: Callable[[], object]) -> int:
    """Bytes that autograd may keep in a pass on a GPU, so that its peak fits into the memory that is free; 0 on a CPU.

    Args:
        kept: bytes that autograd keeps in `run`, a pass.
    """
    if not kept or device.type == "cpu":
        return 0
    run()  # a first pass makes plans and workspaces, which stay
    free, peak = free_bytes(device), peak_bytes(device, run)
    return int(FILLED * free * kept / max(kept, peak))


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses."""
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """The most bytes that a call had allocated on a GPU at one time, without those from before it."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before
