"""`make gpu-check`: does a GPU compute what a CPU does, does a night run on it, and what does it cost?

Exit codes: 0 all of it holds, 1 something does not, 3 there is no GPU here and nothing was run.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from provenance.core.arrays import gpu_count

NOTHING_RUN = 3
CHECKOUT = Path(__file__).parents[1]
WORKLOAD = CHECKOUT / "var/workloads/code"
PARTS = "features,scoring,night"


def main() -> int:
    """Run the tests marked `gpu`, a night's stages on a LocalCUDACluster among them, and the bench on the GPU."""
    tell = Console(soft_wrap=True).print
    if missing := _missing():
        tell(f"gpu-check: {missing} Nothing was run, and nothing is known about the GPU path here.")
        return NOTHING_RUN
    commands = [[sys.executable, "-m", "pytest", "-m", "gpu", "-v"]]
    if not (WORKLOAD / "outputs.parquet").exists():
        commands.append([sys.executable, "-m", "tasks.cli", "workload", "code", str(WORKLOAD)])
    folders = ["--corpus", WORKLOAD / "corpus", "--model", WORKLOAD / "model", "--outputs", WORKLOAD / "outputs.parquet"]
    commands.append([sys.executable, "-m", "tasks.cli", "bench", *map(str, folders), "--device", "cuda", "--parts", PARTS])
    for command in commands:
        if subprocess.run(command, cwd=CHECKOUT, check=False).returncode:
            tell(f"gpu-check: failed: {' '.join(command)}")
            return 1
    tell("gpu-check: CPU and GPU agree, and a night ran on the GPU.")
    return 0


def _missing() -> str:
    """What a GPU check lacks here; empty where it lacks nothing."""
    if not shutil.which("nvidia-smi"):
        return "There is no NVIDIA GPU."
    if not importlib.util.find_spec("cupy") or not importlib.util.find_spec("dask_cuda"):
        return "There is a GPU, but no CuPy or no Dask-CUDA: pip install -r infra/requirements/gpu.txt."
    if not gpu_count():
        return "CuPy finds no device that it can use; does the driver know CUDA 13?"
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
