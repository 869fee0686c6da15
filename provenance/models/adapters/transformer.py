"""Makes the modules of `transformers` architectures: with fresh weights, or on a frozen base with an adapter of `peft`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from provenance.core.errors import ModelError
from provenance.models.adapters.quantised import quantise, shapes_alone
from provenance.models.model import check_finite
from provenance.models.shared import own_trained, shared_base

ADAPTER = "adapter_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Ways to start an adapter (`init_lora_weights` of peft) that leave the base's weights as they are.
STARTS = (True, False, "gaussian", "orthogonal")
# Padding follows the content, which no token before it sees, and has no loss; so the advice is not for us.
getLogger("transformers.modeling_utils").addFilter(
    lambda record: "We strongly recommend passing in an `attention_mask`" not in record.getMessage()
)


class Architecture:
    """A `transformers` architecture, and the frozen weights that it stands on, if it has a base.

    Args:
        kind: the class of `transformers` that makes it, such as `AutoModelForCausalLM`.
        folder: a model folder with `config.json` or, on a base, with `adapter_config.json` of `peft` (LoRA, DoRA). On a base
            without that, the base's own weights are trained, those that `model.toml` does not freeze.
        base: a folder with `config.json` and safetensors, whole or in shards.
        dtype: of the forward and backward pass and of the weights in memory, whatever a checkpoint has; adapters of `peft` stay
            in float32.
        base_bits: 8 to keep the frozen linear layers of the base in 8 bits.
        checkpointing: compute the activations of each block again in the backward pass, to save memory.

    Attributes:
        config: the configuration; text: the part of it that is about text.
    """

    def __init__(
        self,
        kind: Any,
        folder: Path,
        *,
        base: Path | None = None,
        dtype: str = "float32",
        base_bits: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ModelError("adapter_args: dtype", expected=" or ".join(DTYPES), found=repr(dtype))
        adapter = (folder / ADAPTER).is_file()
        if base is None and adapter:
            where = f"{folder / ADAPTER}"
            raise ModelError(where, expected="[base] folder in model.toml, the weights that it adapts", found="no such key")
        if base_bits is not None and (base_bits != 8 or not adapter):
            expected = f"8, for a model on a base with {ADAPTER}"
            found = repr(base_bits) if adapter else f"{base_bits!r} without such a file"
            raise ModelError("adapter_args: base_bits", expected=expected, found=found)
        self.kind, self.folder, self.base = kind, folder, base
        self.dtype, self.bits, self.checkpointing = DTYPES[dtype], base_bits, checkpointing
        self.config = read_config(base or folder)
        self.text: PreTrainedConfig = self.config.get_text_config()
        self.arguments: dict[str, Any] = {}
        for name, value, default in (
            ("dtype", dtype, "float32"),
            ("base_bits", base_bits, None),
            ("checkpointing", checkpointing, False),
        ):
            if value != default:
                self.arguments[name] = value

    def module(self) -> torch.nn.Module:
        """The architecture with fresh weights, or with those of the base and a fresh adapter in it."""
        if self.base is None:
            module = in_dtype(self._fresh(), self.dtype)
        else:
            weights = [
                (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(self.base.glob("*.safetensors"))
            ]
            key = str(self.base), self.kind.__name__, self.dtype, self.bits, tuple(weights)
            module = self._adapted(shared_base(key, self._load))
        if self.checkpointing:
            _recompute_blocks(module, self.folder)
        return own_trained(module)

    def _fresh(self) -> torch.nn.Module:
        with _explained(f"{(self.base or self.folder) / 'config.json'}", f"an architecture for {self.kind.__name__}"):
            module: torch.nn.Module = self.kind.from_config(self.config, dtype=torch.float32, trust_remote_code=False)
        return module

    def _load(self) -> torch.nn.Module:
        """The module with the weights of the base, as `transformers` loads them."""
        assert self.base is not None
        with _explained(str(self.base), f"weights for {self.kind.__name__}"), quiet():
            module, report = self.kind.from_pretrained(
                self.base,
                config=self.config,
                dtype="auto" if self.bits else self.dtype,  # no wider copy of what is rounded next
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
            )
        for name, stored, expected in sorted(report["mismatched_keys"]):
            where = f"{self.base}: tensor {name!r}"
            raise ModelError(where, expected=f"shape {tuple(expected)}", found=f"shape {tuple(stored)}")
        for name in sorted(report["missing_keys"]):
            raise ModelError(f"{self.base}: tensor {name!r}", expected="a tensor of the base", found="no such tensor")
        for name in sorted(report["unexpected_keys"]):
            expected = f"tensors of {type(module).__name__}"
            raise ModelError(f"{self.base}: tensor {name!r}", expected=expected, found="one that it has not")
        for name, tensor in module.state_dict().items():
            check_finite(tensor, f"{self.base}: tensor {name!r}")
        return quantise(module, self.dtype, keep=module.get_output_embeddings()) if self.bits else module

    def _adapted(self, module: torch.nn.Module) -> torch.nn.Module:
        """Put the adapter into a module on a base; without one, all its weights are trainable."""
        path = self.folder / ADAPTER
        if not path.is_file():
            return module.requires_grad_(True)
        # Imported here, because it takes seconds and most models have no adapter.
        from peft import PeftConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import cast_adapter_dtype

        with _explained(str(path), "an adapter that peft can put into the base"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(self.folder))
            start = getattr(config, "init_lora_weights", True)
            if start not in STARTS:
                hint = "Convert it with peft's path_initial_model_for_weight_conversion."
                expected = "an adapter that leaves the weights of its base as they are"
                raise ModelError(f"{path}: init_lora_weights", expected=expected, found=repr(start), hint=hint)
            config.inference_mode = False  # as saved it says that nothing is trained
            # Of a layer's weights only DoRA needs more, for the magnitudes that it starts from.
            with nullcontext() if getattr(config, "use_dora", False) else shapes_alone():
                inject_adapter_in_model(config, module)
            cast_adapter_dtype(module, "default")
        return module


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in a folder; nothing is downloaded, and no code of the folder is run."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(str(path), expected="a transformers configuration", found="no such file")
    with _explained(str(path), "the configuration of an architecture of transformers"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return config


def in_dtype(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Convert parameters, but no buffers, because angles of rotary positions need float32; returns the module."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def in_float32(values: torch.Tensor) -> torch.Tensor:
    """Values of a narrower type in float32, in which logarithms and sums of losses are computed."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _recompute_blocks(module: torch.nn.Module, folder: Path) -> None:
    """Compute the activations of each block again in the backward pass.

    Here and not by `gradient_checkpointing_enable`, because that acts only in training mode, in which dropout is on.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not blocks:
        expected = "an architecture whose blocks transformers can compute again"
        raise ModelError(f"{folder}: checkpointing", expected=expected, found=type(module).__name__)
    for block in blocks:
        kind: Any = type(block)
        block.__class__ = _recomputed(kind)


@functools.cache
def _recomputed(kind: Any) -> Any:
    """The class of blocks that compute their activations again."""

    def forward(self: Any, hidden_states: torch.Tensor, *inputs: Any, **keywords: Any) -> Any:
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Else autograd would start inside the block, where a hook begins it, and the second run might have no hook.
            hidden_states = hidden_states.detach().requires_grad_(True).clone()
        run = functools.partial(kind.forward, self)
        return torch.utils.checkpoint.checkpoint(run, hidden_states, *inputs, use_reentrant=False, **keywords)

    made: Any = type(kind.__name__, (kind,), {"__module__": __name__})
    made.forward = forward  # after the class is made, because transformers wraps what a class defines
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and bars of `transformers` and `peft`: what they tell is checked here, and raised."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _explained(where: str, expected: str) -> Iterator[None]:
    """Turn errors of `transformers` and `peft` about what they read into ModelError."""
    try:
        yield
    except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(where, expected=expected, found=f"{type(error).__name__}: {first}") from error
