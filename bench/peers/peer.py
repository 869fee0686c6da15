"""Compute the scores of one peer's method, in the peers' environment: `peer.py METHOD FOLDER`.

Reads FOLDER/contents.json (base64 of examples and outputs) and FOLDER/model, and writes FOLDER/METHOD.npy, influences
`(outputs, examples)`, and FOLDER/METHOD.json: CPU seconds, bytes kept per example and checkpoint, peak memory. bergson's
methods (`bergsons.py`) see the checkpoints together, and their kept bytes are not counted.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import measured
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers.pytorch_utils import Conv1D

from provenance.features.report import ONE_BY_ONE
from provenance.features.sampled import Draws, classes_of, cut, sample_flow
from provenance.models.adapters.tokens import Batch, Sequences
from provenance.models.model import Example, forward_and_backward, read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provenance.models.model import Adapter

BATCH = 32
TRAK_NUMBERS, LOGRA_NUMBERS = 512, 256


class Rows(Dataset[int]):
    """Numbers of rows; the collate function turns them into an adapter's batch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        return row


class Losses(nn.Module):
    """A module whose output is the adapter's losses, for peers that call a model with a batch."""

    def __init__(self, adapter: Adapter, module: nn.Module) -> None:
        super().__init__()
        self.adapter, self.inner = adapter, module

    def forward(self, *parts: torch.Tensor) -> Any:
        """Losses `(n,)`, of a batch's tensors."""
        return self.adapter.loss(self.inner, Batch(parts[0], parts[1]) if isinstance(self.adapter, Sequences) else parts)


class TotalLoss(Losses):
    """The same, with the sum as an attribute `loss`, as dattri expects."""

    def forward(self, **parts: torch.Tensor) -> SimpleNamespace:  # type: ignore[override]
        """`loss`, of all examples."""
        return SimpleNamespace(loss=super().forward(*parts.values()).sum())


def loader(adapter: Adapter, contents: Sequence[bytes], wrap: Callable[[Any], Any] = tuple) -> DataLoader[Any]:
    """The tensors of batches, in order; the peers know no other part of a batch, and no workload's contents are cut."""

    def collate(rows: list[int]) -> Any:
        return wrap([part for part in adapter.collate([contents[row] for row in rows]) if isinstance(part, torch.Tensor)])

    return DataLoader(Rows(len(contents)), batch_size=BATCH, collate_fn=collate)


def with_linear_layers(module: nn.Module) -> nn.Module:
    """The module with transformers' Conv1D replaced by the equal Linear: the peers know no Conv1D."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, Conv1D):
            linear = nn.Linear(*layer.weight.shape)
            linear.weight.data, linear.bias.data = layer.weight.data.T.contiguous(), layer.bias.data
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, linear)
    return module


def trak(
    adapter: Adapter, module: nn.Module, examples: list[bytes], outputs: list[bytes], folder: Path
) -> tuple[np.ndarray, int]:
    """TRAK (Park et al. 2023) by traker, the model output being the log-likelihood."""
    from trak import TRAKer
    from trak.gradient_computers import IterativeGradientComputer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import BasicProjector, ProjectionType

    class Likelihood(AbstractModelOutput):
        def __init__(self) -> None:
            super().__init__()

        def get_output(self, model: nn.Module, _weights: Any, _buffers: Any, *batch: torch.Tensor) -> torch.Tensor:
            return -model(*batch)

        def get_out_to_loss_grad(
            self, _model: nn.Module, _weights: Any, _buffers: Any, batch: Sequence[torch.Tensor]
        ) -> torch.Tensor:
            return torch.ones(len(batch[0]), 1)

    model = Losses(adapter, module)
    size = sum(p.numel() for p in model.parameters())
    projector = BasicProjector(size, TRAK_NUMBERS, seed=0, proj_type=ProjectionType.rademacher, device="cpu", block_size=128)
    traker = TRAKer(
        model, Likelihood(), len(examples), save_dir=str(folder), device="cpu", projector=projector, proj_dim=TRAK_NUMBERS,
        use_half_precision=False, gradient_computer=IterativeGradientComputer, logging_level=logging.ERROR,
    )  # fmt: skip
    traker.load_checkpoint(model.state_dict(), model_id=0)
    for batch in loader(adapter, examples):
        traker.featurize(batch=batch, num_samples=len(batch[0]))
    traker.finalize_features()
    traker.start_scoring_checkpoint("outputs", model.state_dict(), model_id=0, num_targets=len(outputs))
    for batch in loader(adapter, outputs):
        traker.score(batch=batch, num_samples=len(batch[0]))
    return np.asarray(traker.finalize_scores("outputs")).T, TRAK_NUMBERS * 4


def logra(
    adapter: Adapter, module: nn.Module, examples: list[bytes], outputs: list[bytes], folder: Path
) -> tuple[np.ndarray, int]:
    """LoGra (Choe et al. 2024) by dattri: Linear layers, each projected to 16 x 16."""
    from dattri.algorithm.logra import LoGraAttributor
    from dattri.task import AttributionTask

    del folder
    model = TotalLoss(adapter, with_linear_layers(module))
    task = AttributionTask(
        loss_func=lambda model, batch, _device: model(**batch).loss, model=model, checkpoints=[model.state_dict()]
    )
    named = lambda batch: {f"b{at}": each for at, each in enumerate(batch)}  # noqa: E731
    attributor = LoGraAttributor(task, hessian="eFIM", device="cpu", proj_dim=LOGRA_NUMBERS)
    attributor.cache(loader(adapter, examples, named))
    scores = attributor.attribute(loader(adapter, examples, named), loader(adapter, outputs, named))
    return scores.detach().numpy().T, attributor.total_proj_dim * 4


def ekfac(
    adapter: Adapter, module: nn.Module, examples: list[bytes], outputs: list[bytes], folder: Path
) -> tuple[np.ndarray, int]:
    """EK-FAC influence (Grosse et al. 2023) by kronfluence: Linear and Conv2d layers."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    everything = [*examples, *outputs]
    drawn = Draws([Example(b"all batches")], "factors", ONE_BY_ONE)

    class Likelihood(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
            if not sample:
                return adapter.loss(model, batch).sum()
            with cut(model) as cuts:
                losses = adapter.loss(model, batch)
            ((z, leaf),) = cuts
            (slope,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
            flow, _ = sample_flow(leaf, slope, classes_of(leaf, slope), drawn)
            return (z * flow.detach()).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
            return adapter.loss(model, batch).sum()

    class Some(Rows):
        def __init__(self, start: int, count: int) -> None:
            super().__init__(count)
            self.start = start

        def __getitem__(self, row: int) -> int:
            return self.start + row

    task = Likelihood()
    model = prepare_model(with_linear_layers(module), task)
    analyzer = Analyzer("peer", model, task, cpu=True, output_dir=str(folder), disable_tqdm=True)
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda rows: adapter.collate([everything[r] for r in rows])))
    train, query = Some(0, len(examples)), Some(len(examples), len(outputs))
    analyzer.fit_all_factors(
        "factors", train, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy="ekfac"), overwrite_output_dir=True
    )
    analyzer.compute_pairwise_scores(
        "scores", "factors", query, train, per_device_query_batch_size=BATCH, per_device_train_batch_size=BATCH,
        score_args=ScoreArguments(), overwrite_output_dir=True,
    )  # fmt: skip
    scores = analyzer.load_pairwise_scores("scores")["all_modules"].numpy()
    # It takes the noise draws of an image, side by side in a batch, for separate examples.
    draws = scores.shape[1] // len(examples)
    return scores.reshape(len(outputs), draws, len(examples), draws).sum(axis=(1, 3)), 0


METHODS = {"trak": trak, "logra": logra, "ekfac": ekfac}


def main() -> None:
    """Run one method at each of the checkpoints and write its scores."""
    method, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(1)
    stored = json.loads((folder / "contents.json").read_text())
    examples, outputs = ([base64.b64decode(each) for each in stored[name]] for name in ("examples", "outputs"))
    model = read_model(folder / "model")
    adapter = model.adapter()
    checkpoints = [checkpoint for checkpoint in model.card.checkpoints if checkpoint.file in stored["checkpoints"]]
    total, seconds, bare, kept = np.zeros((len(outputs), len(examples))), 0.0, 0.0, 0
    for checkpoint in checkpoints:
        module = model.load(checkpoint)
        start = time.process_time()
        forward_and_backward(adapter, module, [Example(content) for content in examples], BATCH)
        bare += time.process_time() - start
        if method not in METHODS:
            continue
        start = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            scores, kept = METHODS[method](adapter, module, examples, outputs, Path(scratch))
        seconds += time.process_time() - start
        total += scores / scores.std()
    if method not in METHODS:
        import bergsons

        start = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            peer = bergsons.Bergson(model, examples, outputs, Path(scratch), seed=stored["seed"], chosen=stored["chosen"])
            total = bergsons.METHODS[method](peer, checkpoints)
        seconds = time.process_time() - start
    measured.write(folder, method, total, seconds=seconds, bare=bare, kept=kept)


if __name__ == "__main__":
    main()
