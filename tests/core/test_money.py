import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.money import allocate, currencies, format_minor, minor_digits

weights = st.lists(st.integers(0, 10**24), min_size=1, max_size=40).filter(any)


@given(st.integers(0, 10**18), weights)
def test_parts_sum_to_the_total_and_stay_within_one_of_their_quota(total, weights):
    parts = allocate(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    assert all(abs(part * whole - total * weight) < whole for part, weight in zip(parts, weights, strict=True))


@given(st.integers(0, 10**9), weights, st.integers(2, 10**6))
def test_only_proportions_matter(total, weights, factor):
    assert allocate(total, weights) == allocate(total, [w * factor for w in weights])


def test_equal_remainders_go_to_the_earlier_index_and_nothing_alone_is_split_among_nobody():
    assert allocate(2, [1, 1, 1]) == [1, 1, 0]
    assert allocate(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="nobody"):
        allocate(1, [0, 0])
    with pytest.raises(ValueError, match="negative"):
        allocate(1, [2, -1])


def test_amounts_are_written_with_the_decimals_of_their_currency():
    assert format_minor(123456, "EUR") == "EUR 1,234.56"
    assert format_minor(-5, "USD", symbol=False) == "-0.05"
    assert format_minor(1234, "JPY") == "JPY 1,234"
    assert format_minor(1234, "KWD", symbol=False) == "1.234"


def test_currencies_and_their_minor_units_are_those_of_iso_4217_and_not_what_shops_use():
    assert {"EUR", "USD", "JPY"} <= currencies()
    assert currencies().isdisjoint({"XQZ", "DEM", "XXX", "XAU"}), "unknown, out of use, no currency, gold"
    assert [minor_digits(code) for code in ("EUR", "JPY", "KWD", "RSD", "IQD")] == [2, 0, 3, 2, 3]
