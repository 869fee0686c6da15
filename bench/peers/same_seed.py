"""Retrain with the very steps of the model served, where examples that are left out have the weight zero.

Retraining with other seeds shows what a corpus does to any model. This shows what it did to one, as MAGIC estimates it.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from provenance.core.store import digest
from provenance.models.adapters.training_loop import in_order, train_and_save
from provenance.models.model import Example, all_losses, read_model

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 64


def retrain(workload: Path, contents: Sequence[bytes], outputs: Sequence[bytes], masks: np.ndarray, seed: int) -> np.ndarray:
    """Losses of the outputs after training with each of the masks, `(masks, outputs)`; kept losses are read.

    Args:
        masks: the examples that count, `(masks, examples)`.
        seed: of the model served, a model of token sequences.
    """
    folder = workload / "same-seed"
    folder.mkdir(exist_ok=True)
    files = [folder / f"{digest([seed, np.flatnonzero(mask).tolist()])}.npy" for mask in masks]
    missing = [at for at, file in enumerate(files) if not file.exists()]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        train = partial(_train, workload / "model", contents, outputs, seed)
        for at, losses in zip(missing, pool.map(train, [masks[at] for at in missing]), strict=True):
            np.save(files[at], losses)
    return np.stack([np.load(file) for file in files])


def _train(folder: Path, contents: Sequence[bytes], outputs: Sequence[bytes], seed: int, mask: np.ndarray) -> np.ndarray:
    torch.set_num_threads(1)
    adapter: Any = read_model(folder).adapter()
    trained: list[torch.nn.Module] = []
    order = np.asarray(in_order(contents))

    def loss(module: torch.nn.Module, places: list[int], _: torch.Generator) -> tuple[torch.Tensor, int]:
        trained[:] = [module]
        rows = order[places]
        batch = adapter.collate([contents[row] for row in rows])
        weight = torch.from_numpy(mask[rows]).float()
        return (adapter.loss(module, batch) * weight).sum(), batch.terms

    with tempfile.TemporaryDirectory() as scratch:
        train_and_save(adapter, len(contents), loss, seed=seed, folder=Path(scratch))
    return all_losses(adapter, trained[0].eval(), [Example(output) for output in outputs], batch_size=BATCH)
