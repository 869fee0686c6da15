"""Defines the stack: its folder, ports, secrets, processes and their environment."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cryptography.fernet import Fernet
from pydantic import BaseModel, ConfigDict, Field

from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT, KEY_VARIABLE
from provenance.core.toml import read_toml, validated
from tasks.database import POSTGRES

DEFAULT = "infra/settings/stack.toml"
HOST = "127.0.0.1"
BUCKET = "provenance"
# The environment variable that marks all processes of a stack.
MARK = "STACK_FOLDER"
BIN = Path(sys.executable).parent
# People and their roles (`infra/airflow/roles.toml`). Payments need two people who approve.
PEOPLE = {"admin": "Admin", "olga": "Operator", "ann": "Accountant", "bob": "Accountant", "dana": "Data"}
# Logins of PostgreSQL (`infra/postgres`) and identities of S3 (`infra/s3/identities.py`).
DATABASE_LOGINS = ("provenance", "airflow", "payees", "metrics")
S3_IDENTITIES = ("pipeline", "accountants", "operators", "administrator")
Port = Annotated[int, Field(ge=1024, le=65535)]


class Ports(BaseModel):
    """Ports on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    airflow: Port = 8080
    metrics: Port = 9108
    s3: Port = 8333
    postgres: Port = 5442
    dask: Port = 8786
    dashboard: Port = 8787
    seaweed: Annotated[int, Field(ge=1024, le=55_000)] = 9333

    def taken(self) -> dict[str, int]:
        """All ports that processes listen on, by purpose."""
        own = {name: port for name, port in self if name != "seaweed"}
        parts = {f"seaweed + {n}": self.seaweed + n for n in range(3)}
        return own | parts | {f"{name} + 10000": port + 10_000 for name, port in {**parts, "s3": self.s3}.items()}


class Stack(BaseModel):
    """The stack's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    folder: str = "var/stack"
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    worker_memory: str = "auto"
    tasks: Annotated[int, Field(ge=2, le=64)] = 4
    start_seconds: Annotated[int, Field(ge=10)] = 240
    ports: Ports = Ports()

    @property
    def path(self) -> Path:
        """The folder of the stack."""
        return (CHECKOUT / self.folder).resolve()

    @property
    def logs(self) -> Path:
        """One file for each process, and Airflow's logs of tasks."""
        return self.path / "logs"

    @property
    def socket(self) -> Path:
        """The socket of supervisord, outside the stack's folder, since paths of sockets must be short."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"provenance-{name}.sock"

    @property
    def airflow_url(self) -> str:
        """The URL of Airflow."""
        return f"http://{HOST}:{self.ports.airflow}"

    @property
    def s3_url(self) -> str:
        """The URL of the S3 server."""
        return f"http://{HOST}:{self.ports.s3}"

    def database_url(self, database: str, login: str, password: str) -> str:
        """The URL of a database for a login."""
        return f"postgresql+psycopg2://{login}:{password}@{HOST}:{self.ports.postgres}/{database}"


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        phase: parts of a phase start together, after those of earlier phases are healthy.
        user: the system user that runs it, by default the one that starts the stack.
        reads_only: it gets logins that may only read.
    """

    name: str
    command: list[str]
    phase: int
    stop: str = "TERM"
    user: str = ""
    reads_only: bool = False


def load(path: str | None = None) -> Stack:
    """Read the stack's settings from a file.

    Raises:
        SettingsError: naming the file, the key, what was expected and what was found.
    """
    file = CHECKOUT / (path or os.environ.get("STACK") or DEFAULT)
    return validated(Stack, read_toml(file, "settings of a stack", SettingsError), str(file), SettingsError)


def secrets_of(stack: Stack) -> dict[str, Any]:
    """The stack's secrets; made once, in a file that only its owner can read.

    Returns:
        `postgres`, `jwt`, `fernet`, `session`, `s3_at_rest`, `payees`; and by name `databases`, `s3` (access key, secret key)
        and `people`.
    """
    path = stack.path / "secrets.json"
    if not path.exists():
        new = {
            **{name: secrets.token_hex(32) for name in ("postgres", "jwt", "session", "s3_at_rest")},
            **{name: Fernet.generate_key().decode() for name in ("fernet", "payees")},
            "databases": {login: secrets.token_hex(16) for login in DATABASE_LOGINS},
            "s3": {name: [secrets.token_hex(10), secrets.token_hex(20)] for name in S3_IDENTITIES},
            "people": {name: secrets.token_urlsafe(12) for name in PEOPLE},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(new, file, indent=2)
        temporary.rename(path)
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def environment(stack: Stack) -> dict[str, str]:
    """The environment of the pipeline's processes, with secrets."""
    hidden, ports = secrets_of(stack), stack.ports
    access, secret = hidden["s3"]["pipeline"]
    urls = {
        login: stack.database_url("airflow" if login == "airflow" else "provenance", login, hidden["databases"][login])
        for login in DATABASE_LOGINS
    }
    home = stack.path / "airflow"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "infra.airflow.executor.Executor",
        "AIRFLOW__CORE__PARALLELISM": str(stack.tasks),
        "AIRFLOW__CORE__FERNET_KEY": hidden["fernet"],
        "AIRFLOW__CORE__AUTH_MANAGER": "infra.airflow.people.AuthManager",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{stack.airflow_url}/execution/",
        "AIRFLOW__FAB__CONFIG_FILE": str(CHECKOUT / "infra/airflow/webserver_config.py"),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(ports.airflow),
        "AIRFLOW__API__BASE_URL": stack.airflow_url,
        "AIRFLOW__API__SECRET_KEY": hidden["session"],
        "AIRFLOW__API_AUTH__JWT_SECRET": hidden["jwt"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": urls["airflow"],
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(stack.logs / "tasks"),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "60",
        # A night is a chain of tasks: between each two the scheduler would sleep for a second.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "60",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "PROVENANCE_STORE__URL": f"s3://{BUCKET}",
        "PROVENANCE_STORE__ENDPOINT_URL": stack.s3_url,
        "PROVENANCE_DATABASE__URL": urls["provenance"],
        "PROVENANCE_DATABASE__PAYEES_URL": urls["payees"],
        "PROVENANCE_CLUSTER__ADDRESS": f"tcp://{HOST}:{ports.dask}",
        "PROVENANCE_MODEL__CACHE": str(stack.path / "cache/models"),
        "PROVENANCE_SETTLEMENT__KEY": str(stack.path / "keys/signing.pem"),
        "PROVENANCE_SETTLEMENT__RETIRED": str(stack.path / "keys/retired"),
        "PROVENANCE_LINEAGE__FOLDER": str(stack.logs / "lineage"),
        KEY_VARIABLE: hidden["payees"],
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }


def reading(stack: Stack) -> dict[str, str]:
    """The logins of processes that only read: the API server with the page, and the metrics."""
    hidden = secrets_of(stack)
    access, secret = hidden["s3"]["operators"]
    return {
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "PROVENANCE_DATABASE__URL": stack.database_url("provenance", "metrics", hidden["databases"]["metrics"]),
        "PROVENANCE_DATABASE__PAYEES_URL": "",
        KEY_VARIABLE: "",
    }


def parts(stack: Stack, postgres_user: str) -> list[Part]:
    """All processes, in the order in which they start."""
    ports, python = stack.ports, str(BIN / "python")
    dask = f"tcp://{HOST}:{ports.dask}"
    postgres = [
        str(POSTGRES / "postgres"), "-D", str(stack.path / "postgres"), "-p", str(ports.postgres), "-h", HOST,
        "-c", "unix_socket_directories=", "-c", "max_connections=200",
    ]  # fmt: skip
    weed = [
        str(BIN / "weed"), "server", f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={stack.path / 's3'}",
        f"-master.port={ports.seaweed}", f"-volume.port={ports.seaweed + 1}", f"-filer.port={ports.seaweed + 2}", "-filer",
        "-s3", f"-s3.port={ports.s3}", f"-s3.config={stack.path / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=256", "-volume.max=0", "-volume.preStopSeconds=0", "-master.telemetry=false",
    ]  # fmt: skip
    worker = [
        python, "-m", "dask", "worker", dask, "--nthreads", "1", "--memory-limit", stack.worker_memory, "--host", HOST,
        "--no-dashboard", "--local-directory", str(stack.path / "dask"), "--death-timeout", "600",
    ]  # fmt: skip
    scheduler = [python, "-m", "dask", "scheduler", "--host", HOST, "--port", str(ports.dask),
                 "--dashboard-address", f"{HOST}:{ports.dashboard}"]  # fmt: skip
    airflow = str(BIN / "airflow")
    return [
        Part("postgres", postgres, 0, stop="INT", user=postgres_user),
        Part("s3", weed, 0),
        Part("dask-scheduler", scheduler, 0),
        *(Part(f"dask-worker-{n}", [*worker, "--name", f"worker-{n}"], 0) for n in range(1, stack.workers + 1)),
        Part("airflow-api-server", [airflow, "api-server", "--workers", "1"], 1, reads_only=True),
        Part("airflow-scheduler", [airflow, "scheduler"], 1),
        Part("airflow-dag-processor", [airflow, "dag-processor"], 1),
        Part("airflow-triggerer", [airflow, "triggerer"], 1),
        Part("metrics", [python, "-m", "infra.metrics", "--port", str(ports.metrics)], 1, reads_only=True),
    ]
