"""Who holds what part of each example: its owners by stake, and of copies those who have the claim on all of them.

A cluster of copies counts as one work of the mean size of its members: each of k copies counts 1/k, for the same holders.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from provenance.core.money import PPB
from provenance.corpus.duplicates import claimants
from provenance.corpus.examples import held_since, parties

PARTY = ("account", "party_id")


@dataclass(frozen=True)
class Clusters:
    """Copies that count together.

    Attributes:
        members: `example_id, cluster_id, part`, the last 1/k of a cluster of k.
        holders: `cluster_id, account, party_id, stake_ppb`.
    """

    members: pl.DataFrame
    holders: pl.DataFrame


def find_holders(examples: pl.DataFrame, claims: pl.DataFrame, day: date, clusters: pl.DataFrame, rule: str) -> Clusters:
    """Who holds each cluster of copies, by a contract's rule.

    Args:
        examples: `example_id, work_id, owner_id, acquired_at` of at least the clusters' members.
        clusters: `example_id, cluster_id`.
        rule: `earliest`, `equal` or `off`, as `Contract.duplicates`.
    """
    found = examples.join(clusters.select("example_id", "cluster_id"), on="example_id")
    if rule == "off":
        found = found.clear()
    works = found.select("cluster_id", "work_id").unique()
    held = held_since(found, claims, day).join(works, on="work_id")
    part = (1 / pl.len().over("cluster_id")).alias("part")
    return Clusters(found.select("example_id", "cluster_id", part), claimants(held, rule=rule))


def holdings(examples: pl.DataFrame, claims: pl.DataFrame, day: date, clusters: Clusters) -> pl.DataFrame:
    """What part of each example every party holds.

    Args:
        examples: `example_id, work_id, owner_id` of some or all of the corpus.

    Returns:
        `example_id, work_id, account, party_id, part, own`, sorted by example and party; an example that is no copy has
        parts that sum to one. `own` says whether the work is the party's by its own claim: a copy of it may be another's.
    """
    whose = parties(examples, claims, day)
    named = examples.select("example_id", "work_id").join(clusters.members, on="example_id", how="left", maintain_order="left")
    alone = named.filter(pl.col("cluster_id").is_null()).join(whose, on="work_id")
    copied = named.filter(pl.col("cluster_id").is_not_null()).join(clusters.holders, on="cluster_id")
    found = pl.concat([alone.with_columns(part=pl.lit(1.0)).select(copied.columns), copied])
    own = whose.select("work_id", *PARTY, own=pl.lit(True))
    found = found.with_columns(pl.col("part") * pl.col("stake_ppb") / PPB)
    found = found.join(own, on=["work_id", *PARTY], how="left").with_columns(pl.col("own").fill_null(False))
    return found.select("example_id", "work_id", *PARTY, "part", "own").sort("example_id", *PARTY)
