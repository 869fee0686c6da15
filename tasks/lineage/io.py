"""The datasets that stages read and write, by their names in `provenance.core.stages`.

The name of a dataset is the place of its objects in the store, without the folders of day, night or revision: each night
writes a version of the one dataset `nights/shares.parquet`. A version is a digest, from a manifest where one names it.
Functions that need modules with torch import them, since most tasks need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from provenance.core import tables
from provenance.core.published import MANIFEST
from provenance.core.settings import Settings
from provenance.core.stages import BY_NAME
from provenance.core.store import Store, digest, sha256
from provenance.corpus import records
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force, corpus_key, load_frozen
from provenance.influence import audits
from provenance.inputs.night import Night, digest_of, files_of, load_night, read_manifest
from provenance.models import counterfactual_records
from provenance.settlement.months.periods import bank_folder, closing_folder, payments_folder, statements_folder


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset.

    Attributes:
        key: the file or folder of the version in the store.
        version: a digest; empty if no manifest or file gives one.
        namespace: empty for the store's own.
        corpus: the corpus, for events that tell of owners and licences.
    """

    name: str
    key: str = ""
    version: str = ""
    contract: tables.TableSchema | None = None
    namespace: str = ""
    corpus: FrozenCorpus | None = None


@dataclass(frozen=True)
class StageRun:
    """A finished run of a stage.

    Attributes:
        arguments: what Airflow handed the stage, by name.
        result: what the stage returned.
    """

    settings: Settings
    store: Store
    arguments: Mapping[str, Any]
    result: Any

    @cached_property
    def folder(self) -> str:
        """The folder of the night that was computed, published or audited."""
        if "night" in self.arguments:
            return str(self.arguments["night"])
        if str(self.result).startswith("exports/"):
            return str(self.exported["night"])
        if str(self.result).startswith("audits/"):
            return str((audits.in_force(self.store) or {})["night"])
        return str(self.result)

    @cached_property
    def night(self) -> Night:
        """That night."""
        return load_night(self.store, self.folder)

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest that a stage of that night wrote."""
        return read_manifest(self.store, self.folder, stage)

    @cached_property
    def exported(self) -> dict[str, Any]:
        """The manifest of the export that the stage returned."""
        return self.store.read_json(f"{self.result}/{MANIFEST}")

    @property
    def period(self) -> str:
        """The period that was settled."""
        result = self.result["period"] if isinstance(self.result, dict) else self.result
        return str(self.arguments.get("period", result))


def flow(stage: str, run: StageRun) -> tuple[list[Dataset], list[Dataset]]:
    """The datasets that a stage read, and those that it wrote."""
    names = BY_NAME[stage]
    read, written = ([dataset for name in side for dataset in DATASETS[name](run)] for side in (names.reads, names.writes))
    return read, written


def _delivered(run: StageRun, *contracts: tables.TableSchema) -> Iterable[Dataset]:
    """The files of a delivery that exist."""
    keys = {f"{run.settings.corpus.folder}/{contract.name}.parquet": contract for contract in contracts}
    return [Dataset(key, key, contract=contract) for key, contract in keys.items() if run.store.exists(key)]


def _records(run: StageRun, contract: tables.TableSchema) -> Iterable[Dataset]:
    key = f"{records.ROOT}/{contract.name}"
    added = run.store.list(key)
    return [Dataset(key, key, digest(added), contract)] if added else []


def _in_force(run: StageRun) -> Iterable[Dataset]:
    corpus = corpus_in_force(run.store)
    return [Dataset("frozen/corpus", CURRENT, corpus.digest, tables.EXAMPLES, corpus=corpus)]


def _frozen(store: Store, name: str) -> Iterable[Dataset]:
    return [Dataset("frozen/corpus", corpus_key(name), name, tables.EXAMPLES, corpus=load_frozen(store, name))]


def _file(run: StageRun, name: str, key: str) -> Iterable[Dataset]:
    """A file or folder of the store, in the version of the bytes at a key."""
    return [Dataset(name, key, sha256(run.store.read(key)))]


def _plan(run: StageRun) -> Iterable[Dataset]:
    return _file(run, "nights/plan.json", f"{run.folder}/plan.json")


def _features(run: StageRun) -> Iterable[Dataset]:
    from provenance.features.plan import load_plan

    plan = load_plan(run.store, run.folder)
    return [Dataset("features", "features", digest(sorted(file.key for file in plan.corpus + plan.outputs)))]


def _curvature(run: StageRun) -> Iterable[Dataset]:
    from provenance.features.plan import fitted_key, load_plan

    plan = load_plan(run.store, run.folder)
    keys = sorted(fitted_key(run.night, plan, source) for source in plan.sources)
    return [Dataset("curvature", "curvature", digest(keys))]


def _counterfactuals(model: str, folders: Mapping[str, str]) -> Iterable[Dataset]:
    """Counterfactual models of a model, by digest of their folders; no dataset if there are none."""
    return [Dataset("counterfactuals", f"counterfactuals/{model}", digest(folders))] if folders else []


def _trained(run: StageRun) -> Iterable[Dataset]:
    from provenance.models.model import read_model

    served = digest(read_model(run.settings.model.folder).files)
    trained = counterfactual_records.records(run.store, served)
    return _counterfactuals(served, {record.name: record.folder for record in trained})


def _written(run: StageRun, stage: str, contract: tables.TableSchema) -> Iterable[Dataset]:
    """A table that a stage of the night wrote, in the version that its manifest names."""
    writes, file = run.manifest(stage)["writes"], f"{contract.name}.parquet"
    if not files_of(writes, contract.name):
        return []
    place = file if file in writes else contract.name  # a file, or a folder with one for each part of the outputs
    return [Dataset(f"nights/{file}", f"{run.folder}/{place}", digest_of(writes, contract.name), contract)]


def _credited(run: StageRun, contract: tables.TableSchema) -> Iterable[Dataset]:
    """A table for people to read, which changes with the settings."""
    written = run.manifest("credits")["writes"][contract.name]
    return [Dataset(f"nights/credits/{contract.name}.parquet", written["key"], written["sha256"], contract)]


def _ledger(run: StageRun) -> Iterable[Dataset]:
    """The ledger; after a publication its version is the exported booking."""
    url = sa.make_url(run.settings.database.url or "postgresql://localhost/provenance")
    version = str(run.exported["booking_id"]) if str(run.result).startswith("exports/payouts/") else ""
    namespace = f"postgres://{url.host or 'localhost'}:{url.port or 5432}"
    return [Dataset(f"{url.database}.public.entry", version=version, namespace=namespace)]


def _exported(run: StageRun, name: str, folder: str, contracts: Mapping[str, tables.TableSchema]) -> Iterable[Dataset]:
    """Tables of an export by file, in the versions that its manifest names; none if nothing was exported."""
    key = f"{folder}/{MANIFEST}"
    files = run.store.read_json(key)["files"] if run.store.exists(key) else {}
    for file in (file for file in contracts if file in files):
        yield Dataset(f"{name}/{file}", f"{folder}/{file}", files[file]["sha256"], contracts[file])


def _folder(run: StageRun, name: str, folder: str) -> Iterable[Dataset]:
    """An exported folder, in the version of its manifest; none if nothing was exported."""
    key = f"{folder}/{MANIFEST}"
    return [Dataset(name, folder, sha256(run.store.read(key)))] if run.store.exists(key) else []


def _invoices(run: StageRun) -> Iterable[Dataset]:
    """The published batches of invoices; none without the setting."""
    published = [key for key in run.store.list("tax/invoices") if key.endswith(f"/{MANIFEST}")]
    return [Dataset("tax/invoices", "tax/invoices", digest(published), tables.INVOICES)] if published else []


def _outputs(run: StageRun) -> Iterable[Dataset]:
    version = digest([part.sha256 for part in run.night.outputs])
    return [Dataset("outputs", f"outputs/day={run.night.day}", version, tables.OUTPUTS)]


DELIVERY = (tables.EXAMPLES, tables.CLAIMS, tables.OWNERS, tables.DECISIONS, tables.ASSERTIONS, tables.DISPUTES)
PAYOUTS = {
    f"{contract.name}.{suffix}": contract
    for contract in (tables.PAYOUTS, tables.CREDITS, tables.INTERVALS)
    for suffix in ("parquet", "csv")
}
CLOSING = {"closing.csv": tables.CLOSING, "escrow.csv": tables.ESCROW_AGES}

DATASETS: dict[str, Callable[[StageRun], Iterable[Dataset]]] = {
    "listed": lambda run: _delivered(run, tables.SOURCES),
    "sources": lambda run: _records(run, tables.SOURCES),
    "delivery": lambda run: _delivered(run, *DELIVERY),
    "ingested": lambda run: _frozen(run.store, str(run.result)),
    "in_force": _in_force,
    "signals": lambda run: _records(run, tables.SIGNALS),
    "optouts": lambda run: _records(run, tables.OPTOUTS),
    "manifest": lambda run: _file(run, "rights/manifests", str(run.result)),
    "corpus": lambda run: _frozen(run.store, run.night.corpus),
    "model": lambda run: [Dataset("frozen/models", f"frozen/models/{run.night.model}", run.night.model)],
    "outputs": _outputs,
    "inputs": lambda run: _file(run, "nights/inputs.json", f"{run.folder}/inputs.json"),
    "plan": _plan,
    "features": _features,
    "curvature": _curvature,
    "influence": lambda run: [Dataset("nights/influence", f"{run.folder}/influence", digest(run.manifest("scores")["writes"]))],
    "counterfactuals": lambda run: _counterfactuals(run.night.model, run.night.counterfactuals),
    "trained": _trained,
    "likelihoods": lambda run: [Dataset("likelihoods", "likelihoods", digest(run.manifest("likelihoods")["files"]))],
    "party_influence": lambda run: _written(run, "estimate", tables.PARTY_INFLUENCE),
    "evidence": lambda run: _written(run, "estimate", tables.EVIDENCE),
    "rule_shares": lambda run: _written(run, "estimate", tables.RULE_SHARES),
    "shares": lambda run: _written(run, "shares", tables.SHARES),
    "night_shares": lambda run: _written(run, "shares", tables.NIGHT_SHARES),
    "spans": lambda run: _credited(run, tables.SPANS),
    "matches": lambda run: _credited(run, tables.MATCHES),
    "ledger": _ledger,
    "payouts": lambda run: _exported(run, "exports/payouts", str(run.result), PAYOUTS),
    "audit": lambda run: [Dataset("audits", str(run.result), sha256(run.store.read(f"{run.result}/lds.json")))],
    "closing": lambda run: _exported(run, "exports/periods", closing_folder(run.period), CLOSING),
    "payments": lambda run: _exported(run, "exports/periods", payments_folder(run.period), {"payments.csv": tables.PAYMENTS}),
    "bank": lambda run: _folder(run, "bank", bank_folder(run.period)),
    "statements": lambda run: _folder(run, "exports/statements", statements_folder(run.period)),
    "invoices": _invoices,
    "answers": lambda _: [Dataset("bank/answers", "bank/answers")],
}

# Columns that are computed from columns alone, by the names of datasets.
COLUMNS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "nights/shares.parquet": {"share_ppb": (("nights/rule_shares.parquet", "share"),)},
    "nights/night_shares.parquet": {"share_ppb": (("nights/rule_shares.parquet", "share"), ("outputs", "revenue_minor"))},
    "exports/payouts/credits.parquet": {
        "share_ppb": (("nights/shares.parquet", "share_ppb"),),
        "amount_nanominor": (("nights/shares.parquet", "share_ppb"), ("outputs", "revenue_minor")),
    },
}
