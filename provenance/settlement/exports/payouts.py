"""What accountants collect: payouts and their intervals (a row per owner and currency), credits (per output and party)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from provenance.core.contracts import CREDITS, ESCROW, INTERVALS, PAYABLE, PAYOUTS, UNATTRIBUTED
from provenance.core.money import PPB
from provenance.core.text import plain
from provenance.settlement.accounts import EXCHANGE, HELD, OWED, PAID, RECOUPED, WITHHELD, Account, Standing


@dataclass(frozen=True)
class Movements:
    """What a night's booking and those since the last published one did to the ledger.

    Attributes:
        opening: balances after the last published booking; closing: after this one.
        day_before, day_after: what the day amounted to before and after this booking, by whom that is for.
        moved: what bookings other than nights did in between.
        standing: who is on hold after this booking, and what has been claimed.
    """

    opening: Mapping[Account, int]
    closing: Mapping[Account, int]
    day_before: Mapping[Account, int]
    day_after: Mapping[Account, int]
    moved: Mapping[Account, int]
    standing: Standing


def payouts(day: date, revision: int, *, movements: Movements, credits: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """The payouts of one booking.

    In a first revision `adjustment_minor` is what owners have claimed out of escrow since the last export. In a later one
    `earned_minor` is the day as it is now, and `adjustment_minor` takes back the day as it was booked, too; so every row and
    every file adds up by itself.

    Args:
        credits: the night's credits, to count outputs.
        names: owners' names by id.

    Raises:
        AssertionError: a row does not add up to the ledger's closing balance.
    """
    counts = credits.filter(pl.col("account") == PAYABLE).group_by("owner_id", "currency").agg(pl.len())
    outputs = {(owner, currency): count for owner, currency, count in counts.iter_rows()}
    m = movements
    seen = (m.opening, m.closing, m.day_before, m.day_after, m.moved)
    whose = sorted({(a.party_id, a.currency) for amounts in seen for a in amounts if a.account in OWED})
    rows = []
    for owner, currency in whose:

        def of(amounts: Mapping[Account, int], *accounts: str, owner: str = owner, currency: str = currency) -> int:
            # The ledger keeps what is owed as a credit, below zero; an owner reads it as money above zero.
            return -sum(amounts.get(Account(name, owner, currency), 0) for name in accounts)

        gone = {name: of(m.moved, name) for name in (RECOUPED, WITHHELD)} | {PAID: of(m.moved, PAID, EXCHANGE)}
        row = {
            "day": str(day),
            "revision": revision,
            "owner_id": owner,
            "owner_name": plain(names.get(owner, owner)) or owner,  # a row is a line, and is proven as one
            "currency": currency,
            "outputs": outputs.get((owner, currency), 0),
            "opening_balance_minor": of(m.opening, *OWED),
            "earned_minor": of(m.day_after, PAYABLE),
            "adjustment_minor": of(m.moved, *OWED) + sum(gone.values()) - of(m.day_before, PAYABLE),
            "recouped_minor": gone[RECOUPED],
            "withheld_minor": gone[WITHHELD],
            "held_minor": of(m.closing, HELD),
            "paid_minor": gone[PAID],
            "closing_balance_minor": of(m.closing, *OWED),
            "status": "held" if owner in m.standing.held else "accrued",
            "hold_reason": plain("; ".join(m.standing.held.get(owner, ()))),
        }
        if closing(row) != row["closing_balance_minor"]:
            raise AssertionError(
                f"{owner} {currency}: adds up to {closing(row)}, the ledger has {row['closing_balance_minor']}"
            )
        rows.append(row)
    return PAYOUTS.frame(rows).sort(*PAYOUTS.key)


def as_claimed(table: pl.DataFrame, standing: Standing) -> pl.DataFrame:
    """A table by account and party, with what was claimed out of escrow given to the claimants; their numbers are added up."""
    party = pl.col("party_id")
    taken = (pl.col("account") == ESCROW) & party.is_in(list(standing.claimed))
    if table.filter(taken).is_empty():
        return table
    owner = pl.when(taken).then(party.replace(dict(standing.claimed))).otherwise(party)
    named = table.with_columns(
        owner.alias("party_id"), pl.when(taken).then(pl.lit(PAYABLE)).otherwise("account").alias("account")
    )
    numbers = [name for name, kind in table.schema.items() if kind.is_numeric()]
    keys = [name for name in table.columns if name not in numbers]
    return named.group_by(keys, maintain_order=True).agg(pl.col(numbers).sum()).select(table.columns)


def closing(row: Mapping[str, Any]) -> int:
    """What a row's amounts add up to."""
    into = ("opening_balance_minor", "earned_minor", "adjustment_minor")
    out = ("recouped_minor", "withheld_minor", "paid_minor")
    return sum(int(row[name]) for name in into) - sum(int(row[name]) for name in out)


def intervals(payouts: pl.DataFrame, night_shares: pl.DataFrame) -> pl.DataFrame:
    """How sure what owners earned is, by the night shares table: in minor units, rounded outwards."""
    held = night_shares.filter(pl.col("account") == PAYABLE).drop("account").rename({"party_id": "owner_id"})
    found = payouts.filter(pl.col("earned_minor") != 0).join(held, on=["owner_id", "currency"])
    rows = []
    for *whose, earned, share, low, high in found.select(
        "day", "revision", "owner_id", "currency", "earned_minor", "share_ppb", "low_ppb", "high_ppb"
    ).iter_rows():
        ends = (earned * low // share, -(-earned * high // share)) if share else (earned, earned)
        rows.append((*whose, earned, *ends))
    return INTERVALS.frame(rows).sort(*INTERVALS.key)


def credits(day: date, credited: pl.DataFrame, evidence: pl.DataFrame, by_rule: pl.DataFrame) -> pl.DataFrame:
    """Who is credited for each output, with the works behind it, most influential first, and what other rules say."""
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
    without_money = (pl.col("account") == UNATTRIBUTED) & (pl.col("party_id") != "")
    is_owner, is_escrow = (pl.col("account") == PAYABLE) | without_money, pl.col("account") == ESCROW
    return named.with_columns(
        pl.lit(str(day)).alias("day"),
        pl.when(is_owner).then("party_id").alias("owner_id"),
        pl.when(is_escrow).then("party_id").alias("escrow_id"),
        pl.col("rules").fill_null([]).cast(CREDITS.columns["rules"].dtype),
        pl.col("top_works").fill_null([]).cast(CREDITS.columns["top_works"].dtype),
    ).select(*CREDITS.columns)
