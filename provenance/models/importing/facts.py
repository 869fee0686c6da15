"""Finds how a run was trained: from its arguments, the optimizer's own state and the log. What none says is not known."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from provenance.core.errors import ModelError
from provenance.models.importing.run import STATE, Run, kind_of, read_json
from provenance.models.importing.weights import read_pickle
from provenance.models.recording.facts import ADAFACTOR, group_facts, loss_of, variant

ARGUMENTS, OPTIMIZER, SCHEDULER, CARD = "training_args.bin", "optimizer.pt", "scheduler.pt", "README.md"
# The source of what the user says.
STATED = "--training"
# Names in TrainingArguments of implementations of the same AdamW.
ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_hf", "adamw_apex_fused")
# Hyperparameters by which torch's Adam and AdamW, and no other of its optimizers, are known in a state.
OF_ADAM = {"lr", "betas", "eps", "weight_decay", "amsgrad"}
NOT_OF_ADAM = {"momentum_decay", "rho", "alpha", "lambd"}
OF_SGD = {"lr", "momentum", "dampening", "nesterov"}
# The key, in what was read of a pickle, of the name of its class.
CLASS = "class"
# Arguments that change what a step minimises, with the value at which they do nothing; no training here repeats them.
UNTOLD = {"label_smoothing_factor": 0.0, "neftune_noise_alpha": None, "optim_args": None, "optim_target_modules": None}
HOW_TO_WRITE = (
    "Where you trust {path}, write its values to a file: python -c 'import torch; "
    'print(torch.load("{path}", weights_only=False).to_json_string())\' > args.json, and name it with --arguments args.json.'
)


@dataclass
class Facts:
    """What is known of the recipe, by the keys of `[training]`, each with the source that said it.

    Attributes:
        schedule_steps: steps of the whole schedule; warmup_steps: of its beginning.
        notes: what a reader should know; open: why a value is not known, by key.
        state: what the optimizer's own state is of: adam, sgd, adafactor, other; None where it was not read.
        groups: the number of parameters of each of its groups, and whether they decay.
        asked: whether the run's TrainingArguments were read; packed: whether they say that a sequence has several examples.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    open: dict[str, str] = field(default_factory=dict)
    state: str | None = None
    groups: list[tuple[int, bool]] | None = None
    asked: bool = False
    packed: bool = False
    schedule_steps: int | None = None
    warmup_steps: int | None = None

    def set(self, source: str, **values: Any) -> None:
        """Note values, unless an earlier source gave them; None is not known."""
        for name, value in values.items():
            if value is not None and name not in self.values:
                self.values[name], self.sources[name] = value, source

    def forget(self, name: str, why: str) -> None:
        """Take a value back, with the reason."""
        self.values.pop(name, None)
        self.sources.pop(name, None)
        self.open[name] = why


def read_facts(run: Run, arguments: Path | None, stated: Mapping[str, Any]) -> Facts:
    """The facts of a run.

    What ran (the optimizer's state) counts before what was asked for (the arguments), and both before the model card.

    Args:
        arguments: the JSON of its `TrainingArguments`.
        stated: what the user says, which counts first.
    """
    facts = Facts(schedule_steps=run.state.get("max_steps"))
    facts.set(STATED, **stated)
    if facts.schedule_steps and isinstance(warmup := stated.get("warmup"), int | float):
        facts.warmup_steps = round(warmup * facts.schedule_steps)
    _from_optimizer(run, facts)
    _from_scheduler(run, facts)
    given = _arguments(run, arguments, facts)
    if given:
        _from_arguments(run, facts, *given)
    if (card := run.find(CARD)) is not None:
        _from_card(facts, card, read_card(card.read_text(encoding="utf-8", errors="replace")))
    steps, epoch = run.state.get("global_step"), run.state.get("epoch")
    if steps and epoch:
        facts.set(STATE, epochs=float(epoch))
    if facts.schedule_steps and facts.warmup_steps is not None and facts.warmup_steps <= facts.schedule_steps:
        facts.set(facts.sources.get("schedule", "its arguments"), warmup=facts.warmup_steps / facts.schedule_steps)
    return facts


def _from_optimizer(run: Run, facts: Facts) -> None:
    path = run.find(OPTIMIZER)
    if path is None:
        return
    try:
        state = read_pickle(path)
        groups, moments = state["param_groups"], {key for one in state["state"].values() for key in one}
        groups = [group for group in groups if group["params"]] or groups
        rates = {group.get("initial_lr", group["lr"]) for group in groups}
        facts.groups = [(len(group["params"]), bool(group.get("weight_decay"))) for group in groups]
    except ModelError as error:
        facts.notes.append(f"{path.name} was not read: {error.found}")
        return
    except (AttributeError, KeyError, TypeError):
        facts.notes.append(f"{path.name} was not read: it is no state of a torch optimizer")
        return
    facts.state, values = state_facts(groups, moments)
    facts.set(path.name, **values)
    if values["weight_decay"] is None:
        facts.open["weight_decay"] = f"{path.name} has groups of parameters with different decays"
    if len(rates) > 1:
        facts.open["learning_rate"] = f"{path.name} has groups of parameters with different rates"
    elif all("initial_lr" in group for group in groups):
        facts.set(path.name, learning_rate=float(rates.pop()))


def _from_scheduler(run: Run, facts: Facts) -> None:
    """The peak, where the optimizer's state does not say it."""
    path = run.find(SCHEDULER)
    if path is None or "learning_rate" in facts.values or "learning_rate" in facts.open:
        return
    try:
        rates = set(read_pickle(path)["base_lrs"])
    except (ModelError, KeyError, TypeError) as error:
        facts.notes.append(
            f"{path.name} was not read: {error.found if isinstance(error, ModelError) else 'it has no base_lrs'}"
        )
        return
    if len(rates) > 1:
        facts.open["learning_rate"] = f"{path.name} has groups of parameters with different rates"
    else:
        facts.set(path.name, learning_rate=float(rates.pop()))


def state_facts(groups: list[dict[str, Any]], moments: set[str]) -> tuple[str, dict[str, Any]]:
    """What a state dict is of (adam, sgd, adafactor or other), and its hyperparameters; one of another kind gets no name.

    Args:
        groups: its `param_groups`.
        moments: names of what it keeps of each parameter.
    """
    group, facts = groups[0], group_facts(groups)
    decay, shared = facts["weight_decay"], {"weight_decay": facts["weight_decay"]}
    if group.keys() >= OF_ADAM and not group.keys() & NOT_OF_ADAM and moments <= {"step", "exp_avg", "exp_avg_sq"}:
        decoupled = group.get("decoupled_weight_decay")
        # torch before 2.7 does not note which of the two it is; without weight decay they are the same.
        name = "adamw" if decoupled or decay == 0.0 else None if decoupled is None else "adam"
        return "adam", shared | {"betas": facts["betas"], "eps": facts["eps"], "optimizer": name and variant(name, groups)}
    if group.keys() >= OF_SGD and moments <= {"momentum_buffer"}:
        return "sgd", shared | {"optimizer": variant("sgd", groups), "momentum": facts["momentum"]}
    if group.keys() >= ADAFACTOR.keys():
        return "adafactor", shared | {"optimizer": variant("adafactor", groups)}
    return "other", shared


def set_decay(facts: Facts, decayed: set[str], names: set[str]) -> None:
    """Note which parameters decay, by the sizes of the groups in the optimizer's state.

    Args:
        decayed: the trained parameters that decay by the rule of `transformers.Trainer`.
        names: all trained parameters.
    """
    if facts.groups is None or not facts.values.get("weight_decay") or "decay_all" in facts.values:
        return
    sizes = (sum(size for size, decays in facts.groups if decays), sum(size for size, decays in facts.groups if not decays))
    if not sizes[1] or sizes == (len(decayed), len(names - decayed)):
        facts.set(OPTIMIZER, decay_all=not sizes[1])
    else:
        found = f"{sizes[0]} parameters with decay and {sizes[1]} without"
        facts.open["decay_all"] = f"{OPTIMIZER} has {found}; biases and norms are {len(names - decayed)} of {len(names)}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _arguments(run: Run, given: Path | None, facts: Facts) -> tuple[dict[str, Any], str] | None:
    """The values of the run's TrainingArguments, and their source."""
    if given is not None:
        if not given.is_file():
            raise ModelError(f"--arguments {given}", expected="a JSON file of TrainingArguments", found="no such file")
        return read_json(given), given.name
    path = run.find(ARGUMENTS)
    if path is None:
        return None
    try:
        return read_arguments(path), path.name
    except ModelError as error:
        facts.notes.append(f"{path.name} was not read: {error.found}. {error.hint}")
        return None


class _Inert:
    """Stands for an object of a pickle: it keeps its values, and runs nothing."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_arguments(path: Path) -> dict[str, Any]:
    """The plain values of a pickled `TrainingArguments`, read weights-only.

    Each class that the pickle names is replaced by an inert one, so that no code of it, of transformers or of anybody runs.

    Raises:
        ModelError: it is no such pickle, or wants more than that.
    """
    hint = HOW_TO_WRITE.format(path=path)
    try:
        names = get_unsafe_globals_in_checkpoint(str(path))
        inert: list[Any] = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in names]
        with safe_globals(inert):
            read = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = " ".join(str(error).split())[:200]
        raise ModelError(str(path), expected="TrainingArguments", found=found, hint=hint) from error
    values = getattr(read, "state", None)
    if not isinstance(values, dict) or "per_device_train_batch_size" not in values:
        raise ModelError(str(path), expected="TrainingArguments", found=type(read).__name__, hint=hint)
    plain = {name: _plain(value) for name, value in values.items()} | {CLASS: type(read).__name__}
    processes = getattr(values.get("distributed_state"), "state", None)
    if isinstance(processes, dict) and isinstance(processes.get("num_processes"), int):
        plain["num_processes"] = processes["num_processes"]
    return plain


def _plain(value: Any) -> Any:
    """A value of a pickle: an enumeration is its word, and an object the dictionary of its values."""
    if isinstance(value, _Inert):
        return getattr(value, "state", None) or (value.values[0] if len(value.values) == 1 else None)
    return value


def _from_arguments(run: Run, facts: Facts, values: Mapping[str, Any], source: str) -> None:
    facts.asked = True
    name = str(values.get("optim") or "")
    if facts.state is None and name.startswith("adam"):
        facts.set(source, betas=_betas(values), eps=_number(values.get("adam_epsilon")))
    facts.set(source, optimizer=_optimizer(facts, name))
    facts.set(source, weight_decay=_number(values.get("weight_decay")) if "weight_decay" not in facts.open else None)
    facts.set(source, learning_rate=_number(values.get("learning_rate")) if "learning_rate" not in facts.open else None)
    facts.set(source, max_grad_norm=_number(values.get("max_grad_norm")), seed=values.get("seed"))
    facts.set(source, dtype="bfloat16" if values.get("bf16") else "float16" if values.get("fp16") else None)
    facts.set(source, batch_size=_batch_size(run, facts, values))
    facts.set(source, schedule=values.get("lr_scheduler_type"), schedule_args=values.get("lr_scheduler_kwargs") or None)
    drops, passes = values.get("dataloader_drop_last"), values.get("gradient_accumulation_steps")
    if drops and passes != 1:
        facts.open["last_batch"] = f"the last passes of an epoch were dropped, of {passes or 'nobody knows how many'} a step"
    else:
        facts.set(source, last_batch="drop" if drops else "short")
    facts.set(source, decay_all=False if facts.state is None else None)  # as transformers.Trainer does
    _set_warmup(facts, values, source)
    if (values.get("max_steps") or -1) < 0 and not run.state.get("epoch"):
        facts.set(source, epochs=_number(values.get("num_train_epochs")))
    facts.set(source, loss=loss_of(values.get(CLASS), values))
    best = Path(str(run.state.get("best_model_checkpoint") or "")).name
    elsewhere = best and best != run.last.name and run.last.parent == run.folder
    if values.get("load_best_model_at_end") and elsewhere and kind_of(run.folder) is None:  # or its weights say which is served
        facts.notes.append(f"{best} was the best one, but {run.last.name} is taken as served: {run.folder} has no weights.")
    others = [f"{key} = {values[key]}" for key, without in UNTOLD.items() if values.get(key, without) not in (without, "", [])]
    if others:
        facts.set(source, loss=f"the mean of a batch with {', '.join(others)}")


def _optimizer(facts: Facts, name: str) -> str | None:
    """The optimizer by its name in the arguments, unless the optimizer's state is of another kind."""
    if not name or "optimizer" in facts.values:
        return None
    kind = "adam" if name in ADAMW else name if name in ("sgd", "adafactor") else "other"
    if facts.state not in (None, kind):
        facts.open["optimizer"] = f"{OPTIMIZER} is the state of another one than {name}, which the arguments name"
        return None
    return "adamw" if kind == "adam" else name


def _betas(values: Mapping[str, Any]) -> tuple[float, float] | None:
    first, second = values.get("adam_beta1"), values.get("adam_beta2")
    return None if first is None or second is None else (float(first), float(second))


def _batch_size(run: Run, facts: Facts, values: Mapping[str, Any]) -> int | None:
    """Examples of a step: those of a device's pass, times passes, times processes."""
    one = run.state.get("train_batch_size") or values.get("train_batch_size") or values.get("per_device_train_batch_size")
    passes = values.get("gradient_accumulation_steps")
    processes = values.get("num_processes") or len(list(run.last.glob("rng_state*.pth"))) or None
    accelerator = values.get("accelerator_config")
    if isinstance(accelerator, dict) and accelerator.get("split_batches"):
        processes = 1
    if values.get("packing"):
        facts.packed = True
        facts.open["batch_size"] = "sequences were packed, so that a batch is not a number of examples"
        return None
    if one and passes and processes:
        return int(one) * int(passes) * int(processes)
    lacking = "how many processes trained" if one and passes else "how many examples one pass had"
    facts.open["batch_size"] = f"nothing says {lacking}"
    return None


def _warmup_steps(values: Mapping[str, Any], steps: int) -> int:
    """As `TrainingArguments.get_warmup_steps`: a number of steps, or a part of the run."""
    stated = float(values.get("warmup_steps") or values.get("warmup_ratio") or 0.0)
    return int(stated) if stated >= 1 else math.ceil(steps * stated)


def _set_warmup(facts: Facts, values: Mapping[str, Any], source: str) -> None:
    """Note the warm-up; without the number of all steps it is known only where it is stated as a part of them."""
    if facts.schedule_steps and facts.warmup_steps is None:
        facts.warmup_steps = _warmup_steps(values, facts.schedule_steps)
    elif not facts.schedule_steps and (part := float(values.get("warmup_steps") or values.get("warmup_ratio") or 0.0)) < 1:
        facts.set(source, warmup=part)


def read_card(text: str) -> dict[str, str]:
    """The hyperparameters that a model card by the trainer lists."""
    part = re.search(r"^### Training hyperparameters\n(.*?)(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^- (\w+): (.+)$", part[1], flags=re.MULTILINE)) if part else {}


def _from_card(facts: Facts, path: Path, values: Mapping[str, str]) -> None:
    """What a card says.

    It omits a warm-up of 0, and a total batch that is the batch of a pass; any other missing line says nothing.
    """
    source = path.name

    def number(*names: str) -> float | None:
        text = next((values[name] for name in names if name in values), "")
        return float(text) if re.fullmatch(r"[\d.]+(e-?\d+)?", text) else None

    batch, seed = number("total_train_batch_size", "train_batch_size"), number("seed")
    facts.set(
        source, batch_size=None if batch is None or facts.packed else int(batch), seed=None if seed is None else int(seed)
    )
    facts.set(source, learning_rate=number("learning_rate") if "learning_rate" not in facts.open else None)
    facts.set(source, dtype="float16" if values.get("mixed_precision_training") == "Native AMP" else None)
    if schedule := values.get("lr_scheduler_type", "").removeprefix("SchedulerType.").lower():
        facts.set(source, schedule=schedule)
        warmup = number("lr_scheduler_warmup_steps", "lr_scheduler_warmup_ratio") or 0.0
        _set_warmup(facts, {"warmup_steps": warmup}, source)
    facts.set(source, epochs=None if facts.schedule_steps else number("num_epochs"))
    # "Adam with betas=..." stood in every older card, whatever trained; only a name of TrainingArguments says which it was.
    if match := re.match(r"Use (?:OptimizerNames\.)?(\w+) ", values.get("optimizer", "")):
        facts.set(source, optimizer=_optimizer(facts, match[1].lower()))
