"""Measures on a CPU what can be of passes on a GPU: the arithmetic of features in torch, and influences in bfloat16.

Prints processor time of one thread against bare passes on the same batches, with random weights; and, with the folder of a
workload (`model`, `corpus`, `outputs.parquet`), Spearman's correlation of influences in float32 and bfloat16 by checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import array_api_compat.torch
import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from provenance.corpus.delivery import read_corpus_folder
from provenance.features.following import find_following
from provenance.features.gradients import batched, gradient_features
from provenance.features.projection import Projection
from provenance.influence.agreement import influences
from provenance.models.model import Checkpoint, Model, examples_in, read_model
from provenance.validation.gpu_cost import FULL, Case, bare, llama, open_case

CASES = {
    "512 tokens, 4 layers of 384": (Case(llama(8192, 384, 1024, 4, (6, 6), tied=True), 8, 512, 512), 4),
    "64 to 256 tokens, 2 layers of 64": (Case(llama(257, 64, 192, 2, (4, 4), tied=False), 96, 64, 256), 32),
}
ROUNDS, EXAMPLES, OUTPUTS, DRAWS = 3, 60, 8, 4


def arithmetic() -> None:
    """Print features in NumPy and in torch against bare passes."""
    for name, (case, batch_size) in CASES.items():
        opened = open_case(case, "cpu", "float32", replace(FULL, batch_size=batch_size))
        batches = list(batched(opened.examples, opened.following, batch_size, opened.options["memory"]))
        sides: dict[str, Callable[[], object]] = {
            "bare": partial(bare, opened, batches),
            "numpy": partial(opened.features, np),
            "torch": partial(opened.features, array_api_compat.torch),
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, function in sides.items():
                start = time.process_time()
                function()
                times[side].append(time.process_time() - start)
        whole = median(times["bare"])
        sys.stdout.write(
            f"{name}: numpy {median(times['numpy']) / whole:.2f}, torch {median(times['torch']) / whole:.2f} bare passes\n"
        )


def precision(folder: Path) -> None:
    """Print how alike influences and features in float32 and bfloat16 are."""
    model = read_model(folder / "model")
    examples = examples_in(read_corpus_folder(folder / "corpus").examples)[:EXAMPLES]
    outputs = examples_in(pl.read_parquet(folder / "outputs.parquet"))[:OUTPUTS]
    for checkpoint in model.card.checkpoints[1:]:
        (wide, rows), (rounded, others) = (
            _influences(model, checkpoint, examples, outputs, dtype) for dtype in (None, torch.bfloat16)
        )
        by_component = [_alike(one, two) for one, two in zip(wide, rounded, strict=True)]
        together = _alike(wide.mean(axis=0), rounded.mean(axis=0))
        cosine = ((rows * others).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(others, axis=1)).min()
        components = ", ".join(f"{value:.4f}" for value in by_component)
        sys.stdout.write(
            f"{checkpoint.file}: by component {components}; together {together:.4f}; smallest cosine {cosine:.4f}\n"
        )


def _influences(
    model: Model, checkpoint: Checkpoint, examples: Any, outputs: Any, dtype: torch.dtype | None
) -> tuple[np.ndarray, np.ndarray]:
    """Influences, `(components, outputs, examples)`, and the dense features of the examples."""
    adapter, module = model.adapter(), model.load(checkpoint, dtype=dtype)
    following = find_following(adapter, module, examples, projection := Projection(), checkpoint.file, xp=np)
    passes: dict[str, Any] = {"projection": projection, "checkpoint": checkpoint.file, "batch_size": 32, "following": following}
    found = influences(adapter, module, examples, outputs, draws=DRAWS, passes=passes)
    return np.stack(found), gradient_features(adapter, module, examples, **passes).dense


def _alike(one: np.ndarray, two: np.ndarray) -> float:
    """Spearman's correlation over examples, a mean over outputs."""
    return float(np.mean([spearmanr(a, b).statistic for a, b in zip(one, two, strict=True)]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        if len(sys.argv) > 1:
            precision(Path(sys.argv[1]))
        arithmetic()
