"""Whole nights: Airflow in a process of its own, on the tests' PostgreSQL, over a store on disk or on S3."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import CHROMIUM, DAY, create_database, settings_of
from servers import airflow_server, free_ports, page_settings
from sqlalchemy import make_url

from provenance.core.settings import CHECKOUT
from provenance.core.store import Store


@pytest.fixture(scope="session")
def migrated_airflow(postgres, tmp_path_factory):
    """The home and the database of an Airflow without runs."""
    home, database = tmp_path_factory.mktemp("airflow"), create_database(postgres)
    environment = {"AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
    script = "from infra import local_airflow as a; a.configure(); a.migrate()"
    configured = {**os.environ, **environment, "PROVENANCE_DATABASE__URL": postgres.format("postgres")}
    subprocess.run([sys.executable, "-c", script], check=True, env=configured, cwd=CHECKOUT, capture_output=True)
    return environment


@pytest.fixture(scope="module")
def airflow_environment(migrated_airflow, postgres):
    """An Airflow of the module's own: no page shows the runs of another."""
    migrated = make_url(migrated_airflow["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).database
    return migrated_airflow | {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": create_database(postgres, migrated)}


@pytest.fixture(scope="module")
def browser():
    """A real browser."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield started
        started.close()


@dataclass
class Operator:
    """Somebody who runs nights on a store and reads what they leave.

    Attributes:
        log: what the last run logged.
    """

    store: Store
    environment: dict[str, str]
    log_file: Path
    log: str = ""
    process: subprocess.Popen | None = None

    def start(self, dag_id: str, day: str, **extra: str) -> None:
        if self.process is None:
            command = [sys.executable, str(Path(__file__).with_name("driver.py"))]
            with self.log_file.open("w") as log:
                self.process = subprocess.Popen(
                    command, env={**os.environ, **self.environment, **extra}, cwd=CHECKOUT, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, start_new_session=True,
                )  # fmt: skip
        self.process.stdin.write(f"{dag_id} {day}\n")

    def run(self, dag_id: str, day: str) -> dict:
        seen = self.log_file.stat().st_size if self.process else 0
        self.start(dag_id, day)
        answer = self.process.stdout.readline()
        self.log = self.log_file.read_text()[seen:]
        assert answer, self.log[-4000:]
        return json.loads(answer)

    def ingest(self) -> None:
        self.succeeds("ingest_corpus", DAY)

    def night(self, day: str) -> None:
        self.succeeds("nightly_payouts", day)

    def audit(self, day: str) -> None:
        self.succeeds("audit_attribution", day)

    def succeeds(self, dag_id: str, day: str) -> None:
        answer = self.run(dag_id, day)
        assert answer["state"] == "success", (answer, self.log[-4000:])
        assert 0 < answer["seconds"] < 600, "the run's duration is that of its tasks"

    def killed_after(self, dag_id: str, day: str, word: str, count: int) -> None:
        """Run a DAG in a process that SIGKILLs itself after its n-th write to a key with a word in it, or `booking`."""
        self.stop()
        self.start(dag_id, day, KILL_AFTER=f"{word}:{count}")
        assert self.process.wait(240) == -signal.SIGKILL, self.log_file.read_text()[-4000:]
        self.stop()

    def stop(self) -> None:
        if self.process:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def export(self, day: str) -> dict[str, bytes]:
        """Every file of the day's export, by its name below the day."""
        folder = f"exports/payouts/day={day}"
        return {key.removeprefix(f"{folder}/"): self.store.read(key) for key in self.store.list(folder)}


@pytest.fixture(scope="module")
def new_operator(airflow_environment, postgres, tiny_model, tmp_path_factory):
    """Makes operators, each with a ledger of its own."""
    folder, operators = tmp_path_factory.mktemp("operators"), []

    def make(store: Store, name: str) -> Operator:
        few = {
            "CORPUS__SHARD_EXAMPLES": "8",
            "REVIEW__MOVED": "1000",  # nobody is there to be asked about corrections
            "AUDIT__SUBSETS": "4",
            "AUDIT__TUNE": "8",
        }
        own = settings_of(store, create_database(postgres), tiny_model, folder / name, **few)
        environment = airflow_environment | own | {"PROVENANCE_SETTLEMENT__KEY": str(folder / "signing.pem")}
        operators.append(Operator(store, environment, folder / f"{name}.log"))
        return operators[-1]

    yield make
    for operator in operators:
        operator.stop()


@pytest.fixture(scope="module")
def api_server(tmp_path_factory):
    """Starts Airflow's API server, its users' passwords their names; gives its URL."""
    with contextlib.ExitStack() as running:

        def start(environment, users):
            folder, (port,) = tmp_path_factory.mktemp("api"), free_ports(1)
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            told = {**os.environ, **environment, "AIRFLOW__API__PORT": str(port), "PATH": path, **page_settings(folder, users)}
            command = ["airflow", "api-server", "--port", str(port), "--workers", "1"]
            script = f"import os; from infra import local_airflow as a; a.configure(); os.execvp('airflow', {command})"
            url, log = f"http://127.0.0.1:{port}", folder / "log"
            command = [sys.executable, "-c", script]
            running.enter_context(airflow_server(command, url, log, told))
            return url

        yield start
