"""A day paid by the stack's own scheduler, asked for and watched through Airflow's API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from infra.demo import deliver, parse_day_or_yesterday
from infra.monitor.runs import AWAITING, NIGHTLY, SUCCESS
from infra.stack.api import ENDED, airflow_as, follow, trigger
from tasks.settings import load

if TYPE_CHECKING:
    from datetime import date

    from rich.console import Console

    from infra.stack.api import Airflow
    from infra.stack.layout import Stack

OPERATOR = "olga"
# Seconds within which the scheduler begins its own run, once the DAG is not paused any more.
OWN_RUN = 10


def pay(stack: Stack, text: str, console: Console) -> None:
    """Have the demo's model serve a day, and pay for it; ends the process with 1 where that fails."""
    from tasks.cli.tables import owners_screen

    day = parse_day_or_yesterday(text)
    settings = load()
    store = settings.store.open()
    deliver(settings, store, day, console)
    airflow = airflow_as(stack, OPERATOR)
    for dag_id in ("ingest_corpus", NIGHTLY):
        run_id = run_of(airflow, day) if dag_id == NIGHTLY else trigger(airflow, dag_id, {})
        console.print(f"[bold]{dag_id}[/] {stack.airflow_url}/dags/{dag_id}/runs/{run_id}", soft_wrap=True)
        if watch(airflow, dag_id, run_id, console) != SUCCESS:
            console.print("[bold red]Failed.[/] The task's log in Airflow's UI says why.")
            raise SystemExit(1)
    console.print(*owners_screen(store, str(day)), sep="\n")


def run_of(airflow: Airflow, day: date) -> str:
    """The run that pays a day: the scheduler's own, where it makes one as soon as it may, or else one begun by hand."""
    was_paused = airflow.call("GET", f"/dags/{NIGHTLY}")["is_paused"]
    airflow.call("PATCH", f"/dags/{NIGHTLY}", {"is_paused": False})
    until = time.monotonic() + (OWN_RUN if was_paused else 0)
    while True:
        for run in airflow.runs(NIGHTLY, run_type="scheduled"):
            if run["state"] not in ENDED and run["data_interval_start"][:10] == str(day):
                return str(run["dag_run_id"])
        if time.monotonic() > until:
            return trigger(airflow, NIGHTLY, {"day": str(day)})
        time.sleep(1)


def watch(airflow: Airflow, dag_id: str, run_id: str, console: Console) -> str:
    """Tell how each task of a run ends, until the run has; returns its state."""
    told: set[str] = set()
    state = ""
    with console.status("Waiting for the scheduler") as shown:
        for state, tasks in follow(airflow, dag_id, run_id):
            for task_id, task in sorted(tasks.items(), key=lambda row: row[1]["start_date"] or "~"):
                if task["state"] in ENDED and task_id not in told:
                    told.add(task_id)
                    console.print(f"  {task_id:28} {task['state']:10} {task['duration'] or 0:6.1f} s")
                elif task["state"] == AWAITING:
                    shown.update(f"{task_id} waits for a person: {airflow.url}/required_actions")
                elif task["state"] == "running":
                    shown.update(task_id)
            if state == "queued":
                shown.update("Waiting for the scheduler, and for the run before this one")
    return state
