"""Checks a GPU (`make gpu-check`): its results equal the CPU's, a night runs on it; and measures its cost.

Exit codes: 0 all checks passed, 1 one failed, 3 there is no GPU and nothing was run.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
from rich.console import Console

from provenance.core.arrays import gpu_count

NOTHING_RUN = 3
CHECKOUT = Path(__file__).parents[1]
TESTS = [CHECKOUT / "tests/features/test_gpu.py"]
WORKLOAD = CHECKOUT / "var/workloads/code"
LARGE = CHECKOUT / "var/gpu-check/model"


def main() -> int:
    """Run the tests that need a GPU, including a night on a LocalCUDACluster, and the bench on the GPU."""
    show = Console(soft_wrap=True).print
    if missing := _missing():
        show(f"gpu-check: {missing} Nothing was run, and nothing is known about the GPU path here.")
        return NOTHING_RUN
    steps = [
        ["pytest", "-m", "gpu", "-v", *map(str, TESTS)],
        *([] if (WORKLOAD / "outputs.parquet").exists() else [["tasks.cli", "workload", "code", str(WORKLOAD)]]),
        _bench(WORKLOAD / "model", "features,scoring,night"),
        _bench(LARGE, "features"),
    ]
    for step in steps:
        if str(LARGE) in step:
            show("A model of GPT-2's size:")
            write_large_model()
        if subprocess.run([sys.executable, "-m", *step], cwd=CHECKOUT, check=False).returncode:
            show(f"gpu-check: failed: python -m {' '.join(step)}")
            return 1
    show("gpu-check: CPU and GPU agree, and a night ran on the GPU.")
    return 0


def write_large_model() -> None:
    """Write a byte-level transformer of GPT-2's size after one step of training; its cost does not depend on its training.

    The workload's own model is a thousand times smaller, too small to measure a GPU.
    """
    from transformers import LlamaConfig

    from provenance.models.adapters.causal_lm import CausalLM

    LARGE.mkdir(parents=True, exist_ok=True)
    LlamaConfig(
        vocab_size=50_257, hidden_size=768, intermediate_size=2_048, num_hidden_layers=12, num_attention_heads=12,
        tie_word_embeddings=False, bos_token_id=256, eos_token_id=None,
    ).save_pretrained(LARGE)  # fmt: skip
    contents = pl.read_parquet(WORKLOAD / "corpus/examples.parquet", n_rows=1)["content"].to_list()
    CausalLM(LARGE, epochs=1, batch_size=1, keep=(1.0,)).train(contents, seed=1, folder=LARGE)


def _bench(model: Path, parts: str) -> list[str]:
    folders = ["--corpus", WORKLOAD / "corpus", "--model", model, "--outputs", WORKLOAD / "outputs.parquet"]
    return ["tasks.cli", "bench", *map(str, folders), "--device", "cuda", "--parts", parts]


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
