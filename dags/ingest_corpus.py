"""Check the corpus that data teams delivered, cut it into shards and put it in force.

**Reads** `corpus/examples.parquet`, `claims.parquet` and `owners.parquet` below the store's root.
**Writes** `frozen/corpus/<digest>.json` and, as the last step, `frozen/corpus/current.json`.

Run it by hand after a delivery. The same corpus again changes nothing. A table that breaks its contract fails the task at
once, with the file, the row and the column in the log; nothing is put in force and the task is not retried.
"""

from airflow.sdk import dag, task

from tasks.lineage import TELL_LINEAGE
from tasks.notify import failed
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=None,
    catchup=False,
    tags=["corpus"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args={"owner": "data", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def ingest_corpus() -> None:
    """One task: a delivery is in force whole, or not at all."""

    @task(task_id="corpus.ingest")
    def ingest() -> str:
        from tasks.ingest import ingest

        return ingest()

    ingest()


ingest_corpus()
