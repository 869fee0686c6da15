"""Read the answers of banks: payments made, rejected, and returned.

**Reads** `bank/answers/` below the store's root. Put status reports (pain.002) and account statements (camt.053) from the bank
there, PayPal's reports of payouts (CSV) and NACHA files of returns; zipped ones, too. **Books** what holds, once: a payment
that was rejected or returned is owed again, with the tax withheld from it. A rejection of a second copy changes nothing, and
none makes owed again what a statement has debited.

**Failed?** Each entry is checked by itself. One that cannot be read, names another amount than was sent, or contradicts the
books moves nothing, and the task stays red for it alone; the rest is booked. In the log, the error below *Task failed with
exception* names the file, the entry, the payment, the expected and the actual value, and a key. Ask the bank; then `provenance
answer-by-hand` settles the entry by its key, on evidence and two names, or you remove the file. Clear the task. `provenance
payments PERIOD` shows the state of each payment.
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.dag_parameters import task_defaults
from tasks.notify import failed
from tasks.stages import run


@dag(
    schedule=CronDataIntervalTimetable("0 7 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (in the timetable's zone)
    catchup=False,
    tags=["settlement"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args=task_defaults("accounting"),
)
def bank_answers() -> None:
    """One task: each entry is booked whole or not at all."""

    @task(task_id="settlement.answers")
    def answers() -> int:
        return run("settlement.answers")

    answers()


bank_answers()
