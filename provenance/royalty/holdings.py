"""Computes the holdings of each party in a night's corpus, and their weights by a contract's count."""

from __future__ import annotations

import polars as pl

from provenance.core.store import Store
from provenance.corpus.holdings import PARTY
from provenance.inputs.holders import COLUMNS, OPTED_OUT, holders
from provenance.inputs.night import Night


def corpus_holdings(store: Store, night: Night, rule: str) -> pl.DataFrame:
    """The holdings of the corpus, with `tokens`, `content_sha256` and `weight`: the tokens that trained the model.

    Each copy of a work has its full weight, since each of them trained; together they count as one work.

    Args:
        rule: on copies.
    """
    examples = night.read_corpus(store, *COLUMNS, "content_sha256", "tokens")
    holdings = holders(store, night, rule).of(examples)
    holdings = holdings.join(examples.select("example_id", "content_sha256", "tokens"), on="example_id", maintain_order="left")
    # An opted-out work also has a holding in a separate account.
    whole = pl.col("part").sum().over("example_id", pl.col("account") == OPTED_OUT)
    return holdings.with_columns(weight=pl.col("tokens") * pl.col("part") / whole)


def flat_weights(holdings: pl.DataFrame, count: str) -> pl.DataFrame:
    """`account, party_id, weight`: the stakes of each party in `tokens`, `examples` or `works`; copies count once."""
    works = 1 / pl.col("example_id").n_unique().over("work_id")
    counted = {"tokens": pl.col("tokens"), "examples": pl.lit(1), "works": works}[count]
    # Sorted, since a sum of floats depends on their order.
    terms = holdings.select(*PARTY, weight=counted.cast(pl.Float64) * pl.col("part")).sort(*PARTY, "weight")
    return terms.group_by(*PARTY, maintain_order=True).agg(pl.col("weight").sum())
