"""Our influence beside its peers': the same model, data and cores, and the same retrained truth.

`run.py [--subsets 32] [--tune 16] [--seeds 2] [--outputs 8] WORKLOAD...` makes each workload if need be (below var/workloads),
retrains as `provenance audit lds` does, runs every method one after another, each in a process of its own on one thread, and
prints three tables per workload:

- the linear datamodelling score on halves of the examples and of the owners, and what it costs. `fitted` is weighed on halves
  of its own, which nothing is reported on;
- of a few outputs, the same score where retraining repeats the served model's run step by step, and the query loss difference:
  how much the loss of an output rises once the examples that count most for it are gone, beyond what as many random ones do;
- the score of each component that `fitted` weighs.

`make peers` makes the environments and runs it. What was trained or scored is kept: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
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
from provenance.local.attribute import Request, local_settings, opened
from provenance.models.model import read_model
from provenance.validation.audit import EXAMPLES, FITTED, OWNERS, Options, truth, weigh
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling
from provenance.validation.retrain import base_and_served, retrain
from provenance.validation.workload import SEED, WORKLOADS, make
from tasks.watch import watch

if TYPE_CHECKING:
    from provenance.inputs.night import Night
    from tasks.settings import Settings

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
# Of the examples, removed for the query loss difference; random ones are removed so often.
FRACTIONS, RANDOM = (0.01, 0.05, 0.1), 4
REMOVAL_SEED = 101


@dataclass(frozen=True)
class Truth:
    """A workload, and what retraining says of it.

    Attributes:
        masks, losses: of halves, by family; the first `tune[family]` are for the weights of components.
        ends: log-likelihoods of the outputs before and after the training, `(2, outputs)`.
        chosen: the few outputs that every one is asked about singly.
        same: losses of halves of the examples by the served model's own steps; None where no method estimates that.
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
    """The workload's folders, as `provenance audit lds` would be told them."""
    today = datetime.now(UTC).date()
    return Request(workload / "corpus", workload / "model", workload / "outputs.parquet", workload / "audit", today)


def compare(workload: Path, options: Options, few: int, console: Console) -> dict[str, Any]:
    """Retrain, run every method, and hold each against what came of retraining."""
    settings = local_settings(method="factored", device="cpu", workers=None)
    with watch(console), opened(request_of(workload), settings) as (here, night):
        module = read_model(workload / "model").adapter().module()
        sequences = not any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
        known = retrained(workload, here, night, options, few, sequences=sequences)
        names = [name for name in OURS | THEIRS if sequences or name not in BERGSON | {"logra": ""}]
        names = [name for name in names if few or name != "magic"]
        scores, costs = run_all(workload, known, names, console)
        result = report(known, scores)
        for name, cost in costs.items():
            result["methods"][name].update(cost)
        told = {name: of[EXAMPLES] for name, of in scores.items() if name in names}
        removed = removals(here, night, known, told) if few else {}
    for name, rises in removed.items():
        result["methods"][name]["qld"] = rises
    return {"options": asdict(options) | {"outputs": few}, **result}


def retrained(workload: Path, settings: Settings, night: Night, options: Options, few: int, *, sequences: bool) -> Truth:
    """All of the truth but removals, which depend on the methods."""
    store = settings.store.open()
    examples, masks, losses = truth(settings, night, options)
    contents = night.read_corpus(store, "content")["content"].to_list()
    outputs = night.read_outputs(store)["content"].to_list()
    tune = {family: options.tune * len(of) // (options.tune + options.subsets) for family, of in masks.items()}
    chosen = np.linspace(0, len(outputs) - 1, few).round().astype(int).tolist()
    halves = masks[EXAMPLES][tune[EXAMPLES] :]
    same = same_seed.retrain(workload, contents, outputs, halves, SEED) if sequences and few else None
    ends = base_and_served(settings, night)
    return Truth(examples, contents, outputs, list(night.checkpoints), masks, losses, tune, ends, chosen, same)


def run_all(
    workload: Path, known: Truth, names: list[str], console: Console
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Scores `(outputs, examples)` by method or component and family, and what each method cost."""
    stored = {
        "examples": [base64.b64encode(content).decode() for content in known.contents],
        "outputs": [base64.b64encode(content).decode() for content in known.outputs],
        "checkpoints": known.checkpoints,
        "seed": SEED,
        "chosen": known.chosen,
    }
    folder = workload / "peers" / digest([stored, read_model(workload / "model").files])[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contents.json").write_text(json.dumps(stored))
    (folder / "examples.json").write_text(json.dumps(known.examples))
    (folder / "model").unlink(missing_ok=True)
    (folder / "model").symlink_to((workload / "model").resolve())
    scores, costs = {}, {}
    for name in names:
        if not (folder / f"{name}.json").exists():
            console.print(f"{workload.name}: {(OURS | THEIRS)[name]}")
            _run(name, folder, workload)
        found = np.load(folder / f"{name}.npy")
        costs[name] = json.loads((folder / f"{name}.json").read_text())
        if name != FITTED:
            scores[name] = dict.fromkeys(known.masks, found)
            continue
        components = dict(zip(json.loads((folder / "components.json").read_text()), found, strict=True))
        weights = {
            family: weigh(
                of[: known.tune[family]], known.losses[family][:, : known.tune[family]].mean(axis=0), components, known.ends
            )
            for family, of in known.masks.items()
        }
        scores[FITTED] = {
            family: np.asarray(sum(weight * components[each] for each, weight in of.items())) for family, of in weights.items()
        }
        scores |= {f"component {each}": dict.fromkeys(known.masks, matrix) for each, matrix in components.items()}
        costs[FITTED]["weights"] = weights
    return scores, costs


def report(known: Truth, scores: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Linear datamodelling scores of every method and component."""
    result: dict[str, Any] = {"ceiling": {}, "halves": {}, "methods": {name: {} for name in scores}}
    for family, masks in known.masks.items():
        reported, outcome = masks[known.tune[family] :], known.losses[family][:, known.tune[family] :]
        result["ceiling"][family], result["halves"][family] = noise_ceiling(outcome)[1], len(reported)
        for name, of in scores.items():
            result["methods"][name][family] = _lds(of[family], reported, outcome.mean(axis=0))
    if known.same is not None:
        reported, few = known.masks[EXAMPLES][known.tune[EXAMPLES] :], known.chosen
        for name, of in scores.items():
            result["methods"][name]["same_seed"] = _lds(of[EXAMPLES][few], reported, known.same[:, few])
    return result


def _lds(scores: np.ndarray, subsets: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Of the outputs that a method was asked about."""
    asked = np.isfinite(scores).all(axis=1)
    estimate = linear_datamodelling_score(scores[asked], subsets, losses[:, asked])
    return {"lds": estimate.value, "low": estimate.low, "high": estimate.high}


def removals(settings: Settings, night: Night, known: Truth, scores: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """By method, how much more the loss rises without the examples that count most than without random ones, in per cent.

    For each of the few outputs and each fraction a model is trained anew; the rise is a part of the loss with all examples.
    """
    total = len(known.examples)
    counts = [max(1, round(fraction * total)) for fraction in FRACTIONS]
    draw = np.random.default_rng(REMOVAL_SEED)
    gone = [np.zeros(0, dtype=int), *(draw.permutation(total)[:count] for count in counts for _ in range(RANDOM))]
    for of in scores.values():
        for output in known.chosen:
            order = np.argsort(-of[output], kind="stable")
            gone += [order[:count] for count in counts]
    masks = np.ones((len(gone), total), dtype=bool)
    for mask, removed in zip(masks, gone, strict=True):
        mask[removed] = False
    losses = retrain(settings, night, masks, REMOVAL_SEED, "what counts most")[:, known.chosen]
    full, rest = losses[0], losses[1 + RANDOM * len(counts) :]
    random = losses[1 : 1 + RANDOM * len(counts)].reshape(len(counts), RANDOM, -1).mean(axis=1)
    by_method = rest.reshape(len(scores), len(known.chosen), len(counts), len(known.chosen))
    own = np.einsum("moco->mco", by_method)
    return {name: (100 * (of - random) / full).mean(axis=1).tolist() for name, of in zip(scores, own, strict=True)}


def tables(name: str, result: dict[str, Any]) -> list[Table]:
    """A workload's result to look at."""
    asked, halves = result["options"], result["halves"]
    titled = {method: (OURS | THEIRS).get(method, method) for method in result["methods"]}
    proper = [method for method in result["methods"] if method in OURS | THEIRS]
    made = _table(
        f"{name}: {halves[EXAMPLES]} halves of examples, {halves[OWNERS]} of owners, {asked['seeds']} seeds",
        "method", "LDS examples", "LDS owners", "CPU / forward+backward", "bytes per example", "peak MB",
    )  # fmt: skip
    for method in proper:
        found = result["methods"][method]
        ratio = "-" if method == "tfidf" else f"{found['ratio']:.1f}"
        kept = "-" if method in BERGSON else f"{found['bytes_per_example']:,}"
        made.add_row(
            titled[method], *(_cell(found[family]) for family in (EXAMPLES, OWNERS)), ratio, kept, f"{found['peak_mb']:,.0f}"
        )
    made.add_row("noise ceiling", *(f"{result['ceiling'][family]:.2f}" for family in (EXAMPLES, OWNERS)), "", "", "")
    removed = _table(
        f"{name}, {asked['outputs']} outputs: the served model's own steps repeated, and the loss without what counts most",
        "method", "LDS, same steps", *(f"loss without {fraction:.0%}" for fraction in FRACTIONS),
    )  # fmt: skip
    for method in proper:
        found = result["methods"][method]
        same = _cell(found["same_seed"]) if "same_seed" in found else "-"
        removed.add_row(titled[method], same, *(f"{rise:+.1f} %" for rise in found.get("qld", ())))
    parts = _table(f"{name}: components of our influence", "component", "weight", "LDS examples", "weight", "LDS owners")
    weights = result["methods"][FITTED]["weights"]
    for component in weights[EXAMPLES]:
        found = result["methods"][f"component {component}"]
        cells = [cell for family in (EXAMPLES, OWNERS) for cell in (f"{weights[family][component]:.3g}", _cell(found[family]))]
        parts.add_row(component, *cells)
    return [made, removed, parts] if asked["outputs"] else [made, parts]


def _table(title: str, first: str, *others: str) -> Table:
    made = Table(title=title)
    made.add_column(first)
    for column in others:
        made.add_column(column, justify="right")
    return made


def _cell(found: dict[str, float]) -> str:
    return f"{found['lds']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def _run(name: str, folder: Path, workload: Path) -> None:
    here = Path(__file__).parent
    command = [str(PEERS), str(here / "peer.py"), name, str(folder)]
    if name in OURS:
        command = [sys.executable, str(here / "ours.py"), name, str(folder), str(workload)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    """Compare on each workload that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--tune", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--outputs", type=int, default=8)
    asked = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit(f"{PEERS} is not there: run make peers")
    console = Console(stderr=True)
    for name in asked.workloads:
        workload = CHECKOUT / "var/workloads" / name
        if not (workload / "outputs.parquet").exists():
            with watch(console):
                make(name, workload)
        result = compare(workload, Options(subsets=asked.subsets, tune=asked.tune, seeds=asked.seeds), asked.outputs, console)
        (workload / "peers.json").write_text(json.dumps(result, indent=2))
        for made in tables(name, result):
            Console(width=120).print(made)


if __name__ == "__main__":
    main()
