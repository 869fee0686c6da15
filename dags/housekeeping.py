"""Remove what nights have computed and nobody needs any more, by the policy in the settings (`[retention]`).

A night leaves scores, values and shares behind, and features of its outputs; models and corpora that nights once read stay
frozen. What is older than the policy says goes once a week, with old logs of the machine that runs this and what killed
processes left half-written. **Never removed:** exports, closings, statements, files for banks, keys, audits, deliveries,
the corpus in force, the newest night published, nights that are booked and not published, and anything written within the
grace period; the ledger is not touched. A night that begins meanwhile waits before it freezes its inputs. What is removed
of a night stands in its folder, in `removed.json`; run again, the night computes it anew, to the same bytes.

**Failed?** Something that says what must stay cannot be read, such as the inputs of a night: in the log, the error below
*Task failed with exception* names it, and nothing was removed. Or an object could not be removed: mend the rights of the
store's login (or lift the object's lock), and clear the task. Stopped at any moment, it goes on from there. `provenance gc
--dry-run` says what would go.
"""

from datetime import datetime

from airflow.sdk import CronDataIntervalTimetable, dag, task

from tasks.lineage.callbacks import TELL_LINEAGE
from tasks.retries import RETRY_WHAT_MAY_PASS


@dag(
    schedule=CronDataIntervalTimetable("0 14 * * 6", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001 (the timetable's zone applies)
    catchup=False,
    tags=["operations"],
    doc_md=__doc__,
    max_active_runs=1,
    default_args={"owner": "operations", **RETRY_WHAT_MAY_PASS, **TELL_LINEAGE},
)
def housekeeping() -> None:
    """One task: stopped at any moment, the same again ends as if it had not been."""

    @task(task_id="operations.gc")
    def gc() -> int:
        from provenance.validation.retention import collect

        return sum(len(removal.objects) for removal in collect())

    gc()


housekeeping()
