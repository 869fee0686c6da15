"""Measures what a night costs in which nothing is new: the same day, paid again by a stack of its own.

    .venv/bin/python bench/fixed_cost.py [--nights 3]

Prints JSON: seconds of a run from its first task's start to its last one's end, and of processor time of all processes of the
stack; for each task the seconds before it (since the end of the one before) and in it. Each figure is the median of the nights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "tests/faults"), str(CHECKOUT / "tests"), str(CHECKOUT)]

import chaos  # noqa: E402
import psutil  # noqa: E402
from samples import corpus_frames, deliver  # noqa: E402

from infra.monitor.runs import NIGHTLY  # noqa: E402
from infra.stack import supervise  # noqa: E402
from infra.stack.api import airflow_as, trigger  # noqa: E402
from infra.stack.layout import MARK, environment  # noqa: E402
from tasks import settings  # noqa: E402

if TYPE_CHECKING:
    from infra.stack.api import Airflow
    from infra.stack.layout import Stack


def main() -> None:
    """Pay a day once, then again and again, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=3)
    count = parser.parse_args().nights
    with tempfile.TemporaryDirectory(prefix="fixed-cost-") as name:
        stack = chaos.begin(Path(name))
        try:
            os.environ |= environment(stack)
            day = str(chaos.YESTERDAY)
            deliver(settings.load().store.open(), corpus_frames(), (day,))
            airflow = airflow_as(stack, "olga")
            chaos.wait(airflow, "ingest_corpus", trigger(airflow, "ingest_corpus", {}))
            airflow.call("PATCH", f"/dags/{NIGHTLY}", {"is_paused": False})  # its run of yesterday comes by itself
            first = chaos.scheduled(airflow)
            chaos.wait(airflow, NIGHTLY, first)
            everything_new = timeline(airflow, first)
            nights = [again(stack, airflow, day) for _ in range(count)]
        finally:
            supervise.end(stack)
    report = {
        "everything_new": round(everything_new["seconds"], 1),
        "nothing_new": median(nights, "seconds"),
        "processor": median(nights, "processor"),
        "between_tasks": median(nights, "between"),
        "tasks": {
            task: {
                part: round(statistics.median(night["tasks"][task][part] for night in nights), 2) for part in ("before", "in")
            }
            for task in nights[0]["tasks"]
        },
    }
    print(json.dumps(report, indent=2))  # noqa: T201


def again(stack: Stack, airflow: Airflow, day: str) -> dict[str, Any]:
    """Pay the day again, and measure it."""
    before = processor(stack)
    run = trigger(airflow, NIGHTLY, {"day": day})
    state, _ = chaos.wait(airflow, NIGHTLY, run)
    assert state == "success", state
    return {**timeline(airflow, run), "processor": processor(stack) - before}


def timeline(airflow: Airflow, run: str) -> dict[str, Any]:
    """Seconds of a run, of its tasks, and between them."""
    ran = [task for task in airflow.tasks(NIGHTLY, run).values() if task["duration"] and task["state"] == "success"]
    ran.sort(key=lambda task: str(task["start_date"]))
    queued = min(datetime.fromisoformat(row["queued_at"]) for row in airflow.runs(NIGHTLY) if row["dag_run_id"] == run)
    tasks, ended = {}, queued
    for task in ran:
        start, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
        tasks[task["task_id"]] = {"before": (start - ended).total_seconds(), "in": task["duration"]}
        ended = end
    whole = (ended - queued).total_seconds()
    return {"seconds": whole, "between": sum(task["before"] for task in tasks.values()), "tasks": tasks}


def processor(stack: Stack) -> float:
    """Seconds of processor time of all processes of the stack so far, and of those that they waited for."""
    total = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(stack.path):
                total += sum(process.cpu_times()[:4])
    return total


def median(nights: list[dict[str, Any]], name: str) -> float:
    """The median of a figure of some nights."""
    return round(float(statistics.median(night[name] for night in nights)), 1)


if __name__ == "__main__":
    main()
