"""Shares from counterfactual models, compared with games in which the worth of every coalition is known."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from games import Game, concave, draw_game, linear
from scipy.stats import norm

from provenance.core.arrays import gpu_count, namespace_of, positive_shares, to_numpy
from provenance.royalty import estimate, fidelity
from provenance.royalty.estimate import TAUS
from provenance.royalty.shares import BY_VALUE
from provenance.validation.coalitions import banzhaf, shapley


def fitted_on(outcomes, influence=None):
    """The fit and its influence, by default without components."""
    influence = np.zeros((0, len(outcomes.size), outcomes.value.shape[1])) if influence is None else influence
    return estimate.fit(outcomes, estimate.project(outcomes, influence)), influence


def values(fitted, rule, influence):
    every = np.arange(influence.shape[2])
    return estimate.values(fitted, estimate.rule_named(rule, fitted), influence, every)[0]


def shares(fitted, rule, influence, chosen=None):
    influence = influence if chosen is None else influence[:, :, chosen]
    chosen = np.arange(influence.shape[2]) if chosen is None else chosen
    named = estimate.rule_named(rule, fitted)
    return estimate.shares(fitted, named, influence, chosen, estimate.deviations(fitted, named))


def l1(shares, truth):
    """L1 distance of shares, on average over outputs."""
    return np.abs(shares - truth).sum(axis=0).mean()


def exact(rule, worth, size):
    """Values by a rule over every coalition, `(n, Q)`; for `faithful`, contrasts of coalitions times `IN_PARTS`."""
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


def test_shares_of_a_noisy_game_come_close_to_exact_ones():
    many, few, by_size = np.zeros((3, 8, len(BY_VALUE)))
    for seed in range(8):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=6, outputs=8)
        truths = [positive_shares(exact(rule, game.every_coalition()[1], game.size)) for rule in BY_VALUE]
        by_size[seed] = [l1(game.size[:, None], truth) for truth in truths]
        for trainings, errors in ((16, many), (4, few)):
            fitted, influence = fitted_on(game.trained(trainings, random)[0])
            for at, (rule, truth) in enumerate(zip(BY_VALUE, truths, strict=True)):
                errors[seed, at] = l1(shares(fitted, rule, influence).share, truth)
    many, few, by_size = (errors.mean(axis=0) for errors in (many, few, by_size))
    assert (many < 0.4 * by_size).all()
    assert ((many < few) & (few < 0.6 * by_size)).all()


def test_influence_makes_shares_truer_where_models_are_few():
    errors = {False: [], True: []}
    for seed in range(8):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=12, outputs=16)
        truth = positive_shares(shapley(game.every_coalition()[1]))
        models = game.trained(2, random)[0]
        rough = (game.effect + 0.5 * game.effect.std() * random.standard_normal(game.effect.shape))[None]
        for informed, distances in errors.items():
            fitted, influence = fitted_on(models, rough if informed else None)
            distances.append(l1(shares(fitted, "srs", influence).share, truth))
    assert np.mean(errors[True]) < 0.8 * np.mean(errors[False])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_only_informative_component_gets_its_weight_in_any_unit(scale):
    random = np.random.default_rng(1)
    game = draw_game(random, owners=8, outputs=20)
    strangers = game.effect.std() * random.standard_normal((2, *game.effect.shape))
    influence = np.stack([strangers[0], scale * game.effect, -game.effect, strangers[1]])
    theta = fitted_on(game.trained(16, random)[0], influence)[0].theta
    assert (theta >= 0).all()
    assert theta[1] * scale == pytest.approx(1, abs=0.1)
    assert theta[2] == 0
    assert theta[[0, 3]].max() < 0.05


def test_a_component_that_differs_between_owners_by_rounding_alone_gets_no_weight():
    random = np.random.default_rng(3)
    game = draw_game(random, owners=6, outputs=8)
    models = game.trained(8, random)[0]
    total = random.normal(size=8)
    even = game.size[:, None] * total * (1 + 1e-7 * random.normal(size=(6, 8)))
    informative = random.normal(size=(6, 8))
    theta = fitted_on(models, np.stack([even, informative]))[0].theta
    alone = fitted_on(models, informative[None])[0].theta
    assert theta[0] == 0
    assert theta[1] == pytest.approx(alone[0])


def test_exact_influence_leaves_no_other_effects():
    """With exact influence the fit believes in small effects of owners besides it; without influence, in large ones."""
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
    """The models of a partition predicted from the others by textbook conditioning, `(m, Q)`, and standard deviations."""
    outcomes = fitted.outcomes
    out = outcomes.partition == partition
    strata, contrast = fitted.curve.member(outcomes.strata), outcomes.contrast
    distance = np.abs(fitted.curve.strata[:, None] - fitted.curve.strata)
    error, square = 0.0, 0.0
    for tau, belief, noise in zip(TAUS, fitted.belief, fitted.noise, strict=True):
        between = tau**2 * estimate.ALIKE**distance
        of_size = (contrast * outcomes.size) @ contrast.T
        prior = of_size * (strata @ between @ strata.T) + estimate.FLAT * strata @ strata.T
        whole = prior + np.eye(len(prior))
        gain = prior[np.ix_(out, ~out)] @ np.linalg.inv(whole[np.ix_(~out, ~out)])
        mean = gain @ fitted.rest[~out] - fitted.rest[out]
        spread = whole[np.ix_(out, out)] - gain @ prior[np.ix_(~out, out)]
        error = error + belief * mean
        square = square + belief * (noise**2 * np.diag(spread)[:, None] + mean**2)
    variance = square - error**2
    value = outcomes.value[out] + error[:, 1:] + fitted.scale * error[:, :1]
    return value, np.sqrt(variance[:, 1:] + fitted.scale**2 * variance[:, :1])


def test_left_out_models_are_predicted_by_conditioning_on_the_others_and_so_are_models_set_aside():
    random = np.random.default_rng(1)
    game = draw_game(random, owners=9, outputs=5)
    models = game.trained(10, random)[0]
    fitted, influence = fitted_on(models, game.effect[None] + random.standard_normal((2, 9, 5)))
    left_out = fidelity.leave_out(fitted)
    for partition in np.unique(models.partition):
        value, spread = conditioned(fitted, partition)
        out = models.partition == partition
        assert np.allclose(left_out.value[out], value, rtol=1e-6, atol=1e-6)
        assert np.allclose(left_out.spread[out], spread, rtol=1e-5, atol=1e-6)
    out = models.partition == 3
    # A fit with the same theta, tau and noise, without the models of a partition.
    unseen = replace(
        fitted,
        outcomes=fitted.outcomes.subset(~out),
        factor=np.stack([np.linalg.cholesky((factor @ factor.T)[np.ix_(~out, ~out)]) for factor in fitted.factor]),
        rest=fitted.rest[~out],
    )
    aside = fidelity.predict(unseen, models.subset(out), estimate.project(models.subset(out), influence))
    assert np.allclose(aside.value, left_out.value[out], rtol=1e-6, atol=1e-6)
    assert np.allclose(aside.spread, left_out.spread[out], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("growth", "alike"), [(linear, False), (linear, True), (concave, True), (concave, False)])
@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_nine_of_ten_intervals_contain_the_shares_of_training_every_coalition(growth, alike, strength):
    inside = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=7, outputs=6, growth=growth, alike=alike, strength=strength)
        fitted, influence = fitted_on(game.trained(16, random)[0])
        truth = positive_shares(shapley(game.every_coalition(random)[1]))
        estimated = shares(fitted, "srs", influence)
        inside.append((estimated.low - 1e-9 <= truth) & (truth <= estimated.high + 1e-9))
    assert 0.82 < np.mean(inside) < 0.98


def test_nine_of_ten_intervals_contain_the_results_of_models_set_aside():
    inside = []
    for seed in range(16):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=10, outputs=6)
        models, aside = game.trained(16, random)
        fitted, influence = fitted_on(models)
        predicted = fidelity.predict(fitted, aside, estimate.project(aside, influence))
        inside.append(np.abs(aside.value - predicted.value) <= norm.ppf(0.95) * predicted.spread)
    assert 0.82 < np.mean(inside) < 0.98


def test_more_trainings_make_intervals_narrower():
    width = {}
    for trainings in (4, 32):
        random = np.random.default_rng(1)
        game = draw_game(random, owners=10, outputs=12)
        fitted, influence = fitted_on(game.trained(trainings, random)[0])
        estimated = shares(fitted, "faithful", influence)
        assert ((estimated.low <= estimated.share) & (estimated.share <= estimated.high)).all()
        width[trainings] = (estimated.high - estimated.low).mean()
    assert width[32] < 0.7 * width[4]


@pytest.fixture(scope="module")
def models():
    """Outcomes of a game, two components of influence on its outputs, and the fit."""
    random = np.random.default_rng(2)
    game = draw_game(random, owners=9, outputs=6)
    influence = game.effect[None] + game.effect.std() * random.standard_normal((2, 9, 6))
    outcomes = game.trained(12, random)[0]
    return outcomes, influence, fitted_on(outcomes, influence)[0]


def test_the_order_of_models_and_of_owners_changes_nothing(models):
    outcomes, influence, fitted = models
    random = np.random.default_rng(1)
    by_model, owners = random.permutation(len(outcomes.inside)), random.permutation(9)
    permuted = replace(outcomes, inside=outcomes.inside[:, owners], size=outcomes.size[owners])
    other_models = fitted_on(outcomes.subset(by_model), influence)[0]
    other_owners = fitted_on(permuted, influence[:, owners])[0]
    for rule in BY_VALUE:
        expected = values(fitted, rule, influence)
        assert np.allclose(values(other_models, rule, influence), expected, rtol=1e-6, atol=1e-6)
        assert np.allclose(values(other_owners, rule, influence[:, owners]), expected[owners], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["faithful", "srs"])
def test_values_sum_to_the_effect_of_the_whole_training(models, rule):
    outcomes, influence, fitted = models
    assert np.allclose(values(fitted, rule, influence).sum(axis=0), outcomes.served - outcomes.base)


@pytest.mark.parametrize("identities", [2, 6])
def test_an_owner_who_splits_into_identities_with_the_same_trainings_earns_no_more(identities):
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
        divided = np.concatenate([influence[:, :1] * first[:, None], influence[:, others]], axis=1)
        share = shares(fitted_on(split, divided)[0], "faithful", divided).share
        # Not exact: the prior allows several identities more effects of their own.
        assert share[:identities].sum(axis=0) == pytest.approx(whole[0], rel=0.02, abs=0.002)


def test_shares_of_some_outputs_are_those_computed_with_all(models):
    _, influence, fitted = models
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
def test_fit_and_shares_are_the_same_on_any_device(models, rule, device):
    outcomes, influence, fitted = models
    xp = array_api_strict if device == "strict" else namespace_of(device)
    moved = xp.asarray(influence)
    again = estimate.fit(outcomes, estimate.project(outcomes, moved), xp)
    for name in ("theta", "factor", "belief", "noise", "rest"):
        assert np.allclose(getattr(again, name), getattr(fitted, name), rtol=1e-6, atol=1e-9)
    assert np.allclose(estimate.project(outcomes, moved), estimate.project(outcomes, influence))
    expected, computed = shares(fitted, rule, influence), shares(fitted, rule, moved)
    for name in ("share", "low", "high"):
        assert np.allclose(to_numpy(getattr(computed, name)), getattr(expected, name), atol=1e-9)


def test_shapes_are_those_of_the_docstrings(models):
    outcomes, influence, fitted = models
    count, places = len(outcomes.inside), len(TAUS)
    rule = estimate.rule_named("faithful", fitted)
    drawn = estimate.deviations(fitted, rule, draws=7)
    value, by_tau = estimate.values(fitted, rule, influence[:, :, :2], np.arange(2))
    for array, shape in (
        (outcomes.contrast, (count, 9)), (estimate.project(outcomes, influence), (count, 2, 6)), (fitted.theta, (2,)),
        (fitted.factor, (places, count, count)), (fitted.scale, (6,)), (fitted.belief, (places, 7)),
        (fitted.noise, (places, 7)), (fitted.rest, (count, 7)), (fidelity.leave_out(fitted).value, (count, 6)),
        (drawn.common, (7, 9)), (drawn.own, (places, 7, 9)), (value, (9, 2)), (by_tau, (places, 9, 2)),
    ):  # fmt: skip
        assert array.shape == shape
    assert fitted.freedom == count - len(fitted.curve.strata)


def test_series_of_outputs_are_joined_again():
    value, scale = np.random.default_rng(1).standard_normal((3, 2, 5)), np.array([1.0, 2.0, 0.5, 3.0, 1.0])
    series = estimate.split(value, scale)
    assert np.allclose(series[..., 0], (value / scale).mean(axis=-1))
    assert np.allclose((series[..., 1:] / scale).mean(axis=-1), 0)
    assert np.allclose(estimate.join(series, scale), value)


def test_noise_that_all_outputs_share_gives_a_component_little_weight():
    """A model that trained badly is bad for every output: many outputs are not independent observations."""
    fitted, independent = [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        game = draw_game(random, owners=8, outputs=40, growth=linear, alike=True, strength=0.3)
        stranger = (random.standard_normal((8, 1)) + 0.3 * random.standard_normal((8, 40)))[None]
        outcomes = game.trained(4, random)[0]
        shared = 2 * random.standard_normal((len(outcomes.inside), 1)) * game.noise
        outcomes = replace(outcomes, value=outcomes.value + shared)
        fitted.append(fitted_on(outcomes, stranger)[0].theta[0])
        contrast = estimate.project(outcomes, stranger)[:, 0]
        independent.append(max(0.0, (contrast * outcomes.value).sum() / (contrast**2).sum()))
    assert np.mean(fitted) < 0.4 * np.mean(independent)


@pytest.mark.parametrize("owners", [2, 5, 40])
def test_the_worth_of_size_is_the_mean_over_the_number_of_earlier_owners(owners):
    random = np.random.default_rng(5)
    game = draw_game(random, owners=owners, outputs=3, alike=True)
    fitted, _ = fitted_on(game.trained(12, random)[0])
    curve, size = fitted.curve, 1 / owners
    before = np.arange(owners) * size
    expected = (curve.growth(before + size) - curve.growth(before)).mean(axis=0)
    worth = estimate.worth_of_size(fitted, estimate.rule_named("srs", fitted), np.arange(3))
    assert worth == pytest.approx(np.tile(expected, (owners, 1)), rel=1e-6)
    uneven = replace(fitted, outcomes=replace(fitted.outcomes, size=random.dirichlet(np.full(owners, 6.0))))
    worth = estimate.worth_of_size(uneven, estimate.rule_named("srs", uneven), np.arange(3))
    assert worth.sum(axis=0) == pytest.approx(fitted.outcomes.served - fitted.outcomes.base)


def test_an_output_to_which_nobody_adds_has_no_shares(models):
    outcomes, influence, _ = models
    worse = replace(outcomes, value=-outcomes.value, base=np.zeros(6), served=np.full(6, -40.0))
    fitted, influence = fitted_on(worse, np.zeros_like(influence))
    nobody = (values(fitted, "faithful", influence) <= 0).all(axis=0)
    share = shares(fitted, "faithful", influence).share
    assert nobody.any()
    assert not share[:, nobody].any()
    assert share[:, ~nobody].sum(axis=0) == pytest.approx(1)


def test_growth_goes_through_the_base_the_strata_and_the_model_served_and_never_decreases(models):
    outcomes = models[0]
    curve = estimate.fit_curve(outcomes)
    assert np.allclose(curve.growth(np.array([0.0, 1.0])), np.stack([outcomes.base, outcomes.served]))
    for place, stratum in zip(curve.at, curve.strata, strict=True):
        assert np.allclose(curve.growth(np.array([place]))[0], outcomes.value[outcomes.strata == stratum].mean(axis=0))
    assert (np.diff(curve.growth(np.linspace(0, 1, 200)), axis=0) >= -1e-9).all()


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.5, 1.0])
def test_weights_of_strata_integrate_straight_lines(power):
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
def test_the_exponent_of_contrasts_over_the_amount_of_work_is_fitted(power):
    random = np.random.default_rng(3)
    game = draw_game(random, owners=12, outputs=30, alike=True)
    outcomes = game.trained(32, random)[0]
    contrast = outcomes.inside - outcomes.seen[:, None]
    grown = (2 * outcomes.seen[:, None]) ** power * contrast
    changed = replace(outcomes, value=outcomes.value + (grown - contrast) @ game.effect)
    assert fitted_on(changed)[0].outcomes.power == pytest.approx(power, abs=0.25)


@pytest.mark.parametrize("owners", [1, 2, 5, 8])
def test_retraining_noise_is_the_noise_of_shapley_values_over_every_coalition(owners):
    weights = shapley(np.eye(2**owners))
    assert np.linalg.norm(weights, axis=1) == pytest.approx([estimate.retraining_noise(owners)] * owners)


def test_one_stratum_is_enough():
    random = np.random.default_rng(4)
    game = draw_game(random, owners=8, outputs=5, alike=True)
    models = game.trained(16, random)[0]
    fitted, influence = fitted_on(models.subset(models.strata == 1))
    assert len(fitted.curve.strata) == 1
    assert fitted.outcomes.power == 0
    truth = positive_shares(shapley(game.every_coalition()[1]))
    assert l1(shares(fitted, "srs", influence).share, truth) < 0.4 * l1(game.size[:, None], truth)


def test_a_subset_of_outcomes_has_the_chosen_models_and_all_owners():
    game = Game(np.array([0.25, 0.75]), np.zeros((2, 1)), linear, np.zeros(1))
    outcomes = game.outcomes(np.array([[True, False], [False, True]]), [0, 1])
    assert outcomes.seen.tolist() == [0.25, 0.75]
    assert outcomes.contrast.tolist() == [[0.75, -0.25], [-0.75, 0.25]]
    second = outcomes.subset(np.array([False, True]))
    assert (second.inside.tolist(), second.partition.tolist()) == ([[0.0, 1.0]], [1])
    assert second.size is outcomes.size
