"""One process that runs DAGs on request, because starting one takes longer than a small night does.

Reads lines of `dag_id day` and answers each with a line of JSON on standard output; all else goes to standard error.
"""

import json
import logging
import os
import sys
from datetime import date

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from infra import local_airflow  # noqa: E402

ours = logging.getLogger("provenance")
ours.setLevel(logging.INFO)
ours.addHandler(logging.StreamHandler(sys.stderr))
local_airflow.configure()
local_airflow.migrate()
for line in sys.stdin:
    dag_id, day = line.split()
    run = local_airflow.run_dag(dag_id, date.fromisoformat(day))
    error = f"{type(run.error).__name__}: {run.error}" if run.error else ""
    answers.write(json.dumps({"state": run.state, "error": error, "exit": local_airflow.exit_code(run)}) + "\n")
