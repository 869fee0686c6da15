"""`provenance audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.cli.shared import (
    AsJson,
    ClaimsDay,
    CorpusFolder,
    ModelFolder,
    OutFolder,
    OutputFile,
    Workers,
    claims_day,
    console,
    print_json,
    whole_numbers,
)
from tasks.terminal import Terminal

app = typer.Typer(no_args_is_help=True, help="Is the attribution true? Retrain without what it says matters, and see.")


@app.command("lds")
def audit_lds(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    subsets: Annotated[int, typer.Option(min=4, help="Subsets of each family to report on.")] = 48,
    tune: Annotated[int, typer.Option(min=0, help="More subsets, to weigh the components of `fitted` on.")] = 24,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings of each subset.")] = 2,
    methods: Annotated[
        str, typer.Option(help="Methods to compare, with commas between.")
    ] = "fitted,factored,cosine,tfidf,bm25",
    components: Annotated[bool, typer.Option("--components", help="Score every component of `fitted`, too.")] = False,
    workers: Workers = None,
    day: ClaimsDay = None,
    as_json: AsJson = False,
) -> None:
    """Retrain on random halves of examples and of owners, and score how well each method predicts the outcome.

    The model's adapter needs a method `train(contents, *, seed, folder)`. What was trained is kept below `--out` and not
    trained again, so an audit that was stopped goes on where it was, and more subsets cost only themselves. Writes `lds.json`
    and a figure, `lds.png`. It runs on the CPU.

    Example: `provenance audit lds --corpus corpus --model model --outputs outputs.parquet --out audit --subsets 48`
    """
    from tasks import audit

    _audit(
        "lds",
        (corpus, model, outputs, out),
        audit.Options(subsets, tune, seeds, tuple(methods.split(",")), components),
        workers,
        day,
        as_json=as_json,
    )


@app.command("owners")
def audit_owners(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings without each owner.")] = 2,
    methods: Annotated[str, typer.Option(help="Methods to compare, with commas between.")] = "factored,cosine,tfidf,bm25",
    workers: Workers = None,
    day: ClaimsDay = None,
    as_json: AsJson = False,
) -> None:
    """Retrain without each owner in turn, and compare the rise of each output's loss with the owner's influence on it.

    A work of several owners leaves with the one who has the largest stake. Writes `owners.json` and a figure, `owners.png`.
    It runs on the CPU.

    Example: `provenance audit owners --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from tasks import audit

    _audit(
        "owners",
        (corpus, model, outputs, out),
        audit.Options(4, 0, seeds, tuple(methods.split(","))),
        workers,
        day,
        as_json=as_json,
    )


@app.command("srs")
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
    as_json: AsJson = False,
) -> None:
    """Retrain on every coalition of up to twelve owners, and hold the royalty rules' shares against what comes of it.

    `srs` is held against the Shapley values of the retrained models, `banzhaf` against their Banzhaf values, `faithful` against
    the slopes of their worth around the diagonal, where everybody's works are in to the same part. The counterfactual models
    on which the estimates rest have other seeds than the truth's. Beside them: summed influences, TF-IDF, shares by size and
    equal shares. With k owners it trains 2^k models for each seed; what was trained is kept below `--out`. Writes `srs.json`
    and a figure, `srs.png`. It runs on the CPU.

    Example: `provenance audit srs --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from tasks import coalitions

    options = coalitions.Options(seeds, diagonal, whole_numbers("--trainings", trainings))
    _audit("srs", (corpus, model, outputs, out), options, workers, day, as_json=as_json)


@app.command("attacks")
def audit_attacks(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    attacker: Annotated[str, typer.Option(help="The owner that attacks; by default the one with the median share.")] = "",
    trainings: Annotated[int, typer.Option(min=2, help="What each model's counterfactual models are worth.")] = 16,
    only: Annotated[str, typer.Option(help="Attacks to run, with commas between; by default all.")] = "",
    workers: Workers = None,
    day: ClaimsDay = None,
    as_json: AsJson = False,
) -> None:
    """Have an owner split, copy, pad and pretend, and see what that gains under every royalty rule.

    Splitting parts the owner's works among six identities, at random and sorted by what they add. The other attacks add works
    to the corpus, and a model and its counterfactual models are trained on what comes of it: copies of the others' best works,
    exact and altered, with and without copies being looked for; nonsense; works unlike any other; shuffled words of the others;
    and twenty owners of nonsense alone. Writes
    `attacks.json` and a figure, `attacks.png`. It runs on the CPU.

    Example: `provenance audit attacks --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from tasks import attacks
    from tasks import attribute as task
    from tasks.screens import attacks_screen
    from tasks.watch import watch

    request = task.Request(corpus, model, outputs, out, claims_day(day))
    with watch(Terminal(stderr=True)):
        settings = task.local_settings(device="cpu", workers=workers)
        chosen = tuple(name.strip() for name in only.split(",") if name.strip())
        folder, result, store = attacks.audit_attacks(request, settings, attacker, trainings=trainings, only=chosen)
    for name in ("attacks.json", "attacks.png"):
        (out / name).write_bytes(store.read(f"{folder}/{name}"))
    if as_json:
        print_json(result)
    else:
        console.print(*attacks_screen(result), sep="\n", soft_wrap=True)
        console.print(f"{out / 'attacks'}.json, attacks.png")


def _audit(
    kind: str,
    folders: tuple[Path, Path, Path, Path],
    options: Any,
    workers: int | None,
    day: str | None,
    *,
    as_json: bool,
) -> None:
    from tasks import attribute as task
    from tasks import audit, coalitions
    from tasks.screens import lds_screen, owner_audit_screen, srs_screen
    from tasks.watch import watch

    request = task.Request(*folders, claims_day(day))
    with watch(Terminal(stderr=True)):
        settings = task.local_settings(device="cpu", workers=workers)
        with task.opened(request, settings) as (settings, night):
            run: Any = {"lds": audit.audit_lds, "owners": audit.audit_owners, "srs": coalitions.audit_srs}[kind]
            folder = run(settings, night, options)
            store = settings.store.open()
    result = store.read_json(f"{folder}/{kind}.json")
    for name in (f"{kind}.json", f"{kind}.png"):
        (request.out / name).write_bytes(store.read(f"{folder}/{name}"))
    if as_json:
        print_json(result)
    else:
        screen = {"lds": lds_screen, "owners": owner_audit_screen, "srs": srs_screen}[kind]
        console.print(*screen(result), sep="\n", soft_wrap=True)
        console.print(f"{request.out / kind}.json, {kind}.png")
