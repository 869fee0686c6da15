"""Owner shares from counterfactual models: influence is the prior, and models trained on parts of the owners correct it.

x_mo is the part of owner o's tokens that model m saw, size_o the owner's part of all tokens (whoever copied them), x_m the mean
of x_mo by size; z_m the part of all tokens that the model was trained on, those of nobody who is paid as well; v_m(q) the
log-likelihood of output q under m, v_0 under the base and v_1 under the model served; s_ko(q) the influence of o's works by
component k. M models, n owners, Q outputs, K components, S strata.

    v_m(q) = g_q(z_m) + a_s(q) + (2 z_m)^p sum_o (x_mo - x_m) beta_so(q) + e
    beta_so(q) = sum_k theta_k s_ko(q) + delta_so(q)

- g_q, how likelihood grows with the amount of work, is a monotone curve through v_0, the mean of each stratum and v_1; a_s is
  the stratum's intercept. What is left is a *contrast*: an owner's work against as much of everybody's. It grows
  with the work that a model saw, or shrinks; p is one of `POWERS`, the likeliest.
- A model that trained well or badly says more, or less, of all outputs at once, and so does an owner who teaches what all
  outputs need. So values are split into two kinds of *series*: what outputs have in common (their mean, each in units of its
  noise), and of each output what is its own. Each series has an e and a delta of its own.
- theta >= 0 is shared by all series; delta ~ N(0, (tau sigma)^2 size_o), the sum of what so many works do each by itself, so
  who splits into several identities changes nothing; e ~ N(0, sigma^2). Sigma is the series' own, tau is one of
  `TAUS`; how often each occurs is fitted, with theta, to the marginal likelihood of all series (empirical Bayes by EM: Efron
  2010, "Large-Scale Inference", chapter 1). A stratum with few models borrows from the others (`ALIKE`); that
  all components count alike, each in units of its spread, is believed beforehand as if one model had said it.
- An owner's value is what the size of its work is worth, and its contrast, on average over the part t of all work that is in:

      phi_o(q) = G_o(q) + sum_s w_s (beta_so - size_o sum_p beta_sp),       share = max(0, phi) / sum max(0, phi)

  with w_s the integral of (2 t)^p over t, beta between two strata on a straight line. `faithful` takes the slope where
  everybody has a part t in (Aumann and Shapley 1974): G_o = (v_1 - v_0) size_o, so splitting oneself changes nothing, and
  contrasts, measured with whole owners, count `IN_PARTS`. `srs` has owners come in whole, one after another (Shapley 1953): G_o
  is the mean over the part t of the others that came before of
  g(t (1 - size_o) + size_o) - g(t (1 - size_o)), scaled to v_1 - v_0 in all; `banzhaf` the same at t = 1/2 alone.

Costs: P G (M^3 + M^2 K Q) operations for the fit (P values of p, G of tau) and G M n Q for the values; memory n Q numbers of a
block of outputs. The fit is small and stays in host memory; what grows with owners runs wherever influence is (NumPy or CuPy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.special import logsumexp
from scipy.stats import rankdata

from provenance.core.arrays import Array, namespace, positive_shares, runs, to_numpy

# Where one stratum ends and the next begins: parts of all tokens that a model saw.
BOUNDS = (0.25, 0.75)
# How much larger the own effects of all owners together may be than the noise of training, before anything is known.
TAUS = 2.0 ** np.arange(-3, 7)
# Of how contrasts grow with the amount of work; places of the integral over it.
POWERS, PLACES = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0), 1000
# The correlation of an owner's own effects in neighbouring strata.
ALIKE = 0.5
# What a contrast measured with owners' whole works counts where everybody is in with a part: the first works of an owner teach
# most of what is its own, and there they come while little is learnt yet. Chosen on `languages`, `eight` and `composers`, where
# slopes along the diagonal are .85, .78 and .83 of contrasts between coalitions of whole owners.
IN_PARTS = 0.8
# Places of the quadrature over the part of everybody's work that is in.
NODES = 6
# An intercept may be anything: its variance, in squares of the noise.
FLAT = 1e4
ROUNDS = 8
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
        seen: z, the part of all tokens that each model was trained on, `(M,)`, those of nobody who is paid as well.
        power: p, how contrasts grow with the amount of work.
    """

    inside: np.ndarray
    partition: np.ndarray
    value: np.ndarray
    base: np.ndarray
    served: np.ndarray
    size: np.ndarray
    seen: np.ndarray
    power: float = 0.0

    @property
    def contrast(self) -> np.ndarray:
        """`(2 z_m)^p (x_mo - sum_p size_p x_mp)`, `(M, n)`."""
        return np.asarray(self.growth[:, None] * (self.inside - (self.inside @ self.size)[:, None]))

    @property
    def growth(self) -> np.ndarray:
        """`(2 z_m)^p`, `(M,)`."""
        return np.asarray((2 * self.seen) ** self.power)

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each model, `(M,)`."""
        return np.asarray(np.digitize(self.seen, BOUNDS))

    def some(self, chosen: np.ndarray) -> Outcomes:
        """Of some models alone."""
        rows = {name: getattr(self, name)[chosen] for name in ("inside", "partition", "value", "seen")}
        return replace(self, **rows)


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
    """What the counterfactual models of a night teach. Series: what outputs have in common, then what is each output's own.

    Attributes:
        scale: what a unit of the common series counts in each output, `(Q,)`.
        theta: what each component counts, `(K,)`.
        factor: lower Cholesky factors of the covariance of models' values in units of a series' noise, by tau, `(G, M, M)`.
        belief: how far each series is one of each tau, `(G, 1 + Q)`, summing to one; noise: sigma by tau, `(G, 1 + Q)`.
        rest: what influence leaves, `(M, 1 + Q)`.
        evidence: the marginal likelihood of all series, as a logarithm.
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
    """Weights of values at some places in the integral of `(2 t)^p` times straight lines between them, level beyond.

    Below the first place nothing was seen, and `(2 t)^p` is taken to grow no further.
    """
    part = (np.arange(PLACES) + 0.5) / PLACES
    growth = (2 * (np.maximum(part, at[0]) if power < 0 else part)) ** power
    return np.array([(growth * np.interp(part, at, unit)).mean() for unit in np.eye(len(at))])


def project(outcomes: Outcomes, influence: Array) -> np.ndarray:
    """What influence alone says of each model: its contrast of the owners' influence, `(M, K, Q)`.

    Args:
        influence: `(K, n, Q)` of some or all outputs.
    """
    xp = namespace(influence)
    found = xp.matmul(xp.asarray(outcomes.contrast), xp.astype(influence, xp.float64))
    return to_numpy(found).transpose(1, 0, 2)


def split(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The series of outputs' values `(..., Q)`: what they have in common, and what is each one's own, `(..., 1 + Q)`."""
    common = (values / scale).mean(axis=-1, keepdims=True)
    return np.concatenate([common, values - common * scale], axis=-1)


def join(series: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Outputs' values from their series: the reverse of `split`."""
    return np.asarray(series[..., 1:] + scale * series[..., :1])


def fit(outcomes: Outcomes, projected: np.ndarray) -> Fitted:
    """Fit theta, tau, sigma and p by all outputs together.

    Args:
        outcomes: with p = 0.
        projected: `project` of all outputs, `(M, K, Q)`; K may be 0.
    """
    curve = fit_curve(outcomes)
    left = outcomes.value - curve.growth(outcomes.seen)
    # The noise of every output by itself, whose unit they have in common.
    apart = _fit(outcomes, curve, left, projected, np.zeros(0))
    scale = (apart.belief * apart.noise).sum(axis=0)
    left, projected = split(left, scale), split(projected, scale)
    # Models that all saw about as much do not tell how contrasts grow.
    powers = POWERS if len(curve.strata) > 1 else (0.0,)
    tried = [_fit(replace(outcomes, power=power), curve, left, projected, scale) for power in powers]
    return max(tried, key=lambda fitted: fitted.evidence)


def _fit(outcomes: Outcomes, curve: Curve, left: np.ndarray, projected: np.ndarray, scale: np.ndarray) -> Fitted:
    """The same for one p and some series: what growth leaves of models' values, and what influence says of them."""
    projected = projected * outcomes.growth[:, None, None]
    models, components, _ = projected.shape
    factor = np.stack([cholesky(_covariance(outcomes, outcomes, curve, tau) + np.eye(models), lower=True) for tau in TAUS])
    white = np.stack([solve_triangular(each, left, lower=True) for each in factor])
    flat = projected.reshape(models, -1)
    whitened = np.stack([solve_triangular(each, flat, lower=True).reshape(projected.shape) for each in factor])
    volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    freedom, alone = models - len(curve.strata), int(len(scale) > 0)
    often, theta = np.full((len(TAUS), left.shape[1]), 1 / len(TAUS)), np.zeros(components)
    for _ in range(ROUNDS):
        variance = ((white - np.einsum("gmkq,k->gmq", whitened, theta)) ** 2).sum(axis=1) / freedom + TINY
        likelihood = -freedom / 2 * np.log(variance) - volume[:, None] + np.log(often + TINY)
        evidence = logsumexp(likelihood, axis=0)
        belief = np.exp(likelihood - evidence)
        # The series that all have in common is one of a kind: of its tau nothing is known beforehand.
        often[:, alone:] = belief[:, alone:].mean(axis=1, keepdims=True)
        theta = _non_negative(whitened, white, belief / variance, 1 / freedom)
    rest = left - np.einsum("mkq,k->mq", projected, theta)
    variance = (np.stack([solve_triangular(each, rest, lower=True) for each in factor]) ** 2).sum(axis=1) / freedom + TINY
    return Fitted(outcomes, curve, scale, theta, factor, belief, np.sqrt(variance), rest, float(evidence.sum()))


def _non_negative(whitened: np.ndarray, white: np.ndarray, weight: np.ndarray, drawn: float) -> np.ndarray:
    """Weighted least squares with theta >= 0 (Lawson and Hanson 1974, chapter 23), somewhat drawn to one value for all."""
    components = whitened.shape[2]
    if not components:
        return np.zeros(0)
    gram = np.einsum("gmkq,gmlq,gq->kl", whitened, whitened, weight, optimize=True)
    target = np.einsum("gmkq,gmq,gq->k", whitened, white, weight, optimize=True)
    scale = np.sqrt(np.diag(gram)) + TINY
    gram, target = gram / scale[:, None] / scale, target / scale
    alike = max(0.0, target.sum() / (gram.sum() + TINY))
    root = cholesky(gram + drawn * np.eye(components), lower=True)
    found: np.ndarray = nnls(root.T, solve_triangular(root, target + drawn * alike, lower=True))[0] / scale
    return found


def _covariance(one: Outcomes, two: Outcomes, curve: Curve, tau: float) -> np.ndarray:
    """Prior covariance of models' values in units of the noise, without it: `(m, m')`."""
    first, second = curve.member(one.strata), curve.member(two.strata)
    alike = first @ _between(curve, tau) @ second.T
    return np.asarray(((one.contrast * one.size) @ two.contrast.T) * alike + FLAT * first @ second.T)


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
        parts: of everybody else's work that are in when an owner comes in whole, `(T,)`; none where it comes in by small parts.
        chance: how often it is each of them, `(T,)`.
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
        # Of n owners 0 to n - 1 others came before, each as often: the integral over the part that is in, and half of what it
        # has at either end (Euler and Maclaurin's formula).
        owners, (nodes, chance) = len(fitted.outcomes.size), np.polynomial.legendre.leggauss(NODES)
        parts = np.concatenate([[0.0], (1 + nodes) / 2, [1.0]])
        return Rule(weight, parts, np.concatenate([[0.5], chance / 2 * (owners - 1), [0.5]]) / owners)
    middle = np.array([np.interp(0.5, curve.at, unit) for unit in np.eye(len(curve.at))])
    return Rule(middle, np.array([0.5]), np.ones(1))


def worth_of_size(fitted: Fitted, rule: Rule, chosen: np.ndarray) -> np.ndarray:
    """G: what the size of each owner's work is worth to some outputs, `(n, q)`."""
    outcomes, curve = fitted.outcomes, fitted.curve
    whole, size = (outcomes.served - outcomes.base)[chosen], outcomes.size[:, None]
    if not len(rule.parts):
        return np.asarray(size * whole)
    before = rule.parts * (1 - size)
    gained = curve.growth(before + size, chosen) - curve.growth(before, chosen)
    found = np.einsum("t,otq->oq", rule.chance, gained)
    total = found.sum(axis=0)
    return np.asarray(
        np.where(total > 0, found * np.divide(whole, total, out=np.zeros_like(whole), where=total > 0), size * whole)
    )


def values(fitted: Fitted, rule: Rule, influence: Array, chosen: np.ndarray) -> Array:
    """Values phi of owners, `(n, q)`, for some outputs.

    Args:
        influence: `(K, n, q)` of the chosen outputs.
    """
    return _values(fitted, rule, influence, chosen)[0]


def _values(fitted: Fitted, rule: Rule, influence: Array, chosen: np.ndarray) -> tuple[Array, Array]:
    """The same, and what is added where an output's own series is of one tau for sure, `(G, n, q)`."""
    xp, size = namespace(influence), fitted.outcomes.size
    slope = xp.tensordot(xp.asarray(fitted.theta), xp.astype(influence, xp.float64), axes=1) * float(rule.weight.sum())
    belief = xp.asarray(fitted.belief)
    common = xp.sum(_learnt(fitted, rule, np.array([0]), xp) * belief[:, None, :1], axis=0)
    by_tau = _learnt(fitted, rule, 1 + chosen, xp)
    own = xp.sum(by_tau * xp.take(belief, xp.asarray(1 + chosen), axis=1)[:, None, :], axis=0)
    contrast = _contrast(slope, size) + own + common * xp.asarray(fitted.scale[chosen])
    return xp.asarray(worth_of_size(fitted, rule, chosen)) + contrast, by_tau - own


def _learnt(fitted: Fitted, rule: Rule, series: np.ndarray, xp: ModuleType) -> Array:
    """What models say of owners beyond influence, by tau: `(G, n, s)` for some series."""
    found = []
    for tau, factor in zip(TAUS, fitted.factor, strict=True):
        gain = _gain(fitted.outcomes, fitted.curve, tau, rule)
        slope = xp.matmul(xp.asarray(gain.T), xp.asarray(cho_solve((factor, True), fitted.rest[:, series])))
        found.append(_contrast(slope, fitted.outcomes.size))
    return xp.stack(found)


def _contrast(slope: Array, size: np.ndarray) -> Array:
    """What owners' work is worth against as much of everybody's, `(n, s)`."""
    xp = namespace(slope)
    return slope - xp.asarray(size)[:, None] * xp.sum(slope, axis=0, keepdims=True)


def _gain(outcomes: Outcomes, curve: Curve, tau: float, rule: Rule) -> np.ndarray:
    """Covariance of models' values with owners' weighted effects, `(M, n)`."""
    by_model = curve.member(outcomes.strata) @ _between(curve, tau) @ rule.weight
    return np.asarray(by_model[:, None] * outcomes.contrast * outcomes.size)


@dataclass(frozen=True)
class Deviations:
    """Draws of how far owners' values may be from what is estimated.

    Attributes:
        common: of what outputs have in common, `(draws, n)`, in the unit of that series.
        own: of what is an output's own, by tau, `(G, draws, n)`, in units of the noise of that series.
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
    """How far values of a series may be from the truth, in units of its noise, by tau: `(G, draws, n)`.

    By drawing effects and noise and taking off what the fit would learn of them (Matheron's rule: Wilson et al. 2021, JMLR 22,
    section 3); times a Student factor, since the noise is itself estimated; and with the noise that the truth has if every
    coalition is trained once.
    """
    outcomes, curve = fitted.outcomes, fitted.curve
    owners, strata = len(outcomes.size), len(curve.strata)
    effects = random.standard_normal((strata, draws, owners)) * np.sqrt(outcomes.size)
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
        found.append(student * _contrast(slope.T, outcomes.size).T)
    return np.stack(found)


def _taus(belief: np.ndarray, draws: int) -> np.ndarray:
    """The number of a tau for each draw, ascending, each as often as it is believed, `(draws,)`."""
    at = (np.arange(draws) + 0.5) / draws
    return np.minimum(np.searchsorted(np.cumsum(belief), at), len(belief) - 1)


def retraining_noise(owners: int) -> float:
    """The error of a Shapley value over all coalitions, each trained once, in units of one training's noise."""
    return math.sqrt(2 / owners**2 * sum(1 / math.comb(owners - 1, size) for size in range(owners)))


@dataclass(frozen=True)
class Shares:
    """Shares of owners in outputs and their intervals, `(n, q)` each; of an output that nobody adds to all are zero."""

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
    value, by_tau = _values(fitted, rule, influence, chosen)
    share = positive_shares(value)
    common, own = xp.asarray(drawn.common), xp.asarray(drawn.own)
    ends = []
    for place, output in enumerate(chosen.tolist()):
        # The draws of an output take each tau as often as it is believed.
        tau = _taus(fitted.belief[:, 1 + output], len(drawn.common))
        of_series = [
            float(fitted.noise[each, 1 + output]) * own[each, first : first + count, :] + by_tau[each, :, place]
            for each, first, count in zip(*(part.tolist() for part in runs(tau)), strict=True)
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
    found = []
    for part in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        at = part * (draws.shape[1] - 1)
        lower = int(at)
        above = min(lower + 1, draws.shape[1] - 1)
        found.append(ascending[:, lower] + (at - lower) * (ascending[:, above] - ascending[:, lower]))
    return found[0], found[1]


@dataclass(frozen=True)
class Prediction:
    """Models' values as predicted without them, `(M, Q)`, and the standard deviation of the error."""

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
            each = block @ weighed[out]
            error[out] += belief * each
            square[out] += belief * (noise**2 * np.diag(block)[:, None] + each**2)
    return Prediction(outcomes.value - join(error, scale), _spread(error, square, scale))


def _spread(mean: np.ndarray, square: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Standard deviations of outputs' values, from the means and mean squares of their series."""
    return np.asarray(np.sqrt(join(np.maximum(square - mean**2, 0), scale**2)))


def predict(fitted: Fitted, others: Outcomes, projected: np.ndarray) -> Prediction:
    """Other models' values, such as those set aside.

    Args:
        others: with p = 0; projected: `project` of them, `(m, K, Q)`.
    """
    others = replace(others, power=fitted.outcomes.power)
    mean = fitted.curve.growth(others.seen) + others.growth[:, None] * np.einsum("mkq,k->mq", projected, fitted.theta)
    shape = (len(others.inside), fitted.rest.shape[1])
    learnt, square = np.zeros(shape), np.zeros(shape)
    for tau, factor, belief, noise in zip(TAUS, fitted.factor, fitted.belief, fitted.noise, strict=True):
        cross = _covariance(others, fitted.outcomes, fitted.curve, tau)
        own = np.diag(_covariance(others, others, fitted.curve, tau)) + 1
        known = solve_triangular(factor, cross.T, lower=True)
        each = cross @ cho_solve((factor, True), fitted.rest)
        learnt += belief * each
        square += belief * (noise**2 * (own - (known**2).sum(axis=0))[:, None] + each**2)
    return Prediction(mean + join(learnt, fitted.scale), _spread(learnt, square, fitted.scale))


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
