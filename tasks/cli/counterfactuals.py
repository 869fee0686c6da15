"""`provenance counterfactuals`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provenance.core.errors import ContractError
from tasks.cli.shared import (
    AsJson,
    ClaimsDay,
    CorpusFolder,
    Duplicates,
    ModelFolder,
    Workers,
    claims_day,
    console,
    print_json,
)
from tasks.terminal import Terminal

if TYPE_CHECKING:
    from tasks.counterfactuals import Subject
    from tasks.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Models trained on parts of the owners: what shares rest on. The DAG `train_counterfactuals` trains a night's.",
)
SetFolder = Annotated[Path, typer.Option("--out", help="Folder of the set; what it has is not trained again.")]
Copies = Annotated[Duplicates, typer.Option("--duplicates", help="cluster: copies of one another go together.")]


@app.command()
def train(
    corpus: CorpusFolder,
    model: ModelFolder,
    out: SetFolder,
    trainings: Annotated[int, typer.Option(min=1, max=256, help="What the set is worth, in trainings on everything.")] = 16,
    duplicates: Copies = Duplicates.cluster,
    workers: Workers = None,
    day: ClaimsDay = None,
    as_json: AsJson = False,
) -> None:
    """Train the counterfactual models of a model, by its own recipe, on parts of the owners.

    Random halves of the owners, then the other half; and small parts, one eighth of the owners or, of up to twelve, each alone.
    Some are set aside to say how far intervals can be trusted. The adapter's method `train` trains them, or the command that
    `model.toml` names (`[training] command`). Stopped at any moment, the same command goes on where it was; more trainings
    leave those that are there. It runs on the CPU.

    Example: `provenance counterfactuals train --corpus corpus --model model --out models --trainings 16`
    """
    from tasks import counterfactuals as task
    from tasks.screens import counterfactuals_screen
    from tasks.watch import watch

    with watch(Terminal(stderr=True)):
        subject, settings = _subject(corpus, model, out, duplicates, workers, day)
        task.train(subject, task.planned(subject, trainings), settings)
        rows = task.summary(subject.store, subject.model)
    if as_json:
        print_json(rows)
    else:
        console.print(*counterfactuals_screen(rows, str(out)), sep="\n", soft_wrap=True)


@app.command()
def add(
    folders: Annotated[list[Path], typer.Argument(help="Model folders, each with the manifest of what it was trained on.")],
    corpus: CorpusFolder,
    model: ModelFolder,
    out: SetFolder,
    duplicates: Copies = Duplicates.cluster,
    day: ClaimsDay = None,
    as_json: AsJson = False,
) -> None:
    """Add models that were trained elsewhere on parts of the owners, checked: recipe, architecture, works.

    Each folder has `model.toml` with `manifest = "manifest.json"` under `[training]`, and that file: `{"works": {"WORK_ID":
    ["SHA-256 of an example", ...], ...}}`.

    Example: `provenance counterfactuals add run-1 run-2 --corpus corpus --model model --out models`
    """
    from tasks import counterfactuals as task
    from tasks.screens import counterfactuals_screen
    from tasks.watch import watch

    with watch(Terminal(stderr=True)):
        subject, settings = _subject(corpus, model, out, duplicates, None, day)
        task.add(subject, folders, settings)
        rows = task.summary(subject.store, subject.model)
    if as_json:
        print_json(rows)
    else:
        console.print(*counterfactuals_screen(rows, str(out)), sep="\n", soft_wrap=True)


@app.command("list")
def list_models(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a set; by default the store of the settings, and the model in use.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List counterfactual models: who was in, how many works, which are set aside.

    Example: `provenance counterfactuals list models`
    """
    from provenance.core.store import Store
    from tasks import counterfactuals as task
    from tasks.screens import counterfactuals_screen

    if folder is None:
        subject, _ = task.subject_in_force()
        store, served = subject.store, [subject.model]
    elif folder.is_dir():
        store = Store(f"file://{folder.resolve()}", {})
        served = sorted({key.split("/")[1] for key in store.list("counterfactuals")})
    else:
        expected = "a folder that `provenance counterfactuals train --out` wrote"
        raise ContractError(str(folder), expected=expected, found="no such folder")
    rows = [row for model in served for row in task.summary(store, model)]
    if as_json:
        print_json(rows)
    else:
        console.print(*counterfactuals_screen(rows, str(folder or store.url)), sep="\n", soft_wrap=True)


def _subject(
    corpus: Path, model: Path, out: Path, duplicates: Duplicates, workers: int | None, day: str | None
) -> tuple[Subject, Settings]:
    from tasks import counterfactuals as task
    from tasks.attribute import local_settings

    settings = local_settings(device="cpu", workers=workers).at(out, model.resolve())
    copies = duplicates is Duplicates.cluster
    return task.subject_of(settings, corpus, model, claims_day(day), copies=copies), settings
