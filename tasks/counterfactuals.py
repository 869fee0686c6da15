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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.stats import ttest_ind

from provenance.core.errors import ContractError, ModelError
from provenance.core.store import Store, canonical_json, digest, sha256
from provenance.corpus.clearance import Manifest, read_manifest, stated
from provenance.corpus.duplicates import find_duplicates
from provenance.corpus.examples import read_corpus, since, valid_on
from provenance.corpus.holdings import find_holders, holdings
from provenance.corpus.shards import FrozenCorpus, corpus_in_force, corpus_key, freeze_corpus, freeze_part, part_key
from provenance.features.model import all_losses, keep_ends, read_model, state_manifest
from provenance.royalty.counterfactuals import Part, plan
from provenance.royalty.estimate import BOUNDS
from tasks.cluster import compute, open_cluster
from tasks.models import fetch_model, freeze_model
from tasks.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from provenance.features.model import Model
    from tasks.settings import Settings

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
NO_CLUSTERS = {"example_id": pl.String, "cluster_id": pl.String}


@dataclass(frozen=True)
class Record:
    """A counterfactual model as the store keeps it.

    Attributes:
        served: digest of the model that it is a counterfactual of.
        folder: digest of its own frozen folder; files: SHA-256 by name; checkpoint: the file of its last one.
        made_of: digest of what else must be the same: adapter, arguments, other files, and what the run was.
        stratum, partition, aside, seed: as planned (`royalty.counterfactuals.Part`).
    """

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

    @property
    def key(self) -> str:
        """Where it lies in the store."""
        return record_key(self.served, self.name)


@dataclass(frozen=True)
class Subject:
    """A model that is served, frozen, and the corpus that it was trained on."""

    store: Store
    model: str
    files: dict[str, str]
    corpus: FrozenCorpus
    day: date
    cache: str

    def open(self) -> Model:
        """The model folder on this machine."""
        return fetch_model(self.store, self.model, self.files, self.cache)


@dataclass(frozen=True)
class Training:
    """One training that is planned: who is in, and at which places of the corpus its examples stand."""

    name: str
    part: Part
    examples: tuple[int, ...]


def record_key(served: str, name: str) -> str:
    """Where the record of a counterfactual model lies."""
    return f"counterfactuals/{served}/{name}.json"


def read_record(store: Store, served: str, name: str) -> Record:
    """The record of a counterfactual model by its name."""
    return Record(**store.read_json(record_key(served, name)))


def records(store: Store, served: str) -> list[Record]:
    """All counterfactual models of a model, sorted by name."""
    keys = sorted(key for key in store.list(f"counterfactuals/{served}") if key.endswith(".json"))
    return [Record(**store.read_json(key)) for key in keys]


def trained_on(store: Store, record: Record) -> Manifest:
    """What a counterfactual model was trained on, as its folder says."""
    key = f"frozen/models/{record.folder}/{MANIFEST}"
    data = store.read(key)
    if sha256(data) != record.files[MANIFEST]:
        raise ModelError(store.locate(key), expected=f"SHA-256 {record.files[MANIFEST]}", found=sha256(data))
    return read_manifest(data, store.locate(key))


def read_examples(subject: Subject, *columns: str) -> pl.DataFrame:
    """Some columns of all examples of the corpus, in the order of its shards."""
    return pl.concat([subject.store.read_table(part_key(part.sha256), columns=columns) for part in subject.corpus.shards])


def owner_of_examples(subject: Subject) -> pl.DataFrame:
    """`example_id, work_id, content_sha256, position, tokens, owner`: who decides whether an example is in a training.

    That is the party with the largest part in it; of copies, in all of them together.
    """
    store, corpus = subject.store, subject.corpus
    columns = ("example_id", "work_id", "owner_id", "acquired_at", "content_sha256", "position", "tokens")
    examples = read_examples(subject, *columns)
    claims = valid_on(store.read_table(corpus.claims.key), subject.day)
    copies = pl.DataFrame(schema=NO_CLUSTERS) if corpus.duplicates is None else store.read_table(corpus.duplicates.key)
    clusters = find_holders(examples, claims, subject.day, copies, "earliest")
    held = holdings(examples, claims, subject.day, clusters)
    first = held.sort("example_id", "part", "account", "party_id", descending=[False, True, False, False])
    owner = first.group_by("example_id", maintain_order=True).first()
    owner = owner.select("example_id", owner=pl.col("account") + "/" + pl.col("party_id"))
    return examples.drop("owner_id", "acquired_at").join(owner, on="example_id", how="left", maintain_order="left")


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


def missing(subject: Subject, trainings: Sequence[Training]) -> list[Training]:
    """Those that the store lacks, the longest first: what runs beside one another then ends together."""
    there = set(subject.store.list(f"counterfactuals/{subject.model}"))
    lacking = [training for training in trainings if record_key(subject.model, training.name) not in there]
    return sorted({training.name: training for training in lacking}.values(), key=lambda each: -len(each.examples))


def train(subject: Subject, trainings: Sequence[Training], settings: Settings) -> int:
    """Train what the store lacks, on the cluster; returns how many that were. Logs progress and the time left.

    Raises:
        InputError: the model cannot be trained here, or a training has failed: says which, and with what words.
    """
    check_trainable(subject.open())
    lacking = missing(subject, trainings)
    if not lacking:
        log.info("counterfactual models: all %d are there", len(trainings))
        return 0
    examples = owner_of_examples(subject).select("work_id", "example_id", "position", "content_sha256")
    work, whole = sum(len(each.examples) for each in lacking), len(examples)
    log.info("counterfactual models: %d to train, worth %.1f trainings on everything", len(lacking), work / whole)
    started, done = time.monotonic(), 0
    with open_cluster(settings.cluster) as client:
        results = compute(
            client,
            _train_one,
            (subject, examples),
            lacking,
            settings=settings.cluster,
            what="counterfactual models",
            name=lambda each: each.part.name,
        )
        for size in results:
            done += size
            left = (time.monotonic() - started) * (work - done) / done
            log.info("counterfactual models: about %s left", _duration(left))
    if subject.open().card.training.command is not None:
        found = [read_record(subject.store, subject.model, training.name) for training in lacking]
        try:
            check_seen(subject, found)
        except ModelError:
            subject.store.remove_all([record.key for record in found])
            raise
    return len(lacking)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def check_trainable(model: Model) -> None:
    """Raise ModelError where neither the adapter nor the card says how to train the model."""
    if model.card.training.command is None and not callable(getattr(model.adapter(), "train", None)):
        raise ModelError(
            f"adapter {model.card.adapter}",
            expected="a method train(contents, *, seed, folder), or [training] command in model.toml",
            found="neither",
            hint="Or bring models that you have trained: `provenance counterfactuals add`.",
        )


def _train_one(where: tuple[Subject, pl.DataFrame], training: Training) -> int:
    """Train one model, freeze its folder and write its record; returns how many examples it saw."""
    subject, examples = where
    model = subject.open()
    rows = list(training.examples)
    works = examples[rows].with_columns(content=read_examples(subject, "content")["content"][rows])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        train_model(model, works, seed=training.part.seed, folder=folder)
        keep_ends(folder)
        for name in model.other_files():  # a tokenizer, say, that the training had no need to write
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model.folder / name, folder / name)
        state_manifest(folder, stated(works, {"seed": training.part.seed}).as_bytes(), MANIFEST)
        _register(subject, read_model(folder), training.name, training.part)
    return len(rows)


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
        except (LookupError, ValueError):
            expected = f"words with no more in braces than {', '.join(said)}; a brace itself is two"
            raise ModelError(where, expected=expected, found=repr(word)) from None
    try:
        done = subprocess.run(words, cwd=model.folder, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ModelError(where, expected="a command that can be run", found=f"{words[0]}: {error}") from error
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).splitlines()[-TOLD:])
        raise ModelError(where, expected="exit code 0", found=f"{done.returncode}; its last lines are: {last}")


def _register(subject: Subject, trained: Model, name: str, part: Part) -> Record:
    """Freeze a model folder and write its record, once."""
    check_alike(subject.open(), trained)
    record = Record(
        served=subject.model,
        name=name,
        folder=freeze_model(subject.store, trained),
        files=trained.files,
        checkpoint=trained.card.checkpoints[-1].file,
        made_of=recipe_of(subject.open()),
        stratum=part.stratum,
        partition=part.partition,
        aside=part.aside,
        seed=part.seed,
    )
    subject.store.create(record.key, canonical_json(asdict(record)))
    return record


def check_alike(served: Model, trained: Model) -> None:
    """Raise ModelError where a counterfactual model is of another architecture or recipe than the model served."""
    where = str(trained.folder / "model.toml")
    if trained.card.adapter != served.card.adapter:
        raise ModelError(
            f"{where}: key 'adapter'", expected=f"{served.card.adapter!r}, as served", found=repr(trained.card.adapter)
        )
    theirs, ours = trained.card.adapter_args, served.card.adapter_args
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            expected = f"{ours.get(key)!r}, as the model served has"
            raise ModelError(f"{where}: adapter_args.{key}", expected=expected, found=repr(theirs.get(key)))
    if trained.architecture() != served.architecture():
        names = {name for model in (trained, served) for name in model.other_files()}
        differing = [name for name in sorted(names) if trained.files.get(name) != served.files.get(name)]
        found = f"other {', '.join(differing) or 'code of the adapter'}"
        raise ModelError(where, expected="the architecture of the model served", found=found)
    for key in ("optimizer", "betas", "eps", "weight_decay", "batch_size", "epochs"):
        there, here = getattr(trained.card.training, key), getattr(served.card.training, key)
        if here is not None and there != here:
            raise ModelError(f"{where}: training.{key}", expected=f"{here!r}, as served", found=repr(there))


def check_works(manifest: Manifest, works: dict[str, Counter[str]], where: str) -> None:
    """Raise ModelError where a manifest names something that the model served was not trained on."""
    for work, digests in sorted(manifest.works.items()):
        more = Counter(digests) - works.get(work, Counter())
        if more:
            found = f"work {work!r}: {more.total()} of its {len(digests)} examples are not there"
            hint = "It was trained on another corpus: train counterfactual models for this one."
            raise ModelError(where, expected="works that the model served was trained on", found=found, hint=hint)


def works_served(subject: Subject) -> dict[str, Counter[str]]:
    """By work, the digests of what the model served was trained on: as its manifest says, or else the corpus."""
    model = subject.open()
    if model.manifest is not None:
        manifest = read_manifest(model.manifest.read_bytes(), str(model.manifest))
        return {work: Counter(digests) for work, digests in manifest.works.items()}
    found: dict[str, Counter[str]] = {}
    for work, content in read_examples(subject, "work_id", "content_sha256").iter_rows():
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
    there = {record.name: record.partition for record in records(subject.store, subject.model)}
    for folder in sorted(folders):
        trained = read_model(folder)
        if trained.card.training.manifest != MANIFEST:
            where, found = f"{folder / 'model.toml'}: training.manifest", repr(trained.card.training.manifest)
            raise ModelError(where, expected=f"'{MANIFEST}', a file with the works that it was trained on", found=found)
        where = str(folder / MANIFEST)
        manifest = read_manifest((folder / MANIFEST).read_bytes(), where)
        check_alike(served, trained)
        check_works(manifest, works, where)
        models.append(trained)
    made, following = [], max([BROUGHT_FROM - 1, *there.values()]) + 1
    for number, trained in enumerate(models, following):  # once all are checked, so that either all are recorded or none
        name = digest({"version": VERSION, "brought": trained.files})[:32]
        part = Part(trained.folder.name, BROUGHT, there.get(name, number), (), False, 0)
        made.append(_register(subject, trained, name, part))
    try:
        check_seen(subject, made)
    except ModelError:
        subject.store.remove_all([record.key for record in made if record.name not in there])
        raise
    return made


def check_seen(subject: Subject, asked: Sequence[Record]) -> None:
    """Hold what models know against what their manifests say that they saw.

    Of some examples of the corpus the losses are compared with the mean under models that saw about as much: a model knows what
    it was trained on better than it knows the rest.

    Raises:
        ModelError: a model does not, or there is no other model to compare it with.
    """
    examples = read_examples(subject, "work_id", "content_sha256", "content").sort("content_sha256").head(ASKED)
    contents = examples["content"].to_list()
    keys = list(examples.select("work_id", "content_sha256").iter_rows())
    everyone = records(subject.store, subject.model)
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
            expected = "another model of the set that saw about as much, and examples in and out, to compare it with"
            raise ModelError(where, expected=expected, found=f"{saw[at].mean():.0%} of the examples in, {others.sum()} others")
        more = losses[at] - losses[others].mean(axis=0)
        sure = float(ttest_ind(more[~saw[at]], more[saw[at]], equal_var=False).statistic)
        if not sure > SURE:
            found = f"one that knows the rest of the corpus as well (t = {sure:.1f}, at least {SURE:.0f} is asked for)"
            raise ModelError(where, expected="a model that was trained on the works listed", found=found)


def usable(subject: Subject, found: Sequence[Record]) -> Iterator[tuple[Record, Manifest]]:
    """Records with their manifests, each held against the model served: its recipe, and the works that it was trained on."""
    recipe, works = recipe_of(subject.open()), works_served(subject)
    for record in found:
        where = subject.store.locate(record.key)
        if record.made_of != recipe:
            hint = "Remove it, or serve the model that it belongs to."
            raise ModelError(where, expected=f"recipe {recipe[:12]} of the model served", found=record.made_of[:12], hint=hint)
        manifest = trained_on(subject.store, record)
        check_works(manifest, works, where)
        yield record, manifest


def trainings_there(store: Store, served: str, trainings: Sequence[Training]) -> tuple[int, int]:
    """How many of the planned trainings are there, and how many there are."""
    there = {record.name for record in records(store, served)}
    return sum(each.name in there for each in trainings), len(trainings)


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
        target.create(record.key, canonical_json(asdict(record)))
    return found


def subject_of(settings: Settings, corpus: Path, model: Path, day: date, *, copies: bool) -> Subject:
    """A model folder and a corpus folder, checked and frozen in the store of the settings.

    Args:
        copies: whether copies of one another go together.
    """
    store = settings.store.open()
    if not corpus.is_dir():
        raise ContractError(str(corpus), expected="a corpus folder with examples.parquet", found="no such folder")
    read = read_corpus(Store(f"file://{corpus.resolve().parent}", {}), corpus.resolve().name)
    served = read_model(model)
    frozen = freeze_corpus(store, read, shard_examples=settings.corpus.shard_examples)
    frozen = with_duplicates(store, frozen) if copies else frozen
    return Subject(store, freeze_model(store, served), served.files, frozen, day, settings.model.cache)


def with_duplicates(store: Store, frozen: FrozenCorpus) -> FrozenCorpus:
    """The same corpus with copies looked for."""
    columns = ("example_id", "work_id", "content", "content_sha256", "modality", "acquired_at")
    examples = pl.concat([store.read_table(part.key, columns=columns) for part in frozen.shards])
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
    wanted = set(names)
    return train(
        subject, [each for each in planned(subject, settings.counterfactuals.trainings) if each.name in wanted], settings
    )


def summary(store: Store, served: str) -> list[dict[str, Any]]:
    """One row for each counterfactual model of a model: what `provenance counterfactuals list` shows."""
    rows = []
    for record in records(store, served):
        manifest = trained_on(store, record)
        rows.append(
            {
                "name": record.name,
                "stratum": record.stratum,
                "partition": record.partition,
                "aside": record.aside,
                "seed": record.seed,
                "works": len(manifest.works),
                "examples": sum(map(len, manifest.works.values())),
                "folder": f"frozen/models/{record.folder}",
            }
        )
    return sorted(rows, key=lambda row: (row["partition"], row["name"]))
