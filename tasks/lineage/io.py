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

from provenance.core import contracts
from provenance.core.store import Store, digest, sha256
from provenance.corpus import records
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force, corpus_key, load_frozen
from provenance.inputs.night import Night, load_night, read_manifest
from provenance.settlement.months.periods import bank_folder, closing_folder, payments_folder, statements_folder
from provenance.validation import results
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
    contract: contracts.Contract | None = None
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
        from provenance.settlement.exports.export import MANIFEST

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


def _delivered(done: Done, *tables: contracts.Contract) -> Iterable[Dataset]:
    """Files of a delivery, as far as they are there."""
    keys = {f"{done.settings.corpus.folder}/{contract.name}.parquet": contract for contract in tables}
    return [Dataset(key, key, contract=contract) for key, contract in keys.items() if done.store.exists(key)]


def _records(done: Done, contract: contracts.Contract) -> Iterable[Dataset]:
    key = f"{records.ROOT}/{contract.name}"
    added = done.store.list(key)
    return [Dataset(key, key, digest(added), contract)] if added else []


def _in_force(done: Done) -> Iterable[Dataset]:
    corpus = corpus_in_force(done.store)
    return [Dataset("frozen/corpus", CURRENT, corpus.digest, contracts.EXAMPLES, corpus=corpus)]


def _frozen(store: Store, name: str) -> Dataset:
    return Dataset("frozen/corpus", corpus_key(name), name, contracts.EXAMPLES, corpus=load_frozen(store, name))


def _file(done: Done, name: str) -> Iterable[Dataset]:
    """A file of the night, in the version that lies there."""
    key = f"{done.folder}/{name}"
    return [Dataset(f"nights/{name}", key, sha256(done.store.read(key)))]


def _features(done: Done) -> Iterable[Dataset]:
    from provenance.features.plan import load_plan

    plan = load_plan(done.store, done.folder)
    return [Dataset("features", "features", digest(sorted(file.key for file in plan.corpus + plan.outputs)))]


def _curvature(done: Done) -> Iterable[Dataset]:
    from provenance.features.plan import load_plan
    from provenance.influence.fit_curvature import fitted_key

    plan = load_plan(done.store, done.folder)
    keys = sorted(fitted_key(done.night, plan, source) for source in plan.sources)
    return [Dataset("curvature", "curvature", digest(keys))]


def _counterfactuals(done: Done) -> Iterable[Dataset]:
    """The counterfactual models that a night rests on; none where it has none."""
    found = done.night.counterfactuals
    return [Dataset("counterfactuals", f"counterfactuals/{done.night.model}", digest(found))] if found else []


def _trained(done: Done) -> Iterable[Dataset]:
    """The counterfactual models of the model in use; none where none is trained yet."""
    from provenance.models.counterfactuals import records as trained
    from provenance.models.model import read_model

    served = digest(read_model(done.settings.model.folder).files)
    found = {record.name: record.folder for record in trained(done.store, served)}
    return [Dataset("counterfactuals", f"counterfactuals/{served}", digest(found))] if found else []


def _written(done: Done, stage: str, contract: contracts.Contract) -> Iterable[Dataset]:
    """A table that a stage of the night wrote, in the version that its manifest names."""
    file = f"{contract.name}.parquet"
    version = done.said(stage)["writes"].get(file)
    return [Dataset(f"nights/{file}", f"{done.folder}/{file}", version, contract)] if version else []


def _ledger(done: Done) -> Iterable[Dataset]:
    """The ledger; what is published says up to which booking."""
    url = sa.make_url(done.settings.database.url or "postgresql://localhost/provenance")
    version = str(done.exported["booking_id"]) if str(done.result).startswith("exports/payouts/") else ""
    namespace = f"postgres://{url.host or 'localhost'}:{url.port or 5432}"
    return [Dataset(f"{url.database}.public.entry", version=version, namespace=namespace)]


def _payouts(done: Done) -> Iterable[Dataset]:
    for name, contract in (("payouts", contracts.PAYOUTS), ("credits", contracts.CREDITS), ("intervals", contracts.INTERVALS)):
        for file in (f"{name}.parquet", f"{name}.csv"):
            if file in done.exported["files"]:
                version = done.exported["files"][file]["sha256"]
                yield Dataset(f"exports/payouts/{file}", f"{done.result}/{file}", version, contract)


def _published(done: Done, name: str, folder: str, **files: contracts.Contract) -> Iterable[Dataset]:
    """CSV files of a period; without any, all that its manifest names. There is no folder where nothing was to be paid."""
    from provenance.settlement.exports.export import MANIFEST

    key = f"{folder}/{MANIFEST}"
    if not done.store.exists(key):
        return
    if not files:
        yield Dataset(name, folder, sha256(done.store.read(key)))
        return
    stated = done.store.read_json(key)["files"]
    for file, contract in files.items():
        yield Dataset(f"{name}/{file}.csv", f"{folder}/{file}.csv", stated[f"{file}.csv"]["sha256"], contract)


DATASETS: dict[str, Callable[[Done], Iterable[Dataset]]] = {
    "listed": lambda done: _delivered(done, contracts.SOURCES),
    "sources": lambda done: _records(done, contracts.SOURCES),
    "delivery": lambda done: _delivered(
        done, contracts.EXAMPLES, contracts.CLAIMS, contracts.OWNERS, contracts.ASSERTIONS, contracts.DISPUTES
    ),
    "ingested": lambda done: [_frozen(done.store, str(done.result))],
    "in_force": _in_force,
    "signals": lambda done: _records(done, contracts.SIGNALS),
    "optouts": lambda done: _records(done, contracts.OPTOUTS),
    "manifest": lambda done: [Dataset("rights/manifests", str(done.result), sha256(done.store.read(str(done.result))))],
    "corpus": lambda done: [_frozen(done.store, done.night.corpus)],
    "model": lambda done: [Dataset("frozen/models", f"frozen/models/{done.night.model}", done.night.model)],
    "outputs": lambda done: [
        Dataset(
            "outputs", f"outputs/day={done.night.day}", digest([part.sha256 for part in done.night.outputs]), contracts.OUTPUTS
        )
    ],
    "inputs": lambda done: _file(done, "inputs.json"),
    "plan": lambda done: _file(done, "plan.json"),
    "features": _features,
    "curvature": _curvature,
    "influence": lambda done: [Dataset("nights/influence", f"{done.folder}/influence", digest(done.said("scores")["writes"]))],
    "counterfactuals": _counterfactuals,
    "trained": _trained,
    "likelihoods": lambda done: [Dataset("likelihoods", "likelihoods", digest(done.said("likelihoods")["files"]))],
    "party_influence": lambda done: _written(done, "estimate", contracts.PARTY_INFLUENCE),
    "evidence": lambda done: _written(done, "estimate", contracts.EVIDENCE),
    "rule_shares": lambda done: _written(done, "estimate", contracts.RULE_SHARES),
    "shares": lambda done: _written(done, "shares", contracts.SHARES),
    "night_shares": lambda done: _written(done, "shares", contracts.NIGHT_SHARES),
    "ledger": _ledger,
    "payouts": _payouts,
    "audit": lambda done: [Dataset("audits", str(done.result), sha256(done.store.read(f"{done.result}/lds.json")))],
    "closing": lambda done: _published(
        done, "exports/periods", closing_folder(done.period), closing=contracts.CLOSING, escrow=contracts.ESCROW_AGES
    ),
    "payments": lambda done: _published(done, "exports/periods", payments_folder(done.period), payments=contracts.PAYMENTS),
    "bank": lambda done: _published(done, "bank", bank_folder(done.period)),
    "statements": lambda done: _published(done, "exports/statements", statements_folder(done.period)),
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
