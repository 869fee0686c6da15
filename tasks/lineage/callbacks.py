"""Lineage: when a task begins and ends, an OpenLineage event says what it read and wrote, as `[lineage]` in the settings says.

Events go to a file for each day, and to a server if one is named. Nothing of it can fail a task; a server that does not
answer costs a task's end one second at most, and its start nothing. Import-light, since DAGs import it while they are parsed;
what makes events is imported by the task.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any

from tasks.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from openlineage.client.event_v2 import RunEvent


log = logging.getLogger("provenance.lineage")

START, COMPLETE, FAIL = "START", "COMPLETE", "FAIL"
# For which the end of a task waits for a server, at most.
SECONDS = 1.0
# The one secret: the variable by which OpenLineage's own clients take it.
KEY_VARIABLE = "OPENLINEAGE_API_KEY"

# What this process has begun to send.
_sending: list[Thread] = []


def started(context: Mapping[str, Any]) -> None:
    """For a task's `on_execute_callback`."""
    _tell(START, context)


def completed(context: Mapping[str, Any]) -> None:
    """For a task's `on_success_callback`."""
    _tell(COMPLETE, context)


def failed(context: Mapping[str, Any]) -> None:
    """For a task's `on_failure_callback` and `on_retry_callback`."""
    _tell(FAIL, context)


# Of every DAG's `default_args`.
TELL_LINEAGE = {
    "on_execute_callback": started,
    "on_success_callback": completed,
    "on_failure_callback": failed,
    "on_retry_callback": failed,
}


def _tell(state: str, context: Mapping[str, Any]) -> None:
    try:
        settings = load()
        if not settings.lineage.url and not settings.lineage.folder:
            return
        made = _event(state, context, settings)
        if settings.lineage.path:
            _keep(settings.lineage.path, made)
        if settings.lineage.url:
            _send(settings.lineage.url, made, wait=state != START)
    except Exception as error:  # noqa: BLE001, whatever it is, the task has done its work
        log.warning("lineage: no event of this task: %s: %s", type(error).__name__, error)


def _event(state: str, context: Mapping[str, Any], settings: Settings) -> RunEvent:
    from tasks.lineage.events import TaskRun, event

    store, task = settings.store.open(), TaskRun.of(context)
    told: dict[str, Any] = {}
    if state == COMPLETE:
        from tasks.lineage.io import Done, flow

        result = context["ti"].xcom_pull(task_ids=task.task_id)
        told["flow"] = flow(task.task_id, Done(settings, store, _arguments(context["ti"].task), result))
    if state == FAIL:
        error = context.get("exception")
        told["error"] = type(error).__name__ if error else "ended by Airflow"
    return event(state, task, datetime.now(UTC), store=store, namespace=settings.lineage.namespace, **told)


def _arguments(task: Any) -> dict[str, Any]:
    """What Airflow handed a task's function, by name."""
    if not hasattr(task, "python_callable"):
        return {}
    return inspect.signature(task.python_callable).bind(*task.op_args, **task.op_kwargs).arguments


def _keep(folder: Path, made: RunEvent) -> None:
    """Add an event to the file of its day."""
    from openlineage.client.serde import Serde

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{made.eventTime[:10]}.jsonl").open("ab", buffering=0) as file:
        file.write(f"{Serde.to_json(made)}\n".encode())  # in one write, since other tasks add to it, too


def _send(url: str, made: RunEvent, *, wait: bool) -> None:
    """Send an event, in a thread that dies with the process: no timeout of a connection bounds a server that drips."""
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

    end = time.monotonic() + SECONDS
    if wait and _sending:
        _sending[-1].join(SECONDS)
    if _sending and _sending[-1].is_alive():
        log.warning("lineage: %s does not answer; an event is not sent there", url)
        return
    key = os.environ.get(KEY_VARIABLE)
    auth = ApiKeyTokenProvider({"apiKey": key}) if key else TokenProvider({})
    transport = HttpTransport(HttpConfig(url=url, timeout=SECONDS, auth=auth, retry={"total": 0}))

    def send() -> None:
        try:
            transport.emit(made)
        except Exception as error:  # noqa: BLE001, as above
            log.warning("lineage: %s did not take an event: %s: %s", url, type(error).__name__, error)

    _sending[:] = [Thread(target=send, name="lineage", daemon=True)]
    _sending[-1].start()
    if wait:
        _sending[-1].join(max(0.0, end - time.monotonic()))
        if _sending[-1].is_alive():
            log.warning("lineage: %s does not answer", url)
