"""What a night says of its own shares: held against models that it left out, and refused where they tell nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
from games import draw_game

from provenance.inputs.contracts import Contract
from provenance.royalty import estimate, fidelity


def reported(models, aside, influence=None, weights=(1.0,), words=(False,)):
    if influence is None:
        influence, weights, words = np.zeros((0, len(models.size), models.value.shape[1])), (), ()
    projected, of_aside = (estimate.project(each, influence) for each in (models, aside))
    fitted = estimate.fit(models, projected)
    counted = {"weights": np.array(weights), "words": np.array(words, dtype=bool)}
    return fidelity.report(fitted, projected, **counted, aside=aside, of_aside=of_aside)


@pytest.fixture(scope="module")
def game():
    return draw_game(np.random.default_rng(1), owners=10, outputs=12)


@pytest.fixture(scope="module")
def trained(game):
    """Models to fit on, and those set aside."""
    return game.trained(16, np.random.default_rng(2))


def test_models_that_say_what_owners_add_support_a_rule(game, trained):
    report = reported(*trained, game.effect[None])
    assert report["failed"] == []
    assert report["models"] == len(trained[0].inside)
    assert report["set_aside"] == 2
    assert 0 < report["compared"] <= report["models"]
    assert set(report["lds"]) == {"estimate", "influence", "size"}
    assert report["lds"]["estimate"]["value"] > 0.7
    assert report["lds"]["estimate"]["value"] > report["lds"]["size"]["value"] + 0.5
    for found in report["lds"].values():
        assert found["low"] <= found["value"] <= found["high"]
    assert set(report["intervals_hold"]) == {"left_out", "set_aside"}
    assert 0.8 < report["intervals_hold"]["left_out"] <= 1
    r = report["lds"]["estimate"]["value"]
    assert report["signal_to_noise"]["estimate"] == pytest.approx(r**2 / (1 - r**2))


def test_without_influence_models_are_predicted_from_one_another(trained):
    report = reported(*trained)
    assert report["failed"] == []
    assert report["lds"]["influence"] == report["lds"]["size"]


def test_owners_whose_work_is_all_alike_support_no_rule(game, trained):
    """What models say is then noise, and no prediction of it is better than chance."""
    nothing = replace(game, effect=np.zeros_like(game.effect))
    report = reported(*nothing.trained(16, np.random.default_rng(2)))
    (because,) = report["failed"]
    assert because.startswith("predictions for left-out models rank no better than the amount of work alone (")


def test_intervals_that_do_not_hold_support_no_rule(trained):
    models, aside = trained
    shifted = replace(aside, value=aside.value + 20)
    report = reported(models, shifted)
    assert report["intervals_hold"]["set_aside"] == 0
    assert report["failed"] == ["90 % intervals contain only 0% of the results of models set aside"]


def test_a_set_without_models_set_aside_says_nothing_of_them(trained):
    models, aside = trained
    report = reported(models, aside.some(np.zeros(len(aside.inside), dtype=bool)))
    assert set(report["intervals_hold"]) == {"left_out"}
    assert report["set_aside"] == 0


@pytest.mark.parametrize("unit", [0.01, 100.0])
def test_influence_is_compared_in_whatever_unit(game, trained, unit):
    one, two = (reported(*trained, scale * game.effect[None])["lds"]["influence"] for scale in (1.0, unit))
    assert one == pytest.approx(two)
    assert one["value"] > 0.7


def test_influence_that_is_always_wrong_is_not_turned_round(game, trained):
    report = reported(*trained, -game.effect[None])
    assert report["lds"]["influence"] == report["lds"]["size"]


def test_words_stand_beside_the_estimate_where_they_are_counted(game, trained):
    influence = np.stack([0 * game.effect, game.effect])
    report = reported(*trained, influence, weights=(1.0, 0.0), words=(False, True))
    assert report["lds"]["tfidf"]["value"] > 0.7
    assert report["lds"]["influence"] == report["lds"]["size"], "words that count for nothing"


def test_too_few_models_are_not_fitted(trained):
    models, _ = trained
    few, enough = (models.some(np.arange(len(models.inside))[-count:]) for count in (fidelity.FEWEST - 1, fidelity.FEWEST))
    assert fidelity.check_enough(few) == ["7 counterfactual models; 8 are the fewest"]
    assert fidelity.check_enough(enough) == []
    none = models.some(np.zeros(0, dtype=np.int64))
    assert fidelity.check_enough(none) == ["0 counterfactual models; 8 are the fewest"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_owners_who_are_in_every_model_or_in_none_cannot_be_told_apart(game, trained, value):
    models, _ = trained
    largest = int(np.argmax(models.size))
    inside = models.inside.copy()
    inside[:, largest] = value
    (because,) = fidelity.check_enough(replace(models, inside=inside))
    part = f"{models.size[largest]:.0%}"
    assert because == f"owners of {part} of all tokens are in every counterfactual model or in none"
    smallest = models.inside.copy()
    smallest[:, int(np.argmin(models.size))] = value
    assert fidelity.check_enough(replace(models, inside=smallest)) == []


def contract(**terms):
    return Contract(name="c", developer_ppb=0, **terms)


COPIES = {
    "earliest": {"failed": ["too few"], "signal_to_noise": {"estimate": 2.0, "influence": 0.5}},
    "off": {"failed": []},
}


@pytest.mark.parametrize("rule", ["faithful", "srs", "banzhaf"])
def test_a_rule_by_value_is_supported_as_the_report_on_its_own_copies_says(rule):
    assert fidelity.unsupported(COPIES, contract(rule=rule)) == ["too few"]
    assert fidelity.unsupported(COPIES, contract(rule=rule, duplicates="off")) == []
    assert fidelity.signal_of(COPIES, contract(rule=rule)) == 2.0
    assert fidelity.signal_of(COPIES, contract(rule=rule, duplicates="off")) is None


def test_rules_that_ask_no_models_need_no_support():
    assert fidelity.unsupported(COPIES, contract(rule="flat")) == []
    assert fidelity.unsupported(COPIES, contract(rule="proportional")) == []
    assert fidelity.signal_of(COPIES, contract(rule="flat")) == math.inf
    assert fidelity.signal_of(COPIES, contract(rule="proportional")) == 0.5
    assert fidelity.signal_of(COPIES, contract(rule="proportional", duplicates="off")) is None
