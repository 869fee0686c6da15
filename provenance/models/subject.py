"""Holds the subject of counterfactual trainings: the served model and the corpus it was trained on, both frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import polars as pl

from provenance.core.store import Store, canonical_json, digest
from provenance.core.where import Where
from provenance.corpus.delivery import read_corpus_folder
from provenance.corpus.ownership import since, valid_on
from provenance.corpus.rights.manifest import count_examples, read_manifest
from provenance.corpus.shards import FrozenCorpus, corpus_key, freeze_corpus, freeze_part, read_copies, read_examples
from provenance.models.frozen import fetch_model, freeze_model
from provenance.models.model import Model, read_model


@dataclass(frozen=True)
class Subject:
    """The served model and the corpus that it was trained on.

    Attributes:
        model: digest of the model's frozen folder; files: SHA-256 by name.
        day: the day of the claims that decide who owns the examples.
        cache: the folder of frozen models on this machine.
    """

    store: Store
    model: str
    files: dict[str, str]
    corpus: FrozenCorpus
    day: date
    cache: Path

    def open(self) -> Model:
        """The served model, from its folder on this machine."""
        return fetch_model(self.store, self.model, self.files, self.cache)

    def read(self, *columns: str, rows: Sequence[int] | None = None) -> pl.DataFrame:
        """Some columns of the corpus's examples, in the order of its shards.

        Args:
            rows: row numbers of the examples to read; by default all.
        """
        return read_examples(self.store, self.corpus, *columns, rows=rows)


def owner_of_examples(subject: Subject) -> pl.DataFrame:
    """`example_id, work_id, content_sha256, position, tokens, parties, owner` of each example.

    `owner` decides whether an example is in a training: it is the party with the largest part in the example or, of copies, in
    all copies together. `parties` lists all holders, the largest first.
    """
    from provenance.corpus.holdings import find_holders, holdings  # with SciPy, which a night without news does without

    store, corpus = subject.store, subject.corpus
    columns = ("example_id", "work_id", "owner_id", "acquired_at", "content_sha256", "position", "tokens")
    examples = subject.read(*columns)
    claims = valid_on(store.read_table(corpus.claims.key), subject.day)
    clusters = find_holders(examples, claims, subject.day, read_copies(store, corpus), "earliest")
    parts = holdings(examples, claims, subject.day, clusters)
    ranked = parts.sort("example_id", "part", "account", "party_id", descending=[False, True, False, False])
    parties = ranked.group_by("example_id", maintain_order=True).agg(parties=pl.col("account") + "/" + pl.col("party_id"))
    parties = parties.with_columns(owner=pl.col("parties").list.first())
    return examples.drop("owner_id", "acquired_at").join(parties, on="example_id", how="left", maintain_order="left")


def recipe_of(model: Model) -> str:
    """Digest of the recipe: all that decides a training besides works and seed."""
    training = model.card.training
    start = model.files[model.card.checkpoints[0].file] if training.start == "base" else None
    return digest([model.architecture(), training.decisive(), start])


def works_served(subject: Subject) -> pl.DataFrame:
    """`work_id, content_sha256, count`: what the served model was trained on, by its manifest or, without one, the corpus."""
    model = subject.open()
    if model.manifest is not None:
        return read_manifest(model.manifest.read_bytes(), str(model.manifest)).counts()
    return count_examples(subject.read("work_id", "content_sha256"))


def subject_of(where: Where, corpus: Path, model: Path, day: date, *, copies: bool) -> Subject:
    """Check and freeze a model folder and a corpus folder.

    Args:
        copies: find copies, so that copies of an example are always trained on together.
    """
    store, settings = where.store, where.settings
    frozen = freeze_folder(store, corpus, settings.corpus.shard_examples)
    served = read_model(model)
    frozen = with_duplicates(store, frozen) if copies else frozen
    return Subject(store, freeze_model(store, served), served.files, frozen, day, settings.model.cache)


def freeze_folder(store: Store, corpus: Path, shard_examples: int) -> FrozenCorpus:
    """Check and freeze a corpus folder."""
    return freeze_corpus(store, read_corpus_folder(corpus), shard_examples=shard_examples)


def with_duplicates(store: Store, frozen: FrozenCorpus) -> FrozenCorpus:
    """The same corpus with its copies found."""
    from provenance.corpus.duplicates import find_duplicates

    columns = ("example_id", "work_id", "content", "prompt", "content_sha256", "modality", "acquired_at")
    examples = read_examples(store, frozen, *columns)
    duplicates = find_duplicates(since(examples, store.read_table(frozen.claims.key)))
    corpus = replace(frozen, duplicates=freeze_part(store, duplicates))
    store.create(corpus_key(corpus.digest), canonical_json(corpus.manifest))
    return corpus
