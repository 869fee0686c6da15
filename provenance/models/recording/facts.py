"""What a run says of its recipe: by its optimizer, its trainer's arguments, and what was noted of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from provenance.models.recipe import RECORDED, SCHEDULES, Training
from provenance.models.recording.modules import plain

# Learning rates that describe a schedule without a name.
MOST_RATES = 256


def optimizer_facts(optimizer: Any, module: torch.nn.Module) -> dict[str, Any]:
    """What an optimizer says of the recipe; what differs between its groups of parameters is None: not known."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    groups = [group for group in optimizer.param_groups if group["params"]]

    def one(name: str) -> Any:
        values = {
            tuple(value) if isinstance(value, list) else value for group in groups if (value := group.get(name)) is not None
        }
        return values.pop() if len(values) == 1 else None

    name = type(optimizer).__name__.lower()
    if name == "adam" and one("decoupled_weight_decay"):
        name = "adamw"
    # Variants that a plain name does not say.
    for flag in ("amsgrad", "maximize", "nesterov", "dampening", "scale_parameter", "relative_step"):
        if any(group.get(flag) for group in groups):
            name = f"{name}_{flag}"
    decays = {float(group.get("weight_decay", 0.0)) for group in groups}
    decay = max(decays) if len(decays - {0.0}) < 2 else None
    rates = {float(group.get("initial_lr", group["lr"])) for group in groups}
    return {
        "optimizer": name,
        "betas": one("betas"),
        "eps": one("eps") if isinstance(one("eps"), float) else None,
        "momentum": one("momentum"),
        "weight_decay": decay,
        "decay_all": _decay_all(groups, module) if decay else None,
        # Zero for several.
        "learning_rate": rates.pop() if len(rates) == 1 else 0.0,
    }


def _decay_all(groups: Sequence[Mapping[str, Any]], module: torch.nn.Module) -> bool | None:
    """Whether all parameters decay, or all but biases and norms; None for another choice."""
    from provenance.models.adapters.training_loop import decayed_names

    names = {id(parameter): plain(name) for name, parameter in module.named_parameters() if parameter.requires_grad}
    decayed = {names.get(id(parameter)) for group in groups if group["weight_decay"] for parameter in group["params"]}
    if decayed == set(names.values()):
        return True
    by_rule = {plain(name) for name in decayed_names(module)} & set(names.values())
    return False if decayed == by_rule else None


def trainer_facts(args: Any, state: Any, module: torch.nn.Module) -> dict[str, Any]:
    """What a trainer's arguments say of the recipe."""
    facts: dict[str, Any] = {
        "seed": args.seed,
        "max_grad_norm": float(args.max_grad_norm or 0.0),
        "dtype": dtype_of(module, "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"),
        "last_batch": "drop" if args.dataloader_drop_last else "short",
        "schedule": getattr(args.lr_scheduler_type, "value", str(args.lr_scheduler_type)),
        "schedule_args": dict(args.lr_scheduler_kwargs or {}) or None,
        "warmup": args.get_warmup_steps(state.max_steps) / state.max_steps,
    }
    if args.label_smoothing_factor:
        facts["loss"] = f"label smoothing {args.label_smoothing_factor}"
    elif getattr(args, "neftune_noise_alpha", None):
        facts["loss"] = f"noise in embeddings {args.neftune_noise_alpha}"
    return facts


def dtype_of(module: torch.nn.Module, autocast: str = "") -> str:
    """The dtype of a run: of its trained weights and, where that is not given, of the autocast in force."""
    weights = {parameter.dtype for parameter in module.parameters() if parameter.requires_grad}
    if weights == {torch.bfloat16}:
        return "bfloat16_weights"
    if weights != {torch.float32}:
        return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in weights)) + " weights"
    device = next(module.parameters()).device.type
    if not autocast and torch.is_autocast_enabled(device):
        autocast = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
    return autocast or "float32"


def order_facts(batches: Sequence[Sequence[int]], count: int, last: str | None) -> dict[str, Any]:
    """Batch size, epochs and the end of an epoch, from what was in the batches.

    Args:
        count: the number of different examples.
        last: what happens at the end of an epoch, where it is known.
    """
    size = max(map(len, batches))
    if last is None:
        first = {row for batch in batches[: -(-count // size)] for row in batch}
        short = any(len(batch) < size for batch in batches) or count % size == 0
        last = "short" if short else "across" if len(first) == count else "drop"
    steps = count / size if last == "across" else max(1, count // size if last == "drop" else -(-count // size))
    return {"batch_size": size, "last_batch": last, "epochs": len(batches) / steps}


def schedule_facts(rates: Sequence[float], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The schedule: by its stated name if that gives the rates of the run, or else by the rates."""
    from provenance.models.adapters.training_loop import rates_of

    peak = facts["learning_rate"] and max(facts["learning_rate"], *rates)
    unknown: dict[str, Any] = dict.fromkeys(("learning_rate", "schedule", "schedule_args", "warmup", "rates"))
    if not peak:  # groups of parameters have several rates
        return unknown
    stated = {name: facts.get(name) for name in ("schedule", "schedule_args", "warmup")}
    if stated["schedule"] in SCHEDULES:
        named = {**unknown, **stated, "learning_rate": facts["learning_rate"]}
        if np.allclose(rates_of(Training.model_validate(named), len(rates)), rates, rtol=1e-6, atol=1e-9 * peak):
            return named
    if min(rates) == max(rates):
        return {**unknown, "learning_rate": rates[0], "schedule": "constant"}
    parts = np.asarray(rates) / peak
    if len(parts) > MOST_RATES:
        parts = np.interp(np.linspace(0, 1, MOST_RATES), np.linspace(0, 1, len(parts)), parts)
    return {**unknown, "learning_rate": peak, "schedule": RECORDED, "rates": parts.tolist()}
