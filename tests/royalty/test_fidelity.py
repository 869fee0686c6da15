"""The fidelity of a night's shares: predictions are compared with left-out models, and rules without support are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from games import draw_game

from provenance.inputs.contracts import Contract
from provenance.royalty import estimate, fidelity, support
from provenance.royalty.shares import BY_VALUE


def reported(models, aside, influence=None, weights=(1.0,), words=(False,)):
    if influence is None:
        influence, weights, words = np.zeros((0, len(models.size), models.value.shape[1])), (), ()
    projected, projected_aside = (estimate.project(each, influence) for each in (models, aside))
    fitted = estimate.fit(models, projected)
    counted = {"weights": np.array(weights), "words": np.array(words, dtype=bool)}
    return fidelity.report(fitted, projected, **counted, aside=aside, projected_aside=projected_aside)


@pytest.fixture(scope="module")
def game():
    return draw_game(np.random.default_rng(1), owners=10, outputs=12)


@pytest.fixture(scope="module")
def trained(game):
    """Models to fit on, and those set aside."""
    return game.trained(16, np.random.default_rng(2))


def test_models_that_show_owners_effects_support_a_rule(game, trained):
    report = reported(*trained, game.effect[None])
    assert report["failed"] == []
    assert report["models"] == len(trained[0].inside)
    assert report["set_aside"] == 2
    assert 0 < report["compared"] <= report["models"]
    assert set(report["lds"]) == {"estimate", "influence", "size"}
    assert report["lds"]["estimate"]["value"] > 0.7
    assert report["lds"]["estimate"]["value"] > report["lds"]["size"]["value"] + 0.5
    for score in report["lds"].values():
        assert score["low"] <= score["value"] <= score["high"]
    assert set(report["intervals_hold"]) == {"left_out", "set_aside"}
    assert 0.8 < report["intervals_hold"]["left_out"] <= 1
    r = report["lds"]["estimate"]["value"]
    assert report["signal_to_noise"]["estimate"] == pytest.approx(r**2 / (1 - r**2))


def test_owners_without_effects_of_their_own_support_no_rule(game):
    """Models then differ by noise, which nothing predicts."""
    equal = replace(game, effect=np.zeros_like(game.effect))
    (reason,) = reported(*equal.trained(16, np.random.default_rng(2)))["failed"]
    assert reason.startswith("predictions for left-out models rank no better than the amount of work alone (")


def test_intervals_that_miss_the_results_support_no_rule(trained):
    models, aside = trained
    shifted = replace(aside, value=aside.value + 20)
    report = reported(models, shifted)
    assert report["intervals_hold"]["set_aside"] == 0
    assert report["failed"] == ["90 % intervals contain only 0% of the results of models set aside"]


def test_a_set_without_models_set_aside_has_no_figures_of_them(trained):
    models, aside = trained
    report = reported(models, aside.subset(np.zeros(len(aside.inside), dtype=bool)))
    assert set(report["intervals_hold"]) == {"left_out"}
    assert report["set_aside"] == 0


@pytest.mark.parametrize("unit", [0.01, 100.0])
def test_influence_is_compared_in_any_unit(game, trained, unit):
    score, scaled = (reported(*trained, scale * game.effect[None])["lds"]["influence"] for scale in (1.0, unit))
    assert score == pytest.approx(scaled)
    assert score["value"] > 0.7


def test_without_influence_and_with_the_wrong_sign_models_are_predicted_from_one_another(game, trained):
    for influence in (None, -game.effect[None]):
        report = reported(*trained, influence)
        assert report["lds"]["influence"] == report["lds"]["size"]
        assert report["failed"] == []


def test_word_counts_are_compared_with_the_estimate(game, trained):
    influence = np.stack([0 * game.effect, game.effect])
    report = reported(*trained, influence, weights=(1.0, 0.0), words=(False, True))
    assert report["lds"]["tfidf"]["value"] > 0.7
    assert report["lds"]["influence"] == report["lds"]["size"], "words have the weight zero"


def test_too_few_models_are_not_fitted(trained):
    models, _ = trained
    few, enough = (models.subset(np.arange(len(models.inside))[-count:]) for count in (fidelity.FEWEST - 1, fidelity.FEWEST))
    assert fidelity.check_enough(few) == ["7 counterfactual models; 8 are the fewest"]
    assert fidelity.check_enough(enough) == []
    none = models.subset(np.zeros(0, dtype=np.int64))
    assert fidelity.check_enough(none) == ["0 counterfactual models; 8 are the fewest"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_owners_in_every_model_or_in_none_are_refused_unless_small(trained, value):
    models, _ = trained
    largest = int(np.argmax(models.size))
    inside = models.inside.copy()
    inside[:, largest] = value
    reasons = fidelity.check_enough(replace(models, inside=inside))
    part = f"{models.size[largest]:.0%}"
    assert reasons == [f"owners of {part} of all tokens are in every counterfactual model or in none"]
    smallest = models.inside.copy()
    smallest[:, int(np.argmin(models.size))] = value
    assert fidelity.check_enough(replace(models, inside=smallest)) == []


COPIES = {
    "earliest": {"failed": ["too few"], "signal_to_noise": {"estimate": 2.0, "influence": 0.5}},
    "off": {"failed": []},
}


@pytest.mark.parametrize(("rules", "duplicates", "failed", "signal"), [
    (BY_VALUE, "earliest", ["too few"], 2.0),
    (BY_VALUE, "off", [], None),
    (("proportional",), "earliest", [], 0.5),
    (("proportional",), "off", [], None),
    (("flat",), "earliest", [], math.inf),
])  # fmt: skip
def test_rules_by_value_need_the_support_of_the_report_on_their_copies(rules, duplicates, failed, signal):
    for rule in rules:
        contract = Contract(name="c", developer_ppb=0, rule=rule, duplicates=duplicates)
        assert support.unsupported(COPIES, contract) == failed
        assert support.signal_of(COPIES, contract) == signal
