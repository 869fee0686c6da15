"""Shapley values of owners: exact over all coalitions of a few, by sampled orders of many.

An owner's value is what it adds to the coalition of those before it, averaged over all orders (Shapley 1953). Sampling orders
is unbiased whatever their number (Castro et al. 2009, Computers & Operations Research 36(5)); an order is taken together with
its reverse (antithetic) and with rotations of both (stratified: an owner then stands early, in the middle and late equally
often), which cancels most of what depends on the place alone (Mitchell et al. 2022, JMLR 23(43), sections 2.3 and 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.stats import t as student

from provenance.core.arrays import positive_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Beyond so many owners coalitions are sampled: there are 4,096 of twelve.
EXACT = 12
# Coalitions valued at a time.
CHUNK = 512
# Orders of one round: a permutation and its reverse, each begun at so many places.
ROTATIONS = 4
# An interval rests on so many groups of rounds, left out in turn.
GROUPS = 10
CONFIDENCE = 0.95


class Game(Protocol):
    """What a coalition of owners is worth to each output."""

    @property
    def players(self) -> int:
        """How many owners there are."""

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        """Of coalitions `(m, players)` bool, their values `(m, outputs)`."""

    def walk(self, order: np.ndarray) -> np.ndarray:
        """Values of nobody, of the first in an order, of the first two, ...: `(players + 1, outputs)`."""


@dataclass(frozen=True)
class Values:
    """Shapley values.

    Attributes:
        value: `(players, outputs)`.
        low, high: of each share `max(0, value) / sum max(0, value)`, `(players, outputs)`; the share itself if exact.
        orders: how many were walked; 0 if every coalition was valued.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    orders: int


def shapley(game: Game, *, width: float, most: int, seed: int, progress: Callable[[int, float], None] | None = None) -> Values:
    """Exact values of up to twelve owners; of more, sampled ones until every share is known well enough.

    Args:
        width: sampling goes on until no share's interval is wider.
        most: but no longer than for so many orders.
        seed: of the orders.
        progress: called after each round with the orders walked and the widest interval.
    """
    if game.players <= EXACT:
        value = exact(game)
        share = positive_shares(value)
        return Values(value, share, share, 0)
    return sampled(game, width=width, most=most, seed=seed, progress=progress)


def exact(game: Game) -> np.ndarray:
    """Shapley values over all coalitions: `(players, outputs)`."""
    players = game.players
    # What a coalition of each size counts for in the value of one who has joined it, or has not.
    joining = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    found: np.ndarray | float = 0.0
    for start in range(0, 2**players, CHUNK):
        codes = np.arange(start, min(start + CHUNK, 2**players))
        inside = (codes[:, None] >> np.arange(players)) & 1 == 1
        size = inside.sum(axis=1, keepdims=True)
        weight = np.where(inside, joining[np.maximum(size - 1, 0)], -joining[np.minimum(size, players - 1)])
        found = found + weight.T @ game.values(inside)
    return np.asarray(found)


def sampled(game: Game, *, width: float, most: int, seed: int, progress: Callable[[int, float], None] | None = None) -> Values:
    """Shapley values by orders, with intervals of the shares by leaving out each of ten groups of rounds in turn."""
    groups: list[np.ndarray] = []
    orders, rounds, span = 0, 0, math.inf
    low = high = value = np.zeros(0)
    for order_set in _rounds(game.players, seed):
        found = np.mean([_added(game, order) for order in order_set], axis=0)
        if len(groups) < GROUPS:
            groups.append(found)
        else:
            groups[rounds % GROUPS] = groups[rounds % GROUPS] + found
        rounds, orders = rounds + 1, orders + len(order_set)
        if rounds % GROUPS == 0:
            value = np.sum(groups, axis=0) / rounds
            low, high = _interval(groups)
            span = float((high - low).max())
        if progress:
            progress(orders, span)
        if rounds % GROUPS == 0 and (span <= width or orders >= most):
            return Values(value, low, high, orders)
    raise AssertionError  # the rounds never end


def _rounds(players: int, seed: int) -> Iterator[list[np.ndarray]]:
    draws = np.random.default_rng(seed)
    while True:
        order = draws.permutation(players)
        turned = [np.roll(order, at * players // ROTATIONS) for at in range(ROTATIONS)]
        yield [*turned, *(each[::-1] for each in turned)]


def _added(game: Game, order: np.ndarray) -> np.ndarray:
    walked = game.walk(order)
    added = np.empty((game.players, walked.shape[1]))
    added[order] = np.diff(walked, axis=0)
    return added


def _interval(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The jackknife over groups of as many rounds each (Efron and Stein 1981), for the shares."""
    count, whole = len(groups), np.sum(groups, axis=0)
    point = positive_shares(whole)
    spread = sum((positive_shares(whole - group) - point) ** 2 for group in groups)
    half = student.ppf((1 + CONFIDENCE) / 2, count - 1) * np.sqrt((count - 1) / count * spread)
    return np.maximum(point - half, 0), np.minimum(point + half, 1)
