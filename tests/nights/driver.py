"""One process that runs DAGs on request, because starting one takes longer than a small night does.

Reads lines of `dag_id day` and answers each with a line of JSON on standard output; all else goes to standard error.
`KILL_AFTER=word:n` makes it SIGKILL itself right after its n-th write to a key with that word in it, or after its n-th booking
where the word is `booking`.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from datetime import date

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from infra import local_airflow  # noqa: E402
from provenance.core.store import Store  # noqa: E402
from provenance.settlement import books  # noqa: E402


def deadly(method, word, count):
    left = [count]

    def write(self, key, data):
        outcome = method(self, key, data)
        left[0] -= word in key
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    return write


def deadly_booking(alone, count):
    left = [count]

    @contextlib.contextmanager
    def booked(engine):
        with alone(engine) as connection:
            yield connection
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return booked


if kill_after := os.environ.get("KILL_AFTER"):
    word, count = kill_after.split(":")
    if word == "booking":
        books.alone = deadly_booking(books.alone, int(count))
    else:
        Store.write, Store.create = (deadly(method, word, int(count)) for method in (Store.write, Store.create))
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
