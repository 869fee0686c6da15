"""The modules of a run, under whatever wrappers they train: their names, their state, and the files that describe them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from provenance.core.errors import ModelError
from provenance.models.writing import tensors_of


def _bare(module: torch.nn.Module) -> torch.nn.Module:
    """A module without the wrappers of DDP and of the compiler."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, torch.nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module whose names checkpoints have; of a model of `peft`, the one that its adapters were put into."""
    bare = _bare(module)
    base: Any = getattr(bare, "base_model", None)
    inner: torch.nn.Module = base.model if adapter_config(module) is not None and hasattr(base, "prefix") else bare
    return inner


def adapter_config(module: torch.nn.Module) -> Any:
    """The configuration of the adapter of `peft` in a module; None without one."""
    configs = getattr(_bare(module), "peft_config", None)
    if not configs:
        return None
    if set(configs) != {"default"}:
        raise ModelError("recording", expected="one adapter, named 'default'", found=", ".join(map(repr, configs)))
    return configs["default"]


def base_folder(module: torch.nn.Module, given: Path | None) -> Path:
    """The folder of the frozen weights that an adapter stands on."""
    named = given or getattr(adapter_config(module), "base_model_name_or_path", None)
    if named is None or not (Path(named) / "config.json").is_file():
        hint = "Save the model before the adapter is put in (save_pretrained), and name the folder: base=FOLDER."
        expected = "the folder of the frozen weights that the adapter stands on"
        raise ModelError("recording: base", expected=expected, found=repr(None if named is None else str(named)), hint=hint)
    return Path(named)


def save_files(module: torch.nn.Module, inner: torch.nn.Module, tokenizer: Any, files: Sequence[Path], out: Path) -> None:
    """Write what the adapter reads besides weights."""
    parts: list[Any] = [getattr(inner, "config", None), tokenizer, adapter_config(module)]
    for part in parts:
        if hasattr(part, "save_pretrained"):
            part.save_pretrained(out)
    for file in files:
        shutil.copyfile(file, out / file.name)


def state_of(module: torch.nn.Module, inner: torch.nn.Module, *, trained_only: bool, wanted: bool) -> dict[str, torch.Tensor]:
    """A copy of the weights on the CPU, whole; empty where it is not wanted. Under FSDP every process calls it."""
    if not _is_sharded(module):
        tensors = tensors_of(inner, trained_only=trained_only) if wanted else {}
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    gathered: dict[str, Any] = {plain(name): tensor for name, tensor in get_model_state_dict(module, options=options).items()}
    parameters = {plain(name): parameter for name, parameter in module.named_parameters()}
    if trained_only:
        return {name: tensor for name, tensor in gathered.items() if name in parameters and parameters[name].requires_grad}
    tied = {plain(name) for name, _ in module.named_parameters(remove_duplicate=False)} - parameters.keys()
    return {name: tensor for name, tensor in gathered.items() if name not in tied}


def _is_sharded(module: torch.nn.Module) -> bool:
    """Whether FSDP, of either version, holds parts of the weights on other processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(part, (FSDPModule, FullyShardedDataParallel)) for part in module.modules())


def plain(name: str) -> str:
    """The name of a tensor without those of wrappers."""
    for wrapper in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        name = name.replace(wrapper, "")
    return name.removeprefix("module.").removeprefix("base_model.model.")
