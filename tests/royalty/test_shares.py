import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.contracts import PARTY_INFLUENCE, SHARES
from provenance.core.errors import ContractError
from provenance.royalty.shares import proportional, to_ppb

influences = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=30)


def table(values):
    """`values[checkpoint][party]` of one output."""
    rows = [
        ("out", "payable", f"p{party:02d}", f"c{checkpoint}", value)
        for checkpoint, row in enumerate(values)
        for party, value in enumerate(row)
    ]
    return pl.DataFrame(rows, schema=PARTY_INFLUENCE.schema, orient="row")


@given(influences)
def test_shares_are_integers_that_sum_to_exactly_one_billion(values):
    parts = to_ppb(np.array(values))
    if not any(v > 0 for v in values):
        assert parts is None
        return
    assert parts.dtype == np.int64
    assert parts.sum() == 1_000_000_000
    positive = np.maximum(values, 0)
    assert np.abs(parts - positive / positive.sum() * 1e9).max() < 1.001


@given(st.lists(influences, min_size=2, max_size=2).filter(lambda v: len(v[0]) == len(v[1])), st.randoms())
def test_the_order_of_rows_changes_nothing(values, chance):
    frame = table(values)
    order = list(range(frame.height))
    chance.shuffle(order)
    assert proportional(frame[order]).equals(proportional(frame))


def test_an_interval_is_the_range_over_checkpoints_and_holds_the_share():
    shares = proportional(table([[3.0, 1.0], [1.0, 1.0]]))
    assert shares.schema == SHARES.schema
    assert shares["share_ppb"].to_list() == [666_666_667, 333_333_333]
    assert shares["low_ppb"].to_list() == [500_000_000, 250_000_000]
    assert shares["high_ppb"].to_list() == [750_000_000, 500_000_000]


def test_without_positive_influence_an_output_is_unattributed():
    shares = proportional(table([[-1.0, 0.0]]))
    assert shares.rows() == [("out", "unattributed", "", 10**9, 10**9, 10**9)]


def test_no_outputs_have_no_shares():
    assert proportional(pl.DataFrame(schema=PARTY_INFLUENCE.schema)).schema == SHARES.schema


def test_influence_that_is_not_finite_is_refused():
    with pytest.raises(ContractError, match="influence on output 'out': expected finite numbers, found NaN"):
        proportional(table([[1.0, float("nan")]]))
