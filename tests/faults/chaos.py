"""Kill every part of a running stack in turn, in the middle of a night, and hold what it publishes against undisturbed nights.

    make chaos                                            every fault, a night each
    python tests/faults/chaos.py --only s3 --only postgres

The stack is one of its own, in a folder that is thrown away, on free ports, with a corpus of sixty sentences. A night that does
not end, or that publishes other bytes, is told of at the end; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "tests"), str(CHECKOUT)]

import psutil  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from samples import corpus_frames, deliver, stack_settings, train_tiny  # noqa: E402
from servers import eventually  # noqa: E402

from infra.monitor.runs import NIGHTLY  # noqa: E402
from infra.stack import supervise  # noqa: E402
from infra.stack.api import airflow_as, follow, trigger  # noqa: E402
from infra.stack.layout import MARK, environment, load  # noqa: E402
from tasks import settings  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from infra.stack.api import Airflow
    from infra.stack.layout import Stack
    from provenance.core.store import Store

# A night that was hit has its tasks' retries to end in, a minute after each failure.
PATIENCE = 900
console = Console(width=160)


@dataclass(frozen=True)
class Fault:
    """What is done to the stack while a task of a night runs.

    Attributes:
        at: the task.
        inject: what is done; gets the stack and the process id of the task.
    """

    name: str
    what: str
    at: str
    inject: Callable[[Stack, int], None]


def kill(name: str, signal: str = "SIGKILL") -> Callable[[Stack, int], None]:
    """A fault: one of the stack's processes gets a signal; supervisord starts it again."""
    return lambda stack, _: console.print(f"   {signal} to {name}, process {supervise.kill(stack, name, signal)}")


def kill_child(name: str) -> Callable[[Stack, int], None]:
    """A fault: the process below one of the stack's is killed."""

    def inject(stack: Stack, _: int) -> None:
        for child in psutil.Process(int(supervise.states(stack)[name]["pid"])).children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                console.print(f"   SIGKILL to the worker of {name}, process {child.pid}")
                child.kill()

    return inject


def kill_task(_: Stack, pid: int) -> None:
    """A fault: the task's own process is killed."""
    console.print(f"   SIGKILL to the task, process {pid}")
    psutil.Process(pid).kill()


def cut_the_power(stack: Stack, _: int) -> None:
    """A fault: everything is killed at once, supervisord too, and the stack is started again."""
    console.print(f"   SIGKILL to {len(supervise.kill_everything(stack))} processes")
    up()


FAULTS = (
    Fault("dask-worker", "SIGKILL of a Dask worker", "features.featurise", kill_child("dask-worker-1")),
    Fault("dask-nanny", "SIGKILL of the process that looks after a Dask worker", "influence.score", kill("dask-worker-2")),
    Fault("dask-scheduler", "SIGKILL of the Dask scheduler", "features.featurise", kill("dask-scheduler")),
    Fault("task", "SIGKILL of an Airflow task", "royalty.estimate", kill_task),
    Fault("scheduler", "SIGKILL of the Airflow scheduler", "influence.score", kill("airflow-scheduler")),
    Fault("api-server", "SIGKILL of the API server", "royalty.likelihoods", kill("airflow-api-server")),
    Fault("dag-processor", "SIGKILL of the DAG processor", "features.plan", kill("airflow-dag-processor")),
    Fault("triggerer", "SIGKILL of the triggerer", "features.plan", kill("airflow-triggerer")),
    Fault("postgres", "PostgreSQL stopped at once and started again", "settlement.book", kill("postgres", "SIGQUIT")),
    Fault("postgres-early", "the same while gradients are computed", "features.featurise", kill("postgres", "SIGQUIT")),
    Fault("s3", "SIGKILL of the S3 server", "features.featurise", kill("s3")),
    Fault("s3-publish", "the same while a night is published", "settlement.publish", kill("s3")),
    Fault("power", "SIGKILL of everything at once, and `make up`", "royalty.estimate", cut_the_power),
)


def main() -> None:
    """Run the faults, and tell what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[fault.name for fault in FAULTS], help="of all faults, this one")
    parser.add_argument("--reference", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        undisturbed(arguments.reference)
        return
    chosen = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        raise SystemExit(0 if run(Path(name), chosen) else 1)


def run(folder: Path, faults: list[Fault]) -> bool:
    """A night for each fault; whether all of them ended as if nothing had happened."""
    stack = begin(folder)
    try:
        today = datetime.now(UTC).date()
        days = [today - timedelta(days=n) for n in range(1, len(faults) + 2)]
        os.environ |= environment(stack)
        store = settings.load().store.open()
        deliver(store, corpus_frames(), tuple(map(str, days)))
        airflow = airflow_as(stack, "olga", PATIENCE)
        wait(airflow, "ingest_corpus", trigger(airflow, "ingest_corpus", {}))
        console.print("Reference: the same nights with nothing going wrong, in one process")
        reference = refer(folder, stack, days)
        airflow.call("PATCH", f"/dags/{NIGHTLY}", {"is_paused": False})  # the scheduler's own run of yesterday comes first
        began = time.monotonic()
        state, tasks = wait(airflow, NIGHTLY, scheduled(airflow))
        rows = [
            ("none: the scheduled night", "", state, tries(tasks), time.monotonic() - began, differs(store, reference, days[0]))
        ]
        for fault, day in zip(faults, days[1:], strict=True):
            console.print(f"[bold]{fault.what}[/] during {fault.at}, {day}")
            began = time.monotonic()
            state, tried = suffer(stack, airflow, fault, day)
            rows.append((fault.what, fault.at, state, tried, time.monotonic() - began, differs(store, reference, day)))
            console.print(f"   {state} after {rows[-1][4]:.0f} s; {rows[-1][5]}")
            if state != "success":  # as an operator would; the nights after it open where it closed
                wait(airflow, NIGHTLY, trigger(airflow, NIGHTLY, {"day": str(day)}))
        tell(rows)
        return all(row[2] == "success" and row[5] == SAME for row in rows)
    finally:
        supervise.end(stack)


def suffer(stack: Stack, airflow: Airflow, fault: Fault, day: date) -> tuple[str, str]:
    """How a night ends that is hit, and what was tried again."""
    run_id = trigger(airflow, NIGHTLY, {"day": str(day)})
    try:
        fault.inject(stack, pid_of(airflow, run_id, fault.at))
        state, tasks = wait(airflow, NIGHTLY, run_id)
    except (TimeoutError, RuntimeError) as error:
        return str(error), "?"
    return state, tries(tasks)


def begin(folder: Path) -> Stack:
    """A stack of its own, up."""
    os.environ |= {
        "STACK": str(stack_settings(folder)),
        "PROVENANCE_MODEL__FOLDER": str(train_tiny(folder / "tiny")),
        "PROVENANCE_CORPUS__SHARD_EXAMPLES": "8",
        "PROVENANCE_SIGNALS__COLLECT": "false",
    }
    up()
    return load()


def up() -> None:
    """`make up`."""
    subprocess.run([sys.executable, "-m", "infra.stack", "up"], check=True, cwd=CHECKOUT)


def refer(folder: Path, stack: Stack, days: list[date]) -> Store:
    """The nights of the days, in their order, on a disk and a ledger of their own, signed with the stack's key."""
    told = {
        **{name: value for name, value in os.environ.items() if name != MARK},
        "PROVENANCE_STORE__URL": f"file://{folder}/reference",
        "PROVENANCE_DATABASE__URL": "",
        "PROVENANCE_DATABASE__PAYEES_URL": "",
        "PROVENANCE_DATABASE__FOLDER": str(folder / "reference-postgres"),
        "PROVENANCE_CLUSTER__ADDRESS": "",
        "PROVENANCE_MODEL__CACHE": str(folder / "reference-cache"),
    }
    command = [sys.executable, __file__, "--reference", *map(str, days)]
    done = subprocess.run(command, env=told, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the reference failed:\n{done.stderr[-3000:]}")
    return settings.load(told).store.open()


def undisturbed(days: list[str]) -> None:
    """Stand in the process of the reference."""
    from stages import night
    from stages import run as run_stage

    deliver(settings.load().store.open(), corpus_frames(), tuple(days))
    run_stage("corpus.ingest")
    for day in days:
        night(day=day)


def scheduled(airflow: Airflow) -> str:
    """The run that the scheduler makes by itself."""

    def found() -> list[dict[str, Any]]:
        return [run for run in airflow.runs(NIGHTLY) if run["run_type"] == "scheduled"]

    return str(eventually(found, "no scheduled run", within=PATIENCE, every=1.0)[0]["dag_run_id"])


def pid_of(airflow: Airflow, run_id: str, task_id: str) -> int:
    """The process of a task, once it runs."""
    for _, tasks in follow(airflow, NIGHTLY, run_id, within=PATIENCE, every=0.1):
        task = tasks.get(task_id)
        if task and task["state"] == "running" and task["pid"]:
            return int(task["pid"])
    raise RuntimeError(f"{task_id} was over before anything could be done to it")


def wait(airflow: Airflow, dag_id: str, run_id: str) -> tuple[str, dict[str, Any]]:
    """How a run ends, and its tasks."""
    return list(follow(airflow, dag_id, run_id, within=PATIENCE))[-1]


def tries(tasks: dict[str, Any]) -> str:
    """Which tasks were tried more than once."""
    return ", ".join(f"{name} {task['try_number']}" for name, task in sorted(tasks.items()) if task["try_number"] > 1) or "none"


SAME = "the same bytes"


def differs(store: Store, reference: Store, day: date) -> str:
    """Whether what was published for a day is what was published where nothing went wrong."""
    folder = f"exports/payouts/day={day}"
    found, wanted = ({key: place.read(key) for key in place.list(folder)} for place in (store, reference))
    if found == wanted and wanted:
        return SAME
    other = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    return f"other bytes: {', '.join(other) or 'nothing published'}"


def tell(rows: list[tuple[str, str, str, str, float, str]]) -> None:
    """The table, as docs/reliability.md has it."""
    table = Table("fault", "during", "run", "tried again", "seconds", box=box.MARKDOWN)
    for what, at, state, tried, seconds, outcome in rows:
        table.add_row(what, at and f"`{at}`", f"{state}, {outcome}", tried, f"{seconds:.0f} s")
    console.print(table)


if __name__ == "__main__":
    main()
