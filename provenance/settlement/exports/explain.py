"""Explains one output as plain data: prompt, text, credits with the works behind them, contract, and how sure shares are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from provenance.core.errors import StoreError
from provenance.core.store import Store
from provenance.corpus.shards import part_key
from provenance.inputs.contracts import assign, parse_contracts
from provenance.inputs.night import removal_error
from provenance.settlement.exports.export import read_credits, read_export
from provenance.settlement.exports.shown import shown
from provenance.settlement.exports.trust import how_sure, in_words


def explain(store: Store, output_id: str, days: Iterable[str]) -> dict[str, Any] | None:
    """One output's credits, from the first of some published days that has it; None if no day has.

    Returns:
        The facts of the output and, under `credits`, each party with `number`, share, interval, `sure` (how sure that is, in
        words) and, if it is `leading`, `works` with passages. The rest is that of `shown`.
    """
    for day in days:
        manifest, payouts = read_export(store, day)
        rows = read_credits(store, manifest["folder"], wanted=pl.col("output_id") == output_id)
        if not rows.is_empty():
            break
    else:
        return None
    rows = rows.sort("share_ppb", "owner_id", descending=[True, False])
    output = _output(store, manifest, output_id)
    served, contract = output.row(0, named=True), _contract(manifest, output)
    measured = manifest.get("fidelity", {}).get(contract["name"])
    names = dict(payouts.select("owner_id", "owner_name").iter_rows())
    seen = shown(store, manifest["night"], manifest["inputs"]["corpus"], served, rows)
    works = seen.pop("shown")
    return {
        "output_id": output_id,
        "day": day,
        "revision": manifest["revision"],
        "notice": manifest["notice"],
        "revenue_minor": served["revenue_minor"],
        "currency": rows["currency"][0],
        "content": served["content"].decode("utf-8", errors="replace"),
        "prompt": (served.get("prompt") or b"").decode("utf-8", errors="replace"),
        **seen,
        "contract": contract,
        "fidelity": measured,
        "trust": in_words([measured and {contract["name"]: measured}]),
        "credits": [
            {
                **row,
                "number": number,
                "owner_name": names.get(row["owner_id"] or "", ""),
                "sure": how_sure(row["share_ppb"], row["low_ppb"], row["high_ppb"]),
                "leading": number in works,
                "works": works.get(number, []),
            }
            for number, row in enumerate(rows.drop("day", "output_id", "currency").iter_rows(named=True), 1)
        ],
    }


def _output(store: Store, manifest: Mapping[str, Any], output_id: str) -> pl.DataFrame:
    """The frozen output, one row."""
    try:
        parts = [store.read_table(part_key(sha)) for sha in manifest["inputs"]["outputs"]]
    except StoreError as error:
        raise removal_error(store, manifest["night"], error) from error
    return pl.concat(parts).filter(pl.col("output_id") == output_id)


def _contract(manifest: Mapping[str, Any], output: pl.DataFrame) -> dict[str, Any]:
    """The terms of an output's contract, with `weight`: the part of shares that its rule decided."""
    place = f"manifest of {manifest['day']}"
    contracts = parse_contracts(manifest["contract"]["contracts"], place)
    name = assign(output.with_columns(pl.col("product").fill_null("")), contracts, place)[0]
    terms = next(dict(contract) for contract in manifest["contract"]["contracts"] if contract["name"] == name)
    return terms | {"weight": manifest["contract"]["weights"].get(name, 1.0)}
