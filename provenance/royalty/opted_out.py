"""How much a night still rests on works that owners have opted out of.

Opted-out shares are summed separately, in an account that is nobody's, and never change payable shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from provenance.core.contracts import WITHDRAWN
from provenance.core.money import PPB
from provenance.core.store import Store
from provenance.corpus.examples import booked_as, valid_on
from provenance.inputs.contracts import Contract
from provenance.inputs.night import Night, read_manifest, read_written
from provenance.royalty import shares as rules
from provenance.royalty.shares import RuleTable, of_works

APART = "withdrawn"
SHARES_APART, WITHDRAWN_FILE = "withdrawn_shares.parquet", "withdrawn.parquet"
# No id of anybody's has a control in it.
MARK = "\0"
PAIR, PARTY = ["work_id", "owner_id"], ["account", "party_id"]


def claims_apart(store: Store, night: Night) -> pl.DataFrame | None:
    """The claims in force on the night's day, those of owners who opted out by numbers of their own; None if nobody has."""
    if not night.choices:
        return None
    numbered = _numbered(store, night)
    claims = valid_on(store.read_table(night.frozen_corpus(store).claims.key), night.date)
    found = claims.join(numbered.select(*PAIR, "work"), on=PAIR, how="left", maintain_order="left")
    return found.with_columns(owner_id=pl.coalesce("work", "owner_id")).drop("work")


def _numbered(store: Store, night: Night) -> pl.DataFrame:
    """What owners have opted out of: `work, work_id, owner_id, choice, account, party_id`, the last two as it is booked."""
    works = (pl.lit(MARK) + pl.int_range(pl.len()).cast(pl.String)).alias("work")
    chosen = night.read_choices(store).select(works, *PAIR)
    owned = night.read_claims(store).with_columns(placeholder=pl.lit(None, pl.String))
    claims = owned.select(*PAIR, "choice", *booked_as())
    return chosen.join(claims.unique(PAIR, maintain_order=True), on=PAIR, maintain_order="left")


def alone(parties: pl.DataFrame) -> pl.DataFrame:
    """The rows of opted-out works, by the names that `claims_apart` gave them."""
    return parties.filter(pl.col("party_id").str.starts_with(MARK))


@dataclass(frozen=True)
class Withdrawn:
    """What the rules say of works that owners have opted out of, collected contract by contract.

    Attributes:
        claims: those of `claims_apart`; None where nobody has opted out.
        numbered: the works, and for whom each is booked.
        tables: `rule, output_id, work, share`.
    """

    claims: pl.DataFrame | None
    numbered: pl.DataFrame
    tables: list[pl.DataFrame] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, night: Night) -> Withdrawn:
        """That of a night."""
        if not night.choices:
            return cls(None, pl.DataFrame())
        return cls(claims_apart(store, night), _numbered(store, night))

    def flat(self, weights: pl.DataFrame, output_ids: Sequence[str]) -> None:
        """Add parts by count; the weights are `account, party_id, weight` of all parties, of opted-out works too."""
        if self.claims is None:
            return
        apart = pl.col("account") == APART
        whole = float(weights.filter(~apart)["weight"].sum()) or 1.0
        mine = weights.filter(apart).select(work="party_id", share=pl.col("weight") / whole)
        outputs = pl.DataFrame({"output_id": list(output_ids)}, schema={"output_id": pl.String})
        self.tables.append(_table(rules.FLAT, outputs.join(mine, how="cross")))

    def by_influence(self, works: pl.DataFrame, influence: np.ndarray, whole: np.ndarray, tables: Sequence[RuleTable]) -> None:
        """Add parts under rules that tell outputs apart: of a party's share, as much as a work has of the party's influence.

        Args:
            works: `party_id` of opted-out works; influence: theirs, `(q, works)`; whole: of the parties, `(q, n)`.
        """
        if not works.height:
            return
        parties = tables[0].parties.with_row_index("place").select(*PARTY, "place")
        booked = works.select(work="party_id").join(self.numbered, on="work", how="left", maintain_order="left")
        places = booked.join(parties, on=PARTY, how="left", maintain_order="left")["place"].to_list()
        known = [at for at, place in enumerate(places) if place is not None]
        columns = np.array([places[at] for at in known], dtype=np.int64)
        theirs = whole[:, columns]
        part = np.clip(np.divide(influence[:, known], theirs, out=np.zeros_like(theirs), where=theirs > 0), 0, 1)
        for table in tables:
            share = table.share[:, columns] * part
            rows = [
                pl.DataFrame({"work": works["party_id"].gather(known), "share": row}).with_columns(output_id=pl.lit(output))
                for output, row in zip(table.output_ids, share, strict=True)
            ]
            self.tables.extend([_table(table.rule, pl.concat(rows))] if rows else [])

    def shares(self) -> pl.DataFrame:
        """Each work's part of each output under every rule: `rule, output_id, work, account, party_id, share`."""
        empty = pl.DataFrame(schema={"rule": pl.String, "output_id": pl.String, "work": pl.String, "share": pl.Float64})
        found = pl.concat([empty, *self.tables]).join(self.numbered.select("work", *PARTY), on="work")
        return found.sort("rule", "output_id", "work")


def _table(rule: str, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(pl.lit(rule).alias("rule"), "output_id", "work", pl.col("share").cast(pl.Float64))


def withdrawn(
    store: Store,
    night: Night,
    *,
    outputs: pl.DataFrame,
    contracts: Mapping[str, Contract],
    weights: Mapping[str, float],
    shares: pl.DataFrame,
    pools: pl.DataFrame,
) -> pl.DataFrame:
    """The withdrawn table of a night: what part of the day's pools rests on each work that an owner opted out of.

    Args:
        outputs: `output_id, contract`; shares: the shares table; pools: `output_id, currency, pool`.
    """
    works = read_written(store, night.folder, "estimate", SHARES_APART)
    ruled = read_written(store, night.folder, "estimate", "rule_shares.parquet")
    paid = of_works(works, ruled, outputs, contracts, weights=weights, shares=shares)
    influence = works.filter(pl.col("rule") == rules.PROPORTIONAL).select("output_id", "work", part="share")
    numbered = _numbered(store, night)
    weighed = pools.filter(pl.col("pool") > 0).with_columns(pl.col("pool") / pl.col("pool").sum().over("currency"))

    def over_day(parts: pl.DataFrame, name: str) -> pl.DataFrame:
        each = weighed.join(parts, on="output_id").with_columns(part=pl.col("pool") * pl.col("part")).sort("work", "output_id")
        whole = each.group_by("currency", "work", maintain_order=True).agg(pl.col("part").sum())
        return whole.select("currency", "work", (pl.col("part") * PPB).round().cast(pl.Int64).alias(name))

    rows = weighed.select("currency").unique().join(numbered, how="cross")
    for parts, name in ((paid, "share_ppb"), (influence, "influence_ppb")):
        rows = rows.join(over_day(parts, name), on=["currency", "work"], how="left").with_columns(pl.col(name).fill_null(0))
    return rows.with_columns(pl.col("choice").fill_null("paid")).select(*WITHDRAWN.columns).sort(*WITHDRAWN.key)


def read_withdrawn(store: Store, folder: str) -> pl.DataFrame:
    """The withdrawn table of a night; none of nights in which nobody had opted out."""
    if WITHDRAWN_FILE not in read_manifest(store, folder, "shares").get("writes", {}):
        return pl.DataFrame(schema=WITHDRAWN.schema)
    return read_written(store, folder, "shares", WITHDRAWN_FILE)
