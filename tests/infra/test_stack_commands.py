"""The program of the stack, as far as it runs without one."""

import io
import socket
import subprocess
import sys
from datetime import UTC, date, datetime

import pytest
from paid import DAYS, pay
from rich.console import Console

from infra.local_airflow import check_port
from infra.stack import backfill as backfills
from infra.stack.backfill import booked_in_words
from infra.stack.layout import Stack
from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT
from provenance.settlement.books import NIGHT, Booking

# Runs a module as if what `make up` installs were not there.
BEFORE_UP = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("supervisor", "prometheus_client", "flask_appbuilder"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.argv = ["infra.stack", *sys.argv[1:]]
runpy.run_module("infra.stack", run_name="__main__")
"""
FIRST, SECOND = date(2026, 11, 20), date(2026, 11, 21)
BEFORE, START, AFTER = (datetime(2026, 11, 25, hour, tzinfo=UTC) for hour in (1, 2, 3))


def program(*words):
    command = [sys.executable, "-c", BEFORE_UP, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False)


@pytest.mark.parametrize(("words", "shown"), [(("--help",), "backfill"), (("backfill", "--help"), "FIRST")])
def test_help_is_there_before_the_stack_is_installed(words, shown):
    run = program(*words)
    assert run.returncode == 0, run.stderr
    assert shown in run.stdout


def test_a_port_that_is_taken_is_named_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        check_port(port)
        taken.listen()
        with pytest.raises(SettingsError, match=f"port {port}: expected a free port, found a program that listens there"):
            check_port(port)


def booking(number, day, revision, at):
    return Booking(number, NIGHT, day, at, revision, "n")


def test_a_backfill_that_booked_nothing_says_so():
    nights = [booking(1, FIRST, 1, BEFORE), booking(2, SECOND, 1, BEFORE)]
    assert booked_in_words(nights, [FIRST, SECOND], START).startswith("Nothing was booked: every day is booked already")


def test_a_backfill_names_the_days_that_it_booked():
    nights = [booking(1, FIRST, 1, BEFORE), booking(2, SECOND, 1, BEFORE), booking(3, SECOND, 2, AFTER)]
    text = booked_in_words(nights, [FIRST, SECOND], START)
    assert text.startswith("Booked: 2026-11-21 (revision 2); the others are booked already")
    assert booked_in_words(nights, [SECOND], START) == "Booked: 2026-11-21 (revision 2)."


def test_a_booking_of_another_day_is_not_the_backfill_s():
    assert "Nothing" in booked_in_words([booking(1, FIRST, 1, AFTER)], [SECOND], START)


class Scheduler:
    """Airflow, as far as a backfill sees it: every run succeeds at once."""

    def __init__(self, created):
        self.backfill = {"id": 1, "created_at": created.isoformat(), "completed_at": created.isoformat()}

    def call(self, method, path, body=None, **query):
        if method == "POST":
            self.backfill |= {"from_date": body["from_date"], "to_date": body["to_date"]}
        return {"backfills": []} if (method, path) == ("GET", "/backfills") else self.backfill

    def runs(self, dag_id, **query):
        return [{"run_type": "backfill", "state": "success", "data_interval_start": f"{day}T00:00:00Z"} for day in DAYS]


@pytest.mark.parametrize(
    ("created", "said"),
    [(BEFORE.replace(year=2020), "Booked: 2026-10-15 (revision 1), "), (AFTER.replace(year=2100), "Nothing was booked")],
)
def test_the_end_of_a_backfill_says_what_the_ledger_has(where, monkeypatch, created, said):
    pay(where)
    monkeypatch.setattr(backfills, "airflow_as", lambda *_: Scheduler(created))
    screen = io.StringIO()
    backfills.backfill(Stack(), *(date.fromisoformat(DAYS[end]) for end in (0, -1)), Console(file=screen, width=200))
    assert "3 of 3 nights succeeded." in screen.getvalue()
    assert said in screen.getvalue()
