"""Divides a night's outputs among parties, under every rule that can be computed.

nights/.../rule_shares.parquet      shares by rule, output and party
nights/.../party_influence.parquet  influence of parties, components as fitted
nights/.../evidence.parquet         works behind the influence
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.store import Store
from provenance.core.tables import EVIDENCE, PARTY_INFLUENCE, RULE_SHARES
from provenance.core.where import Where, on_device
from provenance.influence.methods import default_weights
from provenance.influence.night_scores import read_influence, read_parties
from provenance.influence.scores import party_influence, reweight_evidence
from provenance.inputs.contracts import Contract, assign
from provenance.inputs.holders import OPTED_OUT
from provenance.inputs.methods import WORDS
from provenance.inputs.night import Night, read_manifest, read_written
from provenance.royalty import estimate, fidelity
from provenance.royalty import shares as rules
from provenance.royalty.holdings import flat_weights
from provenance.royalty.likelihoods import read_outcomes
from provenance.royalty.opted_out import SHARES_APART, Withdrawn
from provenance.royalty.outcomes import Outcomes
from provenance.royalty.shares import BY_VALUE, RuleTable

TABLES = {"rule_shares": RULE_SHARES, "evidence": EVIDENCE, "party_influence": PARTY_INFLUENCE}


@dataclass(frozen=True)
class Estimated:
    """The estimate of a night under one rule on copies.

    Attributes:
        parties: `account, party_id`.
        weights: of the components of influence, `(K,)`.
        fitted: the fit of counterfactual models; None if there are too few.
        report: fidelity and checks, for the manifest.
    """

    parties: pl.DataFrame
    weights: np.ndarray
    fitted: estimate.Fitted | None
    report: dict[str, Any]


def estimate_copies(where: Where, night: Night, rule: str, holdings: pl.DataFrame) -> Estimated:
    """Fit the night's counterfactual models under a rule on copies."""
    store = where.store
    parties = read_parties(store, night.folder, rule)
    names = read_manifest(store, night.folder, "scores")["components"]
    paid = (parties["account"] != OPTED_OUT).to_numpy()
    outcomes, aside = read_outcomes(where, night, holdings.filter(pl.col("account") != OPTED_OUT), parties.filter(paid))
    default = default_weights(names)
    any_outputs = outcomes.value.shape[1] > 0
    problems = fidelity.check_enough(outcomes) if any_outputs else []
    if problems or not any_outputs:
        report = {"weights": "default", "models": len(outcomes.inside), "failed": problems}
        return Estimated(parties, default, None, report)
    influence = [read_influence(store, night, rule, part).sums[:, :, paid] for part in range(len(night.parts))]
    fitted, projected, projected_aside = on_device(
        where.workers, _fit, (outcomes, aside, influence), what="fit of counterfactual models"
    )
    weights = fitted.theta if fitted.theta.any() else default
    words = np.array([name.startswith(WORDS) for name in names])
    report = fidelity.report(fitted, projected, weights=weights, words=words, aside=aside, projected_aside=projected_aside)
    report["weights"] = "fitted" if fitted.theta.any() else "default"
    return Estimated(parties, weights, fitted, report)


def _fit(device: str, night: tuple[Outcomes, Outcomes, list[np.ndarray]]) -> tuple[estimate.Fitted, np.ndarray, np.ndarray]:
    """The fit of a night, and predictions by influence of the models fitted on and of those set aside.

    Args:
        night: outcomes of both, and the influence of each part of the outputs, `(K, q, n)`.
    """
    xp = namespace_of(device)
    outcomes, aside, influence = night
    projected, projected_aside = (
        np.concatenate([estimate.project(models, xp.asarray(sums.transpose(0, 2, 1))) for sums in influence], axis=2)
        for models in (outcomes, aside)
    )
    return estimate.fit(outcomes, projected, xp), projected, projected_aside


@dataclass(frozen=True)
class _Some:
    """Some outputs to divide by a rule: their influence `(K, q, n)`, and their places among all outputs."""

    fitted: estimate.Fitted
    rule: estimate.Rule
    drawn: estimate.Deviations
    influence: np.ndarray
    chosen: np.ndarray


def _shares(device: str, some: _Some) -> estimate.Shares:
    """The shares of some outputs, in host memory."""
    influence = namespace_of(device).asarray(some.influence.transpose(0, 2, 1))
    found = estimate.shares(some.fitted, some.rule, influence, some.chosen, some.drawn)
    return estimate.Shares(to_numpy(found.share), to_numpy(found.low), to_numpy(found.high))


def assigned_contracts(store: Store, night: Night) -> pl.DataFrame:
    """`output_id, contract`: the name of the contract of each output."""
    outputs = night.read_outputs(store)
    if "model_id" not in outputs.columns:  # outputs of `attribute` have none
        outputs = outputs.with_columns(model_id=pl.lit(night.model_id))
    outputs = outputs.with_columns(pl.col("product").fill_null(""))
    return outputs.select("output_id").with_columns(contract=assign(outputs, night.contracts, "outputs"))


@dataclass(frozen=True)
class Division:
    """The tables of a night's division, collected for one rule on copies after another.

    Attributes:
        assigned: from `assigned_contracts`.
        opted_out: shares of opted-out works.
        tables: parts of each of `TABLES`.
    """

    store: Store
    night: Night
    assigned: pl.DataFrame
    opted_out: Withdrawn
    tables: dict[str, list[pl.DataFrame]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def outputs_of(self, contracts: Collection[Contract]) -> list[str]:
        """The outputs of some contracts."""
        names = [contract.name for contract in contracts]
        return self.assigned.filter(pl.col("contract").is_in(names))["output_id"].to_list()

    def add_flat(self, contract: Contract, holdings: pl.DataFrame) -> None:
        """Add shares by count, for a contract's outputs."""
        outputs, weights = self.outputs_of([contract]), flat_weights(holdings, contract.flat_by)
        self.tables["rule_shares"].append(rules.flat(weights.filter(pl.col("account") != OPTED_OUT), outputs))
        self.opted_out.flat(weights, outputs)

    def add_estimated(self, where: Where, rule: str, estimated: Estimated) -> None:
        """Add shares for the outputs of all contracts with this rule on copies, one part of the outputs after another."""
        night, fitted = self.night, estimated.fitted
        covered = set(self.outputs_of([contract for contract in night.contracts if contract.duplicates == rule]))
        paid = (estimated.parties["account"] != OPTED_OUT).to_numpy()
        parties = estimated.parties.filter(paid)
        by_value = {} if fitted is None else {name: estimate.rule_named(name, fitted) for name in BY_VALUE}
        drawn = {} if fitted is None else {name: estimate.deviations(fitted, value) for name, value in by_value.items()}
        evidence = read_written(self.store, night.folder, "scores", f"influence/{rule}-evidence.parquet")
        if evidence.height:
            shown = evidence.filter(pl.col("output_id").is_in(list(covered)) & (pl.col("account") != OPTED_OUT))
            self.tables["evidence"].append(reweight_evidence(shown, estimated.weights, night.method["evidence"]))
        start = 0
        for part in range(len(night.parts)):
            influence = read_influence(self.store, night, rule, part)
            chosen = np.array([at for at, output in enumerate(influence.output_ids) if output in covered], dtype=np.int64)
            ids = [influence.output_ids[at] for at in chosen]
            sums = influence.sums[:, chosen][:, :, paid]
            by_component = estimated.weights[:, None, None] * sums
            self.tables["party_influence"].append(party_influence(parties, by_component.sum(axis=0), ids))
            tables = [rules.from_components(by_component, ids, parties)]
            for name, value in by_value.items():
                assert fitted is not None
                some = _Some(fitted, value, drawn[name], sums, start + chosen)
                shares = on_device(where.workers, _shares, some, what=f"shares by {name}")
                tables.append(RuleTable(name, ids, parties, shares.share.T, shares.low.T, shares.high.T))
            self.tables["rule_shares"] += [table.frame() for table in tables]
            if self.opted_out.claims is not None:
                of_works = np.einsum("k,kqw->qw", estimated.weights, influence.sums[:, chosen][:, :, ~paid])
                self.opted_out.by_influence(estimated.parties.filter(~paid), of_works, by_component.sum(axis=0), tables)
            start += len(influence.output_ids)

    def write(self) -> dict[str, str]:
        """Write the tables; returns their digests by name."""
        folder, writes = self.night.folder, {}
        for name, schema in TABLES.items():
            table = pl.concat([pl.DataFrame(schema=schema.schema), *self.tables[name]]).sort(*schema.key)
            writes[f"{name}.parquet"] = self.store.write_table(f"{folder}/{name}.parquet", table)
        if self.night.choices:
            writes[SHARES_APART] = self.store.write_table(f"{folder}/{SHARES_APART}", self.opted_out.shares())
        return writes
