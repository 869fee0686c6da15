import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from samples import table

from provenance.core.money import NANO, PPB, allocate
from provenance.core.tables import SHARES
from provenance.settlement.accounts import Account, totals
from provenance.settlement.accrual import accrue, credit_outputs


def night(revenues, weights, developer_ppb=0):
    """Outputs with `revenues` (minor units, currency), and what shares by `weights[output][party]` give of each."""
    sold = [(f"o{n}", revenue, currency) for n, (revenue, currency) in enumerate(revenues)]
    outputs = table("output_id revenue_minor currency", *sold).with_columns(developer_ppb=pl.lit(developer_ppb))
    rows = []
    for n, parts in enumerate(weights):
        for party, ppb in enumerate(allocate(PPB, parts)):
            account = "escrow" if party == 2 else "payable"
            rows.append((f"o{n}", account, f"p{party}", ppb, ppb, ppb))
    return outputs, credit_outputs(outputs, SHARES.frame(rows))


revenue = st.tuples(st.integers(0, 10**9), st.sampled_from(["EUR", "USD", "JPY"]))
parts = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)
nights = st.lists(st.tuples(revenue, parts), min_size=1, max_size=12).map(lambda outputs: tuple(zip(*outputs, strict=True)))


@given(nights, st.integers(0, PPB))
def test_every_output_is_split_exactly(case, developer_ppb):
    outputs, credits = night(*case, developer_ppb)
    sums = dict(credits.group_by("output_id").agg(pl.col("amount_nanominor").sum()).iter_rows())
    for output, revenue, *_ in outputs.iter_rows():
        assert sums[output] + revenue * developer_ppb == revenue * NANO


@given(nights, st.integers(0, PPB))
def test_the_day_balances_and_rounding_costs_nobody_a_unit(case, developer_ppb):
    outputs, credits = night(*case, developer_ppb)
    amounts = accrue(outputs, [credits[:1], credits[1:]])
    for currency in outputs["currency"].unique():
        assert sum(amount for account, amount in amounts.items() if account.currency == currency) == 0
    exact = credits.group_by("account", "party_id", "currency").agg(pl.col("amount_nanominor").cast(pl.Int128).sum())
    for account, party, currency, nano in exact.iter_rows():
        assert abs(-amounts.get(Account(account, party, currency), 0) * NANO - nano) < NANO
    for row in totals(amounts).values():
        parts = row["developer_minor"] + row["earned_minor"] + row["escrowed_minor"] + row["unattributed_minor"]
        assert parts == row["revenue_minor"]


def test_cents_of_many_outputs_add_up_before_they_are_rounded():
    outputs, credits = night([(1, "EUR")] * 1000, [[1, 1, 1]] * 1000)
    amounts = accrue(outputs, [credits])
    assert sorted(-a for k, a in amounts.items() if k.account != "receivable") == [333, 333, 334]
