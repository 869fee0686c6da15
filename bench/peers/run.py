"""Compare our influence with its peers': the same model, data and cores, and the same retraining as the truth.

`run.py [--subsets 32] [--tune 16] [--seeds 2] [--outputs 8] [--without METHOD] WORKLOAD...` makes each workload that is missing
(below var/workloads), retrains as `provenance audit lds` does, runs every method in its own process on one thread, and prints
for each workload:

- the linear datamodelling score on halves of the examples and of the owners, and its cost. `fitted` is weighed on other halves
  than those reported;
- by how much `fitted` is ahead of each method;
- for a few outputs, the same score where retraining repeats the served model's run step by step, and the query loss difference:
  the rise of an output's loss without the examples that count most for it, minus the rise without as many random examples;
- the score of each component that `fitted` weighs.

`make peers` makes the environments and runs it. Trainings and scores are kept: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import same_seed
import torch
from rich.console import Console
from rich.table import Table

from provenance.core.store import digest
from provenance.local.attribute import Request, folder_night
from provenance.models.model import read_model
from provenance.validation.audit import EXAMPLES, FITTED, OWNERS, Options, truth, values_of, weigh
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling, score_lead
from provenance.validation.retrain import base_and_served, retrain
from provenance.validation.workload import SEED, WORKLOADS, make
from tasks.terminal import watch
from tasks.where import local_settings, opened

if TYPE_CHECKING:
    from provenance.core.where import Where
    from provenance.inputs.night import Night

CHECKOUT = Path(__file__).parents[2]
PEERS = CHECKOUT / ".venv-peers/bin/python"
OURS = {FITTED: "ours, fitted", "factored": "ours, gradients alike", "tfidf": "TF-IDF"}
BERGSON = {
    "ekfac_cg": "EK-FAC + CG (bergson)",
    "source": "SOURCE (bergson)",
    "trackstar": "TrackStar (bergson)",
    "magic": "MAGIC (bergson)",
}
THEIRS = {"trak": "TRAK (traker)", "logra": "LoGra (dattri)", "ekfac": "EK-FAC (kronfluence)"} | BERGSON
FAMILIES = (EXAMPLES, OWNERS)
SIZE = "size"  # every example counts the same: halves of the owners differ in size
# Parts of the examples that are removed for the query loss difference; draws of random examples for each.
FRACTIONS, RANDOM = (0.01, 0.05, 0.1), 4
REMOVAL_SEED = 101


@dataclass(frozen=True)
class Truth:
    """A workload, and the results of retraining.

    Attributes:
        masks, losses: of halves, by family; the first `tune[family]` are for the weights of components.
        ends: log-likelihoods of the outputs before and after the training, `(2, outputs)`.
        chosen: the few outputs for the second table.
        same: losses of halves of the examples by the served model's own steps; None if no method estimates that.
    """

    examples: list[str]
    contents: list[bytes]
    outputs: list[bytes]
    checkpoints: list[str]
    masks: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]
    tune: dict[str, int]
    ends: np.ndarray
    chosen: list[int]
    same: np.ndarray | None


def request_of(workload: Path) -> Request:
    """The request on a workload's folders, as in `provenance audit lds`."""
    today = datetime.now(UTC).date()
    return Request(workload / "corpus", workload / "model", workload / "outputs.parquet", workload / "audit", today)


def compare(workload: Path, options: Options, few: int, without: Sequence[str], console: Console) -> dict[str, Any]:
    """Retrain, run every method but some, and compare each with retraining."""
    settings = local_settings(method="factored", device="cpu", workers=None)
    with watch(console), opened(settings, ledger=False) as where:
        local, night = folder_night(where, request_of(workload))
        module = read_model(workload / "model").adapter().module()
        sequences = not any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
        facts = retrained(workload, local, night, options, few, sequences=sequences)
        names = [name for name in OURS | THEIRS if sequences or name not in BERGSON | {"logra": ""}]
        names = [name for name in names if (few or name != "magic") and name not in without]
        scores, costs = run_all(workload, facts, names, console)
        result = report(facts, scores)
        for name, cost in costs.items():
            result["methods"][name].update(cost)
        by_example = {name: of[EXAMPLES] for name, of in scores.items() if name in names}
        rises_by_method = removals(local, night, facts, by_example) if few else {}
    for name, rises in rises_by_method.items():
        result["methods"][name]["qld"] = rises
    return {"options": asdict(options) | {"outputs": few}, **result}


def retrained(workload: Path, where: Where, night: Night, options: Options, few: int, *, sequences: bool) -> Truth:
    """Retrain on halves; removals depend on the methods and come later."""
    store = where.store
    examples, masks, losses = truth(where, night, options)
    contents = night.read_corpus(store, "content")["content"].to_list()
    outputs = night.read_outputs(store)["content"].to_list()
    tune = {family: options.tune * len(of) // (options.tune + options.subsets) for family, of in masks.items()}
    chosen = np.linspace(0, len(outputs) - 1, few).round().astype(int).tolist()
    halves = masks[EXAMPLES][tune[EXAMPLES] :]
    same = same_seed.retrain(workload, contents, outputs, halves, SEED) if sequences and few else None
    ends = base_and_served(where, night)
    return Truth(examples, contents, outputs, list(night.checkpoints), masks, losses, tune, ends, chosen, same)


def run_all(
    workload: Path, facts: Truth, names: list[str], console: Console
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Scores `(outputs, examples)` by method or component and family, and the cost of each method."""
    stored = {
        "examples": [base64.b64encode(content).decode() for content in facts.contents],
        "outputs": [base64.b64encode(content).decode() for content in facts.outputs],
        "checkpoints": facts.checkpoints,
        "seed": SEED,
        "chosen": facts.chosen,
    }
    folder = workload / "peers" / digest([stored, read_model(workload / "model").files])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contents.json").write_text(json.dumps(stored))
    (folder / "examples.json").write_text(json.dumps(facts.examples))
    (folder / "model").unlink(missing_ok=True)
    (folder / "model").symlink_to((workload / "model").resolve())
    scores, costs = {}, {}
    for name in names:
        if not (folder / f"{name}.json").exists():
            console.print(f"{workload.name}: {(OURS | THEIRS)[name]}")
            _run(name, folder, workload)
        method_scores = np.load(folder / f"{name}.npy")
        costs[name] = json.loads((folder / f"{name}.json").read_text())
        if name != FITTED:
            scores[name] = dict.fromkeys(facts.masks, method_scores)
            continue
        components = dict(zip(json.loads((folder / "components.json").read_text()), method_scores, strict=True))
        weights = {
            family: weigh(
                of[: facts.tune[family]], facts.losses[family][:, : facts.tune[family]].mean(axis=0), components, facts.ends
            )
            for family, of in facts.masks.items()
        }
        scores[FITTED] = {family: values_of(of, components, facts.ends) for family, of in weights.items()}
        scores |= {f"component {each}": dict.fromkeys(facts.masks, matrix) for each, matrix in components.items()}
        costs[FITTED]["weights"] = weights
    scores[SIZE] = dict.fromkeys(facts.masks, np.ones((len(facts.outputs), len(facts.examples))))
    return scores, costs


def report(facts: Truth, scores: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Linear datamodelling scores of every method and component."""
    result: dict[str, Any] = {"ceiling": {}, "halves": {}, "methods": {name: {} for name in scores}}
    for family, masks in facts.masks.items():
        reported, outcome = masks[facts.tune[family] :], facts.losses[family][:, facts.tune[family] :]
        result["ceiling"][family], result["halves"][family] = noise_ceiling(outcome)[1], len(reported)
        for name, of in scores.items():
            result["methods"][name][family] = _lds(of[family], reported, outcome.mean(axis=0))
            fitted, other, of_both = _scored((scores[FITTED][family], of[family]), outcome.mean(axis=0))
            result["methods"][name][family]["behind"] = score_lead(fitted, other, reported, of_both)
    if facts.same is not None:
        reported, few = facts.masks[EXAMPLES][facts.tune[EXAMPLES] :], facts.chosen
        for name, of in scores.items():
            result["methods"][name]["same_seed"] = _lds(of[EXAMPLES][few], reported, facts.same[:, few])
    return result


def _lds(scores: np.ndarray, subsets: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """The linear datamodelling score on the outputs that a method scored."""
    scored, outcome = _scored((scores,), losses)
    return linear_datamodelling_score(scored, subsets, outcome)


def _scored(scores: Sequence[np.ndarray], losses: np.ndarray) -> tuple[np.ndarray, ...]:
    """The scores, and the losses, of the outputs that all methods scored."""
    scored = np.logical_and.reduce([np.isfinite(each).all(axis=1) for each in scores])
    return *(each[scored] for each in scores), losses[:, scored]


def removals(where: Where, night: Night, facts: Truth, scores: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """The query loss difference by method and fraction, in per cent of the loss with all examples.

    A model is trained for each of the chosen outputs and each fraction.
    """
    total = len(facts.examples)
    counts = [max(1, round(fraction * total)) for fraction in FRACTIONS]
    draw = np.random.default_rng(REMOVAL_SEED)
    removed = [np.zeros(0, dtype=int), *(draw.permutation(total)[:count] for count in counts for _ in range(RANDOM))]
    for of in scores.values():
        for output in facts.chosen:
            order = np.argsort(-of[output], kind="stable")
            removed += [order[:count] for count in counts]
    masks = np.ones((len(removed), total), dtype=bool)
    for mask, examples in zip(masks, removed, strict=True):
        mask[examples] = False
    losses = retrain(where, night, masks, REMOVAL_SEED, "the top examples removed")[:, facts.chosen]
    full, rest = losses[0], losses[1 + RANDOM * len(counts) :]
    random = losses[1 : 1 + RANDOM * len(counts)].reshape(len(counts), RANDOM, -1).mean(axis=1)
    by_method = rest.reshape(len(scores), len(facts.chosen), len(counts), len(facts.chosen))
    own = np.einsum("moco->mco", by_method)
    return {name: (100 * (of - random) / full).mean(axis=1).tolist() for name, of in zip(scores, own, strict=True)}


def tables(name: str, result: dict[str, Any]) -> list[Table]:
    """The tables of a workload's result."""
    options, halves = result["options"], result["halves"]
    titles = {method: title for method, title in (OURS | THEIRS).items() if method in result["methods"]}
    scores = _table(
        f"{name}: {halves[EXAMPLES]} halves of examples, {halves[OWNERS]} of owners, {options['seeds']} seeds",
        "method", "LDS examples", "LDS owners", "CPU / forward+backward", "bytes per example", "peak MB",
    )  # fmt: skip
    leads = _table(f"{name}: the score of {OURS[FITTED]!r} less the method's, on the same resamples", "method", *FAMILIES)
    for method, title in titles.items():
        row = result["methods"][method]
        ratio = "-" if method == "tfidf" else f"{row['ratio']:.1f}"
        kept = "-" if method in BERGSON else f"{row['bytes_per_example']:,}"
        scores.add_row(title, *(_cell(row[family]) for family in FAMILIES), ratio, kept, f"{row['peak_mb']:,.0f}")
    for method, title in (titles | {SIZE: "examples, counted alone"}).items():
        if method != FITTED:
            leads.add_row(title, *(_cell(result["methods"][method][family]["behind"], "lead") for family in FAMILIES))
    size = result["methods"][SIZE]
    scores.add_row("examples, counted alone", *(_cell(size[family]) for family in FAMILIES), "", "", "")
    scores.add_row("noise ceiling", *(f"{result['ceiling'][family]:.2f}" for family in FAMILIES), "", "", "")
    removed = _table(
        f"{name}, {options['outputs']} outputs: the served model's own steps repeated, and the loss without the top examples",
        "method", "LDS, same steps", *(f"loss without {fraction:.0%}" for fraction in FRACTIONS),
    )  # fmt: skip
    for method, title in titles.items():
        row = result["methods"][method]
        same = _cell(row["same_seed"]) if "same_seed" in row else "-"
        removed.add_row(title, same, *(f"{rise:+.1f} %" for rise in row.get("qld", ())))
    parts = _table(f"{name}: components of our influence", "component", "weight", "LDS examples", "weight", "LDS owners")
    weights = result["methods"][FITTED]["weights"]
    for component in weights[EXAMPLES]:
        row = result["methods"][f"component {component}"]
        cells = [cell for family in FAMILIES for cell in (f"{weights[family][component]:.3g}", _cell(row[family]))]
        parts.add_row(component, *cells)
    return [scores, leads, removed, parts] if options["outputs"] else [scores, leads, parts]


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _cell(score: dict[str, float], name: str = "lds") -> str:
    return f"{score[name]:.2f} ({score['low']:.2f}-{score['high']:.2f})"


def _run(name: str, folder: Path, workload: Path) -> None:
    scripts = Path(__file__).parent
    command = [str(PEERS), str(scripts / "peer.py"), name, str(folder)]
    if name in OURS:
        command = [sys.executable, str(scripts / "ours.py"), name, str(folder), str(workload)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    """Compare on each workload of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--tune", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--outputs", type=int, default=8)
    parser.add_argument(
        "--without", action="append", choices=list(THEIRS), default=[], help="a method that would take too long"
    )
    arguments = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit(f"{PEERS} is not there: run make peers")
    console = Console(stderr=True)
    for name in arguments.workloads:
        workload = CHECKOUT / "var/workloads" / name
        if not (workload / "outputs.parquet").exists():
            with watch(console):
                make(name, workload)
        options = Options(subsets=arguments.subsets, tune=arguments.tune, seeds=arguments.seeds)
        result = compare(workload, options, arguments.outputs, arguments.without, console)
        (workload / "peers.json").write_text(json.dumps(result, indent=2))
        for table in tables(name, result):
            Console(width=120).print(table)


if __name__ == "__main__":
    main()
