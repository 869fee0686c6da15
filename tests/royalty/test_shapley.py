"""Shapley values: against the definition, and sampled against exact."""

import itertools

import numpy as np
import pytest

from provenance.core.arrays import positive_shares
from provenance.royalty.shapley import EXACT, exact, sampled, shapley


class Table:
    """A game by a function of the coalition."""

    def __init__(self, players, worth):
        self.players, self.worth, self.valued = players, worth, 0

    def values(self, coalitions):
        self.valued += len(coalitions)
        return np.stack([self.worth(np.flatnonzero(row)) for row in coalitions])

    def walk(self, order):
        return np.stack([self.worth(np.sort(order[:count])) for count in range(self.players + 1)])


def random_game(players, outputs, seed):
    worth = np.random.default_rng(seed).standard_normal((2**players, outputs))
    return Table(players, lambda inside: worth[sum(1 << i for i in inside)])


def saturating(players, seed):
    """Each adds to a pool with diminishing returns, and the last adds nothing."""
    size = np.random.default_rng(seed).random((players, 3)) ** 3
    size[-1] = 0
    return Table(players, lambda inside: np.sqrt(size[inside].sum(axis=0)))


@pytest.mark.parametrize("players", [1, 2, 4])
def test_exact_is_the_mean_over_all_orders(players):
    game = random_game(players, 2, players)
    expected = np.zeros((players, 2))
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        expected[list(order)] += np.diff(game.walk(np.array(order)), axis=0) / len(orders)
    assert np.allclose(exact(game), expected)


def test_values_sum_to_what_everybody_adds_and_who_adds_nothing_gets_nothing():
    game = saturating(8, 1)
    value = exact(game)
    assert np.allclose(value.sum(axis=0), game.worth(np.arange(8)) - game.worth(np.arange(0)))
    assert np.allclose(value[-1], 0)


def test_sampled_values_come_to_the_exact_ones_and_intervals_hold_them():
    game = saturating(9, 2)
    truth = positive_shares(exact(game))
    found = sampled(game, width=0.01, most=100_000, seed=1)
    assert (found.high - found.low).max() <= 0.01
    assert np.abs(positive_shares(found.value) - truth).max() < 0.01
    assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.85
    assert np.allclose(found.value.sum(axis=0), game.worth(np.arange(9)))  # in every order, so in their mean


def test_sampling_stops_when_it_may_walk_no_more():
    found = sampled(saturating(20, 3), width=0.0, most=100, seed=1)
    assert 100 <= found.orders < 200


def test_few_owners_are_exact_and_many_are_sampled():
    assert shapley(saturating(EXACT, 4), width=0.1, most=10, seed=1).orders == 0
    assert shapley(saturating(EXACT + 1, 4), width=0.5, most=10, seed=1).orders > 0


def test_the_seed_alone_decides_the_orders():
    one, two, other = (sampled(saturating(15, 5), width=0.2, most=80, seed=seed).value for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_nobody_who_adds_nothing_is_paid_and_losses_are_not_carried():
    assert positive_shares(np.array([[1.0, -1.0], [3.0, -2.0], [-2.0, 0.0]])).tolist() == [[0.25, 0.0], [0.75, 0.0], [0.0, 0.0]]
