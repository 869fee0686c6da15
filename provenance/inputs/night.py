"""Reads a night's frozen inputs and the manifests of its stages.

    nights/day=2026-11-20/<digest of the inputs>/inputs.json    the frozen inputs
                                                 plan.json      the feature files that the night needs
                                                 scores.json    influence per party and component, candidates for evidence
                                                 likelihoods.json   log-likelihoods of the outputs under each model
                                                 estimate.json  shares under every rule, evidence, fidelity
                                                 shares.json    shares in parts per billion, by contract
                                                 removed.json   files that housekeeping removed, with day and policy

A night with the same inputs is the same night: its stages find their manifests and do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.errors import ContractError, StoreError
from provenance.core.store import Store, digest, from_parquet, sha256
from provenance.corpus.ownership import with_choices
from provenance.corpus.rights.optouts import NO_CHOICES
from provenance.corpus.shards import FrozenCorpus, Part, load_frozen, read_examples
from provenance.inputs.contracts import Contract, parse_contracts

if TYPE_CHECKING:
    from pathlib import Path

    from provenance.models.subject import Subject

# Increase a number when the meaning of a stage's result changes. Versions are inputs of a night: a day that is run again
# becomes another night, and earlier nights keep their folders and features.
VERSIONS = {"features": 5, "curvature": 11, "scores": 8, "likelihoods": 2, "estimate": 5, "shares": 5}

REMOVED = "removed.json"
OPTIONAL = ("choices", "counterfactuals")
# The table of the works behind shares, by the stage that wrote it (`shares_stage`).
EVIDENCE_OF = {"estimate": "evidence", "values": "works"}


@dataclass(frozen=True)
class Night:
    """The frozen inputs of a night.

    Attributes:
        model: digest of the model folder.
        model_files: SHA-256 by file name.
        checkpoints: files of the checkpoints whose gradients count.
        method: all that decides influence besides the data (`inputs.frozen.influence_method`).
        contract: the contracts in force, under `contracts`; empty for influence without money.
        choices: the choices of owners who opted out, in force on the day; None if nobody has.
        counterfactuals: the counterfactual models: digest of each folder by name.
    """

    day: str
    corpus: str
    outputs: tuple[Part, ...]
    model: str
    model_id: str
    model_files: dict[str, str]
    checkpoints: tuple[str, ...]
    method: dict[str, Any]
    contract: dict[str, Any]
    choices: Part | None = None
    counterfactuals: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of the night's manifests."""
        return f"nights/day={self.day}/{digest(self.inputs)[:32]}"

    @property
    def inputs(self) -> dict[str, Any]:
        """The content of `inputs.json`; omits `choices` and `counterfactuals` when empty, so the digest is unchanged."""
        return {name: value for name, value in asdict(self).items() if value or name not in OPTIONAL}

    @property
    def parts(self) -> list[Part]:
        """The parts of the day's outputs that have rows."""
        return [part for part in self.outputs if part.rows]

    @property
    def date(self) -> date:
        """The day that the night pays for."""
        return date.fromisoformat(self.day)

    def frozen_corpus(self, store: Store) -> FrozenCorpus:
        """The manifest of the night's corpus."""
        return load_frozen(store, self.corpus)

    def read_corpus(self, store: Store, *columns: str) -> pl.DataFrame:
        """Some columns of all examples, in the order of the shards."""
        return read_examples(store, self.frozen_corpus(store), *columns)

    def read_choices(self, store: Store) -> pl.DataFrame:
        """`work_id, owner_id, choice` of each opt-out in force on the day."""
        return store.read_table(self.choices.key) if self.choices else NO_CHOICES

    def read_claims(self, store: Store) -> pl.DataFrame:
        """The claims in force on the day, with the owner's opt-out choice and any dispute."""
        corpus = self.frozen_corpus(store)
        disputes = store.read_table(corpus.disputes.key) if corpus.disputes else None
        return with_choices(store.read_table(corpus.claims.key), self.date, self.read_choices(store), disputes)

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """The contracts that were in force when the night was frozen."""
        return parse_contracts(self.contract.get("contracts", []), f"night of {self.day}")

    @property
    def precision(self) -> str:
        """The type of weights and activations in passes: `float32`, or `bfloat16`."""
        return str(self.method.get("precision", "float32"))

    def output_ids(self, store: Store, part: int) -> pl.Series:
        """The ids of the outputs of a part, in order."""
        return store.read_table(self.outputs[part].key, columns=["output_id"])["output_id"]

    def read_outputs(self, store: Store) -> pl.DataFrame:
        """The day's outputs, sorted by id."""
        return pl.concat([store.read_table(part.key) for part in self.outputs])


def load_night(store: Store, folder: str) -> Night:
    """A night by its folder.

    Raises:
        StoreError: it is missing; a night that was removed is named with day and policy.
    """
    inputs = read_manifest(store, folder, "inputs")
    outputs = tuple(Part(**part) for part in inputs.pop("outputs"))
    checkpoints = tuple(inputs.pop("checkpoints"))
    choices = Part(**inputs.pop("choices")) if inputs.get("choices") else None
    return Night(outputs=outputs, checkpoints=checkpoints, choices=choices, **inputs)


def night_to_compute(store: Store, folder: str) -> Night:
    """A night for a stage to compute.

    Raises:
        ContractError: it was frozen by other versions of the stages, so its folder would mix their results.
    """
    night = load_night(store, folder)
    if night.method["versions"] != VERSIONS:
        raise ContractError(
            f"night of {night.day}: versions of its stages",
            expected=str(VERSIONS),
            found=str(night.method["versions"]),
            hint="Trigger the day again instead of clearing a task: it becomes a night of its own, booked by difference.",
        )
    return night


def subject_of_night(store: Store, night: Night, cache: Path) -> Subject:
    """A night's model and corpus.

    Args:
        cache: the folder of frozen models on this machine.
    """
    from provenance.models.subject import Subject  # here, because it loads torch, which readers of nights do not need

    return Subject(store, night.model, night.model_files, night.frozen_corpus(store), night.date, cache)


def read_manifest(store: Store, folder: str, stage: str) -> dict[str, Any]:
    """The manifest of a stage of a night.

    Raises:
        StoreError: it is missing; a manifest that was removed is named with day and policy.
    """
    try:
        return store.read_json(f"{folder}/{stage}.json")
    except StoreError as error:
        raise removal_error(store, folder, error) from error


def shares_stage(store: Store, folder: str) -> str:
    """The stage that wrote the shares under every rule: `estimate`, or `values` in nights of version 0.1."""
    return "estimate" if store.exists(f"{folder}/estimate.json") or not store.exists(f"{folder}/values.json") else "values"


def removal_error(store: Store, folder: str, error: StoreError) -> StoreError:
    """A reading error of a night's file, or a better one if housekeeping has removed the file."""
    key = f"{folder}/{REMOVED}"
    if error.found != "nothing" or not store.exists(key):
        return error
    last = store.read_json(key)["removed"][-1]
    found = f"nothing: removed by retention on {last['on']} ({last['policy']})"
    hint = "Trigger the day again to compute it; from inputs that are still there, it is the same night."
    return StoreError(error.where, expected=error.expected, found=found, hint=hint)


def read_written(store: Store, folder: str, stage: str, name: str) -> pl.DataFrame:
    """A table that a stage of the night wrote, checked against the stage's manifest."""
    return from_parquet(read_checked(store, folder, stage, name), store.locate(f"{folder}/{name}"))


def part_file(table: str, part: int) -> str:
    """The file of a table for a part of the outputs, so that no file grows with all outputs and parties."""
    return f"{table}/{part:06d}.parquet"


def files_of(writes: Mapping[str, str], table: str) -> list[str]:
    """The files of a table among those that a stage wrote, in the order of the outputs; earlier nights have one file."""
    return sorted(file for file in writes if file == f"{table}.parquet" or file.startswith(f"{table}/"))


def digest_of(writes: Mapping[str, str], table: str) -> str:
    """The digest of a table among those that a stage wrote: that of its only file, or of the digests of its files."""
    files = files_of(writes, table)
    return writes[files[0]] if len(files) == 1 else digest([writes[file] for file in files])


def read_parts(store: Store, folder: str, stage: str, table: str) -> Iterator[pl.DataFrame]:
    """A table that a stage of the night wrote, checked, one part of the outputs after another."""
    for file in files_of(read_manifest(store, folder, stage)["writes"], table):
        yield read_written(store, folder, stage, file)


def read_whole(store: Store, folder: str, stage: str, table: str) -> pl.DataFrame:
    """A table that a stage of the night wrote, checked, with all its parts."""
    return pl.concat(read_parts(store, folder, stage, table))


def read_checked(store: Store, folder: str, stage: str, name: str) -> bytes:
    """The bytes of a file that a stage of the night wrote, checked against the stage's manifest."""
    key, expected = f"{folder}/{name}", read_manifest(store, folder, stage)["writes"][name]
    data = store.read(key)
    if sha256(data) != expected:
        raise StoreError(store.locate(key), expected=f"SHA-256 {expected}, as {stage}.json says", found=sha256(data))
    return data


def with_terms(store: Store, night: Night, outputs: pl.DataFrame) -> pl.DataFrame:
    """The outputs with `developer_ppb`, from the contract of each."""
    terms = {contract.name: contract.developer_ppb for contract in night.contracts}
    names = read_manifest(store, night.folder, shares_stage(store, night.folder))["contracts"]
    parts = [terms[names[output]] for output in outputs["output_id"]]
    return outputs.with_columns(developer_ppb=pl.Series(parts, dtype=pl.Int64))
