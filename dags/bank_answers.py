"""Read what banks answer: which payments were made, which were rejected, which came back.

**Reads** `bank/answers/` below the store's root, where whoever fetches them from the bank lays status reports (pain.002) and
account statements (camt.053). **Books** each once: a payment that was rejected or came back is owed again, with the tax that
was withheld from it.

**Failed?** A file that cannot be read, that answers a message which was never sent, or that names another amount than was
sent moves nothing; in the log, the error below *Task failed with exception* names the file, the payment, what was expected
and what was found. The other files are booked. Ask the bank, remove the file, and clear the task. `provenance payments
PERIOD` shows where each stands.
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.notify import failed
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=CronDataIntervalTimetable("0 7 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["settlement"],
    doc_md=__doc__,
    max_active_runs=1,
    on_failure_callback=failed(),
    default_args={"owner": "accounting", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def bank_answers() -> None:
    """One task: each file is booked whole or not at all."""

    @task(task_id="settlement.answers")
    def answers() -> int:
        from provenance.settlement.bank.incoming import read_new

        return read_new()

    answers()


bank_answers()
