"""Starts backfills through the stack's Airflow, and watches them to their end."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.monitor.runs import NIGHTLY, SUCCESS
from infra.stack.api import ENDED, airflow_as
from infra.stack.night import OPERATOR
from provenance.core.errors import InputError
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT
from tasks.where import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from infra.stack.api import Airflow
    from infra.stack.layout import Stack
    from provenance.settlement.books import Booking


def backfill(stack: Stack, first: date, last: date, console: Console) -> None:
    """Pay days again, or for the first time, in their order, and say what was booked; exits with 1 if a day fails.

    Stopping this stops only watching: the scheduler goes on. The same command continues watching. When the backfill is done,
    the command pays the days once more, which books nothing unless something has changed.
    """
    airflow = airflow_as(stack, OPERATOR)
    started = _running(airflow) or _create(airflow, first, last)
    days = _days(date.fromisoformat(started["from_date"][:10]), date.fromisoformat(started["to_date"][:10]))
    if (days[0], days[-1]) != (first, last):
        raise InputError(
            f"backfill of {first} to {last}",
            expected="no other running backfill of nights",
            found=f"one of {days[0]} to {days[-1]}",
            hint=f"Wait for it, or cancel it in the UI: {stack.airflow_url}/dags/{NIGHTLY}/backfills",
        )
    runs = _watch(airflow, started, days, console)
    counts = Counter(run["state"] for run in runs)
    others = "".join(f", {count} {state}" for state, count in sorted(counts.items()) if state != SUCCESS)
    console.print(f"{counts[SUCCESS]} of {len(days)} {'night' if len(days) == 1 else 'nights'} succeeded{others}.")
    paid = [date.fromisoformat(run["data_interval_start"][:10]) for run in runs if run["state"] == SUCCESS]
    if paid:
        with opened() as where:
            nights = ledger.bookings(where.ledger, kind=NIGHT)
        console.print(booked_in_words(nights, paid, datetime.fromisoformat(started["created_at"])), soft_wrap=True)
    failed = [run for run in runs if run["state"] != SUCCESS]
    for run in failed:
        console.print(f"[red]{run['state']}[/]: {stack.airflow_url}/dags/{NIGHTLY}/runs/{run['dag_run_id']}", soft_wrap=True)
    if failed:
        raise SystemExit(1)


def booked_in_words(nights: Sequence[Booking], days: Sequence[date], since: datetime) -> str:
    """What was booked for some days since a time, or that nothing was.

    Args:
        nights: all bookings of nights.
    """
    booked = [night for night in nights if night.day in days and night.booked_at >= since]
    same = "the others are" if booked else "Nothing was booked: every day is"
    unchanged = f"{same} booked already, with the same inputs, model and rules."
    if not booked:
        return unchanged
    names = ", ".join(f"{night.day} (revision {night.revision})" for night in booked)
    rest = len({*days} - {night.day for night in booked})
    return f"Booked: {names}." if not rest else f"Booked: {names}; {unchanged}"


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _create(airflow: Airflow, first: date, last: date) -> dict[str, Any]:
    """Start a backfill; `to_date` is the last second of the last day, since midnight would leave out its run."""
    if last >= datetime.now(UTC).date():
        raise InputError("TO", expected="a day that is over (UTC)", found=str(last))
    request = {
        "dag_id": NIGHTLY,
        "from_date": f"{first}T00:00:00Z",
        "to_date": f"{last}T23:59:59Z",
        "run_backwards": False,
        "dag_run_conf": {},
        "max_active_runs": 1,
        "reprocess_behavior": "completed",
    }
    airflow.call("PATCH", f"/dags/{NIGHTLY}", {"is_paused": False})
    return dict(airflow.call("POST", "/backfills", request))


def _running(airflow: Airflow) -> dict[str, Any] | None:
    """The running backfill of nights; Airflow allows one at a time."""
    backfills = airflow.call("GET", "/backfills", dag_id=NIGHTLY, limit=100)["backfills"]
    active = [each for each in backfills if each["completed_at"] is None]
    return dict(active[0]) if active else None


def _watch(airflow: Airflow, backfill: dict[str, Any], days: list[date], console: Console) -> list[dict[str, Any]]:
    """Watch a backfill until all runs have ended; returns the runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("nights", total=len(days))
        days_filter = {"logical_date_gte": f"{days[0]}T00:00:00Z", "logical_date_lte": f"{days[-1]}T23:59:59Z"}
        while True:
            runs = [run for run in airflow.runs(NIGHTLY, **days_filter) if run["run_type"] == "backfill"]
            ended = [run for run in runs if run["state"] in ENDED]
            current = next((run["data_interval_start"][:10] for run in runs if run["state"] == "running"), "waiting")
            progress.update(bar, completed=len(ended), description=f"nights, now {current}")
            state = airflow.call("GET", f"/backfills/{backfill['id']}")
            if state["completed_at"] is not None and len(ended) == len(runs):
                return runs
            time.sleep(2)
