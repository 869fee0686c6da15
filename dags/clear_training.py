"""Ask the sources of works every day what may be done with them, and write what a model to come may be trained on.

**Reads** the corpus in force, its rights, opt-outs and disputes; what the origins of its works say (robots.txt and others).
**Writes** `rights/signals/`, which only grows, and `rights/manifests/train/day=D/<digest>.json`: the works cleared for today.

A server that does not answer is told of in the log and keeps nobody waiting; what it said before goes on counting as
docs/signals.md says. With `signals.collect = false` nobody is asked. The same day again writes the same manifest, or, where
somebody has opted out meanwhile, another.
"""

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=CronDataIntervalTimetable("30 3 * * *", timezone="UTC"),
    catchup=False,
    tags=["rights"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args={"owner": "data", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def clear_training() -> None:
    """Signals, then the manifest."""

    @task(task_id="rights.signals")
    def signals() -> dict[str, int]:
        from provenance.corpus.rights.signals.collect import collect_all

        return collect_all()

    @task(task_id="rights.manifest")
    def manifest() -> str:
        from provenance.corpus.rights.training_clearance import clear_today

        return clear_today()

    signals() >> manifest()


clear_training()
