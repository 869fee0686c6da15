"""Reads how long the stages of nights took from the lineage events that tasks left on this machine."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

NIGHTLY = "nightly_payouts"
NIGHT = re.compile(r"nights/day=\d{4}-\d{2}-\d{2}/[0-9a-f]+")


@dataclass
class _Run:
    """One run of the DAG: tasks that have begun and ended, seconds by stage, and the night's folder once it is known."""

    begun: dict[str, datetime] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    store: str = ""
    night: str = ""


def seconds_of_nights(folder: Path | None, store: str) -> dict[str, dict[str, float]]:
    """Seconds by stage of the last run of each night of a store, all its tries, by the night's folder; empty without events.

    Args:
        folder: of the events, one file a day (`settings.lineage.path`); other stores may have events in it.
        store: the store's URL.
    """
    # A run that is run anew from its first task, outside Airflow's scheduler, has the ids of before.
    latest: dict[str, _Run] = {}
    runs: list[_Run] = []
    for event in _events(folder):
        dag, _, stage = event["job"]["name"].partition(".")
        if dag != NIGHTLY:
            continue
        task, name = event["run"]["runId"], event["run"]["facets"]["parent"]["run"]["runId"]
        at = datetime.fromisoformat(event["eventTime"])
        run = latest.get(name)
        if event["eventType"] == "START":
            if run is None or task in run.ended:
                run = latest[name] = _Run()
                runs.append(run)
            run.begun[task] = at
        elif run is not None and task in run.begun:
            run.spent[stage] += (at - run.begun.pop(task)).total_seconds()
            run.ended.add(task)
            for dataset in (*event.get("inputs", ()), *event["outputs"]):
                source = dataset["facets"].get("dataSource", {})
                if found := NIGHT.search(source.get("uri", "")):
                    run.store, run.night = source.get("name", ""), found[0]
    return {run.night: dict(run.spent) for run in runs if run.night and run.store == store}


def _events(folder: Path | None) -> list[dict[str, Any]]:
    """The events in the order of time; a half-written line of a killed task is left out."""
    events = []
    for file in sorted(folder.glob("*.jsonl")) if folder and folder.is_dir() else ():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return events
