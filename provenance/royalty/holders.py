"""Who holds the examples of a night's corpus, by each rule on copies that a contract of the night has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from provenance.core.store import Store
from provenance.corpus.holdings import Clusters, find_holders, holdings
from provenance.inputs.night import Night
from provenance.royalty.opted_out import APART, alone, claims_apart

NO_CLUSTERS = pl.DataFrame(schema={"example_id": pl.String, "cluster_id": pl.String})
COLUMNS = ("example_id", "work_id", "owner_id", "acquired_at")


@dataclass(frozen=True)
class Holders:
    """A night's claims and clusters of copies; `withdrawn` are both with opted-out works apart, if there are any."""

    claims: pl.DataFrame
    day: date
    clusters: Clusters
    withdrawn: tuple[pl.DataFrame, Clusters] | None = None

    def of(self, examples: pl.DataFrame) -> pl.DataFrame:
        """Holdings of some examples; opted-out works are also held by parties of an account of their own."""
        found = holdings(examples, self.claims, self.day, self.clusters)
        if self.withdrawn is None:
            return found
        claims, clusters = self.withdrawn
        apart = alone(holdings(examples, claims, self.day, clusters)).with_columns(account=pl.lit(APART))
        return pl.concat([found, apart])


def holders(store: Store, night: Night, rule: str) -> Holders:
    """Who holds what on the night's day, copies counted as a contract's rule says."""
    frozen = night.frozen_corpus(store)
    copies = NO_CLUSTERS if frozen.duplicates is None else store.read_table(frozen.duplicates.key)
    members = night.read_corpus(store, *COLUMNS).join(copies.select("example_id"), on="example_id", how="semi")
    claims, apart = night.read_claims(store), claims_apart(store, night)
    clusters = find_holders(members, claims, night.date, copies, rule)
    if apart is None:
        return Holders(claims, night.date, clusters)
    return Holders(claims, night.date, clusters, (apart, find_holders(members, apart, night.date, copies, rule)))


def duplicate_rules(night: Night) -> tuple[str, ...]:
    """The rules on copies of the night's contracts; of influence without contracts every example counts for itself."""
    return tuple(sorted({contract.duplicates for contract in night.contracts})) or ("off",)
