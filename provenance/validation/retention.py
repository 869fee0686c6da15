"""Housekeeping: what can be computed again goes once it is older than the policy says; what was published never does.

Never removed, whatever the settings: exports, closings, statements, files for banks, keys, audits and appeals with what they
trained, deliveries (`corpus/`, `outputs/`), records of rights (`rights/`), the corpus in force, and the whole night of every
booking that has no export yet. The ledger is not touched at all.

    what                                                        goes when                              then
    tables of a booked night                                    it was frozen `nights` days ago        a run again computes them
    a night that nothing was booked from                        the same                               the same
    inputs of a published night                                 it was frozen `replay` days ago        no replay, diff, explain
    features, curvature, likelihoods                            no night of `features` days names them a run again computes them
    frozen corpora, models, outputs                             no night that is kept names them       they are frozen again
    counterfactual models                                       the model served is not kept either    they are trained again
    half-written files of killed processes                      they are `grace` hours old
    logs, workers' copies of models, scratch of replays         the same, of this machine

Whatever is removed of a night is told in its folder, in `removed.json`, first; then go the manifests that make tables real,
then the tables. So a kill at any moment leaves nights that are whole or that their stages compute again, and the same command
again ends as if there had been none. The newest night published is always kept whole.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from provenance.core.store import Store, Stored, canonical_json
from provenance.corpus.shards import CURRENT, corpus_key, load_frozen
from provenance.features.plan import load_plan
from provenance.influence.fit_curvature import fitted_key
from provenance.inputs.night import REMOVED, VERSIONS, Night, load_night
from provenance.models.counterfactuals import records
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT
from provenance.settlement.exports.export import MANIFEST, revision_folder
from tasks.cluster import PROGRESS
from tasks.database import open_books
from tasks.settings import CHECKOUT, RetentionSettings, Settings, load

log = logging.getLogger("provenance.gc")

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
# Objects that are removed at a time.
AT_ONCE = 1_000
# What a kill leaves of a write, and of a check whether a store is writable.
ASIDE = re.compile(r"\..*[.-][0-9a-f]{32}")
INPUTS = "inputs.json"
PER_PART, FITTED, LIKELIHOODS = ("features/", "statistics/"), "curvature/", "likelihoods/"
COUNTERFACTUALS = "counterfactuals/"
# What nights of version 0.1 kept, and nothing reads any more.
OBSOLETE = ("snapshots/", "sketches/")


@dataclass(frozen=True)
class SeenNight:
    """A night whose inputs are there, and what it names.

    Attributes:
        booked: whether the ledger has a booking of it; standing: whether one of these has no export yet, or it is the newest
            that has one.
        outputs: keys of the tables with its outputs, and with what owners chose.
        sample: key of the table with the sample that its plan names.
        counterfactuals: digests of the folders of its counterfactual models.
        features: keys of features, statistics and curvature; None where no plan says.
        likelihoods: keys of likelihoods; None where nothing says.
    """

    frozen_at: datetime
    booked: bool
    standing: bool
    corpus: str
    model: str
    outputs: frozenset[str]
    sample: frozenset[str]
    features: frozenset[str] | None
    likelihoods: frozenset[str] | None
    counterfactuals: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Seen:
    """What there is to decide about.

    Attributes:
        objects: of the store.
        nights: by folder.
        corpora: parts of every frozen corpus, by digest; in_force: the one that nights read now.
        counterfactuals: digests of the folders of all counterfactual models, by that of the model served.
        local: files and folders of this machine that may be removed as a whole, by what they are: when they were last
            written, and how many bytes they are.
    """

    objects: tuple[Stored, ...]
    nights: Mapping[str, SeenNight] = field(default_factory=dict)
    corpora: Mapping[str, frozenset[str]] = field(default_factory=dict)
    in_force: str = ""
    counterfactuals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    local: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Removal:
    """What goes, of one kind, and by which policy; `local` objects are paths of this machine."""

    kind: str
    policy: str
    objects: tuple[Stored, ...]
    local: bool = False

    @property
    def bytes(self) -> int:
        """How much room it takes."""
        return sum(found.bytes for found in self.objects)


LEFTOVERS, LOGS, MODELS, SCRATCH = "half-written leftovers", "logs", "workers' copies of models", "scratch of replays"
COMPUTED, UNBOOKED, EXPIRED = "tables of nights", "nights that were never booked", "inputs of nights"
NIGHTLY = (COMPUTED, UNBOOKED, EXPIRED)


def decide(seen: Seen, policy: RetentionSettings, now: datetime) -> list[Removal]:
    """What goes, in the order in which it must; nothing is read or removed here."""
    ages = _ages(seen, policy, now)
    fate = {folder: _fate(night, ages[folder], policy) for folder, night in seen.nights.items()}
    parts, manifests, models = _frozen_names(seen, fate, policy, now)
    young = [night for folder, night in seen.nights.items() if night.standing or ages[folder] < policy.features * DAY]
    features, likelihoods = _union(night.features for night in young), _union(night.likelihoods for night in young)
    going: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for found in seen.objects:
        key, name = found.key, found.key.rsplit("/", 1)[-1]
        if found.modified > now - policy.grace * HOUR:
            continue
        if name.startswith("."):
            if ASIDE.fullmatch(name):
                going[LEFTOVERS, "grace"].append(found)
        elif (folder := _night_of(key)) and name != REMOVED:
            # Where inputs are gone, a kill has left the rest of a night that was being removed.
            reason = fate.get(folder, (UNBOOKED, "nights")) if ages[folder] else None
            if reason and not (reason[0] == COMPUTED and key == f"{folder}/{INPUTS}"):
                going[reason].append(found)
        elif key.startswith((*PER_PART, FITTED, LIKELIHOODS, *OBSOLETE)):
            named = set[str]() if key.startswith(OBSOLETE) else likelihoods if key.startswith(LIKELIHOODS) else features
            if named is not None and key not in named:
                going[key.split("/", 1)[0], "features"].append(found)
        elif key.startswith(COUNTERFACTUALS) and key.split("/")[1] not in models:
            going["counterfactual models", "nights"].append(found)
        elif key.startswith("frozen/corpus/") and key != CURRENT and key not in manifests:
            going["frozen corpora", "nights"].append(found)
        elif key.startswith("frozen/models/") and key.split("/")[2] not in models:
            going["frozen models", "nights"].append(found)
        elif key.startswith("frozen/parts/") and key not in parts:
            going["frozen tables", "nights"].append(found)
    order = {kind: place for place, kind in enumerate((*NIGHTLY, "frozen corpora"))}
    chosen = sorted(going, key=lambda which: (order.get(which[0], len(order)), which))
    removals = [
        Removal(kind, _said(policy, name), tuple(sorted(going[kind, name], key=_manifests_first))) for kind, name in chosen
    ]
    in_use = {night.model for folder, night in seen.nights.items() if fate[folder] is None}
    return removals + list(_local(seen, in_use, policy, now))


def _local(seen: Seen, in_use: set[str], policy: RetentionSettings, now: datetime) -> Iterator[Removal]:
    for kind, found in seen.local.items():
        name, span = ("logs", policy.logs * DAY) if kind == LOGS else ("grace", policy.grace * HOUR)
        gone = [one for one in found if one.modified <= now - span and not (kind == MODELS and Path(one.key).name in in_use)]
        if gone:
            yield Removal(kind, _said(policy, name), tuple(gone), local=True)


def _said(policy: RetentionSettings, name: str) -> str:
    """One of the policy's spans as a person would write it."""
    return f"retention.{name} = {getattr(policy, name)}" + (" hours" if name == "grace" else "")


def _night_of(key: str) -> str:
    """The folder of the night that an object belongs to, if it belongs to any."""
    parts = key.split("/")
    return "/".join(parts[:3]) if parts[0] == "nights" and len(parts) > 3 else ""


def _ages(seen: Seen, policy: RetentionSettings, now: datetime) -> dict[str, timedelta]:
    """How long ago each night was frozen; no time for one in whose folder something was written a moment ago."""
    touched: dict[str, datetime] = {}
    for found in seen.objects:
        if (folder := _night_of(found.key)) and not found.key.endswith(f"/{REMOVED}"):
            touched[folder] = max(found.modified, touched.get(folder, found.modified))
    frozen_at = touched | {folder: night.frozen_at for folder, night in seen.nights.items()}
    return {
        folder: now - frozen_at[folder] if last <= now - policy.grace * HOUR else timedelta()
        for folder, last in touched.items()
    }


def _fate(night: SeenNight, age: timedelta, policy: RetentionSettings) -> tuple[str, str] | None:
    """What goes of a night, and by which policy; None for nothing."""
    if night.standing or age < policy.nights * DAY:
        return None
    if not night.booked:
        return UNBOOKED, "nights"
    return (COMPUTED, "nights") if not policy.replay or age < policy.replay * DAY else (EXPIRED, "replay")


def _frozen_names(
    seen: Seen, fate: Mapping[str, tuple[str, str] | None], policy: RetentionSettings, now: datetime
) -> tuple[set[str], set[str], set[str]]:
    """What must stay frozen: tables, manifests of corpora, and models by digest."""
    kept = [night for folder, night in seen.nights.items() if fate[folder] in (None, (COMPUTED, "nights"))]
    whole = [night for folder, night in seen.nights.items() if fate[folder] is None]
    written = {found.key: found.modified for found in seen.objects}
    corpora = {seen.in_force} | {night.corpus for night in kept}
    corpora |= {name for name in seen.corpora if now - written.get(corpus_key(name), now) < policy.nights * DAY}
    parts = {key for name in corpora for key in seen.corpora.get(name, ())}
    parts |= {key for night in kept for key in night.outputs} | {key for night in whole for key in night.sample}
    models = {night.model for night in kept}
    models |= {served for served in seen.counterfactuals if now - _newest_record(seen, served, now) < policy.nights * DAY}
    models |= {folder for served in models for folder in seen.counterfactuals.get(served, ())}
    models |= {folder for night in kept for folder in night.counterfactuals}
    return parts, {corpus_key(name) for name in corpora}, models


def _newest_record(seen: Seen, served: str, now: datetime) -> datetime:
    """When a model's last counterfactual was recorded: a set may be trained before the first night that uses it."""
    prefix = f"{COUNTERFACTUALS}{served}/"
    return max((found.modified for found in seen.objects if found.key.startswith(prefix)), default=now)


def _union(named: Iterable[frozenset[str] | None]) -> set[str] | None:
    found: set[str] = set()
    for names in named:
        if names is None:
            return None
        found |= names
    return found


def _manifests_first(found: Stored) -> tuple[int, str]:
    name = found.key.rsplit("/", 1)[-1]
    return (0 if name == INPUTS else 1 if name.endswith(".json") else 2), found.key


# Looking.


def look(settings: Settings, store: Store, engine: sa.Engine) -> Seen:
    """All that there is to decide about. If what says what must stay cannot be read, nothing is removed."""
    objects = tuple(store.describe())
    keys = {found.key for found in objects}
    booked = ledger.bookings(engine, kind=NIGHT)
    published = {b.booking_id for b in booked if f"{revision_folder(b.day, b.revision)}/{MANIFEST}" in keys}
    newest = max(published, default=0)
    standing = {b.night for b in booked if b.booking_id not in published or b.booking_id == newest}
    nights = {}
    for found in objects:
        folder, _, name = found.key.rpartition("/")
        if name == INPUTS and folder.startswith("nights/"):
            named = _named(store, folder, keys)
            nights[folder] = SeenNight(found.modified, folder in {b.night for b in booked}, folder in standing, **named)
    names = [key.removeprefix("frozen/corpus/").removesuffix(".json") for key in keys if key.startswith("frozen/corpus/")]
    frozen = [name for name in names if name != "current" and not name.startswith(".")]
    corpora = {name: frozenset(part.key for part in load_frozen(store, name).parts) for name in frozen}
    in_force = str(store.read_json(CURRENT)["digest"]) if CURRENT in keys else ""
    served = {key.split("/")[1] for key in keys if key.startswith(COUNTERFACTUALS)}
    folders = {model: frozenset(record.folder for record in records(store, model, unchecked=True)) for model in served}
    return Seen(objects, nights, corpora, in_force, folders, local_files(settings, os.environ))


def _named(store: Store, folder: str, keys: set[str]) -> dict[str, Any]:
    """What a night names, by attribute of `SeenNight`."""
    night = load_night(store, folder)
    sample, features = frozenset[str](), None
    if f"{folder}/plan.json" in keys:
        plan = load_plan(store, folder)
        files = plan.corpus + plan.outputs
        sample = frozenset({plan.sample.key})
        features = frozenset(
            {file.key for file in files}
            | {file.statistics for file in files}
            | {fitted_key(night, plan, source) for source in plan.sources}
        )
    return {
        "corpus": night.corpus,
        "model": night.model,
        "outputs": frozenset(part.key for part in (*night.outputs, night.choices) if part),
        "sample": sample,
        "features": features,
        "likelihoods": _likelihoods(store, night, done=f"{folder}/likelihoods.json" in keys),
        "counterfactuals": frozenset(night.counterfactuals.values()),
    }


def _likelihoods(store: Store, night: Night, *, done: bool) -> frozenset[str] | None:
    """The likelihoods that a night names; None where it may be about to name some."""
    if not done:
        return None if night.method["versions"] == VERSIONS else frozenset()
    return frozenset(key for keys in store.read_json(f"{night.folder}/likelihoods.json")["files"].values() for key in keys)


def local_files(settings: Settings, environment: Mapping[str, str]) -> dict[str, tuple[Stored, ...]]:
    """What this machine has: logs file by file, copies of models and scratch as whole folders."""
    home = Path(environment.get("AIRFLOW_HOME", str(CHECKOUT / "var/airflow")))
    logs = [Path(environment.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(home / "logs"))), CHECKOUT / "var/logs"]
    logs += [settings.lineage.path] if settings.lineage.path else []
    files = sorted({path for root in logs for path in root.rglob("*") if path.is_file() and not path.is_symlink()})
    copies, scratch = CHECKOUT / settings.model.cache, CHECKOUT / "var/recompute"
    return {
        LOGS: tuple(_described(path) for path in files),
        MODELS: tuple(_described(path) for path in sorted(copies.glob("*")) if path.is_dir()),
        SCRATCH: tuple(_described(path) for path in sorted(scratch.glob("*")) if path.is_dir()),
    }


def _described(path: Path) -> Stored:
    inside = [found.stat() for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path.stat()]
    written = max((facts.st_mtime for facts in inside), default=path.stat().st_mtime)
    return Stored(str(path), sum(facts.st_size for facts in inside), datetime.fromtimestamp(written, UTC))


# Doing.


def collect(settings: Settings | None = None, *, dry_run: bool = False, now: datetime | None = None) -> list[Removal]:
    """Remove what the policy does not keep; returns what went, or with `dry_run` what would.

    A night that begins meanwhile waits before it freezes anything.

    Args:
        now: when it is; by default now.

    Raises:
        InputError: the store or the ledger cannot be read, or an object cannot be removed.
    """
    settings = settings or load()
    store, engine = open_books(settings)
    policy, now = settings.retention, now or datetime.now(UTC)
    if dry_run:
        return decide(look(settings, store, engine), policy, now)
    with ledger.clearing(engine):
        seen = look(settings, store, engine)
        removals = decide(seen, policy, now)
        _tell_nights(store, seen, removals, now)
        remove(store, removals)
    for removal in removals:
        log.info("%s: %d removed, %d bytes (%s)", removal.kind, len(removal.objects), removal.bytes, removal.policy)
    return removals


def _tell_nights(store: Store, seen: Seen, removals: Sequence[Removal], now: datetime) -> None:
    """Put down in each night's folder what is about to go, when, and by which policy."""
    there = {found.key for found in seen.objects}
    for removal in removals:
        names: dict[str, set[str]] = defaultdict(set)
        for found in removal.objects if removal.kind in NIGHTLY else ():
            first, _, rest = found.key.split("/", 3)[3].partition("/")
            names["/".join(found.key.split("/")[:3])].add(f"{first}/" if rest else first)
        for folder, going in names.items():
            key = f"{folder}/{REMOVED}"
            told = store.read_json(key)["removed"] if key in there else []
            night = seen.nights.get(folder)
            since = f"{night.frozen_at:%Y-%m-%d}" if night else ""  # what went before it was run again is another matter
            known = {name for entry in told if entry["on"] >= since for name in entry["names"]}
            if new := sorted(going - known):
                entry: dict[str, Any] = {"on": f"{now:%Y-%m-%d}", "policy": removal.policy, "names": new}
                store.write(key, canonical_json({"removed": [*told, entry]}))


def remove(store: Store, removals: Sequence[Removal]) -> None:
    """Remove what was decided, in its order; what is gone already is no error."""
    total, done = sum(len(removal.objects) for removal in removals), 0
    for removal in removals:
        for start in range(0, len(removal.objects), AT_ONCE):
            batch = [found.key for found in removal.objects[start : start + AT_ONCE]]
            log.info(PROGRESS, "removing", done, total)
            if removal.local:
                for path in batch:
                    _remove_local(Path(path))
            else:
                store.remove_all(batch)
            done += len(batch)
    log.info(PROGRESS, "removing", done, total)
    for folder in {Path(found.key).parent for removal in removals if removal.kind == LOGS for found in removal.objects}:
        if "logs" in folder.parts:  # else it is nobody's but lineage's, which begins it again
            _remove_empty(folder)


def _remove_local(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Out of reach first, so that nobody finds half a folder.
    aside = path.with_name(f".{path.name.lstrip('.')[:64]}-{uuid.uuid4().hex}")
    path.rename(aside)
    shutil.rmtree(aside)


def _remove_empty(folder: Path) -> None:
    """Remove a folder of logs that nothing is left in, and those above it."""
    while folder.name != "logs" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
