"""Servers that tests start, on ports that are free, and waiting for what comes in its time."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path

from provenance.core.settings import CHECKOUT


def eventually(ask, what="it", *, within=60.0, every=0.3):
    """The first answer that is one; fails where there is none in so many seconds."""
    deadline = time.monotonic() + within
    while not (found := ask()):
        assert time.monotonic() < deadline, f"{what() if callable(what) else what}: not within {within:g} seconds"
        time.sleep(every)
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def weed_ports(count: int) -> list[int]:
    """Free ports for parts of SeaweedFS, which also listens on each port + 10000."""
    return [port - 20_000 if port > 45_000 else port for port in free_ports(count)]


@contextlib.contextmanager
def served(command, answers, log: Path, *, within=60.0, **how):
    """A server in a process group of its own, from when it answers on; killed at the end with all that it began."""
    with log.open("a") as told:
        server = subprocess.Popen(list(map(str, command)), stdout=told, stderr=told, start_new_session=True, **how)
    try:
        eventually(lambda: server.poll() is not None or answers(), lambda: log.read_text()[-3000:], within=within)
        assert server.poll() is None, log.read_text()[-3000:]
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def answers(url: str) -> bool:
    """Whether something answers there, and not to say that it is broken."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def credentials(access: str, secret: str) -> dict[str, str]:
    """The environment of whoever has a key of an S3 server."""
    return {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}


def page_settings(folder: Path, users: dict[str, str]) -> dict[str, str]:
    """The environment of an API server of Airflow with the page on it, its users' passwords their names."""
    passwords, plugins = folder / "passwords.json", folder / "plugins"
    passwords.write_text(json.dumps({name: name for name in users}))
    plugins.mkdir()
    if "provenance_payouts" not in entry_points(group="airflow.plugins").names:  # a checkout that is not installed anew
        (plugins / "page.py").write_text("from infra.page.plugin import PayoutsPlugin\n")
    return {
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
    }


def airflow_server(command, url: str, log: Path, environment: dict[str, str]):
    """An API server of Airflow, from when it answers on."""
    return served(command, lambda: answers(f"{url}/api/v2/version"), log, within=180, env=environment, cwd=CHECKOUT)


@contextlib.contextmanager
def s3_server(folder: Path, ports: Sequence[int] = ()):
    """A real S3 server (SeaweedFS) on a folder: its endpoint, with credentials in the environment."""
    config = folder / "s3.json"
    keys = {"accessKey": "test-access", "secretKey": "test-secret"}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    config.write_text(json.dumps({"identities": [{"name": "pipeline", "credentials": [keys], "actions": actions}]}))
    master, volume, filer, port = ports or weed_ports(4)
    command = [
        Path(sys.executable).with_name("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-filer", "-s3", f"-s3.port={port}",
        f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=500",
        "-master.telemetry=false",
    ]  # fmt: skip
    environment = credentials("test-access", "test-secret")
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        with served(command, lambda: answers(f"{endpoint}/status"), folder / "log"):
            yield endpoint
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Local(ThreadingHTTPServer):
    """A server of this process, on a free port."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Quiet(BaseHTTPRequestHandler):
    """What answers requests, and writes no log of them."""

    def log_message(self, *_):
        pass


class Webhook(Local):
    """A server that remembers what is posted to it, as JSON, and where, with which headers; answers with `status`."""

    def __init__(self, status=204):
        super().__init__(_Heard)
        self.status, self.heard, self.asked = status, [], []


class _Heard(Quiet):
    def do_POST(self):
        self.server.asked.append((self.path, self.headers))
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()


@contextlib.contextmanager
def listening(server):
    """A server of this process, answering from a thread until the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
