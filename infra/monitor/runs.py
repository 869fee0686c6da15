"""Reads runs from Airflow's database: times, seconds by task, failures, open questions to people.

Read-only, by plain SQL over a few columns, so the page and the metrics need neither a scheduler nor a session of Airflow.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from provenance.core.errors import SettingsError

VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
NIGHTLY, SETTLEMENT = "nightly_payouts", "settle_period"
FAILED, SUCCESS, RUNNING, AWAITING = "failed", "success", "running", "awaiting_input"
# A cleared task keeps the times of its last try, which then is also among the earlier tries.
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
_TASK_ID = _table("task_instance", "id dag_id run_id task_id state")
_QUESTION = _table("hitl_detail", "ti_id created_at responded_at responded_by chosen_options")
_BACKFILL = _table("backfill", "id dag_id completed_at")
_BACKFILL_RUN = _table("backfill_dag_run", "id backfill_id")
# The month of a run of a settlement: from its form, or else the month in which its data interval starts.
_MONTH = sa.func.coalesce(
    sa.type_coerce(_RUN.c.conf, JSONB)["period"].astext,
    sa.func.to_char(sa.func.timezone("UTC", _RUN.c.data_interval_start), "YYYY-MM"),
)
# The day of a run: from its form, or else the first day of its data interval.
_DAY = sa.func.coalesce(
    sa.type_coerce(_RUN.c.conf, JSONB)["day"].astext,
    sa.func.to_char(sa.func.timezone("UTC", _RUN.c.data_interval_start), "YYYY-MM-DD"),
)


@dataclass(frozen=True)
class Run:
    """One run of a DAG.

    Attributes:
        day: YYYY-MM-DD; for a night, the day that it pays.
        kind: Airflow's: scheduled, manual, backfill.
        seconds: by task that has begun, of its last try; for running tasks, until now.
        spent: by task, over all tries.
        tries: by task, number of tries, with those before it was cleared.
        failed, waiting: tasks that failed, and tasks that wait for a person.
        succeeded: by task that succeeded, the end of its last try.
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
    succeeded: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a person answered to a task's question, and when; `by` is empty if Airflow did not note it."""

    by: str
    at: datetime
    granted: bool


@dataclass(frozen=True)
class OpenQuestions:
    """Number of a DAG's questions without an answer, and the time of the oldest."""

    count: int
    since: datetime


@dataclass(frozen=True)
class Backfills:
    """Progress of a DAG's active backfills: numbers of runs, of succeeded and of failed ones."""

    runs: int
    succeeded: int
    failed: int


def open_runs(url: str = "") -> sa.Engine:
    """Open Airflow's database, at a URL or as the environment says; SettingsError if neither names one."""
    url = url or os.environ.get(VARIABLE, "")
    if not url:
        raise SettingsError(f"environment: {VARIABLE}", expected="the URL of Airflow's own database", found="nothing")
    return sa.create_engine(url, poolclass=sa.NullPool)


def runs(engine: sa.Engine, dag_id: str = NIGHTLY, *, last: int = 60, day: str | None = None) -> dict[str, list[Run]]:
    """The runs of a DAG by day: of the last days, or of one day; each day's in the order of ids."""
    condition = (_RUN.c.dag_id == dag_id) & _DAY.is_not(None)
    if day is None:
        latest = sa.select(_DAY.label("day")).where(condition).distinct().order_by(sa.desc("day")).limit(last).subquery()
        condition &= _DAY.in_(sa.select(latest.c.day))
    else:
        condition &= day == _DAY
    runs_by_day: dict[str, list[Run]] = defaultdict(list)
    with engine.connect() as connection:
        rows = list(connection.execute(sa.select(_RUN, _DAY.label("day")).where(condition).order_by("day", _RUN.c.id)))
        ids = [row.run_id for row in rows]
        tasks, earlier_rows = (
            list(connection.execute(sa.select(table).where((table.c.dag_id == dag_id) & table.c.run_id.in_(ids))))
            for table in (_TASK, _TRIED)
        )
    last_tries, earlier = _by_run(tasks), _by_run(earlier_rows)
    for row in rows:
        tries, earlier_tries = last_tries.get(row.run_id, []), earlier.get(row.run_id, [])
        begun = [task for task in tries if task.state in BEGUN]
        runs_by_day[row.day].append(
            Run(
                run_id=row.run_id,
                kind=row.run_type,
                day=row.day,
                state=row.state or "",
                started=row.start_date and _utc(row.start_date),
                ended=row.end_date and _utc(row.end_date),
                seconds=_seconds(begun),
                spent=_seconds([*begun, *earlier_tries]),
                tries={task.task_id: task.try_number for task in begun},
                failed=tuple(sorted({task.task_id for task in tries if task.state == FAILED})),
                waiting=tuple(sorted({task.task_id for task in tries if task.state == AWAITING})),
                succeeded={
                    task.task_id: _utc(task.start_date) + timedelta(seconds=task.duration or 0.0)
                    for task in begun
                    if task.state == SUCCESS and task.start_date
                },
            )
        )
    return dict(runs_by_day)


def dags(engine: sa.Engine) -> list[str]:
    """Names of DAGs that have run, without stale ones."""
    stale = sa.select(_DAG.c.dag_id).where(_DAG.c.is_stale)
    query = sa.select(_RUN.c.dag_id).where(_RUN.c.dag_id.not_in(stale)).distinct().order_by(_RUN.c.dag_id)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def paused(engine: sa.Engine, dag_id: str = NIGHTLY) -> bool:
    """Whether a DAG is paused; False for a DAG that Airflow has not seen yet."""
    query = sa.select(_DAG.c.is_paused).where(_DAG.c.dag_id == dag_id)
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar())


def open_questions(engine: sa.Engine) -> dict[str, OpenQuestions]:
    """Questions that wait for people, by DAG."""
    query = (
        sa.select(_TASK_ID.c.dag_id, sa.func.count(), sa.func.min(_QUESTION.c.created_at))
        .join(_TASK_ID, _TASK_ID.c.id == _QUESTION.c.ti_id)
        .where(_QUESTION.c.responded_at.is_(None) & (_TASK_ID.c.state == AWAITING))
        .group_by(_TASK_ID.c.dag_id)
    )
    with engine.connect() as connection:
        return {dag_id: OpenQuestions(count, _utc(since)) for dag_id, count, since in connection.execute(query)}


def answers(engine: sa.Engine, dag_id: str = SETTLEMENT) -> dict[str, dict[str, Answer | None]]:
    """What was asked in the latest runs of a settlement, by month and task; None while nobody has answered."""
    query = (
        sa.select(_MONTH.label("month"), _TASK_ID.c.task_id, _QUESTION)
        .join(_TASK_ID, (_TASK_ID.c.dag_id == _RUN.c.dag_id) & (_TASK_ID.c.run_id == _RUN.c.run_id))
        .join(_QUESTION, _QUESTION.c.ti_id == _TASK_ID.c.id)
        .where((_RUN.c.dag_id == dag_id) & _MONTH.is_not(None))
        .order_by(_RUN.c.id)
    )
    by_month: dict[str, dict[str, Answer | None]] = defaultdict(dict)
    with engine.connect() as connection:
        for row in connection.execute(query):
            person, answer = row.responded_by or {}, None
            if row.responded_at is not None:
                by = str(person.get("name") or person.get("id") or "")
                answer = Answer(by, _utc(row.responded_at), granted=row.chosen_options == ["Approve"])
            by_month[row.month][row.task_id] = answer
    return dict(by_month)


def backfills(engine: sa.Engine) -> dict[str, Backfills]:
    """Active backfills by DAG."""
    state = _RUN.c.state
    active = _BACKFILL.c.completed_at.is_(None)
    counts = (
        sa.select(_BACKFILL.c.dag_id, sa.func.count())
        .join(_BACKFILL_RUN, _BACKFILL_RUN.c.backfill_id == _BACKFILL.c.id)
        .where(active)
        .group_by(_BACKFILL.c.dag_id)
    )
    outcomes = (
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
        ended = {dag_id: (int(good), int(bad)) for dag_id, good, bad in connection.execute(outcomes)}
        return {dag_id: Backfills(count, *ended.get(dag_id, (0, 0))) for dag_id, count in connection.execute(counts)}


def _by_run(rows: list[sa.Row[Any]]) -> dict[str, list[sa.Row[Any]]]:
    rows_by_run: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in rows:
        rows_by_run[row.run_id].append(row)
    return rows_by_run


def _seconds(tries: list[sa.Row[Any]]) -> dict[str, float]:
    """Seconds by task, in the order in which tasks began."""
    by_task: dict[str, float] = {}
    never = datetime.max.replace(tzinfo=UTC)
    for row in sorted(tries, key=lambda row: (_utc(row.start_date) if row.start_date else never, row.task_id)):
        if row.start_date:
            seconds = row.duration
            if row.state == RUNNING:  # its duration is still that of the try before
                seconds = (datetime.now(UTC) - _utc(row.start_date)).total_seconds()
            by_task[row.task_id] = by_task.get(row.task_id, 0.0) + (seconds or 0.0)
    return by_task


def _utc(time: datetime) -> datetime:
    """A time in UTC; databases without time zones store UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
