"""Bounds come from the nights before, and unusual figures are reported."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.settlement.accounts import Account
from provenance.settlement.anomaly_bounds import Bounds, Figures, changes, drift, figures, unusual

BOUNDS = Bounds(nights=28, least=7, deviations=6.0, newcomer=0.05, moved=0.25)
DAY = date(2026, 11, 20)


def night(number=0, revenue=100_000, escrow=2_000, **earned):
    amounts = {"ann": 30_000 + 40 * (number % 3), "bob": 50_000 - 30 * (number % 4)} | earned
    return Figures(
        DAY - timedelta(days=number), {"EUR": revenue + 500 * (number % 5)}, {"EUR": escrow},
        {(owner, "EUR"): amount for owner, amount in amounts.items() if amount},
    )  # fmt: skip


PAST = [night(number) for number in range(1, 15)]


def test_a_night_like_the_others_gives_no_reason():
    assert unusual(night(), PAST, BOUNDS) == []
    assert drift(night(), PAST) < 0.01


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (night(revenue=900_000), "revenue: EUR 9,000.00, usually"),
        (night(revenue=9_000), "revenue: EUR 90.00, usually"),
        (night(escrow=60_000), "escrow: EUR 600.00, usually"),
        (night(bob=5_000), "owner bob: 14.3% of what owners earn in EUR, usually"),
        (night(carl=9_000), "new owner carl: 10.1% of what owners earn in EUR"),
    ],
)
def test_what_is_out_of_bounds_is_said_in_a_sentence(odd, sentence):
    reasons = unusual(odd, PAST, BOUNDS)
    assert any(sentence in reason for reason in reasons), reasons


def test_a_small_newcomer_is_usual_and_who_is_gone_is_not():
    assert unusual(night(carl=900), PAST, BOUNDS) == []
    assert any(reason.startswith("owner bob: 0.0%") for reason in unusual(night(bob=0), PAST, BOUNDS))


def test_few_nights_teach_nothing():
    assert unusual(night(revenue=900_000, carl=50_000), PAST[:6], BOUNDS) == []


def test_one_odd_night_in_the_past_does_not_widen_the_bounds():
    past = [*PAST[:-1], night(14, revenue=5_000_000, bob=1)]
    assert unusual(night(), past, BOUNDS) == []
    assert unusual(night(revenue=900_000), past, BOUNDS)


def test_a_correction_that_moves_much_is_looked_at_even_without_a_history():
    before, after = night(), night(ann=8_000, bob=72_000)
    moved = "correction: owners' amounts change by EUR 440.00 together, of EUR 800.00 booked"
    assert unusual(after, [], BOUNDS, booked=before) == [moved]
    assert unusual(night(ann=29_000, bob=51_000), [], BOUNDS, booked=before) == []
    assert unusual(after, [], BOUNDS, booked=Figures(DAY, {}, {}, {})) == [], "a day that was not booked is no correction"


def test_figures_are_of_whom_amounts_are_for():
    amounts = {
        Account("receivable", "", "EUR"): 1000, Account("developer", "", "EUR"): -300, Account("escrow", "x", "EUR"): -100,
        Account("escrow", "y", "EUR"): -50, Account("payable", "ann", "EUR"): -550,
    }  # fmt: skip
    result = figures(DAY, amounts)
    assert result == Figures(DAY, {"EUR": 1000}, {"EUR": 150}, {("ann", "EUR"): 550})
    assert result.shares() == {("ann", "EUR"): 1.0}


def test_changes_list_the_largest_first():
    result = changes(night(ann=30_000, bob=52_000), night(ann=31_000, bob=50_000))
    assert result == [("bob", "EUR", 50_000, 52_000), ("ann", "EUR", 31_000, 30_000)]


shares = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1)


@given(now=shares, before=st.lists(shares, min_size=1, max_size=5))
def test_drift_is_a_distance_between_0_and_1(now, before):
    def of(amounts):
        return Figures(DAY, {"EUR": 1}, {}, {(owner, "EUR"): amount for owner, amount in amounts.items()})

    result = drift(of(now), [of(each) for each in before])
    assert -1e-9 <= result <= 1 + 1e-9
    assert drift(of(now), [of(now)] * 3) == pytest.approx(0)
    assert drift(of({"a": 1}), [of({"b": 1})]) == pytest.approx(1)
    assert drift(of(now), []) is None, "nothing to compare"
