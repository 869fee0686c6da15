"""Train the counterfactual models that a model served lacks: the same recipe on parts of the owners.

    plan -> train (mapped, one task for each group of trainings)

Shares rest on them: what an output's likelihood does when owners' works are left out says what each owner added. A model that
has none is paid by the fallback of its contract. Run it after `ingest_corpus`, whenever a new model is served or another corpus
is delivered; a model that has all of its set has nothing to train. How many is in the settings (`[counterfactuals] trainings`):
the set costs so many trainings on everything, once for a model. What a command of `model.toml` has trained counts once the
whole set is there, and was checked to know the works that it was given.

**Failed?** Each training is kept once it is done: clear the task, and it goes on with what is missing. Without a retry it met
bad input: the error in its log, below *Task failed with exception*, says which, such as an adapter that cannot train. Progress
and the time left stand in the log of each task; `provenance counterfactuals list` shows what is there.
"""

from datetime import datetime

from airflow.sdk import dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (nothing is scheduled)
    catchup=False,
    tags=["payouts"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args={"owner": "data", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def train_counterfactuals() -> None:
    """What is missing, and its groups of trainings, two at a time."""

    @task(task_id="counterfactuals.plan")
    def plan() -> list[list[str]]:
        from provenance.models.counterfactuals import plan_missing

        return plan_missing()

    @task(task_id="counterfactuals.train", max_active_tis_per_dag=2)
    def train(names: list[str]) -> int:
        from provenance.models.counterfactuals import train_named

        return train_named(names)

    train.expand(names=plan())


train_counterfactuals()
