"""Pay a day of model outputs: who influenced each of them, and what each owner earned.

    freeze inputs -> shard -> featurise -> fit curvature -> score -> likelihoods -> estimate -> owner shares
    -> review (-> approve, a person) -> book -> publish -> reconcile

The run of the data interval that starts on a day pays that day (UTC): the scheduled run at midnight pays the day that
just ended; a run by hand pays the `day` of its form. Every stage is a transaction: it reads the manifests it is handed and
writes one, so a run that was killed is run again and finds what is done. A day that was booked is booked again *by
difference*, as the next revision.

**Waiting?** A night unlike those before it (`[review]` in the settings), or one whose contract wants a person asked where its
rule fails its check (`unsupported = "wait"`), waits at `settlement.approve` for a person (Browse > Required Actions), who sees
why and what it would change for whom. Approved, it is booked with that person's name; rejected, the run fails and nothing is
booked.

**Late?** A run that has not ended after `notify.night_hours` is told of, as is one that failed: see docs/operators.md.

**Failed?** A task that failed without a retry met bad input: the error in its log, below *Task failed with exception*, names
the file, the row or key, what was expected and what was found. Mend the input and clear the task. If `settlement.reconcile`
failed, a published file is not what was published, or not what the ledger says: `provenance verify DAY` tells which.
Anything else is retried; if the retries are used up, the infrastructure failed: clear the task once it is back. Nothing is
paid twice.

**Alerts** and what to press: [late night](docs/operators.md#late-night),
[failed reconcile](docs/operators.md#failed-reconcile), [failed task](docs/operators.md#failed-task),
[rule not supported](docs/operators.md#rule-not-supported), [escrow growth](docs/operators.md#escrow-growth),
[features without cause](docs/operators.md#features-without-cause),
[waits for approval](docs/operators.md#waits-for-approval), [metrics absent](docs/operators.md#metrics-absent).
*Payouts* in the navigation shows every night.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed, published_in_time, waits
from tasks.retries import RETRY_WHAT_MAY_PASS

PATIENCE = timedelta(days=7)


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["payouts"],
    doc_md=__doc__,
    max_active_runs=1,
    params={
        "day": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d{2}-\d{2}$",
            description="The day to pay, such as 2026-11-20; empty: the one on which the run's data interval starts",
        )
    },
    deadline=published_in_time(),
    on_failure_callback=failed(),
    default_args={"owner": "operations", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def nightly_payouts() -> None:
    """The stages of a night, in the order in which data flows."""

    @task(task_id="inputs.freeze")
    def freeze() -> str:
        from provenance.inputs.freeze import freeze, paid_day
        from tasks.dag_parameters import asked

        context = get_current_context()
        return freeze(paid_day(context.get("data_interval_start"), asked(context["params"], "day")))

    @task(task_id="corpus.shard")
    def shard(night: str) -> str:
        from provenance.features.plan import shard

        return shard(night)

    @task(task_id="features.featurise")
    def featurise(night: str) -> str:
        from provenance.features.featurise import featurise

        return featurise(night)

    @task(task_id="influence.fit_curvature")
    def fit_curvature(night: str) -> str:
        from provenance.influence.fit_curvature import fit_curvature

        return fit_curvature(night)

    @task(task_id="influence.score")
    def score(night: str) -> str:
        from provenance.influence.score import score

        return score(night)

    @task(task_id="royalty.likelihoods")
    def likelihoods(night: str) -> str:
        from provenance.royalty.likelihoods import likelihoods

        return likelihoods(night)

    @task(task_id="royalty.estimate")
    def estimate(night: str) -> str:
        from provenance.royalty.estimate_stage import estimate

        return estimate(night)

    @task(task_id="royalty.share")
    def share(night: str) -> str:
        from provenance.royalty.share import share

        return share(night)

    @task.branch(task_id="settlement.review")
    def review(night: str) -> str:
        from provenance.settlement.review import review

        request = review(night)
        get_current_context()["ti"].xcom_push("request", request)
        return "settlement.approve" if request["reasons"] else "settlement.book"

    # The night is shared, so one of the two ways to get here has been gone if none has failed.
    @task(task_id="settlement.book", trigger_rule="none_failed_min_one_success")
    def book(night: str, request: dict, answer: dict | None) -> str:
        from provenance.settlement.book import book

        return book(night, request, answer)

    @task(task_id="settlement.publish")
    def publish(day: str) -> str:
        from provenance.settlement.publish import publish

        return publish(day)

    @task(task_id="settlement.reconcile")
    def reconcile(day: str, published: str) -> str:
        from provenance.settlement.reconcile import reconcile

        return reconcile(day)

    night = share(estimate(likelihoods(score(fit_curvature(featurise(shard(freeze())))))))
    reviewed = review(night)
    approve = ApprovalOperator(  # noqa: AIR001 (a task of its stage, as the others)
        task_id="settlement.approve",
        subject="{{ ti.xcom_pull(task_ids='settlement.review', key='request')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='settlement.review', key='request')['body'] }}",
        response_timeout=PATIENCE,
        fail_on_reject=True,
        notifiers=[waits()],
    )
    day = book(night, reviewed["request"], approve.output)
    reviewed >> [approve, day]
    reconcile(day, publish(day))


nightly_payouts()
