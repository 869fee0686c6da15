"""What attribution costs against an earlier version, in one run: both start cold, in turns, on the same inputs.

    .venv/bin/provenance workload code var/workloads/code
    .venv/bin/python bench/versions.py 70c5677 var/workloads/code [--rounds 3]

Checks the earlier commit out into a temporary worktree, and runs `provenance attribute` of both, each with an empty folder for
its results, one worker, and the method that both have. An earlier version refuses what a later one says of a training in
`model.toml`, so both get the model without its table `[training]`. `--old-python` names the interpreter of an environment of
the earlier commit's own, where it does not run in this one. Prints JSON: seconds by the clock and of the processor, their
medians, and the ratios of these, today's over the earlier one's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
GIT = shutil.which("git") or "git"


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit, which is removed at the end."""
    subprocess.run([GIT, "-C", HERE, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([GIT, "-C", HERE, "worktree", "remove", "--force", folder], check=True)


def plain_model(model: Path, copy: Path) -> Path:
    """A copy of a model folder whose `model.toml` says nothing of its training."""
    shutil.copytree(model, copy)
    before, _, rest = (copy / "model.toml").read_text().partition("[training]\n")
    tables = rest.find("\n[[")
    (copy / "model.toml").write_text(before + (rest[tables:] if tables >= 0 else ""))
    return copy


def attribute(tree: Path, python: str, inputs: list[str], out: Path) -> dict[str, float]:
    """The cost of a cold `provenance attribute` of the code in a folder: seconds by the clock, and of the processor."""
    command = [python, "-m", "tasks.cli", "attribute", *inputs, "--out", str(out), "--method", "factored"]
    command += ["--device", "cpu", "--workers", "1"]
    start, before = time.perf_counter(), os.times()
    environment = os.environ | {"PYTHONPATH": str(tree)}
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)}, in {tree}:\n{ended.stdout}{ended.stderr}")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - start, "processor": processor}


def compared(commit: str, workload: Path, rounds: int, old_python: str) -> dict[str, Any]:
    """The figures of both versions."""
    costs: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    with (
        tempfile.TemporaryDirectory(prefix="provenance-versions-") as scratch,
        checked_out(commit, Path(scratch) / "tree") as tree,
    ):
        model = plain_model(workload / "model", Path(scratch) / "model")
        inputs = ["--corpus", str(workload / "corpus"), "--model", str(model), "--outputs", str(workload / "outputs.parquet")]
        sides = {"old": (tree, old_python), "new": (HERE, sys.executable)}
        for number in range(rounds):
            for side, (folder, python) in sides.items():
                costs[side].append(attribute(folder, python, inputs, Path(scratch) / f"{side}-{number}"))
    median = {
        side: {name: statistics.median(cost[name] for cost in own) for name in ("seconds", "processor")}
        for side, own in costs.items()
    }
    ratios = {name: median["new"][name] / median["old"][name] for name in ("seconds", "processor")}
    return {"commit": commit, "workload": workload.name, "rounds": costs, "median": median, "new_over_old": ratios}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="of the earlier version")
    parser.add_argument("workload", type=Path, help="folder with corpus/, model/ and outputs.parquet")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each")
    parser.add_argument("--old-python", default=sys.executable, help="interpreter for the earlier version; by default this one")
    options = parser.parse_args()
    figures = compared(options.commit, options.workload.resolve(), options.rounds, options.old_python)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
