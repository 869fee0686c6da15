"""Serves metrics for Prometheus: nights, money, stages, audits and open questions, from ledger, store and Airflow.

    python -m infra.metrics --port 9108

Sources are read at most once in `FRESH` seconds. Metrics that cannot be read are left out, counted in
`provenance_collect_errors` and logged; the process goes on. No metric has a label for owner, output or day.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from infra.monitor import nights as monitor
from infra.monitor import runs
from infra.monitor.sources import Sources
from provenance.core.errors import InputError
from provenance.core.tables import ESCROW, PAYABLE
from provenance.settlement import ledger
from provenance.settlement.accounts import HELD, trial_balance
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from infra.monitor.nights import WatchedNight
    from provenance.core.settings import Settings

log = logging.getLogger("provenance.metrics")

PORT = 9108
# Nights that are read, and seconds for which metrics are kept.
LAST = 30
FRESH = 20.0


# Every metric: its labels and its help text.
METRICS: dict[str, tuple[tuple[str, ...], str]] = {
    "nights": (("state",), f"Nights of the last {LAST}, by state"),
    "night_failed_tasks": (("task",), f"Of the last {LAST} nights, how many latest runs failed in a task"),
    "night_stage_seconds": (("task",), "Seconds of the latest night's latest run, by task"),
    "last_published_day_timestamp_seconds": ((), "The latest day that is published: its midnight in UTC"),
    "night_outputs": ((), "Outputs of the latest published day"),
    "night_owners": ((), "Owners who earned something on the latest published day"),
    "night_revision": ((), "Revision in force of the latest published day"),
    "night_amount_minor": (("currency", "total"), "Control totals of the latest published day, in minor units"),
    "night_matched_ratio": (("currency",), "Part of the latest published day's money for owners that has found one"),
    "night_drift_ratio": (
        (),
        f"How far owners' shares are from the mean of the {monitor.BEFORE} nights before: 0 the same, 1 nothing in common",
    ),
    "night_features": (
        ("what",),
        "Feature files of the latest published day: computed by its runs, reused by the last, computed without a cause",
    ),
    "night_parameters_covered_ratio": ((), "Part of the model's parameters that the latest published day's features cover"),
    "night_worker_seconds": ((), "Worker seconds of all runs and tries of the latest published day"),
    "night_cost_minor": (("currency",), "The same in money, in minor units of the settings' currency"),
    "fidelity_lds": (
        ("contract", "estimate"),
        "Linear datamodelling score of the latest published day's own estimate, by contract, beside other ones",
    ),
    "fidelity_models": (("contract",), "Counterfactual models that the latest published day's shares rest on, by contract"),
    "fidelity_intervals_hold": (
        ("contract", "kind"),
        "Part of what these models say that lay in the 90 % intervals: of those left out, of those set aside",
    ),
    "rule_part": (("contract",), "Part of the latest published day's shares that the contract's rule decided"),
    "owed_minor": (("currency",), "What owners are owed, on hold or not, in minor units"),
    "escrow_minor": (("currency",), "Balance of escrow, in minor units"),
    "escrow_oldest_day_timestamp_seconds": (
        ("currency",),
        "The day for which the oldest amount in escrow was put there: its midnight in UTC",
    ),
    "bookings_without_export": ((), "Bookings of nights without the export that belongs to them, of the last 60"),
    "audit_score": (("family", "method"), "Linear datamodelling score of a method in use, in the latest audit"),
    "audit_score_low": (("family", "method"), "Lower end of its 95 % interval"),
    "audit_score_high": (("family", "method"), "Upper end of its 95 % interval"),
    "audit_ceiling": (("family", "method"), "What the noise of training lets a perfect prediction reach"),
    "audit_day_timestamp_seconds": ((), "The day whose night the latest audit audited: its midnight in UTC"),
    "dag_failed_tasks": (("dag",), f"Tasks that failed in the latest run of each of a DAG's last {LAST} data intervals"),
    "waiting_approvals": (("dag",), "Questions that nobody has answered"),
    "waiting_since_timestamp_seconds": (("dag",), "Since when the oldest of them waits"),
    "backfill_runs": (("dag", "state"), "Runs of backfills that are not over, by outcome so far"),
    "collect_errors": (("part",), "Failures to collect since this process began, by what was to be read"),
    "collect_seconds": ((), "How long the last collection took"),
}


@dataclass(eq=False)
class Payouts(Collector):
    """Collects all metrics at a scrape.

    Attributes:
        open_sources: opens the sources; called again at the next scrape if it fails.
    """

    open_sources: Callable[[], Sources] = Sources.open
    fresh: float = FRESH
    errors: Counter[str] = field(default_factory=Counter)
    _sources: Sources | None = None
    _kept: list[Metric] = field(default_factory=list)
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering must not read sources."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they were at most `fresh` seconds ago."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._kept = list(self._collect())
                self._until = time.monotonic() + self.fresh
            yield from self._kept

    def _collect(self) -> Iterator[Metric]:
        started = time.monotonic()
        try:
            self._sources = self._sources or self.open_sources()
        except Exception:  # such as a database that is not up yet
            log.exception("store, ledger or Airflow cannot be opened")
            self.errors["sources"] += 1
        for name, part in PARTS.items():
            if self._sources is None:
                break
            try:
                yield from list(part(self._sources))
            except Exception:  # the other metrics are served
                log.exception("%s cannot be collected", name)
                self.errors[name] += 1
        labels, text = METRICS["collect_errors"]
        failed = CounterMetricFamily("provenance_collect_errors", text, labels=labels)
        for name in ("sources", *PARTS):
            failed.add_metric([name], self.errors[name])
        yield failed
        yield _unlabelled("collect_seconds", time.monotonic() - started)


def _by_labels(name: str, values: Mapping[Any, float]) -> GaugeMetricFamily:
    """A metric by tuples of its labels."""
    labels, text = METRICS[name]
    metric = GaugeMetricFamily(f"provenance_{name}", text, labels=labels)
    for key, value in sorted(values.items()):
        metric.add_metric(key, value)
    return metric


def _by_label(name: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """A metric by its only label."""
    return _by_labels(name, {(key,): value for key, value in values.items()})


def _unlabelled(name: str, value: float) -> GaugeMetricFamily:
    """A metric without labels."""
    return _by_labels(name, {(): value})


def _midnight(day: str | date) -> float:
    """The start of a day (UTC) in seconds since 1970."""
    return datetime.fromisoformat(str(day)).replace(tzinfo=UTC).timestamp()


def _nights(read: Sources) -> Iterator[GaugeMetricFamily]:
    nights = read.nights(LAST)
    states = Counter(night.state for night in nights)
    yield _by_label("nights", {state: states[state] for state in monitor.STATES})
    yield _by_label("night_failed_tasks", Counter(task for night in nights if night.runs for task in night.runs[-1].failed))
    if nights:
        yield _by_label("night_stage_seconds", nights[-1].seconds)
    published = [night for night in nights if night.published]
    if published:
        yield from _published(published[-1], read.settings)


def _published(night: WatchedNight, settings: Settings) -> Iterator[GaugeMetricFamily]:
    """Metrics of the latest published night."""
    yield _unlabelled("last_published_day_timestamp_seconds", _midnight(night.day))
    yield _unlabelled("night_outputs", night.outputs)
    yield _unlabelled("night_owners", night.owners)
    yield _unlabelled("night_revision", night.revision)
    amounts = {
        (currency, total.removesuffix("_minor")): amount
        for currency, totals in night.totals.items()
        for total, amount in totals.items()
    }
    yield _by_labels("night_amount_minor", amounts)
    yield _by_label("night_matched_ratio", night.matched)
    if night.drift is not None:
        yield _unlabelled("night_drift_ratio", night.drift)
    yield from _fidelity(night.fidelity)
    features = {"computed": night.computed, "reused": night.reused, "without_cause": night.without_cause}
    yield _by_label("night_features", features)
    if night.parameters_covered is not None:
        yield _unlabelled("night_parameters_covered_ratio", night.parameters_covered)
    yield _unlabelled("night_worker_seconds", night.worker_seconds(settings.cluster.workers))
    yield _by_label("night_cost_minor", {settings.monitoring.currency: night.cost(settings)})


def _fidelity(measured: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    """Metrics of a night's fidelity; none if it was not measured."""
    lds = {(name, by): score["value"] for name, contract in measured.items() for by, score in contract["lds"].items()}
    hold = {(name, kind): part for name, contract in measured.items() for kind, part in contract["intervals_hold"].items()}
    yield _by_labels("fidelity_lds", lds)
    yield _by_label("fidelity_models", {name: contract["models"] for name, contract in measured.items()})
    yield _by_labels("fidelity_intervals_hold", hold)
    yield _by_label("rule_part", {name: contract["paid_by"].get(contract["rule"], 0.0) for name, contract in measured.items()})


def _books(read: Sources) -> Iterator[GaugeMetricFamily]:
    balances = trial_balance(ledger.balances(read.ledger, through=ledger.newest(read.ledger)))
    yield _by_label("owed_minor", {currency: row[PAYABLE] + row[HELD] for currency, row in balances.items()})
    yield _by_label("escrow_minor", {currency: row[ESCROW] for currency, row in balances.items()})
    oldest = {currency: _midnight(day) for currency, (_, day) in monitor.escrow(read.ledger).items()}
    yield _by_label("escrow_oldest_day_timestamp_seconds", oldest)
    yield _unlabelled("bookings_without_export", len(monitor.unpublished(read.store, read.ledger)))


def _audits(read: Sources) -> Iterator[GaugeMetricFamily]:
    audits = read.audits(LAST)
    if audits:
        figures = {(figure.family, figure.method): figure for figure in audits[-1].figures}
        yield _by_labels("audit_score", {key: figure.score for key, figure in figures.items()})
        yield _by_labels("audit_score_low", {key: figure.low for key, figure in figures.items()})
        yield _by_labels("audit_score_high", {key: figure.high for key, figure in figures.items()})
        yield _by_labels("audit_ceiling", {key: figure.ceiling for key, figure in figures.items()})
        yield _unlabelled("audit_day_timestamp_seconds", _midnight(audits[-1].day))


def _airflow(read: Sources) -> Iterator[GaugeMetricFamily]:
    failed: dict[str, float] = {}
    names = runs.dags(read.airflow)
    for name in names:
        of_days = runs.runs(read.airflow, name, last=LAST).values()
        failed[name] = sum(len(of_day[-1].failed) for of_day in of_days)
    yield _by_label("dag_failed_tasks", failed)
    questions = runs.open_questions(read.airflow)
    counts = {name: waiting.count for name, waiting in questions.items()}
    yield _by_label("waiting_approvals", {**dict.fromkeys(names, 0), **counts})
    since = {name: waiting.since.timestamp() for name, waiting in questions.items()}
    yield _by_label("waiting_since_timestamp_seconds", since)
    progress: dict[tuple[str, str], int] = {}
    for name, ended in runs.backfills(read.airflow).items():
        left = ended.runs - ended.succeeded - ended.failed
        progress |= {(name, "succeeded"): ended.succeeded, (name, "failed"): ended.failed, (name, "left"): left}
    yield _by_labels("backfill_runs", progress)


PARTS = {"nights": _nights, "books": _books, "audits": _audits, "airflow": _airflow}


def serve(port: int, address: str) -> None:
    """Serve metrics until the process ends."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Payouts())
    _, thread = start_http_server(port, addr=address, registry=registry)
    log.info("metrics at http://%s:%d/metrics", address, port)
    thread.join()


def main() -> None:
    """Parse arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--address", default="127.0.0.1", help="to listen on; metrics show revenue, so choose a private one")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        load()
    except InputError as error:
        sys.stderr.write(f"Bad input: {error}\n")
        raise SystemExit(2) from error
    serve(arguments.port, arguments.address)


if __name__ == "__main__":
    main()
