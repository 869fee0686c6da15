"""`provenance audit`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.shared import (
    ClaimsDay,
    CorpusFolder,
    ModelFolder,
    OutFolder,
    OutputFile,
    Shown,
    Workers,
    claims_day,
    command,
    watched,
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from provenance.core.store import Store
    from provenance.inputs.night import Night
    from provenance.local.attribute import Request
    from tasks.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Is the attribution true? Retrain without what it says matters, and see.")


@command(app, "lds")
def audit_lds(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    subsets: Annotated[int, typer.Option(min=4, help="Subsets of each family to report on.")] = 48,
    tune: Annotated[int, typer.Option(min=0, help="More subsets, to weigh the components of `fitted` on.")] = 24,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each subset.")] = 2,
    methods: Annotated[str, typer.Option(help="Methods to compare, with commas between.")] = "fitted,factored,tfidf",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Retrain on random halves of examples and of owners, and score how well each method predicts the outcome.

    The model's adapter needs a method `train(contents, *, seed, folder)`. What was trained is kept below `--out` and not
    trained again, so an audit that was stopped goes on where it was, and more subsets cost only themselves. Writes `lds.json`
    and a figure, `lds.png`. It runs on the CPU.

    Example: `provenance audit lds --corpus corpus --model model --outputs outputs.parquet --out audit --subsets 48`
    """
    from provenance.validation import audit

    options = audit.Options(subsets, tune, seeds, tuple(methods.split(",")))
    yield from _audit("lds", (corpus, model, outputs, out), _of_night(audit.audit_lds, options), workers, day)


@command(app, "srs")
def audit_srs(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings on each coalition.")] = 2,
    diagonal: Annotated[int, typer.Option(min=0, help="Trainings at each of three parts of the corpus, for `faithful`.")] = 128,
    trainings: Annotated[
        str, typer.Option(help="What the counterfactual models are worth in trainings, with commas between.")
    ] = "4,8,16",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Retrain on every coalition of up to twelve owners, and hold the royalty rules' shares against what comes of it.

    `srs` is held against the Shapley values of the retrained models, `banzhaf` against their Banzhaf values, `faithful` against
    the slopes of their worth around the diagonal, where everybody's works are in to the same part. The counterfactual models
    on which the estimates rest have other seeds than the truth's. Beside them: summed influences, TF-IDF, shares by size and
    equal shares. With k owners it trains 2^k models for each seed; what was trained is kept below `--out`. Writes `srs.json`
    and a figure, `srs.png`. It runs on the CPU.

    Example: `provenance audit srs --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from provenance.validation import coalition_audit as coalitions

    options = coalitions.Options(seeds, diagonal, whole_numbers("--trainings", trainings))
    yield from _audit("srs", (corpus, model, outputs, out), _of_night(coalitions.audit_srs, options), workers, day)


@command(app, "attacks")
def audit_attacks(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    attacker: Annotated[str, typer.Option(help="The owner that attacks; by default the one with the median share.")] = "",
    trainings: Annotated[int, typer.Option(min=2, help="What each model's counterfactual models are worth.")] = 16,
    pairs: Annotated[
        int, typer.Option(min=0, help="Pairs of trainings with and without what was added, at each of three parts of the rest.")
    ] = 8,
    only: Annotated[str, typer.Option(help="Attacks to run, with commas between; by default all.")] = "",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Have an owner split, copy, pad and pretend, and see what that gains under every royalty rule.

    Splitting parts the owner's works among six identities, at random and sorted by what they add. The other attacks add works
    to the corpus, and a model and its counterfactual models are trained on what comes of it: copies of the others' best works,
    exact and altered, with and without copies being looked for; nonsense; works unlike any other; shuffled words of the others;
    and twenty owners of nonsense alone. Of works that were added it also says what they teach: the part of all that a model
    learns, by training with and without them (`--pairs 0` leaves that out). Writes `attacks.json` and a figure, `attacks.png`.
    It runs on the CPU.

    Example: `provenance audit attacks --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from provenance.validation import attacks

    chosen = tuple(name.strip() for name in only.split(",") if name.strip())

    def run(request: Request, settings: Settings) -> tuple[str, Store]:
        folder, _, store = attacks.audit_attacks(request, settings, attacker, trainings=trainings, pairs=pairs, only=chosen)
        return folder, store

    yield from _audit("attacks", (corpus, model, outputs, out), run, workers, day)


def _of_night(audit: Callable[[Settings, Night, Any], str], options: Any) -> Callable[[Request, Settings], tuple[str, Store]]:
    """An audit of the night that a request's inputs make: its folder, and the store that has it."""
    from provenance.local.attribute import opened

    def run(request: Request, settings: Settings) -> tuple[str, Store]:
        with opened(request, settings) as (here, night):
            return audit(here, night, options), here.store.open()

    return run


def _audit(
    kind: str,
    folders: tuple[Path, Path, Path, Path],
    run: Callable[[Request, Settings], tuple[str, Store]],
    workers: int | None,
    day: str | None,
) -> Shown:
    """Run an audit, leave its result and figure in the out folder, and show it."""
    from provenance.local.attribute import Request, local_settings
    from tasks.cli import tables

    request = Request(*folders, claims_day(day))
    with watched():
        folder, store = run(request, local_settings(device="cpu", workers=workers))
    for name in (f"{kind}.json", f"{kind}.png"):
        (request.out / name).write_bytes(store.read(f"{folder}/{name}"))
    result = store.read_json(f"{folder}/{kind}.json")
    screen = {"lds": tables.lds_screen, "srs": tables.srs_screen, "attacks": tables.attacks_screen}[kind]
    yield result, chain(screen(result), [f"{request.out / kind}.json, {kind}.png"])
