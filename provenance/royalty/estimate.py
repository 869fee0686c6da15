"""Estimates owner shares from counterfactual models; influence is the prior, models trained on parts of the owners correct it.

Symbols: x_mo is the part of owner o's tokens that model m saw; size_o is the owner's part of all tokens, including copies by
others; x_m is the mean of x_mo by size; z_m is the part of all tokens that m was trained on, including tokens that earn
nothing; v_m(q) is the log-likelihood of output q under m, v_0 under the base, v_1 under the model served; s_ko(q) is the
influence of o's works by component k. There are M models, n owners, Q outputs, K components and S strata.

    v_m(q) = g_q(z_m) + a_s(q) + (2 z_m)^p sum_o (x_mo - x_m) beta_so(q) + e
    beta_so(q) = sum_k theta_k s_ko(q) + delta_so(q)

- g_q is a monotone curve of likelihood over the amount of work, through v_0, the mean of each stratum, and v_1; a_s is the
  stratum's intercept. The rest is a *contrast*: an owner's work compared with as much of everybody's. Its exponent p over the
  amount of work is the likeliest of `POWERS`.
- A model that trained well or badly moves all outputs at once, and so does an owner who teaches what all outputs need. So
  values are split into two kinds of *series*: a common one (the mean of all outputs, each in units of its noise), and one for
  the rest of each output. Each series has an e and a delta of its own.
- All series share theta >= 0. delta ~ N(0, (tau sigma)^2 size_o): variances of works add up, so an owner that splits into
  several identities changes nothing. e ~ N(0, sigma^2). Each series has its own sigma, and a tau among `TAUS`; the frequencies
  of tau are fitted, with theta, to the marginal likelihood of all series (empirical Bayes by EM: Efron 2010, "Large-Scale
  Inference", chapter 1). A stratum with few models borrows from the others (`ALIKE`). The prior of theta is the same value for
  all components, each in units of its spread; it has the weight of one model.
- An owner's value is the worth of the size of its work plus its contrast, on average over the part t of all work:

      phi_o(q) = G_o(q) + sum_s w_s (beta_so - size_o sum_p beta_sp),       share = max(0, phi) / sum max(0, phi)

  w_s is the integral of (2 t)^p over t; between two strata beta is a straight line. `faithful` takes the slope where every
  owner has a part t (Aumann and Shapley 1974): G_o = (v_1 - v_0) size_o, so an owner gains nothing by splitting; contrasts,
  which are measured with whole owners, are multiplied by `IN_PARTS`. `srs` adds whole owners, one after another (Shapley 1953):
  G_o is the mean of g(t (1 - size_o) + size_o) - g(t (1 - size_o)) over the part t of the others that came before, scaled to
  the sum v_1 - v_0. `banzhaf` does the same at t = 1/2 alone.

Costs: P G (M^3 + M^2 K Q) operations for the fit (P values of p, G of tau) and G M n Q for the values; memory n Q numbers of a
block of outputs. Arrays over owners are NumPy or CuPy, as the influence is. The fit is in host memory; its factors and solves
are computed in the array module that `fit` is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls
from scipy.special import logsumexp

from provenance.core.arrays import Array, namespace, positive_shares, runs, to_numpy
from provenance.core.solving import factor, solve, solve_lower
from provenance.royalty.outcomes import Outcomes

# Prior ratios of the own effects of all owners together to the noise of training.
TAUS = 2.0 ** np.arange(-3, 7)
# Exponents of contrasts over the amount of work; points of the integral over it.
POWERS, PLACES = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0), 1000
# The correlation of an owner's own effects in neighbouring strata.
ALIKE = 0.5
# Contrasts are measured with whole owners; with parts of all owners they are smaller by this factor: the first works of an
# owner teach most of its own effect, and there they come while little is learnt yet. Chosen on `languages`, `eight` and
# `composers`, where slopes along the diagonal are .85, .78 and .83 of contrasts between coalitions of whole owners.
IN_PARTS = 0.8
# Nodes of the quadrature over the part of all work.
NODES = 6
# The prior variance of an intercept, in squares of the noise: practically unlimited.
FLAT = 1e4
ROUNDS = 8
TINY = 1e-12
# The relative error of sums of influence, which are computed in float32.
ROUNDING = 1e-5
DRAWS, CONFIDENCE, SEED = 200, 0.9, 1


@dataclass(frozen=True)
class Curve:
    """The growth of likelihood with the amount of work.

    Attributes:
        strata: their numbers, ascending; at: the mean part of all work of each, `(S,)`.
        level: log-likelihoods at 0, at each stratum, and at 1, `(S + 2, Q)`.
    """

    strata: np.ndarray
    at: np.ndarray
    level: np.ndarray

    def growth(self, part: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The curve g of some outputs at parts of all work, `(..., q)` (Fritsch and Carlson 1980)."""
        places = np.concatenate([[0.0], self.at, [1.0]])
        return np.asarray(PchipInterpolator(places, self.level[:, chosen])(part))

    def member(self, strata: np.ndarray) -> np.ndarray:
        """Membership of models in strata, `(m, S)`: 0 or 1."""
        return np.asarray(strata[:, None] == self.strata, dtype=np.float64)


@dataclass(frozen=True)
class Fitted:
    """The fit of a night's counterfactual models. Series 0 is the common one, the next are those of each output.

    Attributes:
        scale: the size of a unit of the common series in each output, `(Q,)`.
        theta: weights of components, `(K,)`.
        factor: lower Cholesky factors of the covariance of models' values in units of a series' noise, by tau, `(G, M, M)`.
        belief: probabilities of each tau for each series, `(G, 1 + Q)`, summing to one; noise: sigma by tau, `(G, 1 + Q)`.
        rest: values of models minus growth and influence, `(M, 1 + Q)`.
        evidence: log of the marginal likelihood of all series.
    """

    outcomes: Outcomes
    curve: Curve
    scale: np.ndarray
    theta: np.ndarray
    factor: np.ndarray
    belief: np.ndarray
    noise: np.ndarray
    rest: np.ndarray
    evidence: float

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the noise."""
        return len(self.outcomes.inside) - len(self.curve.strata)


def fit_curve(outcomes: Outcomes) -> Curve:
    """The curve through the base, the mean of every stratum, and the model served."""
    strata, member = np.unique(outcomes.strata, return_inverse=True)
    count = np.bincount(member)
    at = np.bincount(member, outcomes.seen) / count
    mean = np.stack([outcomes.value[member == s].mean(axis=0) for s in range(len(strata))])
    return Curve(strata, at, np.stack([outcomes.base, *mean, outcomes.served]))


def quadrature(at: np.ndarray, power: float) -> np.ndarray:
    """Weights of values at the places `at` in the integral of `(2 t)^p` times their linear interpolation, constant outside.

    For negative p, `(2 t)^p` is constant below the first place, where no model was trained.
    """
    part = (np.arange(PLACES) + 0.5) / PLACES
    growth = (2 * (np.maximum(part, at[0]) if power < 0 else part)) ** power
    return np.array([(growth * np.interp(part, at, unit)).mean() for unit in np.eye(len(at))])


def project(outcomes: Outcomes, influence: Array) -> np.ndarray:
    """Predictions of models by influence alone: the contrast of the owners' influence in each model, `(M, K, Q)`.

    Args:
        influence: `(K, n, Q)` of some or all outputs.
    """
    xp = namespace(influence)
    influence = xp.astype(influence, xp.float64)
    projected = to_numpy(xp.matmul(xp.asarray(outcomes.contrast), influence)).transpose(1, 0, 2)
    # Influence in proportion to the sizes of owners has no contrast. What rounding leaves of it must not get a weight.
    uneven = influence - xp.asarray(outcomes.size)[:, None] * xp.sum(influence, axis=1, keepdims=True)
    even = xp.max(xp.abs(uneven), axis=1) <= ROUNDING * xp.max(xp.abs(influence), axis=1)
    return np.where(to_numpy(even), 0.0, projected)


def split(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The series of outputs' values `(..., Q)`: the common one, then those of each output, `(..., 1 + Q)`."""
    common = (values / scale).mean(axis=-1, keepdims=True)
    return np.concatenate([common, values - common * scale], axis=-1)


def join(series: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The values of outputs from their series: the reverse of `split`."""
    return np.asarray(series[..., 1:] + scale * series[..., :1])


def fit(outcomes: Outcomes, projected: np.ndarray, xp: ModuleType = np) -> Fitted:
    """Fit theta, tau, sigma and p by all outputs together.

    Args:
        outcomes: with p = 0.
        projected: `project` of all outputs, `(M, K, Q)`; K may be 0.
        xp: the array module of factors and solves: NumPy, or CuPy on a GPU.
    """
    curve = fit_curve(outcomes)
    values = outcomes.value - curve.growth(outcomes.seen)
    # The noise of each output alone is its unit in the common series.
    single = _fit(outcomes, curve, values, projected, np.zeros(0), xp)
    scale = (single.belief * single.noise).sum(axis=0)
    values, projected = split(values, scale), split(projected, scale)
    # Models of one stratum do not show how contrasts grow.
    powers = POWERS if len(curve.strata) > 1 else (0.0,)
    fits = [_fit(replace(outcomes, power=power), curve, values, projected, scale, xp) for power in powers]
    return max(fits, key=lambda fitted: fitted.evidence)


def _fit(  # noqa: PLR0917
    outcomes: Outcomes, curve: Curve, values: np.ndarray, projected: np.ndarray, scale: np.ndarray, xp: ModuleType
) -> Fitted:
    """Fit with one p to some series: values of models minus growth, and their predictions by influence."""
    projected = projected * outcomes.growth[:, None, None]
    models, components, _ = projected.shape
    between = np.stack([covariance(outcomes, outcomes, curve, tau) + np.eye(models) for tau in TAUS])
    lower = factor(xp.asarray(between))

    def whiten(rows: np.ndarray) -> np.ndarray:
        return to_numpy(solve_lower(lower, xp.asarray(rows)))

    white = whiten(values)
    whitened = whiten(projected.reshape(models, -1)).reshape(len(TAUS), *projected.shape)
    factors = to_numpy(lower)
    volume = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    freedom, first = models - len(curve.strata), int(len(scale) > 0)
    frequency, theta = np.full((len(TAUS), values.shape[1]), 1 / len(TAUS)), np.zeros(components)
    for _ in range(ROUNDS):
        variance = ((white - np.einsum("gmkq,k->gmq", whitened, theta)) ** 2).sum(axis=1) / freedom + TINY
        likelihood = -freedom / 2 * np.log(variance) - volume[:, None] + np.log(frequency + TINY)
        evidence = logsumexp(likelihood, axis=0)
        belief = np.exp(likelihood - evidence)
        # The common series has no others like it: all its taus stay equally likely beforehand.
        frequency[:, first:] = belief[:, first:].mean(axis=1, keepdims=True)
        theta = _non_negative(whitened, white, belief / variance, 1 / freedom)
    rest = values - np.einsum("mkq,k->mq", projected, theta)
    variance = (whiten(rest) ** 2).sum(axis=1) / freedom + TINY
    return Fitted(outcomes, curve, scale, theta, factors, belief, np.sqrt(variance), rest, float(evidence.sum()))


def _non_negative(whitened: np.ndarray, white: np.ndarray, weight: np.ndarray, shrinkage: float) -> np.ndarray:
    """Weighted least squares with theta >= 0 (Lawson and Hanson 1974, chapter 23), shrunk towards one value for all."""
    components = whitened.shape[2]
    if not components:
        return np.zeros(0)
    gram = np.einsum("gmkq,gmlq,gq->kl", whitened, whitened, weight, optimize=True)
    target = np.einsum("gmkq,gmq,gq->k", whitened, white, weight, optimize=True)
    used = np.diag(gram) > 0
    scale = np.sqrt(np.diag(gram)) + TINY
    gram, target = gram / scale[:, None] / scale, target / scale
    equal = max(0.0, target.sum() / (gram.sum() + TINY))
    root = factor(gram, shrinkage)
    solution = nnls(root.T, solve_lower(root, target + shrinkage * equal))[0]
    return np.where(used, solution / scale, 0.0)


def covariance(models: Outcomes, others: Outcomes, curve: Curve, tau: float) -> np.ndarray:
    """Prior covariance of the values of two sets of models, in units of the noise and without it: `(m, m')`."""
    first, second = curve.member(models.strata), curve.member(others.strata)
    between = first @ _between(curve, tau) @ second.T
    return np.asarray(((models.contrast * models.size) @ others.contrast.T) * between + FLAT * first @ second.T)


def _between(curve: Curve, tau: float) -> np.ndarray:
    """Covariance of an owner's own effects in two strata, `(S, S)`."""
    return np.asarray(tau**2 * ALIKE ** np.abs(curve.strata[:, None] - curve.strata))


@dataclass(frozen=True)
class Rule:
    """The terms of an owner's value under a rule.

    Attributes:
        weight: of the contrast in each stratum, `(S,)`.
        parts: parts of the others' work before a whole owner is added, `(T,)`; empty if owners are added in small parts.
        chance: the probability of each of these parts, `(T,)`.
    """

    weight: np.ndarray
    parts: np.ndarray
    chance: np.ndarray


def rule_named(name: str, fitted: Fitted) -> Rule:
    """A rule by value: `faithful`, `srs` or `banzhaf`."""
    curve = fitted.curve
    weight = quadrature(curve.at, fitted.outcomes.power)
    if name == "faithful":
        return Rule(IN_PARTS * weight, np.zeros(0), np.zeros(0))
    if name == "srs":
        # 0 to n - 1 owners come before, with equal probability: the integral over their part, plus half of the integrand at
        # each end (Euler and Maclaurin's formula).
        owners, (nodes, chance) = len(fitted.outcomes.size), np.polynomial.legendre.leggauss(NODES)
        parts = np.concatenate([[0.0], (1 + nodes) / 2, [1.0]])
        return Rule(weight, parts, np.concatenate([[0.5], chance / 2 * (owners - 1), [0.5]]) / owners)
    middle = np.array([np.interp(0.5, curve.at, unit) for unit in np.eye(len(curve.at))])
    return Rule(middle, np.array([0.5]), np.ones(1))


def worth_of_size(fitted: Fitted, rule: Rule, chosen: np.ndarray) -> np.ndarray:
    """G: the worth of the size of each owner's work to some outputs, `(n, q)`."""
    outcomes, curve = fitted.outcomes, fitted.curve
    whole, size = (outcomes.served - outcomes.base)[chosen], outcomes.size[:, None]
    if not len(rule.parts):
        return np.asarray(size * whole)
    before = rule.parts * (1 - size)
    gained = curve.growth(before + size, chosen) - curve.growth(before, chosen)
    mean = np.einsum("t,otq->oq", rule.chance, gained)
    total = mean.sum(axis=0)
    scale = np.divide(whole, total, out=np.zeros_like(whole), where=total > 0)
    return np.asarray(np.where(total > 0, mean * scale, size * whole))


def values(fitted: Fitted, rule: Rule, influence: Array, chosen: np.ndarray) -> tuple[Array, Array]:
    """Values phi of owners, `(n, q)`, for some outputs; and the differences from them if tau were known, `(G, n, q)`.

    Args:
        influence: `(K, n, q)` of the chosen outputs.
    """
    xp, size = namespace(influence), fitted.outcomes.size
    slope = xp.tensordot(xp.asarray(fitted.theta), xp.astype(influence, xp.float64), axes=1) * float(rule.weight.sum())
    belief = xp.asarray(fitted.belief)
    common = xp.sum(_learnt(fitted, rule, np.array([0]), xp) * belief[:, None, :1], axis=0)
    by_tau = _learnt(fitted, rule, 1 + chosen, xp)
    own = xp.sum(by_tau * xp.take(belief, xp.asarray(1 + chosen), axis=1)[:, None, :], axis=0)
    contrast = _contrast(slope, size) + own + common * xp.asarray(fitted.scale[chosen])
    return xp.asarray(worth_of_size(fitted, rule, chosen)) + contrast, by_tau - own


def _learnt(fitted: Fitted, rule: Rule, series: np.ndarray, xp: ModuleType) -> Array:
    """The effects of owners beyond influence that the models show, by tau: `(G, n, s)` for some series."""
    effects, rest = [], xp.asarray(fitted.rest[:, series])
    for tau, lower in zip(TAUS, fitted.factor, strict=True):
        gain = _gain(fitted.outcomes, fitted.curve, tau, rule)
        slope = xp.matmul(xp.asarray(gain.T), solve(xp.asarray(lower), rest))
        effects.append(_contrast(slope, fitted.outcomes.size))
    return xp.stack(effects)


def _contrast(slope: Array, size: np.ndarray) -> Array:
    """The worth of owners' work minus the worth of as much of everybody's, `(n, s)`."""
    xp = namespace(slope)
    return slope - xp.asarray(size)[:, None] * xp.sum(slope, axis=0, keepdims=True)


def _gain(outcomes: Outcomes, curve: Curve, tau: float, rule: Rule) -> np.ndarray:
    """Covariance of models' values with owners' weighted effects, `(M, n)`."""
    by_model = curve.member(outcomes.strata) @ _between(curve, tau) @ rule.weight
    return np.asarray(by_model[:, None] * outcomes.contrast * outcomes.size)


@dataclass(frozen=True)
class Deviations:
    """Draws of the errors of owners' values.

    Attributes:
        common: of the common series, `(draws, n)`, in its unit.
        own: of an output's series, by tau, `(G, draws, n)`, in units of its noise.
    """

    common: np.ndarray
    own: np.ndarray


def deviations(fitted: Fitted, rule: Rule, *, draws: int = DRAWS, seed: int = SEED) -> Deviations:
    """Draws from the posterior, for any output."""
    random = np.random.default_rng(seed)
    common, own = (_drawn(fitted, rule, random, draws) for _ in range(2))
    learnt = _learnt(fitted, rule, np.array([0]), np)[:, :, 0]
    learnt = learnt - fitted.belief[:, 0] @ learnt
    tau = random.permutation(_taus(fitted.belief[:, 0], draws))
    return Deviations(learnt[tau] + fitted.noise[tau, :1] * common[tau, np.arange(draws)], own)


def _drawn(fitted: Fitted, rule: Rule, random: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of the errors of a series' values, in units of its noise, by tau: `(G, draws, n)`.

    Draws effects and noise and subtracts the fit's estimate of them (Matheron's rule: Wilson et al. 2021, JMLR 22, section 3).
    A Student factor allows for the estimated noise. The noise of a truth in which every coalition is trained once is included.
    """
    outcomes, curve = fitted.outcomes, fitted.curve
    owners, strata = len(outcomes.size), len(curve.strata)
    effects = random.standard_normal((strata, draws, owners)) * np.sqrt(outcomes.size)
    noise = random.standard_normal((draws, len(outcomes.inside)))
    again = random.standard_normal((draws, owners)) * retraining_noise(owners)
    student = np.sqrt(fitted.freedom / random.chisquare(fitted.freedom, (draws, 1)))
    member = curve.member(outcomes.strata)
    errors = []
    for tau, lower in zip(TAUS, fitted.factor, strict=True):
        own = np.einsum("st,tdo->sdo", np.linalg.cholesky(_between(curve, tau)), effects)
        seen = np.einsum("ms,sdo,mo->dm", member, own, outcomes.contrast, optimize=True) + noise
        learnt = solve(lower, seen.T).T @ _gain(outcomes, curve, tau, rule)
        slope = np.einsum("s,sdo->do", rule.weight, own) - learnt + again
        errors.append(student * _contrast(slope.T, outcomes.size).T)
    return np.stack(errors)


def _taus(belief: np.ndarray, draws: int) -> np.ndarray:
    """The number of a tau for each draw, ascending, with the frequencies of the belief, `(draws,)`."""
    at = (np.arange(draws) + 0.5) / draws
    return np.minimum(np.searchsorted(np.cumsum(belief), at), len(belief) - 1)


def retraining_noise(owners: int) -> float:
    """The error of a Shapley value over all coalitions, each trained once, in units of one training's noise."""
    return math.sqrt(2 / owners**2 * sum(1 / math.comb(owners - 1, size) for size in range(owners)))


@dataclass(frozen=True)
class Shares:
    """Shares of owners in outputs and their intervals, `(n, q)` each; zeros for an output to which nobody adds."""

    share: Array
    low: Array
    high: Array


def shares(fitted: Fitted, rule: Rule, influence: Array, chosen: np.ndarray, drawn: Deviations) -> Shares:
    """Shares of some outputs.

    Args:
        influence: `(K, n, q)` of the chosen outputs.
        drawn: `deviations`.
    """
    xp = namespace(influence)
    value, by_tau = values(fitted, rule, influence, chosen)
    share = positive_shares(value)
    common, own = xp.asarray(drawn.common), xp.asarray(drawn.own)
    ends = []
    for place, output in enumerate(chosen.tolist()):
        tau = _taus(fitted.belief[:, 1 + output], len(drawn.common))
        of_series = [
            float(fitted.noise[g, 1 + output]) * own[g, first : first + count, :] + by_tau[g, :, place]
            for g, first, count in zip(*(part.tolist() for part in runs(tau)), strict=True)
        ]
        values_drawn = value[:, place] + float(fitted.scale[output]) * common + xp.concat(of_series)
        ends.append(_ends(positive_shares(values_drawn.T)))
    if not ends:
        return Shares(share, share, share)
    low, high = (xp.stack(side, axis=1) for side in zip(*ends, strict=True))
    return Shares(share, xp.minimum(low, share), xp.maximum(high, share))


def _ends(draws: Array) -> tuple[Array, Array]:
    """The ends of intervals of `CONFIDENCE`, between draws `(n, draws)`: `(n,)` each."""
    xp = namespace(draws)
    ascending = xp.sort(draws, axis=1)
    ends = []
    for part in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        at = part * (draws.shape[1] - 1)
        lower = int(at)
        above = min(lower + 1, draws.shape[1] - 1)
        ends.append(ascending[:, lower] + (at - lower) * (ascending[:, above] - ascending[:, lower]))
    return ends[0], ends[1]
