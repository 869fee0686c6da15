"""Counterfactual models: planned, trained on the cluster, kept under their digests, and checked before a night relies on them.

counterfactuals/<model served>/<name>.json      one training: what it was, and which frozen model folder came of it
frozen/models/<digest>/                         that folder, with the manifest of what it was trained on

A name is the digest of what decides a training: recipe, works and seed. So whatever moment a kill comes at, the same command
again trains what is missing and ends with the same set.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from scipy.stats import ttest_ind

from provenance.core.errors import ContractError, ModelError, StoreError
from provenance.core.store import Store, canonical_json, digest, sha256
from provenance.core.toml import validated
from provenance.corpus.duplicates import find_duplicates
from provenance.corpus.examples import read_corpus, since, valid_on
from provenance.corpus.holdings import find_holders, holdings
from provenance.corpus.rights.clearance import Manifest, read_manifest, stated
from provenance.corpus.shards import FrozenCorpus, corpus_in_force, corpus_key, freeze_corpus, freeze_part, read_examples
from provenance.inputs.night import Night
from provenance.models.frozen import fetch_model, freeze_model
from provenance.models.model import Model, all_losses, keep_ends, read_model, state_manifest
from provenance.models.partition_plan import Part, plan
from provenance.royalty.estimate import BOUNDS
from tasks.cluster import compute, open_cluster
from tasks.settings import ClusterSettings, Settings, load

log = logging.getLogger("provenance.counterfactuals")

MANIFEST = "manifest.json"
# Raised when a built-in adapter trains otherwise: what was trained before is no part of the set of what is trained now.
VERSION = 1
# Lines of a command's output that an error shows.
TOLD = 12
# Examples by which it is told what a model was trained on, batches of them, and how sure that has to be (Welch's t).
ASKED, BATCH, SURE = 256, 32, 3.0
# Models that were trained elsewhere, and the number of the first one's partition, beyond all planned ones.
BROUGHT, BROUGHT_FROM = "brought", 1_000_000
# What a record keeps of the plan.
PLANNED = ("stratum", "partition", "aside", "seed")
# What a training is given of its examples.
WORKS = ("work_id", "example_id", "position", "content_sha256", "content")
NO_CLUSTERS = {"example_id": pl.String, "cluster_id": pl.String}


class Record(BaseModel):
    """A counterfactual model as the store keeps it.

    Attributes:
        served: digest of the model that it is a counterfactual of.
        folder: digest of its own frozen folder; files: SHA-256 by name; checkpoint: the file of its last one.
        made_of: digest of what else must be the same: adapter, arguments, other files, and what the run was.
        stratum, partition, aside, seed: as planned (`royalty.counterfactuals.Part`).
        checked: whether it is known to have been trained on its works; until then it counts for nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    served: str
    name: str
    folder: str
    files: dict[str, str]
    checkpoint: str
    made_of: str
    stratum: str
    partition: int
    aside: bool
    seed: int
    checked: bool = True

    @property
    def key(self) -> str:
        """Where it lies in the store."""
        return f"counterfactuals/{self.served}/{self.name}.json"


@dataclass(frozen=True)
class Subject:
    """A model that is served, frozen, and the corpus that it was trained on."""

    store: Store
    model: str
    files: dict[str, str]
    corpus: FrozenCorpus
    day: date
    cache: str

    @classmethod
    def of(cls, store: Store, night: Night, cache: str) -> Subject:
        """The model that a night serves, and its corpus."""
        return cls(store, night.model, night.model_files, night.frozen_corpus(store), night.date, cache)

    def open(self) -> Model:
        """The model folder on this machine."""
        return fetch_model(self.store, self.model, self.files, self.cache)

    def read(self, *columns: str, rows: Sequence[int] | None = None) -> pl.DataFrame:
        """Some columns of the corpus's examples, all or some by their places, in the order of its shards."""
        return read_examples(self.store, self.corpus, *columns, rows=rows)


@dataclass(frozen=True)
class Training:
    """One training that is planned: who is in, and at which places of the corpus its examples stand."""

    name: str
    part: Part
    examples: tuple[int, ...]


def read_record(store: Store, served: str, name: str) -> Record:
    """The record of a counterfactual model by its name."""
    return _read_record(store, f"counterfactuals/{served}/{name}.json")


def _read_record(store: Store, key: str) -> Record:
    record = validated(Record, store.read_json(key), store.locate(key), StoreError)
    for file in (record.checkpoint, MANIFEST):
        if file not in record.files:
            raise StoreError(store.locate(key), expected=f"{file} among files", found=", ".join(record.files))
    if digest(record.files) != record.folder:
        raise StoreError(store.locate(key), expected=f"files of the folder {record.folder}", found=digest(record.files))
    return record


def records(store: Store, served: str, *, unchecked: bool = False) -> list[Record]:
    """All counterfactual models of a model, sorted by name.

    Args:
        unchecked: also those that are there and do not count yet.
    """
    found = [_read_record(store, key) for key in store.list(f"counterfactuals/{served}") if key.endswith(".json")]
    return sorted((record for record in found if record.checked or unchecked), key=lambda record: record.name)


def trained_on(store: Store, record: Record) -> Manifest:
    """What a counterfactual model was trained on, as its folder says."""
    key = f"frozen/models/{record.folder}/{MANIFEST}"
    data = store.read(key)
    if sha256(data) != record.files[MANIFEST]:
        raise ModelError(store.locate(key), expected=f"SHA-256 {record.files[MANIFEST]}", found=sha256(data))
    return read_manifest(data, store.locate(key))


def owner_of_examples(subject: Subject) -> pl.DataFrame:
    """`example_id, work_id, content_sha256, position, tokens, parties, owner`: who decides whether an example is in a training.

    That is the party with the largest part in it; of copies, in all of them together. The others follow it among the parties.
    """
    store, corpus = subject.store, subject.corpus
    columns = ("example_id", "work_id", "owner_id", "acquired_at", "content_sha256", "position", "tokens")
    examples = subject.read(*columns)
    claims = valid_on(store.read_table(corpus.claims.key), subject.day)
    copies = pl.DataFrame(schema=NO_CLUSTERS) if corpus.duplicates is None else store.read_table(corpus.duplicates.key)
    clusters = find_holders(examples, claims, subject.day, copies, "earliest")
    held = holdings(examples, claims, subject.day, clusters)
    largest = held.sort("example_id", "part", "account", "party_id", descending=[False, True, False, False])
    parties = largest.group_by("example_id", maintain_order=True).agg(parties=pl.col("account") + "/" + pl.col("party_id"))
    parties = parties.with_columns(owner=pl.col("parties").list.first())
    return examples.drop("owner_id", "acquired_at").join(parties, on="example_id", how="left", maintain_order="left")


def planned(subject: Subject, trainings: int) -> list[Training]:
    """The trainings of a set that is worth so many on the whole corpus."""
    examples = owner_of_examples(subject)
    weights = dict(examples.group_by("owner").agg(pl.col("tokens").sum()).iter_rows())
    if len(weights) < 2:
        found = f"{len(weights)} owner"
        raise ContractError("counterfactual models", expected="works of at least 2 owners, to leave some out", found=found)
    recipe = recipe_of(subject.open())
    owner, contents = examples["owner"].to_numpy(), examples["content_sha256"].to_numpy()
    trainings_of = []
    for part in plan(weights, trainings):
        inside = np.flatnonzero(np.isin(owner, part.parties))
        name = digest({"version": VERSION, "recipe": recipe, "examples": contents[inside].tolist(), "seed": part.seed})
        trainings_of.append(Training(name[:32], part, tuple(inside.tolist())))
    return trainings_of


def recipe_of(model: Model) -> str:
    """Digest of all that decides a training besides works and seed."""
    return digest([model.architecture(), model.card.training.model_dump(mode="json", exclude={"manifest"})])


def missing(subject: Subject, trainings: Sequence[Training], *, unchecked: bool = False) -> list[Training]:
    """Those that the store lacks, the longest first.

    Args:
        unchecked: whether one that does not count yet is there.
    """
    there = {record.name for record in records(subject.store, subject.model, unchecked=unchecked)}
    lacking = {each.name: each for each in trainings if each.name not in there}
    return sorted(lacking.values(), key=lambda each: -len(each.examples))


def train(subject: Subject, trainings: Sequence[Training], settings: Settings, only: Collection[str] | None = None) -> int:
    """Train what the store lacks of a set, on the cluster; returns how many that were. Logs progress and the time left.

    What a command has trained counts once the whole set is there, and was checked.

    Args:
        only: names of those to train here; by default all.

    Raises:
        InputError: the model cannot be trained here, or a training has failed: says which, and with what words.
    """
    check_trainable(subject.open())
    lacking = [each for each in missing(subject, trainings, unchecked=True) if only is None or each.name in only]
    if lacking:
        work = sum(len(each.examples) for each in lacking) / subject.corpus.examples
        log.info("counterfactual models: %d to train, worth %.1f trainings on everything", len(lacking), work)
        what = "counterfactual models"
        compute_trainings(_train_one, subject, lacking, settings.cluster, what=what, name=lambda each: each.part.name)
    names = {each.name for each in trainings}
    there = [record for record in records(subject.store, subject.model, unchecked=True) if record.name in names]
    if len(there) == len(names):
        log.info("counterfactual models: all %d are there", len(names))
        check_new(subject, there)
    return len(lacking)


def compute_trainings(
    function: Callable[[Any, Any], object],
    shared: object,
    lacking: Sequence[Any],
    settings: ClusterSettings,
    *,
    what: str,
    name: Callable[[Any], str],
) -> None:
    """Compute `function(shared, training)` on the cluster; logs progress and the time left.

    The longest come first: what runs beside one another then ends together.

    Args:
        lacking: each with the `examples` that it trains on.
    """
    ordered = sorted(lacking, key=lambda each: -len(each.examples))
    work, done, started = sum(len(each.examples) for each in ordered), 0, time.monotonic()
    with open_cluster(settings) as client:
        results = compute(client, function, shared, ordered, settings=settings, what=what, name=name)
        for each, _ in zip(ordered, results, strict=True):
            done += len(each.examples)
            if done:
                left = (time.monotonic() - started) * (work - done) / done
                log.info("%s: about %s left", what, timedelta(seconds=round(left)))


def check_trainable(model: Model) -> None:
    """Raise ModelError where neither the adapter nor the card says how to train the model."""
    if model.card.training.command is None and not callable(getattr(model.adapter(), "train", None)):
        raise ModelError(
            f"adapter {model.card.adapter}",
            expected="a method train(contents, *, seed, folder), or [training] command in model.toml",
            found="neither",
            hint="Or bring models that you have trained: `provenance counterfactuals add`.",
        )


def _train_one(subject: Subject, training: Training) -> None:
    """Train one model, freeze its folder and write its record."""
    model = subject.open()
    works = subject.read(*WORKS, rows=training.examples)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        train_model(model, works, seed=training.part.seed, folder=folder)
        keep_ends(folder)
        for name in model.other_files():  # a tokenizer, say, that the training had no need to write
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model.folder / name, folder / name)
        state_manifest(folder, stated(works, {"seed": training.part.seed}).as_bytes(), MANIFEST)
        # An adapter trains on what it is given; what a command does nobody knows.
        _register(subject, read_model(folder), training.name, training.part, checked=model.card.training.command is None)


def train_model(model: Model, works: pl.DataFrame, *, seed: int, folder: Path) -> None:
    """Train a model like another, by its adapter or the command that its card names, and write its folder.

    Args:
        works: `content`, and what else of the examples a command may ask for.
    """
    if model.card.training.command is None:
        model.adapter().train(works["content"].to_list(), seed=seed, folder=folder)  # type: ignore[attr-defined]
    else:
        run_command(model, works, seed=seed, folder=folder)


def run_command(model: Model, works: pl.DataFrame, *, seed: int, folder: Path) -> None:
    """Train with the command that `model.toml` names.

    It runs in the model's folder; `{works}` is a folder with `examples.parquet`, `{out}` where to write a model folder.
    """
    assert model.card.training.command is not None
    given = folder.with_name("works")
    given.mkdir()
    works.write_parquet(given / "examples.parquet")
    said = {"works": str(given), "seed": str(seed), "out": str(folder)}
    where, words = f"{model.folder / 'model.toml'}: [training] command", []
    for word in model.card.training.command:
        try:
            words.append(word.format_map(said))
        except (AttributeError, LookupError, ValueError):
            expected = "only the placeholders {works}, {seed} and {out}; write {{ for a brace"
            raise ModelError(where, expected=expected, found=repr(word)) from None
    try:
        done = subprocess.run(words, cwd=model.folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ModelError(where, expected="a command that can be run", found=f"{words[0]}: {error}") from error
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).splitlines()[-TOLD:])
        said_last = f"its last lines are: {last}" if last else "it printed nothing"
        raise ModelError(where, expected="exit code 0", found=f"{done.returncode}; {said_last}")
    if not (folder / "model.toml").is_file():
        raise ModelError(where, expected="a model folder, written to {out}", found="no model.toml there")


def _register(subject: Subject, trained: Model, name: str, part: Part, *, checked: bool) -> Record:
    """Freeze a model folder and write its record, once; returns the one that is there."""
    check_alike(subject.open(), trained)
    record = Record(
        served=subject.model,
        name=name,
        folder=freeze_model(subject.store, trained),
        files=trained.files,
        checkpoint=trained.card.checkpoints[-1].file,
        made_of=recipe_of(subject.open()),
        checked=checked,
        **{name: getattr(part, name) for name in PLANNED},
    )
    subject.store.create(record.key, canonical_json(record.model_dump()))
    return read_record(subject.store, subject.model, name)


def check_new(subject: Subject, found: Sequence[Record]) -> None:
    """Have models count that do not yet, once all of them are known to have been trained on their works.

    Raises:
        ModelError: one was not; then none of the new ones is kept.
    """
    new = [record for record in found if not record.checked]
    try:
        check_seen(subject, new)
    except ModelError:
        subject.store.remove_all([record.key for record in new])
        raise
    for record in new:
        subject.store.write(record.key, canonical_json(record.model_copy(update={"checked": True}).model_dump()))


def check_alike(served: Model, trained: Model) -> None:
    """Raise ModelError where a counterfactual model is of another architecture or recipe than the model served."""
    where, theirs, ours = f"{trained.folder / 'model.toml'}", trained.card, served.card
    rows: list[tuple[str, object, object]] = [("key 'adapter'", ours.adapter, theirs.adapter)]
    names = sorted({*theirs.adapter_args, *ours.adapter_args})
    rows += [(f"adapter_args.{name}", ours.adapter_args.get(name), theirs.adapter_args.get(name)) for name in names]
    known = ours.training.model_dump(exclude={"manifest", "command"}, exclude_none=True)
    rows += [(f"training.{name}", wanted, getattr(theirs.training, name)) for name, wanted in known.items()]
    for key, wanted, found in rows:
        if found != wanted:
            raise ModelError(f"{where}: {key}", expected=f"{wanted!r}, the value of the model served", found=repr(found))
    if trained.architecture() != served.architecture():
        files = sorted({*trained.other_files(), *served.other_files()})
        differing = [name for name in files if trained.files.get(name) != served.files.get(name)]
        found = f"a different {', '.join(differing) or 'code of the adapter'}"
        raise ModelError(where, expected="the architecture of the model served", found=found)


def check_works(manifest: Manifest, works: dict[str, Counter[str]], where: str) -> None:
    """Raise ModelError where a manifest names something that the model served was not trained on."""
    for work, more in _strange(manifest, works).items():
        found = f"work {work!r}: {more} of its {len(manifest.works[work])} examples are not there"
        hint = "It was trained on another corpus: train counterfactual models for this one."
        raise ModelError(where, expected="works on which the model served was trained", found=found, hint=hint)


def _strange(manifest: Manifest, works: dict[str, Counter[str]]) -> dict[str, int]:
    """Works of a manifest, in order, with the number of their examples that the model served was not trained on."""
    more = {work: Counter(digests) - works.get(work, Counter()) for work, digests in sorted(manifest.works.items())}
    return {work: count.total() for work, count in more.items() if count}


def works_served(subject: Subject) -> dict[str, Counter[str]]:
    """By work, the digests of what the model served was trained on: as its manifest says, or else the corpus."""
    model = subject.open()
    if model.manifest is not None:
        manifest = read_manifest(model.manifest.read_bytes(), str(model.manifest))
        return {work: Counter(digests) for work, digests in manifest.works.items()}
    found: dict[str, Counter[str]] = {}
    for work, content in subject.read("work_id", "content_sha256").iter_rows():
        found.setdefault(work, Counter())[content] += 1
    return found


def add(subject: Subject, folders: Sequence[Path]) -> list[Record]:
    """Bring along models that were trained elsewhere: checked, frozen, recorded.

    Args:
        folders: model folders, each with the manifest of what it was trained on (`[training] manifest`).

    Raises:
        ModelError: a folder has no manifest, or is of other works, another recipe or architecture.
    """
    works, served, models = works_served(subject), subject.open(), []
    known = records(subject.store, subject.model, unchecked=True)
    there = {record.name: record.partition for record in known}
    weights = {record.files[record.checkpoint]: record.name for record in known}
    for folder in sorted(folders):
        trained = read_model(folder)
        if trained.card.training.manifest != MANIFEST:
            where, found = f"{folder / 'model.toml'}: training.manifest", repr(trained.card.training.manifest)
            raise ModelError(where, expected=f"'{MANIFEST}', a file with the works that it was trained on", found=found)
        where = str(folder / MANIFEST)
        check_alike(served, trained)
        check_works(read_manifest((folder / MANIFEST).read_bytes(), where), works, where)
        name = digest({"version": VERSION, "brought": trained.files})[:32]
        same = weights.setdefault(trained.files[trained.card.checkpoints[-1].file], name)
        if same != name:  # counted twice, it would be predicted by itself
            found = f"the weights of {same[:12]}"
            raise ModelError(str(folder), expected="a model that the set does not have yet", found=found)
        models.append((name, trained))
    made, following = [], max([BROUGHT_FROM - 1, *there.values()]) + 1
    for number, (name, trained) in enumerate(models, following):  # once all are checked: all are recorded or none
        part = Part(trained.folder.name, BROUGHT, there.get(name, number), (), False, 0)
        made.append(_register(subject, trained, name, part, checked=False))
    check_new(subject, made)
    return [record.model_copy(update={"checked": True}) for record in made]


def check_seen(subject: Subject, asked: Sequence[Record]) -> None:
    """Hold what models know against what their manifests say that they saw.

    Of some examples of the corpus the losses are compared with the mean under models that saw about as much: a model knows what
    it was trained on better than it knows the rest.

    Raises:
        ModelError: a model does not, or there is no other model to compare it with.
    """
    if not asked:
        return
    examples = subject.read("work_id", "content_sha256", "content").sort("content_sha256").head(ASKED)
    contents = examples["content"].to_list()
    keys = list(examples.select("work_id", "content_sha256").iter_rows())
    everyone = records(subject.store, subject.model, unchecked=True)
    losses, saw = np.empty((len(everyone), len(keys))), np.empty((len(everyone), len(keys)), dtype=bool)
    for at, record in enumerate(everyone):
        works = {work: set(digests) for work, digests in trained_on(subject.store, record).works.items()}
        saw[at] = [content in works.get(work, ()) for work, content in keys]
        model = fetch_model(subject.store, record.folder, record.files, subject.cache)
        losses[at] = all_losses(model.adapter(), model.load(model.card.checkpoints[-1]), contents, batch_size=BATCH)
    losses /= [len(content) for content in contents]
    stratum = np.digitize(saw.mean(axis=1), BOUNDS)
    for record in asked:
        at = next(place for place, other in enumerate(everyone) if other.name == record.name)
        others = (stratum == stratum[at]) & (np.arange(len(everyone)) != at)
        where = f"{subject.store.locate(record.key)}: {MANIFEST}"
        if not others.any() or saw[at].all() or not saw[at].any():
            expected = "other models trained on about as much, and examples both listed and not listed, to compare it with"
            raise ModelError(where, expected=expected, found=f"{saw[at].mean():.0%} of the examples in, {others.sum()} others")
        more = losses[at] - losses[others].mean(axis=0)
        sure = float(ttest_ind(more[~saw[at]], more[saw[at]], equal_var=False).statistic)
        if not sure > SURE:
            found = f"one that knows the rest of the corpus no worse (t = {sure:.1f}; at least {SURE:.0f} is required)"
            raise ModelError(where, expected="a model that was trained on the works listed", found=found)


def in_use(subject: Subject, found: Sequence[Record] | None = None) -> dict[str, str]:
    """The counterfactual models of a model that count, of some or by default all: digest of the folder by name.

    Each is held against its recipe. One that was trained on works that the model served was not is left out: the corpus has
    changed since.
    """
    found = records(subject.store, subject.model) if found is None else found
    recipe, works = (recipe_of(subject.open()), works_served(subject)) if found else ("", {})
    for record in found:
        if record.made_of != recipe:
            where, hint = subject.store.locate(record.key), "Remove it, or serve the model that it belongs to."
            expected = f"recipe {recipe[:12]} of the model served"
            raise ModelError(where, expected=expected, found=record.made_of[:12], hint=hint)
    mine = [record for record in found if not _strange(trained_on(subject.store, record), works)]
    if len(mine) < len(found):
        others = len(found) - len(mine)
        log.warning("counterfactual models: %d of %d are of another corpus and do not count", others, len(found))
    return {record.name: record.folder for record in mine}


def train_set(subject: Subject, trainings: int, settings: Settings) -> dict[str, str]:
    """Train a set that is worth so many trainings, as far as it is not there; digest of each model's folder by name."""
    wanted = planned(subject, trainings)
    train(subject, wanted, settings)
    names = {each.name for each in wanted}
    return {record.name: record.folder for record in records(subject.store, subject.model) if record.name in names}


def copy_set(source: Store, target: Store, served: str) -> list[Record]:
    """Copy the counterfactual models of a model from one store to another; what is there is left as it is."""
    found = records(source, served)
    for record in found:
        for name, expected in record.files.items():
            key = f"frozen/models/{record.folder}/{name}"
            if not target.exists(key):
                data = source.read(key)
                if sha256(data) != expected:
                    raise ModelError(source.locate(key), expected=f"SHA-256 {expected}, as its record says", found=sha256(data))
                target.write(key, data)
        target.create(record.key, canonical_json(record.model_dump()))
    return found


def subject_of(settings: Settings, corpus: Path, model: Path, day: date, *, copies: bool) -> Subject:
    """A model folder and a corpus folder, checked and frozen in the store of the settings.

    Args:
        copies: whether copies of one another go together.
    """
    store = settings.store.open()
    frozen = freeze_folder(store, corpus, settings.corpus.shard_examples)
    served = read_model(model)
    frozen = with_duplicates(store, frozen) if copies else frozen
    return Subject(store, freeze_model(store, served), served.files, frozen, day, settings.model.cache)


def freeze_folder(store: Store, corpus: Path, shard_examples: int) -> FrozenCorpus:
    """A corpus folder, checked and frozen in a store."""
    if not corpus.is_dir():
        raise ContractError(str(corpus), expected="a corpus folder with examples.parquet", found="no such folder")
    read = read_corpus(Store(f"file://{corpus.resolve().parent}", {}), corpus.resolve().name)
    return freeze_corpus(store, read, shard_examples=shard_examples)


def with_duplicates(store: Store, frozen: FrozenCorpus) -> FrozenCorpus:
    """The same corpus with copies looked for."""
    columns = ("example_id", "work_id", "content", "content_sha256", "modality", "acquired_at")
    examples = read_examples(store, frozen, *columns)
    duplicates = find_duplicates(since(examples, store.read_table(frozen.claims.key)))
    found = replace(frozen, duplicates=freeze_part(store, duplicates))
    store.create(corpus_key(found.digest), canonical_json(found.manifest))
    return found


def subject_in_force() -> tuple[Subject, Settings]:
    """The model and the corpus that nights take now."""
    settings = load()
    store = settings.store.open()
    corpus, model = corpus_in_force(store), read_model(settings.model.folder)
    day = datetime.now(UTC).date()
    return Subject(store, freeze_model(store, model), model.files, corpus, day, settings.model.cache), settings


def plan_missing() -> list[list[str]]:
    """What the DAG trains: names of trainings that are missing, in groups of about the same work."""
    subject, settings = subject_in_force()
    lacking = missing(subject, planned(subject, settings.counterfactuals.trainings))
    groups = settings.counterfactuals.groups
    return [[each.name for each in lacking[start::groups]] for start in range(min(groups, len(lacking)))]


def train_named(names: Sequence[str]) -> int:
    """Train some of the planned trainings, by name; returns how many were not there yet."""
    subject, settings = subject_in_force()
    return train(subject, planned(subject, settings.counterfactuals.trainings), settings, set(names))


def summary(store: Store, served: str) -> list[dict[str, Any]]:
    """One row for each counterfactual model of a model: what `provenance counterfactuals list` shows."""
    rows = []
    for record in sorted(records(store, served), key=lambda each: (each.partition, each.name)):
        works = trained_on(store, record).works
        said = {name: getattr(record, name) for name in ("name", *PLANNED)}
        counts = {"works": len(works), "examples": sum(map(len, works.values()))}
        rows.append({**said, **counts, "folder": f"frozen/models/{record.folder}"})
    return rows
