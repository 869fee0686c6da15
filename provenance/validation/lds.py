"""The linear datamodelling score: do summed influences predict what retraining on a part of the corpus does?

For each output, the losses of models trained on random subsets are ranked against the sum of influences of each subset's
examples; the score is the mean rank correlation (Park et al. 2023, arXiv 2303.14186, definition 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from provenance.royalty.estimate import rank_correlations


@dataclass(frozen=True)
class Estimate:
    """A number with a bootstrap interval (95 %)."""

    value: float
    low: float
    high: float


def linear_datamodelling_score(
    scores: np.ndarray, subsets: np.ndarray, losses: np.ndarray, *, resamples: int = 200, seed: int = 0
) -> Estimate:
    """Mean rank correlation between summed influence and likelihood after retraining.

    Args:
        scores: influence of each example on each output, `(outputs, examples)`.
        subsets: which examples each model was trained on, `(subsets, examples)`.
        losses: negative log-likelihoods of the outputs, `(subsets, outputs)`, averaged over training seeds.
        resamples: of subsets and outputs, for the interval.
    """
    predicted, actual = subsets @ scores.T.astype(np.float64), -losses
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        rows = draw.integers(len(predicted), size=len(predicted))
        columns = draw.integers(predicted.shape[1], size=predicted.shape[1])
        found.append(rank_correlations(predicted[rows][:, columns], actual[rows][:, columns]).mean())
    low, high = np.quantile(found, [0.025, 0.975]) if found else (np.nan, np.nan)
    return Estimate(float(rank_correlations(predicted, actual).mean()), float(low), float(high))


def noise_ceiling(losses: np.ndarray) -> tuple[float, float]:
    """How well models trained on the same subsets with other seeds agree, and what a perfect prediction could reach.

    The first is the mean rank correlation r between two seeds. The mean over R seeds has the reliability `R r / (1 + (R - 1)
    r)` (Spearman and Brown), and a prediction of its expectation correlates with it by the root of that.

    Args:
        losses: `(seeds, subsets, outputs)`, of at least two seeds.
    """
    seeds = len(losses)
    pairs = [(one, two) for one in range(seeds) for two in range(one)]
    agreement = float(np.mean([rank_correlations(losses[one], losses[two]).mean() for one, two in pairs]))
    reliability = seeds * agreement / (1 + (seeds - 1) * agreement) if agreement > 0 else 0.0
    return agreement, float(np.sqrt(reliability))
