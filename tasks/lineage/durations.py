"""Reads how long the stages of nights took from the lineage events that tasks left on this machine."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

NIGHTLY = "nightly_payouts"
DAY = re.compile(r"(?:nights|exports/payouts)/day=(\d{4}-\d{2}-\d{2})/")


def seconds_of_nights(folder: Path | None) -> dict[str, dict[str, float]]:
    """Seconds by stage of the last run of each day, over all its tries; empty without events.

    Args:
        folder: of the events, one file a day (`settings.lineage.path`).
    """
    begun: dict[str, datetime] = {}
    spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    days: dict[str, str] = {}
    for event in _events(folder):
        dag, _, stage = event["job"]["name"].partition(".")
        if dag != NIGHTLY:
            continue
        task, run = event["run"]["runId"], event["run"]["facets"]["parent"]["run"]["runId"]
        at = datetime.fromisoformat(event["eventTime"])
        if event["eventType"] == "START":
            begun[task] = at
        elif task in begun:
            spent[run][stage] += (at - begun.pop(task)).total_seconds()
        for dataset in event["outputs"]:
            if found := DAY.search(dataset["facets"].get("dataSource", {}).get("uri", "")):
                days[run] = found[1]
    return {day: dict(spent[run]) for run, day in days.items()}


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
