"""How much a night still rests on what owners have opted out of: exact sums, beside those that decide shares.

The owner's part of each such work is summed as a party of its own, in an account that is nobody's; these sums are kept apart
from those of parties, which are what they would be without.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from provenance.core.contracts import WITHDRAWN
from provenance.core.money import PPB
from provenance.corpus.examples import booked_as, valid_on
from provenance.royalty import shares as rules
from provenance.royalty.shares import of_works
from tasks.night import read_manifest, read_written

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from provenance.core.store import Store
    from provenance.influence.scores import ShardScores
    from provenance.royalty.contracts import Contract
    from tasks.night import Night

APART = "withdrawn"
INFLUENCE_APART, SHARES_APART, WITHDRAWN_FILE = "withdrawn_influence.parquet", "withdrawn_shares.parquet", "withdrawn.parquet"
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


def with_apart(
    held: Callable[[pl.DataFrame, pl.DataFrame, date], pl.DataFrame],
    examples: pl.DataFrame,
    claims: pl.DataFrame,
    apart: pl.DataFrame | None,
    day: date,
) -> list[pl.DataFrame]:
    """The parties of works, and what owners have opted out of as parties of an account of its own, if there is any.

    Args:
        held: who stands behind the works of examples, by claims on a day.
    """
    found = [held(examples, claims, day)]
    if apart is not None:
        alone = _alone(held(examples, apart, day))
        found += [alone.with_columns(account=pl.lit(APART))] if alone.height else []
    return found


def _alone(parties: pl.DataFrame) -> pl.DataFrame:
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
    influence: pl.DataFrame
    tables: list[pl.DataFrame] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, night: Night) -> Withdrawn:
        """That of a night whose scores are there."""
        if not night.choices:
            return cls(None, pl.DataFrame(), pl.DataFrame())
        influence = read_written(store, night.folder, "scores", INFLUENCE_APART)
        return cls(claims_apart(store, night), _numbered(store, night), influence)

    def flat(self, weights: pl.DataFrame, whole: float, output_ids: Sequence[str]) -> None:
        """Add parts by count.

        Args:
            weights: `party_id, weight` by the claims apart; whole: the weight of everybody.
        """
        mine = _alone(weights).select(work="party_id", share=pl.col("weight") / (whole or 1.0))
        outputs = pl.DataFrame({"output_id": list(output_ids)}, schema={"output_id": pl.String})
        self.tables.append(_table(rules.FLAT, outputs.join(mine, how="cross")))

    def by_value(self, output_ids: Sequence[str], found: ShardScores, alone: ShardScores, *, paid: int) -> None:
        """Add parts by what works add to the run.

        Args:
            found: sums by party; alone: by work; paid: how many sources count.
        """
        if self.claims is None or not alone.parties.height:
            return
        whole = np.maximum(found.sums[:paid].sum(axis=0), 0).sum(axis=1)
        parts = np.maximum(alone.sums[:paid].sum(axis=0), 0)
        share = np.divide(parts, whole[:, None], out=np.zeros_like(parts), where=whole[:, None] > 0)
        rows = [
            pl.DataFrame({"work": alone.parties["party_id"], "share": row}).with_columns(output_id=pl.lit(output))
            for output, row in zip(output_ids, share, strict=True)
        ]
        self.tables.append(_table(rules.FAITHFUL, pl.concat(rows)))

    def shares(self, by_source: pl.DataFrame, ruled: pl.DataFrame) -> pl.DataFrame:
        """Each work's part of each output under every rule: `rule, output_id, work, account, party_id, share`.

        Under `srs`, whose game knows no works, a party's share is divided among them as under `faithful`.

        Args:
            by_source: `output_id, ..., value`, the influence of parties; ruled: the rule shares table.
        """
        each = by_source.group_by("output_id", *PARTY).agg(pl.col("value").sum()).sort("output_id", *PARTY)
        whole = each.group_by("output_id", maintain_order=True).agg(whole=pl.col("value").clip(lower_bound=0).sum())
        mine = self.influence.group_by("output_id", work="party_id").agg(pl.col("influence").sum()).join(whole, on="output_id")
        share = pl.col("influence").clip(lower_bound=0) / pl.col("whole")
        tables = [*self.tables, _table(rules.PROPORTIONAL, mine.filter(pl.col("whole") > 0).with_columns(share=share))]
        booked = self.numbered.select("work", *PARTY)
        found = pl.concat(tables).join(booked, on="work")
        faithful = found.filter(pl.col("rule") == rules.FAITHFUL)
        keys = ["output_id", *PARTY]
        wholes = [ruled.filter(pl.col("rule") == name).select(*keys, pl.col("share").alias(name)) for name in rules.BY_VALUE]
        parted = faithful.join(wholes[0], on=keys).join(wholes[1], on=keys)
        part = (pl.col("share") / pl.col(rules.FAITHFUL)).fill_nan(0.0).clip(0, 1) * pl.col(rules.SRS)
        by_game = parted.with_columns(rule=pl.lit(rules.SRS), share=part).select(found.columns)
        return pl.concat([found, by_game]).sort("rule", "output_id", "work")


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
    works = read_written(store, night.folder, "values", SHARES_APART)
    ruled = read_written(store, night.folder, "values", "rule_shares.parquet")
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
