"""Owner shares from counterfactual models: influence is the prior, and models trained on parts of the owners correct it.

x_mo is the part of owner o's tokens that model m saw, size_o the owner's part of all tokens, z_m = sum_o size_o x_mo; v_m(q)
the log-likelihood of output q under m, v_0 under the base and v_1 under the model served; s_ko(q) the influence of o's works by
component k. M models, n owners, Q outputs, K components, S strata.

    v_m(q) = g_q(z_m) + a_s(q) + (2 z_m)^p sum_o (x_mo - z_m) beta_so(q) + e
    beta_so(q) = sum_k theta_k s_ko(q) + delta_so(q)

- g_q, how likelihood grows with the amount of work, is a monotone curve through v_0, the mean of each stratum and v_1; a_s is
  the stratum's intercept. What is left is a *contrast*: an owner's work against as much of everybody's. It is larger the more
  work a model saw; p is one of `POWERS`, the likeliest.
- theta >= 0 is shared by all outputs; delta ~ N(0, (tau sigma)^2 n size_o), the sum of what so many works do each by itself, so
  who splits into several identities changes nothing; e ~ N(0, sigma^2). Sigma is the output's own, tau is one of
  `TAUS`; how often each occurs is fitted, with theta, to the marginal likelihood of all outputs (empirical Bayes by EM: Efron
  2010, "Large-Scale Inference", chapter 1). Of a stratum that has few models the other strata tell a part (`ALIKE`).
- An owner's value is what the size of its work is worth, and its contrast, on average over the part t of all work that is in:

      phi_o(q) = G_o(q) + sum_s w_s (beta_so - size_o sum_p beta_sp),       share = max(0, phi) / sum max(0, phi)

  with w_s the integral of (2 t)^p over t, beta between two strata on a straight line. `faithful` takes the slope where
  everybody has a part t in (Aumann and Shapley 1974): G_o = (v_1 - v_0) size_o, so splitting oneself changes nothing. `srs` has
  owners come in whole, one after another (Shapley 1953): G_o is the mean over t of g(t (1 - size_o) + size_o) -
  g(t (1 - size_o)), scaled to v_1 - v_0 in all; `banzhaf` the same at t = 1/2 alone.

Costs: P G (M^3 + M^2 K Q) operations for the fit (P values of p, G of tau) and G M n Q for the values; memory n Q numbers of a
block of outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.special import logsumexp
from scipy.stats import rankdata

from provenance.core.arrays import positive_shares

# Where one stratum ends and the next begins: parts of all tokens that a model saw.
BOUNDS = (0.25, 0.75)
# How much larger owners' own effects are than the noise of training, before anything is known.
TAUS = 2.0 ** np.arange(-4, 5)
# Of how contrasts grow with the amount of work; places of the integral over it.
POWERS, PLACES = (0.0, 0.25, 0.5, 0.75, 1.0), 1000
# The correlation of an owner's own effects in neighbouring strata.
ALIKE = 0.5
# Places of the quadrature over the part of everybody's work that is in.
NODES = 6
# An intercept may be anything: its variance, in squares of the noise.
FLAT = 1e4
ROUNDS = 8
RIDGE = 1e-6
TINY = 1e-12
DRAWS, CONFIDENCE, SEED = 200, 0.9, 1


@dataclass(frozen=True)
class Outcomes:
    """What models trained on parts of the owners say of outputs.

    Attributes:
        inside: part of each owner's tokens that each model saw, `(M, n)`.
        partition: of each model, the number of the partition it belongs to, `(M,)`.
        value: log-likelihoods, `(M, Q)`; base, served: under the model before and after its training, `(Q,)`.
        size: part of all tokens, `(n,)`; sums to one.
        power: p, how contrasts grow with the amount of work.
    """

    inside: np.ndarray
    partition: np.ndarray
    value: np.ndarray
    base: np.ndarray
    served: np.ndarray
    size: np.ndarray
    power: float = 0.0

    @property
    def seen(self) -> np.ndarray:
        """z: part of all tokens that each model saw, `(M,)`."""
        return np.asarray(self.inside @ self.size)

    @property
    def contrast(self) -> np.ndarray:
        """`(2 z_m)^p (x_mo - z_m)`, `(M, n)`."""
        return np.asarray(self.growth[:, None] * (self.inside - self.seen[:, None]))

    @property
    def growth(self) -> np.ndarray:
        """`(2 z_m)^p`, `(M,)`."""
        return np.asarray((2 * self.seen) ** self.power)

    @property
    def scale(self) -> np.ndarray:
        """Variances of owners' own effects, `(n,)`, with a mean of one."""
        return np.asarray(self.size * len(self.size))

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each model, `(M,)`."""
        return np.asarray(np.digitize(self.seen, BOUNDS))

    def some(self, chosen: np.ndarray) -> Outcomes:
        """Of some models alone."""
        return replace(self, inside=self.inside[chosen], partition=self.partition[chosen], value=self.value[chosen])


@dataclass(frozen=True)
class Curve:
    """How likelihood grows with the amount of work.

    Attributes:
        strata: their numbers, ascending; at: where each stands, `(S,)`.
        level: log-likelihoods at 0, where the strata stand, and at 1, `(S + 2, Q)`.
    """

    strata: np.ndarray
    at: np.ndarray
    level: np.ndarray

    def growth(self, part: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The curve g of some outputs at parts of all work, `(..., q)` (Fritsch and Carlson 1980)."""
        places = np.concatenate([[0.0], self.at, [1.0]])
        return np.asarray(PchipInterpolator(places, self.level[:, chosen])(part))

    def member(self, strata: np.ndarray) -> np.ndarray:
        """Which stratum each of some models belongs to, `(m, S)`: 0 or 1."""
        return np.asarray(strata[:, None] == self.strata, dtype=np.float64)


@dataclass(frozen=True)
class Fitted:
    """What the counterfactual models of a night teach.

    Attributes:
        theta: what each component counts, `(K,)`.
        covariance: of models' values in units of the output's noise, by tau, `(G, M, M)`; factor: lower Cholesky factors.
        belief: how far each output is one of each tau, `(G, Q)`, summing to one; noise: sigma by tau, `(G, Q)`.
        rest: what influence leaves, `(M, Q)`.
        evidence: the marginal likelihood of all outputs, as a logarithm.
    """

    outcomes: Outcomes
    curve: Curve
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
    """Weights of values at some places in the integral of `(2 t)^p` times straight lines between them, level beyond."""
    part = (np.arange(PLACES) + 0.5) / PLACES
    return np.array([((2 * part) ** power * np.interp(part, at, unit)).mean() for unit in np.eye(len(at))])


def project(outcomes: Outcomes, influence: np.ndarray) -> np.ndarray:
    """What influence alone says of each model: its contrast of the owners' influence, `(M, K, Q)`.

    Args:
        influence: `(K, n, Q)` of some or all outputs.
    """
    return np.asarray(np.einsum("mn,knq->mkq", outcomes.contrast, influence, optimize=True))


def fit(outcomes: Outcomes, projected: np.ndarray) -> Fitted:
    """Fit theta, tau, sigma and p by all outputs together.

    Args:
        outcomes: with p = 0.
        projected: `project` of all outputs, `(M, K, Q)`; K may be 0.
    """
    grown = [replace(outcomes, power=power) for power in POWERS]
    tried = [_fit(each, projected * each.growth[:, None, None]) for each in grown]
    return max(tried, key=lambda fitted: fitted.evidence)


def _fit(outcomes: Outcomes, projected: np.ndarray) -> Fitted:
    """The same for one p."""
    curve = fit_curve(outcomes)
    left = outcomes.value - curve.growth(outcomes.seen)
    models, components, _ = projected.shape
    factor = np.stack([cholesky(_covariance(outcomes, outcomes, curve, tau) + np.eye(models), lower=True) for tau in TAUS])
    white = np.stack([solve_triangular(each, left, lower=True) for each in factor])
    flat = projected.reshape(models, -1)
    whitened = np.stack([solve_triangular(each, flat, lower=True).reshape(projected.shape) for each in factor])
    volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    freedom = models - len(curve.strata)
    common, theta = np.full(len(TAUS), 1 / len(TAUS)), np.zeros(components)
    for _ in range(ROUNDS):
        variance = ((white - np.einsum("gmkq,k->gmq", whitened, theta)) ** 2).sum(axis=1) / freedom + TINY
        likelihood = -freedom / 2 * np.log(variance) - volume[:, None] + np.log(common + TINY)[:, None]
        evidence = logsumexp(likelihood, axis=0)
        belief = np.exp(likelihood - evidence)
        common = belief.mean(axis=1)
        theta = _non_negative(whitened, white, belief / variance)
    rest = left - np.einsum("mkq,k->mq", projected, theta)
    variance = (np.stack([solve_triangular(each, rest, lower=True) for each in factor]) ** 2).sum(axis=1) / freedom + TINY
    return Fitted(outcomes, curve, theta, factor, belief, np.sqrt(variance), rest, float(evidence.sum()))


def _non_negative(whitened: np.ndarray, white: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares with theta >= 0 (Lawson and Hanson 1974, chapter 23)."""
    components = whitened.shape[2]
    if not components:
        return np.zeros(0)
    gram = np.einsum("gmkq,gmlq,gq->kl", whitened, whitened, weight, optimize=True)
    target = np.einsum("gmkq,gmq,gq->k", whitened, white, weight, optimize=True)
    scale = np.sqrt(np.diag(gram)) + TINY
    root = cholesky(gram / scale[:, None] / scale + RIDGE * np.eye(components), lower=True)
    found: np.ndarray = nnls(root.T, solve_triangular(root, target / scale, lower=True))[0] / scale
    return found


def _covariance(one: Outcomes, two: Outcomes, curve: Curve, tau: float) -> np.ndarray:
    """Prior covariance of models' values in units of the noise, without it: `(m, m')`."""
    first, second = curve.member(one.strata), curve.member(two.strata)
    alike = first @ _between(curve, tau) @ second.T
    return np.asarray(((one.contrast * one.scale) @ two.contrast.T) * alike + FLAT * first @ second.T)


def _between(curve: Curve, tau: float) -> np.ndarray:
    """Covariance of an owner's own effects in two strata, `(S, S)`."""
    apart = np.abs(curve.strata[:, None] - curve.strata)
    found: np.ndarray = tau**2 * ALIKE**apart
    return found


@dataclass(frozen=True)
class Rule:
    """What an owner is paid for.

    Attributes:
        weight: of the contrast in each stratum, `(S,)`.
        parts: of everybody's work that are in when an owner comes in whole, `(T,)`; none where it comes in by small parts.
    """

    weight: np.ndarray
    parts: np.ndarray


def rule_named(name: str, fitted: Fitted) -> Rule:
    """A rule by value: `faithful`, `srs` or `banzhaf`."""
    curve = fitted.curve
    weight = quadrature(curve.at, fitted.outcomes.power)
    if name == "faithful":
        return Rule(weight, np.zeros(0))
    if name == "srs":
        return Rule(weight, (1 + np.polynomial.legendre.leggauss(NODES)[0]) / 2)
    middle = np.array([np.interp(0.5, curve.at, unit) for unit in np.eye(len(curve.at))])
    return Rule(middle, np.array([0.5]))


def worth_of_size(fitted: Fitted, rule: Rule, chosen: np.ndarray) -> np.ndarray:
    """G: what the size of each owner's work is worth to some outputs, `(n, q)`."""
    outcomes, curve = fitted.outcomes, fitted.curve
    whole, size = (outcomes.served - outcomes.base)[chosen], outcomes.size[:, None]
    if not len(rule.parts):
        return np.asarray(size * whole)
    weight = np.polynomial.legendre.leggauss(len(rule.parts))[1] / 2
    before = rule.parts * (1 - size)
    gained = curve.growth(before + size, chosen) - curve.growth(before, chosen)
    found = np.einsum("t,otq->oq", weight, gained)
    total = found.sum(axis=0)
    return np.asarray(
        np.where(total > 0, found * np.divide(whole, total, out=np.zeros_like(whole), where=total > 0), size * whole)
    )


def values(fitted: Fitted, rule: Rule, influence: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values phi of owners by tau, `(G, n, q)`, for some outputs.

    Args:
        influence: `(K, n, q)` of the chosen outputs.
    """
    outcomes, curve = fitted.outcomes, fitted.curve
    prior = np.einsum("k,knq->nq", fitted.theta, influence) * rule.weight.sum()
    learnt = []
    for tau, factor in zip(TAUS, fitted.factor, strict=True):
        gain = _gain(outcomes, curve, tau, rule)
        learnt.append(gain.T @ cho_solve((factor, True), fitted.rest[:, chosen]))
    slope = prior + np.stack(learnt)
    contrast = slope - outcomes.size[:, None] * slope.sum(axis=1, keepdims=True)
    return np.asarray(worth_of_size(fitted, rule, chosen) + contrast)


def _gain(outcomes: Outcomes, curve: Curve, tau: float, rule: Rule) -> np.ndarray:
    """Covariance of models' values with owners' weighted effects, `(M, n)`."""
    by_model = curve.member(outcomes.strata) @ _between(curve, tau) @ rule.weight
    return np.asarray(by_model[:, None] * outcomes.contrast * outcomes.scale)


def deviations(fitted: Fitted, rule: Rule, *, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Draws of how far values may be from the truth, in units of the output's noise, by tau: `(G, draws, n)`.

    By drawing effects and noise and taking off what the fit would learn of them (Matheron's rule: Wilson et al. 2021, JMLR 22,
    section 3); times a Student factor, since the noise is itself estimated; and with the noise that the truth has if every
    coalition is trained once.
    """
    outcomes, curve = fitted.outcomes, fitted.curve
    random = np.random.default_rng(seed)
    owners, strata = len(outcomes.size), len(curve.strata)
    effects = random.standard_normal((strata, draws, owners)) * np.sqrt(outcomes.scale)
    noise = random.standard_normal((draws, len(outcomes.inside)))
    again = random.standard_normal((draws, owners)) * retraining_noise(owners)
    student = np.sqrt(fitted.freedom / random.chisquare(fitted.freedom, (draws, 1)))
    member = curve.member(outcomes.strata)
    found = []
    for tau, factor in zip(TAUS, fitted.factor, strict=True):
        own = np.einsum("st,tdo->sdo", np.linalg.cholesky(_between(curve, tau)), effects)
        seen = np.einsum("ms,sdo,mo->dm", member, own, outcomes.contrast, optimize=True) + noise
        learnt = cho_solve((factor, True), seen.T).T @ _gain(outcomes, curve, tau, rule)
        slope = np.einsum("s,sdo->do", rule.weight, own) - learnt + again
        found.append(student * (slope - slope.sum(axis=1, keepdims=True) * outcomes.size))
    return np.stack(found)


def retraining_noise(owners: int) -> float:
    """The error of a Shapley value over all coalitions, each trained once, in units of one training's noise."""
    return math.sqrt(2 / owners**2 * sum(1 / math.comb(owners - 1, size) for size in range(owners)))


@dataclass(frozen=True)
class Shares:
    """Shares of owners in outputs and their intervals, `(n, q)` each; of an output that nobody adds to all are zero."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shares(fitted: Fitted, rule: Rule, influence: np.ndarray, chosen: np.ndarray, drawn: np.ndarray) -> Shares:
    """Shares of some outputs.

    Args:
        influence: `(K, n, q)` of the chosen outputs.
        drawn: `deviations`.
    """
    by_tau, belief, noise = values(fitted, rule, influence, chosen), fitted.belief[:, chosen], fitted.noise[:, chosen]
    share = positive_shares(np.einsum("gq,gnq->nq", belief, by_tau))
    # The draws of an output take each tau as often as it is believed.
    at = (np.arange(drawn.shape[1]) + 0.5) / drawn.shape[1]
    ends = np.empty((2, *share.shape))
    for place in range(share.shape[1]):
        tau = np.minimum(np.searchsorted(np.cumsum(belief[:, place]), at), len(belief) - 1)
        value = by_tau[tau, :, place] + noise[tau, place, None] * drawn[tau, np.arange(len(at))]
        ends[:, :, place] = np.quantile(positive_shares(value.T), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    return Shares(share, np.minimum(ends[0], share), np.maximum(ends[1], share))


@dataclass(frozen=True)
class Prediction:
    """Models' values as predicted without them, `(M, Q)`, and the standard deviation of the error."""

    value: np.ndarray
    spread: np.ndarray


def leave_out(fitted: Fitted) -> Prediction:
    """Every partition predicted from the others, in closed form (Sundararajan and Keerthi 2001, equation 14, by blocks)."""
    outcomes = fitted.outcomes
    value, square = np.zeros(fitted.rest.shape), np.zeros(fitted.rest.shape)
    for factor, belief, noise in zip(fitted.factor, fitted.belief, fitted.noise, strict=True):
        inverse = cho_solve((factor, True), np.eye(len(factor)))
        weighed = inverse @ fitted.rest
        for partition in np.unique(outcomes.partition):
            out = np.flatnonzero(outcomes.partition == partition)
            block = np.linalg.inv(inverse[np.ix_(out, out)])
            error = block @ weighed[out]
            value[out] += belief * (outcomes.value[out] - error)
            square[out] += belief * (noise**2 * np.diag(block)[:, None] + (outcomes.value[out] - error) ** 2)
    return Prediction(value, np.sqrt(np.maximum(square - value**2, 0)))


def predict(fitted: Fitted, others: Outcomes, projected: np.ndarray) -> Prediction:
    """Other models' values, such as those set aside.

    Args:
        others: with p = 0; projected: `project` of them, `(m, K, Q)`.
    """
    others = replace(others, power=fitted.outcomes.power)
    mean = fitted.curve.growth(others.seen) + others.growth[:, None] * np.einsum("mkq,k->mq", projected, fitted.theta)
    value, square = np.zeros(mean.shape), np.zeros(mean.shape)
    for tau, factor, belief, noise in zip(TAUS, fitted.factor, fitted.belief, fitted.noise, strict=True):
        cross = _covariance(others, fitted.outcomes, fitted.curve, tau)
        own = np.diag(_covariance(others, others, fitted.curve, tau)) + 1
        known = solve_triangular(factor, cross.T, lower=True)
        each = mean + cross @ cho_solve((factor, True), fitted.rest)
        value += belief * each
        square += belief * (noise**2 * (own - (known**2).sum(axis=0))[:, None] + each**2)
    return Prediction(value, np.sqrt(np.maximum(square - value**2, 0)))


def rank_correlations(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Spearman's correlation over models, for each output, `(Q,)`; 0 where either does not vary.

    Args:
        predicted, actual: `(M, Q)`.
    """
    one, two = (rankdata(side, axis=0) for side in (predicted, actual))
    one, two = one - one.mean(axis=0), two - two.mean(axis=0)
    size = np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    found: np.ndarray = np.divide((one * two).sum(axis=0), size, out=np.zeros_like(size), where=size > 0)
    return found
