"""One night: where its manifests lie, and what it read.

    nights/day=2026-11-20/<digest of the inputs>/inputs.json    what was frozen
                                                 plan.json      which features that takes
                                                 scores.json    influence per party and component, candidates for evidence
                                                 likelihoods.json   which models' log-likelihoods of the outputs it rests on
                                                 estimate.json  shares under every rule, evidence, fidelity
                                                 shares.json    shares in parts per billion, by contract
                                                 removed.json   what housekeeping took away, when, by which policy

A night with the same inputs is the same night: its stages find their manifests and have nothing to do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import polars as pl

from provenance.core.errors import ContractError, StoreError
from provenance.core.store import Store, digest, from_parquet, sha256
from provenance.corpus.examples import with_choices
from provenance.corpus.rights.optouts import NO_CHOICES
from provenance.corpus.shards import FrozenCorpus, Part, load_frozen, read_examples
from provenance.inputs.contracts import Contract, parse_contracts

# Raised when the meaning of a stage's result changes: nights computed before keep their folders and features, and a night
# run again is another night. They stand among a night's inputs.
VERSIONS = {"features": 4, "curvature": 9, "scores": 7, "likelihoods": 1, "estimate": 3, "shares": 4}

REMOVED = "removed.json"
OPTIONAL = ("choices", "counterfactuals")
# The works behind shares, by the stage that wrote them.
EVIDENCE_OF = {"estimate": "evidence.parquet", "values": "works.parquet"}


@dataclass(frozen=True)
class Night:
    """What a night reads, all of it frozen.

    Attributes:
        model: digest of the model folder.
        model_files: SHA-256 by file name.
        checkpoints: files of the checkpoints whose gradients count.
        method: what decides influence besides the data.
        contract: what decides amounts besides influence.
        choices: what owners who opted out chose, in force on the day; None where none have.
        counterfactuals: the models trained on parts of the owners that shares rest on: digest of the folder, by name.
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
        """Where the night's manifests lie."""
        return f"nights/day={self.day}/{digest(self.inputs)[:32]}"

    @property
    def inputs(self) -> dict[str, Any]:
        """What is written down; omits `choices` and `counterfactuals` when empty, so the digest is unchanged."""
        return {name: value for name, value in asdict(self).items() if value or name not in OPTIONAL}

    @property
    def parts(self) -> list[Part]:
        """The parts of the day's outputs that have rows."""
        return [part for part in self.outputs if part.rows]

    @property
    def date(self) -> date:
        """The day paid for."""
        return date.fromisoformat(self.day)

    def frozen_corpus(self, store: Store) -> FrozenCorpus:
        """The manifest of the night's corpus."""
        return load_frozen(store, self.corpus)

    def read_corpus(self, store: Store, *columns: str) -> pl.DataFrame:
        """Some columns of all examples, in the order of the shards."""
        return read_examples(store, self.frozen_corpus(store), *columns)

    def read_choices(self, store: Store) -> pl.DataFrame:
        """`work_id, owner_id, choice` of those who opted out, in force on the day."""
        return store.read_table(self.choices.key) if self.choices else NO_CHOICES

    def read_claims(self, store: Store) -> pl.DataFrame:
        """The claims in force on the day, with what becomes of each owner's part: as it chose, or disputed."""
        corpus = self.frozen_corpus(store)
        disputes = store.read_table(corpus.disputes.key) if corpus.disputes else None
        return with_choices(store.read_table(corpus.claims.key), self.date, self.read_choices(store), disputes)

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """The contracts that were in force when it was frozen."""
        return parse_contracts(self.contract.get("contracts", []), f"night of {self.day}")

    def read_outputs(self, store: Store) -> pl.DataFrame:
        """The day's outputs, sorted by id."""
        return pl.concat([store.read_table(part.key) for part in self.outputs])


def load_night(store: Store, folder: str) -> Night:
    """A night by its folder; StoreError says when it was removed, and by which policy."""
    stored = read_manifest(store, folder, "inputs")
    outputs = tuple(Part(**part) for part in stored.pop("outputs"))
    checkpoints = tuple(stored.pop("checkpoints"))
    choices = Part(**stored.pop("choices")) if stored.get("choices") else None
    return Night(outputs=outputs, checkpoints=checkpoints, choices=choices, **stored)


def night_to_compute(store: Store, folder: str) -> Night:
    """A night to compute something of; ContractError: other versions of the stages froze it, whose files would mix."""
    night = load_night(store, folder)
    if night.method["versions"] != VERSIONS:
        raise ContractError(
            f"night of {night.day}: versions of its stages",
            expected=str(VERSIONS),
            found=str(night.method["versions"]),
            hint="Trigger the day again instead of clearing a task: it becomes a night of its own, booked by difference.",
        )
    return night


def read_manifest(store: Store, folder: str, stage: str) -> dict[str, Any]:
    """What a stage of the night put down; StoreError says when that was removed, and by which policy."""
    try:
        return store.read_json(f"{folder}/{stage}.json")
    except StoreError as error:
        raise absent(store, folder, error) from error


def shares_stage(store: Store, folder: str) -> str:
    """The stage that found shares under every rule: `values` of a night of version 0.1."""
    return "estimate" if store.exists(f"{folder}/estimate.json") or not store.exists(f"{folder}/values.json") else "values"


def absent(store: Store, folder: str, error: StoreError) -> StoreError:
    """The error of reading something of a night, which says so if housekeeping has removed it."""
    key = f"{folder}/{REMOVED}"
    if error.found != "nothing" or not store.exists(key):
        return error
    last = store.read_json(key)["removed"][-1]
    found = f"nothing: removed by retention on {last['on']} ({last['policy']})"
    hint = "Trigger the day again to compute it; from inputs that are still there, it is the same night."
    return StoreError(error.where, expected=error.expected, found=found, hint=hint)


def read_written(store: Store, folder: str, stage: str, name: str) -> pl.DataFrame:
    """A table that a stage of the night wrote, checked to be the one that the stage's manifest names."""
    return from_parquet(read_checked(store, folder, stage, name), store.locate(f"{folder}/{name}"))


def read_checked(store: Store, folder: str, stage: str, name: str) -> bytes:
    """A file that a stage of the night wrote, checked to be the one that the stage's manifest names."""
    key, stated = f"{folder}/{name}", read_manifest(store, folder, stage)["writes"][name]
    data = store.read(key)
    if sha256(data) != stated:
        raise StoreError(store.locate(key), expected=f"SHA-256 {stated}, as {stage}.json says", found=sha256(data))
    return data


def with_terms(store: Store, night: Night, outputs: pl.DataFrame) -> pl.DataFrame:
    """The outputs with `developer_ppb`, as the contract of each says."""
    terms = {contract.name: contract.developer_ppb for contract in night.contracts}
    names = read_manifest(store, night.folder, shares_stage(store, night.folder))["contracts"]
    parts = [terms[names[output]] for output in outputs["output_id"]]
    return outputs.with_columns(developer_ppb=pl.Series(parts, dtype=pl.Int64))
