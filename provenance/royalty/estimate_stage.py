"""Stage `estimate`: every owner's share of every output, under every rule that can be computed, and its fidelity.

nights/.../rule_shares.parquet      shares by rule, output and party
nights/.../party_influence.parquet  influence of parties, components as fitted
nights/.../evidence.parquet         the works behind it
nights/.../estimate.json            what components count, fidelity and checks by rule on copies
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE, RULE_SHARES
from provenance.core.store import Store, canonical_json
from provenance.corpus.holdings import PARTY
from provenance.influence.methods import WORDS, default_weights
from provenance.influence.score import read_influence, read_parties
from provenance.influence.scores import party_influence, weighed
from provenance.inputs.contracts import assign
from provenance.inputs.night import Night, night_to_compute, read_manifest, read_written
from provenance.models.counterfactuals import Subject, check_works, read_record, trained_on, works_served
from provenance.royalty import estimate as numerics
from provenance.royalty import fidelity
from provenance.royalty import shares as rules
from provenance.royalty.holders import COLUMNS, duplicate_rules, holders
from provenance.royalty.likelihoods import BASE, SERVED, read_likelihoods
from provenance.royalty.opted_out import APART, SHARES_APART, Withdrawn
from provenance.royalty.shares import BY_VALUE, RuleTable
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.estimate")


@dataclass(frozen=True)
class Estimated:
    """What a night's counterfactual models say under one rule on copies.

    Attributes:
        parties: `account, party_id`; of each a row of what follows.
        weights: what each component of influence counts, `(K,)`.
        fitted: None where there are too few counterfactual models to tell.
        report: fidelity and checks, for the manifest.
    """

    parties: pl.DataFrame
    weights: np.ndarray
    fitted: numerics.Fitted | None
    report: dict[str, Any]


def estimate(folder: str, settings: Settings | None = None) -> str:
    """Write shares under every rule, evidence and fidelity, and their manifest; returns the night's folder."""
    settings, store = with_store(settings)
    if store.exists(f"{folder}/estimate.json"):
        log.info("estimate: reused")
        return folder
    night = night_to_compute(store, folder)
    outputs = night.read_outputs(store)
    if "model_id" not in outputs.columns:  # those of `attribute`
        outputs = outputs.with_columns(model_id=pl.lit(night.model_id))
    outputs = outputs.with_columns(pl.col("product").fill_null(""))
    assigned = outputs.select("output_id").with_columns(contract=assign(outputs, night.contracts, "outputs"))
    names = read_manifest(store, folder, "scores")["components"]
    tables: dict[str, list[pl.DataFrame]] = {"rule_shares": [], "evidence": [], "party_influence": []}
    opted_out = Withdrawn.of(store, night)
    reports = {}
    for rule in duplicate_rules(night):
        holdings = corpus_holdings(store, night, rule)
        found = estimate_copies(store, night, rule, holdings, settings)
        reports[rule] = {"components": dict(zip(names, found.weights.tolist(), strict=True)), **found.report}
        mine = [contract for contract in night.contracts if contract.duplicates == rule]
        for contract in mine:
            chosen = assigned.filter(pl.col("contract") == contract.name)["output_id"].to_list()
            weights = flat_weights(holdings, contract.flat_by)
            tables["rule_shares"].append(rules.flat(weights.filter(pl.col("account") != APART), chosen))
            opted_out.flat(weights, chosen)
        covered = assigned.filter(pl.col("contract").is_in([contract.name for contract in mine]))["output_id"]
        _divide(store, night, rule, found, covered=set(covered), tables=tables, opted_out=opted_out)
    writes = {
        f"{name}.parquet": store.write_table(f"{folder}/{name}.parquet", pl.concat([_EMPTY[name], *parts]).sort(*KEYS[name]))
        for name, parts in tables.items()
    }
    if night.choices:
        table = opted_out.shares()
        writes[SHARES_APART] = store.write_table(f"{folder}/{SHARES_APART}", table)
    manifest: dict[str, Any] = {
        "reads": {
            "scores": read_manifest(store, folder, "scores")["writes"],
            "likelihoods": read_manifest(store, folder, "likelihoods")["files"],
        },
        "writes": writes,
        "contracts": dict(assigned.select("output_id", "contract").iter_rows()),
        "copies": reports,
    }
    store.write(f"{folder}/estimate.json", canonical_json(manifest))
    return folder


_EMPTY = {
    "rule_shares": pl.DataFrame(schema=RULE_SHARES.schema),
    "evidence": pl.DataFrame(schema=EVIDENCE.schema),
    "party_influence": pl.DataFrame(schema=PARTY_INFLUENCE.schema),
}
KEYS = {"rule_shares": RULE_SHARES.key, "evidence": EVIDENCE.key, "party_influence": PARTY_INFLUENCE.key}


def corpus_holdings(store: Store, night: Night, rule: str) -> pl.DataFrame:
    """Who holds what of the corpus: the holdings with `tokens` and `content_sha256` of each example, and what trains.

    That is `weight`: of copies each trains, though together they count as one work.
    """
    examples = night.read_corpus(store, *COLUMNS, "content_sha256", "tokens")
    held = holders(store, night, rule).of(examples)
    held = held.join(examples.select("example_id", "content_sha256", "tokens"), on="example_id", maintain_order="left")
    # An opted-out work is held a second time, by an account apart.
    whole = pl.col("part").sum().over("example_id", pl.col("account") == APART)
    return held.with_columns(weight=pl.col("tokens") * pl.col("part") / whole)


def flat_weights(holdings: pl.DataFrame, count: str) -> pl.DataFrame:
    """`account, party_id, weight`: what each party has by a contract's count, by stake; copies count once."""
    works = 1 / pl.col("example_id").n_unique().over("work_id")
    each = {"tokens": pl.col("tokens"), "examples": pl.lit(1), "works": works}[count]
    # A sum of floats depends on their order.
    terms = holdings.select(*PARTY, weight=each.cast(pl.Float64) * pl.col("part")).sort(*PARTY, "weight")
    return terms.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())


def estimate_copies(store: Store, night: Night, rule: str, holdings: pl.DataFrame, settings: Settings) -> Estimated:
    """Fit the night's counterfactual models under a rule on copies."""
    parties = read_parties(store, night.folder, rule)
    names = read_manifest(store, night.folder, "scores")["components"]
    paid = (parties["account"] != APART).to_numpy()
    held = holdings.filter(pl.col("account") != APART)
    outcomes, aside = read_outcomes(store, night, held, parties.filter(paid), settings)
    default = default_weights(names)
    any_outputs = outcomes.value.shape[1] > 0
    enough = fidelity.check_enough(outcomes) if any_outputs else []
    if enough or not any_outputs:
        report = {"weights": "default", "models": len(outcomes.inside), "failed": enough}
        return Estimated(parties, default, None, report)
    everyone = [read_influence(store, night, rule, part).sums[:, :, paid] for part in range(len(night.parts))]
    projected, of_aside = (
        np.concatenate([numerics.project(models, sums.transpose(0, 2, 1)) for sums in everyone], axis=2)
        for models in (outcomes, aside)
    )
    fitted = numerics.fit(outcomes, projected)
    weights = fitted.theta if fitted.theta.any() else default
    words = np.array([name.startswith(WORDS) for name in names])
    report = fidelity.report(fitted, projected, weights=weights, words=words, aside=aside, of_aside=of_aside)
    report["weights"] = "fitted" if fitted.theta.any() else "default"
    return Estimated(parties, weights, fitted, report)


def read_outcomes(
    store: Store, night: Night, holdings: pl.DataFrame, parties: pl.DataFrame, settings: Settings
) -> tuple[numerics.Outcomes, numerics.Outcomes]:
    """What counterfactual models say of the night's outputs: those to fit on, and those set aside.

    Args:
        parties: `account, party_id`, in the order of the owners.
    """
    subject = Subject.of(store, night, settings.model.cache)
    likelihoods = read_likelihoods(store, night.folder)
    records = sorted((read_record(store, night.model, name) for name in night.counterfactuals), key=lambda r: r.name)
    works = works_served(subject)
    known = holdings.join(_pairs(works), on=["work_id", "content_sha256"], how="semi")
    whole = _by_party(known, parties)
    examples = night.read_corpus(store, "work_id", "content_sha256", "tokens")
    trained = examples.join(_pairs(works), on=["work_id", "content_sha256"], how="semi")
    inside, seen = np.empty((len(records), parties.height)), np.empty(len(records))
    for at, record in enumerate(records):
        manifest = trained_on(store, record)
        check_works(manifest, works, store.locate(record.key))
        pairs = _pairs(manifest.works)
        inside[at] = _by_party(known.join(pairs, on=["work_id", "content_sha256"], how="semi"), parties)
        seen[at] = trained.join(pairs, on=["work_id", "content_sha256"], how="semi")["tokens"].sum()
    inside = np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)
    outputs = len(likelihoods[SERVED])
    value = np.stack([likelihoods[record.name] for record in records]) if records else np.zeros((0, outputs))
    both = numerics.Outcomes(
        inside=inside,
        partition=np.array([record.partition for record in records], dtype=np.int64),
        value=value,
        base=likelihoods[BASE],
        served=likelihoods[SERVED],
        size=whole / whole.sum() if whole.sum() else whole,
        seen=seen / max(1, int(trained["tokens"].sum())),
    )
    aside = np.array([record.aside for record in records], dtype=bool)
    return both.some(~aside), both.some(aside)


def _pairs(works: Mapping[str, Iterable[str]]) -> pl.DataFrame:
    """Works and the digests of their examples, a row for each."""
    rows = [(work, content) for work, contents in works.items() for content in contents]
    return pl.DataFrame(rows, schema={"work_id": pl.String, "content_sha256": pl.String}, orient="row")


def _by_party(holdings: pl.DataFrame, parties: pl.DataFrame) -> np.ndarray:
    """Sums of weight in the order of the parties, `(n,)`."""
    terms = holdings.select(*PARTY, "weight").sort(*PARTY, "weight")
    sums = terms.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())
    found: np.ndarray = parties.join(sums, on=PARTY, how="left", maintain_order="left")["weight"].fill_null(0.0).to_numpy()
    return found


def _divide(
    store: Store,
    night: Night,
    rule: str,
    found: Estimated,
    *,
    covered: set[str],
    tables: dict[str, list[pl.DataFrame]],
    opted_out: Withdrawn,
) -> None:
    """Shares of the outputs whose contracts have a rule on copies, part by part of the outputs."""
    paid = (found.parties["account"] != APART).to_numpy()
    parties = found.parties.filter(paid)
    drawn = {}
    if found.fitted is not None:
        ruled = {name: numerics.rule_named(name, found.fitted) for name in BY_VALUE}
        drawn = {name: (each, numerics.deviations(found.fitted, each)) for name, each in ruled.items()}
    evidence = read_written(store, night.folder, "scores", f"influence/{rule}-evidence.parquet")
    if evidence.height:
        shown = evidence.filter(pl.col("output_id").is_in(list(covered)) & (pl.col("account") != APART))
        tables["evidence"].append(weighed(shown, found.weights, night.method["evidence"]))
    start = 0
    for part in range(len(night.parts)):
        influence = read_influence(store, night, rule, part)
        chosen = np.array([at for at, output in enumerate(influence.output_ids) if output in covered], dtype=np.int64)
        ids = [influence.output_ids[at] for at in chosen]
        sums = influence.sums[:, chosen][:, :, paid]
        by_component = found.weights[:, None, None] * sums
        tables["party_influence"].append(party_influence(parties, by_component.sum(axis=0), ids))
        made = [rules.from_components(by_component, ids, parties)]
        for name, (each, deviations) in drawn.items():
            assert found.fitted is not None
            shares = numerics.shares(found.fitted, each, sums.transpose(0, 2, 1), start + chosen, deviations)
            made.append(RuleTable(name, ids, parties, shares.share.T, shares.low.T, shares.high.T))
        tables["rule_shares"] += [table.frame() for table in made]
        if opted_out.claims is not None:
            apart = np.einsum("k,kqw->qw", found.weights, influence.sums[:, chosen][:, :, ~paid])
            opted_out.by_influence(found.parties.filter(~paid), apart, by_component.sum(axis=0), made)
        start += len(influence.output_ids)
