"""The stack's Airflow by its REST API, as one of its people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from infra.stack.layout import secrets_of
from provenance.core.errors import InputError

if TYPE_CHECKING:
    from infra.stack.layout import Stack

TIMEOUT = 60
REFUSED, UNAUTHORIZED = 400, 401


class RefusedError(InputError):
    """Airflow will not do what it was asked to.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, call: str, answer: httpx.Response) -> None:
        self.status = answer.status_code
        super().__init__(call, expected="Airflow to do it", found=f"{answer.status_code}: {_detail(answer)}")


@dataclass
class Airflow:
    """A session of somebody; logs in again when the token has run out."""

    url: str
    user: str
    password: str
    token: str = field(default="", repr=False)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer to a request, as JSON.

        Raises:
            RefusedError: Airflow says no.
            httpx.TransportError: it does not answer.
        """
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
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)
        return {instance["task_id"]: instance for instance in found["task_instances"]}

    def _log_in(self) -> str:
        answer = httpx.post(f"{self.url}/auth/token", json={"username": self.user, "password": self.password}, timeout=TIMEOUT)
        if answer.status_code >= REFUSED:
            raise RefusedError(f"log in as {self.user}", answer)
        return str(answer.json()["access_token"])


def airflow_as(stack: Stack, user: str) -> Airflow:
    """A session of one of the stack's people."""
    return Airflow(stack.airflow_url, user, secrets_of(stack)["people"][user])


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("detail", answer.text))
    except ValueError:
        return answer.text[:300]
