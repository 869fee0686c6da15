"""The page behind Airflow's authentication: rights, and hostile input."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from html import unescape
from urllib.parse import quote, unquote, urldefrag

import httpx
import polars as pl
import pytest
from cryptography.fernet import Fernet
from jinja2 import Environment, PackageLoader, StrictUndefined
from paid import DAYS, NO_BETTER, STAGES, SUPPORTED, UNSUPPORTED, lay_out, pay, record, show_dag
from samples import create_database, enter
from servers import airflow_server, free_ports, page_settings
from sqlalchemy.engine import make_url

from infra.monitor.nights import WatchedNight
from infra.monitor.nights import nights as watched
from infra.monitor.runs import Run
from infra.page import documents, template_filters
from infra.page.plugin import PREFIX
from provenance.core.settings import CHECKOUT
from provenance.core.store import sha256
from provenance.corpus.rights.optout_records import opt_out
from provenance.features.run_notes import RunNote, add_note
from provenance.inputs import frozen
from provenance.settlement import ledger
from provenance.settlement.approvals import Approval
from provenance.settlement.bank.status_reports import Outcome
from provenance.settlement.months import settling, stage
from provenance.settlement.months.closings import publish
from provenance.settlement.payees.register import import_payees
from tasks.dag_parameters import DOCS
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
PERIOD, OWNER, HELD, RETURNED = "2026-10", "owner-000001", "owner-000003", "owner-000002"
CLOSING = f"exports/periods/period={PERIOD}/closing"
EXPORT = f"exports/payouts/day={DAYS[0]}/rev=0001"
STATEMENT = f"exports/statements/period={PERIOD}/owner={OWNER}/statement.pdf"
SHOWN_PAGES = (
    "/payouts/", f"/payouts/nights/{DAYS[0]}", "/payouts/outputs/o-0000001", "/payouts/months", f"/payouts/months/{PERIOD}",
    "/payouts/owners", f"/payouts/owners/{OWNER}", "/payouts/model",
)  # fmt: skip
DOCUMENT = "/payouts/docs/operators.md"
PATHS = (
    *SHOWN_PAGES, DOCUMENT, "/payouts/outputs?output_id=x", "/payouts/page.css", "/payouts/docs",
    f"/payouts/files/{EXPORT}/payouts.csv", f"/payouts/files/{CLOSING}/closing.csv", f"/payouts/files/{STATEMENT}",
)  # fmt: skip
APIS = (
    "/payouts/api/nights.json", f"/payouts/api/nights/{DAYS[0]}.json", "/payouts/api/outputs/o-0000001.json",
    "/payouts/api/months.json", f"/payouts/api/months/{PERIOD}.json", "/payouts/api/owners.json",
    f"/payouts/api/owners/{OWNER}.json", "/payouts/api/model.json",
)  # fmt: skip
PAYEES = "owner_id,name,town,country,currency,method,iban,paypal,routing,account,tax_residence,tax_id"
PAYER = {"NAME": "Payer GmbH", "TOWN": "Hamburg", "COUNTRY": "DE", "IBAN": "DE02120300000000202051"}
TWO = tuple(
    Approval(name, datetime(2026, 11, 3, hour, tzinfo=UTC), granted=True) for name, hour in (("<b>Ann</b>", 8), ("Bob", 9))
)


def settle(where, folder):
    """A month closed, approved and sent: one payment came back, one owner is on hold, some have no payee data."""
    lines = [f"owner-{n:06d},Owner {n},Paris,FR,EUR,paypal,,o{n}@example.org,,,DE,36574261809" for n in range(30)]
    (folder / "payees.csv").write_text("\n".join([PAYEES, *lines, ""]))
    import_payees(where, folder / "payees.csv", by="me")
    ledger.hold(where.ledger, HELD, day=date(2026, 10, 20), reason="<i>disputed</i>", by="me")
    stage.close(where, PERIOD)
    stage.pay(where, PERIOD, *TWO)
    outcomes = [
        Outcome(payment.payment_id, "returned" if payment.line.owner_id == RETURNED else "paid", reason="closed <u>account</u>")
        for payment in settling.payments(where.ledger, PERIOD)
    ]
    settling.answer(where.ledger, outcomes, day=date(2026, 11, 5), message="camt", source="x")
    names = [f"owner={OWNER}/statement.{form}" for form in ("pdf", "html")]
    publish(where, f"exports/statements/period={PERIOD}", {name: name.encode() for name in names}, {"booking_id": 1})
    opt_out(where.store, OWNER, None, choice="held", evidence="<em>a letter</em>", by="me")


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
    """Three days paid and one that waits, a month settled; a server for a viewer and for somebody who may not read the DAG."""
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
        "PROVENANCE_PAYEES__KEY": Fernet.generate_key().decode(),
        "PROVENANCE_SETTLEMENT__CONTACT": "royalties@example.org",
        "PROVENANCE_SETTLEMENT__MINIMUM": '{"EUR": 1}',
        **{f"PROVENANCE_PAYER__{name}": value for name, value in PAYER.items()},
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
            first = watched(where.store, where.ledger)[0].night
            add_note(where.store, first, RunNote("2026-10-16T00:10:00+00:00", 1, 9, 1, 0, 0, None, 1000, 20, 10))
            settle(where, folder)
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
        assert "attachment" not in answer.headers.get("content-disposition", "")
        assert not re.search(r"o-0|EUR|owner-", answer.text)


@pytest.mark.parametrize("path", [*SHOWN_PAGES, DOCUMENT, *APIS])
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
    assert without_tags(text).count("0.86 TF-IDF 0.33") == 3
    assert "Fidelity of shares: everything" in text
    assert f"{template_filters.day(DAYS[0])}: the estimate 0.86, 0.81 to 0.91" in text
    data = site.get("/payouts/api/nights.json").json()["nights"]
    assert [night["fidelity"].get("everything", {}).get("lds") for night in data] == [*[SUPPORTED["lds"]] * 3, None]


def test_a_night_says_what_pays_and_how_well_it_predicts(site):
    text = without_tags(site.get(f"/payouts/nights/{DAYS[0]}").text)
    assert "Fidelity 0.86, TF-IDF 0.33" in text
    assert "How far shares can be trusted Shares rest on 24 counterfactual models: each was left out and" in text
    assert "everything faithful 100 % faithful 24 the estimate 0.86 0.81 to 0.91 93 % left out 90 % set aside" in text
    for row in ("TF-IDF 0.33 0.28 to 0.38", "influence alone 0.41 0.36 to 0.46", "size alone -0.02 -0.07 to 0.03"):
        assert row in text
    assert "pays nothing" not in text
    assert "(features of 2.0 % of its 1,000 examples; 1.0 % of them are new since the night before)" in text
    data = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()
    assert data["fidelity"] == data["night"]["fidelity"]
    assert data["fidelity"]["everything"]["models"] == 24
    output = without_tags(site.get(f"/payouts/outputs/o-0000001?day={DAYS[0]}").text)
    assert "Trust Shares rest on 24 counterfactual models" in output


def test_a_night_that_waits_says_why_its_rule_pays_nothing(site):
    text = without_tags(site.get(f"/payouts/nights/{WAITING}").text)
    assert f"Contract everything: its rule faithful pays nothing, because its check failed: {NO_BETTER}." in text
    assert "The check failed and amounts were divided by size." in text
    assert f'href="{DOCUMENT}#rule-not-supported"' in site.get(f"/payouts/nights/{WAITING}").text
    data = site.get(f"/payouts/api/nights/{WAITING}.json").json()["fidelity"]["everything"]
    assert (data["paid_by"], data["failed"]) == ({"flat": 1.0}, [NO_BETTER])


def test_names_and_reasons_in_what_was_measured_are_shown_and_not_run():
    facts = {**SUPPORTED, "rule": "faithful", "paid_by": {"flat": 1.0}, "failed": [HOSTILE]}
    shown = str(parts().fidelity({HOSTILE: facts, "songs": facts | {"lds": {}}}))
    assert "<script" not in shown
    assert (
        without_tags(shown) == "&lt;script&gt;alert(&#39;owner {}&#39;)&lt;/script&gt; 0.86 TF-IDF 0.33 failed songs - failed"
    )
    alone = {"lds": {"estimate": SUPPORTED["lds"]["estimate"]}}
    assert without_tags(str(parts().fidelity({"songs": SUPPORTED | alone}))) == "0.86", "predicted from nothing else"
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
    what_to_do = "for what to do, see Failed reconcile."
    assert f'href="{DOCUMENT}#failed-reconcile"' in text
    assert f"settlement.reconcile failed after 1 try. {reason}; {what_to_do}" in without_tags(text)
    assert "/tasks/" not in site.get(f"/payouts/nights/{DAYS[0]}").text


def test_a_waiting_night_says_where_to_answer(site):
    text = site.get(f"/payouts/nights/{WAITING}").text
    assert f'/runs/{quote(site.run_ids[1], safe="")}/tasks/settlement.approve"' in text
    where = "who answers under Required Actions; see Waits for approval."
    assert f'href="{DOCUMENT}#waits-for-approval"' in text
    assert f"settlement.approve waits for a person, {where}" in without_tags(text)
    assert 'href="/required_actions"' in text
    assert "settlement.approve waiting 0 s" in without_tags(text)


def test_no_link_asks_for_what_the_frame_of_airflow_forbids(site):
    for path in (*SHOWN_PAGES, DOCUMENT, *(f"/payouts/nights/{day}" for day in (*DAYS, WAITING))):
        assert "target=" not in site.get(path).text, "the frame is sandboxed: a link out of it would do nothing"


def without_tags(text):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", re.sub(r"<br>|</(d[td]|t[dh]|li|h\d|strong)>", " ", text)))


def parts():
    loader, options = PackageLoader("infra.page"), {"trim_blocks": True, "lstrip_blocks": True}
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
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


def test_one_line_says_how_things_stand(site):
    line = without_tags(site.get("/payouts/").text.split('<p class="headline">')[1].split("</p>")[0]).strip()
    parts = line.split(", ")
    assert parts[0] == "18 Oct waits for a person"
    assert parts[1].startswith("17 Oct published on ")
    assert parts[2] == "16 Oct failed in settlement.reconcile"
    assert parts[3:6] == ["fidelity 0.86", "nights are paused", "1 payment returned"]
    assert re.fullmatch(r"\d+ owners on hold", parts[6])
    assert parts[7:] == ["2 questions wait for people"]
    assert [part["text"] for part in site.get("/payouts/api/nights.json").json()["headline"]] == parts


def test_a_night_shows_who_got_what_and_what_changed(site):
    first, second = (site.get(f"/payouts/api/nights/{day}.json").json() for day in DAYS[:2])
    shares = [{row["party_id"]: row for row in night["owners"]} for night in (first, second)]
    assert (first["day_before"], second["day_before"]) == ("", DAYS[0])
    for night, own in zip((first, second), shares, strict=True):
        totals = night["night"]["totals"]["EUR"]
        assert sum(row["amount_minor"] for row in own.values()) == totals["earned_minor"]
        assert abs(sum(row["share"] for row in own.values()) - 1) < 1e-9
    owner = next(iter(shares[1]))
    assert shares[1][owner]["before"] == shares[0][owner]["share"]
    text = site.get(f"/payouts/nights/{DAYS[1]}").text
    change = template_filters.change(shares[1][owner]["share"] - shares[0][owner]["share"])
    assert change[0] in "+-"
    assert f'data-label="change">{change}<' in text
    assert f'href="/payouts/owners/{owner}"' in text


def test_a_night_that_waits_shows_its_shares_and_links_to_no_credits(site):
    data = site.get(f"/payouts/api/nights/{WAITING}.json").json()
    assert len(data["owners"]) == 40
    assert {row["amount_minor"] for row in data["owners"]} == {None}
    assert all(row["before"] is not None for row in data["owners"]), "beside the last published night"
    assert "/payouts/outputs" not in site.get(f"/payouts/nights/{WAITING}").text


def test_outputs_begin_with_their_text_and_their_leading_owner(site):
    listed = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()["listed"]
    credits = site.get(f"/payouts/api/outputs/{listed[0]['output_id']}.json?day={DAYS[0]}").json()["credits"]
    assert (listed[0]["excerpt"], listed[0]["size"], listed[0]["modality"]) == ("x", 1, "text")
    assert (listed[0]["leader"], listed[0]["leader_share"]) == (credits[0]["owner_name"], credits[0]["share_ppb"] / 1e9)


def test_a_picture_shows_where_the_revenue_went(site):
    totals = site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()["night"]["totals"]["EUR"]
    for path in ("/payouts/", f"/payouts/nights/{DAYS[0]}", f"/payouts/months/{PERIOD}"):
        text = site.get(path).text
        assert '<path class="ribbon c3"' in text
        assert 'role="img" aria-label="Of EUR ' in text
    text = site.get(f"/payouts/nights/{DAYS[0]}").text
    assert f"developer EUR {totals['developer_minor'] / 100:,.2f}, 30.0 %" in text


def test_a_month_goes_from_the_close_to_the_answer_of_the_bank(site):
    (month,) = (month for month in site.get("/payouts/api/months.json").json() if month["period"] == PERIOD)
    steps = [(step["name"], step["state"], step["by"]) for step in month["steps"]]
    assert steps == [
        ("closed", "done", "settle_period"), ("prepared", "done", "<b>Ann</b>"), ("approved", "done", "Bob"),
        ("sent", "done", ""), ("paid", "wrong", ""),
    ]  # fmt: skip
    assert month["steps"][-1]["text"] == "28 paid, 1 returned"
    assert month["closed"]
    assert month["nights"] == 3
    detail = site.get(f"/payouts/api/months/{PERIOD}.json").json()
    paid = {payment["line"]["owner_id"]: payment for payment, _ in detail["payments"]}
    assert len(paid) == 29
    assert paid[RETURNED]["status"] == "returned"
    assert HELD not in paid
    text = without_tags(site.get(f"/payouts/months/{PERIOD}").text)
    assert "prepared by &lt;b&gt;Ann&lt;/b&gt; Tue 3 Nov 2026, 08:00 UTC" in text
    assert "returned: closed &lt;u&gt;account&lt;/u&gt;" in text
    assert "held: &lt;i&gt;disputed&lt;/i&gt;" in text
    assert "held: no payee data" in text
    assert "No night has paid 2026-10-01 to 2026-10-14, 2026-10-18 to 2026-10-31." in text
    listing = without_tags(site.get("/payouts/months").text)
    assert "28 paid, 1 returned" in listing


def test_owners_are_found_by_name_and_id_and_in_order_of_what_is_owed(site):
    found = site.get("/payouts/api/owners.json").json()
    assert found["count"] == 40
    owed = [row["owed"].get("EUR", 0) for row in found["rows"]]
    assert owed == sorted(owed, reverse=True)
    by_id = site.get(f"/payouts/api/owners.json?q={OWNER}").json()
    assert [row["owner_id"] for row in by_id["rows"]] == [OWNER]
    by_name = site.get("/payouts/api/owners.json?q=OWNER%2012").json()
    assert [row["owner_id"] for row in by_name["rows"]] == ["owner-000012"]
    assert site.get("/payouts/api/owners.json?q=nobody").json() == {"rows": [], "count": 0, "start": 0}
    rest = site.get("/payouts/api/owners.json?start=38").json()["rows"]
    assert [row["owner_id"] for row in rest] == [row["owner_id"] for row in found["rows"][38:]]
    assert f'href="/payouts/owners/{OWNER}"' in site.get("/payouts/owners?q=000001").text


def test_an_owner_s_page_has_balance_history_works_and_opt_outs(site):
    data = site.get(f"/payouts/api/owners/{RETURNED}.json").json()
    ((month, earned),) = data["history"]["EUR"]
    assert month == PERIOD
    assert data["balances"][0]["owed"] == earned, "a payment that came back is owed again"
    assert [(period, payment["status"]) for period, payment, _ in data["payments"]] == [(PERIOD, "returned")]
    data = site.get(f"/payouts/api/owners/{OWNER}.json").json()
    assert (data["balances"][0]["owed"], data["balances"][0]["paid"]) == (0, data["history"]["EUR"][0][1])
    assert [work["work_id"] for work in data["works"] if work["stake"] == 1.0] == [f"w-{OWNER}"]
    assert data["outputs_in_all"] > 0
    assert data["leading"]["EUR"][0]["outputs"] == data["outputs_in_all"]
    assert [row["choice"] for row in data["optouts"]] == ["held"]
    assert data["statements"] == [PERIOD]
    text = without_tags(site.get(f"/payouts/owners/{OWNER}").text)
    assert "&lt;em&gt;a letter&lt;/em&gt;" in text
    assert "Owed now EUR 0.00" in text
    assert f'href="/payouts/files/{STATEMENT}"' in site.get(f"/payouts/owners/{OWNER}").text
    assert "held: &lt;i&gt;disputed&lt;/i&gt;" in without_tags(site.get(f"/payouts/months/{PERIOD}").text)
    assert "On hold &lt;i&gt;disputed&lt;/i&gt;" in without_tags(site.get(f"/payouts/owners/{HELD}").text)


def test_the_model_s_card_has_every_night_and_may_be_kept(site):
    card = site.get("/payouts/api/model.json").json()
    assert [night["day"] for night in card["nights"]] == sorted(night["day"] for night in card["nights"])
    page = site.get("/payouts/model").text
    assert all(f'href="/payouts/nights/{night["day"]}"' in page for night in card["nights"])
    kept = site.get("/payouts/model.md")
    assert kept.headers["content-type"].startswith("text/markdown")
    assert kept.text.startswith(f"# Model card: {card['model_id']}\n")
    assert site.get("/payouts/model?model_id=nobody").status_code == 404


def test_files_are_handed_out_as_they_were_published(site):
    for published in site.get(f"/payouts/api/nights/{DAYS[0]}.json").json()["published"]:
        for name, digest, size in published["files"]:
            answer = site.get(f"/payouts/files/{published['folder']}/{name}")
            assert (sha256(answer.content), len(answer.content)) == (digest, size)
            assert answer.headers["content-type"] == "application/octet-stream"
    csv = site.get(f"/payouts/files/{EXPORT}/payouts.csv").headers["content-disposition"]
    assert csv == f"attachment; filename*=UTF-8''payouts-{DAYS[0]}-rev1.csv"
    statement = site.get(f"/payouts/files/{STATEMENT}")
    assert statement.content == f"owner={OWNER}/statement.pdf".encode()
    assert f"statement-{OWNER}-{PERIOD}.pdf" in statement.headers["content-disposition"]
    for name in ("manifest.json", "manifest.sig"):
        assert site.get(f"/payouts/files/{CLOSING}/{name}").status_code == 200


def test_no_link_of_the_page_is_dead(site):
    """Every page that is linked to answers, and has the heading that the link names; outputs and owners by a few."""
    waiting, seen, few = (
        [*SHOWN_PAGES, *(f"/payouts/nights/{day}" for day in (*DAYS, WAITING)), "/payouts/docs/index.md"],
        {},
        {},
    )
    anchors = []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        kind = re.match(r"/payouts/(outputs|owners)/", path)
        if kind and path not in SHOWN_PAGES:
            few[kind[0]] = few.get(kind[0], 0) + 1
            if few[kind[0]] > 3:
                continue
        answer = site.get(path)
        assert answer.status_code in {200, 303}, path
        seen[path] = answer.text if answer.headers.get("content-type", "").startswith("text/html") else ""
        for target in map(unescape, re.findall(r'(?:href|src)="([^"]+)"', seen[path])):
            page, anchor = urldefrag(target)
            if page.startswith("/payouts/") or not page:
                anchors.append((page or path, anchor, path))
                waiting.append(page or path)
            else:
                assert re.match(r"https?://|data:image/png;|/dags/|/required_actions$", page), (path, target)
    assert len([path for path in seen if path.startswith("/payouts/docs/")]) == len(documents.names())
    for page, anchor, path in anchors:
        if anchor and page in seen:
            assert f'id="{unquote(anchor)}"' in seen[page], (path, page, anchor)


def test_documents_of_the_checkout_lie_where_alerts_and_dags_link_to(site):
    assert f"{PREFIX}/docs" == DOCS
    text = site.get(DOCUMENT).text
    assert "<h1 " in text
    assert 'id="late-night"' in text
    contents = text.split('<details class="contents">')[1].split("</details>")[0]
    assert '<a href="#late-night">Late night</a>' in contents


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
        ("/payouts/docs/nothing.md", 404),
        ("/payouts/docs/..%2F..%2Finfra%2Fsettings%2Flocal.toml", 404),
        ("/payouts/docs/local.toml", 404),
        ("/payouts/pictures/infra/settings/local.toml", 404),
        ("/payouts/pictures/..%2F..%2Fetc%2Fpasswd", 404),
        ("/payouts/months/2026-13", 404),
        ("/payouts/months/2019-01", 404),
        ("/payouts/months/%3Cscript%3E", 404),
        ("/payouts/owners/nobody", 404),
        ("/payouts/owners/%3Cscript%3E", 404),
        ("/payouts/owners?q=%3Cscript%3E%00", 200),
        ("/payouts/owners?start=-1", 422),
        ("/payouts/files/store.json", 404),
        (f"/payouts/files/bank/period={PERIOD}/manifest.json", 404),
        (f"/payouts/files/{EXPORT}/nothing.csv", 404),
        (f"/payouts/files/{EXPORT}/..%2F..%2F..%2F..%2Fstore.json", 404),
        (f"/payouts/files/{EXPORT}/..%2F..%2F..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd", 404),
        ("/payouts/files/exports/keys/x.pem", 404),
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
