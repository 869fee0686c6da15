"""Computes the holdings of each party in a night's corpus, and their weights by a contract's count."""

from __future__ import annotations

import polars as pl

from provenance.core.store import Store
from provenance.core.where import batched
from provenance.corpus.holdings import PARTY
from provenance.corpus.shards import read_part
from provenance.inputs.holders import OPTED_OUT, holdings_by_group
from provenance.inputs.night import Night

# Shards whose holdings are found together.
GROUP = 64


def corpus_holdings(store: Store, night: Night, rule: str) -> pl.DataFrame:
    """The holdings of the corpus: `row, work_id, account, party_id, part, tokens, weight`.

    The row is the example's in the corpus. The weight is the tokens that trained the model: each copy of a work has its full
    weight, since each of them trained; together they count as one work.

    Args:
        rule: on copies.
    """
    groups = [[part.sha256 for part in some] for some in batched(night.frozen_corpus(store).shards, GROUP)]
    tables, first = [], 0
    for group, held in zip(groups, holdings_by_group(store, night, rule, groups), strict=True):
        tokens = pl.concat([read_part(store, sha, "tokens") for sha in group])["tokens"]
        # An opted-out work also has a holding in a separate account.
        whole = pl.col("part").sum().over("row", pl.col("account") == OPTED_OUT)
        table = held.with_columns(tokens=tokens[held["row"]], row=pl.col("row") + first)
        weight = pl.col("tokens") * pl.col("part") / whole
        tables.append(table.select("row", "work_id", *PARTY, "part", "tokens", weight=weight))
        first += len(tokens)
    return pl.concat(tables)


def flat_weights(holdings: pl.DataFrame, count: str) -> pl.DataFrame:
    """`account, party_id, weight`: the stakes of each party in `tokens`, `examples` or `works`; copies count once."""
    works = 1 / pl.col("row").n_unique().over("work_id")
    counted = {"tokens": pl.col("tokens"), "examples": pl.lit(1), "works": works}[count]
    # Sorted, since a sum of floats depends on their order.
    terms = holdings.select(*PARTY, weight=counted.cast(pl.Float64) * pl.col("part")).sort(*PARTY, "weight")
    return terms.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())
