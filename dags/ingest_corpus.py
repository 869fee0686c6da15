"""Check the corpus that data teams delivered, cut it into shards and put it in force.

**Reads** `examples.parquet`, `claims.parquet`, `owners.parquet`, `assertions.parquet`, `disputes.parquet` and `sources.parquet`
below `corpus/` in the store; what the origins of works say of their use.
**Writes** `rights/`: sources, a report on the delivery, signals, the training manifest; `frozen/corpus/<digest>.json` and
`frozen/corpus/current.json`.

Run it by hand after a delivery. The same corpus again changes nothing. A table that breaks its contract fails the task at
once, with the file, the row and the column in the log; nothing is put in force and the task is not retried. Nor is a delivery
put in force that the rules in `infra/settings/quality.toml` block: the log says where the report lies.
"""

from airflow.sdk import dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
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
    """The delivery is in force whole, or not at all; who wants what of its works follows."""

    @task(task_id="rights.sources")
    def sources() -> int:
        from provenance.corpus.rights.registry import register_delivered

        return register_delivered()

    @task(task_id="corpus.ingest")
    def ingest() -> str:
        from provenance.corpus.ingest import ingest

        return ingest()

    @task(task_id="rights.signals")
    def signals() -> dict[str, int]:
        from provenance.corpus.rights.signals.collect import collect_all

        return collect_all()

    @task(task_id="rights.manifest")
    def manifest() -> str:
        from provenance.corpus.rights.training_clearance import clear_today

        return clear_today()

    sources() >> ingest() >> signals() >> manifest()


ingest_corpus()
