"""Commands for audits: `provenance audit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import RenderableType
from typer import Option

from tasks.cli.help import noun
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
    words,
)
from tasks.cli.tables import Grid, number, whole
from tasks.terminal import line
from tasks.where import local_settings, opened

if TYPE_CHECKING:
    from provenance.core.store import Store
    from provenance.core.where import Where
    from provenance.inputs.night import Night
    from provenance.local.attribute import Request

app = noun("Retrain without the works that the attribution names, and compare: is it true?")


@command(app, "lds")
def audit_lds(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    subsets: Annotated[int, Option(min=4, help="Subsets of each family to report on.")] = 48,
    tune: Annotated[int, Option(min=0, help="More subsets, to weigh the components of `fitted` on.")] = 24,
    seeds: Annotated[int, Option(min=2, help="Trainings of each subset.")] = 2,
    methods: Annotated[str, Option(help="Methods to compare, with commas between.")] = "fitted,factored,tfidf",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Retrain on random halves of examples and of owners, and score how well each method predicts the outcome.

    The model's adapter needs a method `train(contents, *, seed, folder)`. Trained models are kept below `--out`, so an audit
    that was stopped goes on from there, and more subsets cost only themselves. Writes `lds.json` and a figure, `lds.png`. It
    runs on the CPU.

    Example: `provenance audit lds --corpus corpus --model model --outputs outputs.parquet --out audit --subsets 48`
    """
    from provenance.validation import audit

    options = audit.Options(subsets, tune, seeds, tuple(methods.split(",")))
    yield from _audit("lds", (corpus, model, outputs, out), _of_night(audit.audit_lds, options), lds_screen, workers, day)


@command(app, "srs")
def audit_srs(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    seeds: Annotated[int, Option(min=2, help="Trainings on each coalition.")] = 2,
    diagonal: Annotated[int, Option(min=0, help="Trainings at each of three parts of the corpus, for `faithful`.")] = 128,
    trainings: Annotated[str, Option(help="Worths of the counterfactual models, in trainings.")] = "4,8,16",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Retrain on every coalition of up to twelve owners, and compare the royalty rules' shares with the results.

    `srs` is compared with the Shapley values of the retrained models, `banzhaf` with their Banzhaf values, `faithful` with the
    slopes of their worth around the diagonal, where equal parts of everybody's works are in. The counterfactual models of the
    estimates have other seeds than the truth's. Also compared: summed influences, TF-IDF, shares by size and equal shares. With
    k owners it trains 2^k models for each seed; trained models are kept below `--out`. Writes `srs.json` and a figure,
    `srs.png`. It runs on the CPU.

    Example: `provenance audit srs --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from provenance.validation import coalitions

    options = coalitions.Options(seeds, diagonal, whole_numbers("--trainings", trainings))
    yield from _audit("srs", (corpus, model, outputs, out), _of_night(coalitions.audit_srs, options), srs_screen, workers, day)


@command(app, "attacks")
def audit_attacks(
    corpus: CorpusFolder,
    model: ModelFolder,
    outputs: OutputFile,
    out: OutFolder,
    attacker: Annotated[str, Option(help="The owner that attacks; by default the one with the median share.")] = "",
    trainings: Annotated[int, Option(min=2, help="Worth of each model's counterfactual models in trainings.")] = 16,
    pairs: Annotated[int, Option(min=0, help="Pairs of trainings with and without added works.")] = 8,
    only: Annotated[str, Option(help="Attacks to run, with commas between; by default all.")] = "",
    workers: Workers = None,
    day: ClaimsDay = None,
) -> Shown:
    """Have an owner split, copy, pad and pretend, and measure its gain under every royalty rule.

    Splitting divides the owner's works among six identities, at random and sorted by what they add. The other attacks add works
    to the corpus, and train a model and its counterfactual models on the result: copies of the others' best works, exact and
    altered, with and without a search for copies; nonsense; works unlike any other; shuffled words of the others; and twenty
    owners of nonsense alone. For added works it also measures what they teach: their part of all that a model learns, by
    training with and without them (`--pairs 0` omits that). Writes `attacks.json` and a figure, `attacks.png`. It runs on the
    CPU.

    Example: `provenance audit attacks --corpus corpus --model model --outputs outputs.parquet --out audit`
    """
    from provenance.validation import attacks

    def run(where: Where, request: Request) -> tuple[str, Store]:
        chosen = words(only)
        folder, _, store = attacks.audit_attacks(where, request, attacker, trainings=trainings, pairs=pairs, only=chosen)
        return folder, store

    yield from _audit("attacks", (corpus, model, outputs, out), run, attacks_screen, workers, day)


def _of_night(audit: Callable[[Where, Night, Any], str], options: Any) -> Callable[[Where, Request], tuple[str, Store]]:
    """An audit of the night of a request's inputs: it returns the folder of its result, and the store of the folder."""
    from provenance.local.attribute import folder_night

    def run(where: Where, request: Request) -> tuple[str, Store]:
        local, night = folder_night(where, request)
        return audit(local, night, options), local.store

    return run


def _audit(
    kind: str,
    folders: tuple[Path, Path, Path, Path],
    run: Callable[[Where, Request], tuple[str, Store]],
    screen: Callable[[Mapping[str, Any]], Iterator[RenderableType]],
    workers: int | None,
    day: str | None,
) -> Shown:
    """Run an audit, copy its result and figure to the out folder, and show it."""
    from provenance.local.attribute import Request

    request = Request(*folders, claims_day(day))
    with watched(), opened(local_settings(device="cpu", workers=workers), ledger=False) as where:
        folder, store = run(where, request)
    for name in (f"{kind}.json", f"{kind}.png"):
        (request.out / name).write_bytes(store.read(f"{folder}/{name}"))
    result = store.read_json(f"{folder}/{kind}.json")
    yield result, chain(screen(result), [f"{request.out / kind}.json, {kind}.png"])


def lds_screen(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """How well each method predicts retraining, beside the noise ceiling."""
    families = result["families"]
    title = "Linear datamodelling score: rank correlation of predicted and actual effects of training on halves"
    halves = (number(f"halves of {name} ({family['subsets']})") for name, family in families.items())
    table = Grid(title, whole("method"), *halves)
    methods = next(iter(families.values()))["methods"]
    for name in sorted(methods, key=lambda name: -methods[name]["lds"]):
        cells = ["{lds:.2f} ({low:.2f} to {high:.2f})".format(**family["methods"][name]) for family in families.values()]
        table.add_row(name, *cells)
    table.add_section()
    table.add_row("another seed", *[f"{family['seed_agreement']:.2f}" for family in families.values()])
    table.add_row("noise ceiling", *[f"{family['ceiling']:.2f}" for family in families.values()])
    yield table
    yield "Intervals are 95 %, over subsets and outputs. A perfect prediction would reach the noise ceiling."
    if "weights" in result:
        subsets = " and ".join(f"{count} other halves of {name}" for name, count in result["tuning_subsets"].items())
        yield f"The weights of the components of `fitted` were fitted on {subsets}."


def srs_screen(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Errors of rules and baselines against retraining on coalitions."""
    truths = list(next(iter(result["methods"].values())))

    def table_of(title: str, first: str, keys: Mapping[str, str]) -> Grid:
        return Grid(title, whole(first), *(number(f"{truth}\n{heading}") for truth in truths for heading in keys.values()))

    keys = {"l1": "L1 error", "spearman": "Spearman", "pearson": "Pearson"}
    title = f"Shares of {len(result['owners'])} owners in {result['outputs']} outputs, against retraining"
    table = table_of(title, "estimate", keys)
    for name, scores in sorted(result["methods"].items(), key=lambda item: item[1][truths[0]]["l1"]):
        table.add_row(name, *(f"{scores[truth][key]:.2f}" for truth in truths for key in keys))
    table.add_section()
    agreement = (f"{result['seeds_agree'][key]:.2f}" for key in keys)
    table.add_row("one seed, against the others", *agreement, *[""] * len(keys) * (len(truths) - 1))
    yield table
    keys = {"l1": "L1 error", "spearman": "Spearman", "held": "held"}
    title = "Shares by counterfactual models, each rule against its own truth; intervals are meant to hold 90 %"
    table = table_of(title, "worth in trainings", keys)
    for count, scores in sorted(result["trainings"].items(), key=lambda item: int(item[0])):
        table.add_row(str(count), *(f"{scores[truth][key]:.2f}" for truth in truths for key in keys))
    yield table
    yield "L1 is the sum over owners of the errors of shares; 2 would be all wrong. No estimate can beat the seeds' noise."


def attacks_screen(result: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The gain of each attack under every rule."""
    title = f"Attacks by {result['attacker']}: gain in mean share, and earnings of added works, in points, by rule"
    table = Grid(title, whole("attack"), *(number(name, no_wrap=True) for name in (*result["rules"], "retrained")))
    for row in result["attacks"]:
        honest = row is result["attacks"][0]
        cells = [
            f"{row['had'][rule]:.1%}" if honest else f"{row['gain'][rule] * 100:+.1f} {row['added'][rule] * 100:4.1f}"
            for rule in result["rules"]
        ]
        taught = row.get("retrained")
        table.add_row(row["attack"], *cells, f"{taught['part'] * 100:.1f} ± {taught['error'] * 100:.1f}" if taught else "")
    yield table
    yield "Retrained: the part of a model's learning that the added works teach, with its standard error."
    yield "A model trained again on another corpus changes every owner's share a little; `trained again` shows how much."
    yield from (line(f"{row['attack']}: {row['says']}", "dim") for row in result["attacks"][1:])
