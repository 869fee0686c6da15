"""Rules for every DAG file."""

import ast
import itertools
import json
import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from infra.page.documents import document
from provenance.core.errors import ContractError, InputError
from provenance.core.settings import CHECKOUT
from provenance.core.stages import BY_NAME as KNOWN
from provenance.inputs.stage import wait_until_over
from provenance.settlement.months.periods import CLOSES_ON, closes_on
from tasks.dag_parameters import paid_day, settled_period

FILES = sorted((CHECKOUT / "dags").glob("*.py"))
HEAVY = ("torch", "cupy", "dask", "distributed", "polars", "s3fs", "transformers", "openlineage.client")
STAGES = [
    "inputs.freeze", "features.plan", "features.featurise", "influence.fit_curvature", "influence.score",
    "royalty.likelihoods", "royalty.estimate", "royalty.share",
    "settlement.review", "settlement.approve", "settlement.book", "settlement.publish", "settlement.reconcile",
    "royalty.credit",
]  # fmt: skip


def in_a_fresh_process(script, tmp_path, **environment):
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **environment}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_parsing_a_dag_imports_nothing_heavy(path, tmp_path):
    script = f"""
import runpy, sys
runpy.run_path({str(path)!r})
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert in_a_fresh_process(script, tmp_path).splitlines()[-1] == "[]"


LIGHT = (
    "provenance.settlement.stage", "provenance.settlement.months.stage", "provenance.settlement.exports.verification",
    "infra.monitor.sources", "tasks.cli",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_what_only_reads_and_books_loads_no_torch(module, tmp_path):
    script = f"import sys, {module}; print('torch' in sys.modules)"
    assert in_a_fresh_process(script, tmp_path).splitlines()[-1] == "False"


def test_dags_import_only_airflow_sdk_and_tasks():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                known = {"airflow.sdk", "airflow.providers.standard.operators.hitl"}
                assert name.split(".")[0] in {"tasks", "datetime"} or name in known, f"{path.name} imports {name}"


FACTS = """
import json
from airflow.dag_processing.dagbag import DagBag
from provenance.core.errors import CheckFailed, ContractError
bag = DagBag("dags")
assert not bag.import_errors, bag.import_errors
facts = {}

def callbacks(task, on):
    functions = getattr(task, f"on_{on}_callback")  # of a mapped task it is not yet a list
    return functions if isinstance(functions, list) else [functions] if functions else []

for name, dag in bag.dags.items():
    tasks = dag.tasks
    facts[name] = {
        "file": dag.fileloc, "doc": dag.doc_md, "tags": sorted(dag.tags), "timetable": type(dag.timetable).__name__,
        "cron": getattr(dag.timetable, "expression", ""), "catchup": dag.catchup, "max_active_runs": dag.max_active_runs,
        "groups": {name: sorted(group.children) for name, group in dag.task_group_dict.items() if name},
        "tasks": {t.task_id: sorted(t.downstream_task_ids) for t in tasks},
        "retries": sorted({t.retries for t in tasks}),
        "owners": sorted({t.owner for t in tasks}),
        "callbacks": sorted({f.__name__ for t in tasks for on in ("execute", "success", "failure", "retry")
            for f in callbacks(t, on)}),
        "without_callback": [t.task_id for t in tasks for on in ("execute", "success", "failure", "retry")
            if not callbacks(t, on)],
        "bad_input": sorted({(t.retry_policy.evaluate(ContractError(
            "f", expected="a", found="b"), 1, 2).action.value) for t in tasks}),
        "checks": sorted({t.retry_policy.evaluate(CheckFailed("x"), 1, 2)
            .action.value for t in tasks}),
        "passing": sorted({(t.retry_policy.evaluate(OSError("gone"), 1, 2).action.value) for t in tasks}),
    }
print("FACTS" + json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    printed = in_a_fresh_process(FACTS, tmp_path_factory.mktemp("airflow"))
    return json.loads(printed.split("FACTS")[1])


def test_every_dag_has_documentation_tags_an_owner_and_retries(facts):
    assert set(facts) == {path.stem for path in FILES}
    for name, dag in facts.items():
        assert dag["file"].endswith(f"{name}.py")
        assert len(dag["doc"]) > 200
        assert dag["tags"]
        assert dag["owners"] != ["airflow"]
        assert min(dag["retries"]) >= 1
        assert dag["max_active_runs"] == 1
        assert not dag["catchup"]


def test_bad_input_and_failed_checks_are_not_retried_and_anything_else_is(facts):
    for dag in facts.values():
        assert dag["bad_input"] == ["fail"]
        assert dag["checks"] == ["fail"]
        assert dag["passing"] == ["default"]


def test_every_task_reports_its_lineage_and_the_list_of_stages_has_every_task(facts):
    for dag in facts.values():
        assert set(dag["callbacks"]) == {"started", "completed", "failed"}
        assert not dag["without_callback"]
    assert {task for dag in facts.values() for task in dag["tasks"]} == set(KNOWN)


def test_a_night_is_stages_in_a_row_one_of_which_may_be_a_person(facts):
    night = facts["nightly_payouts"]["tasks"]
    assert sorted(night) == sorted(STAGES)
    chain = {stage: [following] for stage, following in itertools.pairwise(STAGES)} | {STAGES[-1]: []}
    chain["royalty.share"] = ["royalty.credit", "settlement.book", "settlement.review"]
    chain["settlement.review"] = ["settlement.approve", "settlement.book"]
    chain["settlement.book"] = ["settlement.publish", "settlement.reconcile"]
    assert night == chain


def test_the_graph_has_a_group_for_each_package(facts):
    grouped = {task: group for group, tasks in facts["nightly_payouts"]["groups"].items() for task in tasks}
    assert grouped == {stage: stage.split(".")[0] for stage in STAGES[1:-1]}, "what is first and last stands alone"
    assert facts["settle_period"]["groups"] == {"approvals": ["settlement.approve", "settlement.prepare"]}


@pytest.mark.parametrize("base", ["http://localhost:8080", "https://example.org/airflow"])
def test_links_to_runbooks_lead_to_the_page_that_serves_them(base, tmp_path):
    script = """
from airflow.dag_processing.dagbag import DagBag
print(repr([dag.doc_md for dag in DagBag("dags").dags.values()]))
"""
    texts = ast.literal_eval(in_a_fresh_process(script, tmp_path, AIRFLOW__API__BASE_URL=base).splitlines()[-1])
    links = [link for text in texts for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert len(links) >= 9
    for link in links:
        page, _, anchor = link.partition("#")
        assert page == f"{'/airflow' if base.endswith('/airflow') else ''}/payouts/docs/operators.md"
        assert anchor in document("operators.md").anchors


def test_runs_by_a_timetable_have_a_real_interval_and_others_none(facts):
    by_hand = {"ingest_corpus", "train_counterfactuals"}
    wanted = {path.stem: "NullTimetable" if path.stem in by_hand else "CronDataIntervalTimetable" for path in FILES}
    assert {name: dag["timetable"] for name, dag in facts.items()} == wanted


def test_a_settlement_waits_for_two_people_before_it_pays(facts):
    assert facts["settle_period"]["tasks"] == {
        "settlement.close": ["settlement.pay", "settlement.prepare"],
        "settlement.prepare": ["settlement.approve", "settlement.pay"],
        "settlement.approve": ["settlement.pay"],
        "settlement.pay": ["settlement.invoices", "settlement.reconcile_bank", "settlement.statements"],
        "settlement.reconcile_bank": [],
        "settlement.statements": [],
        "settlement.invoices": [],
    }


def test_statements_name_the_day_on_which_a_month_is_closed(facts):
    assert facts["settle_period"]["cron"].split()[2:] == [str(CLOSES_ON), "*", "*"]
    assert closes_on("2026-12") == date(2027, 1, CLOSES_ON)


def test_counterfactual_models_are_planned_and_then_trained(facts):
    tasks = facts["train_counterfactuals"]["tasks"]
    assert tasks == {"counterfactuals.plan": ["counterfactuals.train"], "counterfactuals.train": []}


PLACE = """
import json
from airflow.dag_processing.dagbag import DagBag
task = DagBag("dags").dags["train_counterfactuals"].get_task("counterfactuals.train")
print("PLACE" + json.dumps([task.queue, task.pool, task.executor_config, task.max_active_tis_per_dag]))
"""


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, ["default", "default_pool", {}, 2]),
        (
            {"QUEUE": "gpus", "POOL": "training", "EXECUTOR_CONFIG": '{"pod_template_file": "gpu.yaml"}', "AT_ONCE": "4"},
            ["gpus", "training", {"pod_template_file": "gpu.yaml"}, 4],
        ),
        ({"QUEUE": "gpus", "GROUPS": "none"}, ["default", "default_pool", {}, 2]),
    ],
)
def test_settings_say_where_the_task_that_trains_runs(settings, place, tmp_path):
    environment = {f"PROVENANCE_COUNTERFACTUALS__{name}": value for name, value in settings.items()}
    assert json.loads(in_a_fresh_process(PLACE, tmp_path, **environment).split("PLACE")[1]) == place


def test_a_form_with_another_field_is_refused(tmp_path):
    """Airflow accepts any name, and a run for `dya` would pay its default day."""
    script = """
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import process_params
from provenance.core.errors import InputError
from tasks.dag_parameters import form_value
dag = DagBag("dags").dags["nightly_payouts"]
values = []
for conf in ({}, {"day": "2026-11-19"}, {"dya": "2026-11-19"}):
    try:
        values.append(form_value(process_params(dag, dag.get_task("inputs.freeze"), conf, suppress_exception=False), "day"))
    except InputError as error:
        values.append(str(error))
print(values)
"""
    values = ast.literal_eval(in_a_fresh_process(script, tmp_path).splitlines()[-1])
    assert values == [None, "2026-11-19", "form of the run: expected 'day', or nothing, found 'dya'. Did you mean 'day'?"]


def test_a_run_pays_the_day_on_which_its_interval_starts():
    assert paid_day(datetime(2026, 11, 19, tzinfo=UTC)) == "2026-11-19"
    assert paid_day(datetime(2026, 11, 19, 1, tzinfo=timezone(timedelta(hours=2)))) == "2026-11-18"
    with pytest.raises(ContractError, match="expected a day to pay, or a data interval that starts on it, found neither"):
        paid_day(None)
    assert paid_day(None, "2026-11-18") == "2026-11-18"
    assert paid_day(datetime(2026, 11, 19, tzinfo=UTC), "2026-11-18") == "2026-11-18"
    with pytest.raises(InputError, match="run of nightly_payouts: day"):
        paid_day(None, "2026-02-30")
    with pytest.raises(ContractError, match=r"found one that is not\. The scheduled run after 2026-11-20 00:00 UTC pays it"):
        wait_until_over(date(2026, 11, 19), datetime(2026, 11, 19, 23, tzinfo=UTC))
    assert settled_period(datetime(2026, 11, 3, 6, tzinfo=UTC)) == "2026-11"
    assert settled_period(None, "2026-10") == "2026-10"
    with pytest.raises(InputError, match="expected a period, or a data interval that starts in it, found none"):
        settled_period(None)
