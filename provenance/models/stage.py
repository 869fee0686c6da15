"""Stages of the DAG `train_counterfactuals`: lists the missing trainings in groups, and trains a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from provenance.core.where import SerialWorkers, Where
from provenance.corpus.shards import corpus_in_force
from provenance.models.counterfactual_training import missing_trainings, plan_trainings, train
from provenance.models.frozen import freeze_model
from provenance.models.model import read_model
from provenance.models.subject import Subject


def subject_in_force(where: Where) -> Subject:
    """The model and the corpus that nights use now."""
    store, settings = where.store, where.settings.model
    corpus, model = corpus_in_force(store), read_model(settings.folder)
    return Subject(store, freeze_model(store, model), model.files, corpus, datetime.now(UTC).date(), settings.cache)


def plan_missing(where: Where) -> list[list[str]]:
    """Names of the missing trainings, in groups of about the same work."""
    subject, settings = subject_in_force(where), where.settings.counterfactuals
    names = [training.name for training in missing_trainings(subject, plan_trainings(subject, settings.trainings))]
    return [names[start :: settings.groups] for start in range(min(settings.groups, len(names)))]


def train_named(where: Where, names: Sequence[str]) -> int:
    """Compute some of the planned trainings, by name; returns how many the store lacked."""
    if where.settings.counterfactuals.in_task:
        workers = SerialWorkers(where.settings.cluster.device)
        where = replace(where, open_workers=lambda: workers)
    subject = subject_in_force(where)
    return train(where, subject, plan_trainings(subject, where.settings.counterfactuals.trainings), set(names))
