"""Reads the weights of a run through the loading of `transformers` and `peft`, under the names of the adapter's module.

Renamed keys, shards, tied weights and fused experts are the libraries' business. What they would fill with random numbers and a
warning is an error here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedConfig

from provenance.core.errors import ModelError
from provenance.models.adapters import transformer
from provenance.models.adapters.transformer import STARTS, quiet
from provenance.models.importing.run import ADAPTER, ADAPTER_CONFIG, WHOLE, kind_of, read_json
from provenance.models.writing import tensors_of

if TYPE_CHECKING:
    from peft import LoraConfig  # takes seconds, and most runs have no adapter

Tensors = dict[str, torch.Tensor]
# The name of the one adapter in a module, which peft puts into the names of its tensors.
NAME = "default"
# What peft's own wrapper, which is not used here, puts before every name.
PREFIX = "base_model.model."
# Ways to start an adapter with B = 0, so that its start can be told without the run's help.
KNOWN_STARTS = (True, "gaussian")
TO_SAFETENSORS = "Convert it where you trust it: load it there, and save it with save_pretrained."


def read_config(folder: Path) -> PreTrainedConfig:
    """The architecture in a folder's `config.json`, of a causal language model that is not quantised."""
    config = transformer.read_config(folder)
    if type(config) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001
        both = getattr(config, "is_encoder_decoder", False)
        hint = "Write its model folder yourself, with the adapter {}: docs/own-data.md."
        raise ModelError(
            str(folder / "config.json"),
            expected="the architecture of a causal language model",
            found=repr(config.model_type),
            hint=hint.format("Seq2SeqLM" if both else "of your own"),
        )
    if getattr(config, "quantization_config", None):
        raise ModelError(
            str(folder / "config.json"),
            expected="weights as they are trained on",
            found=f"quantised ones ({config.quantization_config.get('quant_method', 'unknown')})",
            hint="Name the folder of the model before it was quantised.",
        )
    return config


def read_whole(folder: Path) -> torch.nn.Module:
    """The whole model that a folder holds, on the CPU, in the dtype that its weights are stored in.

    Raises:
        ModelError: a weight is missing, left over or of another shape, or a pickle wants more than tensors.
    """
    if kind_of(folder) != "full":
        raise ModelError(str(folder), expected=f"a model's weights, such as {WHOLE[0]}", found="none")
    config, auto = read_config(folder), cast("Any", AutoModelForCausalLM)
    module: torch.nn.Module
    try:
        with quiet():
            module, report = auto.from_pretrained(
                folder,
                config=config,
                dtype=_stored_dtype(folder, config),
                local_files_only=True,
                weights_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
        pickled = not any((folder / name).is_file() for name in WHOLE[:2])
        hint = TO_SAFETENSORS if pickled else ""
        raise ModelError(str(folder), expected="weights that transformers loads", found=_short(error), hint=hint) from error
    for words, names in (
        ("missing", "missing_keys"),
        ("left over", "unexpected_keys"),
        ("of another shape", "mismatched_keys"),
    ):
        if report[names]:
            first = min(report[names], key=str)
            expected = f"the weights of a {type(module).__name__}"
            raise ModelError(str(folder), expected=expected, found=f"{len(report[names])} {words}, such as {first}")
    return module


def read_adapter_config(folder: Path) -> LoraConfig:
    """The configuration of the LoRA adapter in a folder."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelError(str(path), expected="the adapter's configuration", found="no such file")
    kind = read_json(path).get("peft_type")
    if kind != "LORA":
        raise ModelError(str(path), expected="an adapter of peft_type LORA (LoRA, DoRA)", found=repr(kind))
    from peft import PeftConfig

    try:
        with warnings.catch_warnings(action="error"):  # about keys of a newer peft, which this one would ignore
            config: LoraConfig = PeftConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, UserWarning) as error:
        raise ModelError(str(path), expected="a configuration that this peft knows", found=_short(error)) from error
    return config


class AdapterReader:
    """Reads adapters of one run as the trainable tensors of the base with the adapter put in.

    Args:
        base: the folder of the frozen model.
        first: the folder of an adapter of the run; all have its configuration.
    """

    def __init__(self, base: Path, first: Path) -> None:
        from peft import inject_adapter_in_model

        self.base, self.config = base, read_adapter_config(first)
        self.config.inference_mode = False  # which would freeze the adapter, too
        self._check_start(STARTS)
        module = read_whole(base)
        with quiet():
            try:
                # `init_lora_weights` and the rest decide only fresh weights; those of the run follow.
                self.module = inject_adapter_in_model(self.config, module, NAME)
            except (ValueError, TypeError, KeyError) as error:
                where = f"{first / ADAPTER_CONFIG} on {base}"
                raise ModelError(where, expected="an adapter that fits the base", found=_short(error)) from error
        self.fresh = self._trainable()

    def _check_start(self, starts: Sequence[object]) -> None:
        found = self.config.init_lora_weights
        if found not in starts:
            hint = "Convert it with peft's path_initial_model_for_weight_conversion, or save it before the first step, too."
            raise ModelError(
                f"adapter on {self.base}: init_lora_weights", expected="a start with B = 0", found=repr(found), hint=hint
            )

    def _trainable(self) -> Tensors:
        return {name: tensor.clone() for name, tensor in tensors_of(self.module, trained_only=True).items()}

    def read(self, folder: Path) -> Tensors:
        """The trainable tensors of the adapter in a folder, in their stored dtype."""
        from peft import set_peft_model_state_dict

        stored = {name.removeprefix(PREFIX): tensor for name, tensor in _adapter_file(folder).items()}
        dtypes = {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()}
        for parameter in self.module.parameters() if len(dtypes) == 1 else ():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(next(iter(dtypes)))
        try:
            with quiet():
                report: Any = set_peft_model_state_dict(self.module, stored, NAME)
        except (KeyError, ValueError, RuntimeError) as error:
            found = f"{type(error).__name__}: {_short(error)}"
            raise ModelError(str(folder), expected=f"an adapter for {self.base}", found=found) from error
        missing = [name for name in report.missing_keys if name in self.fresh]
        for words, names in (("missing", missing), ("left over", report.unexpected_keys)):
            if names:
                found = f"{len(names)} tensors {words}, such as {names[0]}"
                raise ModelError(str(folder), expected=f"an adapter for {self.base}", found=found)
        return self._trainable()

    def start(self, first: Tensors) -> Tensors:
        """The state that the training of the adapter began with: A as in the first checkpoint, B zero, all else as in the base.

        Raises:
            ModelError: the adapter began in another way.
        """
        self._check_start(KNOWN_STARTS)
        return {name: _at_start(name, self.fresh[name], tensor) for name, tensor in first.items()}


def _at_start(name: str, fresh: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
    if ".lora_A." in name or ".lora_embedding_A." in name:
        return later.clone()
    if ".lora_B." in name or ".lora_embedding_B." in name:
        return torch.zeros_like(later)
    return fresh.to(later.dtype)


def _adapter_file(folder: Path) -> Tensors:
    path = next((folder / name for name in ADAPTER if (folder / name).is_file()), None)
    if path is None:
        raise ModelError(str(folder), expected=f"an adapter, {ADAPTER[0]}", found="none")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ModelError(str(path), expected="a whole safetensors file", found=str(error)) from error
    values = read_pickle(path)
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise ModelError(str(path), expected="tensors by name", found=type(values).__name__)
    return values


def read_pickle(path: Path) -> Any:
    """What a file by `torch.save` holds, read weights-only: nothing in it can run.

    Raises:
        ModelError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # mapped: an optimizer is twice the model
    except Exception as error:
        raise ModelError(str(path), expected="tensors and plain values", found=_short(error), hint=TO_SAFETENSORS) from error


def _stored_dtype(folder: Path, config: PreTrainedConfig) -> torch.dtype | str:
    """The widest dtype of the stored weights; `config.json` may name another, which loading would cut them to."""
    widest: torch.dtype | None = None
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(str(path), expected="a whole safetensors file", found=str(error)) from error
        for name in names & set(FLOATS):
            widest = FLOATS[name] if widest is None else torch.promote_types(widest, FLOATS[name])
    return widest or getattr(config, "dtype", None) or "auto"


FLOATS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WHOLE[0]).is_file():
        return [folder / WHOLE[0]]
    index = folder / WHOLE[1]
    if not index.is_file():
        return []
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(str(index), expected=f"a file {name}", found="no such file")
    return [folder / name for name in names]


def _short(error: Exception) -> str:
    """The first lines of a library's message."""
    return " ".join(str(error).split())[:300] or type(error).__name__
