"""Airflow on one machine, on the embedded PostgreSQL: its environment, and one run of a DAG in this process.

python -m infra.local_airflow        API server, scheduler, DAG processor and triggerer (development logins)
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.database import database_url
from tasks.settings import CHECKOUT, load

USER, PASSWORD = "admin", "admin"
PORT = 8080


@dataclass(frozen=True)
class Run:
    """How a DAG run ended: seconds per task, and the exception of the task that failed, if one did."""

    state: str
    seconds: dict[str, float]
    error: BaseException | None


def configure() -> None:
    """Point this process and its children at an Airflow of their own; must come before the first import of airflow."""
    home = CHECKOUT / "var/airflow"
    home.mkdir(parents=True, exist_ok=True)
    key = home / "jwt-secret"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
    passwords = home / "passwords.json"
    if not passwords.exists():
        passwords.write_text(f'{{"{USER}": "{PASSWORD}"}}')
    settings = load().database
    wanted = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{PORT}/execution/",
        "AIRFLOW__API__PORT": str(PORT),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API_AUTH__JWT_SECRET": key.read_text(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url(settings, "airflow"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        # The children attach to the server that this process started, instead of looking after one of their own.
        "PROVENANCE_DATABASE__URL": database_url(settings),
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def migrate() -> None:
    """Create or upgrade Airflow's own tables, if they are not up to date."""
    from airflow.utils import db

    try:
        db.check_migrations(0)
    except TimeoutError:
        db.upgradedb()


def run_dag(dag_id: str, logical_date: datetime | None) -> Run:
    """Run a DAG through Airflow in this process (`dag.test`), recorded in its database like any other run."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(CHECKOUT / "dags")
    if bag.import_errors:
        raise RuntimeError(f"DAGs do not import: {bag.import_errors}")
    dag = bag.dags[dag_id]
    errors: list[BaseException] = []

    def remember(context: Any) -> None:
        errors.append(context["exception"])

    for operator in dag.tasks:
        operator.on_failure_callback = [remember]
    # Rerunning a day replaces its run, as clearing it in the UI would.
    run = dag.test(logical_date=logical_date, run_after=logical_date)
    instances = sorted(run.get_task_instances(), key=lambda i: i.start_date or datetime.max.replace(tzinfo=UTC))
    return Run(str(run.state), {i.task_id: i.duration or 0.0 for i in instances}, errors[0] if errors else None)


def main() -> None:
    """Start all of Airflow, in the foreground, until Ctrl-C."""
    configure()
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "INFO"
    sys.stdout.write(f"Airflow UI: http://localhost:{PORT}  user {USER}, password {PASSWORD} (development only)\n")
    sys.stdout.flush()
    airflow = [str(CHECKOUT / ".venv/bin/airflow"), "standalone"]
    import subprocess

    raise SystemExit(subprocess.call(airflow))


if __name__ == "__main__":
    main()
