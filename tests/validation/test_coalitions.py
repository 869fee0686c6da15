"""Values over all coalitions compared with their definitions, and the subsets of an audit of royalty rules."""

import itertools
import math

import numpy as np
import pytest

from provenance.validation.coalitions import banzhaf, compare, shapley, slopes_on_diagonal
from provenance.validation.subsets import around_the_diagonal, coalitions, nodes


def random_game(players, outputs=2):
    return np.random.default_rng(players).standard_normal((2**players, outputs))


def saturating(players, seed=1):
    """A game with diminishing returns, in which the last player adds nothing."""
    size = np.random.default_rng(seed).random((players, 3)) ** 3
    size[-1] = 0
    _, inside, _ = coalitions([f"{player:02d}" for player in range(players)])
    return np.sqrt(inside @ size)


def number(inside):
    return sum(1 << player for player in inside)


@pytest.mark.parametrize("players", [1, 2, 4])
def test_shapley_values_are_the_mean_over_all_orders(players):
    worth, expected = random_game(players), np.zeros((players, 2))
    for order in itertools.permutations(range(players)):
        walk = np.stack([worth[number(order[:count])] for count in range(players + 1)])
        expected[list(order)] += np.diff(walk, axis=0) / math.factorial(players)
    assert np.allclose(shapley(worth), expected)


@pytest.mark.parametrize("players", [1, 2, 4])
def test_banzhaf_values_are_the_mean_over_all_coalitions_of_the_others(players):
    worth, expected = random_game(players), np.zeros((players, 2))
    for player in range(players):
        others = [other for other in range(players) if other != player]
        for size in range(players):
            for inside in itertools.combinations(others, size):
                expected[player] += (worth[number((*inside, player))] - worth[number(inside)]) / 2 ** (players - 1)
    assert np.allclose(banzhaf(worth), expected)


def test_shapley_values_sum_to_the_worth_of_all_and_a_player_that_adds_nothing_gets_nothing():
    worth = saturating(8)
    value = shapley(worth)
    assert np.allclose(value.sum(axis=0), worth[-1] - worth[0])
    assert np.allclose(value[-1], 0)
    assert np.allclose(banzhaf(worth)[-1], 0)


def test_a_quadrature_is_exact_for_polynomials():
    at, weight = nodes(3)
    for power in range(6):
        assert (weight * at**power).sum() == pytest.approx(1 / (power + 1))


def test_slopes_on_the_diagonal_are_the_integral_of_slopes_over_rates():
    owners = [f"o{place % 4}" for place in range(48)]
    member = np.array([[owner == f"o{who}" for owner in owners] for who in range(4)], dtype=float)
    slope = np.array([[1.0, 0.0], [2.0, 0.5], [0.0, -1.0], [-1.0, 0.0]])
    rates, weights = nodes(3)
    seen = []
    for rate in rates:
        masks = around_the_diagonal(owners, rate, 32, name="x")
        parts = masks @ member.T / member.sum(axis=1)
        seen.append((parts, -(parts - rate) @ slope * rate - 5))
    assert np.allclose(slopes_on_diagonal(seen, rates, weights), slope / 2)


def test_parts_around_the_diagonal_are_about_equal_and_pairs_mirror_one_another():
    owners = [f"o{place % 5}" for place in range(100)]
    masks = around_the_diagonal(owners, 0.5, 40, name="x")
    parts = np.stack([masks[:, [owner == f"o{who}" for owner in owners]].mean(axis=1) for who in range(5)], axis=1)
    assert parts.mean() == pytest.approx(0.5, abs=0.02)
    assert set(np.round(parts.ravel(), 1)) <= {0.1, 0.2, 0.8, 0.9}
    assert np.allclose(parts[::2] + parts[1::2], 1, atol=0.1)
    assert np.array_equal(around_the_diagonal(owners, 0.5, 10, name="x"), masks[:10])


def test_each_coalition_of_whole_owners_comes_once():
    distinct, inside, masks = coalitions(["b", "a", "b"])
    assert distinct == ["a", "b"]
    assert inside.tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert masks.tolist() == [[False] * 3, [False, True, False], [True, False, True], [True] * 3]


def test_an_estimate_is_compared_with_the_truth_by_shares_and_by_values():
    truth = np.array([[3.0, 1.0], [1.0, 0.0], [-2.0, 3.0]])
    assert compare(truth, truth) == pytest.approx({"l1": 0, "spearman": 1, "pearson": 1})
    assert compare(np.ones_like(truth), truth)["spearman"] == 0
    assert compare(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0]]), truth)["l1"] == pytest.approx(0.75)
