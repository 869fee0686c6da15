"""Attacks on royalties, on a small corpus and a tiny model that is trained again on each attacked corpus."""

from datetime import date

import pytest
from samples import request_on, words_of

from provenance.core.errors import ContractError
from provenance.royalty.shares import BY_VALUE
from provenance.validation import attacks
from provenance.validation.attacks import RULES
from tasks.where import local_settings, opened

pytestmark = pytest.mark.night  # a minute of trainings
# Few trainings show splits and copies; to separate added works, such as those of twenty owners of nonsense, takes many.
FEW, MANY = 3, 12
ADDED = ("padding", "outliers", "nobodies")


def audit_attacks(request, attacker="owner-2", *, trainings=FEW, **how):
    settings = local_settings(device="cpu", workers=1)
    small = settings.influence.model_copy(update={"sample": 24, "checkpoints": 1})
    with opened(settings.model_copy(update={"influence": small}), ledger=False) as where:
        return attacks.audit_attacks(where, request, attacker, trainings=trainings, **how)[1]


def by_name(result):
    return {row["attack"]: row for row in result["attacks"]}


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model):
    return request_on(tmp_path_factory.mktemp("attacks"), tiny_model, day=date(2026, 11, 19))


@pytest.fixture(scope="module")
def result(request_of):
    """Every attack with few trainings, without retraining."""
    return audit_attacks(request_of, pairs=0)


@pytest.fixture(scope="module")
def rows(request_of, result):
    """Every attack once; those with added works of one kind with many trainings, and retraining."""
    return by_name(result) | by_name(audit_attacks(request_of, trainings=MANY, pairs=2, only=ADDED))


def test_every_attack_is_compared_with_honesty_under_every_rule(result):
    assert (result["attacker"], result["rules"]) == ("owner-2", list(RULES))
    rows = by_name(result)
    assert set(rows) == {
        "honest", "trained again", "split at random", "split by value", "exact copies", "exact copies, not looked for",
        "near copies", "near copies, not looked for", "padding", "outliers", "shuffled", "nobodies",
    }  # fmt: skip
    assert set(rows["honest"]["gain"].values()) == {0}
    for row in rows.values():
        assert set(row["gain"]) == set(RULES)
        for rule in RULES:
            assert row["gain"][rule] == pytest.approx(row["has"][rule] - row["had"][rule])


@pytest.mark.parametrize("rule", BY_VALUE)
def test_splitting_gains_no_more_than_the_noise_of_training(rows, rule):
    for split in ("split at random", "split by value"):
        assert abs(rows[split]["gain"][rule]) <= 0.03


@pytest.mark.parametrize("rule", BY_VALUE)
@pytest.mark.parametrize("copies", ["exact copies", "near copies"])
def test_copies_gain_nothing_with_a_search_for_copies_and_much_without(rows, copies, rule):
    assert rows[copies]["gain"][rule] <= 0.01
    assert rows[f"{copies}, not looked for"]["gain"][rule] > 0.05
    assert rows[copies]["added"][rule] <= (0 if copies == "exact copies" else 0.01)


def test_nonsense_earns_almost_nothing_by_influence(rows):
    """At most a tenth of its earnings by size: every single component of gradients gives it more than a fifteenth of that."""
    padding, nobodies = rows["padding"], rows["nobodies"]
    assert padding["added"]["proportional"] <= 0.1 * padding["added"]["flat"]
    noise = abs(rows["trained again"]["gain"]["proportional"])
    assert padding["gain"]["proportional"] <= 0.03 + noise
    assert nobodies["gain"]["proportional"] <= 0.02 + noise


@pytest.mark.parametrize("rule", BY_VALUE)
def test_nonsense_earns_no_more_than_its_effect_by_retraining_and_less_than_half_of_its_part_by_size(rows, rule):
    """It earns something: every training step helps a model with few steps, and so says training again, too."""
    for attack in ("padding", "nobodies"):
        row = rows[attack]
        assert max(row["added"][rule], row["gain"][rule]) <= row["retrained"]["part"] + 0.04
        for kind in ("added", "gain"):
            assert row[kind][rule] < 0.5 * row[kind]["flat"]


def test_added_works_earn_about_their_effect_by_retraining(rows):
    for attack in ADDED:
        retrained = rows[attack]["retrained"]
        assert 0 < retrained["error"] < 0.02
        assert rows[attack]["added"]["faithful"] == pytest.approx(max(0, retrained["part"]), abs=0.07)


def test_a_second_run_trains_nothing_and_some_attacks_can_be_chosen(request_of, result, rows, monkeypatch):
    monkeypatch.setattr("provenance.validation.attacks.train_model", None)
    monkeypatch.setattr("provenance.models.counterfactual_training.train_model", None)
    again = by_name(audit_attacks(request_of, pairs=2, only=("split at random", "padding")))
    assert list(again) == ["honest", "split at random", "padding"]
    before = by_name(result)
    assert again["split at random"] == before["split at random"], "only added works are retrained"
    assert again["padding"] == before["padding"] | {"retrained": rows["padding"]["retrained"]}


def test_an_unknown_attacker_is_named(request_of, result):
    with pytest.raises(ContractError, match=r"--attacker: expected one of owner-0, owner-1, .*found 'owner-9'"):
        audit_attacks(request_of, "owner-9")


def test_the_command_shows_a_table(request_of, rows, monkeypatch, shown):
    monkeypatch.setenv("PROVENANCE_INFLUENCE__SAMPLE", "24")
    monkeypatch.setenv("PROVENANCE_INFLUENCE__CHECKPOINTS", "1")
    words = ("--workers", "1", "--attacker", "owner-2", "--trainings", str(FEW), "--pairs", "2", "--only", "padding")
    assert "Attacks by owner-2" in shown("audit", "attacks", *words_of(request_of), *words)
    assert (request_of.out / "attacks.png").read_bytes().startswith(b"\x89PNG")
