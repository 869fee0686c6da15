import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.errors import ContractError
from provenance.core.money import PPB
from provenance.core.tables import RULE_SHARES, SHARES
from provenance.inputs.contracts import Contract
from provenance.royalty.shares import by_contract, flat, from_components, over_night, rule_weight, to_ppb

values = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30)
parts = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12)


def shares_of(rows, order=None):
    """Shares by `rows[component][party]` of one output; optionally with the parties in another order."""
    by_component = np.array(rows, dtype=float)[:, None, :]
    order = order or list(range(by_component.shape[2]))
    parties = pl.DataFrame({"account": "payable", "party_id": [f"p{party:02d}" for party in order]})
    return from_components(by_component[:, :, order], ["out"], parties).frame().sort("party_id")


def rule_table(rule, shares, account="payable"):
    rows = [(rule, "out", account, f"p{party:02d}", share, share / 2, share) for party, share in enumerate(shares)]
    return pl.DataFrame(rows, schema=RULE_SHARES.schema, orient="row")


def paid(rules, weight=1.0, **terms):
    contract = Contract(**{"name": "c", "developer_ppb": 0, "rule": "faithful", **terms})
    outputs = pl.DataFrame({"output_id": ["out"], "contract": ["c"]})
    return by_contract(rules, outputs, {"c": contract}, {"c": weight})


@given(values)
def test_shares_are_integers_that_sum_to_exactly_one_billion(numbers):
    shares = to_ppb(np.array(numbers))
    if not any(number > 0 for number in numbers):
        assert shares is None
        return
    assert shares.dtype == np.int64
    assert shares.sum() == PPB
    positive = np.maximum(numbers, 0)
    assert np.abs(shares - positive / positive.sum() * 1e9).max() < 1.001


@given(st.lists(values, min_size=2, max_size=2).filter(lambda v: len(v[0]) == len(v[1])), st.randoms())
def test_the_order_of_rows_changes_nothing(rows, chance):
    order = list(range(len(rows[0])))
    chance.shuffle(order)
    shares, permuted = shares_of(rows), shares_of(rows, order)
    numbers = ("share", "low", "high")
    assert permuted.drop(numbers).equals(shares.drop(numbers))
    assert np.allclose(permuted.select(numbers), shares.select(numbers), rtol=1e-9, atol=1e-12)


def test_an_interval_resamples_components_and_contains_the_share():
    shares = shares_of([[3.0, 1.0], [1.0, 1.0]])
    assert shares.schema == RULE_SHARES.schema
    assert np.allclose(shares["share"], [2 / 3, 1 / 3])
    assert (shares["low"] <= shares["share"]).all()
    assert (shares["high"] >= shares["share"]).all()
    low, high = shares.row(0, named=True)["low"], shares.row(0, named=True)["high"]
    assert 0.5 < low < 0.6
    assert 0.7 < high < 0.75
    equal = shares_of([[3.0, 1.0], [3.0, 1.0]])
    assert np.allclose(equal["high"] - equal["low"], 0)
    assert shares_of([[3.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).equals(shares), "components of zeros are not resampled"


def test_a_night_s_interval_resamples_outputs_and_has_the_intervals_of_shares():
    columns = ["output_id", "account", "party_id", "share_ppb", "low_ppb", "high_ppb"]
    sure = [(f"o{n}", "payable", who, PPB // 2, PPB // 2, PPB // 2) for n in range(8) for who in ("a", "b")]
    pools = pl.DataFrame({"output_id": [f"o{n}" for n in range(8)], "currency": "EUR", "pool": 100})
    equal = over_night([pl.DataFrame(sure, schema=columns, orient="row")], pools)
    assert equal.select("share_ppb", "low_ppb", "high_ppb").rows() == [(PPB // 2,) * 3] * 2
    # Outputs that differ make it wider, and so do intervals of shares.
    whole = [(f"o{n}", "payable", "a" if n % 2 else "b", PPB, PPB, PPB) for n in range(8)]
    differ = over_night([pl.DataFrame(whole, schema=columns, orient="row")], pools)
    assert differ["share_ppb"].to_list() == [PPB // 2] * 2
    assert (differ["high_ppb"] - differ["low_ppb"]).min() > 0.3 * PPB
    unsure = [(*row[:4], row[3] - PPB // 10, row[3] + PPB // 10) for row in sure]
    wide = over_night([pl.DataFrame(unsure, schema=columns, orient="row")], pools)
    assert np.allclose(wide.select("low_ppb", "high_ppb").to_numpy() / PPB, [0.4, 0.6])
    # Currencies are resampled separately; a currency without revenue has no rows.
    two = pools.with_columns(currency=pl.Series(["EUR"] * 4 + ["USD"] * 4), pool=pl.Series([100] * 4 + [0] * 4))
    assert over_night([pl.DataFrame(whole, schema=columns, orient="row")], two)["currency"].unique().to_list() == ["EUR"]


def test_an_output_without_positive_values_is_unattributed_and_no_outputs_have_no_shares():
    assert shares_of([[-1.0, 0.0]]).is_empty()
    assert paid(rule_table("srs", [1.0])).rows() == [("out", "unattributed", "", PPB, PPB, PPB)]
    nobody = pl.DataFrame(schema={"account": pl.String, "party_id": pl.String})
    assert from_components(np.zeros((2, 0, 0)), [], nobody).frame().schema == RULE_SHARES.schema


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ContractError, match="influence on output 'out': expected finite numbers, found NaN"):
        shares_of([[1.0, value]])


@given(parts.filter(any), parts.filter(any), st.floats(0, 1), st.integers(0, PPB), st.integers(1, PPB))
def test_shares_sum_to_one_billion_under_any_contract(rule, fallback, weight, one, two):
    tables = pl.concat(
        [rule_table("faithful", np.array(rule) / sum(rule)), rule_table("flat", np.array(fallback) / sum(fallback))]
    )
    shares = paid(tables, weight, floor_ppb=min(one, two), cap_ppb=max(one, two), fallback="flat")
    assert shares.schema == SHARES.schema
    assert shares["share_ppb"].sum() == PPB
    assert (shares["low_ppb"] <= shares["share_ppb"]).all()
    assert (shares["high_ppb"] >= shares["share_ppb"]).all()


def test_the_fallback_decides_the_rest_of_the_rule_s_weight():
    tables = pl.concat([rule_table("faithful", [1.0, 0.0]), rule_table("flat", [0.5, 0.5])])
    assert paid(tables, 0.6)["share_ppb"].to_list() == [800_000_000, 200_000_000]
    assert paid(rule_table("flat", [0.25, 0.75]))["share_ppb"].to_list() == [250_000_000, 750_000_000]


def test_floors_and_caps_move_shares_to_the_others():
    shares = rule_table("faithful", [0.7, 0.2, 0.08, 0.02])
    assert paid(shares, floor_ppb=50_000_000)["share_ppb"].to_list() == [714_285_714, 204_081_633, 81_632_653]
    assert paid(shares, cap_ppb=400_000_000)["share_ppb"].to_list() == [400_000_000, 400_000_000, 160_000_000, 40_000_000]


def test_unclaimed_shares_go_to_escrow_or_to_the_others():
    shares = pl.concat([rule_table("faithful", [0.3, 0.3]), rule_table("faithful", [0.4], account="escrow")])
    assert paid(shares)["account"].to_list() == ["escrow", "payable", "payable"]
    others = paid(shares, unmatched="others")
    assert others["account"].to_list() == ["payable", "payable"]
    assert others["share_ppb"].to_list() == [500_000_000, 500_000_000]
    alone = rule_table("faithful", [1.0], account="escrow")
    assert paid(alone, unmatched="others")["account"].to_list() == ["escrow"]


def test_flat_shares_are_in_proportion_to_weight_and_the_same_for_every_output():
    parties = pl.DataFrame({"account": ["payable"] * 2, "party_id": ["b", "a"], "weight": [3.0, 1.0]})
    shares = flat(parties, ["x", "y"])
    assert shares.sort("output_id", "party_id")["share"].to_list() == [0.25, 0.75] * 2


@pytest.mark.parametrize(
    ("signal", "threshold", "weight"), [(None, 0, 1), (9.0, 0, 1), (None, 1, 0), (0.5, 1, 0), (1, 1, 0), (4.0, 1, 0.75)]
)
def test_the_weight_of_a_rule_grows_with_its_signal(signal, threshold, weight):
    assert rule_weight(signal, threshold) == weight
