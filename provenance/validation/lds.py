"""Computes the linear datamodelling score: how well summed influences predict retraining on a part of the corpus.

For each output, the losses of models trained on random subsets are correlated by rank with the sum of influences of each
subset's examples; the score is the mean over outputs (Park et al. 2023, arXiv 2303.14186, definition 2.3).
"""

from __future__ import annotations

import itertools

import numpy as np

from provenance.royalty.fidelity import rank_correlations

QUANTILES = (0.025, 0.975)


def linear_datamodelling_score(
    scores: np.ndarray, subsets: np.ndarray, losses: np.ndarray, *, resamples: int = 200, seed: int = 0
) -> dict[str, float]:
    """Mean rank correlation between summed influence and likelihood after retraining, with a 95 % bootstrap interval.

    Args:
        scores: influence of each example on each output, `(outputs, examples)`.
        subsets: the examples that each model was trained on, `(subsets, examples)` bool.
        losses: negative log-likelihoods of the outputs, `(subsets, outputs)`, averaged over training seeds.
        resamples: of subsets and outputs, for the interval.

    Returns:
        `lds, low, high`.
    """
    score, resampled = _scores(scores, subsets, losses, resamples, seed)
    low, high = np.quantile(resampled, QUANTILES) if resamples else (np.nan, np.nan)
    return {"lds": score, "low": float(low), "high": float(high)}


def score_lead(
    scores: np.ndarray,
    others: np.ndarray,
    subsets: np.ndarray,
    losses: np.ndarray,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """By how much one linear datamodelling score is above another of the same subsets, with a 95 % bootstrap interval.

    Both scores are computed on the same resamples: what is hard to predict in a resample is so for both.

    Args: those of `linear_datamodelling_score`, and the other influences.

    Returns:
        `lead, low, high`.
    """
    (first, resampled), (second, others_resampled) = (
        _scores(each, subsets, losses, resamples, seed) for each in (scores, others)
    )
    low, high = np.quantile(resampled - others_resampled, QUANTILES)
    return {"lead": first - second, "low": float(low), "high": float(high)}


def _scores(scores: np.ndarray, subsets: np.ndarray, losses: np.ndarray, resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """The score, and those of resamples of subsets and outputs, which are the same for any scores."""
    predicted, actual = subsets @ scores.T.astype(np.float64), -losses
    draw = np.random.default_rng(seed)
    resampled = np.empty(resamples)
    for number in range(resamples):
        rows = draw.integers(len(predicted), size=len(predicted))
        columns = draw.integers(predicted.shape[1], size=predicted.shape[1])
        resampled[number] = rank_correlations(predicted[rows][:, columns], actual[rows][:, columns]).mean()
    return float(rank_correlations(predicted, actual).mean()), resampled


def noise_ceiling(losses: np.ndarray) -> tuple[float, float]:
    """The agreement of models trained on the same subsets with other seeds, and the score of a perfect prediction.

    The agreement is the mean rank correlation r between two seeds. The mean over R seeds has the reliability `R r / (1 + (R -
    1) r)` (Spearman and Brown); a perfect prediction correlates with it by the root of that.

    Args:
        losses: `(seeds, subsets, outputs)`, of at least two seeds.
    """
    seeds = len(losses)
    agreement = float(np.mean([rank_correlations(a, b).mean() for a, b in itertools.combinations(losses, 2)]))
    reliability = seeds * agreement / (1 + (seeds - 1) * agreement) if agreement > 0 else 0.0
    return agreement, float(np.sqrt(reliability))
