"""Check a delivered corpus, cut it into shards, and put it in force.

**Reads** `examples.parquet`, `claims.parquet`, `owners.parquet`, `assertions.parquet`, `disputes.parquet` and `sources.parquet`
below `corpus/` in the store; signals of the origins of works.
**Writes** `rights/`: sources, a report on the delivery, signals, the training manifest; `frozen/corpus/<digest>.json` and
`frozen/corpus/current.json`.

Run it by hand after a delivery. The same corpus again changes nothing. A table that breaks its contract fails the task at
once, without a retry; the log names the file, the row and the column, and nothing is put in force. The same holds for a
delivery that the rules in `infra/settings/quality.toml` block: the log names the report.
"""

from airflow.sdk import dag, task

from tasks.dag_parameters import task_defaults
from tasks.notify import failed
from tasks.stages import run


@dag(
    schedule=None,
    catchup=False,
    tags=["corpus"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args=task_defaults("data"),
)
def ingest_corpus() -> None:
    """The delivery, whole or not at all; then signals and the training manifest."""

    @task(task_id="rights.sources")
    def sources() -> int:
        return run("rights.sources")

    @task(task_id="corpus.ingest")
    def ingest() -> str:
        return run("corpus.ingest")

    @task(task_id="rights.signals")
    def signals() -> dict[str, int]:
        return run("rights.signals")

    @task(task_id="rights.manifest")
    def manifest() -> str:
        return run("rights.manifest")

    sources() >> ingest() >> signals() >> manifest()


ingest_corpus()
