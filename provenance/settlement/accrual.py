"""A day's revenue, split: first the developer's share, then each output's pool by its owner shares."""

from __future__ import annotations

from collections import defaultdict

import polars as pl

from provenance.core.contracts import UNATTRIBUTED
from provenance.core.money import NANO, PPB, allocate
from provenance.settlement.accounts import DEVELOPER, RECEIVABLE, Account


def credit_outputs(outputs: pl.DataFrame, shares: pl.DataFrame) -> pl.DataFrame:
    """What each party gets of each output, exact to a billionth of a minor unit.

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


def accrue(outputs: pl.DataFrame, credits: pl.DataFrame) -> dict[Account, int]:
    """The day's amounts per account in minor units: debits positive, credits negative, summing to zero per currency.

    Rounding happens once per account and day (largest remainder), not once per output, so nobody loses cents to it.
    """
    exact: dict[str, dict[Account, int]] = defaultdict(lambda: defaultdict(int))
    revenue: dict[str, int] = defaultdict(int)
    for currency, amount, developer_ppb in outputs.select("currency", "revenue_minor", "developer_ppb").iter_rows():
        revenue[currency] += amount
        exact[currency][Account(DEVELOPER, "", currency)] += amount * developer_ppb
    for account, party, currency, amount in credits.select("account", "party_id", "currency", "amount_nanominor").iter_rows():
        # Who is credited without money is named beside the credit; of what nobody gets there is one account.
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
