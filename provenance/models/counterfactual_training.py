"""Plans counterfactual models and trains each once on the workers, or adds models that were trained elsewhere.

A training's name is the digest of all that decides it: recipe, works and seed. After a kill at any moment, the same command
trains what is missing and ends with the same set.
"""

from __future__ import annotations

import logging
import tempfile
import time
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from provenance.core.errors import ContractError, ModelError
from provenance.core.store import canonical_json, digest
from provenance.core.where import Where
from provenance.corpus.delivery import identities
from provenance.corpus.rights.manifest import count_examples, manifest_of, read_manifest
from provenance.models.counterfactual_checks import check_new, check_same_recipe, check_works
from provenance.models.counterfactual_records import PLAN_FIELDS, Record, keep_listed, read_record, records
from provenance.models.frozen import freeze_model
from provenance.models.model import Model, keep_ends, read_model
from provenance.models.partition_plan import Part, plan
from provenance.models.subject import Subject, owner_of_examples, recipe_of, works_served
from provenance.models.trainer import check_trainable, train_model
from provenance.models.training_manifest import state_manifest
from provenance.models.writing import MANIFEST

log = logging.getLogger("provenance.counterfactuals")

# Increase it when a built-in adapter trains differently: earlier trainings then no longer belong to the set.
VERSION = 2
# The stratum of models that were trained elsewhere, and the first number of their partitions, above all planned ones.
BROUGHT, FIRST_BROUGHT = "brought", 1_000_000
# Columns of the examples that a training receives.
EXAMPLE_COLUMNS = ("work_id", "example_id", "position", "content_sha256", "content", "prompt")


@dataclass(frozen=True)
class Training:
    """One planned training: its part of the owners, and the row numbers of its examples in the corpus, ascending."""

    name: str
    part: Part
    examples: array[int]


def plan_trainings(subject: Subject, trainings: int) -> list[Training]:
    """The trainings of a set that costs as much as `trainings` trainings on the whole corpus."""
    examples = owner_of_examples(subject)
    weights = dict(examples.group_by("owner").agg(pl.col("tokens").sum()).iter_rows())
    if len(weights) < 2:
        found = f"{len(weights)} owner"
        raise ContractError("counterfactual models", expected="works of at least 2 owners, to leave some out", found=found)
    recipe = recipe_of(subject.open())
    contents = pl.Series(identities(subject.read("content_sha256", "prompt")), dtype=pl.String)
    planned = []
    for part in plan(weights, trainings):
        rows = examples["owner"].is_in(list(part.parties)).arg_true()
        name = digest({"version": VERSION, "recipe": recipe, "examples": contents[rows].to_list(), "seed": part.seed})
        planned.append(Training(name[:32], part, array("I", rows.to_numpy().tobytes())))
    return planned


def missing_trainings(subject: Subject, trainings: Sequence[Training], *, unchecked: bool = False) -> list[Training]:
    """The trainings that the store lacks, the one with most examples first.

    Args:
        unchecked: whether a trained model that has not been checked yet is enough.
    """
    stored = {record.name for record in records(subject.store, subject.model, unchecked=unchecked)}
    lacking = {training.name: training for training in trainings if training.name not in stored}
    return sorted(lacking.values(), key=lambda training: -len(training.examples))


def train(where: Where, subject: Subject, trainings: Sequence[Training], only: Collection[str] | None = None) -> int:
    """Train the missing models of a set on the workers; returns how many. Logs progress and the time left.

    Models that a command trained count once the whole set is trained and checked.

    Args:
        only: names of the trainings to compute here; by default all.

    Raises:
        InputError: the model cannot be trained here, or a training failed, with the trainer's message.
    """
    check_trainable(subject.open())
    missing = missing_trainings(subject, trainings, unchecked=True)
    lacking = [training for training in missing if only is None or training.name in only]
    if lacking:
        work = sum(len(training.examples) for training in lacking) / subject.corpus.examples
        log.info("counterfactual models: %d to train, worth %.1f trainings on everything", len(lacking), work)
        what = "counterfactual models"
        shared = subject, where.workers.device
        compute_trainings(where, _train_one, shared, lacking, what=what, name=lambda training: training.part.name)
    names = {training.name for training in trainings}
    trained = [record for record in records(subject.store, subject.model, unchecked=True) if record.name in names]
    if len(trained) == len(names):
        log.info("counterfactual models: all %d are there", len(names))
        check_new(subject, trained)
    return len(lacking)


def train_set(where: Where, subject: Subject, trainings: int) -> dict[str, str]:
    """Train the missing models of a set that costs `trainings` trainings; digest of each model's folder by name."""
    planned = plan_trainings(subject, trainings)
    train(where, subject, planned)
    names = {training.name for training in planned}
    return {record.name: record.folder for record in records(subject.store, subject.model) if record.name in names}


def compute_trainings(
    where: Where,
    function: Callable[[Any, Any], object],
    shared: object,
    trainings: Sequence[Any],
    *,
    what: str,
    name: Callable[[Any], str],
) -> None:
    """Compute `function(shared, training)` on the workers; logs progress and the time left.

    Those with most examples start first, so that parallel trainings end at about the same time.

    Args:
        trainings: each with an attribute `examples`, which it trains on.
    """
    ordered = sorted(trainings, key=lambda training: -len(training.examples))
    work, done, started = sum(len(training.examples) for training in ordered), 0, time.monotonic()
    results = where.workers.map(function, shared, ordered, what=what, name=name)
    for training, _ in zip(ordered, results, strict=True):
        done += len(training.examples)
        if done:
            left = (time.monotonic() - started) * (work - done) / done
            log.info("%s: about %s left", what, timedelta(seconds=round(left)))


def _train_one(shared: tuple[Subject, str], training: Training) -> None:
    """Train one model, freeze its folder and write its record."""
    subject, device = shared
    model = subject.open()
    works = subject.read(*EXAMPLE_COLUMNS, rows=training.examples)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        train_model(model, works, seed=training.part.seed, folder=folder, device=device, ends_only=True)
        keep_ends(folder)
        state_manifest(folder, manifest_of(works, {"seed": training.part.seed}).as_bytes())
        # An adapter trains on the works that it receives; a command may do anything.
        checked = model.card.training.command is None
        trained = read_model(folder, base=model.base)
        record = _register(subject, trained, training.name, training.part, checked=checked)
        keep_listed(subject.store, record, count_examples(works))


def _register(subject: Subject, trained: Model, name: str, part: Part, *, checked: bool) -> Record:
    """Freeze a model folder and create its record; returns the record in the store, which may be an earlier one."""
    check_same_recipe(subject.open(), trained)
    record = Record(
        served=subject.model,
        name=name,
        folder=freeze_model(subject.store, trained),
        files=trained.files,
        checkpoint=trained.card.checkpoints[-1].file,
        made_of=recipe_of(subject.open()),
        checked=checked,
        **{field: getattr(part, field) for field in PLAN_FIELDS},
    )
    subject.store.create(record.key, canonical_json(record.model_dump()))
    return read_record(subject.store, subject.model, name)


def add(subject: Subject, folders: Sequence[Path]) -> list[Record]:
    """Check, freeze and record models that were trained elsewhere.

    Args:
        folders: model folders, each with the manifest of its works (`[training] manifest`).

    Raises:
        ModelError: a folder has no manifest, or another corpus, recipe or architecture.
    """
    works, served, models = works_served(subject), subject.open(), []
    stored = records(subject.store, subject.model, unchecked=True)
    partitions = {record.name: record.partition for record in stored}
    weights = {record.files[record.checkpoint]: record.name for record in stored}
    for folder in sorted(folders):
        trained = read_model(folder)
        if trained.card.training.manifest != MANIFEST:
            where, found = f"{folder / 'model.toml'}: training.manifest", repr(trained.card.training.manifest)
            raise ModelError(where, expected=f"'{MANIFEST}', a file with the works that it was trained on", found=found)
        where = str(folder / MANIFEST)
        check_same_recipe(served, trained)
        check_works(read_manifest((folder / MANIFEST).read_bytes(), where).counts(), works, where)
        name = digest({"version": VERSION, "brought": trained.files})[:32]
        same = weights.setdefault(trained.files[trained.card.checkpoints[-1].file], name)
        if same != name:  # a second copy would predict the first one perfectly
            found = f"the weights of {same[:12]}"
            raise ModelError(str(folder), expected="a model that the set does not have yet", found=found)
        models.append((name, trained))
    # Only now, when all are checked: all are recorded or none.
    added, first = [], max([FIRST_BROUGHT - 1, *partitions.values()]) + 1
    for number, (name, trained) in enumerate(models, first):
        part = Part(trained.folder.name, BROUGHT, partitions.get(name, number), (), False, 0)
        added.append(_register(subject, trained, name, part, checked=False))
    check_new(subject, added)
    return [record.model_copy(update={"checked": True}) for record in added]
