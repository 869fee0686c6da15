"""Royalty rules against retraining: how far estimated shares are from those that models trained on coalitions give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.arrays import positive_shares
from provenance.validation.lds import rank_correlations

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Known:
    """A game of which every coalition's value is known.

    Attributes:
        worth: by the coalition's number, whose bits are the owners that are in, `(2^k, outputs)`.
    """

    worth: np.ndarray

    @property
    def players(self) -> int:
        """How many owners there are."""
        return int(np.log2(len(self.worth)))

    def values(self, coalitions: np.ndarray) -> np.ndarray:
        """Of coalitions `(m, k)` bool, their values `(m, outputs)`."""
        found: np.ndarray = self.worth[coalitions @ (1 << np.arange(self.players))]
        return found

    def walk(self, order: np.ndarray) -> np.ndarray:
        """Values of nobody, of the first in an order, of the first two, ...: `(k + 1, outputs)`."""
        return self.values(np.tri(self.players + 1, self.players, -1, dtype=bool)[:, np.argsort(order)])


def slopes_on_diagonal(seen: Sequence[tuple[np.ndarray, np.ndarray]], rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What owners' works add along the diagonal, `(owners, outputs)`, by regression around each of its nodes.

    Args:
        seen: at each node, parts of owners' examples that were in, `(trainings, owners)`, and losses, `(trainings, outputs)`.
    """
    total = np.zeros((seen[0][0].shape[1], seen[0][1].shape[1]))
    for (parts, losses), rate, weight in zip(seen, rates, weights, strict=True):
        design = np.column_stack([np.ones(len(parts)), parts - rate])
        total += weight * np.linalg.lstsq(design, -losses, rcond=None)[0][1:]
    return total


def compare(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """L1 error of the shares `max(0, v) / sum max(0, v)`, and correlations of the values, averaged over outputs.

    Args:
        estimate, truth: values, `(owners, outputs)`.
    """
    one, two = (positive_shares(values) for values in (estimate, truth))
    inner = [np.corrcoef(a, b)[0, 1] if a.std() > 0 and b.std() > 0 else 0.0 for a, b in zip(one.T, two.T, strict=True)]
    return {
        "l1": float(np.abs(one - two).sum(axis=0).mean()),
        "spearman": float(rank_correlations(estimate, truth).mean()),
        "pearson": float(np.mean(inner)),
    }
