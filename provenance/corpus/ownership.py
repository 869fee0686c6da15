"""The parties of each work on a day: owners by stake, escrow without an owner, and the effect of owners' choices.

Claims and disputes have a first and a last day; only those in force on the day count.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.money import PPB
from provenance.core.store import Store, digest
from provenance.core.tables import DISPUTED, ESCROW, HELD_FOR, PAYABLE, UNATTRIBUTED

if TYPE_CHECKING:
    from provenance.corpus.shards import FrozenCorpus

# The treatment of an owner's part of a work: the owner's choice, or a dispute.
PAID, CREDITED, HELD, IN_DISPUTE = "paid", "credited", "held", "disputed"


def valid_on(claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The claims in force on a day."""
    return claims.filter(is_within(pl.lit(day), "valid_from", "valid_to"))


def is_within(day: pl.Expr, first: str, last: str) -> pl.Expr:
    """Whether a day lies in an interval; a null column leaves that end open."""
    return (pl.col(first).fill_null(day) <= day) & (pl.col(last).fill_null(day) >= day)


def with_choices(
    claims: pl.DataFrame, day: date, choices: pl.DataFrame | None = None, disputes: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The claims in force on a day with `choice`, the treatment of each owner's part; empty if it is simply paid.

    For a work in dispute, `dispute` is its name in escrow (`dispute_names`).

    Args:
        choices: `work_id, owner_id, choice` in force on the day.
        disputes: the disputes table; a dispute covers the whole work, and adds a row for an unclaimed work.
    """
    rows = valid_on(claims, day)
    choice_rows = pl.DataFrame(schema={"work_id": pl.String, "owner_id": pl.String, "choice": pl.String})
    if choices is not None:
        choice_rows = choices.select("work_id", "owner_id", "choice")
    rows = rows.join(choice_rows, on=["work_id", "owner_id"], how="left", maintain_order="left")
    if disputes is None:
        return rows.with_columns(dispute=pl.lit(None, pl.String))
    works = dispute_names(disputes, day)
    rows = rows.join(works, on="work_id", how="left", maintain_order="left")
    disputed = pl.col("dispute").is_not_null()
    rows = rows.with_columns(pl.when(disputed).then(pl.lit(IN_DISPUTE)).otherwise("choice").alias("choice"))
    unclaimed = works.join(rows, on="work_id", how="anti").with_columns(
        stake_ppb=pl.lit(PPB, pl.Int64), choice=pl.lit(IN_DISPUTE)
    )
    return pl.concat([rows, unclaimed], how="diagonal")


def open_on(disputes: pl.DataFrame, day: date) -> pl.DataFrame:
    """The disputes that are open on a day."""
    return disputes.filter(is_within(pl.lit(day), "opened_on", "closed_on"))


def dispute_names(disputes: pl.DataFrame, day: date) -> pl.DataFrame:
    """The names in escrow of works in dispute on a day: `work_id, dispute`, sorted by work.

    A name covers exactly the disputes that are open together, so releasing it never pays an amount that another owner
    disputes, too.
    """
    still = open_on(disputes, day).sort("opened_on", "owner_id").group_by("work_id", maintain_order=True)
    names = []
    for work, opened, owners in still.agg("opened_on", "owner_id").iter_rows():
        key = digest([f"{on} {owner}" for on, owner in zip(opened, owners, strict=True)])[:8]
        names.append((work, f"{DISPUTED}{opened[0]}-{key}-{work}"))
    return pl.DataFrame(sorted(names), schema={"work_id": pl.String, "dispute": pl.String}, orient="row")


def parties(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The parties of each work on a day: its owners by stake or, without a claim, escrow.

    The name in escrow is the placeholder in `owner_id` (works that seem to have one unknown owner), else the work.

    Args:
        claims: with a column `choice` (`with_choices`), choices take effect: held in escrow for the owner, credited without
            money, or, in a dispute, in escrow until it is decided.

    Returns:
        `work_id, account, party_id, stake_ppb`, sorted; each work's stakes sum to 1,000,000,000.
    """
    return _behind(examples, claims, day).drop("claimed", "since")


def held_since(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The parties with `claimed`, whether the claimant is known, and `since`.

    `since` is the first day of the claim, else the day on which the work was collected, if known.
    """
    collected = examples.group_by("work_id").agg(collected=pl.col("acquired_at").min().dt.date())
    stakes = _behind(examples, claims, day).join(collected, on="work_id", how="left", maintain_order="left")
    return stakes.with_columns(since=pl.coalesce("since", "collected")).drop("collected")


def _behind(examples: pl.DataFrame, claims: pl.DataFrame, day: date) -> pl.DataFrame:
    """The parties with `claimed`, whether the claimant is known, and `since`, the first day of the claim."""
    works = examples.group_by("work_id").agg(placeholder=pl.col("owner_id").first())
    for column in ("choice", "dispute"):
        if column not in claims.columns:
            claims = claims.with_columns(pl.lit(None, pl.String).alias(column))
    is_known = pl.col("owner_id").is_not_null() | pl.col("dispute").is_not_null()
    rows = works.join(valid_on(claims, day), on="work_id", how="left").select(
        "work_id", *booked_as(), pl.col("stake_ppb").fill_null(PPB), is_known.alias("claimed"), "valid_from"
    )
    # An owner may have several claims on a work, for example as writer and as publisher.
    return (
        rows.group_by("work_id", "account", "party_id")
        .agg(pl.col("stake_ppb").sum(), pl.col("claimed").any(), since=pl.col("valid_from").min())
        .sort("work_id", "account", "party_id")
    )


def booked_as() -> tuple[pl.Expr, pl.Expr]:
    """The `account` and `party_id` of a claim, by its `work_id, owner_id, choice, dispute, placeholder`."""
    choice, owner, dispute = pl.col("choice"), pl.col("owner_id"), pl.col("dispute")
    disputed = dispute.is_not_null()
    account = (
        pl.when(disputed | (choice == HELD))
        .then(pl.lit(ESCROW))
        .when(choice == CREDITED)
        .then(pl.lit(UNATTRIBUTED))
        .when(owner.is_null())
        .then(pl.lit(ESCROW))
        .otherwise(pl.lit(PAYABLE))
    )
    party = (
        pl.when(disputed)
        .then(dispute)
        .when(choice == HELD)
        .then(pl.lit(HELD_FOR) + owner)
        .otherwise(pl.coalesce("owner_id", "placeholder", "work_id"))
    )
    return account.alias("account"), party.alias("party_id")


def since(examples: pl.DataFrame, claims: pl.DataFrame) -> pl.DataFrame:
    """The examples with `since`: the first day of a claim on their work, else the day of their collection, if known."""
    first = claims.group_by("work_id").agg(claimed=pl.col("valid_from").min())
    dated = examples.join(first, on="work_id", how="left", maintain_order="left")
    return dated.with_columns(since=pl.coalesce("claimed", pl.col("acquired_at").dt.date())).drop("claimed")


def ownership(
    store: Store, corpus: FrozenCorpus, work_id: str, day: date, *, examples: pl.DataFrame, choices: pl.DataFrame
) -> dict[str, Any]:
    """The owners of a work of a corpus on a day.

    Args:
        examples: `work_id, owner_id, unmatched_reason` of the work's examples that models are trained on.
        choices: `work_id, owner_id, choice` in force on the day.

    Returns:
        `stakes` in force on the day, `others` not in force, open `disputes`, `unmatched_reason`, and `parties`, to which its
        money is booked. A work that is held out whole has no parties.
    """
    claims = store.read_table(corpus.claims.key).filter(pl.col("work_id") == work_id)
    disputes = store.read_table(corpus.disputes.key).filter(pl.col("work_id") == work_id) if corpus.disputes else None
    names = dict(store.read_table(corpus.owners.key).select("owner_id", "name").iter_rows())
    stakes = valid_on(claims, day)
    not_in_force = claims.join(stakes, on=claims.columns, how="anti", nulls_equal=True)
    choice_of = {owner: choice for work, owner, choice in choices.iter_rows() if work == work_id}
    booked = parties(examples, with_choices(claims, day, choices, disputes), day)
    return {
        "stakes": [_claim(row, names) | {"choice": choice_of.get(row["owner_id"])} for row in stakes.iter_rows(named=True)],
        "others": [_claim(row, names) for row in not_in_force.iter_rows(named=True)],
        "disputes": [] if disputes is None else open_on(disputes, day).drop("work_id").to_dicts(),
        "unmatched_reason": examples["unmatched_reason"].drop_nulls().min(),
        "parties": booked.drop("work_id").to_dicts(),
    }


def _claim(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    owner = row["owner_id"]
    return {"owner_id": owner, "owner_name": names.get(owner, owner)} | {
        name: row[name] for name in ("stake_ppb", "valid_from", "valid_to", "evidence")
    }
