"""Measures a backfill of many days beside tonight's run, on its own stack, and checks that every day is booked once.

    python bench/backfill.py 30

Prints JSON: seconds of everything, of a night in one process without Airflow, of a run between its tasks and in them; CPU
seconds of parsing all DAG files; whether every day is booked once and opens with the balances that the day before closed with.
The exit code is 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "tests/faults"), str(CHECKOUT / "tests"), str(CHECKOUT)]

import chaos  # noqa: E402
import sqlalchemy as sa  # noqa: E402
from rich.console import Console  # noqa: E402
from samples import corpus_frames, deliver  # noqa: E402

from infra.monitor.runs import NIGHTLY  # noqa: E402
from infra.stack import supervise  # noqa: E402
from infra.stack.api import airflow_as, trigger  # noqa: E402
from infra.stack.backfill import backfill  # noqa: E402
from infra.stack.layout import environment  # noqa: E402
from provenance.settlement import ledger  # noqa: E402
from tasks import settings  # noqa: E402

PARSE = """
import time, airflow.sdk
from airflow.dag_processing.dagbag import DagBag
began = time.process_time()
bag = DagBag("dags")
assert not bag.import_errors and bag.dags
print(time.process_time() - began)
"""


def main() -> None:
    """Run the backfill and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("days", type=int, nargs="?", default=30)
    count = parser.parse_args().days
    with tempfile.TemporaryDirectory(prefix="backfill-") as name:
        folder = Path(name)
        stack = chaos.begin(folder)
        try:
            tonight = chaos.YESTERDAY
            days = [tonight - timedelta(days=n) for n in range(count, 0, -1)]
            os.environ |= environment(stack)
            store = settings.load().store.open()
            deliver(store, corpus_frames(), tuple(map(str, [*days, tonight])))
            airflow = airflow_as(stack, "olga")
            chaos.wait(airflow, "ingest_corpus", trigger(airflow, "ingest_corpus", {}))
            began = time.monotonic()
            airflow.call("PATCH", f"/dags/{NIGHTLY}", {"is_paused": False})  # tonight's run comes by itself
            run_id = chaos.scheduled(airflow)
            backfill(stack, days[0], days[-1], Console(stderr=True))
            seconds = time.monotonic() - began
            state, _ = chaos.wait(airflow, NIGHTLY, run_id)
            engine = sa.create_engine(os.environ["PROVENANCE_DATABASE__URL"], poolclass=sa.NullPool)
            booked = ledger.bookings(engine)
            once = sorted((b.day, b.revision) for b in booked) == [(day, 1) for day in [*days, tonight]]
            correct = state == "success" and once and chains(store, booked)
            runs = [overhead(airflow, run) for run in airflow.runs(NIGHTLY) if run["run_type"] == "backfill"]
            parsed = subprocess.run([sys.executable, "-c", PARSE], cwd=CHECKOUT, capture_output=True, text=True, check=True)
            alone = time.monotonic()
            chaos.refer(folder, stack, days[:2])
            report = {
                "days": count,
                "seconds": round(seconds),
                "seconds_a_night": round(seconds / (count + 1), 1),
                "seconds_a_night_in_one_process": round((time.monotonic() - alone) / 2, 1),
                "seconds_of_a_run_between_its_tasks": round(statistics.median(between for between, _ in runs), 1),
                "seconds_of_a_run_in_its_tasks": round(statistics.median(inside for _, inside in runs), 1),
                "tasks_a_run": len(airflow.tasks(NIGHTLY, run_id)),
                "cpu_seconds_parsing_all_dags": round(float(parsed.stdout.splitlines()[-1]), 2),
                "booked_once_and_chained": correct,
            }
        finally:
            supervise.end(stack)
    print(json.dumps(report, indent=2))  # noqa: T201
    raise SystemExit(0 if correct else 1)


def chains(store: Any, booked: list[Any]) -> bool:
    """Whether the opening balances of every export are the closing balances of the one before."""
    closed: dict[tuple[str, str], int] = {}
    for booking in booked:
        table = store.read_table(f"exports/payouts/day={booking.day}/rev=0001/payouts.parquet")
        rows = table.select("owner_id", "currency", "opening_balance_minor", "closing_balance_minor")
        for owner, currency, opens, closes in rows.iter_rows():
            if opens != closed.get((owner, currency), 0):
                return False
            closed[owner, currency] = closes
    return True


def overhead(airflow: Any, run: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a run between its tasks, and in them."""
    tasks = airflow.tasks(NIGHTLY, run["dag_run_id"]).values()
    inside = sum(task["duration"] or 0 for task in tasks)
    whole = (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()
    return whole - inside, inside


if __name__ == "__main__":
    main()
