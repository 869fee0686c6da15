"""What a run says of its recipe: by its optimizer, its trainer's arguments, and what was noted of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from provenance.models.recipe import OPTIMIZERS, RECORDED, SCHEDULES, Training
from provenance.models.recording.modules import plain

# Learning rates that describe a schedule without a name.
MOST_RATES = 256
# The one kind of Adafactor that a model is trained again with: of `transformers`, as its trainer has it.
ADAFACTOR = {
    "eps": (1e-30, 1e-3), "clip_threshold": 1.0, "decay_rate": -0.8, "beta1": None, "scale_parameter": False,
    "relative_step": False, "warmup_init": False,
}  # fmt: skip
# Arguments of trainers that minimise the mean likelihood of a batch, and values of others, such as those of preferences.
LIKELIHOOD = ("TrainingArguments", "Seq2SeqTrainingArguments", "SFTConfig")
OF_OTHER_LOSSES = ("beta", "center_rewards_coefficient", "reward_weights")
# What happens at the end of an epoch, where no key of the recipe says it.
UNTOLD = "untold"


def optimizer_facts(optimizer: Any, module: torch.nn.Module) -> dict[str, Any]:
    """What an optimizer says of the recipe; what differs between its groups of parameters is None: not known."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    kind, groups = type(optimizer), [group for group in optimizer.param_groups if group["params"]]
    facts = group_facts(groups)
    name = kind.__name__.lower()
    if name in OPTIMIZERS and kind.__module__.partition(".")[0] != ("transformers" if name == "adafactor" else "torch"):
        name = f"{kind.__module__}.{kind.__name__}"  # of that name alone
    elif name == "adam" and all(group.get("decoupled_weight_decay") for group in groups):
        name = "adamw"
    facts["optimizer"] = variant(name, groups)
    facts["decay_all"] = _decay_all(groups, module) if facts["weight_decay"] else None
    return facts


def group_facts(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an optimizer's groups of parameters say of the recipe, those that have any; None for what differs between them."""
    groups = [group for group in groups if group["params"]]

    def one(name: str) -> Any:
        values = {
            tuple(value) if isinstance(value, list) else value for group in groups if (value := group.get(name)) is not None
        }
        return values.pop() if len(values) == 1 else None

    decays = {float(group.get("weight_decay", 0.0)) for group in groups}
    rates = {float(group.get("initial_lr", group["lr"])) for group in groups}
    eps, momentum = one("eps"), one("momentum")
    return {
        "betas": one("betas"),
        "eps": eps if isinstance(eps, float) else None,
        "momentum": None if momentum is None else float(momentum),
        "weight_decay": max(decays) if len(decays - {0.0}) < 2 else None,
        # Zero for several.
        "learning_rate": rates.pop() if len(rates) == 1 else 0.0,
    }


def variant(name: str, groups: Sequence[Mapping[str, Any]]) -> str:
    """The name of an optimizer with what a plain name does not say."""
    if name == "adafactor":
        others = {key: group[key] for group in groups for key, usual in ADAFACTOR.items() if _plain(group[key]) != usual}
        return " with ".join([name, *([", ".join(f"{key} = {value}" for key, value in others.items())] if others else [])])
    for flag in ("amsgrad", "maximize", "nesterov", "dampening"):
        if any(group.get(flag) for group in groups):
            name = f"{name}_{flag}"
    return name


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
        # With gradients of several passes a trainer drops the last pass, not the last step.
        "last_batch": "short" if not args.dataloader_drop_last else UNTOLD if args.gradient_accumulation_steps > 1 else "drop",
        "schedule": getattr(args.lr_scheduler_type, "value", str(args.lr_scheduler_type)),
        "schedule_args": dict(args.lr_scheduler_kwargs or {}) or None,
        "warmup": args.get_warmup_steps(state.max_steps) / state.max_steps,
    }
    loss = loss_of(type(args).__name__, vars(args))
    if loss is not None:
        facts["loss"] = loss
    elif args.label_smoothing_factor:
        facts["loss"] = f"label smoothing {args.label_smoothing_factor}"
    elif getattr(args, "neftune_noise_alpha", None):
        facts["loss"] = f"noise in embeddings {args.neftune_noise_alpha}"
    return facts


def loss_of(kind: str | None, values: Mapping[str, Any]) -> str | None:
    """What a trainer minimises by the class of its arguments, or by their values where that is not known; None: a mean."""
    if kind is not None and kind not in LIKELIHOOD:
        return f"that of a trainer with {kind}"
    told = [key for key in OF_OTHER_LOSSES if kind is None and values.get(key) is not None]
    told += ["loss_type"] if values.get("loss_type") not in (None, "", "nll") else []
    return f"that of a trainer with {', '.join(f'{key} = {values[key]}' for key in told)}" if told else None


def untrained(module: torch.nn.Module, optimizer: Any = None) -> list[str]:
    """Names of the parameters that do not train: frozen, or none of the optimizer's."""
    named = dict(module.named_parameters())
    held = {id(parameter) for group in (optimizer.param_groups if optimizer else ()) for parameter in group["params"]}
    mine = held & {id(parameter) for parameter in named.values()}  # under wrappers it may have others instead
    return [plain(name) for name, one in named.items() if not one.requires_grad or (mine and id(one) not in mine)]


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
    """Batch size, epochs and the end of an epoch, from what was in the batches; None for what they do not say.

    Args:
        count: the number of different examples.
        last: what happens at the end of an epoch, where it is known.
    """
    size, epochs = max(map(len, batches)), sum(map(len, batches)) / count
    if sum(len(batch) != size for batch in batches) > math.ceil(epochs):  # more than the last one of each epoch
        return {"batch_size": None, "last_batch": None, "epochs": epochs}
    if last == UNTOLD:
        return {"batch_size": size, "last_batch": None, "epochs": epochs}
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
    # A warm-up that is longer than the run is no part of it.
    if stated["schedule"] in SCHEDULES and (stated["warmup"] or 0.0) <= 1.0:
        named = {**unknown, **stated, "learning_rate": facts["learning_rate"]}
        if np.allclose(rates_of(Training.model_validate(named), len(rates)), rates, rtol=1e-6, atol=1e-9 * peak):
            return named
    if min(rates) == max(rates):
        return {**unknown, "learning_rate": rates[0], "schedule": "constant"}
    parts = np.asarray(rates) / peak
    if len(parts) > MOST_RATES:
        parts = np.interp(np.linspace(0, 1, MOST_RATES), np.linspace(0, 1, len(parts)), parts)
    return {**unknown, "learning_rate": peak, "schedule": RECORDED, "rates": parts.tolist()}
