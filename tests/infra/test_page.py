"""The page behind Airflow's own authentication: who may read it, and what it makes of hostile input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from paid import DAYS, STAGES, pay, record
from samples import create_database, free_ports
from sqlalchemy.engine import make_url

from tasks.settings import CHECKOUT

# An owner whose name a page that does not escape would run.
HOSTILE = "<script>alert('owner {}')</script>"
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
PATHS = (
    "/payouts/",
    f"/payouts/nights/{DAYS[0]}",
    "/payouts/outputs/o-0000001",
    "/payouts/outputs?output_id=x",
    "/payouts/page.css",
)
APIS = (
    "/payouts/api/nights.json", f"/payouts/api/nights/{DAYS[0]}.json", "/payouts/api/outputs/o-0000001.json",
)  # fmt: skip


@dataclass
class Site:
    """An API server with the page on it."""

    url: str
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
    """Three days paid, and a server for a viewer and for somebody who may not read the DAG."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "passwords.json").write_text(json.dumps({"viewer": "viewer", "wrong": "wrong"}))
    (folder / "plugins").mkdir()
    if "provenance_payouts" not in entry_points(group="airflow.plugins").names:  # a checkout that is not installed anew
        (folder / "plugins/page.py").write_text("from infra.page.plugin import PayoutsPlugin\n")
    settings = {
        "PROVENANCE_STORE__URL": f"file://{folder}/store",
        "PROVENANCE_DATABASE__URL": create_database(postgres),
        "PROVENANCE_SETTLEMENT__KEY": str(folder / "signing.pem"),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "viewer:viewer,wrong:",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "0123456789abcdef" * 4,
        "AIRFLOW__API__SECRET_KEY": "0123456789abcdef" * 2,
    }
    if request.param == "fab":
        settings |= {"AIRFLOW__CORE__AUTH_MANAGER": FAB, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": create_database(postgres)}
        script = f"from airflow.utils import db; db.initdb()\n{FAB_USERS}"
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        tables = make_url(request.getfixturevalue("airflow_tables")).database
        settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = create_database(postgres, tables)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        pay(called=HOSTILE)
    airflow = settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    record(airflow, DAYS[0], tasks=[(stage, "success", 10.0) for stage in STAGES])
    record(airflow, DAYS[1], state="failed", tasks=[("settlement.reconcile", "failed", 3.0)])
    (port,) = free_ports(1)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)], env={**os.environ, **settings}, cwd=CHECKOUT, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait(f"http://127.0.0.1:{port}", server, folder / "log")
        yield Site(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


def wait(url, server, log: Path):
    deadline = time.monotonic() + 180
    while not answers(url):
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, "the API server did not start"
        time.sleep(0.3)


def answers(url):
    try:
        httpx.get(f"{url}/api/v2/version", timeout=5)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("path", PATHS + APIS)
def test_nobody_in_particular_is_refused(site, path):
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


@pytest.mark.parametrize("path", PATHS[:3] + APIS)
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
    found = site.get("/payouts/api/nights.json").json()
    assert [(night["day"], night["state"]) for night in found["nights"]] == [
        (DAYS[0], "published"), (DAYS[1], "failed"), (DAYS[2], "published"),
    ]  # fmt: skip
    revenue = [night["totals"]["EUR"]["revenue_minor"] for night in found["nights"]]
    assert f"EUR {revenue[2] / 100:,.2f}" in text
    assert found["nights"][0]["seconds"] == dict.fromkeys(STAGES, 10.0)
    assert len(site.get("/payouts/api/nights.json?last=1").json()["nights"]) == 1


def test_a_night_leads_to_its_files_and_its_outputs(site):
    text = site.get(f"/payouts/nights/{DAYS[0]}").text
    found = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()
    for name, digest, _ in found["published"][0]["files"]:
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
    import tomllib

    named = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]["airflow.plugins"]
    module, _, name = named["provenance_payouts"].partition(":")
    assert f"class {name}(AirflowPlugin" in (CHECKOUT / f"{module.replace('.', '/')}.py").read_text()
