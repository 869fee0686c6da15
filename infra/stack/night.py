"""Has the stack's scheduler pay a day, and watches the runs through Airflow's API."""

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
# Seconds that the scheduler may take to start its own run after the DAG is unpaused.
OWN_RUN = 10


def pay(stack: Stack, text: str, console: Console) -> None:
    """Have the demo's model serve a day, and pay for it; exits with 1 if a run fails."""
    from tasks.cli.nights import owners_screen

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
    """The id of the run that pays a day: the scheduler's own if it starts one in time, else a run by hand."""
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
    """Print the end of each task until the run has ended; returns the run's state."""
    reported: set[str] = set()
    state = ""
    with console.status("Waiting for the scheduler") as status:
        for state, tasks in follow(airflow, dag_id, run_id):
            for task_id, task in sorted(tasks.items(), key=lambda row: row[1]["start_date"] or "~"):
                if task["state"] in ENDED and task_id not in reported:
                    reported.add(task_id)
                    console.print(f"  {task_id:28} {task['state']:10} {task['duration'] or 0:6.1f} s")
                elif task["state"] == AWAITING:
                    status.update(f"{task_id} waits for a person: {airflow.url}/required_actions")
                elif task["state"] == "running":
                    status.update(task_id)
            if state == "queued":
                status.update("Waiting for the scheduler, and for the run before this one")
    return state
