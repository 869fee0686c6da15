"""Notifies people of a run that failed, waits for a person, or is late: by mail and webhook, as `[notify]` says.

Airflow's own notifiers send, and render their texts as templates. Facts of the run are passed as data, because they contain
names that strangers chose. Import-light, since DAG files import it while Airflow parses them.
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
from provenance.core.settings import NotifySettings
from tasks.dag_parameters import base_url
from tasks.settings import load

log = logging.getLogger("provenance.notify")

FAILED, WAITS, LATE = "failed", "waits for a person", "is late"
# Instructions, by event.
RUNBOOK = {
    FAILED: "docs/operators.md#failed-task",
    WAITS: "docs/operators.md#waits-for-approval",
    LATE: "docs/operators.md#late-night",
}
SUBJECT = "{{ message.subject }}"
MAIL = """<p>{{ message.subject | e }}</p><p>{{ message.reason | e }}</p>
<p><a href="{{ message.link | e }}">{{ message.link | e }}</a></p><p>What to do: {{ message.runbook | e }}</p>"""
TEXT = {
    name: "{{ message." + name + " }}"
    for name in ("event", "dag_id", "run_id", "task_id", "subject", "reason", "link", "runbook")
}


class Notifier(BaseNotifier):
    """Logs an event, and sends it by every channel of the settings."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def notify(self, context: Mapping[str, Any]) -> None:
        """Send the event by every channel; a channel that fails does not stop the others."""
        facts = message(self.event, context)
        log.warning("%s: %s", facts["subject"], facts["reason"])
        for notifier in channels(load().notify):
            with contextlib.suppress(Exception):  # the notifier has logged it
                notifier({**context, "message": facts})


def failed() -> Notifier:
    """For a DAG's `on_failure_callback`."""
    return Notifier(FAILED)


def waits() -> Notifier:
    """For a task that waits for a person."""
    return Notifier(WAITS)


def published_in_time() -> DeadlineAlert:
    """The deadline of a night, counted from the time at which its run was queued."""
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=_night_hours(),
        callback=SyncCallback(notify_late),
        name="published",
    )


def notify_late(context: Mapping[str, Any]) -> None:
    """Notify of a run that missed its deadline; runs of a backfill wait for one another, so they have none."""
    if str(context["dag_run"].get("run_type")) != "backfill":
        Notifier(LATE)(dict(context))


def message(event: str, context: Mapping[str, Any]) -> dict[str, str]:
    """The facts of an event: `event, dag_id, run_id, task_id, subject, reason, link, runbook`, each text on one line."""
    run, task = context.get("dag_run"), context.get("task_instance") or context.get("ti")
    dag_id, run_id = (str(_field(run, name)) for name in ("dag_id", "run_id"))
    reason = context.get("exception") or context.get("reason") or _field(context.get("deadline"), "deadline_time") or ""
    facts = {
        "event": event,
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": str(_field(task, "task_id") or ""),
        "subject": f"{dag_id} {event}: {_field(run, 'data_interval_start') or run_id}",
        "reason": str(reason),
        "link": f"{base_url()}/dags/{dag_id}/runs/{run_id}",
        "runbook": RUNBOOK[event],
    }
    return {name: " ".join(text.split()) for name, text in facts.items()}


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
    """From the settings. Wrong settings give the default, so that the first task reports them, and not every DAG."""
    try:
        return timedelta(hours=load().notify.night_hours)
    except SettingsError:
        return timedelta(hours=NotifySettings().night_hours)


def _field(owner: Any, name: str) -> Any:
    """A field of an Airflow object, or of its JSON."""
    if isinstance(owner, dict):
        return owner.get(name) or (owner.get("dag_run_id") if name == "run_id" else None)
    return getattr(owner, name, None)
