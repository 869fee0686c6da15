"""Metrics agree with ledger, store and Airflow; alerts and dashboard use existing metrics, and alerts fire when they should.

Without a Prometheus, rules are held against crafted samples by a small evaluator of the part of PromQL that they use:
selectors, offsets, `increase` between the ends of its range, arithmetic and comparisons of one vector with numbers or with
another of the same labels, `and`, `or`, `absent`, `time`. How long a rule has to hold (`for`) and what templates make of it is
not tried.
"""

import json
import operator
import re
import time
from datetime import datetime

import promql_parser as promql
import pytest
import yaml
from paid import DAYS, STAGES, UNSUPPORTED, as_of_old, audited, lay_out, pay, record
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from infra import metrics
from infra.monitor import nights as monitor
from infra.monitor import runs
from infra.monitor.sources import Sources
from infra.page.documents import document
from provenance.core.settings import CHECKOUT
from provenance.features.run_notes import RunNote, add_note
from provenance.settlement.stage import book, publish
from tasks.dag_parameters import DOCS

GROUPS = yaml.safe_load((CHECKOUT / "infra/monitoring/alerts.yml").read_text())["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
BOARD = json.loads((CHECKOUT / "infra/monitoring/grafana/payouts.json").read_text())
BOARD_EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
NOW, WEEK = 1_800_000_000.0, 7 * 86400.0


@pytest.fixture
def read(books, doors, airflow, monkeypatch):
    """Sources over three paid days, runs of Airflow's, a note of work and an audit."""
    monkeypatch.setenv("PROVENANCE_MONITORING__HOURLY_COST", "3600")
    monkeypatch.setenv(runs.VARIABLE, airflow)
    store, engine = pay(doors())
    add_note(store, monitor.nights(store, engine)[-1].night, RunNote("2026-10-18T00:10:00+00:00", 6, 1, 2, 0, 4, 0.99))
    audited(store, DAYS[1], 0.5)
    record(airflow, DAYS[1], state="failed", tasks=[("settlement.reconcile", "failed", 2.0)])
    record(airflow, DAYS[2], tasks=[(stage, "success", 10.0) for stage in STAGES])
    record(airflow, "2026-10-18", state="running", tasks=[("royalty.approve", "awaiting_input", None)])
    record(airflow, "2026-09-03", dag_id="settle_period", kind="manual", tasks=[("settlement.close", "success", 1.0)])
    return Sources.open()


def scrape(collector):
    """Samples of one scrape, by name: labels and value."""
    registry = CollectorRegistry()
    registry.register(collector)
    scraped = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            scraped.setdefault(sample.name, []).append((sample.labels, sample.value))
    return scraped


def value_of(scraped, name, **labels):
    (value,) = [value for had, value in scraped[f"provenance_{name}"] if labels.items() <= had.items()]
    return value


def test_metrics_are_what_the_books_say(read, where):
    scraped = scrape(metrics.Payouts(lambda: read))
    nights = monitor.nights(read.store, read.ledger, runs.runs(read.airflow))
    last = next(night for night in reversed(nights) if night.published)
    midnight = datetime.fromisoformat(f"{DAYS[2]}T00:00:00+00:00")
    assert value_of(scraped, "last_published_day_timestamp_seconds") == midnight.timestamp()
    assert value_of(scraped, "night_amount_minor", currency="EUR", total="revenue") == last.totals["EUR"]["revenue_minor"]
    assert value_of(scraped, "night_outputs") == last.outputs
    assert value_of(scraped, "night_drift_ratio") == pytest.approx(last.drift)
    assert value_of(scraped, "nights", state="published") == 2, "one of the three failed to reconcile"
    assert value_of(scraped, "nights", state="failed") == 1
    assert value_of(scraped, "nights", state="waiting") == 1
    assert {labels["state"] for labels, _ in scraped["provenance_nights"]} == set(monitor.STATES)
    assert value_of(scraped, "night_failed_tasks", task="settlement.reconcile") == 1
    earned = sum(night.totals["EUR"]["earned_minor"] for night in nights if night.totals)
    assert value_of(scraped, "owed_minor", currency="EUR") == earned
    assert value_of(scraped, "bookings_without_export") == 0
    assert [value_of(scraped, "night_features", what=what) for what in ("computed", "reused", "without_cause")] == [8, 1, 4]
    assert value_of(scraped, "night_cost_minor", currency="EUR") == last.worker_seconds(2) == 2 * 20 + 20
    assert value_of(scraped, "fidelity_lds", contract="everything", estimate="estimate") == pytest.approx(0.86)
    assert {labels["estimate"] for labels, _ in scraped["provenance_fidelity_lds"]} == {
        "estimate",
        "influence",
        "size",
        "tfidf",
    }
    assert value_of(scraped, "fidelity_models", contract="everything") == 24
    assert value_of(scraped, "fidelity_intervals_hold", contract="everything", kind="left_out") == 0.93
    assert value_of(scraped, "rule_part", contract="everything") == 1
    assert value_of(scraped, "audit_score", family="owners", method="factored") == 0.5
    assert value_of(scraped, "audit_ceiling", family="owners", method="factored") == 0.8
    assert value_of(scraped, "waiting_since_timestamp_seconds", dag="nightly_payouts") > 0
    assert all(value == 0 for _, value in scraped["provenance_collect_errors_total"])
    book(where, lay_out(where.store, "2026-10-18", 200))
    assert value_of(scrape(metrics.Payouts(lambda: read)), "bookings_without_export") == 1


def test_no_metric_has_many_labels(read):
    scraped = scrape(metrics.Payouts(lambda: read))
    labels = {name for samples in scraped.values() for labels, _ in samples for name in labels}
    assert labels <= {
        "state", "task", "currency", "total", "what", "family", "method", "dag", "part", "contract", "estimate", "kind",
    }  # fmt: skip
    assert sum(len(samples) for samples in scraped.values()) < 200


def test_a_rule_that_fails_its_check_decides_nothing(read, where):
    book(where, lay_out(where.store, "2026-10-18", 200, report=UNSUPPORTED))
    publish(where, "2026-10-18")
    scraped = scrape(metrics.Payouts(lambda: read))
    assert value_of(scraped, "rule_part", contract="everything") == 0
    assert value_of(scraped, "fidelity_models", contract="everything") == 24


def test_nothing_is_told_of_the_fidelity_of_a_night_that_did_not_measure_it(read, where):
    book(where, as_of_old(read.store, lay_out(read.store, "2026-10-18", 200)))
    publish(where, "2026-10-18")
    scraped = scrape(metrics.Payouts(lambda: read))
    assert value_of(scraped, "night_outputs") == 20
    assert not [name for name in scraped if "fidelity" in name or "rule_part" in name]


def test_what_cannot_be_read_is_counted_and_the_rest_is_told(read, caplog):
    unreachable = runs.open_runs("postgresql+psycopg2://nobody@127.0.0.1:1/x")
    broken = Sources(read.settings, read.store, read.ledger, unreachable)
    scraped = scrape(metrics.Payouts(lambda: broken))
    counted = {labels["part"]: value for labels, value in scraped["provenance_collect_errors_total"]}
    assert counted == {"sources": 0, "nights": 1, "books": 0, "audits": 0, "airflow": 1}
    assert value_of(scraped, "owed_minor", currency="EUR") > 0
    assert "airflow cannot be collected" in caplog.text

    def fails():
        raise OSError("no database")

    collector = metrics.Payouts(fails, fresh=0)
    for scrapes in (1, 2):
        scraped = scrape(collector)
        assert value_of(scraped, "collect_errors_total", part="sources") == scrapes
    assert value_of(scraped, "collect_seconds") >= 0


def test_a_scrape_is_good_for_a_while():
    opened = []
    collector = metrics.Payouts(lambda: opened.append(1), fresh=0.2)
    first = list(collector.collect())
    assert list(collector.collect()) == first
    assert len(opened) == 1
    time.sleep(0.25)
    list(collector.collect())
    assert len(opened) == 2, "what was not opened is tried again"


# Promises of the files.


def selectors(node):
    """All vector selectors of an expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if hasattr(node, name):
            yield from selectors(getattr(node, name))
    for argument in getattr(node, "args", ()):
        yield from selectors(argument)


EXPORTED = {f"provenance_{name}": set(labels) for name, (labels, _) in metrics.METRICS.items()}
EXPORTED["provenance_collect_errors_total"] = EXPORTED.pop("provenance_collect_errors")


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES.values()), *BOARD_EXPRESSIONS])
def test_every_expression_parses_and_names_metrics_that_are_exported(expression):
    scraped = list(selectors(promql.parse(expression)))
    assert scraped
    for selector in scraped:
        assert {matcher.name for matcher in selector.matchers.matchers} <= EXPORTED[selector.name]


def test_a_scrape_exports_every_metric_that_is_named(read):
    scraped = scrape(metrics.Payouts(lambda: read))
    mine = {name: samples for name, samples in scraped.items() if not name.endswith("_created")}
    nothing_to_say = {"provenance_backfill_runs", "provenance_escrow_oldest_day_timestamp_seconds"}
    assert EXPORTED.keys() - nothing_to_say == mine.keys()
    for name, samples in mine.items():
        for labels, _ in samples:
            assert set(labels) == EXPORTED[name], name


def test_every_alert_has_a_runbook_entry_that_the_page_serves():
    text = (CHECKOUT / "docs/operators.md").read_text()
    labels = yaml.safe_load((CHECKOUT / "infra/monitoring/prometheus.yml").read_text())["global"]["external_labels"]
    for name, rule in RULES.items():
        assert {"summary", "description", "runbook_url"} <= rule["annotations"].keys(), name
        assert rule["labels"]["severity"] in {"warning", "critical"}
        url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        label, _, path = url.removeprefix("{{ $externalLabels.").partition(" }}")
        assert label in labels, name
        assert path == f"{DOCS}/operators.md"
        assert anchor in document("operators.md").anchors, name
        section = text[text.lower().index("### " + anchor.replace("-", " ")) :].split("\n### ")[0]
        for part in ("**What it means.**", "**How to tell.**", "**What to do.**"):
            assert part in section, (name, part)
    nightly = (CHECKOUT / "dags/nightly_payouts.py").read_text()
    assert set(re.findall(r"docs/operators\.md#([a-z-]+)", nightly)) >= {"late-night", "failed-reconcile"}


# A small evaluator.


def evaluate(node, samples, *, back=0.0):
    """The value of an expression: a number, or a list of labels and value.

    Args:
        samples: by name and how many seconds ago.
    """
    if isinstance(node, str):
        return evaluate(promql.parse(node), samples)
    if isinstance(node, promql.ParenExpr):
        return evaluate(node.expr, samples, back=back)
    if isinstance(node, promql.NumberLiteral):
        return node.val
    if isinstance(node, promql.VectorSelector):
        ago = back + (node.offset.total_seconds() if node.offset else 0.0)
        wanted = [(m.name, m.value) for m in node.matchers.matchers if m.op == promql.MatchOp.Equal]
        assert len(wanted) == len(node.matchers.matchers)
        scraped = samples.get((node.name, ago), [])
        return [(labels, value) for labels, value in scraped if all(labels.get(n) == v for n, v in wanted)]
    if isinstance(node, promql.Call):
        return call(node, samples)
    assert isinstance(node, promql.BinaryExpr), type(node)
    return binary(str(node.op), evaluate(node.lhs, samples), evaluate(node.rhs, samples))


def call(node, samples):
    if node.func.name == "time":
        return NOW
    (argument,) = node.args
    if node.func.name == "absent":
        return [] if evaluate(argument, samples) else [({}, 1.0)]
    assert node.func.name == "increase", node.func.name
    selector, seconds = argument.vector_selector, argument.range.total_seconds()
    before = {tuple(sorted(labels.items())): value for labels, value in evaluate(selector, samples, back=seconds)}
    return [(labels, value - before.get(tuple(sorted(labels.items())), 0.0)) for labels, value in evaluate(selector, samples)]


def binary(op, left, right):
    arithmetic = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    comparison = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq}
    if op == "and":
        return [(labels, value) for labels, value in left if any(labels == other for other, _ in right)]
    if op == "or":
        return left + [(labels, value) for labels, value in right if all(labels != other for other, _ in left)]
    if isinstance(left, float) and isinstance(right, float):
        return arithmetic[op](left, right)
    if isinstance(right, float):
        pairs = [(labels, value, right) for labels, value in left]
    elif isinstance(left, float):
        pairs = [(labels, left, value) for labels, value in right]
    else:
        pairs = [(labels, value, other) for labels, value in left for same, other in right if labels == same]
    if op in arithmetic:
        return [(labels, arithmetic[op](value_of, two)) for labels, value_of, two in pairs]
    return [(labels, value_of) for labels, value_of, two in pairs if comparison[op](value_of, two)]


def now(name, value, **labels):
    return {(f"provenance_{name}", 0.0): [(labels, value)]}


def ago(name, seconds, value, **labels):
    return {(f"provenance_{name}", seconds): [(labels, value)]}


def grown(name, before, after, seconds, **labels):
    return now(name, after, **labels) | ago(name, seconds, before, **labels)


HOUR, A_DAY = 3600.0, 86400.0
CASES = [
    ("PayoutsLateNight", now("last_published_day_timestamp_seconds", NOW - 57 * HOUR), True),
    ("PayoutsLateNight", now("last_published_day_timestamp_seconds", NOW - 54 * HOUR), False),
    ("PayoutsNoNight", now("collect_seconds", 0.1), True),
    ("PayoutsNoNight", now("last_published_day_timestamp_seconds", NOW - 57 * HOUR), False),
    ("PayoutsReconcileFailed", now("night_failed_tasks", 1.0, task="settlement.reconcile"), True),
    ("PayoutsReconcileFailed", now("night_failed_tasks", 1.0, task="influence.score"), False),
    ("PayoutsReconcileFailed", now("bookings_without_export", 1.0), True),
    ("PayoutsReconcileFailed", now("bookings_without_export", 0.0), False),
    ("PayoutsTaskFailed", now("dag_failed_tasks", 2.0, dag="settle_period"), True),
    ("PayoutsTaskFailed", now("dag_failed_tasks", 0.0, dag="settle_period"), False),
    ("PayoutsStaleAudit", now("audit_day_timestamp_seconds", NOW - 16 * A_DAY), True),
    ("PayoutsStaleAudit", now("audit_day_timestamp_seconds", NOW - 14 * A_DAY), False),
    ("PayoutsNoAudit", now("collect_seconds", 0.1), True),
    ("PayoutsNoAudit", now("audit_day_timestamp_seconds", NOW - 16 * A_DAY), False),
    ("PayoutsEscrowGrowth", grown("escrow_minor", 50000.0, 90000.0, WEEK, currency="EUR"), True),
    ("PayoutsEscrowGrowth", grown("escrow_minor", 50000.0, 70000.0, WEEK, currency="EUR"), False),
    ("PayoutsEscrowGrowth", grown("escrow_minor", 5.0, 900.0, WEEK, currency="EUR"), False),
    ("PayoutsEscrowGrowth", now("escrow_minor", 9e4, currency="EUR") | ago("escrow_minor", WEEK, 5.0, currency="USD"), False),
    ("PayoutsFeaturesWithoutCause", now("night_features", 3.0, what="without_cause"), True),
    ("PayoutsFeaturesWithoutCause", now("night_features", 0.0, what="without_cause"), False),
    ("PayoutsFeaturesWithoutCause", now("night_features", 3.0, what="computed"), False),
    ("PayoutsRuleNotSupported", now("rule_part", 0.0, contract="everything"), True),
    ("PayoutsRuleNotSupported", now("rule_part", 0.2, contract="everything"), False),
    ("PayoutsRuleNotSupported", now("fidelity_models", 0.0, contract="everything"), False),
    ("PayoutsWaitsForApproval", now("waiting_since_timestamp_seconds", NOW - 5 * HOUR, dag="settle_period"), True),
    ("PayoutsWaitsForApproval", now("waiting_since_timestamp_seconds", NOW - 3 * HOUR, dag="settle_period"), False),
    ("PayoutsMetricsAbsent", {}, True),
    ("PayoutsMetricsAbsent", now("collect_seconds", 0.1), False),
    ("PayoutsMetricsIncomplete", grown("collect_errors_total", 1.0, 3.0, 900.0, part="books"), True),
    ("PayoutsMetricsIncomplete", grown("collect_errors_total", 3.0, 3.0, 900.0, part="books"), False),
]


@pytest.mark.parametrize(("alert", "samples", "fires"), CASES)
def test_alerts_fire_where_they_should_and_nowhere_else(alert, samples, fires):
    assert bool(evaluate(RULES[alert]["expr"], samples)) is fires


def test_every_alert_is_tried_both_ways():
    assert {(alert, fires) for alert, _, fires in CASES} == {(alert, fires) for alert in RULES for fires in (True, False)}
