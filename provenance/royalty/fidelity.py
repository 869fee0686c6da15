"""How far a night's shares can be trusted: counterfactual models predicted from the others, for the very outputs that are paid.

Every partition of counterfactual models is left out in turn and predicted. The rank correlation over models of what was
predicted and what came is a linear datamodelling score (LDS: Ilyas et al. 2022, arXiv 2202.00622, section 3) that needs no more
training. Models set aside are predicted, too; nothing was fitted on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import norm

from provenance.inputs.contracts import Contract
from provenance.royalty.estimate import CONFIDENCE, Fitted, Outcomes, Prediction, leave_out, predict, rank_correlations
from provenance.royalty.shares import BY_VALUE, FLAT

# Fewer models than this are not fitted: noise and owners' effects could not be told apart.
FEWEST = 8
# Owners of this part of all tokens must be in some models and not in others.
VARIED = 0.9
# Intervals that were meant to hold 90 % of what was left out, and hold less than this, are not believed.
HELD = 0.75
# Draws of outputs, for how sure the mean of a score over outputs is.
DRAWS, SEED = 500, 1
TINY = 1e-9


def check_enough(outcomes: Outcomes) -> list[str]:
    """Why the models cannot be fitted at all; nothing if they can."""
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
    of_aside: np.ndarray,
) -> dict[str, Any]:
    """Fidelity of an estimate, beside influence alone, word counts and size; and why its own check fails, if it does.

    Args:
        projected, of_aside: what influence says of the fitted models and of those set aside, `(M, K, Q)`.
        weights: what each component counts, `(K,)`; words: which components are of words, `(K,)` bool.
    """
    outcomes = fitted.outcomes
    found = leave_out(fitted)
    by_size = fitted.curve.growth(outcomes.seen)
    predictions = {
        "estimate": found.value,
        "influence": by_size + _in_proportion(np.einsum("mkq,k->mq", projected, weights), outcomes.value - by_size),
        "size": by_size,
    }
    if words.any():
        mean = projected[:, words].mean(axis=1)
        predictions["tfidf"] = by_size + _in_proportion(mean, outcomes.value - by_size)
    # Of models that saw about as much: across strata any method would tell more work from less.
    strata, count = np.unique(outcomes.strata, return_counts=True)
    alike = outcomes.strata == strata[np.argmax(count)]
    scores = {name: rank_correlations(each[alike], outcomes.value[alike]) for name, each in predictions.items()}
    lds = {name: _mean(each) for name, each in scores.items()}
    held = {"left_out": _held(found, outcomes.value)}
    if len(aside.inside):
        held["set_aside"] = _held(predict(fitted, aside, of_aside), aside.value)
    failed = []
    better = _mean(scores["estimate"] - scores["size"])
    if not better["low"] > 0:
        failed.append(f"predictions for left-out models rank no better than the amount of work alone ({better['value']:+.2f})")
    for name, part in held.items():
        if part < HELD:
            failed.append(f"90 % intervals contain only {part:.0%} of the results of models {name.replace('_', ' ')}")
    return {
        "models": len(outcomes.inside),
        "set_aside": len(aside.inside),
        "compared": int(alike.sum()),
        "lds": lds,
        "intervals_hold": held,
        "signal_to_noise": {name: _signal(lds[name]["value"]) for name in ("estimate", "influence")},
        "failed": failed,
    }


def _signal(score: float) -> float:
    """What is predicted against what is not: `r^2 / (1 - r^2)`."""
    r = min(max(score, 0.0), 0.999)
    return r**2 / (1 - r**2)


def unsupported(copies: Mapping[str, Any], contract: Contract) -> list[str]:
    """Why a contract's rule may pay nothing tonight; nothing where it may.

    Args:
        copies: the night's reports by rule on copies.
    """
    failed: list[str] = copies[contract.duplicates]["failed"] if contract.rule in BY_VALUE else []
    return failed


def signal_of(copies: Mapping[str, Any], contract: Contract) -> float | None:
    """How strong the signal is that a contract's rule pays by, against noise; None where nothing tells, infinite for `flat`."""
    if contract.rule == FLAT:
        return math.inf
    signals = copies[contract.duplicates].get("signal_to_noise", {})
    found: float | None = signals.get("estimate" if contract.rule in BY_VALUE else "influence")
    return found


def _in_proportion(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """A prediction in whatever unit, scaled by all outputs together as it fits best, and never turned round."""
    scale = float((predicted * actual).sum() / ((predicted**2).sum() + TINY))
    return max(scale, 0.0) * predicted


def _mean(scores: np.ndarray) -> dict[str, float]:
    """The mean over outputs, and a 90 % interval with outputs drawn again."""
    draws = np.random.default_rng(SEED).integers(len(scores), size=(DRAWS, len(scores)))
    low, high = np.quantile(scores[draws].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {"value": float(scores.mean()), "low": float(low), "high": float(high)}


def _held(prediction: Prediction, actual: np.ndarray) -> float:
    """The part of what came that lies in the 90 % intervals of what was predicted."""
    reach = norm.ppf((1 + CONFIDENCE) / 2) * prediction.spread
    return float((np.abs(actual - prediction.value) <= reach).mean())
