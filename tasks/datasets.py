"""What each stage reads and writes: one table, from which lineage is told.

A dataset's name is where its objects lie in the store, without the folders of a day, a night or a revision:
`nights/shares.parquet` is one dataset, and every night writes a version of it. A version is a digest, where there is a
manifest the one that it names; where the version lies stands beside it. What imports much is imported where it is asked
for, since every task asks for something here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from provenance.core.contracts import (
    ASSERTIONS,
    CLAIMS,
    CLOSING,
    CREDITS,
    DISPUTES,
    ESCROW_AGES,
    EVIDENCE,
    EXAMPLES,
    INTERVALS,
    NIGHT_SHARES,
    OPTOUTS,
    OUTPUTS,
    OWNERS,
    PARTY_INFLUENCE,
    PAYMENTS,
    PAYOUTS,
    RULE_SHARES,
    SHARES,
    SIGNALS,
    SOURCES,
    Contract,
)
from provenance.core.store import Store, digest, sha256
from provenance.corpus import records
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force, corpus_key, load_frozen
from provenance.settlement.periods import bank_folder, closing_folder, payments_folder, statements_folder
from provenance.validation import results
from tasks.night import Night, load_night, read_manifest
from tasks.settings import Settings


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset.

    Attributes:
        key: where the version lies in the store, a file or a folder.
        version: a digest; empty where nothing says which one it was.
        namespace: empty for the store's own.
        corpus: whose owners and licences are worth telling.
    """

    name: str
    key: str = ""
    version: str = ""
    contract: Contract | None = None
    namespace: str = ""
    corpus: FrozenCorpus | None = None


@dataclass(frozen=True)
class Done:
    """A stage that is done.

    Attributes:
        arguments: what Airflow handed it, by name.
        result: what it returned.
    """

    settings: Settings
    store: Store
    arguments: Mapping[str, Any]
    result: Any

    @cached_property
    def folder(self) -> str:
        """The folder of the night in hand: handed over or just frozen, or the one behind what was published or audited."""
        if "night" in self.arguments:
            return str(self.arguments["night"])
        if str(self.result).startswith("exports/"):
            return str(self.exported["night"])
        if str(self.result).startswith("audits/"):
            return str((results.in_force(self.store) or {})["night"])
        return str(self.result)

    @cached_property
    def night(self) -> Night:
        """The night in hand."""
        return load_night(self.store, self.folder)

    def said(self, stage: str) -> dict[str, Any]:
        """What a stage of the night put down."""
        return read_manifest(self.store, self.folder, stage)

    @cached_property
    def exported(self) -> dict[str, Any]:
        """The manifest of the export that the stage returned."""
        from provenance.settlement.exports import MANIFEST

        return self.store.read_json(f"{self.result}/{MANIFEST}")

    @cached_property
    def period(self) -> str:
        """The period in hand."""
        if "period" in self.arguments:
            return str(self.arguments["period"])
        return str(self.result["period"] if isinstance(self.result, dict) else self.result)

    def of(self, *names: str) -> list[Dataset]:
        """Datasets by their names in the table."""
        return [dataset for name in names for dataset in DATASETS[name](self)]


def flow(stage: str, done: Done) -> tuple[list[Dataset], list[Dataset]]:
    """What a stage has read, and what it has written."""
    reads, writes = STAGES[stage]
    return done.of(*reads), done.of(*writes)


def _delivered(*contracts: Contract) -> Callable[[Done], Iterable[Dataset]]:
    """Files of a delivery, as far as they are there."""

    def found(done: Done) -> Iterable[Dataset]:
        for contract in contracts:
            key = f"{done.settings.corpus.folder}/{contract.name}.parquet"
            if done.store.exists(key):
                yield Dataset(key, key, contract=contract)

    return found


def _records(contract: Contract) -> Callable[[Done], Iterable[Dataset]]:
    key = f"{records.ROOT}/{contract.name}"

    def found(done: Done) -> Iterable[Dataset]:
        added = done.store.list(key)
        return [Dataset(key, key, digest(added), contract)] if added else []

    return found


def _in_force(done: Done) -> Iterable[Dataset]:
    corpus = corpus_in_force(done.store)
    return [Dataset("frozen/corpus", CURRENT, corpus.digest, EXAMPLES, corpus=corpus)]


def _frozen(store: Store, name: str) -> Dataset:
    return Dataset("frozen/corpus", corpus_key(name), name, EXAMPLES, corpus=load_frozen(store, name))


def _file(name: str) -> Callable[[Done], Iterable[Dataset]]:
    """A file of the night, in the version that lies there."""

    def found(done: Done) -> Iterable[Dataset]:
        key = f"{done.folder}/{name}"
        return [Dataset(f"nights/{name}", key, sha256(done.store.read(key)))]

    return found


def _features(done: Done) -> Iterable[Dataset]:
    from tasks.shard import load_plan

    plan = load_plan(done.store, done.folder)
    return [Dataset("features", "features", digest(sorted(file.key for file in plan.corpus + plan.outputs)))]


def _curvature(done: Done) -> Iterable[Dataset]:
    from tasks.curvature import fitted_key
    from tasks.shard import load_plan

    plan = load_plan(done.store, done.folder)
    keys = sorted(fitted_key(done.night, plan, source) for source in plan.sources)
    return [Dataset("curvature", "curvature", digest(keys))]


def _counterfactuals(done: Done) -> Iterable[Dataset]:
    """The counterfactual models that a night rests on; none where it has none."""
    found = done.night.counterfactuals
    return [Dataset("counterfactuals", f"counterfactuals/{done.night.model}", digest(found))] if found else []


def _trained(done: Done) -> Iterable[Dataset]:
    """The counterfactual models of the model in use; none where none is trained yet."""
    from provenance.features.model import read_model
    from tasks.counterfactuals import records as trained

    served = digest(read_model(done.settings.model.folder).files)
    found = {record.name: record.folder for record in trained(done.store, served)}
    return [Dataset("counterfactuals", f"counterfactuals/{served}", digest(found))] if found else []


def _written(stage: str, file: str, contract: Contract | None = None) -> Callable[[Done], Iterable[Dataset]]:
    """A table that a stage of the night wrote, in the version that its manifest names."""

    def found(done: Done) -> Iterable[Dataset]:
        version = done.said(stage)["writes"].get(file)
        return [Dataset(f"nights/{file}", f"{done.folder}/{file}", version, contract)] if version else []

    return found


def _ledger(done: Done) -> Iterable[Dataset]:
    """The ledger; what is published says up to which booking."""
    url = sa.make_url(done.settings.database.url or "postgresql://localhost/provenance")
    version = str(done.exported["booking_id"]) if str(done.result).startswith("exports/payouts/") else ""
    namespace = f"postgres://{url.host or 'localhost'}:{url.port or 5432}"
    return [Dataset(f"{url.database}.public.entry", version=version, namespace=namespace)]


def _payouts(done: Done) -> Iterable[Dataset]:
    for name, contract in (("payouts", PAYOUTS), ("credits", CREDITS), ("intervals", INTERVALS)):
        for file in (f"{name}.parquet", f"{name}.csv"):
            if file in done.exported["files"]:
                version = done.exported["files"][file]["sha256"]
                yield Dataset(f"exports/payouts/{file}", f"{done.result}/{file}", version, contract)


def _published(name: str, folder: Callable[[str], str], files: Mapping[str, Contract]) -> Callable[[Done], Iterable[Dataset]]:
    """Files of a period; without any, all that its manifest names. There is no folder where nothing was to be paid."""

    def found(done: Done) -> Iterable[Dataset]:
        from provenance.settlement.exports import MANIFEST

        key = f"{folder(done.period)}/{MANIFEST}"
        if not done.store.exists(key):
            return
        if not files:
            yield Dataset(name, folder(done.period), sha256(done.store.read(key)))
            return
        stated = done.store.read_json(key)["files"]
        for file, contract in files.items():
            yield Dataset(f"{name}/{file}", f"{folder(done.period)}/{file}", stated[file]["sha256"], contract)

    return found


DATASETS: dict[str, Callable[[Done], Iterable[Dataset]]] = {
    "listed": _delivered(SOURCES),
    "sources": _records(SOURCES),
    "delivery": _delivered(EXAMPLES, CLAIMS, OWNERS, ASSERTIONS, DISPUTES),
    "ingested": lambda done: [_frozen(done.store, str(done.result))],
    "in_force": _in_force,
    "signals": _records(SIGNALS),
    "optouts": _records(OPTOUTS),
    "manifest": lambda done: [Dataset("rights/manifests", str(done.result), sha256(done.store.read(str(done.result))))],
    "corpus": lambda done: [_frozen(done.store, done.night.corpus)],
    "model": lambda done: [Dataset("frozen/models", f"frozen/models/{done.night.model}", done.night.model)],
    "outputs": lambda done: [
        Dataset("outputs", f"outputs/day={done.night.day}", digest([part.sha256 for part in done.night.outputs]), OUTPUTS)
    ],
    "inputs": _file("inputs.json"),
    "plan": _file("plan.json"),
    "features": _features,
    "curvature": _curvature,
    "influence": lambda done: [Dataset("nights/influence", f"{done.folder}/influence", digest(done.said("scores")["writes"]))],
    "counterfactuals": _counterfactuals,
    "trained": _trained,
    "likelihoods": lambda done: [Dataset("likelihoods", "likelihoods", digest(done.said("likelihoods")["files"]))],
    "party_influence": _written("estimate", "party_influence.parquet", PARTY_INFLUENCE),
    "evidence": _written("estimate", "evidence.parquet", EVIDENCE),
    "rule_shares": _written("estimate", "rule_shares.parquet", RULE_SHARES),
    "shares": _written("shares", "shares.parquet", SHARES),
    "night_shares": _written("shares", "night_shares.parquet", NIGHT_SHARES),
    "ledger": _ledger,
    "payouts": _payouts,
    "audit": lambda done: [Dataset("audits", str(done.result), sha256(done.store.read(f"{done.result}/lds.json")))],
    "closing": _published("exports/periods", closing_folder, {"closing.csv": CLOSING, "escrow.csv": ESCROW_AGES}),
    "payments": _published("exports/periods", payments_folder, {"payments.csv": PAYMENTS}),
    "bank": _published("bank", bank_folder, {}),
    "statements": _published("exports/statements", statements_folder, {}),
    "answers": lambda _: [Dataset("bank/answers", "bank/answers")],
}

# By task: what it reads, what it writes. People's approvals are in the ledger once it is booked.
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rights.sources": (("listed",), ("sources",)),
    "corpus.ingest": (("delivery", "sources"), ("ingested",)),
    "rights.signals": (("in_force",), ("signals",)),
    "rights.manifest": (("in_force", "signals", "optouts"), ("manifest",)),
    "counterfactuals.plan": (("in_force",), ()),
    "counterfactuals.train": (("in_force",), ("trained",)),
    "inputs.freeze": (("corpus", "outputs"), ("inputs", "model")),
    "corpus.shard": (("inputs", "corpus", "outputs", "model"), ("plan",)),
    "features.featurise": (("plan", "corpus", "outputs", "model"), ("features",)),
    "influence.fit_curvature": (("plan", "features", "corpus", "model"), ("curvature",)),
    "influence.score": (("plan", "features", "curvature", "corpus"), ("influence",)),
    "royalty.likelihoods": (("inputs", "outputs", "model", "counterfactuals"), ("likelihoods",)),
    "royalty.estimate": (
        ("likelihoods", "influence", "counterfactuals", "corpus", "outputs"),
        ("rule_shares", "party_influence", "evidence"),
    ),
    "royalty.share": (("rule_shares", "outputs"), ("shares", "night_shares")),
    "settlement.review": (("shares", "outputs", "ledger"), ()),
    "settlement.prepare": ((), ()),
    "settlement.approve": ((), ()),
    "settlement.book": (("shares", "outputs"), ("ledger",)),
    "settlement.publish": (("ledger", "shares", "night_shares", "rule_shares", "evidence", "outputs", "corpus"), ("payouts",)),
    "settlement.reconcile": (("payouts", "ledger"), ()),
    "settlement.close": (("ledger",), ("closing", "ledger")),
    "settlement.pay": (("closing", "ledger"), ("payments", "bank", "ledger")),
    "settlement.reconcile_bank": (("bank", "ledger"), ()),
    "settlement.statements": (("ledger", "closing"), ("statements",)),
    "settlement.answers": (("answers",), ("ledger",)),
    "validation.audit": (("corpus", "model", "outputs"), ("audit",)),
    "operations.gc": ((), ()),
}

# Columns that follow from columns alone, by the names of the datasets above.
COLUMNS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "nights/shares.parquet": {"share_ppb": (("nights/rule_shares.parquet", "share"),)},
    "nights/night_shares.parquet": {"share_ppb": (("nights/rule_shares.parquet", "share"), ("outputs", "revenue_minor"))},
    "exports/payouts/credits.parquet": {
        "share_ppb": (("nights/shares.parquet", "share_ppb"),),
        "amount_nanominor": (("nights/shares.parquet", "share_ppb"), ("outputs", "revenue_minor")),
    },
}
