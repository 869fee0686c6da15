"""Splits a day's revenue: first the developer's part, then each output's pool by the shares of its owners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import polars as pl

from provenance.core.money import NANO, PPB, allocate
from provenance.core.store import Store, digest
from provenance.core.tables import UNATTRIBUTED
from provenance.inputs.night import Night, read_manifest, read_parts, with_terms
from provenance.settlement.accounts import DEVELOPER, RECEIVABLE, Account


def credit_outputs(outputs: pl.DataFrame, shares: pl.DataFrame) -> pl.DataFrame:
    """Amounts by output and party, exact to a billionth of a minor unit.

    Args:
        outputs: `output_id, currency, revenue_minor, developer_ppb`.

    Returns:
        The shares with `currency` and `amount_nanominor`. An output's amounts and the developer's share of it
        (`revenue_minor * developer_ppb`) sum to its revenue exactly.
    """
    joined = shares.join(outputs.select("output_id", "currency", "revenue_minor", "developer_ppb"), on="output_id").sort(
        "output_id", "account", "party_id"
    )
    amounts: list[int] = []
    for _, group in joined.group_by("output_id", maintain_order=True):
        pool = group["revenue_minor"][0] * (PPB - group["developer_ppb"][0])
        amounts += allocate(pool, group["share_ppb"].to_list())
    return joined.drop("revenue_minor", "developer_ppb").with_columns(pl.Series("amount_nanominor", amounts, dtype=pl.Int64))


def accrue(outputs: pl.DataFrame, credits: Iterable[pl.DataFrame]) -> dict[Account, int]:
    """The day's amounts per account in minor units: debits positive, credits negative, summing to zero per currency.

    Amounts are rounded once per account and day (largest remainder), not once per output, so nobody loses cents.

    Args:
        credits: parts of the result of `credit_outputs`.
    """
    exact: dict[str, dict[Account, int]] = defaultdict(lambda: defaultdict(int))
    revenue: dict[str, int] = defaultdict(int)
    for currency, amount, developer_ppb in outputs.select("currency", "revenue_minor", "developer_ppb").iter_rows():
        revenue[currency] += amount
        exact[currency][Account(DEVELOPER, "", currency)] += amount * developer_ppb
    for part in credits:
        sums = part.group_by("account", "party_id", "currency").agg(pl.col("amount_nanominor").cast(pl.Int128).sum())
        for account, party, currency, amount in sums.iter_rows():
            # Credits may name a party that gets no money; there is one account for all unattributed amounts.
            exact[currency][Account(account, "" if account == UNATTRIBUTED else party, currency)] += amount

    amounts: dict[Account, int] = {}
    for currency, total in sorted(revenue.items()):
        if sum(exact[currency].values()) != total * NANO:
            raise AssertionError(f"{currency}: credits do not add up to the revenue")
        accounts = sorted(exact[currency])
        parts = allocate(total, [exact[currency][account] for account in accounts])
        amounts[Account(RECEIVABLE, "", currency)] = total
        amounts |= {account: -part for account, part in zip(accounts, parts, strict=True)}
    return {account: amount for account, amount in amounts.items() if amount}


def cause_of(store: Store, folder: str) -> str:
    """Digest of the inputs that decide a night's amounts."""
    return digest([folder, read_manifest(store, folder, "shares")["writes"]])


def accrued(store: Store, night: Night, outputs: pl.DataFrame) -> dict[Account, int]:
    """A night's amounts by account (see `accrue`)."""
    return accrue(with_terms(store, night, outputs), credited(store, night, outputs))


def credited(store: Store, night: Night, outputs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """A night's amounts by output and party (see `credit_outputs`), one part of the outputs after another."""
    terms = with_terms(store, night, outputs)
    for shares in read_parts(store, night.folder, "shares", "shares"):
        yield credit_outputs(terms, shares)
