"""Telling people: of a run that failed, that waits for somebody, or that is late. By mail and webhook, as `[notify]` says.

Airflow's own notifiers send. They take their texts for templates; what happened is therefore handed to them as data, since
it has names in it that strangers chose. Import-light, since DAGs import it while they are parsed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from provenance.core.errors import SettingsError
from tasks.settings import NotifySettings, load

log = logging.getLogger("provenance.notify")

FAILED, WAITS, LATE = "failed", "waits for a person", "is late"
# What to do, by event.
RUNBOOK = {
    FAILED: "docs/operators.md#failed-task",
    WAITS: "docs/operators.md#waits-for-approval",
    LATE: "docs/operators.md#late-night",
}
SUBJECT = "{{ told.subject }}"
MAIL = """<p>{{ told.subject | e }}</p><p>{{ told.reason | e }}</p>
<p><a href="{{ told.link | e }}">{{ told.link | e }}</a></p><p>What to do: {{ told.runbook | e }}</p>"""
TEXT = {
    name: "{{ told." + name + " }}" for name in ("event", "dag_id", "run_id", "task_id", "subject", "reason", "link", "runbook")
}


class Tell(BaseNotifier):
    """Tells whom the settings name; where they name nobody, it logs."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Mapping[str, Any]) -> None:
        """Send what happened by every channel; one that fails keeps no other from trying."""
        told = message(self.event, context)
        log.warning("%s: %s", told["subject"], told["reason"])
        for notifier in channels(load().notify):
            with contextlib.suppress(Exception):  # it has logged what went wrong
                notifier({**context, "told": told})


def failed() -> Tell:
    """For a DAG's `on_failure_callback`."""
    return Tell(FAILED)


def waits() -> Tell:
    """For a task that waits for a person."""
    return Tell(WAITS)


def published_in_time() -> DeadlineAlert:
    """The deadline of a night, counted from when its run was queued."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=_night_hours(),
        callback=SyncCallback(tell_late),
        name="published",
    )


def tell_late(context: Mapping[str, Any]) -> None:
    """Tell that a run has missed its deadline; runs of a backfill wait for one another, and have none."""
    if str(context["dag_run"].get("run_type")) != "backfill":
        Tell(LATE)(dict(context))


def message(event: str, context: Mapping[str, Any]) -> dict[str, str]:
    """What there is to say of an event.

    Returns:
        `event, dag_id, run_id, task_id, subject, reason, link, runbook`, as plain text, each on one line.
    """
    run, task = context.get("dag_run"), context.get("task_instance") or context.get("ti")
    dag_id, run_id = (str(_of(run, name)) for name in ("dag_id", "run_id"))
    task_id = str(_of(task, "task_id") or "")
    reason = context.get("exception") or context.get("reason") or _of(context.get("deadline"), "deadline_time") or ""
    told = {
        "event": event,
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "subject": f"{dag_id} {event}: {_of(run, 'data_interval_start') or run_id}",
        "reason": str(reason),
        "link": f"{_base_url()}/dags/{dag_id}/runs/{run_id}",
        "runbook": RUNBOOK[event],
    }
    return {name: " ".join(text.split()) for name, text in told.items()}


def channels(settings: NotifySettings) -> Iterator[BaseNotifier]:
    """Airflow's notifiers for the channels that the settings name."""
    if settings.mail_to:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        to = [address.strip() for address in settings.mail_to.split(",")]
        yield SmtpNotifier(
            to=to, from_email=settings.mail_from, subject=SUBJECT, html_content=MAIL, smtp_conn_id=settings.smtp_conn_id
        )
    if settings.webhook_conn_id:
        from airflow.providers.http.notifications.http import HttpNotifier

        yield HttpNotifier(http_conn_id=settings.webhook_conn_id, endpoint=settings.webhook_endpoint, json=dict(TEXT))


def _night_hours() -> timedelta:
    """As the settings say; if they are no good, the first task will tell, and not every DAG at once."""
    try:
        return timedelta(hours=load().notify.night_hours)
    except SettingsError:
        return timedelta(hours=NotifySettings().night_hours)


def _base_url() -> str:
    from airflow.sdk.configuration import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def _of(thing: Any, name: str) -> Any:
    """A field of one of Airflow's objects, or of the JSON that stands for it."""
    if isinstance(thing, dict):
        return thing.get(name) or (thing.get("dag_run_id") if name == "run_id" else None)
    return getattr(thing, name, None)
