"""Notifications by mail and webhook, to receivers on this machine."""

import email
import email.policy
import json
import socketserver
import threading
from types import SimpleNamespace

import pytest
from samples import enter
from servers import Webhook, listening

from infra.page.documents import document
from tasks import notify
from tasks.dag_parameters import base_url

HOSTILE = "output '{{ 7 * 7 }}{{ conn.smtp_default.password }}<script>alert(1)</script>'\nBcc: everybody@example.org"


@pytest.fixture
def webhook():
    with listening(Webhook()) as server:
        yield server


@pytest.fixture
def mailbox():
    """A mail server that accepts and keeps every mail (RFC 5321)."""
    heard = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            for line in self.rfile:
                word = line.strip().upper()
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    heard.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 yes\r\n")
                if word == b"QUIT":
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(heard=heard, port=server.server_address[1])
        server.shutdown()


@pytest.fixture
def channels(monkeypatch, webhook, mailbox):
    named = {"MAIL_TO": "olga@example.org, ops@example.org", "WEBHOOK_CONN_ID": "hook", "WEBHOOK_ENDPOINT": "alarms"}
    enter(monkeypatch, {f"PROVENANCE_NOTIFY__{name}": value for name, value in named.items()})
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", webhook.url)
    mail = {"conn_type": "smtp", "host": "127.0.0.1", "port": mailbox.port, "extra": {"disable_ssl": True, "disable_tls": True}}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(mail))


CONTEXT = {
    "dag_run": SimpleNamespace(dag_id="nightly_payouts", run_id="scheduled__2026-11-20", data_interval_start="2026-11-19"),
    "task_instance": SimpleNamespace(task_id="inputs.freeze"),
    "exception": ValueError(HOSTILE),
}


def test_a_failed_run_is_reported_by_mail_and_webhook(channels, webhook, mailbox):
    notify.failed()(dict(CONTEXT))
    (body,), ((path, _),) = webhook.heard, webhook.asked
    assert path == "/alarms"
    assert body["subject"] == "nightly_payouts failed: 2026-11-19"
    assert body["link"].endswith("/dags/nightly_payouts/runs/scheduled__2026-11-20")
    assert body["task_id"] == "inputs.freeze"
    (mail,) = mailbox.heard
    assert mail["to"] == "olga@example.org, ops@example.org"
    assert mail["subject"] == "nightly_payouts failed: 2026-11-19"


def test_what_strangers_wrote_is_neither_a_template_nor_markup_nor_a_header(channels, webhook, mailbox):
    notify.failed()(dict(CONTEXT))
    (body,) = webhook.heard
    assert body["reason"] == " ".join(HOSTILE.split())
    (mail,) = mailbox.heard
    assert mail["bcc"] is None
    text = mail.get_body(("html",)).get_content()
    assert "{{ 7 * 7 }}" in text
    assert "<script>" not in text


def test_a_channel_that_fails_does_not_stop_the_others(channels, webhook, mailbox, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": 1}))
    notify.waits()(dict(CONTEXT))
    assert [body["event"] for body in webhook.heard] == ["waits for a person"]


def test_a_late_run_is_reported_but_not_one_of_a_backfill(channels, webhook):
    run = {"dag_id": "nightly_payouts", "dag_run_id": "r1", "run_type": "scheduled"}
    run["data_interval_start"] = "2026-11-19T00:00:00Z"
    context = {"dag_run": run, "deadline": {"id": "x", "deadline_time": "2026-11-20T06:00:00Z"}}
    notify.notify_late(context)
    notify.notify_late({**context, "dag_run": {**run, "run_type": "backfill"}})
    (body,) = webhook.heard
    assert body["event"] == "is late"
    assert body["run_id"] == "r1"
    assert "2026-11-20T06:00:00Z" in body["reason"]


def test_without_channels_an_event_is_logged(caplog):
    notify.failed()(dict(CONTEXT))
    assert "nightly_payouts failed" in caplog.text


@pytest.mark.parametrize("event", notify.RUNBOOK)
def test_every_event_has_an_entry_in_the_runbook(event):
    page, anchor = notify.RUNBOOK[event].split("#")
    assert anchor in document(page).anchors
    assert notify.message(event, CONTEXT)["runbook"] == f"{base_url()}/payouts/docs/{page}#{anchor}"
