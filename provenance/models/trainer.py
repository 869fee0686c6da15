"""Trains a model by the recipe of another: with its adapter, or with the command in its `model.toml`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import polars as pl

from provenance.core.errors import ModelError
from provenance.models.model import Model, examples_in, with_prompts

# Last lines of a command's output that an error shows.
LAST_LINES = 12


def check_trainable(model: Model) -> None:
    """Raise ModelError if the model has neither an adapter that trains nor a training command."""
    if model.card.training.command is None and not callable(getattr(model.adapter(), "train", None)):
        raise ModelError(
            f"adapter {model.card.adapter}",
            expected="a method train(contents, *, seed, folder), or [training] command in model.toml",
            found="neither",
            hint="Or bring models that you have trained: `provenance counterfactuals add`.",
        )


def train_model(model: Model, works: pl.DataFrame, *, seed: int, folder: Path) -> None:
    """Train a model by another model's recipe and write its folder.

    Args:
        works: examples to train on, with `content` and, optionally, `prompt`; a command sees all columns.
    """
    if model.card.training.command is None:
        train = model.adapter().train  # type: ignore[attr-defined]
        with_prompts(train, examples_in(works), f"adapter {model.card.adapter}", seed=seed, folder=folder)
    else:
        run_command(model, works, seed=seed, folder=folder)


def run_command(model: Model, works: pl.DataFrame, *, seed: int, folder: Path) -> None:
    """Train with the command in `model.toml`, run in the model's folder.

    Its placeholders: `{works}`, a folder with `examples.parquet`; `{seed}`, a number; `{out}`, the model folder to write.
    """
    assert model.card.training.command is not None
    inputs = folder.with_name("works")
    inputs.mkdir()
    works.write_parquet(inputs / "examples.parquet")
    placeholders = {"works": str(inputs), "seed": str(seed), "out": str(folder)}
    where, words = f"{model.folder / 'model.toml'}: [training] command", []
    for word in model.card.training.command:
        try:
            words.append(word.format_map(placeholders))
        except (AttributeError, LookupError, ValueError):
            expected = "only the placeholders {works}, {seed} and {out}; write {{ for a brace"
            raise ModelError(where, expected=expected, found=repr(word)) from None
    try:
        process = subprocess.run(words, cwd=model.folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ModelError(where, expected="a command that can be run", found=f"{words[0]}: {error}") from error
    if process.returncode:
        last = " | ".join((process.stdout + process.stderr).splitlines()[-LAST_LINES:])
        output = f"its last lines are: {last}" if last else "it printed nothing"
        raise ModelError(where, expected="exit code 0", found=f"{process.returncode}; {output}")
    if not (folder / "model.toml").is_file():
        raise ModelError(where, expected="a model folder, written to {out}", found="no model.toml there")
