"""What operators watch, as plain data: the nights, one night's flow, the audits. The page and the metrics show it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any

import polars as pl
import sqlalchemy as sa

from infra.monitor.runs import FAILED, SUCCESS, Run, open_runs, runs
from provenance.core.contracts import ESCROW, PAYABLE, WITHDRAWN
from provenance.core.errors import ContractError, StoreError
from provenance.core.money import PPB
from provenance.core.store import Store, sha256
from provenance.corpus.shards import corpus_key
from provenance.features.run_notes import Work, noted
from provenance.inputs.night import load_night, shares_stage
from provenance.royalty.opted_out import read_withdrawn
from provenance.royalty.share import fidelity_of
from provenance.settlement import ledger
from provenance.settlement.accounts import Account, totals
from provenance.settlement.anomaly_bounds import drift, figures
from provenance.settlement.books import NIGHT, Booking
from provenance.settlement.exports.explain import explain
from provenance.settlement.exports.export import MANIFEST, current_key, in_force, published_days, revision_folder
from provenance.validation import results
from tasks.database import read_ledger
from tasks.lineage.io import STAGES
from tasks.settings import Settings, load

# The nights whose mean shares a night's are held against.
BEFORE = 14
# Tasks that compute on the cluster; all others take one worker's time.
ON_CLUSTER = frozenset({"features.featurise", "influence.fit_curvature", "influence.score", "royalty.likelihoods"})
# A task that takes the time of a person, and of no worker.
OF_PEOPLE = frozenset({"settlement.approve"})
# Nights that are read from the store at a time.
AT_ONCE = 8
# Outputs of a night that are listed, at most.
LISTED = 192
PUBLISHED, BOOKED, NOT_BOOKED, WAITING = "published", "booked", "not booked", "waiting"
STATES = (PUBLISHED, BOOKED, NOT_BOOKED, WAITING, "queued", "running", FAILED)


@dataclass(frozen=True)
class AuditFigure:
    """How well a method predicted retraining on halves of a family, `examples` or `owners`: score, interval, ceiling."""

    family: str
    method: str
    score: float
    low: float
    high: float
    ceiling: float


@dataclass(frozen=True)
class Audit:
    """An audit that manifests cite, or will.

    Attributes:
        day: whose night was audited.
        cited_from: day of the first booking whose manifest cites it; empty where the next one will be the first.
        figures: of the method of influence that the audited night used.
    """

    folder: str
    sha256: str
    day: str
    cited_from: str
    figures: tuple[AuditFigure, ...]


@dataclass(frozen=True)
class Night:
    """One day, as the ledger, its export and Airflow have it.

    Attributes:
        state: published, booked or not booked, unless the latest run for the day is queued, running, waiting or failed.
        revision, booking_id: of the booking in force; 0 where there is none.
        published: whether that booking has its export, whatever has become of the latest run.
        night: store key of the folder of the night that is booked.
        outputs, owners: of the day, and those who earned something.
        totals: control totals in minor units, by currency, as they were published.
        matched: by currency, what part of the money for owners has found one by now; the rest is in escrow or nobody's.
        parameters_covered: the part of the model's parameters that features cover; None where no run has noted it.
        work: feature files that runs computed.
        drift: how far owners' shares are from the mean of the last nights before: 0 the same, 1 nothing in common, None where
            there is nothing to compare.
        escrow: balance by currency after the booking, in minor units; empty where it is not published.
        fidelity: how far shares can be trusted, by contract, as the manifest says; empty where it was not measured.
        audit: folder of the audit that the manifest cites; empty where there is none.
        notice: what the manifest says of the day's revenue, such as that it is invented.
        again: whether the latest run began after that booking was made.
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
    work: tuple[Work, ...] = ()
    drift: float | None = None
    escrow: Mapping[str, int] = field(default_factory=dict)
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    audit: str = ""
    notice: str = ""
    again: bool = False
    runs: tuple[Run, ...] = ()

    @property
    def seconds(self) -> Mapping[str, float]:
        """By task that has begun, of the latest run, in the order of the pipeline whatever was tried again."""
        found = self.runs[-1].seconds if self.runs else {}
        return {task: found[task] for task in in_order(found)}

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds by task, of all runs and all their tries."""
        found: Counter[str] = Counter()
        for run in self.runs:
            found.update(run.spent)
        return found

    @property
    def computed(self) -> int:
        """Feature files that all runs computed, of corpus and outputs."""
        return sum(run.corpus_computed + run.outputs_computed for run in self.work)

    @property
    def reused(self) -> int:
        """Feature files that the last run did not have to compute."""
        return self.work[-1].corpus_reused + self.work[-1].outputs_reused if self.work else 0

    @property
    def without_cause(self) -> int:
        """Feature files of the corpus that all runs computed though an earlier published night had them."""
        return sum(run.without_cause for run in self.work)

    def worker_seconds(self, workers: int) -> float:
        """What all runs and tries took, of a cluster of so many workers."""
        busy = {task: seconds for task, seconds in self.spent.items() if task not in OF_PEOPLE}
        return sum(seconds * (workers if task in ON_CLUSTER else 1) for task, seconds in busy.items())

    def cost(self, settings: Settings) -> int:
        """The same in money: minor units of `monitoring.currency`."""
        return round(self.worker_seconds(settings.cluster.workers) * settings.monitoring.hourly_cost / 3600)


@dataclass(frozen=True)
class Features:
    """Feature files of one source, of the corpus and of the outputs."""

    source: str
    corpus: int
    outputs: int


@dataclass(frozen=True)
class Terms:
    """A contract, the part of a share that its rule decides, and how many outputs fell under it."""

    name: str
    rule: str
    fallback: str
    developer_ppb: int
    weight: float
    outputs: int


@dataclass(frozen=True)
class Published:
    """A published revision: its files with SHA-256 and size in bytes."""

    revision: int
    booking_id: int
    folder: str
    manifest_sha256: str
    files: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Flow:
    """One night, from shards to files. What its stages have not written yet is empty.

    Attributes:
        fidelity: the same as the night's, also before it is published.
        parties: how many have a share, by account.
        opted_out: works that owners have opted out of; rests: by currency, the part of the day's pools that rests on them.
        listed: `output_id, revenue_minor, currency` of the first outputs.
    """

    night: Night
    corpus: str = ""
    shards: int = 0
    examples: int = 0
    held_out: int = 0
    model_id: str = ""
    model: str = ""
    method: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    features: tuple[Features, ...] = ()
    sample: int = 0
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    parties: Mapping[str, int] = field(default_factory=dict)
    opted_out: int = 0
    rests: Mapping[str, float] = field(default_factory=dict)
    contracts: tuple[Terms, ...] = ()
    bookings: tuple[Booking, ...] = ()
    published: tuple[Published, ...] = ()
    listed: tuple[tuple[str, int, str], ...] = ()


def nights(store: Store, engine: sa.Engine, runs: Mapping[str, Sequence[Run]] | None = None, *, last: int = 60) -> list[Night]:
    """The last so many days that are booked, or that Airflow has run (`infra.monitor.runs.runs`), oldest first."""
    runs = runs or {}
    in_force_of = {str(booking.day): booking for booking in ledger.bookings(engine, kind=NIGHT)}
    return _told(store, engine, in_force_of, sorted({*in_force_of, *runs})[-last:], runs)


def in_order(tasks: Collection[str]) -> list[str]:
    """Tasks in the order of the pipeline, then those that it does not know by name."""
    return [*(task for task in STAGES if task in tasks), *sorted(set(tasks) - set(STAGES))]


def _told(
    store: Store, engine: sa.Engine, in_force_of: Mapping[str, Booking], days: Sequence[str], runs: Mapping[str, Sequence[Run]]
) -> list[Night]:
    """Some days, oldest first, by the bookings in force of all days."""
    booked = sorted(in_force_of)
    mine = [day for day in days if day in in_force_of]
    if not mine:
        return [_unbooked(day, runs[day]) for day in days]
    first, end = max(booked.index(mine[0]) - BEFORE, 0), booked.index(mine[-1]) + 1
    amounts = ledger.of_nights(engine, since=in_force_of[booked[first]].day, through=in_force_of[mine[-1]].day)
    standing = ledger.standing(engine, through=ledger.newest(engine))
    of_day = {day: standing.earned(amounts.get(in_force_of[day].day, {})) for day in booked[first:end]}
    past = {day: figures(in_force_of[day].day, of_day[day]) for day in of_day}

    def found(day: str) -> Night:
        if day not in in_force_of:
            return _unbooked(day, runs[day])
        at = booked.index(day)
        moved = drift(past[day], [past[other] for other in booked[max(at - BEFORE, 0) : at]])
        return _booked(store, in_force_of[day], of_day[day], moved, tuple(runs.get(day, ())))

    with ThreadPoolExecutor(AT_ONCE) as pool:  # an object store answers many questions in the time of one
        return list(pool.map(found, days))


def night(store: Store, engine: sa.Engine, day: date, runs: Sequence[Run] = ()) -> Flow:
    """One night's flow; raises ContractError where nothing is known of the day."""
    booked = ledger.bookings(engine, kind=NIGHT)
    bookings = [booking for booking in booked if booking.day == day]
    if not bookings and not runs:
        raise ContractError(f"night of {day}", expected="a night that was run or booked", found="none")
    in_force_of = {str(booking.day): booking for booking in booked}
    (mine,) = _told(store, engine, in_force_of, [str(day)], {str(day): runs})
    folder = mine.night or _frozen_folder(store, str(day))
    if not folder:
        return Flow(mine)
    inputs = _read_frozen(store, f"{folder}/inputs.json")
    corpus = _read_frozen(store, corpus_key(inputs["corpus"]))
    plan = _stage(store, folder, "plan")
    shared, estimated = _stage(store, folder, "shares"), _stage(store, folder, shares_stage(store, folder))
    withdrawn = read_withdrawn(store, folder) if shared else WITHDRAWN.frame()
    rests = withdrawn.group_by("currency").agg(pl.col("share_ppb").sum() / PPB).sort("currency")
    return Flow(
        night=mine,
        corpus=inputs["corpus"],
        shards=len(corpus["shards"]),
        examples=corpus["examples"],
        held_out=corpus["held_out"],
        model_id=inputs["model_id"],
        model=inputs["model"],
        method=inputs["method"],
        checkpoints=tuple(inputs["checkpoints"]),
        features=_features(plan),
        sample=plan.get("sample", {}).get("rows", 0),
        fidelity=mine.fidelity or fidelity_of(store, load_night(store, folder)) or {},
        parties=_parties(store, folder, shared),
        opted_out=withdrawn["work_id"].n_unique(),
        rests=dict(rests.iter_rows()),
        contracts=_terms(inputs, shared.get("weights", {}), Counter(estimated.get("contracts", {}).values())),
        bookings=tuple(bookings),
        published=tuple(found for booking in bookings if (found := _published(store, booking))),
        listed=_listed(store, inputs),
    )


def output(store: Store, output_id: str, day: date | None = None, *, last: int = 60) -> dict[str, Any]:
    """One output's credits, as `provenance explain` has them: of a day, or of the last so many that are published."""
    days = published_days(store)[: -last - 1 : -1] if day is None else [str(day)] if store.exists(current_key(day)) else []
    found = explain(store, output_id, days)
    if found is None:
        raise ContractError(f"output {output_id!r}", expected=f"an output of {day or f'the last {last} days'}", found="none")
    return found


def escrow(engine: sa.Engine) -> dict[str, tuple[int, date]]:
    """By currency what lies in escrow, in minor units, and the day for which the oldest of it was put there."""
    found: dict[str, tuple[int, date]] = {}
    for (account, day), amount in ledger.by_day(engine, ESCROW, through=ledger.newest(engine)).items():
        total, oldest = found.get(account.currency, (0, day))
        found[account.currency] = (total - amount, min(oldest, day))
    return found


def unpublished(store: Store, engine: sa.Engine, *, last: int = 60) -> list[Booking]:
    """Of the last so many bookings of nights those that have no export, or whose export is of another booking."""
    found = []
    for booking in ledger.bookings(engine, kind=NIGHT)[-last:]:
        manifest = _manifest_of(store, booking)
        if manifest is None or (manifest["booking_id"], manifest["night"]) != (booking.booking_id, booking.night):
            found.append(booking)
    return found


@dataclass(frozen=True)
class Sources:
    """What is read, and never written."""

    settings: Settings
    store: Store
    ledger: sa.Engine
    airflow: sa.Engine

    @classmethod
    def open(cls, airflow_url: str = "") -> Sources:
        """Those of the settings and the environment; Airflow's own database may be named."""
        settings = load()
        return cls(settings, settings.store.open(), read_ledger(settings.database), open_runs(airflow_url))

    def nights(self, last: int) -> list[Night]:
        """The last nights, oldest first."""
        return nights(self.store, self.ledger, runs(self.airflow, last=last), last=last)

    def flow(self, day: date) -> Flow:
        """One night's flow."""
        return night(self.store, self.ledger, day, runs(self.airflow, day=str(day)).get(str(day), ()))


def audits(store: Store, *, last: int | None = None) -> list[Audit]:
    """The audits that manifests in force cite, in the order of booking, and then the one in force if none cites it yet.

    Args:
        last: look at the manifests of so many days; of all by default.

    Raises:
        StoreError: an audit that is cited is gone, or is not what was cited.
    """
    days = published_days(store)
    pointers = [in_force(store, day) for day in days[-last if last else None :]]
    manifests = [_read(store, f"{pointer['folder']}/{MANIFEST}", pointer["manifest_sha256"]) for pointer in pointers]
    manifests.sort(key=lambda manifest: manifest["booking_id"])
    cited: dict[str, tuple[Mapping[str, Any], str]] = {}
    for manifest in manifests:
        if manifest["audit"]:
            cited.setdefault(manifest["audit"]["sha256"], (manifest["audit"], manifest["day"]))
    if current := results.in_force(store):
        cited.setdefault(current["sha256"], (current, ""))
    return [_audit(store, reference, since) for reference, since in cited.values()]


def _audit(store: Store, reference: Mapping[str, Any], since: str) -> Audit:
    """What an audit found of the method that its night used."""
    result = _read(store, f"{reference['folder']}/lds.json", reference["sha256"])
    name = result["night"]["method"]["name"]
    figures = tuple(
        AuditFigure(family, name, estimate["lds"], estimate["low"], estimate["high"], found["ceiling"])
        for family, found in sorted(result["families"].items())
        if (estimate := found["methods"].get(name))
    )
    return Audit(reference["folder"], reference["sha256"], result["night"]["day"], since, figures)


def _read(store: Store, key: str, digest: str) -> dict[str, Any]:
    """JSON that never changes; whoever reads it must not change it either.

    Args:
        digest: that it has to have, if one is known.

    Raises:
        StoreError: it is gone, or is not what its digest says.
    """
    return _read_once(store.url, tuple(sorted(store.options.items())), key, digest)


@lru_cache(maxsize=4096)
def _read_once(url: str, options: tuple[tuple[str, Any], ...], key: str, digest: str) -> dict[str, Any]:
    store = Store(url, dict(options))
    data = store.read(key)
    if digest and sha256(data) != digest:
        raise StoreError(store.locate(key), expected=f"SHA-256 {digest}", found=sha256(data))
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise StoreError(store.locate(key), expected="JSON", found=str(error)) from error
    return found


def _unbooked(day: str, runs: Sequence[Run]) -> Night:
    """A day that only Airflow knows."""
    return Night(day, _state(NOT_BOOKED, runs), runs=tuple(runs))


def _state(books: str, runs: Sequence[Run]) -> str:
    """The state of a night: its latest run's while that is not over or has failed, and else what the books say."""
    if not runs or runs[-1].state == SUCCESS:
        return books
    return WAITING if runs[-1].waiting else runs[-1].state


def _booked(
    store: Store, booking: Booking, amounts: Mapping[Account, int], moved: float | None, runs: tuple[Run, ...]
) -> Night:
    manifest, of_day = _manifest_of(store, booking), totals(amounts)
    inputs = _read_frozen(store, f"{booking.night}/inputs.json")
    for_owners = {currency: row["revenue_minor"] - row["developer_minor"] for currency, row in of_day.items()}
    work = tuple(noted(store, booking.night))
    return Night(
        day=str(booking.day),
        state=_state(PUBLISHED if manifest else BOOKED, runs),
        revision=booking.revision,
        booking_id=booking.booking_id,
        published=manifest is not None,
        night=booking.night,
        outputs=sum(part["rows"] for part in inputs["outputs"]),
        owners=len({account.party_id for account, amount in amounts.items() if account.account == PAYABLE and amount}),
        totals=manifest["totals"] if manifest else of_day,
        matched={c: of_day[c]["earned_minor"] / pool for c, pool in for_owners.items() if pool},
        parameters_covered=next((w.parameters_covered for w in reversed(work) if w.parameters_covered is not None), None),
        work=work,
        drift=moved,
        escrow={c: row[ESCROW] for c, row in manifest["trial_balance"].items()} if manifest else {},
        fidelity=manifest.get("fidelity") or {} if manifest else {},
        audit=(manifest["audit"] or {}).get("folder", "") if manifest else "",
        notice=manifest.get("notice") or "" if manifest else "",
        again=bool(runs) and (runs[-1].started is None or runs[-1].started > booking.booked_at),
        runs=runs,
    )


def _frozen_folder(store: Store, day: str) -> str:
    """The folder of a night that is not booked: the only one of its day that would pay, if there is but one."""
    keys = [key for key in store.list(f"nights/day={day}") if key.endswith("/inputs.json")]
    paying = [key.removesuffix("/inputs.json") for key in keys if _read_frozen(store, key)["contract"]]
    return paying[0] if len(paying) == 1 else ""


def _stage(store: Store, folder: str, name: str) -> dict[str, Any]:
    """A stage's manifest; empty where the stage has not run."""
    key = f"{folder}/{name}.json"
    return store.read_json(key) if store.exists(key) else {}


def _features(plan: Mapping[str, Any]) -> tuple[Features, ...]:
    """Feature files by source."""
    counts = {
        name: Counter(file["checkpoint"] or file["kind"] for file in plan.get(name, ())) for name in ("corpus", "outputs")
    }
    sources = dict.fromkeys([*counts["corpus"], *counts["outputs"]])
    return tuple(Features(source, counts["corpus"][source], counts["outputs"][source]) for source in sources)


def _parties(store: Store, folder: str, shared: Mapping[str, Any]) -> dict[str, int]:
    if "night_shares.parquet" not in shared.get("writes", {}):  # a night of an earlier version has none
        return {}
    table = store.read_table(f"{folder}/night_shares.parquet", columns=["account", "party_id"])
    return dict(table.group_by("account").agg(pl.col("party_id").n_unique()).sort("account").iter_rows())


def _terms(inputs: Mapping[str, Any], weights: Mapping[str, float], outputs: Mapping[str, int]) -> tuple[Terms, ...]:
    found = []
    for contract in inputs["contract"]["contracts"]:
        said = {name: contract[name] for name in ("name", "rule", "fallback", "developer_ppb")}
        found.append(Terms(**said, weight=weights.get(said["name"], 1.0), outputs=outputs.get(said["name"], 0)))
    return tuple(found)


def _published(store: Store, booking: Booking) -> Published | None:
    manifest = _manifest_of(store, booking)
    if manifest is None:
        return None
    folder = revision_folder(booking.day, booking.revision)
    files = tuple((name, said["sha256"], said["bytes"]) for name, said in manifest["files"].items())
    return Published(booking.revision, manifest["booking_id"], folder, sha256(store.read(f"{folder}/{MANIFEST}")), files)


def _listed(store: Store, inputs: Mapping[str, Any]) -> tuple[tuple[str, int, str], ...]:
    """The first outputs of a night."""
    found: list[tuple[str, int, str]] = []
    for part in inputs["outputs"]:
        if len(found) < LISTED and part["rows"]:
            columns = ["output_id", "revenue_minor", "currency"]
            found += store.read_table(f"frozen/parts/{part['sha256']}.parquet", columns=columns).iter_rows()
    return tuple(found[:LISTED])


def _manifest_of(store: Store, booking: Booking) -> dict[str, Any] | None:
    """The manifest of a booking's revision, or None where it is not published. It is never edited, so it is read once."""
    try:
        return _read_frozen(store, f"{revision_folder(booking.day, booking.revision)}/{MANIFEST}")
    except StoreError:
        if store.exists(f"{revision_folder(booking.day, booking.revision)}/{MANIFEST}"):
            raise
        return None


def _read_frozen(store: Store, key: str) -> dict[str, Any]:
    """JSON that never changes once it is there, by its key."""
    return _read(store, key, "")
