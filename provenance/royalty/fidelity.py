"""Measures the fidelity of a night's shares: counterfactual models are predicted from the others, on the outputs that are paid.

Every partition of counterfactual models is left out in turn and predicted. The rank correlation of predictions and results over
models is a linear datamodelling score (LDS: Ilyas et al. 2022, arXiv 2202.00622, section 3) that needs no more training. Models
set aside are also predicted; nothing was fitted on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.stats import norm, rankdata

from provenance.royalty.estimate import CONFIDENCE, TAUS, Fitted, covariance, join
from provenance.royalty.outcomes import Outcomes

# Fewer models than this are not fitted: noise and owners' effects could not be separated.
FEWEST = 8
# Owners of this part of all tokens must be in some models and missing in others.
VARIED = 0.9
# 90 % intervals must contain at least this part of the results.
CONTAINED = 0.75
# Resamples of outputs, for the interval of a mean over outputs.
DRAWS, SEED = 500, 1
TINY = 1e-9


def check_enough(outcomes: Outcomes) -> list[str]:
    """The reasons why the models cannot be fitted; empty if they can."""
    models = len(outcomes.inside)
    if models < FEWEST:
        return [f"{models} counterfactual models; {FEWEST} are the fewest"]
    varied = float(outcomes.size[np.ptp(outcomes.inside, axis=0) > TINY].sum())
    if varied < VARIED:
        return [f"owners of {1 - varied:.0%} of all tokens are in every counterfactual model or in none"]
    return []


def report(
    fitted: Fitted,
    projected: np.ndarray,
    *,
    weights: np.ndarray,
    words: np.ndarray,
    aside: Outcomes,
    projected_aside: np.ndarray,
) -> dict[str, Any]:
    """Fidelity of an estimate, compared with influence alone, word counts and size; `failed` has the failures of its check.

    Args:
        projected, projected_aside: `project` of the fitted models and of those set aside, `(M, K, Q)`.
        weights: of components, `(K,)`; words: whether each component is of words, `(K,)` bool.
    """
    outcomes = fitted.outcomes
    left_out = leave_out(fitted)
    by_size = fitted.curve.growth(outcomes.seen)
    predictions = {
        "estimate": left_out.value,
        "influence": by_size + _scaled(np.einsum("mkq,k->mq", projected, weights), outcomes.value - by_size),
        "size": by_size,
    }
    if words.any():
        predictions["tfidf"] = by_size + _scaled(projected[:, words].mean(axis=1), outcomes.value - by_size)
    # Only models of one stratum: across strata the amount of work alone would predict well.
    strata, count = np.unique(outcomes.strata, return_counts=True)
    compared = outcomes.strata == strata[np.argmax(count)]
    scores = {name: rank_correlations(values[compared], outcomes.value[compared]) for name, values in predictions.items()}
    lds = {name: _mean(by_output) for name, by_output in scores.items()}
    contained = {"left_out": _contained(left_out, outcomes.value)}
    if len(aside.inside):
        contained["set_aside"] = _contained(predict(fitted, aside, projected_aside), aside.value)
    failed = []
    better = _mean(scores["estimate"] - scores["size"])
    if not better["low"] > 0:
        failed.append(f"predictions for left-out models rank no better than the amount of work alone ({better['value']:+.2f})")
    for name, part in contained.items():
        if part < CONTAINED:
            failed.append(f"90 % intervals contain only {part:.0%} of the results of models {name.replace('_', ' ')}")
    return {
        "models": len(outcomes.inside),
        "set_aside": len(aside.inside),
        "compared": int(compared.sum()),
        "lds": lds,
        "intervals_hold": contained,
        "signal_to_noise": {name: _signal(lds[name]["value"]) for name in ("estimate", "influence")},
        "failed": failed,
    }


def _signal(score: float) -> float:
    """The signal-to-noise ratio of a correlation: `r^2 / (1 - r^2)`."""
    r = min(max(score, 0.0), 0.999)
    return r**2 / (1 - r**2)


def _scaled(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """A prediction in any unit, scaled to fit all outputs together best; the scale is never negative."""
    scale = float((predicted * actual).sum() / ((predicted**2).sum() + TINY))
    return max(scale, 0.0) * predicted


def _mean(scores: np.ndarray) -> dict[str, float]:
    """The mean over outputs, and a 90 % interval by resampling outputs."""
    draws = np.random.default_rng(SEED).integers(len(scores), size=(DRAWS, len(scores)))
    low, high = np.quantile(scores[draws].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"value": float(scores.mean()), "low": float(low), "high": float(high)}


def _contained(prediction: Prediction, actual: np.ndarray) -> float:
    """The part of the results that lie in the 90 % intervals of the predictions."""
    reach = norm.ppf((1 + CONFIDENCE) / 2) * prediction.spread
    return float((np.abs(actual - prediction.value) <= reach).mean())


@dataclass(frozen=True)
class Prediction:
    """Values of models predicted without them, `(M, Q)`, and the standard deviation of the error."""

    value: np.ndarray
    spread: np.ndarray


def leave_out(fitted: Fitted) -> Prediction:
    """Every partition predicted from the others, in closed form (Sundararajan and Keerthi 2001, equation 14, by blocks)."""
    outcomes, rest, scale = fitted.outcomes, fitted.rest, fitted.scale
    error, square = np.zeros(rest.shape), np.zeros(rest.shape)
    for factor, belief, noise in zip(fitted.factor, fitted.belief, fitted.noise, strict=True):
        inverse = cho_solve((factor, True), np.eye(len(factor)))
        weighed = inverse @ rest
        for partition in np.unique(outcomes.partition):
            out = np.flatnonzero(outcomes.partition == partition)
            block = np.linalg.inv(inverse[np.ix_(out, out)])
            mean = block @ weighed[out]
            error[out] += belief * mean
            square[out] += belief * (noise**2 * np.diag(block)[:, None] + mean**2)
    return Prediction(outcomes.value - join(error, scale), _spread(error, square, scale))


def _spread(mean: np.ndarray, square: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standard deviations of outputs' values, from the means and mean squares of their series."""
    return np.asarray(np.sqrt(join(np.maximum(square - mean**2, 0), scale**2)))


def predict(fitted: Fitted, models: Outcomes, projected: np.ndarray) -> Prediction:
    """Values of models that were not fitted, such as those set aside.

    Args:
        models: with p = 0; projected: `project` of them, `(m, K, Q)`.
    """
    models = replace(models, power=fitted.outcomes.power)
    mean = fitted.curve.growth(models.seen) + models.growth[:, None] * np.einsum("mkq,k->mq", projected, fitted.theta)
    shape = (len(models.inside), fitted.rest.shape[1])
    learnt, square = np.zeros(shape), np.zeros(shape)
    for tau, factor, belief, noise in zip(TAUS, fitted.factor, fitted.belief, fitted.noise, strict=True):
        cross = covariance(models, fitted.outcomes, fitted.curve, tau)
        own = np.diag(covariance(models, models, fitted.curve, tau)) + 1
        explained = (solve_triangular(factor, cross.T, lower=True) ** 2).sum(axis=0)
        by_tau = cross @ cho_solve((factor, True), fitted.rest)
        learnt += belief * by_tau
        square += belief * (noise**2 * (own - explained)[:, None] + by_tau**2)
    return Prediction(mean + join(learnt, fitted.scale), _spread(learnt, square, fitted.scale))


def rank_correlations(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Spearman's correlation over models, for each output, `(Q,)`; 0 if either side is constant.

    Args:
        predicted, actual: `(M, Q)`.
    """
    x, y = (rankdata(side, axis=0) for side in (predicted, actual))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    return np.asarray(np.divide((x * y).sum(axis=0), size, out=np.zeros_like(size), where=size > 0))
