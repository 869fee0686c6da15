"""Is the attribution true? Retrain the model without what it says matters, and compare.

The latest day that is published is audited: the model's own training is repeated on random halves of the examples and of the
owners, with two seeds each, and every method's prediction of the outcome is scored (the linear datamodelling score) beside
what training noise allows. The result lies in the store under `audits/`, as JSON and as a figure, and manifests published from
then on cite it.

**Failed?** What was trained is kept, so a run that was killed goes on where it was: clear the task. Without a retry it met
bad input: the error in its log, below *Task failed with exception*, says which, such as an adapter that cannot train. How
much is retrained is in the settings (`[audit]`); a run takes as long as that many trainings on half of the corpus.

**Alert**: [stale audit](docs/operators.md#stale-audit).
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=CronDataIntervalTimetable("0 6 * * 0", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["audits"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args={"owner": "data", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def audit_attribution() -> None:
    """One stage: what it has trained survives it."""

    @task(task_id="validation.audit")
    def audit() -> str:
        from provenance.validation.audit import audit_published

        return audit_published()

    audit()


audit_attribution()
