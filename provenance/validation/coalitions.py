"""Royalty rules against retraining: how far estimated shares are from those that models trained on coalitions give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from provenance.core.arrays import positive_shares
from provenance.royalty.estimate import rank_correlations


def shapley(worth: np.ndarray) -> np.ndarray:
    """Shapley values over all coalitions (Shapley 1953): `(k, outputs)`.

    Args:
        worth: of each coalition by its number, whose bits are the owners that are in, `(2^k, outputs)`.
    """
    players = int(np.log2(len(worth)))
    # What a coalition of each size counts for in the value of one who has joined it, or has not.
    joining = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    inside = (np.arange(len(worth))[:, None] >> np.arange(players)) & 1 == 1
    size = inside.sum(axis=1, keepdims=True)
    weight = np.where(inside, joining[np.maximum(size - 1, 0)], -joining[np.minimum(size, players - 1)])
    found: np.ndarray = weight.T @ worth
    return found


def banzhaf(worth: np.ndarray) -> np.ndarray:
    """Banzhaf values over all coalitions (Wang and Jia 2023, arXiv 2205.15466, section 4): `(k, outputs)`."""
    players = int(np.log2(len(worth)))
    inside = (np.arange(len(worth))[:, None] >> np.arange(players)) & 1 == 1
    found: np.ndarray = np.where(inside, 1, -1).T @ worth / 2 ** (players - 1)
    return found


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
