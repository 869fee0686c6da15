"""Sends an OpenLineage event when a task begins or ends: what it read and wrote, as `[lineage]` in the settings says.

Events go to one file a day, and to a server if one is named. They never fail a task. A server that does not answer delays the
end of a task by at most one second, and its start not at all. Import-light, since DAG files import it while Airflow parses
them; a task imports the rest.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

from provenance.core.settings import Settings
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from openlineage.client.event_v2 import RunEvent


log = logging.getLogger("provenance.lineage")

START, COMPLETE, FAIL = "START", "COMPLETE", "FAIL"
# The longest that the end of a task waits for a server.
SECONDS = 1.0
# The variable from which OpenLineage's own clients take the key of the server.
KEY_VARIABLE = "OPENLINEAGE_API_KEY"

# The thread that sends this process's newest event.
_sending: list[Thread] = []


def started(context: Mapping[str, Any]) -> None:
    """For a task's `on_execute_callback`."""
    _report(START, context)


def completed(context: Mapping[str, Any]) -> None:
    """For a task's `on_success_callback`."""
    _report(COMPLETE, context)


def failed(context: Mapping[str, Any]) -> None:
    """For a task's `on_failure_callback` and `on_retry_callback`."""
    _report(FAIL, context)


# In the arguments of all tasks.
CALLBACKS = {
    "on_execute_callback": started,
    "on_success_callback": completed,
    "on_failure_callback": failed,
    "on_retry_callback": failed,
}


def _report(state: str, context: Mapping[str, Any]) -> None:
    try:
        settings = load()
        if not settings.lineage.url and not settings.lineage.folder:
            return
        event = _event(state, context, settings)
        if settings.lineage.path:
            _keep(settings.lineage.path, event)
        if settings.lineage.url:
            _send(settings.lineage.url, event, wait=state != START)
    except Exception as error:  # noqa: BLE001 (lineage never fails a task)
        log.warning("lineage: no event of this task: %s: %s", type(error).__name__, error)


def _event(state: str, context: Mapping[str, Any], settings: Settings) -> RunEvent:
    from tasks.lineage.events import make_event

    store = settings.store.open()
    details: dict[str, Any] = {}
    if state == COMPLETE:
        from tasks.lineage.io import StageRun, flow

        ti = context["ti"]
        result = ti.xcom_pull(task_ids=ti.task_id)
        details["flow"] = flow(ti.task_id, StageRun(settings, store, _arguments(ti.task), result))
    if state == FAIL:
        error = context.get("exception")
        details["error"] = type(error).__name__ if error else "ended by Airflow"
    return make_event(state, context, store=store, namespace=settings.lineage.namespace, **details)


def _arguments(task: Any) -> dict[str, Any]:
    """The arguments of a task's function, by name; none for tasks without one."""
    if not hasattr(task, "python_callable"):
        return {}
    return inspect.signature(task.python_callable).bind(*task.op_args, **task.op_kwargs).arguments


def _keep(folder: Path, event: RunEvent) -> None:
    """Append an event to the file of its day."""
    from openlineage.client.serde import Serde

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{event.eventTime[:10]}.jsonl").open("ab", buffering=0) as file:
        file.write(f"{Serde.to_json(event)}\n".encode())  # in one write, since other tasks append, too


def _send(url: str, event: RunEvent, *, wait: bool) -> None:
    """Send an event in a daemon thread, because a connection's timeout does not bound a server that answers slowly."""
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
            transport.emit(event)
        except Exception as error:  # noqa: BLE001 (lineage never fails a task)
            log.warning("lineage: %s did not take an event: %s: %s", url, type(error).__name__, error)

    _sending[:] = [Thread(target=send, name="lineage", daemon=True)]
    _sending[-1].start()
    if wait:
        _sending[-1].join(max(0.0, end - time.monotonic()))
        if _sending[-1].is_alive():
            log.warning("lineage: %s does not answer", url)
