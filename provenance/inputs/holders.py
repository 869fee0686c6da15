"""Finds the parties that hold the examples of a night's corpus, under a contract's rule on copies.

Opted-out works are held a second time, by numbered parties of the account `withdrawn`. That account is never paid; it measures
how much each opted-out work would have earned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from provenance.core.store import Store
from provenance.corpus.ownership import booked_as, valid_on
from provenance.corpus.shards import read_copies, read_part
from provenance.inputs.night import Night

if TYPE_CHECKING:
    from provenance.corpus.holdings import Clusters

COLUMNS = ("example_id", "work_id", "owner_id", "acquired_at")
OPTED_OUT = "withdrawn"  # the account of opted-out works
NUMBER_PREFIX = "\0"  # ids have no control characters, so a number never equals an owner's id
PAIR = ["work_id", "owner_id"]


@dataclass(frozen=True)
class Holders:
    """A night's claims and clusters of copies.

    Attributes:
        withdrawn: the same with owners who opted out replaced by numbers (`numbered_claims`); None if nobody has.
    """

    claims: pl.DataFrame
    day: date
    clusters: Clusters
    withdrawn: tuple[pl.DataFrame, Clusters] | None = None

    def of(self, examples: pl.DataFrame) -> pl.DataFrame:
        """Holdings of some examples; opted-out works are held a second time, in the account `withdrawn`."""
        from provenance.corpus.holdings import holdings  # with SciPy, which a night without news does without

        by_claims = holdings(examples, self.claims, self.day, self.clusters)
        if self.withdrawn is None:
            return by_claims
        claims, clusters = self.withdrawn
        by_number = pl.col("party_id").str.starts_with(NUMBER_PREFIX)
        opted_out = holdings(examples, claims, self.day, clusters).filter(by_number).with_columns(account=pl.lit(OPTED_OUT))
        return pl.concat([by_claims, opted_out])


def holders(store: Store, night: Night, rule: str) -> Holders:
    """The holders of a night's corpus on its day.

    Args:
        rule: on copies, `Contract.duplicates`.
    """
    from provenance.corpus.holdings import find_holders

    corpus = night.frozen_corpus(store)
    copies = read_copies(store, corpus)
    parts = (read_part(store, part.sha256, *COLUMNS) for part in corpus.shards)
    members = pl.concat([part.join(copies.select("example_id"), on="example_id", how="semi") for part in parts])
    claims, numbered = night.read_claims(store), numbered_claims(store, night)
    clusters = find_holders(members, claims, night.date, copies, rule)
    if numbered is None:
        return Holders(claims, night.date, clusters)
    return Holders(claims, night.date, clusters, (numbered, find_holders(members, numbered, night.date, copies, rule)))


def holdings_by_group(store: Store, night: Night, rule: str, groups: Sequence[Sequence[str]]) -> Iterator[pl.DataFrame]:
    """The holdings of the examples of groups of shards, one group after another, with `row`: the example's place in its group.

    Args:
        groups: SHA-256 of the shards of each group.
    """
    every = holders(store, night, rule)
    works = [
        pl.concat([read_part(store, part, "work_id") for part in group]).unique().with_columns(group=pl.lit(number))
        for number, group in enumerate(groups)
    ]
    # Each claim is looked at once, and not once for each group.
    placed = every.claims.join(pl.concat(works), on="work_id", maintain_order="left") if works else every.claims
    claims = placed.partition_by("group", as_dict=True, include_key=False) if works else {}
    for number, group in enumerate(groups):
        examples = pl.concat([read_part(store, part, *COLUMNS) for part in group])
        held = replace(every, claims=claims.get((number,), every.claims.clear())).of(examples)
        yield held.join(examples.select("example_id").with_row_index("row"), on="example_id", maintain_order="left")


def duplicate_rules(night: Night) -> tuple[str, ...]:
    """The rules on copies of the night's contracts; without contracts `off`."""
    return tuple(sorted({contract.duplicates for contract in night.contracts})) or ("off",)


def numbered_claims(store: Store, night: Night) -> pl.DataFrame | None:
    """The claims in force on the night's day, with the number of an opted-out work as its owner; None if nobody opted out."""
    if not night.choices:
        return None
    numbers = opted_out_works(store, night).select(*PAIR, "work")
    claims = valid_on(store.read_table(night.frozen_corpus(store).claims.key), night.date)
    claims = claims.join(numbers, on=PAIR, how="left", maintain_order="left")
    return claims.with_columns(owner_id=pl.coalesce("work", "owner_id")).drop("work")


def opted_out_works(store: Store, night: Night) -> pl.DataFrame:
    """The opted-out works, numbered: `work, work_id, owner_id, choice, account, party_id`.

    `work` is the number; `account, party_id` are those of the booking.
    """
    numbers = (pl.lit(NUMBER_PREFIX) + pl.int_range(pl.len()).cast(pl.String)).alias("work")
    chosen = night.read_choices(store).select(numbers, *PAIR)
    owned = night.read_claims(store).with_columns(placeholder=pl.lit(None, pl.String))
    claims = owned.select(*PAIR, "choice", *booked_as())
    return chosen.join(claims.unique(PAIR, maintain_order=True), on=PAIR, maintain_order="left")
