"""Collects the nights that the page and the metrics show, from ledger, exports and Airflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from infra.monitor.frozen import manifest_of, read_frozen
from infra.monitor.runs import FAILED, SUCCESS, Run
from provenance.core.settings import Settings
from provenance.core.stages import APPROVE, PUBLISH, STAGES
from provenance.core.store import Store
from provenance.core.tables import ESCROW, PAYABLE
from provenance.features.run_notes import RunNote, note_of_booking, read_notes
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, totals
from provenance.settlement.anomaly_bounds import drift, figures
from provenance.settlement.books import NIGHT, Booking

# Nights before a night whose mean shares give its drift.
BEFORE = 14
# Tasks on the cluster; all others count as one worker.
ON_CLUSTER = frozenset(stage.name for stage in STAGES if stage.maps)
# Tasks that wait for people and use no worker.
OF_PEOPLE = frozenset({APPROVE.name})
# Nights read from the store in parallel.
AT_ONCE = 8
PUBLISHED, BOOKED, NOT_BOOKED, WAITING = "published", "booked", "not booked", "waiting"
STATES = (PUBLISHED, BOOKED, NOT_BOOKED, WAITING, "queued", "running", FAILED)


@dataclass(frozen=True)
class WatchedNight:
    """One day, by the ledger, its export and Airflow.

    Attributes:
        state: the latest run's while it is queued, running or waiting, or if it failed; else published, booked or not booked.
        revision, booking_id: of the booking in force; 0 without one.
        booked_at: time of that booking.
        published: whether that booking has its export.
        night: store key of the booked night's folder.
        outputs, owners: number of outputs, and of owners that earned something.
        totals: published control totals in minor units, by currency.
        matched: by currency, the part of the owners' money that has an owner now; the rest is in escrow or unattributed.
        parameters_covered: the part of the model's parameters that features cover; None if no run noted it.
        work: feature files that runs computed, those of previews and of later runs, too.
        drift: distance of shares from the mean of the nights before: 0 equal, 1 disjoint, None without nights to compare.
        escrow: published balance by currency after the booking, in minor units.
        fidelity: how far shares can be trusted, by contract, from the manifest; empty if not measured.
        audit: folder of the audit that the manifest cites, if any.
        notice: on the day's revenue, such as that it is invented.
        again: whether the latest run began after the booking.
        runs: Airflow's, the latest last.
    """

    day: str
    state: str
    revision: int = 0
    booking_id: int = 0
    published: bool = False
    night: str = ""
    outputs: int = 0
    owners: int = 0
    totals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    matched: Mapping[str, float] = field(default_factory=dict)
    parameters_covered: float | None = None
    work: tuple[RunNote, ...] = ()
    drift: float | None = None
    escrow: Mapping[str, int] = field(default_factory=dict)
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    audit: str = ""
    notice: str = ""
    again: bool = False
    runs: tuple[Run, ...] = ()
    booked_at: datetime | None = None

    @property
    def published_at(self) -> datetime | None:
        """When the booking in force was published, as Airflow says; else when it was booked. None if it is not published."""
        if not self.published or self.booked_at is None:
            return None
        ends = [run.succeeded[PUBLISH.name] for run in self.runs if PUBLISH.name in run.succeeded]
        return min((end for end in ends if end >= self.booked_at), default=self.booked_at)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds by task of the latest run, for tasks that have begun, in the order of the pipeline."""
        seconds = self.runs[-1].seconds if self.runs else {}
        return {task: seconds[task] for task in in_order(seconds)}

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds by task, over all runs and tries."""
        spent: Counter[str] = Counter()
        for run in self.runs:
            spent.update(run.spent)
        return spent

    @property
    def booked_work(self) -> RunNote | None:
        """What the run that was booked computed; before the booking, the last run."""
        return note_of_booking(self.work, self.booked_at)

    @property
    def computed(self) -> int:
        """Feature files of corpus and outputs that the run that was booked computed."""
        note = self.booked_work
        return note.corpus_computed + note.outputs_computed if note else 0

    @property
    def reused(self) -> int:
        """Feature files that the run that was booked reused."""
        note = self.booked_work
        return note.corpus_reused + note.outputs_reused if note else 0

    @property
    def without_cause(self) -> int:
        """Feature files of the corpus that runs computed although an earlier published night had them."""
        return sum(run.without_cause for run in self.work)

    def worker_seconds(self, workers: int) -> float:
        """Worker seconds of all runs and tries, on a cluster with so many workers."""
        busy = {task: seconds for task, seconds in self.spent.items() if task not in OF_PEOPLE}
        return sum(seconds * (workers if task in ON_CLUSTER else 1) for task, seconds in busy.items())

    def cost(self, settings: Settings) -> int:
        """The cost of these worker seconds, in minor units of `monitoring.currency`."""
        return round(self.worker_seconds(settings.cluster.workers) * settings.monitoring.hourly_cost / 3600)


def nights(
    store: Store, engine: sa.Engine, runs: Mapping[str, Sequence[Run]] | None = None, *, last: int = 60
) -> list[WatchedNight]:
    """The last days that are booked or that Airflow has run (`runs` by `infra.monitor.runs.runs`), oldest first."""
    runs = runs or {}
    in_force_of = {str(booking.day): booking for booking in ledger.bookings(engine, kind=NIGHT)}
    return of_days(store, engine, in_force_of, sorted({*in_force_of, *runs})[-last:], runs)


def in_order(tasks: Collection[str]) -> list[str]:
    """Tasks in the order of the pipeline, then unknown ones by name."""
    names = [stage.name for stage in STAGES]
    return [*(task for task in names if task in tasks), *sorted(set(tasks) - set(names))]


def of_days(
    store: Store, engine: sa.Engine, in_force_of: Mapping[str, Booking], days: Sequence[str], runs: Mapping[str, Sequence[Run]]
) -> list[WatchedNight]:
    """Some days, oldest first, by the bookings in force of all days."""
    booked = sorted(in_force_of)
    booked_days = [day for day in days if day in in_force_of]
    if not booked_days:
        return [_unbooked(day, runs[day]) for day in days]
    first, end = max(booked.index(booked_days[0]) - BEFORE, 0), booked.index(booked_days[-1]) + 1
    amounts = ledger.night_amounts(engine, since=in_force_of[booked[first]].day, through=in_force_of[booked_days[-1]].day)
    standing = ledger.standing(engine, through=ledger.newest(engine))
    earned = {day: standing.earned(amounts.get(in_force_of[day].day, {})) for day in booked[first:end]}
    past_figures = {day: figures(in_force_of[day].day, earned[day]) for day in earned}

    def watched(day: str) -> WatchedNight:
        if day not in in_force_of:
            return _unbooked(day, runs[day])
        position = booked.index(day)
        distance = drift(past_figures[day], [past_figures[earlier] for earlier in booked[max(position - BEFORE, 0) : position]])
        return _booked(store, in_force_of[day], earned[day], distance, tuple(runs.get(day, ())))

    with ThreadPoolExecutor(AT_ONCE) as pool:  # object stores answer requests in parallel
        return list(pool.map(watched, days))


def escrow(engine: sa.Engine) -> dict[str, tuple[int, date]]:
    """By currency, the amount in escrow in minor units, and the oldest day that it is from."""
    balances: dict[str, tuple[int, date]] = {}
    for (account, day), amount in ledger.by_day(engine, ESCROW, through=ledger.newest(engine)).items():
        total, oldest = balances.get(account.currency, (0, day))
        balances[account.currency] = (total - amount, min(oldest, day))
    return balances


def unpublished(store: Store, engine: sa.Engine, *, last: int = 60) -> list[Booking]:
    """Those of the last bookings of nights that have no export, or an export of another booking."""
    bookings = []
    for booking in ledger.bookings(engine, kind=NIGHT)[-last:]:
        manifest = manifest_of(store, booking)
        if manifest is None or (manifest["booking_id"], manifest["night"]) != (booking.booking_id, booking.night):
            bookings.append(booking)
    return bookings


def _unbooked(day: str, runs: Sequence[Run]) -> WatchedNight:
    """A day that only Airflow knows."""
    return WatchedNight(day, _state(NOT_BOOKED, runs), runs=tuple(runs))


def _state(books: str, runs: Sequence[Run]) -> str:
    """The state of a night: its latest run's, unless that succeeded; else the state by the ledger."""
    if not runs or runs[-1].state == SUCCESS:
        return books
    return WAITING if runs[-1].waiting else runs[-1].state


def _booked(
    store: Store, booking: Booking, amounts: Mapping[Account, int], moved: float | None, runs: tuple[Run, ...]
) -> WatchedNight:
    manifest, totals_of_day = manifest_of(store, booking), totals(amounts)
    inputs = read_frozen(store, f"{booking.night}/inputs.json")
    for_owners = {currency: row["revenue_minor"] - row["developer_minor"] for currency, row in totals_of_day.items()}
    notes = tuple(read_notes(store, booking.night))
    return WatchedNight(
        day=str(booking.day),
        state=_state(PUBLISHED if manifest else BOOKED, runs),
        revision=booking.revision,
        booking_id=booking.booking_id,
        published=manifest is not None,
        night=booking.night,
        outputs=sum(part["rows"] for part in inputs["outputs"]),
        owners=len({account.party_id for account, amount in amounts.items() if account.account == PAYABLE and amount}),
        totals=manifest["totals"] if manifest else totals_of_day,
        matched={c: totals_of_day[c]["earned_minor"] / pool for c, pool in for_owners.items() if pool},
        parameters_covered=next((w.parameters_covered for w in reversed(notes) if w.parameters_covered is not None), None),
        work=notes,
        drift=moved,
        escrow={c: row[ESCROW] for c, row in manifest["trial_balance"].items()} if manifest else {},
        fidelity=manifest.get("fidelity") or {} if manifest else {},
        audit=(manifest["audit"] or {}).get("folder", "") if manifest else "",
        notice=manifest.get("notice") or "" if manifest else "",
        again=bool(runs) and (runs[-1].started is None or runs[-1].started > booking.booked_at),
        runs=runs,
        booked_at=booking.booked_at,
    )
