"""Calls the REST API of the stack's Airflow, as one of its people."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import tenacity

from infra.monitor.runs import FAILED, SUCCESS
from infra.stack.layout import secrets_of
from provenance.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.stack.layout import Stack

TIMEOUT = 60
REFUSED, UNAUTHORIZED, BROKEN = 400, 401, 500
# Final states of runs and tasks.
ENDED = {SUCCESS, FAILED, "upstream_failed", "skipped", "removed"}


class RefusedError(InputError):
    """Airflow refused a call; `status` is of HTTP."""

    def __init__(self, call: str, answer: httpx.Response) -> None:
        self.status = answer.status_code
        super().__init__(call, expected="Airflow to do it", found=f"{answer.status_code}: {_detail(answer)}")


@dataclass
class Airflow:
    """A session of one user; logs in again when the token has expired.

    Attributes:
        patience: seconds for which a GET is repeated while the server does not answer or is broken.
    """

    url: str
    user: str
    password: str
    patience: float = 0
    token: str = field(default="", repr=False)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Send a request; returns the answer's JSON.

        Raises:
            RefusedError: Airflow refuses it.
            httpx.TransportError: Airflow does not answer.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(self.patience if method == "GET" else 0),
            wait=tenacity.wait_fixed(1),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        return retrying(self._ask, method, path, body, query)

    def _ask(self, method: str, path: str, body: Any, query: dict[str, Any]) -> Any:
        for _ in range(2):
            if not self.token:
                self.token = self._log_in()
            answer = httpx.request(
                method,
                f"{self.url}/api/v2{path}",
                json=body,
                params=query,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=TIMEOUT,
            )
            if answer.status_code != UNAUTHORIZED:
                break
            self.token = ""
        if answer.status_code >= REFUSED:
            raise RefusedError(f"{method} {path}", answer)
        return answer.json() if answer.content else None

    def runs(self, dag_id: str, **query: Any) -> list[dict[str, Any]]:
        """Runs of a DAG."""
        return list(self.call("GET", f"/dags/{dag_id}/dagRuns", limit=1000, **query)["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Task instances of a run, by task."""
        instances = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)
        return {instance["task_id"]: instance for instance in instances["task_instances"]}

    def _log_in(self) -> str:
        answer = httpx.post(f"{self.url}/auth/token", json={"username": self.user, "password": self.password}, timeout=TIMEOUT)
        if answer.status_code >= REFUSED:
            raise RefusedError(f"log in as {self.user}", answer)
        return str(answer.json()["access_token"])


def airflow_as(stack: Stack, user: str, patience: float = 0) -> Airflow:
    """A session of one of the stack's people."""
    return Airflow(stack.airflow_url, user, secrets_of(stack)["people"][user], patience)


def trigger(airflow: Airflow, dag_id: str, conf: dict[str, Any]) -> str:
    """Unpause a DAG and start a run by hand; returns its id."""
    airflow.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
    run = airflow.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
    return str(run["dag_run_id"])


def follow(
    airflow: Airflow, dag_id: str, run_id: str, *, within: float = math.inf, every: float = 1
) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield a run's state and task instances repeatedly, until it has ended; the final state comes last.

    Args:
        within, every: seconds.

    Raises:
        TimeoutError: the run has not ended.
    """
    until = time.monotonic() + within
    while True:
        state = str(airflow.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])
        tasks = airflow.tasks(dag_id, run_id)
        yield state, tasks
        if state in ENDED:
            return
        if time.monotonic() > until:
            raise TimeoutError(
                f"{dag_id} {run_id} is {state} after {within:.0f} s: { {n: t['state'] for n, t in tasks.items()} }"
            )
        time.sleep(every)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, httpx.TransportError) or (isinstance(error, RefusedError) and error.status >= BROKEN)


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.text))
    except ValueError:
        return answer.text[:300]
