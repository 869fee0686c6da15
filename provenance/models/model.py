"""Reads and checks model folders: `model.toml`, the adapter that it names, and checkpoints in safetensors."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from provenance.core.errors import ExampleError, InputError, ModelError, did_you_mean, in_batch
from provenance.core.toml import read_toml

if TYPE_CHECKING:
    import polars as pl

BUILT_IN = {
    name: f"provenance.models.adapters.{module}:{name}"
    for name, module in (("CausalLM", "causal_lm"), ("Denoiser", "denoiser"), ("EventSequence", "event_sequence"))
}
# First bytes of files by torch.save: a zip of pickles since 1.6, a bare pickle before. Reading either can run code.
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Example(NamedTuple):
    """What a model learnt from or answered; the prompt conditions the likelihood of the content and is no part of it."""

    content: bytes
    prompt: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that the model reads."""
        return len(self.content) + len(self.prompt or b"")


def examples_in(frame: pl.DataFrame) -> list[Example]:
    """The examples of a table with `content` and, optionally, `prompt`."""
    columns = ["content", "prompt"] if "prompt" in frame.columns else ["content"]
    return [Example(*row) for row in frame.select(columns).iter_rows()]


class Adapter(Protocol):
    """Connects a kind of model with the pipeline; constructed as `Class(folder, **adapter_args)`.

    `collate(contents, prompts)`, with a prompt or None for each content, belongs to an adapter that can condition on prompts.
    """

    def module(self) -> torch.nn.Module:
        """The architecture; the caller loads its weights from a checkpoint."""

    def collate(self, contents: list[bytes]) -> Any:
        """A batch of the contents, for `loss`."""

    def loss(self, module: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Negative log-likelihood of each content given its prompt, summed over its terms: shape `(n,)`, in nats."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Training(_Table):
    """The settings of the training run, as far as they are known.

    Attributes:
        manifest: a file of the folder that lists the examples that the model was trained on.
        command: trains such a model (`trainer.run_command`); without one the adapter's `train` does.
    """

    optimizer: str | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    epochs: float | None = None
    manifest: str | None = None
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


class Checkpoint(_Table):
    """One point of the training run; `learning_rate_sum` is the sum of all learning rates up to it."""

    file: str
    step: int
    learning_rate_sum: float


class ModelCard(_Table):
    """`model.toml`."""

    model_id: str
    adapter: str
    adapter_args: dict[str, Any] = {}
    training: Training = Training()
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class Model:
    """A checked model folder; `files` has the SHA-256 of every file by its path in the folder."""

    folder: Path
    card: ModelCard
    files: dict[str, str]

    @property
    def manifest(self) -> Path | None:
        """The file that lists the examples that it was trained on; None if the folder has none."""
        return self.folder / self.card.training.manifest if self.card.training.manifest else None

    def adapter(self) -> Adapter:
        """The adapter that `model.toml` names."""
        return load_adapter(self.card, self.folder)

    def architecture(self) -> str:
        """Digest of all that decides a gradient besides the weights: the adapter, its arguments and its other files."""
        source = "" if self.card.adapter in BUILT_IN else _source_digest(self.adapter())
        text = json.dumps([self.card.adapter, self.card.adapter_args, self.other_files(), source], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def other_files(self) -> dict[str, str]:
        """SHA-256 of the other files: without checkpoints, `model.toml` and the manifest."""
        excluded = {checkpoint.file for checkpoint in self.card.checkpoints} | {"model.toml", self.card.training.manifest}
        return {name: sha for name, sha in sorted(self.files.items()) if name not in excluded}

    def load(self, checkpoint: Checkpoint, *, device: str = "cpu") -> torch.nn.Module:
        """The module with the weights of a checkpoint, in evaluation mode.

        Raises:
            ModelError: naming the first tensor that is missing, left over, of another shape, or not finite.
        """
        module = self.adapter().module()
        path = self.folder / checkpoint.file
        stored = _read_tensors(path)
        state = module.state_dict()
        aliases = _tied_names(module)
        for name, parameter in state.items():
            where, shape = f"{path}: tensor {name!r}", f"shape {tuple(parameter.shape)}"
            if name not in stored:
                if any(alias in stored for alias in aliases.get(name, ())):
                    continue
                raise ModelError(where, expected=shape, found="no such tensor")
            if stored[name].shape != parameter.shape:
                raise ModelError(where, expected=shape, found=f"shape {tuple(stored[name].shape)}")
        for name, tensor in stored.items():
            if name not in state:
                raise ModelError(f"{path}: tensor {name!r}", expected="a tensor of the adapter's module", found="none")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                bad = int((~torch.isfinite(tensor)).sum())
                raise ModelError(f"{path}: tensor {name!r}", expected="finite weights", found=f"{bad} NaN or infinite")
        module.load_state_dict(stored, strict=False)
        return module.to(device).eval()


def read_model(folder: Path) -> Model:
    """Read and check a model folder: its card is valid, every checkpoint is complete, and none is a pickle."""
    path = folder / "model.toml"
    values = read_toml(path, "a model folder with model.toml", ModelError)
    try:
        card = ModelCard.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ModelError(f"{path}: key {key!r}", expected="a value", found="no such key") from error
        raise ModelError(f"{path}: key {key!r}", expected=first["msg"], found=repr(first["input"])) from error
    if len(card.checkpoints) < 2:
        raise ModelError(f"{path}: checkpoints", expected="the base and at least one more", found=f"{len(card.checkpoints)}")
    for before, after in pairwise(card.checkpoints):
        if after.step <= before.step or after.learning_rate_sum < before.learning_rate_sum:
            raise ModelError(
                f"{path}: checkpoint {after.file!r}",
                expected=f"training order: beyond step {before.step}, learning_rate_sum {before.learning_rate_sum}",
                found=f"step {after.step}, learning_rate_sum {after.learning_rate_sum}",
            )
    for checkpoint in card.checkpoints:
        _check_file(path, folder / checkpoint.file)
    paths = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    files = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in paths}
    if (manifest := card.training.manifest) is not None and manifest not in files:
        expected = f"a file {manifest} of the folder"
        raise ModelError(f"{path}: key 'training.manifest'", expected=expected, found="no such file")
    return Model(folder, card, files)


def keep_ends(folder: Path) -> None:
    """Remove all checkpoints but the base and the last; a counterfactual model needs no others."""
    path = folder / "model.toml"
    card = read_model(folder).card
    middle = {checkpoint.file for checkpoint in card.checkpoints[1:-1]}
    tables: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("[") or not tables:
            tables.append("")
        tables[-1] += line + "\n"

    def is_middle(table: str) -> bool:
        return table.startswith("[[checkpoints]]") and tomllib.loads(table)["checkpoints"][0]["file"] in middle

    path.write_text("".join(table for table in tables if not is_middle(table)))
    for file in middle:
        (folder / file).unlink()


def load_adapter(card: ModelCard, folder: Path) -> Adapter:
    """Import and construct a card's adapter, `package.module:Class` or a built-in name."""
    where = f"{folder / 'model.toml'}: key 'adapter'"
    target = BUILT_IN.get(card.adapter, card.adapter)
    if ":" not in target:
        expected = f"package.module:Class or one of {', '.join(BUILT_IN)}"
        raise ModelError(where, expected=expected, found=repr(card.adapter), hint=did_you_mean(card.adapter, BUILT_IN))
    module, _, name = target.partition(":")
    try:
        adapter: Adapter = getattr(importlib.import_module(module), name)(folder, **card.adapter_args)
    except InputError:
        raise
    except ImportError as error:
        hint = "The module must be installed, or lie on PYTHONPATH; the model's folder is not searched."
        raise ModelError(where, expected="a module to import", found=f"{target}: {error}", hint=hint) from error
    except (AttributeError, TypeError) as error:
        raise ModelError(where, expected="an adapter that can be constructed", found=f"{target}: {error}") from error
    lacking = [method for method in ("module", "collate", "loss") if not callable(getattr(adapter, method, None))]
    if lacking:
        expected = "an adapter with the methods module, collate and loss"
        raise ModelError(where, expected=expected, found=f"{target} without {' and '.join(lacking)}")
    return adapter


def _source_digest(adapter: Adapter) -> str:
    """Digest of the module that defines an adapter; empty if it has no file."""
    path = inspect.getsourcefile(type(adapter))
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def with_prompts(function: Callable[..., Any], examples: Sequence[Example], where: str, **more: Any) -> Any:
    """Call an adapter's function of contents, with the prompts as well if one example has a prompt.

    Raises:
        ExampleError: an example has a prompt, and the function takes none.
    """
    contents, prompts = [example.content for example in examples], [example.prompt for example in examples]
    first = next((row for row, prompt in enumerate(prompts) if prompt is not None), None)
    if first is None:
        return function(contents, **more)
    if "prompts" not in inspect.signature(function).parameters:
        expected = "no prompt, because this adapter does not condition on one"
        hint = f"Give it a method {function.__name__}(contents, prompts), or deliver contents without prompts."
        raise ExampleError(f"{where}: prompt of {in_batch(first)}", expected=expected, found="a prompt", hint=hint)
    return function(contents, prompts=prompts, **more)


def example_losses(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
    """The adapter's losses, one finite number per example: `(n,)`."""
    name = f"adapter {type(adapter).__module__}:{type(adapter).__qualname__}"
    try:
        batch = with_prompts(adapter.collate, examples, name)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Code of other authors may fail in any way on an unusual content.
        found = f"{type(error).__name__}: {error}"
        raise ExampleError(f"{name}: collate", expected="a batch of the contents", found=found) from error
    losses, where = adapter.loss(module, batch), f"{name}: loss"
    if not isinstance(losses, torch.Tensor) or losses.shape != (len(examples),):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise ModelError(where, expected=f"one number per example, shape ({len(examples)},)", found=found)
    if not bool(torch.isfinite(losses).all()):
        row = int((~torch.isfinite(losses)).nonzero()[0])
        raise ExampleError(f"{where} of {in_batch(row)}", expected="a finite number", found=str(losses.detach()[row].item()))
    return losses


def all_losses(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example], *, batch_size: int) -> np.ndarray:
    """The losses of any number of examples, without gradients: `(n,)` float64."""
    with torch.no_grad():
        starts = range(0, len(examples), batch_size)
        losses = [example_losses(adapter, module, examples[start : start + batch_size]) for start in starts]
    values: np.ndarray = torch.cat(losses).double().cpu().numpy()
    return values


def forward_and_backward(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example], batch_size: int) -> None:
    """Compute the gradient of every batch, as training does, without a step; batches have examples of similar lengths."""
    order = sorted(examples, key=lambda example: example.size)
    for start in range(0, len(order), batch_size):
        module.zero_grad(set_to_none=True)
        example_losses(adapter, module, order[start : start + batch_size]).sum().backward()
    module.zero_grad(set_to_none=True)


def _check_file(card: Path, path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"{card}: checkpoints", expected=f"a file {path.name}", found="no such file")
    try:
        _read_tensors(path, names_only=True)
    except ModelError:
        # A safetensors file begins with eight bytes, the length of its header, and then a brace.
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{" or not any(start.startswith(magic) for magic in PICKLE_STARTS):
            raise
        found = "a pickle, which can run code when it is read"
        hint = "Convert it with safetensors.torch.save_file."
        raise ModelError(str(path), expected="safetensors", found=found, hint=hint) from None


def _read_tensors(path: Path, *, names_only: bool = False) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {} if names_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(str(path), expected="a whole safetensors file", found=str(error)) from error


def _tied_names(module: torch.nn.Module) -> dict[str, list[str]]:
    """All names of each parameter that has several; safetensors stores it under one of them."""
    by_identity: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_identity.values() for name in names if len(names) > 1}
