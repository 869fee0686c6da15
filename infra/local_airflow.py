"""Runs Airflow on one machine, on the embedded PostgreSQL, or one run of a DAG in this process.

    python -m infra.local_airflow ui                              API server, scheduler, DAG processor and triggerer
    python -m infra.local_airflow run nightly_payouts 2026-11-20  one run, here, that pays a day

The logins of `ui` are for development; it listens on this machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.logging import RichHandler
from rich.markup import escape

from provenance.core.errors import InputError, SettingsError, parse_day
from provenance.core.settings import CHECKOUT
from tasks.database import database_url
from tasks.settings import load
from tasks.terminal import Terminal, exit_codes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

USER, PASSWORD = "admin", "admin"
# Two people beside the administrator, since payments need two; their passwords are their names.
PEOPLE = ("ann", "bob")
PORT = 8080


@dataclass(frozen=True)
class Run:
    """A finished DAG run: seconds by task, and the exception of the failed task, if any."""

    state: str
    seconds: dict[str, float]
    error: BaseException | None


def configure() -> None:
    """Point this process and its children at an Airflow of their own; call it before the first import of airflow."""
    settings = load().database
    # Beside its database, so that runs in different databases do not write to the same log.
    home = Path(os.environ.setdefault("AIRFLOW_HOME", str((CHECKOUT / settings.folder).with_name("airflow"))))
    home.mkdir(parents=True, exist_ok=True)
    key = home / "jwt-secret"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({USER: PASSWORD, **{name: name for name in PEOPLE}}))
    variables = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join([f"{USER}:admin", *(f"{name}:user" for name in PEOPLE)]),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{PORT}/execution/",
        "AIRFLOW__API__PORT": str(PORT),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API_AUTH__JWT_SECRET": key.read_text(),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
    }
    if not settings.url:
        # Children use the server that this process started, instead of starting their own.
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database_url(settings, "airflow")
        variables["PROVENANCE_DATABASE__URL"] = database_url(settings)
    elif "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in os.environ:
        raise SettingsError(
            "environment: AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            expected="Airflow's own database, since database.url names a server",
            found="nothing",
        )
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def migrate() -> None:
    """Create or upgrade Airflow's own tables, if they are not up to date."""
    from airflow.utils import db

    try:
        db.check_migrations(0)
    except TimeoutError:
        db.upgradedb()


def run_dag(dag_id: str, day: date) -> Run:
    """Run a DAG through Airflow in this process (`dag.test`), recorded in its database like any other run.

    The run's data interval is the day; running the day again replaces its run, as clearing it in the UI would.
    """
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    bag = DagBag(CHECKOUT / "dags")
    if bag.import_errors:
        raise RuntimeError(f"DAGs do not import: {bag.import_errors}")
    dag = bag.dags[dag_id]
    dag.deadline = None  # a scheduler watches deadlines, and `dag.test` has none
    dag.on_failure_callback = None  # the caller sees the failure
    errors: list[BaseException] = []

    def remember(context: Any) -> None:
        errors.append(context["exception"])

    for operator in dag.tasks:
        callbacks: Any = operator.on_failure_callback  # a list; of a mapped task it may be one function
        callbacks = [callbacks, remember] if callable(callbacks) else [*callbacks, remember]
        if isinstance(operator, MappedOperator):
            operator.partial_kwargs["on_failure_callback"] = callbacks
        else:
            operator.on_failure_callback = callbacks
    # A manual run covers the last whole interval before its date, so the first second after the day gives the day; midnight
    # itself is the date of the scheduled run of the next day.
    after = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, seconds=1)
    run = dag.test(logical_date=after, run_after=after)
    instances = sorted(run.get_task_instances(), key=lambda i: i.start_date or datetime.max.replace(tzinfo=UTC))
    _state_start(run, instances[0].start_date)
    return Run(str(run.state), {i.task_id: i.duration or 0.0 for i in instances}, errors[0] if errors else None)


def _state_start(run: Any, start: datetime | None) -> None:
    """Record when a run started: `dag.test` records its logical date, so the UI would show days as the run's duration."""
    from airflow.models.dagrun import DagRun  # noqa: TID251
    from airflow.utils.session import create_session
    from sqlalchemy import update

    if start is not None:
        with create_session() as session:
            session.execute(update(DagRun).where(DagRun.id == run.id).values(start_date=start))


@contextlib.contextmanager
def log_to(path: Path, console: Console) -> Iterator[Path]:
    """Send the output of Airflow to a file, and show the stages' log on the console, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    screen = os.dup(1)
    terminal = Terminal(file=os.fdopen(screen, "w"), width=console.width, force_terminal=console.is_terminal)
    logger = logging.getLogger("provenance")
    logger.setLevel(logging.INFO)
    handler = RichHandler(console=terminal, show_path=False, show_level=False, log_time_format="%X", highlighter=None)
    logger.addHandler(handler)
    sys.stdout.flush()
    streams = (os.dup(1), os.dup(2))
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield path
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(streams[0], 1)
            os.dup2(streams[1], 2)
            logger.removeHandler(handler)


def check_port(port: int = PORT) -> None:
    """Check that nothing listens where Airflow's UI would.

    Raises:
        SettingsError: a program does.
    """
    with socket.socket() as asking:
        asking.settimeout(1)
        taken = asking.connect_ex(("127.0.0.1", port)) == 0
    if taken:
        raise SettingsError(
            f"port {port}",
            expected="a free port",
            found="a program that listens there",
            hint=f"It may be Airflow itself: look at http://localhost:{port}. Otherwise stop that program first.",
        )


def exit_code(run: Run) -> int:
    """0 for a run that succeeded, 2 for one that met bad input, 1 for any other."""
    if run.state == "success":
        return 0
    return 2 if isinstance(run.error, InputError) else 1


def stop_unless_good(dag_id: str, run: Run, log: Path, console: Console) -> None:
    """End the process with a message and the run's exit code, unless the run succeeded."""
    if run.state == "success":
        return
    label = "Bad input" if isinstance(run.error, InputError) else f"{dag_id} failed"
    console.print(f"[bold red]{label}:[/] {escape(str(run.error))}\nAirflow's log: {log}", soft_wrap=True)
    raise SystemExit(exit_code(run))


def main() -> None:
    """Start all of Airflow in the foreground, until Ctrl-C, or run one DAG for a day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ui", help="all of Airflow, until Ctrl-C")
    run_parser = commands.add_parser("run", help="one run of a DAG in this process; exit 2 for bad input, 1 for any failure")
    dags = sorted(path.stem for path in (CHECKOUT / "dags").glob("*.py"))
    run_parser.add_argument("dag_id", choices=dags, help="the DAG")
    run_parser.add_argument("day", help="the day to pay, YYYY-MM-DD")
    arguments = parser.parse_args()
    with exit_codes():
        day = parse_day("argument day", arguments.day) if arguments.command == "run" else date.min
        if arguments.command == "ui":
            check_port()
        configure()
    if arguments.command == "ui":
        sys.stdout.write(
            f"Airflow UI: http://localhost:{PORT}  user {USER}, password {PASSWORD}; {' and '.join(PEOPLE)} approve, with "
            "their names as passwords (development only)\n"
        )
        sys.stdout.flush()
        migrate()
        # Airflow starts its parts by name, and the environment may not be activated.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        raise SystemExit(subprocess.call(["airflow", "standalone"]))  # noqa: S607
    console = Terminal(stderr=True)
    with log_to(CHECKOUT / f"var/logs/{arguments.dag_id}-{day}.log", console) as log:
        migrate()
        run = run_dag(arguments.dag_id, day)
    stop_unless_good(arguments.dag_id, run, log, console)


if __name__ == "__main__":
    main()
