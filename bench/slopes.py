"""Draws how the cost of each stage of a night grows with the number of works, and prints it as a table.

    for n in 10000 100000 1000000; do provenance bench --parts scale --examples $n > scale-$n.json; done
    python bench/slopes.py scale-*.json [--figure infra/figures/slopes.png]

A slope is the processor time of one more work between two sizes, so the fixed cost of a stage does not count. Machines are not
equally fast all day: a slope is what it would be at the mean pace of all stages (`scale.Cost.pace`). The right column compares
the slope between the last two sizes with the one before: 1.1 or less is linear, as far as noise shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from provenance.core.errors import ContractError

MICRO = 1e6


def read(files: list[Path]) -> list[dict[str, Any]]:
    """The runs, the smallest first.

    Raises:
        ContractError: a file is none that `provenance bench --parts scale` printed, or two are of the same size.
    """
    runs: dict[int, dict[str, Any]] = {}
    for file in files:
        try:
            run = json.loads(file.read_text())["scale"]
            works, stages = int(run["examples"]), [cost["pace"] for cost in run["stages"].values()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise ContractError(str(file), expected="what provenance bench --parts scale printed", found=found) from error
        if works in runs or not stages:
            found = f"another of {works:,}" if stages else "no stages"
            raise ContractError(str(file), expected="a run of another number of works", found=found)
        runs[works] = run
    return [runs[works] for works in sorted(runs)]


def slopes(runs: list[dict[str, Any]], stage: str) -> list[float]:
    """Microseconds of the processor for each more work, between one size and the next, at the mean pace."""
    usual = mean(cost["pace"] for run in runs for cost in run["stages"].values())
    costs = [run["stages"][stage] for run in runs]
    points = [(run["examples"], cost["processor"] * usual / cost["pace"]) for run, cost in zip(runs, costs, strict=True)]
    return [MICRO * (more - less) / (works - fewer) for (fewer, less), (works, more) in pairwise(points)]


def peak(cost: dict[str, float]) -> float:
    """Gigabytes of the largest process of a stage."""
    return max(cost["memory"], cost["worker_memory"]) / 1024


def stored(cost: dict[str, float]) -> float:
    """Gigabytes that a stage added to the store and the ledger."""
    return cost["bytes"] / 1e9


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a table in Markdown."""
    sizes = [f"{run['examples']:,}" for run in runs]
    between = [f"us a work, {less} to {more}" for less, more in pairwise(sizes)]
    yield " | ".join(["| stage", *(f"{size}: s, CPU s, GB, GB stored" for size in sizes), *between, "ratio |"])
    yield "|---" * (len(sizes) + len(between) + 2) + "|"
    for stage in runs[0]["stages"]:
        costs = [run["stages"][stage] for run in runs]
        cells = [f"{cost['seconds']:.0f}, {cost['processor']:.0f}, {peak(cost):.1f}, {stored(cost):.1f}" for cost in costs]
        found = slopes(runs, stage)
        ratio = f"{found[-1] / found[-2]:.2f}" if len(found) > 1 and found[-2] > 0 else ""
        yield " | ".join([f"| `{stage}`", *cells, *(str(round(slope)) for slope in found), f"{ratio} |"])
    cells = []
    for run in runs:
        costs = list(run["stages"].values())
        seconds, processor = (sum(cost[name] for cost in costs) for name in ("seconds", "processor"))
        cells.append(f"{seconds:.0f}, {processor:.0f}, {max(map(peak, costs)):.1f}, {sum(map(stored, costs)):.1f}")
    yield " | ".join(["| together", *cells, *[""] * len(between), " |"])


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """A line for each stage: processor time and peak memory by works, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [run["examples"] for run in runs]
    for number, stage in enumerate(runs[0]["stages"]):
        costs, line = [run["stages"][stage] for run in runs], "-" if number < 8 else "--"
        left.plot(sizes, [cost["processor"] for cost in costs], line, color=f"C{number % 8}", marker=".", label=stage)
        right.plot(sizes, [peak(cost) for cost in costs], line, color=f"C{number % 8}", marker=".")
    together = [sum(cost["processor"] for cost in run["stages"].values()) for run in runs]
    left.plot(sizes, together, color="black", linewidth=2, label="together")
    left.axline((sizes[0], 1), (sizes[-1], sizes[-1] / sizes[0]), color="#888888", linewidth=0.6)
    left.annotate("ten times for ten times", (sizes[0], 1), xytext=(4, -12), textcoords="offset points", color="#888888")
    for axis, name in ((left, "seconds of the processor"), (right, "GB, the largest process")):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("works")
        axis.set_title(name)
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table, and draw the figure if it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="JSON of runs: two for slopes, three to compare them")
    parser.add_argument("--figure", type=Path, help="a .png to draw")
    asked = parser.parse_args()
    try:
        runs = read(asked.runs)
    except ContractError as error:
        parser.error(str(error))
    if asked.figure and not (asked.figure.suffix == ".png" and asked.figure.parent.is_dir()):
        parser.error(f"--figure: expected a .png in a folder that exists, found {asked.figure}")
    sys.stdout.writelines(f"{line}\n" for line in table(runs))
    if asked.figure:
        draw(runs, asked.figure)


if __name__ == "__main__":
    main()
