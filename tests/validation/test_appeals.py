"""Pairs of trainings on games whose Shapley values are known."""

import numpy as np
import pytest

from provenance.validation.appeals.pairs import AGREES, LESS, MORE, by_couple, design, difference, interval, share, verdict
from provenance.validation.coalitions import shapley

OTHERS = [f"owner-{number}" for number in range(6)]
PLAYERS = ["me", *OTHERS]


def game(seed, outputs=3):
    """The worth of each coalition by its number, `(2^7, outputs)`: diminishing returns of work, plus random effects."""
    random = np.random.default_rng(seed)
    inside = (np.arange(2 ** len(PLAYERS))[:, None] >> np.arange(len(PLAYERS))) & 1
    size = random.uniform(0.5, 2, (len(PLAYERS), outputs))
    return 10 * np.log1p(inside @ size) + random.standard_normal((len(inside), outputs)) * (inside.any(axis=1)[:, None])


def played(worth, pairs, name, noise=0.0, seed=0):
    """Couples of a game; each training has its own noise."""
    random = np.random.default_rng(seed)
    drawn = design(OTHERS, pairs, name)
    numbers = np.array([sum(2 ** PLAYERS.index(other) for other in pair.others) for pair in drawn])
    likelihoods = np.stack([worth[numbers], worth[numbers + 1]], axis=1)
    return by_couple(likelihoods + noise * random.standard_normal(likelihoods.shape))


def test_the_same_name_draws_the_same_first_pairs():
    drawn = design(OTHERS, 8, "one")
    assert design(reversed(OTHERS), 8, "one") == drawn
    assert design(OTHERS, 12, "one")[:8] == drawn
    assert design(OTHERS, 8, "two") != drawn
    assert len({pair.seed for pair in drawn}) == 8


def test_pairs_are_antithetic_and_rates_fill_the_range_evenly():
    drawn = design(OTHERS, 32, "one")
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert first.rate + second.rate == 1
        assert sorted(first.others + second.others) == OTHERS, "every owner is in one of the two"
    rates = [pair.rate for pair in drawn]
    assert np.histogram(rates, bins=16, range=(0, 1))[0].max() <= 3
    assert all(0 <= rate <= 1 for rate in rates)


def test_owners_are_included_with_the_probability_of_the_rate():
    others = [f"owner-{number}" for number in range(2000)]
    for pair in design(others, 12, "one"):
        assert len(pair.others) / len(others) == pytest.approx(pair.rate, abs=0.05)


def test_the_mean_over_pairs_is_the_shapley_value():
    worth = game(1)
    true = shapley(worth)[0]
    means = np.stack([interval(played(worth, 8, f"draw {number}"))[1] for number in range(400)])
    error = means.mean(axis=0) - true
    assert (np.abs(error) < 4 * means.std(axis=0) / np.sqrt(len(means))).all(), "no further than chance explains"
    assert (np.abs(error) < 0.02 * np.abs(true)).all()


@pytest.mark.parametrize("pairs", [8, 16])
def test_intervals_contain_the_truth_about_nine_times_in_ten(pairs):
    inside = []
    for number in range(400):
        worth = game(number)
        low, _, high = interval(played(worth, pairs, f"draw {number}", noise=1.0, seed=number))
        true = shapley(worth)[0]
        inside += ((low <= true) & (true <= high)).tolist()
    assert 0.87 <= np.mean(inside) <= 0.97, "rates fill the range evenly, so a little more often than nine times"


def test_shares_are_weighted_by_pools():
    parts = np.array([[0.1, 0.5, -0.1], [0.3, 0.5, -0.1], [0.2, 0.5, -0.1]])
    low, value, high = share(parts)
    assert value.tolist() == pytest.approx([0.2, 0.5, 0.0])
    assert low[0] < 0.2 < high[0]
    assert (low[1], high[1], low[2], high[2]) == pytest.approx((0.5, 0.5, 0.0, 0.0))
    low, value, high = share(parts, np.array([1, 3, 0]))
    assert float(value) == pytest.approx((0.2 + 3 * 0.5) / 4)
    assert 0 <= low < value < high <= 1
    assert float(share(parts, np.array([0, 0, 1]))[1]) == 0.0


def test_one_couple_has_no_interval():
    with pytest.raises(ValueError, match="one couple"):
        interval(np.zeros((1, 2)))


def test_the_verdict_compares_the_paid_share_with_the_interval():
    assert [verdict(paid, 10, 20) for paid in (9, 10, 15, 20, 21)] == [LESS, AGREES, AGREES, AGREES, MORE]


def test_differences_are_whole_minor_units():
    cent = 10**9
    assert difference(100 * cent, 20 * cent, 250_000_000) == 5
    assert difference(100 * cent, 30 * cent, 250_000_000) == -5
    assert difference(3 * cent, 0, 500_000_000) == 2, "halves go up"
    assert difference(3 * cent, 3 * cent, 500_000_000) == -1
    # More digits than a float has.
    assert difference(10**14 * cent + cent // 2, 0, 10**9) == 10**14 + 1
