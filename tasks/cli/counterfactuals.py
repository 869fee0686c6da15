"""`provenance counterfactuals`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provenance.core.errors import ContractError, InputError
from tasks.cli.shared import ClaimsDay, Duplicates, Shown, Workers, claims_day, command, watched

if TYPE_CHECKING:
    from provenance.core.store import Store
    from provenance.models.counterfactuals import Subject
    from tasks.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="Models trained on parts of the owners: what shares rest on. The DAG `train_counterfactuals` trains a night's.",
)
IN_FORCE = "by default what nights take now"
SomeCorpus = Annotated[Path | None, typer.Option("--corpus", help=f"Folder with examples.parquet; {IN_FORCE}.")]
SomeModel = Annotated[Path | None, typer.Option("--model", help=f"Folder with model.toml; {IN_FORCE}.")]
SomeFolder = Annotated[Path | None, typer.Option("--out", help="Folder of the set; by default the store of the settings.")]
Copies = Annotated[Duplicates, typer.Option("--duplicates", help="cluster: copies of one another go together.")]


@command(app)
def train(
    corpus: SomeCorpus = None,
    model: SomeModel = None,
    out: SomeFolder = None,
    trainings: Annotated[
        int | None, typer.Option(min=1, max=256, help="What the set is worth, in trainings on everything; 16 by default.")
    ] = None,
    duplicates: Copies = "cluster",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Train the counterfactual models of a model, by its own recipe, on parts of the owners.

    Random halves of the owners, then the other half; and small parts, one eighth of the owners or, of up to twelve, each alone.
    Some are set aside to say how far intervals can be trusted. The adapter's method `train` trains them, or the command that
    `model.toml` names (`[training] command`); what that has trained counts once the whole set was checked. Stopped at any
    moment, the same command goes on where it was; more trainings leave those that are there. It runs on the CPU. Without
    folders it trains those of the model and the corpus that nights take now, as the DAG `train_counterfactuals` does.

    Example: `provenance counterfactuals train --corpus corpus --model model --out models --trainings 16`
    """
    from provenance.models import counterfactuals as task

    with watched():
        subject, settings = _subject(corpus, model, out, duplicates, workers, day)
        task.train(subject, task.planned(subject, trainings or settings.counterfactuals.trainings), settings)
    yield from _listed(subject.store, [subject.model], subject.store.url)


@command(app)
def add(
    folders: Annotated[list[Path], typer.Argument(help="Model folders, each with the manifest of what it was trained on.")],
    corpus: SomeCorpus = None,
    model: SomeModel = None,
    out: SomeFolder = None,
    duplicates: Copies = "cluster",
    day: ClaimsDay = None,
) -> Shown:
    """Add models that were trained elsewhere on parts of the owners, checked: recipe, architecture, works.

    Each folder has `model.toml` with `manifest = "manifest.json"` under `[training]`, and that file: `{"works": {"WORK_ID":
    ["SHA-256 of an example", ...], ...}}`.

    Example: `provenance counterfactuals add run-1 run-2 --corpus corpus --model model --out models`
    """
    from provenance.models import counterfactuals as task

    with watched():
        subject, _ = _subject(corpus, model, out, duplicates, None, day)
        task.add(subject, folders)
    yield from _listed(subject.store, [subject.model], subject.store.url)


@command(app, "list")
def list_models(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a set; by default the store of the settings, and the model in use.")
    ] = None,
) -> Shown:
    """List counterfactual models: who was in, how many works, which are set aside.

    Example: `provenance counterfactuals list models`
    """
    from provenance.core.store import Store
    from provenance.models.counterfactuals import subject_in_force

    if folder is None:
        subject, _ = subject_in_force()
        yield from _listed(subject.store, [subject.model], subject.store.url)
        return
    if not folder.is_dir():
        expected = "a folder that `provenance counterfactuals train --out` wrote"
        raise ContractError(str(folder), expected=expected, found="no such folder")
    store = Store(f"file://{folder.resolve()}", {})
    served = sorted({key.split("/")[1] for key in store.list("counterfactuals")})
    yield from _listed(store, served, str(folder))


def _listed(store: Store, served: list[str], where: str) -> Shown:
    """The counterfactual models of some models."""
    from provenance.models.counterfactuals import summary
    from tasks.cli.tables import counterfactuals_screen

    rows = [row for model in served for row in summary(store, model)]
    yield rows, counterfactuals_screen(rows, where)


def _subject(
    corpus: Path | None, model: Path | None, out: Path | None, duplicates: Duplicates, workers: int | None, day: str | None
) -> tuple[Subject, Settings]:
    """What is trained, and the settings for workers in processes of their own."""
    from provenance.local.attribute import local_settings
    from provenance.models import counterfactuals as task

    settings = local_settings(device="cpu", workers=workers)
    if corpus is None and model is None and out is None:
        return task.subject_in_force()[0], settings
    if corpus is None or model is None or out is None:
        lacking = [name for name, given in (("--corpus", corpus), ("--model", model), ("--out", out)) if given is None]
        expected = "--corpus, --model and --out together, or none of them"
        raise InputError("provenance counterfactuals", expected=expected, found=f"no {' and no '.join(lacking)}")
    settings = settings.at(out, model.resolve())
    copies = duplicates == "cluster"
    return task.subject_of(settings, corpus, model, claims_day(day), copies=copies), settings
