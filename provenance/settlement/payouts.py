"""What accountants collect: payouts and their intervals (a row per owner and currency), credits (per output and party)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from provenance.core.contracts import CREDITS, ESCROW, INTERVALS, PAYABLE, PAYOUTS
from provenance.core.money import PPB

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from provenance.settlement.accrual import Account


def payouts(
    day: date,
    revision: int,
    *,
    opening: Mapping[Account, int],
    day_before: Mapping[Account, int],
    day_after: Mapping[Account, int],
    credits: pl.DataFrame,
    names: Mapping[str, str],
) -> pl.DataFrame:
    """The payouts of one booking.

    In a first revision `adjustment_minor` is nothing. In a later one `earned_minor` is the day as it is now and
    `adjustment_minor` takes back the day as it was booked, so every row and every file adds up by itself.

    Args:
        opening: the ledger's balances before the booking.
        day_before, day_after: what the day amounted to before and after it.
        credits: the night's credits, to count outputs.
        names: owners' names by id.
    """
    counts = credits.filter(pl.col("account") == PAYABLE).group_by("owner_id", "currency").agg(pl.len())
    outputs = {(owner, currency): count for owner, currency, count in counts.iter_rows()}
    rows = []
    for account in sorted({*opening, *day_before, *day_after}):
        if account.account != PAYABLE:
            continue
        # The ledger keeps what is owed as a credit, below zero; an owner reads it as money above zero.
        before, earned, taken_back = -opening.get(account, 0), -day_after.get(account, 0), day_before.get(account, 0)
        rows.append(
            {
                "day": str(day),
                "revision": revision,
                "owner_id": account.party_id,
                "owner_name": names.get(account.party_id, account.party_id),
                "currency": account.currency,
                "outputs": outputs.get((account.party_id, account.currency), 0),
                "opening_balance_minor": before,
                "earned_minor": earned,
                "adjustment_minor": taken_back,
                "recouped_minor": 0,
                "withheld_minor": 0,
                "held_minor": 0,
                "paid_minor": 0,
                "closing_balance_minor": before + earned + taken_back,
                "status": "accrued",
                "hold_reason": "",
            }
        )
    return pl.DataFrame(rows, schema=PAYOUTS.schema).sort(*PAYOUTS.key)


def intervals(payouts: pl.DataFrame, night_shares: pl.DataFrame) -> pl.DataFrame:
    """How sure what owners earned is, in minor units, rounded outwards.

    Args:
        night_shares: the night shares table.
    """
    held = night_shares.filter(pl.col("account") == PAYABLE).drop("account").rename({"party_id": "owner_id"})
    found = payouts.filter(pl.col("earned_minor") != 0).join(held, on=["owner_id", "currency"])
    rows = []
    for *whose, earned, share, low, high in found.select(
        "day", "revision", "owner_id", "currency", "earned_minor", "share_ppb", "low_ppb", "high_ppb"
    ).iter_rows():
        ends = (earned * low // share, -(-earned * high // share)) if share else (earned, earned)
        rows.append((*whose, earned, *ends))
    return pl.DataFrame(rows, schema=INTERVALS.schema, orient="row").sort(*INTERVALS.key)


def credits(day: date, credited: pl.DataFrame, evidence: pl.DataFrame, by_rule: pl.DataFrame) -> pl.DataFrame:
    """Who is credited for each output, with the works behind it, most influential first, and what other rules would say.

    Args:
        by_rule: the rule shares table.
    """
    keys = ["output_id", "account", "party_id"]
    parts = pl.struct("rule", share_ppb=(pl.col("share") * PPB).round().cast(pl.Int64))
    ruled = by_rule.filter(pl.col("share") > 0).sort("rule").group_by(keys, maintain_order=True).agg(rules=parts)
    works = (
        evidence.sort("influence", "example_id", descending=[True, False])
        .group_by(keys, maintain_order=True)
        .agg(pl.struct("work_id", "example_id", "source_uri", "influence").alias("top_works"))
    )
    named = credited.join(works, on=keys, how="left", maintain_order="left")
    named = named.join(ruled, on=keys, how="left", maintain_order="left")
    is_owner, is_escrow = pl.col("account") == PAYABLE, pl.col("account") == ESCROW
    return named.with_columns(
        pl.lit(str(day)).alias("day"),
        pl.when(is_owner).then("party_id").alias("owner_id"),
        pl.when(is_escrow).then("party_id").alias("escrow_id"),
        pl.col("rules").fill_null([]).cast(CREDITS.columns["rules"].dtype),
        pl.col("top_works").fill_null([]).cast(CREDITS.columns["top_works"].dtype),
    ).select(*CREDITS.columns)
