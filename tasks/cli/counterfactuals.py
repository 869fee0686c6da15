"""Commands for counterfactual models: `provenance counterfactuals`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import ContractError, InputError
from tasks.cli.help import noun
from tasks.cli.shared import ClaimsDay, Duplicates, Shown, Workers, claims_day, command, watched
from tasks.cli.tables import Grid, number, whole
from tasks.terminal import line
from tasks.where import local_settings, opened

if TYPE_CHECKING:
    from provenance.core.store import Store
    from provenance.core.where import Where
    from provenance.models.subject import Subject

app = noun(
    "Train models on parts of the owners, from which shares are computed. The DAG `train_counterfactuals` trains a night's."
)
IN_FORCE = "by default what nights take now"
SomeCorpus = Annotated[Path | None, Option("--corpus", help=f"Folder with examples.parquet; {IN_FORCE}.")]
SomeModel = Annotated[Path | None, Option("--model", help=f"Folder with model.toml; {IN_FORCE}.")]
SomeFolder = Annotated[Path | None, Option("--out", help="Folder of the set; by default the store of the settings.")]
Copies = Annotated[Duplicates, Option("--duplicates", help="cluster: copies of one another stay together.")]


@command(app)
def train(
    corpus: SomeCorpus = None,
    model: SomeModel = None,
    out: SomeFolder = None,
    trainings: Annotated[
        int | None, Option(min=1, max=256, help="Worth of the set in trainings; by default as in the settings.")
    ] = None,
    duplicates: Copies = "cluster",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Train the counterfactual models of a model, by its own recipe, on parts of the owners.

    Trains on random halves of the owners and their complements, and on small parts: one eighth of the owners or, of up to
    twelve, each alone. Some models are set aside to check intervals. The adapter's method `train` trains them, or the command
    that `model.toml` names (`[training] command`); models trained by a command count once the whole set was checked. Stopped at
    any moment, the same command goes on from there; more trainings keep the models that exist. It runs on the CPU. Without
    folders it trains those of the model and the corpus that nights take now, as the DAG `train_counterfactuals` does.

    Example: `provenance counterfactuals train --corpus corpus --model model --out models --trainings 16`
    """
    from provenance.models import counterfactual_training as training

    with watched(), opened(local_settings(device="cpu", workers=workers), ledger=False) as where:
        subject = _subject(where, corpus, model, out, duplicates, day)
        worth = trainings or where.settings.counterfactuals.trainings
        training.train(where, subject, training.plan_trainings(subject, worth))
    yield from _listed(subject.store, [subject.model], subject.store.url)


@command(app)
def add(
    folders: Annotated[list[Path], Argument(help="Model folders, each with the manifest of what it was trained on.")],
    corpus: SomeCorpus = None,
    model: SomeModel = None,
    out: SomeFolder = None,
    duplicates: Copies = "cluster",
    day: ClaimsDay = None,
) -> Shown:
    """Add models that were trained elsewhere on parts of the owners; recipe, architecture and works are checked.

    Each folder has `model.toml` with `manifest = "manifest.json"` under `[training]`, and that file: `{"works": {"WORK_ID":
    ["SHA-256 of an example", ...], ...}}`.

    Example: `provenance counterfactuals add run-1 run-2 --corpus corpus --model model --out models`
    """
    from provenance.models import counterfactual_training as training

    with watched(), opened(ledger=False) as where:
        subject = _subject(where, corpus, model, out, duplicates, day)
        training.add(subject, folders)
    yield from _listed(subject.store, [subject.model], subject.store.url)


@command(app, "list")
def list_models(
    folder: Annotated[Path | None, Argument(help="Folder of a set; by default that in use.")] = None,
) -> Shown:
    """List counterfactual models: numbers of works and examples of each, and which are set aside.

    A `pair` is a random half of the owners and its complement; `small` parts are an eighth of the owners or, of up to twelve,
    each alone. Models of one partition share out all works among them. The manifest of a model names its works.

    Example: `provenance counterfactuals list models`
    """
    from provenance.core.store import Store
    from provenance.models.stage import subject_in_force

    if folder is None:
        with opened(ledger=False) as where:
            subject = subject_in_force(where)
        yield from _listed(subject.store, [subject.model], subject.store.url)
        return
    store = Store(f"file://{folder.resolve()}", {})
    models = sorted({key.split("/")[1] for key in store.list("counterfactuals")}) if folder.is_dir() else []
    if not models:
        expected = "a folder that `provenance counterfactuals train --out` wrote"
        found = "one without counterfactual models" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise ContractError(str(folder), expected=expected, found=found)
    yield from _listed(store, models, str(folder))


def _subject(
    where: Where, corpus: Path | None, model: Path | None, out: Path | None, duplicates: Duplicates, day: str | None
) -> Subject:
    """The model and corpus of the folders, or else those that nights take now."""
    from provenance.models.stage import subject_in_force
    from provenance.models.subject import subject_of

    claims_of = claims_day(day)
    if corpus is None and model is None and out is None:
        if day is not None:
            expected = "--corpus, --model and --out beside it; nights take the claims of their own day"
            raise InputError("--day", expected=expected, found="none of them")
        return subject_in_force(where)
    if corpus is None or model is None or out is None:
        missing = [name for name, folder in (("--corpus", corpus), ("--model", model), ("--out", out)) if folder is None]
        expected = "--corpus, --model and --out together, or none of them"
        raise InputError("provenance counterfactuals", expected=expected, found=f"no {' and no '.join(missing)}")
    copies = duplicates == "cluster"
    return subject_of(where.at(out, model.resolve()), corpus, model, claims_of, copies=copies)


def _listed(store: Store, models: Sequence[str], place: str) -> Shown:
    from provenance.models.counterfactual_records import summary

    rows = [row for model in models for row in summary(store, model)]
    yield rows, counterfactuals_screen(rows, place)


def counterfactuals_screen(rows: Sequence[Mapping[str, Any]], place: str) -> Iterator[RenderableType]:
    """The counterfactual models of a model."""
    strata = Counter(f"{row['stratum']}{', set aside' if row['aside'] else ''}" for row in rows)
    title = f"{len(rows)} counterfactual models: " + (", ".join(f"{n} {name}" for name, n in strata.items()) or "none yet")
    table = Grid(title, whole("name"), whole("stratum"), *map(number, ("partition", "works", "examples", "seed")))
    for row in rows:
        stratum = f"{row['stratum']}{' (aside)' if row['aside'] else ''}"
        numbers = (f"{row[name]:,}" for name in ("partition", "works", "examples"))
        table.add_row(row["name"][:12], stratum, *numbers, row["seed"])
    yield table
    yield line(f"Each is a model folder below {place}, with manifest.json: the works that it was trained on.", "dim")
