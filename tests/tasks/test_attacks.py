"""Attacks on royalties, on a small corpus and a tiny model that is trained again on what each makes of it."""

from datetime import date

import pytest
from samples import request_on, words_of

from provenance.core.errors import ContractError
from provenance.local.attribute import local_settings
from provenance.validation.attacks import RULES, audit_attacks

BY_VALUE = ("faithful", "srs", "banzhaf")
# Twenty owners of nonsense are told from five who wrote something by so many, not by few.
TRAININGS = 12


def settings():
    made = local_settings(device="cpu", workers=1)
    return made.model_copy(update={"influence": made.influence.model_copy(update={"sample": 24, "checkpoints": 1})})


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model):
    return request_on(tmp_path_factory.mktemp("attacks"), tiny_model, day=date(2026, 11, 19))


@pytest.fixture(scope="module")
def result(request_of):
    """Every attack once."""
    return audit_attacks(request_of, settings(), "owner-2", trainings=TRAININGS, pairs=2)[1]


@pytest.fixture(scope="module")
def gain(result):
    return {row["attack"]: row["gain"] for row in result["attacks"]}


@pytest.fixture(scope="module")
def added(result):
    return {row["attack"]: row["added"] for row in result["attacks"]}


def test_every_attack_is_run_and_held_against_honesty_under_every_rule(result, gain):
    assert result["attacker"] == "owner-2"
    assert result["rules"] == list(RULES)
    assert set(gain) == {
        "honest", "trained again", "split at random", "split by value", "exact copies", "exact copies, not looked for",
        "near copies", "near copies, not looked for", "padding", "outliers", "shuffled", "nobodies",
    }  # fmt: skip
    assert set(gain["honest"].values()) == {0}
    for row in result["attacks"]:
        assert set(row["gain"]) == set(RULES)
        for rule in RULES:
            assert row["gain"][rule] == pytest.approx(row["has"][rule] - row["had"][rule])


@pytest.mark.parametrize("rule", BY_VALUE)
def test_splitting_oneself_gains_no_more_than_the_noise_of_training(gain, rule):
    for split in ("split at random", "split by value"):
        assert abs(gain[split][rule]) <= 0.03


@pytest.mark.parametrize("rule", BY_VALUE)
@pytest.mark.parametrize("copies", ["exact copies", "near copies"])
def test_copies_that_are_looked_for_gain_nothing_and_others_much(gain, added, copies, rule):
    assert gain[copies][rule] <= 0.01
    assert gain[f"{copies}, not looked for"][rule] > 0.05
    assert added[copies][rule] <= (0 if copies == "exact copies" else 0.01)


def test_nonsense_earns_next_to_nothing_by_influence(gain, added):
    """A tenth at most of what its size would: no component of gradients has it at less than a fifteenth here."""
    assert added["padding"]["proportional"] <= 0.1 * added["padding"]["flat"]
    assert gain["padding"]["proportional"] <= 0.03
    assert gain["nobodies"]["proportional"] <= 0.02


@pytest.mark.parametrize("rule", BY_VALUE)
def test_nonsense_earns_far_less_by_value_than_by_size(gain, added, rule):
    """It earns something: a model of a few steps gains by every one of them, and training every coalition says so, too."""
    for attack in ("padding", "nobodies"):
        assert added[attack][rule] < 0.4 * added[attack]["flat"]
        assert gain[attack][rule] < 0.4 * gain[attack]["flat"]


def test_what_is_added_earns_about_what_retraining_says_that_it_teaches(result):
    """Models of so few steps learn by every step, whatever it is on: so nonsense teaches them, too."""
    rows = {row["attack"]: row for row in result["attacks"]}
    assert "retrained" not in rows["split at random"]
    for attack in ("padding", "outliers", "nobodies"):
        found = rows[attack]["retrained"]
        assert 0 < found["error"] < 0.02
        assert rows[attack]["added"]["faithful"] == pytest.approx(max(0, found["part"]), abs=0.07)


def test_what_was_trained_is_not_trained_again_and_some_attacks_can_be_chosen(request_of, result, monkeypatch):
    monkeypatch.setattr("provenance.validation.attacks.train_model", None)
    monkeypatch.setattr("provenance.models.counterfactuals.train_model", None)
    again = audit_attacks(request_of, settings(), "owner-2", trainings=TRAININGS, pairs=2, only=("padding",))[1]
    assert [row["attack"] for row in again["attacks"]] == ["honest", "padding"]
    assert again["attacks"][1] == next(row for row in result["attacks"] if row["attack"] == "padding")


def test_an_attacker_that_is_nobody_is_named(request_of, result):
    with pytest.raises(ContractError, match=r"--attacker: expected one of owner-0, owner-1, .*found 'owner-9'"):
        audit_attacks(request_of, settings(), "owner-9", trainings=3)


def test_the_command_shows_a_table(request_of, result, monkeypatch, shown):
    monkeypatch.setenv("PROVENANCE_INFLUENCE__SAMPLE", "24")
    monkeypatch.setenv("PROVENANCE_INFLUENCE__CHECKPOINTS", "1")
    words = ("--workers", "1", "--attacker", "owner-2", "--trainings", str(TRAININGS), "--only", "padding")
    assert "Attacks by owner-2" in shown("audit", "attacks", *words_of(request_of), *words)
    assert (request_of.out / "attacks.png").read_bytes().startswith(b"\x89PNG")
