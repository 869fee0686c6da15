"""Measures what people wait for on a store of many nights: the page, the metrics, `status`, and publishing one night more.

    python bench/many_nights.py [--nights 10 100 1000] [--credits 1000]

Shares are invented, as in `bench/settlement.py`; booking and publishing are the night's own stages, on the embedded PostgreSQL
and a store on disk; Airflow has run nothing. Prints JSON, a line for each number of nights: seconds of each read, the best of
three.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "bench"), str(CHECKOUT)]

import settlement  # noqa: E402

from infra.metrics import Payouts  # noqa: E402
from infra.monitor import owners  # noqa: E402
from infra.monitor.nights import nights  # noqa: E402
from infra.monitor.runs import VARIABLE  # noqa: E402
from infra.monitor.sources import Sources  # noqa: E402
from provenance.core.published import published_days  # noqa: E402
from provenance.validation.status import status  # noqa: E402
from tasks.database import database_url  # noqa: E402
from tasks.where import opened  # noqa: E402

FIRST = date(2024, 1, 1)
OWNERS, TRIES = 100, 3


def seconds(read: Callable[[], object]) -> float:
    """The shortest of some tries."""
    tries = []
    for _ in range(TRIES):
        started = time.monotonic()
        read()
        tries.append(time.monotonic() - started)
    return round(min(tries), 3)


def pay(where: Any, number: int, credits: int) -> dict[str, float]:
    """Book and publish the night of a number; returns seconds of the stages."""
    settlement.DAY = str(FIRST + timedelta(days=number))
    folder = settlement.lay_out(where.store, credits, OWNERS, seed=number + 1)
    return {name: round(taken, 3) for name, taken in settlement.timed(where, folder).items()}


def reads(where: Any, last: int) -> dict[str, float]:
    """Seconds of each read that people wait for."""
    sources, today = Sources.open(), FIRST + timedelta(days=last + 1)
    day, owner = today - timedelta(days=2), "owner-000001"
    return {
        "page of nights": seconds(lambda: nights(sources.store, sources.ledger, last=60)),
        "page of a night": seconds(lambda: sources.flow(day)),
        "page of months": seconds(lambda: sources.months(today)),
        "page of owners": seconds(lambda: owners.find(sources.store, sources.ledger)),
        "page of an owner": seconds(lambda: owners.owner(sources.store, sources.ledger, owner, today)),
        "page of the model": seconds(lambda: sources.card("", 30)),
        "metrics": seconds(lambda: list(Payouts(fresh=0).collect())),
        "status": seconds(lambda: status(where, today=today)),
        "published days": seconds(lambda: published_days(sources.store)),
    }


def main() -> None:
    """Pay nights one after another, and read at each of the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--credits", type=int, default=1000, help="of each night; ten for each output")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-nights-") as folder:
        os.environ |= {
            "PROVENANCE_STORE__URL": f"file://{folder}/store",
            "PROVENANCE_DATABASE__FOLDER": f"{folder}/postgres",
            "PROVENANCE_SETTLEMENT__KEY": f"{folder}/signing.pem",
        }
        with opened() as where:
            os.environ |= {VARIABLE: database_url(where.settings.database, "airflow"), "AIRFLOW_HOME": f"{folder}/airflow"}
            subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
            for number in range(max(asked.nights)):
                stages = pay(where, number, asked.credits)
                if number + 1 in asked.nights:
                    report = {"nights": number + 1, "stages": stages, "reads": reads(where, number)}
                    sys.stdout.write(json.dumps(report) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
