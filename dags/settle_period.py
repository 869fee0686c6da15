"""Settle a month: close it, have two people approve, book the payments and write the files for banks.

    close -> prepare (a person) -> approve (another person) -> pay -> reconcile, statements, invoices

The scheduled run is on the third of the next month, after the last night of the month was paid; a run by hand asks for the
`period` in its form. (Unpausing the DAG starts the run of the last third.) Closing locks the period: later bookings for its
days count in the next. Balances below the minimum or below zero are carried forward; owners who are on hold, or whose payee
data is missing, are not paid.

**Waiting?** `settlement.prepare` and `settlement.approve` wait for people (Browse > Required Actions). They see totals, the
largest payments, the number of owners on hold with reasons, and the digest of `closing.csv`, which lists every balance. They
must be two different people; their names and times are kept in the ledger. Without both no payment is booked and there is no
bank file. A rejection ends the run; amounts stay owed, and the next month pays them.

**Failed?** A task that failed without a retry met bad input; the error in its log, below *Task failed with exception*, names
it: no contact for owners (`settlement.contact` in the settings), a missing rate (`provenance rate`), incomplete payee data
(`provenance payee import`), no payer (`[payer]` in the settings), one person who approved twice (clear `settlement.approve`,
and have somebody else answer). Nothing moved: mend it and clear the task. If `settlement.reconcile_bank` failed, do not send
the bank files: it names the payment that differs. If `settlement.invoices` failed, it names the invoices that have no number
yet; the others are issued.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import CronDataIntervalTimetable, Param, TaskGroup, dag, get_current_context, task

from tasks.dag_parameters import task_defaults
from tasks.notify import failed, waits
from tasks.stages import run

PATIENCE = timedelta(days=14)


@dag(
    schedule=CronDataIntervalTimetable("0 6 3 * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (in the timetable's zone)
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
            title="Month to settle",
            description="As 2026-11; empty: the one before the run's logical date",
        )
    },
    default_args=task_defaults("accounting"),
)
def settle_period() -> None:
    """The stages of a settlement; two of them are people."""

    @task(task_id="settlement.close")
    def close() -> dict[str, str]:
        from tasks.dag_parameters import files_url, form_value, settled_period

        context = get_current_context()
        period = settled_period(context.get("data_interval_start"), form_value(context["params"], "period"))
        return run("settlement.close", period, files_url())

    @task(task_id="settlement.pay")
    def pay(closed: dict[str, str], prepared: dict | None, approved: dict | None) -> str:
        from tasks.dag_parameters import approval

        answers = [approval(answer) if answer else None for answer in (prepared, approved)]
        run("settlement.pay", closed["period"], *answers, closed)
        return closed["period"]

    @task(task_id="settlement.reconcile_bank")
    def reconcile_bank(period: str) -> int:
        return run("settlement.reconcile_bank", period)

    @task(task_id="settlement.statements")
    def statements(period: str) -> int:
        return run("settlement.statements", period)

    @task(task_id="settlement.invoices")
    def invoices(period: str) -> int:
        return run("settlement.invoices", period)

    def person(task_id: str, action: str) -> ApprovalOperator:
        return ApprovalOperator(
            task_id=task_id,
            subject="{{ ti.xcom_pull(task_ids='settlement.close')['subject'] }}" + f" ({action})",
            body="{{ ti.xcom_pull(task_ids='settlement.close')['body'] }}",
            response_timeout=PATIENCE,
            notifiers=[waits()],
        )

    closed = close()
    # For the graph alone: ids of tasks stay those of the stages.
    with TaskGroup("approvals", prefix_group_id=False):
        prepare, approve = person("settlement.prepare", "prepare"), person("settlement.approve", "approve")
    closed >> prepare >> approve
    paid = pay(closed, prepare.output, approve.output)
    reconcile_bank(paid)
    statements(paid)
    invoices(paid)


settle_period()
