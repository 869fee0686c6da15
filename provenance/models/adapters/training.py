"""How the built-in adapters train: AdamW, linear warm-up, cosine decay, checkpoints at given parts of the run.

The same code trains the model that is paid for and the models of a retraining audit, so that they differ by data alone.
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

# Fresh weights are drawn from the process's one generator; workers may be threads of one process.
SEEDING = Lock()
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        epochs: passes over the contents; the number of steps follows from it.
        warmup: part of the run in which the learning rate rises.
        keep: parts of the run at which a checkpoint is kept, besides its base.
    """

    epochs: float
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup: float = 0.05
    keep: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 1.0)


class Trained(Adapter, Protocol):
    """An adapter that is trained by a recipe; `arguments` are its own, besides the recipe's."""

    recipe: Recipe
    arguments: dict[str, Any]


def train_and_save(
    adapter: Trained,
    contents: Sequence[bytes],
    mean_loss: Callable[[torch.nn.Module, list[bytes], torch.Generator], torch.Tensor],
    *,
    seed: int,
    folder: Path,
    model_id: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train an adapter's module from scratch and write its checkpoints and, last, `model.toml`.

    Args:
        mean_loss: the loss of a batch per term (token, number), with a generator for what training draws at random.
        seed: of the fresh weights, of the order of examples and of that generator.
        folder: written to; files of the architecture are the caller's.
        model_id: by default the folder's name.
        progress: called after each step with the steps done, all steps, and the step's loss in nats per term.
    """
    recipe = adapter.recipe
    if not contents:
        raise ModelError("training", expected="at least one content", found="none")
    with SEEDING:
        torch.manual_seed(seed)
        module = adapter.module().train()
    draws = torch.Generator().manual_seed(seed)
    steps = max(1, round(recipe.epochs * len(contents) / recipe.batch_size))
    keep_at = {max(1, round(part * steps)) for part in recipe.keep}
    parameters = list(module.parameters())
    # Fused: an audit trains hundreds of small models, whose steps are short.
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = [_save(module, folder, 0, 0.0)]
    queue: list[int] = []
    rate_sum = 0.0
    for step in range(1, steps + 1):
        while len(queue) < recipe.batch_size:
            queue += torch.randperm(len(contents), generator=draws).tolist()
        chosen, queue = queue[: recipe.batch_size], queue[recipe.batch_size :]
        rate = recipe.learning_rate * schedule(step / steps, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = mean_loss(module, [contents[i] for i in chosen], draws)
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
        # The recipe, too, so that who reads a model folder can train its like.
        "adapter_args": {**adapter.arguments, **asdict(recipe)},
    }
    (folder / "model.toml").write_text(_toml(card, training, checkpoints))


def schedule(part: float, warmup: float) -> float:
    """The learning rate at a part of the run, of its peak: linear warm-up, then a cosine down to a hundredth.

    So far down, because two runs that differ by the order of examples alone should end close to each other.
    """
    if part < warmup:
        return part / warmup
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup)))


def _save(module: torch.nn.Module, folder: Path, step: int, rate_sum: float) -> dict[str, Any]:
    name = f"step-{step:04d}.safetensors"
    tensors = dict(module.named_parameters())  # a tied tensor is listed, and so saved, once
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / name)
    return {"file": name, "step": step, "learning_rate_sum": rate_sum}


def _toml(card: Mapping[str, Any], training: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """The model card. JSON spells the strings, numbers and lists in it as TOML does."""

    def table(name: str, values: Mapping[str, Any]) -> list[str]:
        return ["", name, *(f"{key} = {json.dumps(value)}" for key, value in values.items())]

    lines = [f"{key} = {json.dumps(card[key])}" for key in ("model_id", "adapter")]
    lines += table("[adapter_args]", card["adapter_args"]) + table("[training]", training)
    for checkpoint in checkpoints:
        lines += table("[[checkpoints]]", checkpoint)
    return "\n".join(lines) + "\n"
