"""Our influence beside its peers': the same model, data and cores, and the same retrained truth.

`run.py [--subsets 32] [--seeds 2] WORKLOAD...` makes each workload if need be (below var/workloads), retrains as
`provenance audit lds` does, runs every method one after another, each in a process of its own on one thread, and prints a
table per workload.
`make peers` makes the environments and runs it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from provenance.features.model import read_model
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling
from tasks.attribute import Request, local_settings, opened
from tasks.audit import Options, truth
from tasks.watch import watch
from tasks.workload import WORKLOADS, make

CHECKOUT = Path(__file__).parents[2]
PEERS = CHECKOUT / ".venv-peers/bin/python"
OURS = {"factored": "ours", "tfidf": "TF-IDF"}
THEIRS = {"trak": "TRAK (traker)", "logra": "LoGra (dattri)", "ekfac": "EK-FAC (kronfluence)"}


def request_of(workload: Path) -> Request:
    """The workload's folders, as `provenance audit lds` would be told them."""
    today = datetime.now(UTC).date()
    return Request(workload / "corpus", workload / "model", workload / "outputs.parquet", workload / "audit", today)


def compare(workload: Path, options: Options, console: Console) -> dict[str, Any]:
    """Retrain, run every method, and hold each against what came of retraining."""
    settings = local_settings(method="factored", device="cpu", workers=None)
    with watch(console), opened(request_of(workload), settings) as (here, night):
        store = here.store.open()
        examples, masks, losses = truth(here, night, options)
        contents = night.read_corpus(store, "content")["content"].to_list()
        outputs = night.read_outputs(store)["content"].to_list()
    result: dict[str, Any] = {"options": vars(options), "ceiling": {}, "methods": {}}
    for family in masks:
        result["ceiling"][family] = noise_ceiling(losses[family])[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stored = {
            "examples": [base64.b64encode(content).decode() for content in contents],
            "outputs": [base64.b64encode(content).decode() for content in outputs],
            "checkpoints": night.checkpoints,
        }
        (folder / "contents.json").write_text(json.dumps(stored))
        (folder / "examples.json").write_text(json.dumps(examples))
        (folder / "model").symlink_to((workload / "model").resolve())
        module = read_model(workload / "model").adapter().module()
        convolutional = any(isinstance(layer, torch.nn.Conv2d) for layer in module.modules())
        for name, title in (OURS | THEIRS).items():
            if name == "logra" and convolutional:
                continue  # it follows Linear layers alone, which convolutional models hardly have
            console.print(f"{workload.name}: {title}")
            _run(name, folder, workload)
            scores = np.load(folder / f"{name}.npy")
            found = json.loads((folder / f"{name}.json").read_text())
            for family, subsets in masks.items():
                estimate = linear_datamodelling_score(scores, subsets, losses[family].mean(axis=0))
                found[family] = {"lds": estimate.value, "low": estimate.low, "high": estimate.high}
            result["methods"][name] = found
    return result


def table(name: str, result: dict[str, Any]) -> Table:
    """A workload's result to look at."""
    made = Table(title=f"{name}: {result['options']['subsets']} halves, {result['options']['seeds']} seeds")
    for column in ("method", "LDS examples", "LDS owners", "CPU / forward+backward", "bytes per example", "peak MB"):
        made.add_column(column, justify="left" if column == "method" else "right")
    for method, found in result["methods"].items():
        lds = [
            f"{found[family]['lds']:.2f} ({found[family]['low']:.2f}-{found[family]['high']:.2f})"
            for family in ("examples", "owners")
        ]
        ratio = "-" if method == "tfidf" else f"{found['ratio']:.1f}"
        made.add_row((OURS | THEIRS)[method], *lds, ratio, f"{found['bytes_per_example']:,}", f"{found['peak_mb']:,.0f}")
    made.add_row("noise ceiling", *(f"{result['ceiling'][family]:.2f}" for family in ("examples", "owners")), "", "", "")
    return made


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--subsets", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    if not PEERS.exists():
        raise SystemExit(f"{PEERS} is not there: run make peers")
    console = Console(stderr=True)
    for name in asked.workloads:
        workload = CHECKOUT / "var/workloads" / name
        if not (workload / "outputs.parquet").exists():
            with watch(console):
                make(name, workload)
        result = compare(workload, Options(subsets=asked.subsets, tune=0, seeds=asked.seeds), console)
        (workload / "peers.json").write_text(json.dumps(result, indent=2))
        Console(width=110).print(table(name, result))


if __name__ == "__main__":
    main()
