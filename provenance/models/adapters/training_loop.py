"""Trains modules by a recipe, and writes model folders with checkpoints at given parts of the run.

The same code trains the served model, counterfactual models and the models of audits, so that they differ only in their data.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch

from provenance.core.errors import ModelError, did_you_mean
from provenance.core.toml import validated
from provenance.models.model import BUILT_IN, Adapter, BaseFolder, Model, read_card
from provenance.models.recipe import BUILT_IN_RUN, COSINE, FACTS, RECORDED, Training
from provenance.models.writing import CARD, save_checkpoint, tensors_of, write_card

# Fresh weights and dropout come from the process's global generators, and workers may be threads of one process.
SEEDING = Lock()
# Names and layers without decay in `transformers.Trainer` (get_decay_parameter_names), whose recipe this follows.
UNDECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")


class Trained(Adapter, Protocol):
    """An adapter with a recipe; `arguments` are its arguments, and `folder` holds its files."""

    folder: Path
    recipe: Training
    arguments: dict[str, Any]


def recipe_for(folder: Path, given: Mapping[str, Any], **first: Any) -> Training:
    """The recipe of an adapter: that of its model folder or, of a first training, the built-in one.

    Args:
        given: keys of the recipe that the adapter's constructor was given; with any, it is a first training.
        first: the adapter's own values of a first training.
    """
    if unknown := next((name for name in given if name not in Training.model_fields), None):
        hint = did_you_mean(unknown, Training.model_fields)
        raise TypeError(f"unexpected keyword argument {unknown!r}" + (f". {hint}" if hint else ""))
    if not given and (folder / CARD).is_file():
        return read_card(folder, least=1).training
    return validated(Training, {**BUILT_IN_RUN, **first, **given}, "recipe", ModelError)


def in_order(contents: Sequence[bytes], prompts: Sequence[bytes | None] | None = None) -> list[int]:
    """The numbers of contents in an order that does not depend on the one in which they were given.

    So a training is a function of recipe, works and seed, wherever they come from.
    """
    asked: Sequence[bytes | None] = prompts or [None] * len(contents)
    return sorted(range(len(contents)), key=lambda row: (contents[row], asked[row] is not None, asked[row] or b""))


def train_and_save(
    adapter: Trained,
    contents: int,
    loss: Callable[[torch.nn.Module, list[int], torch.Generator], tuple[torch.Tensor, int]],
    *,
    seed: int,
    folder: Path,
    model_id: str = "",
    device: str = "cpu",
    batches: Iterable[Sequence[int]] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train an adapter's module by its recipe, and write the checkpoints and, last, `model.toml`.

    Args:
        contents: the number of contents.
        loss: the summed loss of contents, by number, and the number of its terms (tokens, pixels); its generator is for random
            numbers of training.
        seed: of fresh weights, dropout, the order of contents and that generator.
        folder: the folder to write; the caller writes files of the architecture.
        model_id: by default the folder's name.
        batches: the contents of each step, to repeat the order of another run; by default drawn with the seed.
        progress: called after each step with the number of the step, the number of all steps, and the step's loss in nats per
            term.

    Raises:
        ModelError: there is no content, or the recipe lacks something.
    """
    recipe = adapter.recipe
    recipe.check(str(adapter.folder / CARD))
    if not contents:
        raise ModelError("training", expected="at least one content", found="none")
    draws = torch.Generator().manual_seed(seed)
    planned = list(batches) if batches is not None else list(_batches(recipe, contents, draws))
    rates = rates_of(recipe, len(planned))
    with SEEDING:
        torch.manual_seed(seed)
        module, first = _start(adapter, recipe)
        random = _RandomState(device)
    module = module.to(device).train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    base: Path | None = getattr(adapter, "base", None)
    if recipe.dtype == "bfloat16_weights":
        # No buffers, because angles of positions need more; and no base, which other modules share and whose dtype is its own.
        for parameter in module.parameters() if base is None else trained:
            if parameter.is_floating_point():
                parameter.data = parameter.data.bfloat16()
    optimizer = _optimizer(module, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints: list[dict[str, Any]] = []

    def save(step: int) -> None:
        if step == 0 and first is not None:
            name = first.name
            if not (folder / name).exists() or not (folder / name).samefile(first):
                shutil.copyfile(first, folder / name)
        else:
            name = save_checkpoint(tensors_of(module, trained_only=base is not None), folder, step)
        checkpoints.append({"file": name, "step": step, "learning_rate_sum": math.fsum(rates[:step])})

    save(0)
    keep_at = {max(1, round(part * len(planned))) for part in recipe.keep or ()} | {len(planned)}
    for step, (batch, rate) in enumerate(zip(planned, rates, strict=True), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with random.kept():
            mean = _backward(lambda rows: loss(module, rows, draws), list(batch), trained, recipe, device)
        if recipe.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
        optimizer.step()
        if step in keep_at:
            save(step)
        if progress:
            progress(step, len(planned), mean)
    kind = type(adapter)
    card = {
        "model_id": model_id or folder.name,
        "adapter": kind.__name__ if kind.__name__ in BUILT_IN else f"{kind.__module__}:{kind.__qualname__}",
        "adapter_args": adapter.arguments,
    }
    training = recipe.model_dump(mode="json", exclude={*FACTS, "command"}, exclude_none=True) | {"seed": seed}
    known = read_card(adapter.folder, least=1) if (adapter.folder / CARD).is_file() else None
    if known and known.freeze:
        card["freeze"] = list(known.freeze)
    # As the model's own card names it, so that a retraining has the same one on every machine.
    stands_on = known.base.model_dump() if known and known.base else None if base is None else {"folder": str(base.resolve())}
    write_card(folder, card, training, checkpoints, base=stands_on)


def _start(adapter: Trained, recipe: Training) -> tuple[torch.nn.Module, Path | None]:
    """The module before its first step, and the file of its checkpoint if it has one."""
    if recipe.start == "fresh":
        return adapter.module(), None
    card = read_card(adapter.folder, least=1)
    first = card.checkpoints[0]
    base: Path | None = getattr(adapter, "base", None)
    return Model(adapter.folder, card, {}, BaseFolder(base, {}) if base else None).load(first), adapter.folder / first.file


def _backward(
    loss: Callable[[list[int]], tuple[torch.Tensor, int]],
    batch: list[int],
    trained: Sequence[torch.nn.Parameter],
    recipe: Training,
    device: str,
) -> float:
    """Compute the gradient of the mean over all terms of a batch, in passes that fit into memory; returns the mean."""
    size = recipe.micro_batch_size or len(batch)
    total, terms = 0.0, 0
    for start in range(0, len(batch), size):
        with torch.autocast(device, torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext():
            summed, count = loss(batch[start : start + size])
        # One pass needs no second look at the gradients.
        (summed / count if size >= len(batch) else summed).backward()
        total, terms = total + summed.item(), terms + count
    if size < len(batch):
        torch._foreach_div_([parameter.grad for parameter in trained if parameter.grad is not None], float(terms))
    return total / terms


def _batches(recipe: Training, contents: int, draws: torch.Generator) -> Iterator[list[int]]:
    """The contents of each step, in a new random order each epoch."""
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    size = recipe.batch_size
    if recipe.last_batch == "across":
        queue: list[int] = []
        for _ in range(max(1, round(recipe.epochs * contents / size))):
            while len(queue) < size:
                queue += torch.randperm(contents, generator=draws).tolist()
            yield queue[:size]
            queue = queue[size:]
        return
    steps = max(1, contents // size) if recipe.last_batch == "drop" else math.ceil(contents / size)
    left = max(1, math.ceil(recipe.epochs * steps - 1e-6))  # epochs may be a quotient of steps
    while left:
        order = torch.randperm(contents, generator=draws).tolist()
        for step in range(min(steps, left)):
            yield order[step * size : (step + 1) * size]
        left -= min(steps, left)


def rates_of(recipe: Training, steps: int) -> list[float]:
    """The learning rate of each step."""
    assert recipe.learning_rate is not None
    peak = recipe.learning_rate
    if recipe.schedule == COSINE:
        return [peak * schedule(step / steps, recipe.warmup or 0.0) for step in range(1, steps + 1)]
    if recipe.schedule == RECORDED:
        assert recipe.rates is not None
        places = np.linspace(0, 1, len(recipe.rates))
        return [peak * part for part in np.interp(np.linspace(0, 1, steps), places, recipe.rates).tolist()]
    warmup = round((recipe.warmup or 0.0) * steps)
    rate = rate_by_name(str(recipe.schedule), peak, warmup, steps, recipe.schedule_args)
    return [rate(step) for step in range(steps)]


def rate_by_name(
    name: str, peak: float, warmup: int, steps: int, arguments: Mapping[str, Any] | None = None
) -> Callable[[int], float]:
    """The learning rate by the number of a step, from 0 on, of a schedule of `transformers`.

    Args:
        peak: some schedules end at a rate of their own, which is no part of it.
        warmup, steps: steps of the warm-up, and of the whole run.

    Raises:
        ModelError: the schedule does not take the arguments.
    """
    from transformers import get_scheduler

    unit = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    expected = f"arguments of the schedule {name!r}"

    def rate(step: int) -> float:
        try:
            return peak * float(part(step))
        except ArithmeticError as error:
            raise ModelError("[training]: schedule_args", expected=expected, found=str(error)) from error

    try:
        part = get_scheduler(name, unit, warmup, steps, dict(arguments or {})).lr_lambdas[0]
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ModelError("[training]: schedule_args", expected=expected, found=str(error)) from error
    return rate


def schedule(part: float, warmup: float) -> float:
    """`cosine_to_1_percent` at a part of the run: linear warm-up, then a cosine down to 0.01 of the peak.

    The end is low so that two runs that differ only in the order of examples end close to each other.
    """
    if part < warmup:
        return part / warmup
    return 0.01 + 0.495 * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup)))


def _optimizer(module: torch.nn.Module, recipe: Training) -> torch.optim.Optimizer:
    groups: Any = _groups(module, recipe)
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in {"adamw", "adam"}:
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        # Fused, because steps of small models are short, and an audit trains hundreds of them.
        return kind(groups, **options | recipe.model_dump(include={"betas", "eps"}), fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, **options | recipe.model_dump(include={"momentum"}))
    from transformers import Adafactor

    adafactor: torch.optim.Optimizer = Adafactor(groups, **options, scale_parameter=False, relative_step=False)
    return adafactor


def _groups(module: torch.nn.Module, recipe: Training) -> list[dict[str, Any]]:
    """The parameters that train, with and without decay."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not recipe.weight_decay or recipe.decay_all:
        return [{"params": [parameter for _, parameter in trained]}]
    decayed = decayed_names(module)
    return [
        {"params": [parameter for name, parameter in trained if name in decayed]},
        {"params": [parameter for name, parameter in trained if name not in decayed], "weight_decay": 0.0},
    ]


def decayed_names(module: torch.nn.Module) -> set[str]:
    """Names of the parameters that decay by the rule of `transformers.Trainer`: neither biases nor norms."""
    from transformers.trainer_pt_utils import get_parameter_names

    return set(get_parameter_names(module, [torch.nn.LayerNorm], list(UNDECAYED)))


class _RandomState:
    """The state of the global generators between the steps of one training, if its module draws from them (dropout)."""

    def __init__(self, device: str) -> None:
        self.cuda, self.used, self.first = device.startswith("cuda"), True, True
        self.states = self._get()

    def _get(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if self.cuda else [])]

    def kept(self) -> Any:
        """A context in which the global generators go on from the last step; free of cost for modules that do not draw."""
        return self if self.used else nullcontext()

    def __enter__(self) -> None:
        SEEDING.acquire()
        torch.set_rng_state(self.states[0])
        if self.cuda:
            torch.cuda.set_rng_state(self.states[1])

    def __exit__(self, *_: object) -> None:
        states = self._get()
        SEEDING.release()
        self.used = not self.first or any(not torch.equal(*pair) for pair in zip(self.states, states, strict=True))
        self.states, self.first = states, False
