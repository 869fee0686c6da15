"""Removes files that can be computed again once they are older than the policy allows; never removes published files.

Always kept, with any settings: exports, closings, statements, files for banks, keys, audits and appeals with their trainings,
deliveries (`corpus/`, `outputs/`), records of rights (`rights/`), the corpus in force, and the whole night of every booking
that has no export yet. The ledger is never touched.

    files                                                 removed when                             afterwards
    tables of a booked night                              it was frozen `nights` days ago          a new run computes them
    a night without a booking                             it was frozen `nights` days ago          a new run computes it
    inputs of a published night                           it was frozen `replay` days ago          no replay, diff, explain
    features, curvature, likelihoods                      no night of `features` days names them   a new run computes them
    frozen corpora and their indices, models, outputs     no kept night names them                 they are frozen again
    counterfactual models                                 their model served is not kept           they are trained again
    half-written files of killed processes                they are `grace` hours old
    logs, workers' copies of models, scratch of replays   they are `logs` days or `grace` hours old, on this machine

Removals of a night are first recorded in its folder, in `removed.json`; then manifests are removed, then tables. So after a
kill at any moment a night is whole or its stages compute it again, and the same command finishes the removal. The newest
published night is always kept whole.
"""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from provenance.core.locks import clearing
from provenance.core.progress import PROGRESS
from provenance.core.published import MANIFEST, revision_folder
from provenance.core.settings import CHECKOUT, RetentionSettings, Settings
from provenance.core.store import Store, Stored, canonical_json
from provenance.core.where import Where
from provenance.corpus.ngrams import FOLDER as NGRAMS
from provenance.corpus.pieces import SCRATCH as SCRATCH_OF_INGEST
from provenance.corpus.rights.content_codes import FOLDER as CODES
from provenance.corpus.rights.signals.in_files import READ
from provenance.corpus.shards import CURRENT, corpus_key, load_frozen, part_key
from provenance.features.plan import fitted_key, load_plan
from provenance.inputs.night import REMOVED, VERSIONS, Night, load_night
from provenance.models.counterfactual_records import Record, records
from provenance.models.stored import base_digest
from provenance.settlement import ledger
from provenance.settlement.books import NIGHT

log = logging.getLogger("provenance.gc")

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
# Objects removed by one request.
AT_ONCE = 1_000
# Files that a killed write leaves, or a killed check of a writable store.
ASIDE = re.compile(r"\..*[.-][0-9a-f]{32}")
INPUTS = "inputs.json"
PER_PART, FITTED, LIKELIHOODS = ("features/", "statistics/"), "curvature/", "likelihoods/"
COUNTERFACTUALS = "counterfactuals/"
# Folders of version 0.1 that nothing reads any more.
OBSOLETE = ("snapshots/", "sketches/")
# Indices of runs of words, codes of contents, and marks of files that were read for signals; of all versions, and of this one.
INDICES = tuple(f"{folder.rpartition('/')[0]}/" for folder in (NGRAMS, CODES, READ))
INDICES_IN_USE = tuple(f"{folder}/" for folder in (NGRAMS, CODES, READ))


@dataclass(frozen=True)
class SeenNight:
    """A night that still has its inputs, and the names in its manifests.

    Attributes:
        booked: whether the ledger has a booking of it; standing: whether a booking has no export yet, or the newest export.
        outputs: keys of the tables with its outputs, and with owners' choices.
        sample: key of the table with the sample of its plan.
        counterfactuals: digests of the folders of its counterfactual models.
        base: digest of the frozen weights that its model stands on; None for none.
        features: keys of features, statistics and curvature; None without a plan.
        likelihoods: keys of likelihoods; None if they are not known yet.
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
    base: str | None = None


@dataclass(frozen=True)
class Seen:
    """The inputs of a decision.

    Attributes:
        objects: of the store.
        nights: by folder.
        corpora: parts of every frozen corpus, by digest; in_force: the digest of the one that nights read now.
        counterfactuals: digests of the folders of all counterfactual models and of their bases, by that of the model served.
        local: files and folders of this machine that may be removed as a whole, by kind, with the time of the last write and
            the size.
    """

    objects: tuple[Stored, ...]
    nights: Mapping[str, SeenNight] = field(default_factory=dict)
    corpora: Mapping[str, frozenset[str]] = field(default_factory=dict)
    in_force: str = ""
    counterfactuals: Mapping[str, frozenset[str]] = field(default_factory=dict)
    local: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Removal:
    """Objects of one kind to remove under one policy; `local` objects are paths of this machine."""

    kind: str
    policy: str
    objects: tuple[Stored, ...]
    local: bool = False

    @property
    def bytes(self) -> int:
        """The size of the objects."""
        return sum(stored.bytes for stored in self.objects)


LEFTOVERS, LOGS, MODELS, SCRATCH = "half-written leftovers", "logs", "workers' copies of models", "scratch of replays"
COMPUTED, UNBOOKED, EXPIRED = "tables of nights", "nights that were never booked", "inputs of nights"
NIGHTLY = (COMPUTED, UNBOOKED, EXPIRED)


def decide(seen: Seen, policy: RetentionSettings, now: datetime) -> list[Removal]:
    """The removals, in their required order; reads and removes nothing."""
    ages = _ages(seen, policy, now)
    fate = {folder: _fate(night, ages[folder], policy) for folder, night in seen.nights.items()}
    parts, manifests, models = _frozen_names(seen, fate, policy, now)
    young = [night for folder, night in seen.nights.items() if night.standing or ages[folder] < policy.features * DAY]
    features, likelihoods = _union(night.features for night in young), _union(night.likelihoods for night in young)
    groups: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for stored in seen.objects:
        key, name = stored.key, stored.key.rsplit("/", 1)[-1]
        if stored.modified > now - policy.grace * HOUR:
            continue
        if name.startswith("."):
            if ASIDE.fullmatch(name):
                groups[LEFTOVERS, "grace"].append(stored)
        elif key.startswith(f"{SCRATCH_OF_INGEST}/"):
            groups[LEFTOVERS, "grace"].append(stored)
        elif (folder := _night_of(key)) and name != REMOVED:
            # A folder without inputs is the rest of a night whose removal was killed.
            reason = fate.get(folder, (UNBOOKED, "nights")) if ages[folder] else None
            if reason and not (reason[0] == COMPUTED and key == f"{folder}/{INPUTS}"):
                groups[reason].append(stored)
        elif key.startswith((*PER_PART, FITTED, LIKELIHOODS, *OBSOLETE)):
            named = set[str]() if key.startswith(OBSOLETE) else likelihoods if key.startswith(LIKELIHOODS) else features
            if named is not None and key not in named:
                groups[key.split("/", 1)[0], "features"].append(stored)
        elif key.startswith(COUNTERFACTUALS) and key.split("/")[1] not in models:
            groups["counterfactual models", "nights"].append(stored)
        elif key.startswith("frozen/corpus/") and key != CURRENT and key not in manifests:
            groups["frozen corpora", "nights"].append(stored)
        elif key.startswith("frozen/models/") and key.split("/")[2] not in models:
            groups["frozen models", "nights"].append(stored)
        elif key.startswith("frozen/parts/") and key not in parts:
            groups["frozen tables", "nights"].append(stored)
        elif key.startswith(INDICES) and (not key.startswith(INDICES_IN_USE) or part_key(Path(key).stem) not in parts):
            groups["indices of frozen corpora", "nights"].append(stored)
    order = {kind: place for place, kind in enumerate((*NIGHTLY, "frozen corpora"))}
    ordered = sorted(groups, key=lambda group: (order.get(group[0], len(order)), group))
    removals = [
        Removal(kind, _span(policy, name), tuple(sorted(groups[kind, name], key=_manifests_first))) for kind, name in ordered
    ]
    whole = [night for folder, night in seen.nights.items() if fate[folder] is None]
    in_use = {name for night in whole for name in (night.model, night.base) if name}
    return removals + list(_local(seen, in_use, policy, now))


def _local(seen: Seen, in_use: set[str], policy: RetentionSettings, now: datetime) -> Iterator[Removal]:
    for kind, files in seen.local.items():
        name, span = ("logs", policy.logs * DAY) if kind == LOGS else ("grace", policy.grace * HOUR)
        old = [file for file in files if file.modified <= now - span]
        old = [file for file in old if not (kind == MODELS and Path(file.key).name in in_use)]
        if old:
            yield Removal(kind, _span(policy, name), tuple(old), local=True)


def _span(policy: RetentionSettings, name: str) -> str:
    """One of the policy's spans in words."""
    return f"retention.{name} = {getattr(policy, name)}" + (" hours" if name == "grace" else "")


def _night_of(key: str) -> str:
    """The folder of an object's night, if it has one."""
    parts = key.split("/")
    return "/".join(parts[:3]) if parts[0] == "nights" and len(parts) > 3 else ""


def _ages(seen: Seen, policy: RetentionSettings, now: datetime) -> dict[str, timedelta]:
    """The time since each night was frozen; zero if its folder was written within the grace period."""
    touched: dict[str, datetime] = {}
    for stored in seen.objects:
        if (folder := _night_of(stored.key)) and not stored.key.endswith(f"/{REMOVED}"):
            touched[folder] = max(stored.modified, touched.get(folder, stored.modified))
    frozen_at = touched | {folder: night.frozen_at for folder, night in seen.nights.items()}
    return {
        folder: now - frozen_at[folder] if last <= now - policy.grace * HOUR else timedelta()
        for folder, last in touched.items()
    }


def _fate(night: SeenNight, age: timedelta, policy: RetentionSettings) -> tuple[str, str] | None:
    """The kind of removal of a night, and its policy; None to keep the night."""
    if night.standing or age < policy.nights * DAY:
        return None
    if not night.booked:
        return UNBOOKED, "nights"
    return (COMPUTED, "nights") if not policy.replay or age < policy.replay * DAY else (EXPIRED, "replay")


def _frozen_names(
    seen: Seen, fate: Mapping[str, tuple[str, str] | None], policy: RetentionSettings, now: datetime
) -> tuple[set[str], set[str], set[str]]:
    """The frozen objects to keep: tables, manifests of corpora, and models by digest."""
    kept = [night for folder, night in seen.nights.items() if fate[folder] in (None, (COMPUTED, "nights"))]
    whole = [night for folder, night in seen.nights.items() if fate[folder] is None]
    written = {stored.key: stored.modified for stored in seen.objects}
    corpora = {seen.in_force} | {night.corpus for night in kept}
    corpora |= {name for name in seen.corpora if now - written.get(corpus_key(name), now) < policy.nights * DAY}
    parts = {key for name in corpora for key in seen.corpora.get(name, ())}
    parts |= {key for night in kept for key in night.outputs} | {key for night in whole for key in night.sample}
    models = {name for night in kept for name in (night.model, night.base) if name}
    models |= {served for served in seen.counterfactuals if now - _newest_record(seen, served, now) < policy.nights * DAY}
    models |= {folder for served in models for folder in seen.counterfactuals.get(served, ())}
    models |= {folder for night in kept for folder in night.counterfactuals}
    return parts, {corpus_key(name) for name in corpora}, models


def _newest_record(seen: Seen, served: str, now: datetime) -> datetime:
    """The time of a model's last counterfactual record: a set may be trained before the first night that uses it."""
    prefix = f"{COUNTERFACTUALS}{served}/"
    return max((stored.modified for stored in seen.objects if stored.key.startswith(prefix)), default=now)


def _union(named: Iterable[frozenset[str] | None]) -> set[str] | None:
    """All names; None if some of them are not known."""
    known = list(named)
    return None if None in known else {name for names in known if names for name in names}


def _manifests_first(stored: Stored) -> tuple[int, str]:
    name = stored.key.rsplit("/", 1)[-1]
    return (0 if name == INPUTS else 1 if name.endswith(".json") else 2), stored.key


# Reading the store and this machine.


def look(where: Where, logs: Sequence[Path]) -> Seen:
    """The inputs of a decision. Fails if a manifest cannot be read, so that nothing is removed.

    Args:
        logs: folders of logs on this machine.
    """
    store = where.store
    objects = tuple(store.describe())
    keys = {stored.key for stored in objects}
    booked = ledger.bookings(where.ledger, kind=NIGHT)
    published = {b.booking_id for b in booked if f"{revision_folder(b.day, b.revision)}/{MANIFEST}" in keys}
    newest = max(published, default=0)
    standing = {b.night for b in booked if b.booking_id not in published or b.booking_id == newest}
    nights = {}
    for stored in objects:
        folder, _, name = stored.key.rpartition("/")
        if name == INPUTS and folder.startswith("nights/"):
            named = _named(store, folder, keys)
            nights[folder] = SeenNight(stored.modified, folder in {b.night for b in booked}, folder in standing, **named)
    names = [key.removeprefix("frozen/corpus/").removesuffix(".json") for key in keys if key.startswith("frozen/corpus/")]
    frozen = [name for name in names if name != "current" and not name.startswith(".")]
    corpora = {name: frozenset(part.key for part in load_frozen(store, name).parts) for name in frozen}
    in_force = str(store.read_json(CURRENT)["digest"]) if CURRENT in keys else ""
    served = {key.split("/")[1] for key in keys if key.startswith(COUNTERFACTUALS)}
    folders = {model: _folders(records(store, model, unchecked=True)) for model in served}
    return Seen(objects, nights, corpora, in_force, folders, local_files(where.settings, logs))


def _folders(recorded: Sequence[Record]) -> frozenset[str]:
    """Digests of the folders of counterfactual models, and of the bases that they stand on."""
    bases = {base for record in recorded if (base := base_digest(record.files))}
    return frozenset({record.folder for record in recorded} | bases)


def _named(store: Store, folder: str, keys: set[str]) -> dict[str, Any]:
    """The names in a night's manifests, by attribute of `SeenNight`."""
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
        "base": base_digest(night.model_files),
        "outputs": frozenset(part.key for part in (*night.outputs, night.choices) if part),
        "sample": sample,
        "features": features,
        "likelihoods": _likelihoods(store, night, done=f"{folder}/likelihoods.json" in keys),
        "counterfactuals": frozenset(night.counterfactuals.values()),
    }


def _likelihoods(store: Store, night: Night, *, done: bool) -> frozenset[str] | None:
    """The likelihoods that a night names; None if a running stage may still name some."""
    if not done:
        return None if night.method["versions"] == VERSIONS else frozenset()
    return frozenset(key for keys in store.read_json(f"{night.folder}/likelihoods.json")["files"].values() for key in keys)


def local_files(settings: Settings, logs: Sequence[Path]) -> dict[str, tuple[Stored, ...]]:
    """Files of this machine: logs and lineage, file by file; copies of models and scratch, as whole folders."""
    logs = [*logs, settings.lineage.path] if settings.lineage.path else logs
    files = sorted({path for root in logs for path in root.rglob("*") if path.is_file() and not path.is_symlink()})
    copies, scratch = settings.model.cache, CHECKOUT / "var/recompute"
    return {
        LOGS: tuple(_described(path) for path in files),
        MODELS: tuple(_described(path) for path in sorted(copies.glob("*")) if path.is_dir()),
        SCRATCH: tuple(_described(path) for path in sorted(scratch.glob("*")) if path.is_dir()),
    }


def _described(path: Path) -> Stored:
    facts = [file.stat() for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path.stat()]
    written = max((file.st_mtime for file in facts), default=path.stat().st_mtime)
    return Stored(str(path), sum(file.st_size for file in facts), datetime.fromtimestamp(written, UTC))


# Removing.


def collect(where: Where, *, logs: Sequence[Path] = (), dry_run: bool = False, now: datetime | None = None) -> list[Removal]:
    """Remove the files that the policy does not keep; returns the removals. With `dry_run` removes nothing.

    A night that starts meanwhile waits before it freezes anything.

    Args:
        logs: folders of logs on this machine, besides lineage's.
        now: the time; by default the present.

    Raises:
        InputError: the store or the ledger cannot be read, or an object cannot be removed.
    """
    policy, now = where.settings.retention, now or datetime.now(UTC)
    engine = where.ledger  # fails before anything is read without a ledger, or with another store's
    if dry_run:
        return decide(look(where, logs), policy, now)
    with clearing(engine):
        seen = look(where, logs)
        removals = decide(seen, policy, now)
        _record_removals(where.store, seen, removals, now)
        remove(where.store, removals)
    for removal in removals:
        log.info("%s: %d removed, %d bytes (%s)", removal.kind, len(removal.objects), removal.bytes, removal.policy)
    return removals


def _record_removals(store: Store, seen: Seen, removals: Sequence[Removal], now: datetime) -> None:
    """Record in each night's folder the names to remove, the day, and the policy."""
    keys = {stored.key for stored in seen.objects}
    for removal in removals:
        names_of: dict[str, set[str]] = defaultdict(set)
        for stored in removal.objects if removal.kind in NIGHTLY else ():
            first, _, rest = stored.key.split("/", 3)[3].partition("/")
            names_of[_night_of(stored.key)].add(f"{first}/" if rest else first)
        for folder, names in names_of.items():
            key = f"{folder}/{REMOVED}"
            entries = store.read_json(key)["removed"] if key in keys else []
            night = seen.nights.get(folder)
            since = f"{night.frozen_at:%Y-%m-%d}" if night else ""  # a night that ran again has new files
            recorded = {name for entry in entries if entry["on"] >= since for name in entry["names"]}
            if new := sorted(names - recorded):
                entry: dict[str, Any] = {"on": f"{now:%Y-%m-%d}", "policy": removal.policy, "names": new}
                store.write(key, canonical_json({"removed": [*entries, entry]}))


def remove(store: Store, removals: Sequence[Removal]) -> None:
    """Remove the objects in order; objects that are gone already are no error."""
    total, done = sum(len(removal.objects) for removal in removals), 0
    for removal in removals:
        for start in range(0, len(removal.objects), AT_ONCE):
            batch = [stored.key for stored in removal.objects[start : start + AT_ONCE]]
            log.info(PROGRESS, "removing", done, total)
            if removal.local:
                for path in batch:
                    _remove_local(Path(path))
            else:
                store.remove_all(batch)
            done += len(batch)
    log.info(PROGRESS, "removing", done, total)
    for folder in {Path(file.key).parent for removal in removals if removal.kind == LOGS for file in removal.objects}:
        if "logs" in folder.parts:  # the folder of lineage stays
            _remove_empty(folder)


def _remove_local(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Renamed first, so that nobody reads half a folder.
    aside = path.with_name(f".{path.name.lstrip('.')[:64]}-{uuid.uuid4().hex}")
    path.rename(aside)
    shutil.rmtree(aside)


def _remove_empty(folder: Path) -> None:
    """Remove an empty folder of logs, and empty folders above it."""
    while folder.name != "logs" and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
