"""Makes the tables that accountants collect: payouts and intervals (by owner and currency), credits (by output and party)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from provenance.core.money import PPB
from provenance.core.store import parquet_of
from provenance.core.tables import CREDITS, ESCROW, INTERVALS, PAYABLE, PAYOUTS, UNATTRIBUTED
from provenance.core.text import plain
from provenance.settlement.accounts import EXCHANGE, HELD, OWED, PAID, RECOUPED, WITHHELD, Account, Standing


@dataclass(frozen=True)
class Movements:
    """Changes of the ledger by a night's booking and those since the last published one.

    Attributes:
        opening: balances after the last published booking; closing: after this one.
        day_before, day_after: amounts of the day before and after this booking, by beneficiary.
        moved: changes by bookings other than nights in between.
        standing: holds and claims after this booking.
    """

    opening: Mapping[Account, int]
    closing: Mapping[Account, int]
    day_before: Mapping[Account, int]
    day_after: Mapping[Account, int]
    moved: Mapping[Account, int]
    standing: Standing


@dataclass(frozen=True)
class CreditsFile:
    """The credits table.

    Attributes:
        data: as Parquet; rows: their number.
        outputs: how many outputs credit an owner, by owner and currency.
    """

    data: bytes
    rows: int
    outputs: Mapping[tuple[str, str], int]


def credits_file(parts: Iterable[pl.DataFrame]) -> CreditsFile:
    """The file of a credits table, of which one part at a time is in memory."""
    rows, outputs = 0, Counter[tuple[str, str]]()

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal rows
        for part in parts:
            rows += part.height
            paid = part.filter(pl.col("account") == PAYABLE).group_by("owner_id", "currency").len()
            outputs.update({(owner, currency): count for owner, currency, count in paid.iter_rows()})
            yield part

    data = parquet_of(counted())
    return CreditsFile(data, rows, outputs)


def payouts(
    day: date,
    revision: int,
    *,
    movements: Movements,
    outputs: Mapping[tuple[str, str], int],
    names: Mapping[str, str],
) -> pl.DataFrame:
    """The payouts of one booking.

    In a first revision, `adjustment_minor` has the amounts that owners claimed from escrow since the last export. In a later
    one, `earned_minor` is the corrected day, and `adjustment_minor` also takes back the day as it was booked before. So every
    row and every file adds up by itself.

    Args:
        outputs: as `CreditsFile` has them.
        names: owners' names by id.

    Raises:
        AssertionError: a row does not add up to the ledger's closing balance.
    """
    m = movements
    sources = (m.opening, m.closing, m.day_before, m.day_after, m.moved)
    keys = sorted({(a.party_id, a.currency) for amounts in sources for a in amounts if a.account in OWED})
    rows = []
    for owner, currency in keys:

        def total(amounts: Mapping[Account, int], *accounts: str, owner: str = owner, currency: str = currency) -> int:
            # Credits are below zero in the ledger, and above zero for owners.
            return -sum(amounts.get(Account(name, owner, currency), 0) for name in accounts)

        outgoing = {name: total(m.moved, name) for name in (RECOUPED, WITHHELD)} | {PAID: total(m.moved, PAID, EXCHANGE)}
        row = {
            "day": str(day),
            "revision": revision,
            "owner_id": owner,
            "owner_name": plain(names.get(owner, owner)) or owner,  # on one line: lines are proven one by one
            "currency": currency,
            "outputs": outputs.get((owner, currency), 0),
            "opening_balance_minor": total(m.opening, *OWED),
            "earned_minor": total(m.day_after, PAYABLE),
            "adjustment_minor": total(m.moved, *OWED) + sum(outgoing.values()) - total(m.day_before, PAYABLE),
            "recouped_minor": outgoing[RECOUPED],
            "withheld_minor": outgoing[WITHHELD],
            "held_minor": total(m.closing, HELD),
            "paid_minor": outgoing[PAID],
            "closing_balance_minor": total(m.closing, *OWED),
            "status": "held" if owner in m.standing.holds else "accrued",
            "hold_reason": plain("; ".join(m.standing.holds.get(owner, ()))),
        }
        if closing(row) != row["closing_balance_minor"]:
            raise AssertionError(
                f"{owner} {currency}: adds up to {closing(row)}, the ledger has {row['closing_balance_minor']}"
            )
        rows.append(row)
    return PAYOUTS.frame(rows).sort(*PAYOUTS.key)


def as_claimed(table: pl.DataFrame, standing: Standing) -> pl.DataFrame:
    """A table by account and party, with claimed escrows given to their claimants; numbers of equal keys are added."""
    party = pl.col("party_id")
    claimed = (pl.col("account") == ESCROW) & party.is_in(list(standing.claimed))
    if table.filter(claimed).is_empty():
        return table
    claimant = pl.when(claimed).then(party.replace(dict(standing.claimed))).otherwise(party)
    renamed = table.with_columns(
        claimant.alias("party_id"), pl.when(claimed).then(pl.lit(PAYABLE)).otherwise("account").alias("account")
    )
    numbers = [name for name, kind in table.schema.items() if kind.is_numeric()]
    keys = [name for name in table.columns if name not in numbers]
    return renamed.group_by(keys, maintain_order=True).agg(pl.col(numbers).sum()).select(table.columns)


def closing(row: Mapping[str, Any]) -> int:
    """The closing balance that a row's other amounts add up to."""
    into = ("opening_balance_minor", "earned_minor", "adjustment_minor")
    out = ("recouped_minor", "withheld_minor", "paid_minor")
    return sum(int(row[name]) for name in into) - sum(int(row[name]) for name in out)


def intervals(payouts: pl.DataFrame, night_shares: pl.DataFrame) -> pl.DataFrame:
    """Intervals of what owners earned, from the night shares table; in minor units, rounded outwards."""
    by_owner = night_shares.filter(pl.col("account") == PAYABLE).drop("account").rename({"party_id": "owner_id"})
    joined = payouts.filter(pl.col("earned_minor") != 0).join(by_owner, on=["owner_id", "currency"])
    rows = []
    for *key, earned, share, low, high in joined.select(
        "day", "revision", "owner_id", "currency", "earned_minor", "share_ppb", "low_ppb", "high_ppb"
    ).iter_rows():
        ends = (earned * low // share, -(-earned * high // share)) if share else (earned, earned)
        rows.append((*key, earned, *ends))
    return INTERVALS.frame(rows).sort(*INTERVALS.key)


def credits(day: date, credited: pl.DataFrame, evidence: pl.DataFrame, by_rule: pl.DataFrame) -> pl.DataFrame:
    """Credits by output and party, with the works behind them, most influential first, and the shares by other rules."""
    keys = ["output_id", "account", "party_id"]
    parts = pl.struct("rule", share_ppb=(pl.col("share") * PPB).round().cast(pl.Int64))
    ruled = by_rule.filter(pl.col("share") > 0).sort("rule").group_by(keys, maintain_order=True).agg(rules=parts)
    works = (
        evidence.sort("influence", "example_id", descending=[True, False])
        .group_by(keys, maintain_order=True)
        .agg(pl.struct("work_id", "example_id", "source_uri", "influence").alias("top_works"))
    )
    table = credited.join(works, on=keys, how="left", maintain_order="left")
    table = table.join(ruled, on=keys, how="left", maintain_order="left")
    without_money = (pl.col("account") == UNATTRIBUTED) & (pl.col("party_id") != "")
    is_owner, is_escrow = (pl.col("account") == PAYABLE) | without_money, pl.col("account") == ESCROW
    return table.with_columns(
        pl.lit(str(day)).alias("day"),
        pl.when(is_owner).then("party_id").alias("owner_id"),
        pl.when(is_escrow).then("party_id").alias("escrow_id"),
        pl.col("rules").fill_null([]).cast(CREDITS.columns["rules"].dtype),
        pl.col("top_works").fill_null([]).cast(CREDITS.columns["top_works"].dtype),
    ).select(*CREDITS.columns)
