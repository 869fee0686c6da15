"""Trains a model by the recipe of another: with its adapter, or with the command in its `model.toml`."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import ModelError
from provenance.models.model import Model, examples_in, read_card, with_prompts
from provenance.models.recipe import Training
from provenance.models.stored import own_files
from provenance.models.writing import CARD, write_card

# Last lines of a command's output that an error shows.
LAST_LINES = 12


def check_trainable(model: Model) -> None:
    """Raise ModelError if another model cannot be trained as this one was.

    It has neither an adapter that trains nor a training command; or what its adapter needs of the recipe is not known.
    """
    if model.card.training.command is not None:
        return
    adapter: Any = model.adapter()
    if not callable(getattr(adapter, "train", None)):
        raise ModelError(
            f"adapter {model.card.adapter}",
            expected="a method train(contents, *, seed, folder), or [training] command in model.toml",
            found="neither",
            hint="Or bring models that you have trained: `provenance counterfactuals add`.",
        )
    if isinstance(recipe := getattr(adapter, "recipe", None), Training):
        recipe.check(str(model.folder / CARD))
    if callable(check := getattr(adapter, "check_trainable", None)):
        check()


def train_model(
    model: Model, works: pl.DataFrame, *, seed: int, folder: Path, device: str = "cpu", ends_only: bool = False
) -> None:
    """Train a model by another model's recipe and write its folder, with files that a training may leave out (tokenizers).

    Args:
        works: examples to train on, with `content` and, optionally, `prompt`; a command sees all columns.
        device: where an adapter trains, if its `train` has such an argument.
        ends_only: the checkpoints between the first and the last are not needed.
    """
    if model.card.training.command is not None:
        run_command(model, works, seed=seed, folder=folder)
    else:
        _run_adapter(model, works, seed=seed, folder=folder, device=device, ends_only=ends_only)
    for name in model.other_files():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(model.folder / name, folder / name)


def _run_adapter(model: Model, works: pl.DataFrame, *, seed: int, folder: Path, device: str, ends_only: bool) -> None:
    adapter: Any = model.adapter()
    if isinstance(recipe := getattr(adapter, "recipe", None), Training):
        # Whatever the adapter would write out in full: the architecture is the same.
        adapter.arguments = dict(model.card.adapter_args)
        adapter.recipe = recipe.model_copy(update={"keep": (1.0,)}) if ends_only else recipe
    more = {"device": device} if _takes(adapter.train, "device") else {}
    with_prompts(adapter.train, examples_in(works), f"adapter {model.card.adapter}", seed=seed, folder=folder, **more)


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with an argument of that name."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def run_command(model: Model, works: pl.DataFrame, *, seed: int, folder: Path) -> None:
    """Train with the command in `model.toml`, run in a copy of the model's folder, which it may write to.

    Its placeholders: `{works}`, a folder with `examples.parquet`; `{seed}`, a number; `{out}`, the model folder to write.
    """
    # Beside the output, because a command may run on another machine, which sees that disk.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name.lstrip('.')}-") as scratch:
        inputs, copy = Path(scratch) / "works", Path(scratch) / "model"
        inputs.mkdir()
        works.write_parquet(inputs / "examples.parquet")
        _copy(model, copy)
        _run(model, copy, inputs, seed, folder)


def _copy(model: Model, folder: Path) -> None:
    """Copy a model's own files; checkpoints are links, because they are large."""
    checkpoints = {checkpoint.file for checkpoint in model.card.checkpoints}
    for name in own_files(model.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name in checkpoints:
            (folder / name).symlink_to((model.folder / name).resolve())
        else:
            shutil.copy(model.folder / name, folder / name)
    point_to_base(model, folder)


def point_to_base(model: Model, folder: Path) -> None:
    """Name a model's base by its whole path in a folder that lies elsewhere."""
    if model.base is None:
        return
    values = {"adapter_args": {}, **read_card(folder).model_dump(mode="json", exclude_unset=True)}
    base = {**values["base"], "folder": str(model.base.folder.resolve())}
    write_card(folder, values, values.get("training", {}), values["checkpoints"], base=base)


def _run(model: Model, copy: Path, inputs: Path, seed: int, folder: Path) -> None:
    assert model.card.training.command is not None
    placeholders = {"works": str(inputs), "seed": str(seed), "out": str(folder)}
    where, words = f"{model.folder / 'model.toml'}: [training] command", []
    for word in model.card.training.command:
        try:
            words.append(word.format_map(placeholders))
        except (AttributeError, LookupError, ValueError):
            expected = "only the placeholders {works}, {seed} and {out}; write {{ for a brace"
            raise ModelError(where, expected=expected, found=repr(word)) from None
    try:
        process = subprocess.run(words, cwd=copy, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ModelError(where, expected="a command that can be run", found=f"{words[0]}: {error}") from error
    if process.returncode:
        last = " | ".join((process.stdout + process.stderr).splitlines()[-LAST_LINES:])
        output = f"its last lines are: {last}" if last else "it printed nothing"
        raise ModelError(where, expected="exit code 0", found=f"{process.returncode}; {output}")
    if not (folder / "model.toml").is_file():
        raise ModelError(where, expected="a model folder, written to {out}", found="no model.toml there")
