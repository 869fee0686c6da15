"""From what works add to what they are paid for, and from what parties' works add to what coalitions of parties are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

# A work is paid for what it adds over the night, less so many times the error that its own negative values show.
MARGIN = 2.0
# A work that pushes this part of what works commonly push is paid fully for the longer run.
PUSH = 0.25
# Where the common push is found: how many times it a work counts at most, what part of it is hardly anything, and how many
# rounds it takes at most.
MOST, HARDLY, ROUNDS = 4.0, 0.02, 50


def kept_part(values: np.ndarray) -> np.ndarray:
    """What part of each work's positive values is paid for, `(n,)` from 0 to 1.

    Values that are noise come with either sign, and paying the positive ones alone would pay for noise. So a work carries its
    negative values itself: over all outputs of the night it is paid for the sum of its values, less a margin. The error of
    that sum is what its negative values say: were all of them noise about zero, it would be `sqrt(2 sum min(0, v)^2)`.

    Nothing of it depends on who owns what, so it cannot be changed by parting works among identities, by sign or otherwise.

    Args:
        values: of n works for all outputs of a night under one contract, `(Q, n)`.
    """
    positive, negative = np.maximum(values, 0), np.minimum(values, 0)
    gained = positive.sum(axis=0)
    error = np.sqrt(2 * (negative**2).sum(axis=0))
    earned = np.maximum(0, gained + negative.sum(axis=0) - MARGIN * error)
    found: np.ndarray = np.divide(earned, gained, out=np.zeros_like(gained), where=gained > 0)
    return found


def lengthening(push: np.ndarray, common: float) -> np.ndarray:
    """What part of a longer run's worth each work is paid for, `(n,)` from 0 to 1.

    A run of so many passes is the longer the more works there are, and a longer run serves every output, whatever the works
    that lengthen it say. Who pads a corpus with nonsense would be paid for that. So a work is paid for it only as far as its
    own gradients push the night's outputs the right way.

    Args:
        push: of each work, over all outputs of the night, `(n,)`.
        common: `common_push` of all works.
    """
    found: np.ndarray = np.clip(push / (PUSH * common), 0, 1) if common > 0 else np.zeros_like(push)
    return found


def common_push(push: np.ndarray) -> float:
    """What works that push the right way commonly push: their median, without those that push hardly at all.

    What is hardly anything is told from the median by which each work counts as much as it pushes: many works that push next to
    nothing cannot make that small. Nor can a few that push very much make it large: none counts more than a few times it.
    """
    right = np.sort(push[push > 0]).astype(np.float64)
    if not len(right):
        return 0.0
    found = float(np.median(right))
    for _ in range(ROUNDS):
        counted = np.cumsum(np.minimum(right, MOST * found))
        before, found = found, float(right[np.searchsorted(counted, counted[-1] / 2)])
        if found == before:
            break
    return float(np.median(right[right > HARDLY * found]))


@dataclass(frozen=True)
class Expanded:
    """What coalitions are worth, to first order around the diagonal: a game for `shapley`.

    A coalition that holds a part t of all works is worth what a part t of everybody's is worth, and what its works add at
    that rate more than the mean work does.

    Attributes:
        counts: works of each party, by stake, `(O,)`.
        rates: nodes of the diagonal, ascending, `(F,)`.
        worth: of nobody, of everybody at each node, and of everybody: `(F + 2, Q)`.
        slopes: at each node, what each party's works add more than as many mean works, `(F, O, Q)`.
    """

    counts: np.ndarray
    rates: np.ndarray
    worth: np.ndarray
    slopes: np.ndarray

    @property
    def players(self) -> int:
        """How many parties there are."""
        return len(self.counts)

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        """Of coalitions `(m, O)` bool, their values `(m, Q)`."""
        rate = coalitions @ self.counts / self.counts.sum()
        found = self._worth(rate)
        inside = coalitions.astype(np.float64)
        for weight, slopes in zip(self._weights(rate), self.slopes, strict=True):
            found += weight[:, None] * (inside @ slopes)
        return found

    def walk(self, order: np.ndarray) -> np.ndarray:
        """Values of nobody, of the first in an order, of the first two, ...: `(O + 1, Q)`."""
        rate = np.concatenate([[0.0], np.cumsum(self.counts[order])]) / self.counts.sum()
        found = self._worth(rate)
        for weight, slopes in zip(self._weights(rate)[:, 1:], self.slopes, strict=True):
            found[1:] += weight[:, None] * np.cumsum(slopes[order], axis=0)
        return found

    def _worth(self, rate: np.ndarray) -> np.ndarray:
        known = np.concatenate([[0.0], self.rates, [1.0]])
        found: np.ndarray = PchipInterpolator(known, self.worth)(np.clip(rate, 0, 1))
        return found

    def _weights(self, rate: np.ndarray) -> np.ndarray:
        """Of each node at each rate, `(F, m)`: straight lines between nodes, level beyond them."""
        units = np.eye(len(self.rates))
        return np.stack([np.interp(rate, self.rates, unit) for unit in units])


def resampled(parts: np.ndarray, draws: int, confidence: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of shares when sources are drawn again (Bayesian bootstrap: Rubin 1981).

    Args:
        parts: what each of S sources says each of O parties adds to an output, `(S, O)`.

    Returns:
        lower and upper ends of `max(0, sum) / sum max(0, sum)`, each `(O,)`.
    """
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(parts)), size=draws) * len(parts)
    positive = np.maximum(weights @ parts, 0)
    whole = positive.sum(axis=1, keepdims=True)
    shares = np.divide(positive, whole, out=np.zeros_like(positive), where=whole > 0)
    low, high = np.quantile(shares, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
