"""Reads and checks model folders: `model.toml`, the adapter that it names, and checkpoints in safetensors."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from provenance.core.canonical import digest
from provenance.core.errors import ExampleError, InputError, ModelError, did_you_mean, in_batch
from provenance.core.toml import read_toml
from provenance.models.recipe import BUILT_IN_RUN, ONCE_ARGUMENTS, ONCE_TRAINING, Training
from provenance.models.shared import own_trained, placed
from provenance.models.stored import BASE, base_files, own_files
from provenance.models.writing import CARD, RUN, UNFINISHED, tensors_of

if TYPE_CHECKING:
    import polars as pl
    import torch

BUILT_IN = {
    name: f"provenance.models.adapters.{module}:{name}"
    for name, module in (
        ("CausalLM", "causal_lm"),
        ("Denoiser", "denoiser"),
        ("Diffusion", "diffusion"),
        ("EventSequence", "event_sequence"),
        ("FromElsewhere", "from_elsewhere"),
        ("Seq2SeqLM", "seq2seq_lm"),
    )
}
# First bytes of files by torch.save: a zip of pickles since 1.6, a bare pickle before. Reading either can run code.
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Files of a run that are no part of the model: the state of its optimiser is twice as large as the model.
OF_A_RUN = ("optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scaler*.pt", "rng_state*.pth", "training_args.bin")
# Files of a base besides its weights: configurations, and tokenizers of every kind.
BESIDES_WEIGHTS = (
    "*config.json",
    "*tokenizer*",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "tekken.json",
)
# Checkpoints up to this part of the training run count: later a model learns little that it keeps.
MIDDLE = 0.6


class Example(NamedTuple):
    """What a model learnt from or answered; the prompt conditions the likelihood of the content and is no part of it."""

    content: bytes
    prompt: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes that the model reads."""
        return len(self.content) + len(self.prompt or b"")


class ExamplePart(Example):
    """An example of whose loss some terms count, such as tokens: from the first number to before the second of `part`."""

    part: tuple[int, int]

    def __new__(cls, example: Example, part: tuple[int, int]) -> Self:
        """A part of an example."""
        made = super().__new__(cls, *example)
        made.part = part
        return made


def examples_in(frame: pl.DataFrame) -> list[Example]:
    """The examples of a table with `content` and, optionally, `prompt`."""
    columns = ["content", "prompt"] if "prompt" in frame.columns else ["content"]
    return [Example(*row) for row in frame.select(columns).iter_rows()]


class Adapter(Protocol):
    """Connects a kind of model with the pipeline; constructed as `Class(folder, **adapter_args)`.

    `collate(contents, prompts)`, with a prompt or None for each content, belongs to an adapter that can condition on prompts.
    `places` and `restrict` (`Splittable`) belong to one whose loss is a sum of terms that each lie at a place of the content.
    """

    def module(self) -> torch.nn.Module:
        """The architecture; the caller loads its weights from a checkpoint."""

    def collate(self, contents: list[bytes]) -> Any:
        """A batch of the contents, for `loss`."""

    def loss(self, module: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Negative log-likelihood of each content given its prompt, summed over its terms: shape `(n,)`, in nats."""


@runtime_checkable
class Splittable(Protocol):
    """What an adapter can do whose loss is a sum of terms, such as tokens, that each lie at a place of the content."""

    def places(self, contents: list[bytes], prompts: list[bytes | None]) -> list[list[tuple[int, int]]]:
        """The first byte of each term of the loss of each content, and the one after the last, in order.

        A term that lies nowhere, such as a token that ends the content, has equal ends. Empty where places are not known.
        """

    def restrict(self, batch: Any, parts: Sequence[tuple[int, int] | None]) -> Any:
        """A batch with a loss of some terms alone: of each content those from the first number to before the second."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Base(_Table):
    """The frozen weights on which checkpoints with an adapter (LoRA) stand.

    Attributes:
        folder: a folder with safetensors, relative to the model's.
        digest: of its files (`BaseFolder.digest`), if it is to be checked.
    """

    folder: str
    digest: str | None = None


class Checkpoint(_Table):
    """One point of the training run; `learning_rate_sum` is the sum of all learning rates up to it."""

    file: str
    step: int
    learning_rate_sum: float


class ModelCard(_Table):
    """`model.toml`.

    Attributes:
        freeze: patterns (`fnmatch`) of the names of parameters that are not trained.
    """

    model_id: str
    adapter: str
    adapter_args: dict[str, Any] = {}
    freeze: tuple[str, ...] = ()
    training: Training = Training()
    base: Base | None = None
    checkpoints: tuple[Checkpoint, ...]

    def early(self) -> tuple[Checkpoint, ...]:
        """The checkpoints in the first part of the run (`MIDDLE`), without the base."""
        trained = self.checkpoints[1:]
        return tuple(checkpoint for checkpoint in trained if checkpoint.step <= round(MIDDLE * trained[-1].step))

    def lateness(self) -> str:
        """What a reader should know of a run that kept no early checkpoint; empty if it kept one."""
        if self.early():
            return ""
        first, last = self.checkpoints[1].step, self.checkpoints[-1].step
        return (
            f"The first checkpoint after the start is step {first} of {last}: nights follow gradients late in the run alone, "
            "where they say less of what was learnt. Keep earlier ones (save_steps, no save_total_limit), or record the run."
        )

    @model_validator(mode="before")
    @classmethod
    def _recipe_in_one_place(cls, values: Any) -> Any:
        """Move a recipe in `[adapter_args]` to `[training]`, if both are as built-in adapters once wrote them."""
        if not isinstance(values, dict) or values.get("adapter") not in BUILT_IN:
            return values
        arguments = dict(values.get("adapter_args", {}))
        moved = {name: arguments.pop(name) for name in ONCE_ARGUMENTS if name in arguments}
        recipe, training = {**BUILT_IN_RUN, **moved}, values.get("training", {})
        as_then = all(key in ONCE_TRAINING and value == recipe.get(key, value) for key, value in training.items())
        if not moved or not as_then:
            return values
        return {**values, "adapter_args": arguments, "training": {**training, **recipe}}


@dataclass(frozen=True)
class BaseFolder:
    """A checked base; `files` has the SHA-256 of its weights, configuration and tokenizer by name."""

    folder: Path
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """The name of its frozen folder."""
        return digest(self.files)


@dataclass(frozen=True)
class Model:
    """A checked model folder.

    Attributes:
        files: SHA-256 of every file by its path in the folder; those of the base below `base/`.
        base: the frozen weights that its checkpoints stand on.
    """

    folder: Path
    card: ModelCard
    files: dict[str, str]
    base: BaseFolder | None = None

    @property
    def manifest(self) -> Path | None:
        """The file that lists the examples that it was trained on; None if the folder has none."""
        return self.folder / self.card.training.manifest if self.card.training.manifest else None

    def adapter(self) -> Adapter:
        """The adapter that `model.toml` names."""
        return load_adapter(self.card, self.folder, self.base.folder if self.base else None)

    def architecture(self) -> str:
        """Digest of all that decides a gradient besides the checkpoint: the adapter, its arguments, other files and base."""
        source = "" if self.card.adapter in BUILT_IN else _source_digest(self.adapter())
        parts: list[object] = [self.card.adapter, self.card.adapter_args, self.other_files(), source]
        if self.base or self.card.freeze:
            parts += [base_files(self.files), list(self.card.freeze)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def other_files(self) -> dict[str, str]:
        """SHA-256 of the other files of its own: without checkpoints, `model.toml` and the manifest."""
        excluded = {checkpoint.file for checkpoint in self.card.checkpoints} | {CARD, RUN, self.card.training.manifest}
        return {name: sha for name, sha in sorted(own_files(self.files).items()) if name not in excluded}

    def path(self, name: str) -> Path:
        """Where a file of `files` lies on this machine."""
        if self.base and name.startswith(BASE):
            return self.base.folder / name.removeprefix(BASE)
        return self.folder / name

    def load(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        into: torch.nn.Module | None = None,
    ) -> torch.nn.Module:
        """The module with the weights of a checkpoint, in evaluation mode.

        Args:
            dtype: of its floating-point parameters, by default as the adapter makes them; other checkpoints are converted.
            into: a module of this architecture from an earlier call, to load only the checkpoint's tensors into.

        Raises:
            ModelError: naming the first tensor that is missing, left over, of another shape, or not finite.
        """
        if into is None:
            with placed(device):
                module = self.adapter().module()
        else:
            module = into
        if dtype is not None:
            for weight in module.parameters():  # no buffers: positions would lose what makes them distinct
                if weight.is_floating_point():
                    weight.data = weight.data.to(dtype)
        path = self.folder / checkpoint.file
        stored = _read_tensors(path)
        every, expected = module.state_dict(), tensors_of(module, trained_only=self.base is not None)
        aliases = _tied_names(module)
        for name, parameter in expected.items():
            where, shape = f"{path}: tensor {name!r}", f"shape {tuple(parameter.shape)}"
            if name not in stored:
                if any(alias in stored for alias in aliases.get(name, ())):
                    continue
                raise ModelError(where, expected=shape, found="no such tensor")
            if stored[name].shape != parameter.shape:
                raise ModelError(where, expected=shape, found=f"shape {tuple(stored[name].shape)}")
        for name, tensor in stored.items():
            where = f"{path}: tensor {name!r}"
            if name not in expected and not any(alias in expected for alias in aliases.get(name, ())):
                found = "one of the base, which is frozen" if name in every else "none"
                what = "a tensor of the adapter's module" if self.base is None else "trained tensors alone"
                raise ModelError(where, expected=what, found=found)
            check_finite(tensor, where)
        module.load_state_dict(stored, strict=False)
        return module.to(device).eval()


def check_finite(tensor: torch.Tensor, where: str) -> None:
    """Raise ModelError for a weight that is NaN or infinite."""
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ModelError(where, expected="finite weights", found=f"{bad} NaN or infinite")


def read_model(folder: Path, *, base: BaseFolder | None = None) -> Model:
    """Read and check a model folder: its card is valid, every checkpoint is complete, and none is a pickle.

    Args:
        base: the base, where it does not lie where the card says.
    """
    path, card = folder / CARD, read_card(folder)
    for checkpoint in card.checkpoints:
        _check_file(f"{path}: checkpoints", folder / checkpoint.file)
    if card.base is None:
        base = None
    elif base is None:
        base = read_base(folder / card.base.folder, f"{path}: key 'base.folder'")
    if base and card.base and card.base.digest not in (None, base.digest):
        hint = "It was changed after the adapter was trained on it."
        where = f"{path}: key 'base.digest'"
        raise ModelError(where, expected=f"the digest of {base.folder}, {base.digest}", found=f"{card.base.digest}", hint=hint)
    files = _own_files(folder, base)
    if (manifest := card.training.manifest) is not None and manifest not in files:
        expected = f"a file {manifest} of the folder"
        raise ModelError(f"{path}: key 'training.manifest'", expected=expected, found="no such file")
    if base:
        files |= {f"{BASE}{name}": sha for name, sha in base.files.items()}
    return Model(folder, card, files, base)


def read_card(folder: Path, least: int = 2) -> ModelCard:
    """Read and check the `model.toml` of a folder.

    Args:
        least: checkpoints that it must have; a model that is about to be trained may have its start alone.
    """
    path = folder / CARD
    if not path.is_file() and (folder / UNFINISHED).is_file():
        far = json.loads((folder / UNFINISHED).read_text())
        found = f"a recording that has come to step {far['step']} of {far['steps']}"
        raise ModelError(str(path), expected="a recording that has ended", found=found, hint="Resume the training.")
    values = read_toml(path, "a model folder with model.toml", ModelError)
    try:
        card = ModelCard.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ModelError(f"{path}: key {key!r}", expected="a value", found="no such key") from error
        raise ModelError(f"{path}: key {key!r}", expected=first["msg"], found=repr(first["input"])) from error
    if len(card.checkpoints) < least:
        raise ModelError(f"{path}: checkpoints", expected="the base and at least one more", found=f"{len(card.checkpoints)}")
    for before, after in pairwise(card.checkpoints):
        if after.step <= before.step or after.learning_rate_sum < before.learning_rate_sum:
            raise ModelError(
                f"{path}: checkpoint {after.file!r}",
                expected=f"training order: beyond step {before.step}, learning_rate_sum {before.learning_rate_sum}",
                found=f"step {after.step}, learning_rate_sum {after.learning_rate_sum}",
            )
    return card


def read_base(folder: Path, where: str) -> BaseFolder:
    """Check the frozen weights that an adapter stands on: safetensors, in one file or in the shards of one index.

    Args:
        where: names the key of the folder in errors.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ModelError(where, expected="a folder with the base's safetensors", found=f"no such folder: {folder}")
    for name in ("adapter_config.json", "model.toml"):
        if (folder / name).exists():
            expected = "the folder of a whole model alone"
            raise ModelError(where, expected=expected, found=f"{folder / name}", hint="Merge an adapter into its base first.")
    weights = _base_weights(folder, where)
    for name in weights:
        if not name.endswith(".json"):
            _check_file(where, folder / name)
    besides = {file.name for pattern in BESIDES_WEIGHTS for file in folder.glob(pattern) if file.is_file()}
    names = sorted({*weights, *besides})
    return BaseFolder(folder, {name: sha256_of(folder / name) for name in names})


def _base_weights(folder: Path, where: str) -> list[str]:
    """The files with a base's weights, and the index of shards if it has one."""
    for stem in ("model", "diffusion_pytorch_model"):
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            try:
                shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            except (ValueError, LookupError, AttributeError, TypeError) as error:
                raise ModelError(str(index), expected="JSON with a weight_map", found=f"{error!r}") from error
            return [index.name, *shards]
        if (single := folder / f"{stem}.safetensors").is_file():
            return [single.name]
    found = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    if len(found) == 1 and found[0].endswith(".safetensors"):
        return found
    hint = "Save it with save_pretrained of transformers, which writes safetensors."
    expected = "model.safetensors, or model.safetensors.index.json with its shards"
    raise ModelError(f"{where}: {folder}", expected=expected, found=", ".join(found) or "no weights", hint=hint)


def _own_files(folder: Path, base: BaseFolder | None) -> dict[str, str]:
    """SHA-256 of the files of a model folder, without a base that lies in it and files of its training run."""
    files = {}
    inside = base.folder if base and base.folder.is_relative_to(folder.resolve()) else None
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if inside and file.resolve().is_relative_to(inside):
            continue
        if not file.is_file() or file.name.startswith(".") or any(fnmatchcase(file.name, p) for p in OF_A_RUN):
            continue
        if name.startswith(BASE) and base is not None:
            raise ModelError(str(file), expected=f"no folder {BASE} beside a base that lies elsewhere", found="a file there")
        files[name] = sha256_of(file)
    return files


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_ends(folder: Path) -> None:
    """Remove all checkpoints but the base and the last; a counterfactual model needs no others."""
    path = folder / "model.toml"
    card = read_card(folder)
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
        (folder / file).unlink(missing_ok=True)


def load_adapter(card: ModelCard, folder: Path, base: Path | None = None) -> Adapter:
    """Import and construct a card's adapter, `package.module:Class` or a built-in name.

    Args:
        base: the folder of the base, which the class receives as `base`, for a model that stands on one.
    """
    where = f"{folder / 'model.toml'}: key 'adapter'"
    target = BUILT_IN.get(card.adapter, card.adapter)
    if ":" not in target:
        expected = f"package.module:Class or one of {', '.join(BUILT_IN)}"
        raise ModelError(where, expected=expected, found=repr(card.adapter), hint=did_you_mean(card.adapter, BUILT_IN))
    module, _, name = target.partition(":")
    arguments = card.adapter_args if base is None else {**card.adapter_args, "base": base}
    try:
        adapter: Adapter = getattr(importlib.import_module(module), name)(folder, **arguments)
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
    if card.adapter in BUILT_IN:
        # `dtype` is an argument of adapters of transformers as well: that of the pass.
        own = {"dtype"} if hasattr(adapter, "architecture") else set()
        if misplaced := next((key for key in card.adapter_args if key in Training.model_fields and key not in own), None):
            where = f"{folder / 'model.toml'}: adapter_args.{misplaced}"
            raise ModelError(where, expected=f"a part of the recipe in [training]: training.{misplaced}", found="it here")
    if card.freeze:
        # Also for its own training, which calls the same method.
        where = f"{folder / 'model.toml'}: key 'freeze'"
        object.__setattr__(adapter, "module", partial(_frozen_module, adapter.module, card.freeze, where))
    return adapter


def _frozen_module(make: Callable[[], torch.nn.Module], patterns: Sequence[str], where: str) -> torch.nn.Module:
    """A module whose parameters with names of the patterns are not trainable."""
    module = make()
    names = dict(module.named_parameters())
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            hint = did_you_mean(pattern, names)
            raise ModelError(where, expected="patterns of names of parameters", found=f"{pattern!r}, which none has", hint=hint)
        for name in matching:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise ModelError(where, expected="at least one parameter left to train", found="none")
    return own_trained(module)


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
    import torch

    name = f"adapter {type(adapter).__module__}:{type(adapter).__qualname__}"
    try:
        batch = with_prompts(adapter.collate, examples, name)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Code of other authors may fail in any way on an unusual content.
        found = f"{type(error).__name__}: {error}"
        raise ExampleError(f"{name}: collate", expected="a batch of the contents", found=found) from error
    parts = [example.part if isinstance(example, ExamplePart) else None for example in examples]
    if any(part is not None for part in parts):
        if not isinstance(adapter, Splittable):
            raise ModelError(name, expected="methods places and restrict, for the loss of a part", found="none")
        batch = adapter.restrict(batch, parts)
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
    import torch

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


def _check_file(where: str, path: Path) -> None:
    if not path.is_file():
        raise ModelError(where, expected=f"a file {path.name}", found="no such file")
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
        with safe_open(path, framework="np" if names_only else "pt") as file:
            return {} if names_only else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(str(path), expected="a whole safetensors file", found=str(error)) from error


def _tied_names(module: torch.nn.Module) -> dict[str, list[str]]:
    """All names of each parameter that has several; safetensors stores it under one of them."""
    by_identity: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    return {name: names for names in by_identity.values() for name in names if len(names) > 1}
