"""The production shape: started, paid a night by its own scheduler, asked by people of every role, and stopped."""

import contextlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import quote

import httpx
import polars as pl
import psutil
import pytest
import s3fs
import sqlalchemy as sa
from samples import CHROMIUM, corpus_frames, enter, outputs_frame, stack_settings, train_tiny
from servers import Webhook, eventually, free_ports, listening

from infra.monitor.runs import AWAITING
from infra.monitor.runs import NIGHTLY as DAG
from infra.stack import supervise
from infra.stack.api import RefusedError, airflow_as, follow, trigger
from infra.stack.layout import BUCKET, MARK, environment, load, secrets_of
from provenance.core.settings import CHECKOUT
from provenance.core.store import Store
from provenance.settlement import ledger

pytestmark = [pytest.mark.night, pytest.mark.timeout(1200)]
PATIENCE = 600
AT_MIDNIGHT = timedelta(minutes=2)
HOSTILE = "{{ 7 * 7 }}<script>"


def heard(receiver, event, **wanted):
    """What a webhook was told of an event."""

    def found():
        told = [one for one in list(receiver.heard) if one["event"] == event]
        return next((one for one in told if all(one[name] == value for name, value in wanted.items())), None)

    return eventually(found, lambda: f"nobody told {event} {wanted}: {receiver.heard}", within=PATIENCE)


@pytest.fixture(scope="module")
def receiver():
    with listening(Webhook()) as made:
        yield made


@pytest.fixture(scope="module")
def stack(tmp_path_factory, receiver):
    """A stack of the tests' own, up; everything of it is gone afterwards."""
    folder = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        told = {"NOTIFY__WEBHOOK_CONN_ID": "told", "NOTIFY__WEBHOOK_ENDPOINT": "told", "NOTIFY__NIGHT_HOURS": "0.002"}
        few = {"CORPUS__SHARD_EXAMPLES": "16", "REVIEW__LEAST": "3", "SIGNALS__COLLECT": "false"}
        named = told | few | {"MODEL__FOLDER": str(train_tiny(folder / "tiny"))}
        enter(patch, {f"PROVENANCE_{name}": value for name, value in named.items()})
        enter(patch, {"STACK": str(stack_settings(folder)), "AIRFLOW_CONN_TOLD": receiver.url})
        made = load()
        try:
            started = command("infra.stack", "up")
            assert started.returncode == 0, started.stdout + started.stderr
            yield made
        finally:
            ended = command("infra.stack", "down")
            assert ended.returncode == 0, ended.stderr
            assert not of(made), "no orphan is left"
            stopped = [line for line in (made.logs / "supervisord.log").read_text().splitlines() if "stopped: s3 " in line]
            assert stopped[-1].endswith("(exit status 0)"), "the store ends by itself, with all data written"


def command(module, *words):
    """A command line of ours in a process of its own."""
    return subprocess.run([sys.executable, "-m", module, *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def of(stack):
    """Processes of a stack."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(stack.path):
                found.append(process.pid)
        except psutil.Error:
            pass
    return found


def running(pid):
    """What a process is, unless it has ended, whether or not anybody has asked how."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{pid}: {process.name()} {process.cmdline()}"
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def store(stack):
    """The stack's store, as the pipeline reaches it."""
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, environment(stack))
        yield Store(f"s3://{BUCKET}", {"endpoint_url": stack.s3_url})


@pytest.fixture(scope="module")
def olga(stack):
    return airflow_as(stack, "olga")


def ends(airflow, dag_id, run_id):
    return list(follow(airflow, dag_id, run_id, within=PATIENCE))[-1][0]


def waits_at(airflow, run_id, task_id):
    for _, tasks in follow(airflow, DAG, run_id, within=PATIENCE):
        if tasks.get(task_id, {}).get("state") == AWAITING:
            return
    raise AssertionError(f"{task_id} does not wait: {tasks}")


class Days(NamedTuple):
    """Days that the tests pay: the one that the scheduler pays by itself, one of odd revenue, and three before."""

    yesterday: date
    odd: date
    before: date
    third: date
    fourth: date


@pytest.fixture(scope="module")
def days(stack, store, olga):
    """A corpus and five days of outputs, delivered; the first is the day that the scheduler pays next."""
    for name, frame in corpus_frames().items():
        store.write_table(f"corpus/{name}.parquet", frame)
    assert ends(olga, "ingest_corpus", trigger(olga, "ingest_corpus", {})) == "success"
    now = datetime.now(UTC)
    if now.date() != (now + AT_MIDNIGHT).date():
        time.sleep(AT_MIDNIGHT.total_seconds())  # or the scheduler would pay another day
    today = datetime.now(UTC).date()
    made = Days(*(today - timedelta(days=n) for n in range(1, 6)))
    for day in made:
        frame = outputs_frame(str(day))
        if day == made.odd:
            frame = frame.with_columns(revenue_minor=pl.lit(9_000_000))
        store.write_table(f"outputs/day={day}/part.parquet", frame)
    return made


@pytest.fixture(scope="module")
def paid(olga, days):
    """Yesterday, paid by the run that the scheduler makes by itself."""
    olga.call("PATCH", f"/dags/{DAG}", {"is_paused": False})
    runs = eventually(lambda: olga.runs(DAG), "no scheduled run", within=PATIENCE, every=1.0)
    assert [run["run_type"] for run in runs] == ["scheduled"]
    run_id = runs[0]["dag_run_id"]
    assert ends(olga, DAG, run_id) == "success", {name: task["state"] for name, task in olga.tasks(DAG, run_id).items()}
    return run_id


def test_the_scheduler_pays_a_night_on_s3_and_the_dask_cluster(stack, store, olga, days, paid):
    assert store.exists(f"exports/payouts/day={days.yesterday}/current.json")
    assert olga.tasks(DAG, paid)["settlement.approve"]["state"] == "skipped"
    checked = command("tasks.cli", "verify", str(days.yesterday))
    assert checked.returncode == 0, checked.stdout
    log = "".join(path.read_text() for path in (stack.logs / "tasks").rglob(f"*{paid}*/task_id=features.featurise/*.log"))
    assert "0 reused" in log
    workers = httpx.get(f"http://127.0.0.1:{stack.ports.dashboard}/json/counts.json").json()
    assert workers["workers"] == stack.workers


def test_metrics_tell_of_the_night(stack, days, paid):
    midnight = datetime(days.yesterday.year, days.yesterday.month, days.yesterday.day, tzinfo=UTC).timestamp()

    def told():
        text = httpx.get(f"http://127.0.0.1:{stack.ports.metrics}/metrics", timeout=30).text
        lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return float(lines.get("provenance_last_published_day_timestamp_seconds", 0)) == midnight and lines

    lines = eventually(told, "yesterday in the metrics", every=2.0)  # an answer is good for some seconds
    assert not [line for line in lines if "collect_errors_total" in line and float(lines[line])]


def test_a_late_night_is_told_of_by_webhook(stack, receiver, paid):
    told = heard(receiver, "is late", dag_id=DAG, run_id=paid)
    assert told["runbook"].startswith(f"{stack.airflow_url}/payouts/docs/operators.md#")
    assert told["link"].endswith(paid)


def test_a_run_for_no_day_fails_with_the_next_step_and_is_told_of(stack, olga, receiver, paid):
    run_id = trigger(olga, DAG, {})
    assert ends(olga, DAG, run_id) == "failed"
    log = "".join(path.read_text() for path in (stack.logs / "tasks").rglob(f"*{run_id}*/task_id=inputs.freeze/*.log"))
    assert "expected a day to pay, or a data interval that starts on it, found neither. Trigger it with a day" in log
    assert olga.tasks(DAG, run_id)["inputs.freeze"]["try_number"] == 1
    told = heard(receiver, "failed", run_id=run_id)
    assert told["runbook"] == f"{stack.airflow_url}/payouts/docs/operators.md#failed-task"


# Who may do what: (method, path, body) and the people who may.
NOBODY = set()
YES = {"chosen_options": ["Approve"], "params_input": {}}
APPROVING = "dagRuns/none/taskInstances/settlement.approve"
ASKED = {
    "read a night": ("GET", f"/dags/{DAG}/dagRuns", None, {"olga", "ann", "dana"}),
    "run a night": ("POST", f"/dags/{DAG}/dagRuns", {"logical_date": None, "conf": {"day": "2020-01-01"}}, {"olga"}),
    "pause audits": ("PATCH", "/dags/audit_attribution", {"is_paused": True}, {"olga"}),
    "pause a night": ("PATCH", f"/dags/{DAG}", {"is_paused": False}, {"olga"}),
    "start settling": ("PATCH", "/dags/settle_period", {"is_paused": True}, {"olga"}),
    "pause all": ("PATCH", "/dags?dag_id_pattern=settle_period", {"is_paused": True}, {"olga"}),
    "back-fill": (
        "POST", "/backfills/dry_run",
        {"dag_id": DAG, "from_date": "2020-01-02T00:00:00Z", "to_date": "2020-01-02T23:00:00Z"}, {"olga"},
    ),
    "clear a task": ("POST", f"/dags/{DAG}/clearTaskInstances", {"dry_run": True, "dag_run_id": "none"}, {"olga"}),
    "approve payments": ("PATCH", f"/dags/settle_period/{APPROVING}/-1/hitlDetails", YES, {"ann"}),
    "approve a night": ("PATCH", f"/dags/{DAG}/{APPROVING}/-1/hitlDetails", YES, {"ann", "dana"}),
    "forge an approval": (
        "POST", f"/dags/{DAG}/{APPROVING}/xcomEntries",
        {"key": "return_value", "value": {"chosen_options": ["Approve"]}}, NOBODY,
    ),
    "read connections": ("GET", "/connections", None, NOBODY),
    "set a variable": ("POST", "/variables", {"key": "a", "value": "b"}, NOBODY),
}  # fmt: skip


@pytest.mark.parametrize("what", ASKED)
def test_people_may_do_what_their_role_says(stack, paid, what):
    method, path, body, may = ASKED[what]
    for person in ("olga", "ann", "dana"):
        try:
            airflow_as(stack, person).call(method, path, body)
            allowed = True
        except RefusedError as error:
            allowed = error.status != 403
        assert allowed == (person in may), f"{person}: {what}"
    assert httpx.request(method, f"{stack.airflow_url}/api/v2{path}", json=body).status_code == 401


def test_who_collects_exports_reads_nothing_else_and_writes_nothing(stack, days, paid):
    reached = {
        name: s3fs.S3FileSystem(key=key[0], secret=key[1], endpoint_url=stack.s3_url, use_listings_cache=False)
        for name, key in secrets_of(stack)["s3"].items()
    }
    current = f"{BUCKET}/exports/payouts/day={days.yesterday}/current.json"
    assert reached["accountants"].cat_file(current)
    with pytest.raises(PermissionError):
        reached["accountants"].cat_file(f"{BUCKET}/corpus/examples.parquet")
    assert reached["operators"].cat_file(f"{BUCKET}/corpus/examples.parquet")
    for name in ("accountants", "operators"):
        with pytest.raises(PermissionError):
            reached[name].pipe_file(current, b"{}")
        with pytest.raises(PermissionError):
            reached[name].rm_file(current)


def test_a_backfill_and_a_run_by_hand_of_the_same_days_pay_nobody_twice(stack, store, olga, days, paid):
    asked = {
        "dag_id": DAG, "from_date": f"{days.fourth}T00:00:00Z", "to_date": f"{days.before}T23:59:59Z", "run_backwards": False,
        "dag_run_conf": {}, "max_active_runs": 3, "reprocess_behavior": "completed",
    }  # fmt: skip
    previewed = command("tasks.cli", "preview", str(days.third), "--json")
    assert previewed.returncode == 0, previewed.stderr
    expected = json.loads(previewed.stdout)[0]["changes"]
    engine = sa.create_engine(os.environ["PROVENANCE_DATABASE__URL"], poolclass=sa.NullPool)
    assert len(ledger.bookings(engine)) == 1, "a preview books nothing"
    made = olga.call("POST", "/backfills", asked)
    by_hand = trigger(olga, DAG, {"day": str(days.third)})
    assert ends(olga, DAG, by_hand) == "success"
    eventually(lambda: olga.call("GET", f"/backfills/{made['id']}")["completed_at"], "the backfill", within=PATIENCE, every=1.0)
    states = [run["state"] for run in olga.runs(DAG) if run["run_type"] == "backfill"]
    assert states == ["success"] * 3
    booked = ledger.bookings(engine)
    assert sorted((b.day, b.revision) for b in booked) == [
        (day, 1) for day in (days.fourth, days.third, days.before, days.yesterday)
    ]
    opening = {}
    for booking in booked:
        table = store.read_table(f"exports/payouts/day={booking.day}/rev=0001/payouts.parquet")
        balances = table.select("owner_id", "currency", "opening_balance_minor", "closing_balance_minor")
        for owner, currency, opens, closes in balances.iter_rows():
            assert opens == opening.get((owner, currency), 0), (booking, owner)
            opening[owner, currency] = closes
        if booking.day == days.third:
            earned = {(row["owner_id"], row["currency"]): row["earned_minor"] for row in table.iter_rows(named=True)}
            assert {(o, c): will for o, c, _, will in expected} == {w: e for w, e in earned.items() if e}


def approve_in_browser(browser, stack, run_id, day, folder):
    """Dana logs in, finds the DAG with what waits for her, reads why, and approves; then she looks at the page of nights."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{stack.airflow_url}/")
    page.fill("input[name=username]", "dana")
    page.fill("input[name=password]", secrets_of(stack)["people"]["dana"])
    page.keyboard.press("Enter")
    page.wait_for_selector("a[href*='plugin/payouts']")
    page.goto(f"{stack.airflow_url}/dags/{DAG}")
    page.wait_for_selector("text=Required Action")
    page.screenshot(path=folder / "dag.png")
    page.goto(f"{stack.airflow_url}/dags/{DAG}/runs/{quote(run_id)}/tasks/settlement.approve/required_actions")
    try:
        page.get_by_text("revenue").first.wait_for()
        page.screenshot(path=folder / "request.png", full_page=True)
        page.get_by_role("button", name="Approve", exact=True).click()
        page.get_by_text("Response received at").first.wait_for()
    except Exception:
        page.screenshot(path=folder / "failed.png", full_page=True)
        (folder / "failed.txt").write_text(page.locator("body").aria_snapshot())
        raise
    page.screenshot(path=folder / "approved.png", full_page=True)
    page.goto(f"{stack.airflow_url}/payouts/")
    page.wait_for_selector(f"#nights a[href$='{day}']")
    page.screenshot(path=folder / "nights.png", full_page=True)
    context.close()


def test_a_night_unlike_the_others_waits_for_a_person_and_then_has_their_name(
    stack, store, olga, receiver, days, paid, tmp_path, request
):
    run_id = trigger(olga, DAG, {"day": str(days.odd)})
    ends_at = "settlement.approve"
    waits_at(olga, run_id, ends_at)
    assert heard(receiver, "waits for a person", run_id=run_id)["task_id"] == ends_at
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{ends_at}/-1/hitlDetails"
    dana = airflow_as(stack, "dana")
    assert "revenue" in dana.call("GET", path)["body"]
    with pytest.raises(RefusedError):
        olga.call("PATCH", path, YES)
    if CHROMIUM.exists():
        approve_in_browser(request.getfixturevalue("browser"), stack, run_id, days.odd, tmp_path)
    else:
        dana.call("PATCH", path, YES)
    assert ends(olga, DAG, run_id) == "success"
    engine = sa.create_engine(os.environ["PROVENANCE_DATABASE__URL"], poolclass=sa.NullPool)
    (booking,) = ledger.bookings(engine, days.odd)
    assert "dana" in booking.facts["approved_by"]
    assert any("revenue" in reason for reason in booking.facts["reasons"])


def test_no_secret_is_in_a_log_a_table_of_airflow_or_an_export(stack, store, paid):
    hidden = secrets_of(stack)
    planted = {hidden[name] for name in ("postgres", "jwt", "session", "s3_at_rest", "fernet", "payees")}
    planted |= {*hidden["databases"].values(), *hidden["people"].values(), *(secret for _, secret in hidden["s3"].values())}
    assert len(planted) >= 15
    for path in stack.path.rglob("*"):
        parts = path.relative_to(stack.path).parts
        if path.is_file() and parts[0] not in {"postgres", "s3", "secrets.json", "s3.json", "supervisord.conf"}:
            data = path.read_bytes()
            assert not [secret for secret in planted if secret.encode() in data], path
    engine = sa.create_engine(environment(stack)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], poolclass=sa.NullPool)
    with engine.connect() as connection:
        for table in sa.inspect(engine).get_table_names():
            for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')):
                text = str(tuple(row))
                assert not [secret for secret in planted if secret in text], table
    for key in store.list("exports"):
        data = store.read(key)
        assert not [secret for secret in planted if secret.encode() in data], key


def test_every_process_of_a_stack_is_known_as_one(stack, paid):
    began = {int(state["pid"]) for state in supervise.states(stack).values()}
    children = [child for pid in began for child in psutil.Process(pid).children(recursive=True)]
    below = set()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            below |= set() if "postgres" in child.name() else {child.pid}
    assert len(below) >= 5, "executor's workers, and what serves logs"
    # One that has just begun may have no environment yet, and one that has just ended has none any more.

    def unknown():
        return [told for pid in (began | below).difference(of(stack)) if (told := running(pid))]

    eventually(lambda: not unknown(), unknown, within=10)


def test_what_is_killed_is_started_again_and_what_is_up_is_left_alone(stack, paid):
    before = {name: state["pid"] for name, state in supervise.states(stack).items()}
    supervise.kill(stack, "airflow-triggerer")
    gone = {0, before["airflow-triggerer"]}
    eventually(lambda: supervise.states(stack)["airflow-triggerer"]["pid"] not in gone, "another triggerer")
    assert command("infra.stack", "up").returncode == 0
    after = {name: state["pid"] for name, state in supervise.states(stack).items()}
    assert {name for name in before if before[name] != after[name]} == {"airflow-triggerer"}
    shown = command("infra.stack", "status")
    assert shown.returncode == 0, shown.stdout


def test_a_taken_port_is_named_before_anything_starts(tmp_path, monkeypatch):
    (port,) = free_ports(1)
    server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
    try:
        path = stack_settings(tmp_path, postgres=port)
        monkeypatch.setenv("STACK", str(path))
        failed = command("infra.stack", "up")
    finally:
        server.server_close()
    assert failed.returncode == 2
    assert f"port {port} (postgres)" in " ".join(failed.stderr.split())
    assert not (tmp_path / "stack").exists()
