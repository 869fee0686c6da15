"""Shares from counterfactual models, against games whose every coalition is known."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from games import Game, concave, draw_game, linear
from scipy.stats import norm

from provenance.core.arrays import gpu_count, namespace_of, positive_shares, to_numpy
from provenance.royalty import estimate
from provenance.royalty.estimate import TAUS, Outcomes
from provenance.royalty.shares import BY_VALUE
from provenance.validation.coalitions import banzhaf, shapley


def nothing(outcomes, outputs):
    """No components of influence: of some outputs, and what they say of models."""
    return np.zeros((0, len(outcomes.size), outputs)), np.zeros((len(outcomes.inside), 0, outputs))


def fitted_on(outcomes, influence=None):
    """The fit, and the influence that it rests on."""
    influence = nothing(outcomes, outcomes.value.shape[1])[0] if influence is None else influence
    return estimate.fit(outcomes, estimate.project(outcomes, influence)), influence


def values(fitted, rule, influence):
    every = np.arange(influence.shape[2])
    return estimate.values(fitted, estimate.rule_named(rule, fitted), influence, every)


def shares(fitted, rule, influence, chosen=None):
    influence = influence if chosen is None else influence[:, :, chosen]
    chosen = np.arange(influence.shape[2]) if chosen is None else chosen
    named = estimate.rule_named(rule, fitted)
    return estimate.shares(fitted, named, influence, chosen, estimate.deviations(fitted, named))


def apart(one, two):
    """Sum over owners of how far shares are off, on average over outputs."""
    return np.abs(one - two).sum(axis=0).mean()


def exact(rule, worth, size):
    """Values by a rule over every coalition, `(n, Q)`; of `faithful` what the coalitions tell of parts of everybody's works."""
    if rule == "banzhaf":
        return banzhaf(worth)
    value = shapley(worth)
    by_size = size[:, None] * value.sum(axis=0)
    return by_size + (estimate.IN_PARTS if rule == "faithful" else 1) * (value - by_size)


@pytest.mark.parametrize("rule", BY_VALUE)
def test_without_noise_and_with_every_coalition_values_are_the_exact_ones(rule):
    game = draw_game(np.random.default_rng(1), owners=5, outputs=4, growth=linear, alike=True)
    game = replace(game, noise=np.zeros(4))
    inside, worth = game.every_coalition()
    between = np.arange(1, len(inside) - 1)
    fitted, influence = fitted_on(game.outcomes(inside[between], between))
    expected = exact(rule, worth, game.size)
    assert fitted.outcomes.power == 0
    assert np.abs(values(fitted, rule, influence) - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("rule", BY_VALUE)
def test_shares_of_a_noisy_game_come_close_to_exact_ones(rule):
    off, by_size, few = [], [], []
    for seed in range(8):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=6, outputs=8)
        truth = positive_shares(exact(rule, game.every_coalition()[1], game.size))
        for trainings, errors in ((16, off), (4, few)):
            fitted, influence = fitted_on(game.trained(trainings, random)[0])
            errors.append(apart(shares(fitted, rule, influence).share, truth))
        by_size.append(apart(game.size[:, None], truth))
    assert np.mean(off) < 0.4 * np.mean(by_size)
    assert np.mean(off) < np.mean(few) < 0.6 * np.mean(by_size)


def test_influence_makes_shares_truer_where_models_are_few():
    off = {False: [], True: []}
    for seed in range(8):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=12, outputs=16)
        truth = positive_shares(shapley(game.every_coalition()[1]))
        models = game.trained(2, random)[0]
        rough = (game.effect + 0.5 * game.effect.std() * random.standard_normal(game.effect.shape))[None]
        for informed, errors in off.items():
            fitted, influence = fitted_on(models, rough if informed else None)
            errors.append(apart(shares(fitted, "srs", influence).share, truth))
    assert np.mean(off[True]) < 0.8 * np.mean(off[False])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_one_component_that_tells_something_is_found_in_whatever_unit(scale):
    random = np.random.default_rng(1)
    game = draw_game(random, owners=8, outputs=20)
    strangers = game.effect.std() * random.standard_normal((2, *game.effect.shape))
    influence = np.stack([strangers[0], scale * game.effect, -game.effect, strangers[1]])
    theta = fitted_on(game.trained(16, random)[0], influence)[0].theta
    assert (theta >= 0).all()
    assert theta[1] * scale == pytest.approx(1, abs=0.1)
    assert theta[2] == 0
    assert theta[[0, 3]].max() < 0.05


def test_what_influence_says_in_full_leaves_no_effect_to_be_found():
    """Where influence is the truth, an output is believed to have no effects of owners beside it; without it, large ones."""
    random = np.random.default_rng(1)
    game = draw_game(random, owners=8, outputs=20, growth=linear)
    models = game.trained(16, random)[0]
    with_it, without = fitted_on(models, game.effect[None])[0], fitted_on(models)[0]
    of_one = TAUS / np.sqrt(8)  # an owner of eight
    assert of_one @ with_it.belief.mean(axis=1) < 0.5
    assert of_one @ without.belief.mean(axis=1) > 2
    assert np.allclose(with_it.belief.sum(axis=0), 1)
    assert np.mean(with_it.noise[:, 1:].min(axis=0) / game.noise) == pytest.approx(1, abs=0.25)


def conditioned(fitted, partition):
    """The models of a partition predicted from the others by the textbook: `(m, Q)`, and their standard deviations."""
    outcomes = fitted.outcomes
    out = outcomes.partition == partition
    strata, contrast = fitted.curve.member(outcomes.strata), outcomes.contrast
    apart = np.abs(fitted.curve.strata[:, None] - fitted.curve.strata)
    error, square = 0.0, 0.0
    for tau, belief, noise in zip(TAUS, fitted.belief, fitted.noise, strict=True):
        alike = tau**2 * estimate.ALIKE**apart
        of_size = (contrast * outcomes.size) @ contrast.T
        prior = of_size * (strata @ alike @ strata.T) + estimate.FLAT * strata @ strata.T
        whole = prior + np.eye(len(prior))
        gain = prior[np.ix_(out, ~out)] @ np.linalg.inv(whole[np.ix_(~out, ~out)])
        each = gain @ fitted.rest[~out] - fitted.rest[out]
        spread = whole[np.ix_(out, out)] - gain @ prior[np.ix_(~out, out)]
        error = error + belief * each
        square = square + belief * (noise**2 * np.diag(spread)[:, None] + each**2)
    variance = square - error**2
    value = outcomes.value[out] + error[:, 1:] + fitted.scale * error[:, :1]
    return value, np.sqrt(variance[:, 1:] + fitted.scale**2 * variance[:, :1])


def test_leaving_a_partition_out_in_closed_form_is_conditioning_on_the_others():
    random = np.random.default_rng(1)
    game = draw_game(random, owners=9, outputs=5)
    fitted, _ = fitted_on(game.trained(10, random)[0], game.effect[None] + random.standard_normal((2, 9, 5)))
    found = estimate.leave_out(fitted)
    for partition in np.unique(fitted.outcomes.partition):
        value, spread = conditioned(fitted, partition)
        out = fitted.outcomes.partition == partition
        assert np.allclose(found.value[out], value, rtol=1e-6, atol=1e-6)
        assert np.allclose(found.spread[out], spread, rtol=1e-5, atol=1e-6)


def test_other_models_are_predicted_as_if_they_had_been_left_out():
    random = np.random.default_rng(1)
    game = draw_game(random, owners=9, outputs=5)
    models = game.trained(10, random)[0]
    fitted, influence = fitted_on(models, game.effect[None])
    out = models.partition == 3
    # A fit of the same theta, tau and noise that has not seen them.
    unseen = replace(
        fitted,
        outcomes=fitted.outcomes.some(~out),
        factor=np.stack([np.linalg.cholesky((factor @ factor.T)[np.ix_(~out, ~out)]) for factor in fitted.factor]),
        rest=fitted.rest[~out],
    )
    found = estimate.predict(unseen, models.some(out), estimate.project(models.some(out), influence))
    left_out = estimate.leave_out(fitted)
    assert np.allclose(found.value, left_out.value[out], rtol=1e-6, atol=1e-6)
    assert np.allclose(found.spread, left_out.spread[out], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("growth", "alike"), [(linear, False), (linear, True), (concave, True), (concave, False)])
@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_nine_of_ten_intervals_hold_what_training_every_coalition_gives(growth, alike, strength):
    held = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=7, outputs=6, growth=growth, alike=alike, strength=strength)
        fitted, influence = fitted_on(game.trained(16, random)[0])
        truth = positive_shares(shapley(game.every_coalition(random)[1]))
        found = shares(fitted, "srs", influence)
        held.append((found.low - 1e-9 <= truth) & (truth <= found.high + 1e-9))
    assert 0.82 < np.mean(held) < 0.98


def test_nine_of_ten_intervals_hold_what_models_set_aside_say():
    held = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=10, outputs=6)
        models, aside = game.trained(16, random)
        fitted, influence = fitted_on(models)
        found = estimate.predict(fitted, aside, estimate.project(aside, influence))
        held.append(np.abs(aside.value - found.value) <= norm.ppf(0.95) * found.spread)
    assert 0.82 < np.mean(held) < 0.98


def test_more_trainings_make_intervals_narrower():
    width = {}
    for trainings in (4, 32):
        random = np.random.default_rng(1)
        game = draw_game(random, owners=10, outputs=12)
        fitted, influence = fitted_on(game.trained(trainings, random)[0])
        found = shares(fitted, "faithful", influence)
        assert (found.low <= found.share).all()
        assert (found.share <= found.high).all()
        width[trainings] = (found.high - found.low).mean()
    assert width[32] < 0.7 * width[4]


@pytest.fixture(scope="module")
def models():
    """Models of a game, and two components of influence on its outputs."""
    random = np.random.default_rng(2)
    game = draw_game(random, owners=9, outputs=6)
    influence = game.effect[None] + game.effect.std() * random.standard_normal((2, 9, 6))
    return game.trained(12, random)[0], influence


@pytest.mark.parametrize("rule", BY_VALUE)
def test_the_order_of_models_and_of_owners_changes_nothing(models, rule):
    outcomes, influence = models
    expected = values(fitted_on(outcomes, influence)[0], rule, influence)
    random = np.random.default_rng(1)
    turned, owners = random.permutation(len(outcomes.inside)), random.permutation(9)
    assert np.allclose(values(fitted_on(outcomes.some(turned), influence)[0], rule, influence), expected, rtol=1e-6, atol=1e-6)
    other = replace(outcomes, inside=outcomes.inside[:, owners], size=outcomes.size[owners])
    found = values(fitted_on(other, influence[:, owners])[0], rule, influence[:, owners])
    assert np.allclose(found, expected[owners], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["faithful", "srs"])
def test_values_sum_to_what_everybody_adds(models, rule):
    outcomes, influence = models
    found = values(fitted_on(outcomes, influence)[0], rule, influence).sum(axis=0)
    assert np.allclose(found, outcomes.served - outcomes.base)


@pytest.mark.parametrize("identities", [2, 6])
def test_an_owner_who_is_several_that_come_in_together_earns_no_more(identities):
    for seed in range(6):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=7, outputs=6)
        outcomes = game.trained(16, random)[0]
        influence = (game.effect + 0.5 * game.effect.std() * random.standard_normal(game.effect.shape))[None]
        whole = shares(fitted_on(outcomes, influence)[0], "faithful", influence).share
        first, others = np.full(identities, 1 / identities), slice(1, None)
        split = replace(
            outcomes,
            inside=np.concatenate([np.repeat(outcomes.inside[:, :1], identities, axis=1), outcomes.inside[:, others]], axis=1),
            size=np.concatenate([outcomes.size[0] * first, outcomes.size[others]]),
        )
        parted = np.concatenate([influence[:, :1] * first[:, None], influence[:, others]], axis=1)
        found = shares(fitted_on(split, parted)[0], "faithful", parted).share
        # Not to the last digit: of several it is less sure beforehand that they have no effect of their own.
        assert found[:identities].sum(axis=0) == pytest.approx(whole[0], rel=0.02, abs=0.002)


def test_some_outputs_at_a_time_get_what_all_together_get(models):
    outcomes, influence = models
    fitted, _ = fitted_on(outcomes, influence)
    whole = shares(fitted, "srs", influence)
    some = np.array([4, 1])
    part = shares(fitted, "srs", influence, some)
    for name in ("share", "low", "high"):
        assert getattr(part, name).shape == (9, 2)
        assert np.allclose(getattr(part, name), getattr(whole, name)[:, some])


@pytest.mark.parametrize(
    "device", ["strict", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no GPU")])]
)
@pytest.mark.parametrize("rule", BY_VALUE)
def test_shares_are_the_same_on_any_device(models, rule, device):
    outcomes, influence = models
    xp = array_api_strict if device == "strict" else namespace_of(device)
    moved = xp.asarray(influence)
    assert np.allclose(estimate.project(outcomes, moved), estimate.project(outcomes, influence))
    fitted, _ = fitted_on(outcomes, influence)
    plain, there = shares(fitted, rule, influence), shares(fitted, rule, moved)
    for name in ("share", "low", "high"):
        assert np.allclose(to_numpy(getattr(there, name)), getattr(plain, name), atol=1e-9)


def test_shapes_are_those_that_the_documents_name(models):
    outcomes, influence = models
    fitted, _ = fitted_on(outcomes, influence)
    count, places = len(outcomes.inside), len(TAUS)
    assert outcomes.contrast.shape == (count, 9)
    assert estimate.project(outcomes, influence).shape == (count, 2, 6)
    assert fitted.theta.shape == (2,)
    assert fitted.factor.shape == (places, count, count)
    assert fitted.scale.shape == (6,)
    assert fitted.belief.shape == fitted.noise.shape == (places, 7)
    assert fitted.rest.shape == (count, 7)
    assert estimate.leave_out(fitted).value.shape == (count, 6)
    assert fitted.freedom == count - len(fitted.curve.strata)
    rule = estimate.rule_named("faithful", fitted)
    drawn = estimate.deviations(fitted, rule, draws=7)
    assert (drawn.common.shape, drawn.own.shape) == ((7, 9), (places, 7, 9))
    assert estimate.values(fitted, rule, influence[:, :, :2], np.arange(2)).shape == (9, 2)


def test_series_of_outputs_are_joined_again():
    value, scale = np.random.default_rng(1).standard_normal((3, 2, 5)), np.array([1.0, 2.0, 0.5, 3.0, 1.0])
    series = estimate.split(value, scale)
    assert np.allclose(series[..., 0], (value / scale).mean(axis=-1))
    assert np.allclose((series[..., 1:] / scale).mean(axis=-1), 0)
    assert np.allclose(estimate.join(series, scale), value)


def test_noise_that_all_outputs_share_does_not_pass_for_what_a_component_counts():
    """A model that trained badly is bad for every output: many outputs are not so many witnesses."""
    found, apart = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=8, outputs=40, growth=linear, alike=True, strength=0.3)
        stranger = (random.standard_normal((8, 1)) + 0.3 * random.standard_normal((8, 40)))[None]
        outcomes = game.trained(4, random)[0]
        shared = 2 * random.standard_normal((len(outcomes.inside), 1)) * game.noise
        outcomes = replace(outcomes, value=outcomes.value + shared)
        found.append(fitted_on(outcomes, stranger)[0].theta[0])
        contrast = estimate.project(outcomes, stranger)[:, 0]
        apart.append(max(0.0, (contrast * outcomes.value).sum() / (contrast**2).sum()))
    assert np.mean(found) < 0.4 * np.mean(apart)


@pytest.mark.parametrize("owners", [2, 5, 40])
def test_size_is_worth_the_mean_over_how_many_came_before(owners):
    random = np.random.default_rng(5)
    game = draw_game(random, owners=owners, outputs=3, alike=True)
    fitted, _ = fitted_on(game.trained(12, random)[0])
    curve, size = fitted.curve, 1 / owners
    before = np.arange(owners) * size
    expected = (curve.growth(before + size) - curve.growth(before)).mean(axis=0)
    found = estimate.worth_of_size(fitted, estimate.rule_named("srs", fitted), np.arange(3))
    assert found == pytest.approx(np.tile(expected, (owners, 1)), rel=1e-6)
    uneven = replace(fitted, outcomes=replace(fitted.outcomes, size=random.dirichlet(np.full(owners, 6.0))))
    found = estimate.worth_of_size(uneven, estimate.rule_named("srs", uneven), np.arange(3))
    assert found.sum(axis=0) == pytest.approx(fitted.outcomes.served - fitted.outcomes.base)


def test_an_output_that_nobody_adds_to_has_no_shares(models):
    outcomes, influence = models
    worse = replace(outcomes, value=-outcomes.value, base=np.zeros(6), served=np.full(6, -40.0))
    fitted, influence = fitted_on(worse, np.zeros_like(influence))
    nobody = (values(fitted, "faithful", influence) <= 0).all(axis=0)
    found = shares(fitted, "faithful", influence)
    assert nobody.any()
    assert not found.share[:, nobody].any()
    assert found.share[:, ~nobody].sum(axis=0) == pytest.approx(1)


def test_growth_goes_through_the_base_the_strata_and_the_model_served_and_never_turns(models):
    outcomes, _ = models
    curve = estimate.fit_curve(outcomes)
    assert np.allclose(curve.growth(np.array([0.0, 1.0])), np.stack([outcomes.base, outcomes.served]))
    for place, stratum in zip(curve.at, curve.strata, strict=True):
        assert np.allclose(curve.growth(np.array([place]))[0], outcomes.value[outcomes.strata == stratum].mean(axis=0))
    assert (np.diff(curve.growth(np.linspace(0, 1, 200)), axis=0) >= -1e-9).all()


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.5, 1.0])
def test_strata_are_weighed_as_an_integral_of_straight_lines(power):
    at = np.array([0.125, 0.5])
    weight = estimate.quadrature(at, power)
    places = (np.arange(100_000) + 0.5) / 100_000
    for height in ([1.0, 1.0], [3.0, -1.0]):
        growth = (2 * places) ** power
        if power < 0:
            growth = np.minimum(growth, (2 * at[0]) ** power)
        expected = (growth * np.interp(places, at, height)).mean()
        assert weight @ height == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0])
def test_it_is_found_how_contrasts_grow_with_the_amount_of_work(power):
    random = np.random.default_rng(3)
    game = draw_game(random, owners=12, outputs=30, alike=True)
    outcomes = game.trained(32, random)[0]
    contrast = outcomes.inside - outcomes.seen[:, None]
    grown = (2 * outcomes.seen[:, None]) ** power * contrast
    changed = replace(outcomes, value=outcomes.value + (grown - contrast) @ game.effect)
    assert fitted_on(changed)[0].outcomes.power == pytest.approx(power, abs=0.25)


@pytest.mark.parametrize("owners", [1, 2, 5, 8])
def test_the_noise_of_training_every_coalition_is_that_of_a_sum_of_as_many(owners):
    weights = shapley(np.eye(2**owners))
    assert np.linalg.norm(weights, axis=1) == pytest.approx([estimate.retraining_noise(owners)] * owners)


def test_one_stratum_is_enough():
    random = np.random.default_rng(4)
    game = draw_game(random, owners=8, outputs=5, alike=True)
    models = game.trained(16, random)[0]
    fitted, influence = fitted_on(models.some(models.strata == 1))
    assert len(fitted.curve.strata) == 1
    assert fitted.outcomes.power == 0
    truth = positive_shares(shapley(game.every_coalition()[1]))
    assert apart(shares(fitted, "srs", influence).share, truth) < 0.4 * apart(game.size[:, None], truth)


def test_outcomes_are_of_whoever_is_chosen():
    game = Game(np.array([0.25, 0.75]), np.zeros((2, 1)), linear, np.zeros(1))
    outcomes = game.outcomes(np.array([[True, False], [False, True]]), [0, 1])
    assert outcomes.seen.tolist() == [0.25, 0.75]
    assert outcomes.contrast.tolist() == [[0.75, -0.25], [-0.75, 0.25]]
    second = outcomes.some(np.array([False, True]))
    assert isinstance(second, Outcomes)
    assert second.inside.tolist() == [[0.0, 1.0]]
    assert second.partition.tolist() == [1]
    assert second.size is outcomes.size
