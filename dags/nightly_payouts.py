"""Pay a day of model outputs: who influenced each of them, and what each owner earned.

    freeze inputs -> shard -> featurise -> fit curvature -> score -> replay -> value -> owner shares
    -> book -> publish -> reconcile

The run of the data interval that starts on a day pays that day (UTC): the scheduled run at midnight pays the day that
just ended. Every stage is a transaction: it reads the manifests it is handed and writes one, so a run that was killed is
run again and finds what is done. A day that was booked is booked again *by difference*, as the next revision.

**Failed?** A task that failed without a retry met bad input: the last line of its log names the file, the row or key, what
was expected and what was found. Mend the input and clear the task. If `settlement.reconcile` failed, a published file is not
what was published, or not what the ledger says: `provenance verify DAY` tells which. Anything else is retried; if the
retries are used up, the infrastructure failed: clear the task once it is back. Nothing is paid twice.
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, get_current_context, task

from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["payouts"],
    doc_md=__doc__,
    max_active_runs=1,
    default_args={"owner": "operations", **RETRY_WHAT_MAY_PASS},
)
def nightly_payouts() -> None:
    """The stages of a night, in the order in which data flows."""

    @task(task_id="inputs.freeze")
    def freeze() -> str:
        from tasks.freeze import freeze, paid_day

        return freeze(paid_day(get_current_context().get("data_interval_start")))

    @task(task_id="corpus.shard")
    def shard(night: str) -> str:
        from tasks.shard import shard

        return shard(night)

    @task(task_id="features.featurise")
    def featurise(night: str) -> str:
        from tasks.featurise import featurise

        return featurise(night)

    @task(task_id="influence.fit_curvature")
    def fit_curvature(night: str) -> str:
        from tasks.curvature import fit_curvature

        return fit_curvature(night)

    @task(task_id="influence.score")
    def score(night: str) -> str:
        from tasks.score import score

        return score(night)

    @task(task_id="royalty.replay")
    def replay(night: str) -> str:
        from tasks.replay import replay

        return replay(night)

    @task(task_id="royalty.value")
    def value(night: str) -> str:
        from tasks.values import values

        return values(night)

    @task(task_id="royalty.share")
    def share(night: str) -> str:
        from tasks.share import share

        return share(night)

    @task(task_id="settlement.book")
    def book(night: str) -> str:
        from tasks.book import book

        return book(night)

    @task(task_id="settlement.publish")
    def publish(day: str) -> str:
        from tasks.publish import publish

        return publish(day)

    @task(task_id="settlement.reconcile")
    def reconcile(day: str, published: str) -> str:
        from tasks.reconcile import reconcile

        return reconcile(day)

    day = book(share(value(replay(score(fit_curvature(featurise(shard(freeze()))))))))
    reconcile(day, publish(day))


nightly_payouts()
