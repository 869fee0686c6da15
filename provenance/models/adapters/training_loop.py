"""Trains the built-in adapters: AdamW, linear warm-up, cosine decay, checkpoints at given parts of the run.

The same code trains the served model, counterfactual models and the models of audits, so that they differ only in their data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from provenance.core.errors import ModelError
from provenance.models.model import Adapter

# Fresh weights come from the process's global generator, and workers may be threads of one process.
SEEDING = Lock()
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        epochs: passes over the contents; they decide the number of steps.
        warmup: part of the run in which the learning rate rises.
        keep: parts of the run after which a checkpoint is saved, besides the base.
    """

    epochs: float
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: float = 0.05
    keep: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 1.0)


class Trained(Adapter, Protocol):
    """An adapter with a training recipe; `arguments` are its arguments without the recipe."""

    recipe: Recipe
    arguments: dict[str, Any]


def train_and_save(
    adapter: Trained,
    contents: int,
    mean_loss: Callable[[torch.nn.Module, list[int], torch.Generator], torch.Tensor],
    *,
    seed: int,
    folder: Path,
    model_id: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train an adapter's module from scratch and write its checkpoints and, last, `model.toml`.

    Args:
        contents: the number of contents.
        mean_loss: the loss of a batch of contents, by number, per term (token, pixel); its generator is for random numbers of
            training.
        seed: of the fresh weights, of the order of examples and of that generator.
        folder: the folder to write; the caller writes files of the architecture.
        model_id: by default the folder's name.
        progress: called after each step with the number of the step, the number of all steps, and the step's loss in nats per
            term.
    """
    recipe = adapter.recipe
    if not contents:
        raise ModelError("training", expected="at least one content", found="none")
    with SEEDING:
        torch.manual_seed(seed)
        module = adapter.module().train()
    draws = torch.Generator().manual_seed(seed)
    steps = max(1, round(recipe.epochs * contents / recipe.batch_size))
    keep_at = {max(1, round(part * steps)) for part in recipe.keep}
    parameters = list(module.parameters())
    # Fused, because steps of small models are short, and an audit trains hundreds of them.
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = [_save(module, folder, 0, 0.0)]
    queue: list[int] = []
    rate_sum = 0.0
    for step in range(1, steps + 1):
        while len(queue) < recipe.batch_size:
            queue += torch.randperm(contents, generator=draws).tolist()
        batch, queue = queue[: recipe.batch_size], queue[recipe.batch_size :]
        rate = recipe.learning_rate * schedule(step / steps, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = mean_loss(module, batch, draws)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate_sum += rate
        if step in keep_at:
            checkpoints.append(_save(module, folder, step, rate_sum))
        if progress:
            progress(step, steps, loss.item())
    training = {
        "optimizer": "adamw",
        "weight_decay": WEIGHT_DECAY,
        "batch_size": recipe.batch_size,
        "epochs": float(recipe.epochs),
    }
    card = {
        "model_id": model_id or folder.name,
        "adapter": type(adapter).__name__,
        # With the recipe, so that the model folder is enough to train the model again.
        "adapter_args": {**adapter.arguments, **asdict(recipe)},
    }
    (folder / "model.toml").write_text(_toml_text(card, training, checkpoints))


def schedule(part: float, warmup: float) -> float:
    """The learning rate at a part of the run, divided by its peak: linear warm-up, then a cosine down to 0.01.

    The end is low so that two runs that differ only in the order of examples end close to each other.
    """
    if part < warmup:
        return part / warmup
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup)))


def _save(module: torch.nn.Module, folder: Path, step: int, rate_sum: float) -> dict[str, Any]:
    name = f"step-{step:04d}.safetensors"
    tensors = dict(module.named_parameters())  # lists a tied tensor once
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / name)
    return {"file": name, "step": step, "learning_rate_sum": rate_sum}


def _toml_text(card: Mapping[str, Any], training: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """The text of `model.toml`; its strings, numbers and lists are the same in JSON and TOML."""

    def table(name: str, values: Mapping[str, Any]) -> list[str]:
        return ["", name, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]

    lines = [f"{key} = {json.dumps(card[key])}" for key in ("model_id", "adapter")]
    lines += table("[adapter_args]", card["adapter_args"]) + table("[training]", training)
    for checkpoint in checkpoints:
        lines += table("[[checkpoints]]", checkpoint)
    return "\n".join(lines) + "\n"
