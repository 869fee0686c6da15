"""Train the missing counterfactual models of the served model: the same recipe on parts of the owners.

    plan -> train (mapped, one task for each group of trainings)

Shares are computed from them: the change of an output's likelihood when works of an owner are left out is what the owner
added. A model without them is paid by the fallback of its contract. Run it after `ingest_corpus`, whenever a new model is
served or another corpus is delivered; it trains only what is missing. The number is in the settings (`[counterfactuals]
trainings`): the set costs that many trainings on everything, once for a model. Models trained by a command of `model.toml`
count once the whole set exists and has been checked to know its works. Where other machines have the GPUs, the settings name
their `queue`, a `pool` or an `executor_config` for the mapped task; with `in_task` it trains there itself.

**Failed?** Finished trainings are kept: clear the task, and it goes on with those that are missing. A task that failed without
a retry met bad input: the error in its log, below *Task failed with exception*, names it, such as an adapter that cannot train.
Progress and the time left are in the log of each task; `provenance counterfactuals list` shows the trained models.
"""

from datetime import datetime

from airflow.sdk import dag, task

from tasks.dag_parameters import task_defaults, training_place
from tasks.notify import failed
from tasks.stages import run


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (nothing is scheduled)
    catchup=False,
    tags=["payouts"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args=task_defaults("data"),
)
def train_counterfactuals() -> None:
    """The missing trainings in groups, a few groups at a time."""

    @task(task_id="counterfactuals.plan")
    def plan() -> list[list[str]]:
        return run("counterfactuals.plan")

    @task(task_id="counterfactuals.train", **training_place())
    def train(names: list[str]) -> int:
        return run("counterfactuals.train", names)

    train.expand(names=plan())


train_counterfactuals()
