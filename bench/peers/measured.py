"""Write a method's scores and their cost, for the comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np


def write(folder: Path, method: str, scores: np.ndarray, *, seconds: float, bare: float, kept: int) -> None:
    """Write FOLDER/METHOD.npy and FOLDER/METHOD.json.

    Args:
        scores: influences, `(outputs, examples)`.
        seconds: CPU time of the method, all checkpoints together; bare: of forward and backward passes over the examples.
        kept: bytes per example and checkpoint.
    """
    np.save(folder / f"{method}.npy", scores)
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    costs = {
        "seconds": seconds,
        "forward_and_backward": bare,
        "ratio": seconds / bare,
        "bytes_per_example": kept,
        "peak_mb": int(peak) / 1024,
    }
    (folder / f"{method}.json").write_text(json.dumps(costs))
