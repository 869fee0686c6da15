"""What Airflow's own database knows of runs: when they ran, how long each task took, what failed and what waits for a person.

Read-only, and by plain SQL over the few columns that are asked about: it serves whoever can reach the database, the API
server's page and the metrics alike, without a scheduler or a session of Airflow's.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from provenance.core.errors import SettingsError

VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
NIGHTLY = "nightly_payouts"
FAILED, SUCCESS, RUNNING, AWAITING = "failed", "success", "running", "awaiting_input"
# A task that was cleared keeps the times of the try before, which is among the earlier ones by then.
BEGUN = frozenset({FAILED, SUCCESS, RUNNING, AWAITING})


def _table(name: str, columns: str) -> sa.TableClause:
    """Some columns of one of Airflow's tables."""
    return sa.table(name, *map(sa.column, columns.split()))


_DAG = _table("dag", "dag_id is_stale is_paused")
_RUN = _table("dag_run", "id dag_id run_id run_type state start_date end_date data_interval_start conf backfill_id")
_TASK, _TRIED = (
    _table(name, "dag_id run_id task_id state start_date duration try_number")
    for name in ("task_instance", "task_instance_history")
)
_TASK_ID = _table("task_instance", "id dag_id state")
_ASKED = _table("hitl_detail", "ti_id created_at responded_at")
_BACKFILL = _table("backfill", "id dag_id completed_at")
_BACKFILL_RUN = _table("backfill_dag_run", "id backfill_id")
# The day that a run is for: the one in its form, or else the one on which its data interval starts.
_DAY = sa.func.coalesce(
    sa.type_coerce(_RUN.c.conf, JSONB)["day"].astext,
    sa.func.to_char(sa.func.timezone("UTC", _RUN.c.data_interval_start), "YYYY-MM-DD"),
)


@dataclass(frozen=True)
class Run:
    """One run of a DAG.

    Attributes:
        day: YYYY-MM-DD: for a night, the day that it pays.
        kind: as Airflow has it: scheduled, manual, backfill.
        seconds: by task that has begun, of its last try; of one that is running, until now.
        spent: the same, of all its tries.
        tries: by task, how many it has had, those before it was cleared included.
        failed, waiting: tasks that failed, and those that wait for a person.
    """

    run_id: str
    kind: str
    day: str
    state: str
    started: datetime | None
    ended: datetime | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    tries: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Questions of a DAG that nobody has answered, and since when the oldest waits."""

    count: int
    since: datetime


@dataclass(frozen=True)
class Backfills:
    """How far a DAG's backfills are that are not over: runs that they have, that succeeded, and that failed."""

    runs: int
    succeeded: int
    failed: int


def open_runs(url: str = "") -> sa.Engine:
    """An engine on Airflow's database: at a URL, or where the environment says; SettingsError if neither names one."""
    url = url or os.environ.get(VARIABLE, "")
    if not url:
        raise SettingsError(f"environment: {VARIABLE}", expected="the URL of Airflow's own database", found="nothing")
    return sa.create_engine(url, poolclass=sa.NullPool)


def runs(engine: sa.Engine, dag_id: str = NIGHTLY, *, last: int = 60, day: str | None = None) -> dict[str, list[Run]]:
    """The runs of a DAG by the day that they are for: of the last so many days, or of one; each day's in the order of ids."""
    mine = (_RUN.c.dag_id == dag_id) & _DAY.is_not(None)
    if day is None:
        latest = sa.select(_DAY.label("day")).where(mine).distinct().order_by(sa.desc("day")).limit(last).subquery()
        mine &= _DAY.in_(sa.select(latest.c.day))
    else:
        mine &= day == _DAY
    found: dict[str, list[Run]] = defaultdict(list)
    with engine.connect() as connection:
        rows = list(connection.execute(sa.select(_RUN, _DAY.label("day")).where(mine).order_by("day", _RUN.c.id)))
        ids = [row.run_id for row in rows]
        tasks, tried = (
            list(connection.execute(sa.select(table).where((table.c.dag_id == dag_id) & table.c.run_id.in_(ids))))
            for table in (_TASK, _TRIED)
        )
    last_tries, earlier = _by_run(tasks), _by_run(tried)
    for row in rows:
        now, before = last_tries.get(row.run_id, []), earlier.get(row.run_id, [])
        begun = [task for task in now if task.state in BEGUN]
        found[row.day].append(
            Run(
                run_id=row.run_id,
                kind=row.run_type,
                day=row.day,
                state=row.state or "",
                started=row.start_date and _utc(row.start_date),
                ended=row.end_date and _utc(row.end_date),
                seconds=_seconds(begun),
                spent=_seconds([*begun, *before]),
                tries={task.task_id: task.try_number for task in begun},
                failed=tuple(sorted({task.task_id for task in now if task.state == FAILED})),
                waiting=tuple(sorted({task.task_id for task in now if task.state == AWAITING})),
            )
        )
    return dict(found)


def dags(engine: sa.Engine) -> list[str]:
    """The DAGs that have run, by name, without those whose files are gone."""
    gone = sa.select(_DAG.c.dag_id).where(_DAG.c.is_stale)
    query = sa.select(_RUN.c.dag_id).where(_RUN.c.dag_id.not_in(gone)).distinct().order_by(_RUN.c.dag_id)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def paused(engine: sa.Engine, dag_id: str = NIGHTLY) -> bool:
    """Whether a DAG begins no runs by itself; one that Airflow has not seen yet is not said to be paused."""
    query = sa.select(_DAG.c.is_paused).where(_DAG.c.dag_id == dag_id)
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar())


def asked(engine: sa.Engine) -> dict[str, Asked]:
    """What waits for people, by DAG."""
    query = (
        sa.select(_TASK_ID.c.dag_id, sa.func.count(), sa.func.min(_ASKED.c.created_at))
        .join(_TASK_ID, _TASK_ID.c.id == _ASKED.c.ti_id)
        .where(_ASKED.c.responded_at.is_(None) & (_TASK_ID.c.state == AWAITING))
        .group_by(_TASK_ID.c.dag_id)
    )
    with engine.connect() as connection:
        return {dag_id: Asked(count, _utc(since)) for dag_id, count, since in connection.execute(query)}


def backfills(engine: sa.Engine) -> dict[str, Backfills]:
    """Backfills that are not over, by DAG."""
    state = _RUN.c.state
    active = _BACKFILL.c.completed_at.is_(None)
    asked_for = (
        sa.select(_BACKFILL.c.dag_id, sa.func.count())
        .join(_BACKFILL_RUN, _BACKFILL_RUN.c.backfill_id == _BACKFILL.c.id)
        .where(active)
        .group_by(_BACKFILL.c.dag_id)
    )
    done = (
        sa.select(
            _BACKFILL.c.dag_id,
            sa.func.sum(sa.case((state == SUCCESS, 1), else_=0)),
            sa.func.sum(sa.case((state == FAILED, 1), else_=0)),
        )
        .join(_RUN, _RUN.c.backfill_id == _BACKFILL.c.id)
        .where(active)
        .group_by(_BACKFILL.c.dag_id)
    )
    with engine.connect() as connection:
        ended = {dag_id: (int(good), int(bad)) for dag_id, good, bad in connection.execute(done)}
        return {dag_id: Backfills(count, *ended.get(dag_id, (0, 0))) for dag_id, count in connection.execute(asked_for)}


def _by_run(rows: list[sa.Row[Any]]) -> dict[str, list[sa.Row[Any]]]:
    found: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.run_id].append(row)
    return found


def _seconds(tries: list[sa.Row[Any]]) -> dict[str, float]:
    """Seconds by task, in the order in which tasks began."""
    found: dict[str, float] = {}
    never = datetime.max.replace(tzinfo=UTC)
    for row in sorted(tries, key=lambda row: (_utc(row.start_date) if row.start_date else never, row.task_id)):
        if row.start_date:
            seconds = row.duration
            if row.state == RUNNING:  # its duration is still the one of the try before
                seconds = (datetime.now(UTC) - _utc(row.start_date)).total_seconds()
            found[row.task_id] = found.get(row.task_id, 0.0) + (seconds or 0.0)
    return found


def _utc(moment: datetime) -> datetime:
    """A moment in UTC; databases without time zones keep it so already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
