"""The stages from influence to shares: each writes its tables, then the manifest that commits them.

nights/.../likelihoods.json   the files of the night's likelihoods
nights/.../estimate.json      weights of components, fidelity and checks by rule on copies
nights/.../shares.json        the part that each contract's rule decides, and the reasons if it decides nothing
nights/.../credits.json       tables for people to read (`credits`)

A stage that finds its manifest imports nothing that computes: neither torch nor SciPy.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import polars as pl

from provenance.core.money import PPB
from provenance.core.store import canonical_json, digest
from provenance.core.tables import ESCROW, PAYABLE
from provenance.core.where import Where
from provenance.inputs.holders import duplicate_rules
from provenance.inputs.night import night_to_compute, part_file, read_manifest, read_parts, with_terms
from provenance.royalty.credits import CREDITED, find_spans, find_verbatim, method_of
from provenance.royalty.shares import by_contract, over_night
from provenance.royalty.support import rule_weights

likelihoods_log = logging.getLogger("provenance.likelihoods")
estimate_log = logging.getLogger("provenance.estimate")
share_log = logging.getLogger("provenance.share")
credit_log = logging.getLogger("provenance.credit")


def likelihoods(where: Where, folder: str) -> str:
    """Compute the likelihoods of the outputs that the store lacks, under every model; returns the night's folder."""
    store = where.store
    if store.exists(f"{folder}/likelihoods.json"):
        likelihoods_log.info("likelihoods: reused")
        return folder
    from provenance.royalty.likelihoods import compute_missing, passes_of

    by_model = passes_of(where, night_to_compute(store, folder))
    passes = [task for tasks in by_model.values() for task in tasks]
    computed = compute_missing(where, passes)
    likelihoods_log.info("likelihoods: %d reused, %d computed", len(passes) - computed, computed)
    files = {name: [task.key for task in tasks] for name, tasks in by_model.items()}
    store.write(f"{folder}/likelihoods.json", canonical_json({"files": files}))
    return folder


def estimate(where: Where, folder: str) -> str:
    """Write the shares of all parties in all outputs under every rule, evidence, and fidelity; returns the night's folder."""
    store = where.store
    if store.exists(f"{folder}/estimate.json"):
        estimate_log.info("estimate: reused")
        return folder
    from provenance.royalty.division import Division, Estimated, assigned_contracts, divide, estimate_copies  # with SciPy
    from provenance.royalty.holdings import corpus_holdings, flat_weights

    night, scores = night_to_compute(store, folder), read_manifest(store, folder, "scores")
    estimated, flat = dict[str, Estimated](), dict[str, pl.DataFrame]()

    def estimate_rule(rule: str) -> None:
        holdings = corpus_holdings(store, night, rule)  # of all examples: not kept while outputs are divided
        estimated[rule] = estimate_copies(where, night, rule, holdings)
        contracts = [contract for contract in night.contracts if contract.duplicates == rule]
        flat.update({contract.name: flat_weights(holdings, contract.flat_by) for contract in contracts})

    for rule in duplicate_rules(night):
        estimate_rule(rule)
    assigned = assigned_contracts(store, night)
    division = Division(store, night, where.settings.cluster.device, assigned, estimated, flat)
    manifest: dict[str, Any] = {
        "reads": {"scores": scores["writes"], "likelihoods": read_manifest(store, folder, "likelihoods")["files"]},
        "writes": divide(where, division),
        "contracts": dict(assigned.select("output_id", "contract").iter_rows()),
        "copies": {
            rule: {"components": dict(zip(scores["components"], found.weights.tolist(), strict=True)), **found.report}
            for rule, found in estimated.items()
        },
    }
    store.write(f"{folder}/estimate.json", canonical_json(manifest))
    return folder


def share(where: Where, folder: str) -> str:
    """Write shares in parts per billion, by the rule of each output's contract; returns the night's folder."""
    store = where.store
    if store.exists(f"{folder}/shares.json"):
        share_log.info("shares: reused")
        return folder
    night, estimated = night_to_compute(store, folder), read_manifest(store, folder, "estimate")
    contracts = {contract.name: contract for contract in night.contracts}
    weights, failed = rule_weights(estimated["copies"], contracts)
    outputs = pl.DataFrame(
        list(estimated["contracts"].items()), schema={"output_id": pl.String, "contract": pl.String}, orient="row"
    )
    pools = with_terms(store, night, night.read_outputs(store)).select(
        "output_id", "currency", pool=pl.col("revenue_minor").cast(pl.Float64) * (PPB - pl.col("developer_ppb"))
    )
    writes, credited = dict[str, str](), set[tuple[str, str]]()
    for part, ruled in enumerate(read_parts(store, folder, "estimate", "rule_shares")):
        ids = night.output_ids(store, part)
        shares = by_contract(ruled, outputs.filter(pl.col("output_id").is_in(ids.implode())), contracts, weights)
        file = part_file("shares", part)
        writes[file] = store.write_table(f"{folder}/{file}", shares)
        credited |= set(shares.select("account", "party_id").unique().iter_rows())
    parts = (store.read_table(f"{folder}/{file}") for file in list(writes))
    writes["night_shares.parquet"] = store.write_table(f"{folder}/night_shares.parquet", over_night(parts, pools))
    manifest: dict[str, Any] = {
        "reads": estimated["writes"],
        "writes": writes,
        "weights": weights,
        "unsupported": failed,
    }
    if night.choices:
        from provenance.royalty.opted_out import WITHDRAWN_FILE, withdrawn

        table = withdrawn(store, night, outputs=outputs, contracts=contracts, weights=weights, writes=writes, pools=pools)
        manifest["writes"][WITHDRAWN_FILE] = store.write_table(f"{folder}/{WITHDRAWN_FILE}", table)
    store.write(f"{folder}/shares.json", canonical_json(manifest))
    for name, contract in contracts.items():
        if weights[name] < 1:
            reasons, rest = "; ".join(failed[name] or ["its signal is too weak"]), 100 * (1 - weights[name])
            share_log.warning("contract %r, %s: %s; %.0f %% by %s", name, contract.rule, reasons, rest, contract.fallback)
    counts = Counter(account for account, _ in credited)
    share_log.info("shares: %d owners credited, %d in escrow", counts[PAYABLE], counts[ESCROW])
    return folder


def credit(where: Where, folder: str) -> str:
    """Write on whose works the spans of outputs rest, and what stands word for word in works; returns the night's folder.

    No amount depends on it. With other settings it is computed again.
    """
    store, settings = where.store, where.settings.credits
    night = night_to_compute(store, folder)
    method = method_of(settings)
    key = f"{folder}/{CREDITED}.json"
    if store.exists(key) and store.read_json(key)["method"] == method:
        credit_log.info("credits: reused")
        return folder
    tables = {"spans": find_spans(where, night, settings), "matches": find_verbatim(where, night)}
    place = f"{folder}/credits/{digest(method)[:32]}"
    writes = {name: f"{place}/{name}.parquet" for name in tables}
    manifest = {
        "reads": {"estimate": read_manifest(store, folder, "estimate")["writes"], "corpus": night.corpus},
        "writes": {name: {"key": at, "sha256": store.write_table(at, tables[name])} for name, at in writes.items()},
        "method": method,
    }
    store.write(key, canonical_json(manifest))
    counts = {name: table["output_id"].n_unique() for name, table in tables.items()}
    credit_log.info("credits: spans of %d outputs, passages of %d word for word in works", counts["spans"], counts["matches"])
    return folder
