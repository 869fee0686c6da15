"""Writes model folders: checkpoints, and `model.toml` last. Import-light: scripts that train load this module."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CARD, MANIFEST = "model.toml", "manifest.json"
# How far a recording came, until it ends; and the order in which the run saw its examples.
UNFINISHED, RUN = "unfinished.json", "run.jsonl"


def tensors_of(module: torch.nn.Module, *, trained_only: bool = False) -> dict[str, torch.Tensor]:
    """All parameters and persistent buffers of a module, each once; or only the parameters that train."""
    parameters = dict(module.named_parameters())  # lists a tied tensor once
    if trained_only:
        return {name: value.detach() for name, value in parameters.items() if value.requires_grad}
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    buffers = {name: value for name, value in module.state_dict().items() if name not in names}
    return {name: value.detach() for name, value in (parameters | buffers).items()}


def save_checkpoint(tensors: Mapping[str, torch.Tensor], folder: Path, step: int) -> str:
    """Write tensors as the checkpoint of a step, whole or not at all; returns the file's name."""
    from safetensors.torch import save_file

    name = f"step-{step:04d}.safetensors"
    aside = folder / f".{name}"
    save_file({key: value.contiguous() for key, value in tensors.items()}, aside)
    aside.replace(folder / name)
    return name


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(data)
    aside.replace(path)


def write_card(
    folder: Path,
    card: Mapping[str, Any],
    training: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]],
    *,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Write `model.toml`.

    Args:
        card: `model_id`, `adapter` and `adapter_args`, and `freeze` if something is frozen.
        base: the `folder` of the frozen weights that an adapter stands on, and their `digest` if it is to be checked.
    """
    lines = [f"{key} = {_value(card[key])}" for key in ("model_id", "adapter", "freeze") if key in card]
    lines += _table("[adapter_args]", card["adapter_args"]) + _table("[training]", training)
    lines += _table("[base]", base) if base is not None else []
    for checkpoint in checkpoints:
        lines += _table("[[checkpoints]]", checkpoint)
    write_whole(folder / CARD, ("\n".join(lines) + "\n").encode())


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    return ["", name, *(f"{key} = {_value(value)}" for key, value in values.items() if value is not None)]


def _value(value: object) -> str:
    """A value in TOML; strings, numbers and lists are the same in JSON."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)
