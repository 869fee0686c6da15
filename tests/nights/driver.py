"""One process that runs DAGs on request, because starting one takes longer than a small night does.

Reads lines of `dag_id day` and answers each with a line of JSON on standard output; all else goes to standard error.
`KILL_AFTER=word:n` makes it SIGKILL itself right after its n-th write to a key with that word in it, or after its n-th booking
where the word is `booking`.
"""

import json
import logging
import os
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from killing import die_after  # noqa: E402

from infra import local_airflow  # noqa: E402

if kill_after := os.environ.get("KILL_AFTER"):
    word, count = kill_after.split(":")
    die_after(int(count), word)
ours = logging.getLogger("provenance")
ours.setLevel(logging.INFO)
ours.addHandler(logging.StreamHandler(sys.stderr))
local_airflow.configure()
local_airflow.migrate()


def run_seconds(dag_id):
    """The duration of the latest run of a DAG, as Airflow's UI shows it."""
    from airflow.models.dagrun import DagRun  # noqa: TID251
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.end_date.desc())).first()
        return (run.end_date - run.start_date).total_seconds()


for line in sys.stdin:
    dag_id, day = line.split()
    run = local_airflow.run_dag(dag_id, date.fromisoformat(day))
    error = f"{type(run.error).__name__}: {run.error}" if run.error else ""
    seconds = run_seconds(dag_id)
    answer = {"state": run.state, "error": error, "exit": local_airflow.exit_code(run), "seconds": seconds}
    answers.write(json.dumps(answer) + "\n")
