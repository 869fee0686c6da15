"""The page behind Airflow's authentication: rights, and hostile input."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx
import polars as pl
import pytest
from jinja2 import Environment, PackageLoader
from paid import DAYS, NO_BETTER, STAGES, SUPPORTED, UNSUPPORTED, lay_out, pay, record, show_dag
from samples import create_database, enter
from servers import airflow_server, free_ports, page_settings
from sqlalchemy.engine import make_url

from infra.monitor.nights import WatchedNight
from infra.monitor.runs import Run
from infra.page import template_filters
from provenance.core.settings import CHECKOUT
from provenance.inputs import frozen
from tasks.where import opened

# An owner whose name, and a notice, that a page that does not escape would run.
HOSTILE = "<script>alert('owner {}')</script>"
NOTICE = "<script>alert('Revenue is invented')</script>"
SHOWN = "&lt;script&gt;alert(&#39;Revenue is invented&#39;)&lt;/script&gt;"
WAITING = "2026-10-18"
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
# All of Airflow's core, plugins loaded as it loads them, without the parts that a page needs not.
SERVER = """
import sys, uvicorn
from airflow.api_fastapi.app import create_app
uvicorn.run(create_app(apps="core"), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
FAB_USERS = """
from airflow.providers.fab.www.app import create_app
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
with get_application_builder() as builder:
    manager = builder.sm
    manager.sync_roles()
    for name, role in (("viewer", "Viewer"), ("wrong", "Public")):
        manager.add_user(name, name, name, name + "@example.org", manager.find_role(role), password=name)
"""
SHOWN_PAGES = ("/payouts/", f"/payouts/nights/{DAYS[0]}", "/payouts/outputs/o-0000001")
PATHS = (*SHOWN_PAGES, "/payouts/outputs?output_id=x", "/payouts/page.css")
APIS = (
    "/payouts/api/nights.json", f"/payouts/api/nights/{DAYS[0]}.json", "/payouts/api/outputs/o-0000001.json",
)  # fmt: skip


@dataclass
class Site:
    """An API server with the page on it."""

    url: str
    run_ids: list[str]
    tokens: dict[str, str] = field(default_factory=dict)

    def get(self, path, user="viewer", *, cookie=False):
        headers = {}
        if user:
            headers = {"Cookie": f"_token={self.token(user)}"} if cookie else {"Authorization": f"Bearer {self.token(user)}"}
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=60)

    def token(self, user):
        if user not in self.tokens:
            said = {"username": user, "password": user}
            answer = httpx.post(f"{self.url}/auth/token", json=said, timeout=60)
            answer.raise_for_status()
            self.tokens[user] = answer.json()["access_token"]
        return self.tokens[user]


@pytest.fixture(scope="module", params=["simple", pytest.param("fab", marks=pytest.mark.night)])
def site(request, postgres, tmp_path_factory):
    """Three days paid and one that waits, and a server for a viewer and for somebody who may not read the DAG."""
    folder = tmp_path_factory.mktemp("site")
    settings = page_settings(folder, {"viewer": "viewer", "wrong": ""}) | {
        "PROVENANCE_STORE__URL": f"file://{folder}/store",
        "PROVENANCE_DATABASE__URL": create_database(postgres),
        "PROVENANCE_SETTLEMENT__KEY": str(folder / "signing.pem"),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": "0123456789abcdef" * 4,
        "AIRFLOW__API__SECRET_KEY": "0123456789abcdef" * 2,
    }
    if request.param == "fab":
        settings |= {"AIRFLOW__CORE__AUTH_MANAGER": FAB, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": create_database(postgres)}
        script = f"from airflow.utils import db; db.initdb()\n{FAB_USERS}"
        command, env = [sys.executable, "-c", script], {**os.environ, **settings}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        tables = make_url(request.getfixturevalue("airflow_tables")).database
        settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = create_database(postgres, tables)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, settings)
        plain, noticed = frozen.freeze_outputs, pl.lit(NOTICE).alias("notice")
        patch.setattr(frozen, "freeze_outputs", lambda store, outputs: plain(store, outputs.with_columns(noticed)))
        with opened() as where:
            pay(where, name_format=HOSTILE)
            lay_out(where.store, WAITING, 200, unsupported="wait", report=UNSUPPORTED)
    airflow = settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    record(airflow, DAYS[0], tasks=[(stage, "success", 10.0) for stage in STAGES])
    run_ids = [
        record(airflow, DAYS[1], state="failed", tasks=[("settlement.reconcile", "failed", 3.0)]),
        record(airflow, WAITING, state="running", tasks=[("settlement.approve", "awaiting_input", None)]),
    ]
    record(airflow, "2026-09-30", dag_id="settle_period", tasks=[("settlement.approve", "awaiting_input", None)])
    show_dag(airflow, "nightly_payouts", paused=True)
    (port,) = free_ports(1)
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-c", SERVER, port]
    with airflow_server(command, url, folder / "log", {**os.environ, **settings}):
        yield Site(url, run_ids)


@pytest.mark.parametrize("path", PATHS + APIS)
def test_anonymous_requests_are_refused(site, path):
    answer = site.get(path, user=None)
    if path in APIS or path.endswith(".css"):
        assert answer.status_code == 401
    else:
        assert answer.status_code == 303, "to where one logs in"
        assert answer.headers["location"] == f"/api/v2/auth/login?next={quote(path, safe='')}"
    assert not re.search(r"o-0|EUR|owner", answer.text)
    forged = httpx.get(f"{site.url}{path}", headers={"Authorization": "Bearer not-a-token"}, timeout=30)
    assert forged.status_code == 403


@pytest.mark.parametrize("path", PATHS + APIS)
def test_a_wrong_role_is_refused(site, path):
    for cookie in (False, True):
        answer = site.get(path, "wrong", cookie=cookie)
        assert answer.status_code == 403
        assert not re.search(r"o-0|EUR|owner-", answer.text)


@pytest.mark.parametrize("path", SHOWN_PAGES + APIS)
def test_who_may_read_the_dag_may_read_the_page(site, path):
    for cookie in (False, True):
        answer = site.get(path, cookie=cookie)
        assert answer.status_code == 200, answer.text
        assert "script-src" not in answer.headers["content-security-policy"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
        assert answer.headers["cache-control"] == "private, no-store"


def test_nights_show_what_was_paid_and_what_failed(site):
    text = site.get("/payouts/").text
    for day in DAYS:
        assert f'href="/payouts/nights/{day}"' in text
    assert "settlement.reconcile" in text
    assert text.count("<figure>") >= 3, "revenue, time, drift"
    data = site.get("/payouts/api/nights.json").json()
    assert [(night["day"], night["state"]) for night in data["nights"]] == [
        (DAYS[0], "published"), (DAYS[1], "failed"), (DAYS[2], "published"), (WAITING, "waiting"),
    ]  # fmt: skip
    revenue = [night["totals"]["EUR"]["revenue_minor"] for night in data["nights"][:3]]
    assert f"EUR {revenue[2] / 100:,.2f}" in text
    assert data["nights"][0]["seconds"] == dict.fromkeys(STAGES, 10.0)
    assert len(site.get("/payouts/api/nights.json?last=1").json()["nights"]) == 1


def test_nights_show_how_far_shares_can_be_trusted(site):
    text = site.get("/payouts/").text
    assert text.count('<td class="n">0.86</td>') == 3
    assert "Fidelity of shares: everything" in text
    assert f"{template_filters.day(DAYS[0])}: the estimate 0.86, 0.81 to 0.91" in text
    data = site.get("/payouts/api/nights.json").json()["nights"]
    assert [night["fidelity"].get("everything", {}).get("lds") for night in data] == [*[SUPPORTED["lds"]] * 3, None]


def test_a_night_says_what_pays_and_how_well_it_predicts(site):
    text = without_tags(site.get(f"/payouts/nights/{DAYS[0]}").text)
    assert "How far shares can be trusted Shares rest on 24 counterfactual models; left out and predicted, these ranked" in text
    assert "everything faithful 100 % faithful 24 the estimate 0.86 0.81 to 0.91 93 % left out 90 % set aside" in text
    for row in ("TF-IDF 0.33 0.28 to 0.38", "influence alone 0.41 0.36 to 0.46", "size alone -0.02 -0.07 to 0.03"):
        assert row in text
    assert "pays nothing" not in text
    data = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()
    assert data["fidelity"] == data["night"]["fidelity"]
    assert data["fidelity"]["everything"]["models"] == 24
    output = without_tags(site.get(f"/payouts/outputs/o-0000001?day={DAYS[0]}").text)
    assert "Trust Shares rest on 24 counterfactual models" in output


def test_a_night_that_waits_says_why_its_rule_pays_nothing(site):
    text = without_tags(site.get(f"/payouts/nights/{WAITING}").text)
    assert f"Contract everything: its rule faithful pays nothing, because its check failed: {NO_BETTER}." in text
    assert "The check failed and amounts were divided by size." in text
    assert "\n### Rule not supported\n" in (CHECKOUT / "docs/operators.md").read_text()
    data = site.get(f"/payouts/api/nights/{WAITING}.json").json()["fidelity"]["everything"]
    assert (data["paid_by"], data["failed"]) == ({"flat": 1.0}, [NO_BETTER])


def test_names_and_reasons_in_what_was_measured_are_shown_and_not_run():
    facts = {**SUPPORTED, "rule": "faithful", "paid_by": {"flat": 1.0}, "failed": [HOSTILE]}
    shown = str(parts().fidelity({HOSTILE: facts, "songs": facts | {"lds": {}}}))
    assert "<script" not in shown
    assert without_tags(shown) == "&lt;script&gt;alert(&#39;owner {}&#39;)&lt;/script&gt; 0.86 failed songs - failed"
    row = str(parts().measured(HOSTILE, facts, True, "the estimate", facts["lds"]["estimate"]))
    assert "<script" not in row


def test_the_first_page_says_what_is_paused_and_who_waits(site):
    text = without_tags(site.get("/payouts/").text)
    assert "nightly_payouts is paused: no night runs by itself." in text
    assert "nightly_payouts has waited for a person since Mon 19 Oct 2026, 00:00 UTC: Required Actions" in text
    assert "settle_period has waited for a person since Thu 1 Oct 2026, 00:00 UTC: Required Actions" in text
    assert 'href="/required_actions"' in site.get("/payouts/").text
    data = site.get("/payouts/api/nights.json").json()
    assert data["paused"] is True
    assert {dag: question["count"] for dag, question in data["asked"].items()} == {"nightly_payouts": 1, "settle_period": 1}


def test_a_notice_of_the_manifests_is_shown_once(site):
    for path in ("/payouts/", f"/payouts/nights/{DAYS[0]}"):
        assert site.get(path).text.count(SHOWN) == 1
    assert "invented" not in site.get(f"/payouts/nights/{WAITING}").text


def test_a_night_without_nights_before_has_no_drift(site):
    nights = site.get("/payouts/api/nights.json").json()["nights"]
    assert [night["drift"] is None for night in nights] == [True, False, False, True]
    assert "Drift -" in without_tags(site.get(f"/payouts/nights/{DAYS[0]}").text)


def test_a_failed_night_says_where_the_reason_is_and_what_to_read(site):
    text = site.get(f"/payouts/nights/{DAYS[1]}").text
    run = f"/dags/nightly_payouts/runs/{quote(site.run_ids[0], safe='')}"
    assert f'href="{run}/tasks/settlement.reconcile"' in text
    assert f'href="{run}"' in text
    assert "published, failed settlement.reconcile" in without_tags(text)
    assert "settlement.reconcile failed 3 s" in without_tags(text)
    reason = "The reason is in its log, below the last Task failed with exception"
    what_to_do = "for what to do, see docs/operators.md, Failed reconcile."
    assert f"settlement.reconcile failed after 1 try. {reason}; {what_to_do}" in without_tags(text)
    runbook = (CHECKOUT / "docs/operators.md").read_text()
    assert all(f"\n### {entry}\n" in runbook for entry in ("Failed reconcile", "Failed task", "Waits for approval"))
    assert "/tasks/" not in site.get(f"/payouts/nights/{DAYS[0]}").text


def test_a_waiting_night_says_where_to_answer(site):
    text = site.get(f"/payouts/nights/{WAITING}").text
    assert f'/runs/{quote(site.run_ids[1], safe="")}/tasks/settlement.approve"' in text
    where = "who answers under Required Actions; see docs/operators.md, Waits for approval."
    assert f"settlement.approve waits for a person, {where}" in without_tags(text)
    assert 'href="/required_actions"' in text
    assert "settlement.approve waiting 0 s" in without_tags(text)


def test_no_link_asks_for_what_the_frame_of_airflow_forbids(site):
    for path in ("/payouts/", *(f"/payouts/nights/{day}" for day in (*DAYS, WAITING))):
        assert "target=" not in site.get(path).text, "the frame is sandboxed: a link out of it would do nothing"


def without_tags(text):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", re.sub(r"<br>|</d[td]>", " ", text)))


def parts():
    pages = Environment(loader=PackageLoader("infra.page"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters.update(template_filters.FILTERS)
    return pages.get_template("parts.html").module


@pytest.mark.parametrize(
    ("state", "published", "again", "said"),
    [
        ("published", True, True, "published"),
        ("running", False, False, "running"),
        ("running", True, False, "published, running"),
        ("running", True, True, "published, running again"),
        ("queued", True, True, "published, queued again"),
        ("failed", True, True, "published, failed again a.task"),
        ("failed", False, True, "failed a.task"),
        ("waiting", True, True, "published, waiting"),
        ("booked", False, False, "booked"),
    ],
)
def test_a_night_that_is_published_stays_so_whatever_its_latest_run_does(state, published, again, said):
    run = Run("r", "manual", DAYS[0], state, None, None, failed=("a.task",) if state == "failed" else ())
    shown = str(parts().state(WatchedNight(DAYS[0], state, published=published, again=again, runs=(run,))))
    assert without_tags(shown) == said


def test_a_link_names_a_run_whatever_is_in_its_id():
    link = str(parts().task("/airflow", "manual__2026-10-15T00:00:00+00:00/x", "a.task"))
    run = "/airflow/dags/nightly_payouts/runs/manual__2026-10-15T00%3A00%3A00%2B00%3A00%2Fx"
    assert link == f'<a href="{run}/tasks/a.task">a.task</a>'


def test_a_night_leads_to_its_files_and_its_outputs(site):
    text = site.get(f"/payouts/nights/{DAYS[0]}").text
    data = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()
    for name, digest, _ in data["published"][0]["files"]:
        assert name in text
        assert digest in text
    assert f'href="/payouts/outputs/o-0000001?day={DAYS[0]}"' in text
    form = site.get(f"/payouts/outputs?output_id=a%2Fb&day={DAYS[0]}")
    assert form.headers["location"] == f"/payouts/outputs/a%2Fb?day={DAYS[0]}"


def test_names_are_shown_and_not_run(site):
    text = site.get(f"/payouts/outputs/o-0000001?day={DAYS[0]}").text
    assert "&lt;script&gt;alert(&#39;owner" in text
    assert "<script" not in text
    owners = {credit["owner_name"] for credit in site.get("/payouts/api/outputs/o-0000001.json").json()["credits"]}
    assert owners <= {HOSTILE.format(number) for number in range(40)}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/payouts/nights/2026-13-01", 404),
        ("/payouts/nights/20261015", 404),
        ("/payouts/nights/..%2F..%2Fetc%2Fpasswd", 404),
        ("/payouts/nights/%3Cscript%3E", 404),
        ("/payouts/nights/2020-01-01", 404),
        ("/payouts/outputs/..%2F..%2F..%2Fetc%2Fpasswd", 404),
        ("/payouts/outputs/%00", 404),
        ("/payouts/outputs/%3Cscript%3Ealert(1)%3C%2Fscript%3E", 404),
        ("/payouts/outputs/o-0000001?day=../../x", 404),
        ("/payouts/outputs/o-0000001?day=2026-10-30", 404),
        ("/payouts/api/nights/%27;drop%20table%20entry.json", 404),
        ("/payouts/?last=0", 422),
        ("/payouts/?last=100000", 422),
        ("/payouts/?last=x", 422),
        ("/payouts/nothing", 404),
        ("/payouts/docs", 404),
        ("/payouts/openapi.json", 404),
    ],
)
def test_hostile_parameters_find_nothing(site, path, status):
    answer = site.get(path)
    assert answer.status_code == status, answer.text
    assert "<script" not in answer.text
    assert "root:" not in answer.text


def test_nothing_can_be_written(site):
    for path in PATHS + APIS:
        headers = {"Authorization": f"Bearer {site.token('viewer')}"}
        assert httpx.post(f"{site.url}{path}", headers=headers, timeout=30).status_code in {404, 405}


def test_the_navigation_leads_there(site):
    plugins = site.get("/api/v2/plugins", user="viewer")
    if plugins.status_code == 200:  # not every role may list plugins
        mine = [plugin for plugin in plugins.json()["plugins"] if plugin["name"] == "provenance_payouts"]
        assert mine[0]["external_views"][0]["href"] == "/payouts/"


def test_pyproject_names_the_plugin():
    named = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]["airflow.plugins"]
    module, _, name = named["provenance_payouts"].partition(":")
    assert f"class {name}(AirflowPlugin" in (CHECKOUT / f"{module.replace('.', '/')}.py").read_text()
