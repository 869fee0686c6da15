"""The part of each example that every party holds: by stake, and for copies by the claim on their cluster.

A cluster of copies counts as one work of the mean size of its members: each of k copies counts 1/k, for the same holders.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from provenance.core.money import PPB
from provenance.corpus.duplicates import claimants
from provenance.corpus.ownership import held_since, parties

PARTY = ("account", "party_id")


@dataclass(frozen=True)
class Clusters:
    """Clusters of copies and their holders.

    Attributes:
        members: `example_id, cluster_id, part`; `part` is 1/k in a cluster of k.
        holders: `cluster_id, account, party_id, stake_ppb`.
    """

    members: pl.DataFrame
    holders: pl.DataFrame


def find_holders(examples: pl.DataFrame, claims: pl.DataFrame, day: date, clusters: pl.DataFrame, rule: str) -> Clusters:
    """Find the holders of each cluster of copies, by a contract's rule.

    Args:
        examples: `example_id, work_id, owner_id, acquired_at` of at least the clusters' members.
        clusters: `example_id, cluster_id`.
        rule: `earliest`, `equal` or `off`, as `Contract.duplicates`.
    """
    members = examples.join(clusters.select("example_id", "cluster_id"), on="example_id")
    if rule == "off":
        members = members.clear()
    works = members.select("cluster_id", "work_id").unique()
    stakes = held_since(members, claims, day).join(works, on="work_id")
    part = (1 / pl.len().over("cluster_id")).alias("part")
    return Clusters(members.select("example_id", "cluster_id", part), claimants(stakes, rule=rule))


def holdings(examples: pl.DataFrame, claims: pl.DataFrame, day: date, clusters: Clusters) -> pl.DataFrame:
    """The part of each example that every party holds.

    Args:
        examples: `example_id, work_id, owner_id` of some or all of the corpus.

    Returns:
        `example_id, work_id, account, party_id, part, own`, sorted by example and party. Parts of an example that is no copy
        sum to 1. `own`: the party holds the work by its own claim, and not as holder of a cluster.
    """
    stakes = parties(examples, claims, day)
    placed = examples.select("example_id", "work_id").join(clusters.members, on="example_id", how="left", maintain_order="left")
    alone = placed.filter(pl.col("cluster_id").is_null()).join(stakes, on="work_id")
    copied = placed.filter(pl.col("cluster_id").is_not_null()).join(clusters.holders, on="cluster_id")
    parts = pl.concat([alone.with_columns(part=pl.lit(1.0)).select(copied.columns), copied])
    own = stakes.select("work_id", *PARTY, own=pl.lit(True))
    parts = parts.with_columns(pl.col("part") * pl.col("stake_ppb") / PPB)
    parts = parts.join(own, on=["work_id", *PARTY], how="left").with_columns(pl.col("own").fill_null(False))
    return parts.select("example_id", "work_id", *PARTY, "part", "own").sort("example_id", *PARTY)
