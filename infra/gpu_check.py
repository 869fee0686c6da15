"""Checks a GPU (`make gpu-check`): its results equal the CPU's, a night runs on it; and measures what it gains, as JSON.

At most ten minutes. Exit codes: 0 all checks passed and all was measured, 1 something failed, 3 there is no GPU and nothing was
run.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from provenance.core.arrays import gpu_count

NOTHING_RUN = 3
# Seconds of the whole, and of the last part of the measurement, which begins before they are over.
SECONDS, LAST = 600, 90
CHECKOUT = Path(__file__).parents[1]
TESTS = [
    "tests/core/test_overlap.py",
    "tests/core/test_solving.py",
    "tests/features/test_gpu.py",
    "tests/influence/test_methods.py",
    "tests/royalty/test_estimate.py",
    "tests/validation/test_gpu_cost.py",
]


def main() -> int:
    """Run the tests that need a GPU, including a night on a LocalCUDACluster, and print what was measured."""
    out, notes = Console(soft_wrap=True), Console(soft_wrap=True, stderr=True)
    if missing := _missing():
        out.print(f"gpu-check: {missing} Nothing was run, and nothing is known about the GPU path here.")
        return NOTHING_RUN
    begun = time.monotonic()
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", *TESTS]
    failed = bool(subprocess.run(tests, cwd=CHECKOUT, check=False, stdout=sys.stderr).returncode)
    from provenance.validation.gpu_cost import measure

    figures = measure("cuda", seconds=SECONDS - LAST - (time.monotonic() - begun))
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    lacking = [name for name, part in figures.items() if "error" in part or "not_run" in part]
    if failed or lacking:
        notes.print(f"gpu-check: {'a test failed' if failed else 'the tests passed'}; not measured: {lacking or 'nothing'}")
        return 1
    notes.print("gpu-check: CPU and GPU agree, and a night ran on the GPU.")
    return 0


def _missing() -> str:
    """A sentence about the missing GPU or library; empty if all is there."""
    if not shutil.which("nvidia-smi"):
        return "There is no NVIDIA GPU."
    if not importlib.util.find_spec("cupy") or not importlib.util.find_spec("dask_cuda"):
        return "There is a GPU, but no CuPy or no Dask-CUDA: pip install -r infra/requirements/gpu.txt."
    if not gpu_count():
        return "CuPy finds no device that it can use; does the driver know CUDA 13?"
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
