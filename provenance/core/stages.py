"""The stages, in order of data flow: the one list that the DAGs, previews, replays, lineage and the page read.

A stage's name is its task id, `<package>.<function>`, and tells where its function lies. Import-light: DAGs import this module
while Airflow parses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from provenance.core.where import Where


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        reads, writes: names of datasets, as in lineage.
        maps: whether it computes on the workers.
        function: `module:name` where it is not `provenance.<package>.stage:<function>`; empty for a person's task.
    """

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    maps: bool = False
    function: str | None = None

    def find(self) -> Callable[..., Any]:
        """Import the stage's module and return its function."""
        package, _, name = self.name.partition(".")
        module, _, function = (self.function or f"provenance.{package}.stage:{name}").partition(":")
        found: Callable[..., Any] = getattr(import_module(module), function)
        return found

    def run(self, where: Where, *arguments: Any, **options: Any) -> Any:
        """Call the stage's function."""
        return self.find()(where, *arguments, **options)


FREEZE = Stage("inputs.freeze", ("corpus", "outputs"), ("inputs", "model"))
# Stages that a replay computes again from frozen inputs; each takes the night's folder.
COMPUTED = (
    Stage("features.plan", ("inputs", "corpus", "outputs", "model"), ("plan",), maps=True),
    Stage("features.featurise", ("plan", "corpus", "outputs", "model"), ("features",), maps=True),
    Stage("influence.fit_curvature", ("plan", "features", "corpus", "model"), ("curvature",), maps=True),
    Stage("influence.score", ("plan", "features", "curvature", "corpus"), ("influence",), maps=True),
    Stage("royalty.likelihoods", ("inputs", "outputs", "model", "counterfactuals"), ("likelihoods",), maps=True),
    Stage(
        "royalty.estimate",
        ("likelihoods", "influence", "counterfactuals", "corpus", "outputs"),
        ("rule_shares", "party_influence", "evidence"),
        maps=True,
    ),
    Stage("royalty.share", ("rule_shares", "outputs"), ("shares", "night_shares")),
)
REVIEW = Stage("settlement.review", ("shares", "outputs", "ledger"))
APPROVE = Stage("settlement.approve", function="")  # a person
BOOK = Stage("settlement.book", ("shares", "outputs"), ("ledger",))
PUBLISH = Stage(
    "settlement.publish", ("ledger", "shares", "night_shares", "rule_shares", "evidence", "outputs", "corpus"), ("payouts",)
)
RECONCILE = Stage("settlement.reconcile", ("payouts", "ledger"))
# For people to read; no amount depends on it, so nothing waits for it.
CREDIT = Stage(
    "royalty.credit",
    ("plan", "features", "curvature", "influence", "rule_shares", "corpus", "outputs", "model"),
    ("spans", "matches"),
    maps=True,
)
# The stages of a night.
STAGES = (FREEZE, *COMPUTED, REVIEW, APPROVE, BOOK, PUBLISH, RECONCILE, CREDIT)

MONTHS = "provenance.settlement.months.stage"
# Stages of the other DAGs.
OTHERS = (
    Stage("rights.sources", ("listed",), ("sources",), function="provenance.corpus.rights.sources.lists:register_delivered"),
    Stage("corpus.ingest", ("delivery", "sources"), ("ingested", "signals"), maps=True),
    Stage("rights.signals", ("in_force",), ("signals",), function="provenance.corpus.rights.signals.collect:collect_all"),
    Stage(
        "rights.manifest",
        ("in_force", "signals", "optouts"),
        ("manifest",),
        function="provenance.corpus.rights.clearance:clear_today",
    ),
    Stage("counterfactuals.plan", ("in_force",), function="provenance.models.stage:plan_missing"),
    Stage("counterfactuals.train", ("in_force",), ("trained",), maps=True, function="provenance.models.stage:train_named"),
    Stage("settlement.prepare", function=""),
    Stage("settlement.close", ("ledger",), ("closing", "ledger"), function=f"{MONTHS}:close"),
    Stage("settlement.pay", ("closing", "ledger"), ("payments", "bank", "ledger"), function=f"{MONTHS}:pay"),
    Stage("settlement.reconcile_bank", ("bank", "ledger"), function=f"{MONTHS}:reconcile"),
    Stage(
        "settlement.statements",
        ("ledger", "closing"),
        ("statements",),
        function="provenance.settlement.months.write_statements:write_statements",
    ),
    Stage(
        "settlement.invoices",
        ("ledger", "closing"),
        ("invoices",),
        function="provenance.settlement.tax.numbering:issue_for",
    ),
    Stage("settlement.answers", ("answers",), ("ledger",), function="provenance.settlement.bank.incoming:read_new"),
    Stage(
        "validation.audit", ("corpus", "model", "outputs"), ("audit",), function="provenance.validation.audit:audit_published"
    ),
    Stage("operations.gc", function="provenance.validation.retention:collect"),
)
BY_NAME = {stage.name: stage for stage in (*STAGES, *OTHERS)}
