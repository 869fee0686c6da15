"""What attribution and shares cost against an earlier version, in one run: both start cold, in turns.

    .venv/bin/python bench/versions.py 70c5677 [--workload code] [--trainings 8] [--rounds 3]

Checks the earlier commit out into a temporary worktree. Each version makes the workload (the same texts, and a model of the
same recipe), and this one its counterfactual models; neither counts. Then each runs `provenance attribute`, by gradients alone,
which both have, and `provenance royalty`, by the rule `faithful`: by counterfactual models, or by what the earlier version has
in their place. `--old-python` names the interpreter of an environment of the earlier commit's own, where it does not run in
this one. Prints JSON: seconds by the clock and of the processor for each command, their medians, and the ratios of these,
today's over the earlier one's.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
GIT = shutil.which("git") or "git"
MEASURED = ("seconds", "processor")


@dataclass(frozen=True)
class Version:
    """A checkout, and the interpreter that runs it.

    Attributes:
        inputs: folder of its workload.
        counterfactuals: options of `royalty` that name its counterfactual models, if it has any.
    """

    tree: Path
    python: str
    inputs: Path
    counterfactuals: tuple[str, ...] = ()

    def run(self, *arguments: object) -> dict[str, float]:
        """The cost of a command: seconds by the clock, and of the processor."""
        command = [self.python, "-m", "tasks.cli", *map(str, arguments)]
        start, before = time.perf_counter(), os.times()
        environment = os.environ | {"PYTHONPATH": str(self.tree)}
        ended = subprocess.run(command, cwd=self.tree, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)}, in {self.tree}:\n{ended.stdout}{ended.stderr}")
        after = os.times()
        processor = after.children_user + after.children_system - before.children_user - before.children_system
        return {"seconds": time.perf_counter() - start, "processor": processor}

    def pay(self, out: Path) -> dict[str, dict[str, float]]:
        """The cost of each command, and of both, with nothing computed before."""
        files = {"corpus": "corpus", "model": "model", "outputs": "outputs.parquet"}
        inputs = [f"--{name}={self.inputs / file}" for name, file in files.items()]
        here = ["--device=cpu", "--workers=1"]
        costs = {
            "attribute": self.run("attribute", *inputs, f"--out={out}", "--method=factored", *here),
            "royalty": self.run("royalty", f"--influence={out}", f"--out={out}.parquet", *self.counterfactuals, *here),
        }
        return costs | {"both": {name: sum(cost[name] for cost in costs.values()) for name in MEASURED}}


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit, which is removed at the end."""
    subprocess.run([GIT, "-C", HERE, "worktree", "add", "--quiet", "--detach", folder, commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([GIT, "-C", HERE, "worktree", "remove", "--force", folder], check=True)


def compared(asked: argparse.Namespace) -> dict[str, Any]:
    """The figures of both versions."""
    with (
        tempfile.TemporaryDirectory(prefix="provenance-versions-") as name,
        checked_out(asked.commit, Path(name) / "tree") as tree,
    ):
        scratch = Path(name)
        models = scratch / "counterfactuals"
        versions = {
            "old": Version(tree, asked.old_python, scratch / "old"),
            "new": Version(HERE, sys.executable, scratch / "new", (f"--counterfactuals={models}",)),
        }
        for version in versions.values():
            version.run("workload", asked.workload, version.inputs)
        new = versions["new"]
        folders = [f"--corpus={new.inputs / 'corpus'}", f"--model={new.inputs / 'model'}", f"--out={models}"]
        new.run("counterfactuals", "train", *folders, f"--trainings={asked.trainings}")
        rounds = [
            {side: version.pay(scratch / f"{side}-{number}") for side, version in versions.items()}
            for number in range(asked.rounds)
        ]
    median = {
        side: {
            command: {measured: statistics.median(each[side][command][measured] for each in rounds) for measured in MEASURED}
            for command in rounds[0][side]
        }
        for side in versions
    }
    ratios = {
        command: {measured: cost / median["old"][command][measured] for measured, cost in costs.items()}
        for command, costs in median["new"].items()
    }
    setting = {"commit": asked.commit, "workload": asked.workload, "trainings": asked.trainings}
    return setting | {"rounds": rounds, "median": median, "new_over_old": ratios}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="of the earlier version")
    parser.add_argument("--workload", default="code", help="a name that `provenance workload` knows in both (default: code)")
    parser.add_argument("--trainings", type=int, default=8, help="what counterfactual models are worth (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--old-python", default=sys.executable, help="interpreter for the earlier version; by default this one")
    sys.stdout.write(json.dumps(compared(parser.parse_args()), indent=2) + "\n")


if __name__ == "__main__":
    main()
