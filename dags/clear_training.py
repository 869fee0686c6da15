"""Ask the sources of works every day for their signals on use, and write the list of works cleared for training.

**Reads** the corpus in force, its rights, opt-outs and disputes; signals of the origins of its works (robots.txt and others).
**Writes** `rights/signals/`, which only grows, and `rights/manifests/train/day=D/<digest>.json`: the works cleared for today.

A server that does not answer is logged and not waited for; its earlier signals go on counting as docs/signals.md says. With
`signals.collect = false` no server is asked. The same day again writes the same manifest, or another one after new opt-outs.
"""

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.dag_parameters import task_defaults
from tasks.notify import failed
from tasks.stages import run


@dag(
    schedule=CronDataIntervalTimetable("30 3 * * *", timezone="UTC"),
    catchup=False,
    tags=["rights"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args=task_defaults("data"),
)
def clear_training() -> None:
    """Signals, then the manifest."""

    @task(task_id="rights.signals")
    def signals() -> dict[str, int]:
        return run("rights.signals")

    @task(task_id="rights.manifest")
    def manifest() -> str:
        return run("rights.manifest")

    signals() >> manifest()


clear_training()
