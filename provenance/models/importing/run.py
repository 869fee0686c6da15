"""Finds what the folder of a training run holds: checkpoints in order, and the state that the trainer left beside them."""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from provenance.core.errors import ModelError

STATE = "trainer_state.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# What a trainer leaves where it saved only a part of the weights on each process, and the tool that joins the parts.
IN_PARTS = {
    "pytorch_model_fsdp_0": "Join its parts first: accelerate merge-weights CHECKPOINT/pytorch_model_fsdp_0 CHECKPOINT.",
    "zero_to_fp32.py": "Join its parts first: python zero_to_fp32.py . . --safe_serialization, in that folder.",
}

Kind = Literal["full", "adapter"]


@dataclass(frozen=True)
class Saved:
    """A folder with the weights after a step; `step` is None where nothing says it, `state` is its `trainer_state.json`."""

    folder: Path
    step: int | None
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A training run as it lies on disk.

    Attributes:
        kind: `adapter` where checkpoints hold a LoRA adapter alone.
        saved: checkpoints in training order.
        state: the last `trainer_state.json`; empty if there is none.
        notes: what was left out, and why.
    """

    folder: Path
    kind: Kind
    saved: tuple[Saved, ...]
    state: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> Path:
        """The folder of the weights that are served."""
        return self.saved[-1].folder

    def find(self, *names: str) -> Path | None:
        """The first file of these names, in the last checkpoint or in the run's own folder."""
        paths = (folder / name for folder in (self.last, self.folder) for name in names)
        return next((path for path in paths if path.is_file()), None)


def read_run(folder: Path) -> Run:
    """What a folder holds: a trainer's output, one checkpoint of it, or a model that was saved alone.

    Raises:
        ModelError: no weights, weights in parts, or weights that belong to no step.
    """
    if not folder.is_dir():
        raise ModelError(str(folder), expected="the folder of a training run", found="no such folder")
    saved = [
        Saved(path, int(match[1]), read_state(path))
        for path in folder.iterdir()
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    saved.sort(key=lambda each: each.step or 0)
    kinds = [_kind(each.folder) for each in saved]
    own = kind_of(folder)
    state: Mapping[str, Any] = read_state(folder)
    if not saved:
        if own is None:
            raise _no_weights(folder)
        step = state.get("global_step")
        return Run(folder, own, (Saved(folder, step, state),), state)
    if len(set(kinds)) > 1:
        found = ", ".join(f"{each.folder.name}: {kind}" for each, kind in zip(saved, kinds, strict=True))
        raise ModelError(str(folder), expected="checkpoints of one kind, whole models or adapters", found=found)
    state = state or saved[-1].state
    if own is None:
        return Run(folder, kinds[0], tuple(saved), state)
    if own != kinds[0]:
        note = f"{folder} itself holds a model of another kind (an adapter merged into its base, for example); it was left out."
        return Run(folder, kinds[0], tuple(saved), state, (note,))
    return _with_final(folder, kinds[0], saved, state)


def _with_final(folder: Path, kind: Kind, saved: list[Saved], state: Mapping[str, Any]) -> Run:
    """The run with the weights of its own folder in their place among the checkpoints."""
    for number in range(len(saved) - 1, -1, -1):
        if _same_weights(folder, saved[number].folder):
            left_out = [each.folder.name for each in saved[number + 1 :]]
            kept = tuple(saved[: number + 1])
            if not left_out:
                return Run(folder, kind, kept, state)
            note = f"The run ends with the weights of {kept[-1].folder.name} (the best ones); left out: {', '.join(left_out)}."
            return Run(folder, kind, kept, kept[-1].state or state, (note,))
    last = saved[-1].step or 0
    step = max(read_state(folder).get("global_step") or 0, saved[-1].state.get("max_steps") or 0)
    if step <= last:
        raise ModelError(
            str(folder),
            expected="weights of one of its checkpoints, or of a later step",
            found=f"others, and the run ended with step {last}",
            hint=f"Import {saved[-1].folder} alone, or move the weights in {folder} away.",
        )
    note = f"The weights in {folder} itself are those of no checkpoint; they are taken for the end of the run, step {step}."
    return Run(folder, kind, (*saved, Saved(folder, step, state)), state, (note,))


def kind_of(folder: Path) -> Kind | None:
    """What the weights in a folder are; None for none."""
    if any((folder / name).is_file() for name in ADAPTER):
        return "adapter"
    return "full" if any((folder / name).is_file() for name in WHOLE) else None


def _kind(folder: Path) -> Kind:
    kind = kind_of(folder)
    if kind is None:
        raise _no_weights(folder)
    return kind


def _no_weights(folder: Path) -> ModelError:
    hint = next((hint for name, hint in IN_PARTS.items() if (folder / name).exists()), "")
    expected = f"weights: {', '.join(WHOLE[:2])} or {ADAPTER[0]}, or checkpoint-* folders with them"
    return ModelError(str(folder), expected=expected, found="parts of processes" if hint else "none", hint=hint)


def _same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of weights, byte for byte."""
    names = sorted(
        path.name for path in one.iterdir() if re.fullmatch(r"(adapter_|pytorch_)?model.*\.(safetensors|bin)", path.name)
    )
    return (
        bool(names)
        and all((other / name).is_file() for name in names)
        and not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
    )


def read_state(folder: Path) -> dict[str, Any]:
    """The folder's `trainer_state.json`; empty if there is none."""
    return read_json(folder / STATE) if (folder / STATE).is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(str(path), expected="JSON", found=str(error)) from error
    if not isinstance(values, dict):
        raise ModelError(str(path), expected="a JSON object", found=type(values).__name__)
    return values
