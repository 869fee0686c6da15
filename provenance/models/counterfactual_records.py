"""Reads and copies the records of counterfactual models in the store.

counterfactuals/<model served>/<name>.json      one training: its place in the plan, and the folder of the trained model
                               <name>.parquet   the examples of its manifest as a table: JSON of many works is slow to read
frozen/models/<digest>/                         that folder, with the manifest of the works that it was trained on
"""

from __future__ import annotations

from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from provenance.core.errors import ModelError, StoreError
from provenance.core.store import Store, canonical_json, digest, sha256
from provenance.core.toml import validated
from provenance.corpus.rights.manifest import Manifest, read_manifest
from provenance.models.stored import stored_keys
from provenance.models.writing import MANIFEST

# Fields that a record takes from the plan (`partition_plan.Part`).
PLAN_FIELDS = ("stratum", "partition", "aside", "seed")


class Record(BaseModel):
    """A counterfactual model in the store.

    Attributes:
        served: digest of the served model.
        folder: digest of its own frozen folder; files: SHA-256 by name; checkpoint: the file of its last one.
        made_of: digest of its recipe: adapter, arguments, other files, and the settings of the training run.
        stratum, partition, aside, seed: as planned (`partition_plan.Part`).
        checked: whether a check has confirmed the works that it was trained on; before that it does not count.
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
        """The record's key in the store."""
        return f"counterfactuals/{self.served}/{self.name}.json"

    @property
    def listed(self) -> str:
        """The key of the table with the examples that its manifest lists."""
        return self.key.replace(".json", ".parquet")


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
    """All counterfactual models of a served model, sorted by name.

    Args:
        unchecked: include those that have not been checked yet.
    """
    stored = [_read_record(store, key) for key in store.list(f"counterfactuals/{served}") if key.endswith(".json")]
    return sorted((record for record in stored if record.checked or unchecked), key=lambda record: record.name)


def trained_on(store: Store, record: Record) -> Manifest:
    """The works of a counterfactual model, from the manifest in its folder."""
    key = f"frozen/models/{record.folder}/{MANIFEST}"
    data = store.read(key)
    if sha256(data) != record.files[MANIFEST]:
        raise ModelError(store.locate(key), expected=f"SHA-256 {record.files[MANIFEST]}", found=sha256(data))
    return read_manifest(data, store.locate(key))


def listed_examples(store: Store, record: Record) -> pl.DataFrame:
    """`work_id, content_sha256, count` of the works of a counterfactual model."""
    if not store.exists(record.listed):  # a model that came with `copy_set`, or was trained by an earlier version
        keep_listed(store, record, trained_on(store, record).counts())
    return store.read_table(record.listed)


def keep_listed(store: Store, record: Record, counts: pl.DataFrame) -> None:
    """Keep what `listed_examples` returns of a model."""
    store.write_table(record.listed, counts)


def copy_set(source: Store, target: Store, served: str) -> list[Record]:
    """Copy the counterfactual models of a served model to another store; existing files stay as they are."""
    copied = records(source, served)
    for record in copied:
        for key, name in stored_keys(record.folder, record.files).items():
            if not target.exists(key):
                data, expected = source.read(key), record.files[name]
                if sha256(data) != expected:
                    raise ModelError(source.locate(key), expected=f"SHA-256 {expected}, as its record says", found=sha256(data))
                target.write(key, data)
        target.create(record.key, canonical_json(record.model_dump()))
    return copied


def summary(store: Store, served: str) -> list[dict[str, Any]]:
    """One row for each counterfactual model of a served model, as `provenance counterfactuals list` shows them."""
    rows = []
    for record in sorted(records(store, served), key=lambda record: (record.partition, record.name)):
        listed = listed_examples(store, record)
        columns = {name: getattr(record, name) for name in ("name", *PLAN_FIELDS)}
        counts = {"works": listed["work_id"].n_unique(), "examples": int(listed["count"].sum())}
        rows.append({**columns, **counts, "folder": f"frozen/models/{record.folder}"})
    return rows
