"""Says how things stand: the last night, what is in force, what waits, and the next step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provenance.core.published import published_days
from provenance.core.stages import APPROVE
from provenance.core.tables import ESCROW
from provenance.corpus.delivery import Files, files_below
from provenance.corpus.shards import CURRENT, corpus_in_force
from provenance.settlement import ledger
from provenance.settlement.accounts import OWED, trial_balance
from provenance.settlement.books import CLOSE, NIGHT
from provenance.settlement.exports.nights import count_published
from provenance.settlement.exports.trust import in_words
from provenance.settlement.months.settling import WAITING
from provenance.settlement.months.unsettled import Unsettled, unsettled

if TYPE_CHECKING:
    from provenance.core.store import Store
    from provenance.core.where import Where

# Days before today whose delivered outputs should be paid.
LOOKED_BACK = 60


@dataclass(frozen=True)
class LastNight:
    """The newest published day.

    Attributes:
        earned, escrowed: of the day, by currency, in minor units.
        fidelity: by contract, the rank correlation of predicted and actual left-out models (`royalty.fidelity`); None if it was
            not measured.
        failed: by contract, why its rule paid nothing.
        trust: the same in plain words.
        booked_at: when it was booked, which is when it was published or a moment before; ISO 8601 (UTC). seconds: how long its
            last run took, over all stages; None if that is not known.
    """

    day: str
    revision: int
    model_id: str
    outputs: int
    owners: int
    earned: Mapping[str, int]
    escrowed: Mapping[str, int]
    fidelity: Mapping[str, float | None]
    failed: Mapping[str, tuple[str, ...]]
    trust: str
    notice: str
    booked_at: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Waits:
    """Something that waits for a person or a run, and what to do about it."""

    what: str
    next_step: str


@dataclass(frozen=True)
class Status:
    """How things stand.

    Attributes:
        corpus: `digest, examples, held_out, owners` of the corpus in force; empty without one.
        days: number of published days.
        counterfactuals: number of counterfactual models that the last night rested on.
        owed, escrow: balances by currency, in minor units.
        holds: number of owners on hold.
        paused: whether nights do not run by themselves; None if that is not known.
        closed: the last closed period, and the number of its payments by status.
        waits: in the order in which to do it.
    """

    store: str
    corpus: Mapping[str, Any] = field(default_factory=dict)
    days: int = 0
    last_night: LastNight | None = None
    counterfactuals: int = 0
    owed: Mapping[str, int] = field(default_factory=dict)
    escrow: Mapping[str, int] = field(default_factory=dict)
    holds: int = 0
    paused: bool | None = None
    closed: str = ""
    payments: Mapping[str, int] = field(default_factory=dict)
    waits: tuple[Waits, ...] = ()

    @property
    def next_step(self) -> str:
        """What to do next."""
        if self.waits:
            return self.waits[0].next_step
        return f"provenance payouts {self.last_night.day}" if self.last_night else ""


def status(
    where: Where,
    *,
    today: date | None = None,
    seconds: Mapping[str, Mapping[str, float]] | None = None,
    paused: Callable[[], bool | None] = lambda: None,
) -> Status:
    """How things stand, from the store and the ledger; the ledger is not opened before there is a corpus or an export.

    Args:
        seconds: by a night's folder and by stage, where somebody knows the times.
        paused: says whether nights do not run by themselves, if it can; asked once there is a ledger.
    """
    store, today = where.store, today or datetime.now(UTC).date()
    files = files_below(store, "outputs")
    days, delivered = published_days(store), _delivered(files)
    corpus = _corpus(store)
    if not corpus and not days:
        step = _run(where, "ingest_corpus", f"{today - timedelta(days=1)}") if delivered else "make demo"
        return Status(store.url, waits=(Waits("no corpus is in force, and no day was paid yet", step),))
    engine = where.ledger
    through = ledger.newest(engine)
    balances = ledger.balances(engine, through=through)
    rows = trial_balance(balances)
    nights = ledger.bookings(engine, kind=NIGHT)
    closed = [booking.period for booking in ledger.bookings(engine, kind=CLOSE)]
    opened = unsettled(engine)
    last, manifest = _last_night(store, days)
    if last:
        spent = (seconds or {}).get(manifest["night"], {})
        booked_at = next((booking.booked_at for booking in nights if booking.booking_id == manifest["booking_id"]), None)
        busy = sum(each for stage, each in spent.items() if stage != APPROVE.name)
        last = replace(last, booked_at=booked_at.isoformat() if booked_at else "", seconds=busy or None)
    waits: list[Waits] = []
    if not corpus:
        waits.append(Waits("no corpus is in force", _run(where, "ingest_corpus", f"{today - timedelta(days=1)}")))
    for booking in nights[count_published(store, nights) :]:
        what = f"the night of {booking.day} is booked ({booking.booking_id}) and not published"
        waits.append(Waits(what, _run(where, "nightly_payouts", str(booking.day))))
    waits += _unpaid(where, delivered, {str(booking.day) for booking in nights}, today)
    waits += _not_read(files, today)
    if waiting := opened.statuses.get(WAITING, 0):
        what = f"{_count(waiting, 'payment')} of {closed[-1]} wait for two approvals"
        waits.append(Waits(what, f"Required Actions in Airflow; provenance payments {closed[-1]} lists them"))
    for period in sorted({booking.period for booking in nights}):
        if max(closed, default="") < period < f"{today:%Y-%m}":
            run = _run(where, "settle_period", f"{period}-01")
            waits.append(Waits(f"{period} is over and not closed", f"provenance payments {period} --preview, then {run}"))
    models = len(manifest["inputs"].get("counterfactuals", ())) if manifest else 0
    for contract, reasons in last.failed.items() if last else ():
        what = f"the night of {days[-1]}: the rule of contract {contract!r} failed its check: {'; '.join(reasons)}"
        waits.append(Waits(what, "provenance model card" if models else "provenance counterfactuals train"))
    waits += _of_months(opened)
    return Status(
        store=store.url,
        corpus=corpus,
        days=len(days),
        last_night=last,
        counterfactuals=models,
        owed={c: sum(row[name] for name in OWED) for c, row in rows.items()},
        escrow={c: row[ESCROW] for c, row in rows.items() if row[ESCROW]},
        holds=len(opened.held),
        paused=paused(),
        closed=closed[-1] if closed else "",
        payments=opened.statuses,
        waits=tuple(waits),
    )


def _of_months(opened: Unsettled) -> Iterator[Waits]:
    """What closed months left open."""
    for period, count in opened.unanswered.items():
        what = f"{_count(count, 'payment')} of {period} {'has' if count == 1 else 'have'} no answer of the bank"
        yield Waits(what, f"provenance answer FILE (provenance payments {period} lists them)")
    for status, count in opened.back.items():
        what = f"{_count(count, 'payment')} of {opened.period} {'was' if count == 1 else 'were'} {status}: owed again"
        yield Waits(what, f"provenance payments {opened.period} says why; then provenance payee import FILE")
    if opened.held:
        few = ", ".join(opened.held[:2]) + (", ..." if len(opened.held) > 2 else "")
        what = f"{_count(len(opened.held), 'owner')} on hold, and not paid: {few}"
        yield Waits(what, "provenance balance says why; then provenance release OWNER")


def _corpus(store: Store) -> dict[str, Any]:
    if not store.exists(CURRENT):
        return {}
    corpus = corpus_in_force(store)
    return {
        "digest": corpus.digest,
        "examples": corpus.examples,
        "held_out": corpus.held_out,
        "owners": corpus.owners.rows,
    }


def _last_night(store: Store, days: list[str]) -> tuple[LastNight | None, dict[str, Any]]:
    from provenance.settlement.exports.export import count_outputs, read_export

    if not days:
        return None, {}
    manifest, payouts = read_export(store, days[-1])
    fidelity = manifest.get("fidelity", {})
    night = LastNight(
        day=days[-1],
        revision=manifest["revision"],
        model_id=manifest["inputs"]["model_id"],
        outputs=count_outputs(store, manifest),
        owners=payouts.filter(payouts["earned_minor"] != 0)["owner_id"].n_unique(),
        earned={currency: row["earned_minor"] for currency, row in manifest["totals"].items()},
        escrowed={currency: row["escrowed_minor"] for currency, row in manifest["totals"].items()},
        fidelity={name: facts["lds"]["estimate"]["value"] if facts["lds"] else None for name, facts in fidelity.items()},
        failed={name: tuple(facts["failed"]) for name, facts in fidelity.items() if facts["failed"]},
        trust=in_words([manifest.get("fidelity")]),
        notice=manifest["notice"] or "",
    )
    return night, manifest


def _delivered(files: Files) -> list[str]:
    """The days with delivered outputs, oldest first."""
    named = (re.match(r"outputs/day=(\d{4}-\d{2}-\d{2})/", key) for key in files.parquet)
    return sorted({match[1] for match in named if match})


def _not_read(files: Files, today: date) -> Iterator[Waits]:
    """Files of the last weeks that lie beside outputs, may hold some, and are not read."""
    first = str(today - timedelta(days=LOOKED_BACK))
    beside = [(name, match[1]) for name in files.doubtful if (match := re.match(r"day=(\d{4}-\d{2}-\d{2})/", name))]
    for name, day in beside:
        if day >= first:
            step = f"name it .parquet, and pay the day again, if it has outputs of {day}; else remove it"
            yield Waits(f"outputs/{name} is not read: {files.left_out[name]}", step)


def _unpaid(where: Where, delivered: list[str], booked: set[str], today: date) -> Iterator[Waits]:
    """Days of the last weeks that are over, have outputs and are not booked; those that were computed wait for a person."""
    store, first = where.store, str(today - timedelta(days=LOOKED_BACK))
    unpaid = [day for day in delivered if first <= day < str(today) and day not in booked]
    computed = [day for day in unpaid if any(key.endswith("/shares.json") for key in store.list(f"nights/day={day}"))]
    for day in computed:
        yield Waits(
            f"the night of {day} is computed and not booked: it waits for a person, or failed", "Required Actions in Airflow"
        )
    if rest := [day for day in unpaid if day not in computed]:
        others = f", and {len(rest) - 1} more" if len(rest) > 1 else ""
        are = "are" if len(rest) > 1 else "is"
        yield Waits(f"{rest[0]}{others} {are} not paid: outputs were delivered", _run(where, "nightly_payouts", rest[0]))


def _run(where: Where, dag: str, day: str) -> str:
    """How to run a DAG: with the embedded database in this checkout, else in Airflow."""
    if where.settings.database.url:
        word = "period" if dag == "settle_period" else "day"
        form = f" with {word} {day[:7] if word == 'period' else day}" if dag != "ingest_corpus" else ""
        return f"trigger {dag} in Airflow{form}"
    return f".venv/bin/python -m infra.local_airflow run {dag} {day}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
