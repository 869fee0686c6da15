"""Audit the attribution: retrain the model on parts of the corpus, and compare the results with the predictions.

Audits the latest published day. The model's own training is repeated on random halves of the examples and of the owners, with
two seeds each, and each method's prediction of the outcome is scored (the linear datamodelling score) beside the noise ceiling.
The result is in the store under `audits/`, as JSON and as a figure, and manifests published from then on cite it.

**Failed?** Trained models are kept, so a run that was killed goes on from there: clear the task. A task that failed without a
retry met bad input: the error in its log, below *Task failed with exception*, names it, such as an adapter that cannot train.
The number of trainings is in the settings (`[audit]`); each is on half of the corpus.

**Alert**: [stale audit](docs/operators.md#stale-audit).
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.dag_parameters import documented, task_defaults
from tasks.notify import failed
from tasks.stages import run


@dag(
    schedule=CronDataIntervalTimetable("0 6 * * 0", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (in the timetable's zone)
    catchup=False,
    tags=["audits"],
    doc_md=documented(__doc__),
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args=task_defaults("data"),
)
def audit_attribution() -> None:
    """One stage; trained models survive its failure."""

    @task(task_id="validation.audit")
    def audit() -> str:
        return run("validation.audit")

    audit()


audit_attribution()
