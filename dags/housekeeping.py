"""Remove results of nights that nobody needs any more, by the policy in the settings (`[retention]`).

A night leaves scores, shares and features of its outputs; models and corpora of earlier nights stay frozen. Once a week this
removes those that are older than the policy allows, old logs of this machine, and files that killed processes left
half-written. **Never removed:** exports, closings, statements, files for banks, keys, audits, deliveries, the corpus in force,
the newest published night, nights that are booked and not published, and anything written within the grace period; the ledger
is not touched. A night that begins meanwhile waits before it freezes its inputs. The removed files of a night are listed in its
folder, in `removed.json`; run again, the night computes them to the same bytes.

**Failed?** Either a file that decides what must stay cannot be read, such as the inputs of a night: in the log, the error below
*Task failed with exception* names it, and nothing was removed. Or an object could not be removed: mend the rights of the
store's login (or release the object's lock), and clear the task. Stopped at any moment, it goes on from there. `provenance gc
--dry-run` lists what would be removed.
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.dag_parameters import task_defaults
from tasks.stages import run


@dag(
    schedule=CronDataIntervalTimetable("0 14 * * 6", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (in the timetable's zone)
    catchup=False,
    tags=["operations"],
    doc_md=__doc__,
    max_active_runs=1,
    default_args=task_defaults("operations"),
)
def housekeeping() -> None:
    """One task; stopped at any moment, another run completes it."""

    @task(task_id="operations.gc")
    def gc() -> int:
        from tasks.where import log_folders

        return sum(len(removal.objects) for removal in run("operations.gc", logs=log_folders()))

    gc()


housekeeping()
