"""Pay the owners of works for a day of model outputs.

    freeze inputs -> plan -> featurise -> fit curvature -> score -> likelihoods -> estimate -> owner shares
    -> review (-> approve, a person) -> book -> publish -> reconcile -> credit

The scheduled run at midnight (UTC) pays the day that just ended, on which its data interval started; a run by hand pays the
`day` of its form. Every stage is a transaction: it reads manifests and writes one, so a run that was killed can be run again
and finds finished stages done. A day that was booked is booked again *by difference*, as the next revision.

**Waiting?** A night waits at `settlement.approve` for a person (Browse > Required Actions) if it is unlike those before it
(`[review]` in the settings), or if its rule fails its check and its contract asks a person (`unsupported = "wait"`). The person
sees the reasons and the changes by owner. Approved, the night is booked with that person's name; rejected, the run fails and
nothing is booked.

**Late?** People are notified of a run that failed, or has not ended after `notify.night_hours`: see docs/operators.md.

**Failed?** A task that failed without a retry met bad input: the error in its log, below *Task failed with exception*, names
the file, the row or key, the expected and the actual value. Mend the input and clear the task. If `settlement.reconcile`
failed, a published file has changed, or differs from the ledger: `provenance verify DAY` names it. Other errors are retried; if
the retries are used up, the infrastructure failed: clear the task once it is back. Nothing is paid twice.

**Alerts** and instructions: [late night](docs/operators.md#late-night),
[failed reconcile](docs/operators.md#failed-reconcile), [failed task](docs/operators.md#failed-task),
[rule not supported](docs/operators.md#rule-not-supported), [escrow growth](docs/operators.md#escrow-growth),
[features without cause](docs/operators.md#features-without-cause),
[waits for approval](docs/operators.md#waits-for-approval), [metrics absent](docs/operators.md#metrics-absent).
*Payouts* in the navigation shows every night, and has all documents.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import CronDataIntervalTimetable, Param, TaskGroup, dag, get_current_context, task

from tasks.dag_parameters import documented, task_defaults
from tasks.notify import failed, published_in_time, waits
from tasks.stages import APPROVE, BOOK, COMPUTED, CREDIT, FREEZE, PUBLISH, RECONCILE, REVIEW, run

PATIENCE = timedelta(days=7)


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (in the timetable's zone)
    catchup=False,
    tags=["payouts"],
    doc_md=documented(__doc__),
    max_active_runs=1,
    params={
        "day": Param(
            None,
            type=["null", "string"],
            format="date",  # the form shows a calendar
            title="Day to pay",
            description="Empty: the day on which the run's data interval starts",
        )
    },
    deadline=published_in_time(),
    on_failure_callback=failed(),
    default_args=task_defaults("operations"),
)
def nightly_payouts() -> None:
    """The stages of a night, in the order in which data flows."""

    @task(task_id=FREEZE.name)
    def freeze() -> str:
        from tasks.dag_parameters import form_value, paid_day

        context = get_current_context()
        return run(FREEZE.name, paid_day(context.get("data_interval_start"), form_value(context["params"], "day")))

    def compute(stage: str, night: str) -> str:
        @task(task_id=stage)
        def computed(night: str) -> str:
            return run(stage, night)

        return computed(night)

    @task.branch(task_id=REVIEW.name)
    def review(night: str) -> str:
        request = run(REVIEW.name, night)
        get_current_context()["ti"].xcom_push("request", request)
        return APPROVE.name if request["reasons"] else BOOK.name

    # Exactly one branch of `review` reaches this task.
    @task(task_id=BOOK.name, trigger_rule="none_failed_min_one_success")
    def book(night: str, request: dict, answer: dict | None) -> str:
        from tasks.dag_parameters import approval

        return run(BOOK.name, night, request, approval(answer) if answer else None)

    @task(task_id=PUBLISH.name)
    def publish(day: str) -> str:
        return run(PUBLISH.name, day)

    @task(task_id=RECONCILE.name)
    def reconcile(day: str, published: str) -> str:
        return run(RECONCILE.name, day)

    night = freeze()
    # A group for each package, for the graph alone: ids of tasks stay those of the stages.
    packages = dict.fromkeys(stage.name.split(".")[0] for stage in COMPUTED)
    groups = {package: TaskGroup(package, prefix_group_id=False) for package in packages}
    for stage in COMPUTED:
        with groups[stage.name.split(".")[0]]:
            night = compute(stage.name, night)
    with TaskGroup("settlement", prefix_group_id=False):
        reviewed = review(night)
        approve = ApprovalOperator(
            task_id=APPROVE.name,
            subject="{{ ti.xcom_pull(task_ids='settlement.review', key='request')['subject'] }}",
            body="{{ ti.xcom_pull(task_ids='settlement.review', key='request')['body'] }}",
            response_timeout=PATIENCE,
            fail_on_reject=True,
            notifiers=[waits()],
        )
        day = book(night, reviewed["request"], approve.output)
        reviewed >> [approve, day]
        reconciled = reconcile(day, publish(day))
    reconciled >> compute(CREDIT.name, night)


nightly_payouts()
