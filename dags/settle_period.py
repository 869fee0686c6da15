"""Settle a month: close it, have two people approve, book the payments and write the files for banks.

    close -> prepare (a person) -> approve (another person) -> pay -> reconcile, statements

The scheduled run is on the third of the next month, so that the last night has time to be paid; a run by hand asks for the
`period` in its form. (Unpausing the DAG starts the run of the last third.) Closing locks the period: what is booked for its
days from then on counts in the next. Who is owed less than the minimum, or below zero, is carried forward; who is on hold, or
whose payee data is missing, is not paid.

**Waiting?** `settlement.prepare` and `settlement.approve` wait for people (Browse > Required Actions). They see totals, the
largest payments, how many owners are on hold and why, and the digest of `closing.csv`, which lists every balance. The two have
to be different people: their names and times stand in the ledger. Without both no payment is booked and there is no bank file.
A rejection ends the run; what was found payable stays owed, and the next month pays it.

**Failed?** A task that failed without a retry met bad input; the error in its log, below *Task failed with exception*, says
which: a rate that is missing (`provenance rate`), a payee that no bank could be told of (`provenance payee import`), no
payer (`[payer]` in the settings), one person who approved twice (clear `settlement.approve`, and have somebody else answer).
Nothing moved: mend it and clear the task. If `settlement.reconcile_bank` failed, do not send the bank files: it names the
payment that differs.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed, waits
from tasks.retries import RETRY_WHAT_MAY_PASS

PATIENCE = timedelta(days=14)


@dag(
    schedule=CronDataIntervalTimetable("0 6 3 * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["settlement"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    params={
        "period": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{4}-\d{2}$",
            description="The month to settle, such as 2026-11; empty: the one before the run's logical date",
        )
    },
    default_args={"owner": "accounting", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def settle_period() -> None:
    """The stages of a settlement; two of them are people."""

    @task(task_id="settlement.close")
    def close() -> dict[str, str]:
        from provenance.settlement.months.settle import close, settled_period
        from tasks.dag_parameters import asked

        context = get_current_context()
        return close(settled_period(context.get("data_interval_start"), asked(context["params"], "period")))

    @task(task_id="settlement.pay")
    def pay(closed: dict[str, str], prepared: dict, approved: dict) -> str:
        from provenance.settlement.months.settle import pay

        pay(closed["period"], prepared, approved)
        return closed["period"]

    @task(task_id="settlement.reconcile_bank")
    def reconcile_bank(period: str) -> int:
        from provenance.settlement.months.settle import reconcile

        return reconcile(period)

    @task(task_id="settlement.statements")
    def statements(period: str) -> int:
        from provenance.settlement.months.write_statements import write_statements

        return write_statements(period)

    def person(task_id: str, what: str) -> ApprovalOperator:
        return ApprovalOperator(
            task_id=task_id,
            subject="{{ ti.xcom_pull(task_ids='settlement.close')['subject'] }}" + f" ({what})",
            body="{{ ti.xcom_pull(task_ids='settlement.close')['body'] }}",
            response_timeout=PATIENCE,
            notifiers=[waits()],
        )

    closed = close()
    prepare, approve = person("settlement.prepare", "prepare"), person("settlement.approve", "approve")
    closed >> prepare >> approve
    paid = pay(closed, prepare.output, approve.output)
    reconcile_bank(paid)
    statements(paid)


settle_period()
