"""Measures how much of a night still rests on works that owners have opted out of.

Opted-out shares are summed separately, in an account of no party, and never change payable shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from provenance.core.money import PPB
from provenance.core.store import Store
from provenance.core.tables import WITHDRAWN
from provenance.corpus.holdings import PARTY
from provenance.inputs.contracts import Contract
from provenance.inputs.holders import OPTED_OUT, numbered_claims, opted_out_works
from provenance.inputs.night import Night, files_of, read_manifest, read_parts, read_written
from provenance.royalty import shares as rules
from provenance.royalty.shares import RuleTable, of_works

SHARES_APART, WITHDRAWN_FILE = "withdrawn_shares.parquet", "withdrawn.parquet"


@dataclass(frozen=True)
class Withdrawn:
    """Shares of opted-out works under every rule, collected contract by contract.

    Attributes:
        claims: from `numbered_claims`; None if nobody has opted out.
        numbered: the works, and the party of each.
        tables: `rule, output_id, work, share`.
    """

    claims: pl.DataFrame | None
    numbered: pl.DataFrame
    tables: list[pl.DataFrame] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, night: Night) -> Withdrawn:
        """An empty collection for a night."""
        if not night.choices:
            return cls(None, pl.DataFrame())
        return cls(numbered_claims(store, night), opted_out_works(store, night))

    def flat(self, weights: pl.DataFrame, output_ids: Sequence[str]) -> None:
        """Add shares by count; weights are `account, party_id, weight` of all parties and opted-out works."""
        if self.claims is None:
            return
        opted_out = pl.col("account") == OPTED_OUT
        whole = float(weights.filter(~opted_out)["weight"].sum()) or 1.0
        works = weights.filter(opted_out).select(work="party_id", share=pl.col("weight") / whole)
        outputs = pl.DataFrame({"output_id": list(output_ids)}, schema={"output_id": pl.String})
        self.tables.append(_table(rules.FLAT, outputs.join(works, how="cross")))

    def by_influence(self, works: pl.DataFrame, influence: np.ndarray, whole: np.ndarray, tables: Sequence[RuleTable]) -> None:
        """Add shares under rules other than `flat`: a work has the part of its party's share that it has of its influence.

        Args:
            works: `party_id` of opted-out works; influence: of the works, `(q, works)`; whole: of the parties, `(q, n)`.
        """
        if not works.height:
            return
        parties = tables[0].parties.with_row_index("place").select(*PARTY, "place")
        booked = works.select(work="party_id").join(self.numbered, on="work", how="left", maintain_order="left")
        places = booked.join(parties, on=PARTY, how="left", maintain_order="left")["place"].to_list()
        with_party = [at for at, place in enumerate(places) if place is not None]
        columns = np.array([places[at] for at in with_party], dtype=np.int64)
        of_party = whole[:, columns]
        part = np.divide(influence[:, with_party], of_party, out=np.zeros_like(of_party), where=of_party > 0).clip(0, 1)
        for table in tables:
            share = table.share[:, columns] * part
            rows = [
                pl.DataFrame({"work": works["party_id"].gather(with_party), "share": row}).with_columns(
                    output_id=pl.lit(output)
                )
                for output, row in zip(table.output_ids, share, strict=True)
            ]
            self.tables.extend([_table(table.rule, pl.concat(rows))] if rows else [])

    def shares(self) -> pl.DataFrame:
        """Each work's share of each output under every rule: `rule, output_id, work, account, party_id, share`."""
        empty = pl.DataFrame(schema={"rule": pl.String, "output_id": pl.String, "work": pl.String, "share": pl.Float64})
        shares = pl.concat([empty, *self.tables]).join(self.numbered.select("work", *PARTY), on="work")
        return shares.sort("rule", "output_id", "work")


def _table(rule: str, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.lit(rule).alias("rule"), "output_id", "work", pl.col("share").cast(pl.Float64))


def withdrawn(
    store: Store,
    night: Night,
    *,
    outputs: pl.DataFrame,
    contracts: Mapping[str, Contract],
    weights: Mapping[str, float],
    writes: Mapping[str, str],
    pools: pl.DataFrame,
) -> pl.DataFrame:
    """The withdrawn table of a night: the part of the day's pools that rests on each opted-out work.

    Args:
        outputs: `output_id, contract`; writes: the files of the shares table; pools: `output_id, currency, pool`.
    """
    works = read_written(store, night.folder, "estimate", SHARES_APART)
    of_parts = []
    for ruled, file in zip(read_parts(store, night.folder, "estimate", "rule_shares"), files_of(writes, "shares"), strict=True):
        shares = store.read_table(f"{night.folder}/{file}")
        here = outputs.join(shares.select("output_id").unique(), on="output_id", how="semi", maintain_order="left")
        of_parts.append(of_works(works, ruled, here, contracts, weights=weights, shares=shares))
    paid = pl.concat(of_parts)
    influence = works.filter(pl.col("rule") == rules.PROPORTIONAL).select("output_id", "work", part="share")
    numbered = opted_out_works(store, night)
    weights_of_outputs = pools.filter(pl.col("pool") > 0).with_columns(pl.col("pool") / pl.col("pool").sum().over("currency"))
    rows = weights_of_outputs.select("currency").unique().join(numbered, how="cross")
    for parts, name in ((paid, "share_ppb"), (influence, "influence_ppb")):
        # Sorted, since a sum of floats depends on their order.
        weighed = weights_of_outputs.join(parts, on="output_id").sort("work", "output_id")
        part = (pl.col("pool") * pl.col("part")).sum() * PPB
        sums = weighed.group_by("currency", "work", maintain_order=True).agg(part.round().cast(pl.Int64).alias(name))
        rows = rows.join(sums, on=["currency", "work"], how="left").with_columns(pl.col(name).fill_null(0))
    return rows.with_columns(pl.col("choice").fill_null("paid")).select(*WITHDRAWN.columns).sort(*WITHDRAWN.key)


def read_withdrawn(store: Store, folder: str) -> pl.DataFrame:
    """The withdrawn table of a night; empty for nights in which nobody had opted out."""
    if WITHDRAWN_FILE not in read_manifest(store, folder, "shares").get("writes", {}):
        return pl.DataFrame(schema=WITHDRAWN.schema)
    return read_written(store, folder, "shares", WITHDRAWN_FILE)
