"""Divides a night's outputs among parties, under every rule that can be computed; a file for each part of the outputs.

nights/.../rule_shares/<part>.parquet      shares by rule, output and party
nights/.../party_influence/<part>.parquet  influence of parties, components as fitted
nights/.../evidence/<part>.parquet         works behind the influence
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import polars as pl

from provenance.core.arrays import namespace_of, to_numpy
from provenance.core.store import Store
from provenance.core.tables import EVIDENCE, PARTY_INFLUENCE, RULE_SHARES
from provenance.core.where import SerialWorkers, Where, on_device
from provenance.influence.methods import default_weights
from provenance.influence.night_scores import read_influence, read_parties
from provenance.influence.scores import party_influence, reweight_evidence
from provenance.inputs.contracts import assign
from provenance.inputs.holders import OPTED_OUT
from provenance.inputs.methods import WORDS
from provenance.inputs.night import Night, part_file, read_manifest, read_written
from provenance.royalty import estimate, fidelity
from provenance.royalty import shares as rules
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
    by_part = []
    for part in range(len(night.parts)):
        sums = read_influence(store, night, rule, part).sums[:, :, paid]
        by_part.append(on_device(where, _project, (outcomes, aside, sums), what="predictions by influence"))
    projected, projected_aside = (np.concatenate(parts, axis=2) for parts in zip(*by_part, strict=True))
    fitted = on_device(where, _fit, (outcomes, projected), what="fit of counterfactual models")
    weights = fitted.theta if fitted.theta.any() else default
    words = np.array([name.startswith(WORDS) for name in names])
    report = fidelity.report(fitted, projected, weights=weights, words=words, aside=aside, projected_aside=projected_aside)
    report["weights"] = "fitted" if fitted.theta.any() else "default"
    return Estimated(parties, weights, fitted, report)


def _project(device: str, some: tuple[Outcomes, Outcomes, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions by the influence `(K, q, n)` of some outputs, for the models fitted on and for those set aside."""
    outcomes, aside, influence = some
    sums = namespace_of(device).asarray(influence.transpose(0, 2, 1))
    return estimate.project(outcomes, sums), estimate.project(aside, sums)


def _fit(device: str, night: tuple[Outcomes, np.ndarray]) -> estimate.Fitted:
    """The fit of a night's outcomes, with the predictions by influence of their models."""
    return estimate.fit(*night, namespace_of(device))


def assigned_contracts(store: Store, night: Night) -> pl.DataFrame:
    """`output_id, contract`: the name of the contract of each output."""
    outputs = night.read_outputs(store)
    if "model_id" not in outputs.columns:  # outputs of `attribute` have none
        outputs = outputs.with_columns(model_id=pl.lit(night.model_id))
    outputs = outputs.with_columns(pl.col("product").fill_null(""))
    return outputs.select("output_id").with_columns(contract=assign(outputs, night.contracts, "outputs"))


@dataclass(frozen=True)
class Division:
    """What divides a night's outputs.

    Attributes:
        assigned: from `assigned_contracts`.
        estimated: by rule on copies.
        flat: weights of parties by count, by contract.
        run: names it in the memory of workers.
    """

    store: Store = field(compare=False)
    night: Night = field(compare=False)
    device: str = field(compare=False)
    assigned: pl.DataFrame = field(compare=False)
    estimated: Mapping[str, Estimated] = field(compare=False)
    flat: Mapping[str, pl.DataFrame] = field(compare=False)
    run: str = field(default_factory=lambda: uuid.uuid4().hex)


def divide(where: Where, division: Division) -> dict[str, str]:
    """Write the tables, a part of the outputs on each worker; returns the digests of their files."""
    store, night, writes, apart = division.store, division.night, dict[str, str](), list[pl.DataFrame]()
    parts = range(max(1, len(night.parts)))
    # One part is divided sooner than workers start.
    workers = where.workers if len(parts) > 1 or division.device != "cpu" else SerialWorkers()
    for written, of_works in workers.map(_divide_part, division, parts, what="shares of outputs"):
        writes |= written
        apart += of_works
    workers.everywhere(_forget)
    if night.choices:
        opted_out = replace(Withdrawn.of(store, night), tables=apart)
        writes[SHARES_APART] = store.write_table(f"{night.folder}/{SHARES_APART}", opted_out.shares())
    return writes


def _divide_part(division: Division, part: int) -> tuple[dict[str, str], list[pl.DataFrame]]:
    """Write the tables of a part of the outputs; returns the digests of their files, and the shares of opted-out works."""
    store, night = division.store, division.night
    by_rule, opted_out = _prepared(division)
    opted_out = replace(opted_out, tables=[])
    tables: dict[str, list[pl.DataFrame]] = {name: [] for name in TABLES}
    if night.parts:
        ids = night.output_ids(store, part)
        contract_of = dict(division.assigned.filter(pl.col("output_id").is_in(ids.implode())).iter_rows())
        for contract in night.contracts:
            outputs = [output for output in ids if contract_of[output] == contract.name]
            weights = division.flat[contract.name]
            tables["rule_shares"].append(rules.flat(weights.filter(pl.col("account") != OPTED_OUT), outputs))
            opted_out.flat(weights, outputs)
        for estimates in by_rule:
            covered = {contract.name for contract in night.contracts if contract.duplicates == estimates.rule}
            chosen = [at for at, output in enumerate(ids) if contract_of[output] in covered]
            estimates.add(part, np.array(chosen, dtype=np.int64), tables, opted_out)
    writes = {}
    for name, schema in TABLES.items():
        table = pl.concat([pl.DataFrame(schema=schema.schema), *tables[name]]).sort(*schema.key)
        file = part_file(name, part)
        writes[file] = store.write_table(f"{night.folder}/{file}", table)
    return writes, opted_out.tables


@lru_cache(maxsize=1)
def _prepared(division: Division) -> tuple[list[_Estimates], Withdrawn]:
    """What all parts of the outputs share; a worker keeps that of one night."""
    by_rule = [_Estimates.of(division, rule) for rule in division.estimated]
    return by_rule, Withdrawn.of(division.store, division.night)


def _forget() -> None:
    _prepared.cache_clear()


@dataclass(frozen=True)
class _Estimates:
    """The estimate under a rule on copies, with all that does not depend on the part of the outputs.

    Attributes:
        first: the place in the night of the first output of each part.
        evidence: candidates.
        by_value: rules that need counterfactual models, with draws of their errors.
    """

    division: Division
    rule: str
    first: list[int]
    evidence: pl.DataFrame
    by_value: dict[str, tuple[estimate.Rule, estimate.Deviations]]

    @classmethod
    def of(cls, division: Division, rule: str) -> _Estimates:
        night, fitted, by_value = division.night, division.estimated[rule].fitted, {}
        if fitted is not None:
            named = {name: estimate.rule_named(name, fitted) for name in BY_VALUE}
            by_value = {name: (value, estimate.deviations(fitted, value)) for name, value in named.items()}
        evidence = read_written(division.store, night.folder, "scores", f"influence/{rule}-evidence.parquet")
        first = [0, *accumulate(part.rows for part in night.parts)]
        return cls(division, rule, first, evidence, by_value)

    def add(self, part: int, chosen: np.ndarray, tables: dict[str, list[pl.DataFrame]], opted_out: Withdrawn) -> None:
        """Add the tables of some outputs of a part, by their places in it."""
        night, estimated = self.division.night, self.division.estimated[self.rule]
        fitted = estimated.fitted
        paid = (estimated.parties["account"] != OPTED_OUT).to_numpy()
        parties, influence = estimated.parties.filter(paid), read_influence(self.division.store, night, self.rule, part)
        ids = [influence.output_ids[at] for at in chosen]
        if self.evidence.height:
            shown = self.evidence.filter(pl.col("output_id").is_in(ids))
            tables["evidence"].append(reweight_evidence(shown, estimated.weights, night.method["evidence"]))
        sums = influence.sums[:, chosen][:, :, paid]
        by_component = estimated.weights[:, None, None] * sums
        tables["party_influence"].append(party_influence(parties, by_component.sum(axis=0), ids))
        ruled = [rules.from_components(by_component, ids, parties)]
        by_owner = namespace_of(self.division.device).asarray(sums.transpose(0, 2, 1))
        for name, (value, drawn) in self.by_value.items():
            assert fitted is not None
            shares = estimate.shares(fitted, value, by_owner, self.first[part] + chosen, drawn)
            share, low, high = (to_numpy(each).T for each in (shares.share, shares.low, shares.high))
            ruled.append(RuleTable(name, ids, parties, share, low, high))
        tables["rule_shares"] += [table.frame() for table in ruled]
        if opted_out.claims is not None:
            of_works = np.einsum("k,kqw->qw", estimated.weights, influence.sums[:, chosen][:, :, ~paid])
            opted_out.by_influence(estimated.parties.filter(~paid), of_works, by_component.sum(axis=0), ruled)
