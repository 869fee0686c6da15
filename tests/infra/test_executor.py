"""Tasks are forked from a process that has imported what all of them need, and nothing that a fork breaks."""

import json
import os
import subprocess
import sys

from provenance.core.settings import CHECKOUT

SCRIPT = """
import json, os, sys
from airflow.executors.local_executor import LocalExecutor
from infra.airflow.executor import PRELOADED, Executor
seen = []
LocalExecutor.start = lambda self: seen.append([name in sys.modules for name in PRELOADED])
Executor().start()
before = set(sys.modules)
threads = len(os.listdir("/proc/self/task"))
loaded = [name for name in ("polars", "torch", "scipy", "dask") if name in sys.modules]
import tasks.database, tasks.lineage.events, tasks.where
import provenance.inputs.stage, provenance.royalty.stage, provenance.settlement.stage
again = {name.split(".")[0] for name in set(sys.modules) - before}
libraries = {"numpy", "pydantic", "requests", "s3fs", "schwifty", "sqlalchemy", "xlsxwriter"}
print("FOUND" + json.dumps([seen, threads, loaded, sorted(again & libraries)]))
"""


def test_tasks_begin_with_what_they_all_import_and_their_parent_has_one_thread(tmp_path):
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (seen,), threads, loaded, again = json.loads(done.stdout.split("FOUND")[1])
    assert all(seen), "before the workers start"
    assert threads == 1, "a fork copies one thread"
    assert loaded == []
    assert again == [], "what no task needs to import again"
