"""The linear datamodelling score on data with known results."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from provenance.royalty.fidelity import rank_correlations
from provenance.validation.lds import linear_datamodelling_score, noise_ceiling, score_lead
from provenance.validation.subsets import halves

R = np.random.default_rng(0)
SCORES = R.standard_normal((5, 30))
SUBSETS = R.random((60, 30)) < 0.5


def losses(noise, seeds=1, subsets=SUBSETS):
    clean = -(subsets @ SCORES.T)
    return np.stack([clean + noise * R.standard_normal(clean.shape) for _ in range(seeds)])


def test_rank_correlations_are_spearmans_and_zero_for_constants():
    x, y = R.standard_normal((20, 3)), np.round(R.standard_normal((20, 3)), 1)  # with ties
    assert np.allclose(rank_correlations(x, y), [spearmanr(x[:, at], y[:, at]).statistic for at in range(3)])
    assert rank_correlations(np.zeros((9, 2)), R.standard_normal((9, 2))).tolist() == [0, 0]


def test_a_true_prediction_scores_one_and_a_false_one_minus_one():
    assert linear_datamodelling_score(SCORES, SUBSETS, losses(0)[0], resamples=10)["lds"] == pytest.approx(1)
    assert linear_datamodelling_score(-SCORES, SUBSETS, losses(0)[0], resamples=10)["lds"] == pytest.approx(-1)


def test_the_interval_holds_the_value_and_narrows_with_subsets():
    noisy = losses(8.0)[0]
    few = linear_datamodelling_score(SCORES, SUBSETS[:15], noisy[:15])
    many = linear_datamodelling_score(SCORES, SUBSETS, noisy)
    assert many["low"] < many["lds"] < many["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_a_lead_is_the_difference_of_scores_and_surer_than_two_apart():
    own = np.random.default_rng(1)
    noisy = -(SUBSETS @ SCORES.T) + 2 * own.standard_normal((60, 5))
    worse = SCORES + 0.5 * own.standard_normal(SCORES.shape)
    first, second = (linear_datamodelling_score(each, SUBSETS, noisy) for each in (SCORES, worse))
    ahead = score_lead(SCORES, worse, SUBSETS, noisy)
    assert ahead["lead"] == pytest.approx(first["lds"] - second["lds"])
    assert 0 < ahead["low"] < ahead["lead"] < ahead["high"]
    apart = np.hypot(*(score["high"] - score["low"] for score in (first, second)))
    assert ahead["high"] - ahead["low"] < apart
    assert score_lead(worse, SCORES, SUBSETS, noisy)["lead"] == pytest.approx(-ahead["lead"])
    assert set(score_lead(SCORES, SCORES, SUBSETS, noisy).values()) == {0.0}


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_perfect_prediction_reaches_the_noise_ceiling(seeds):
    subsets = R.random((800, 30)) < 0.5
    noisy = losses(4.0, seeds, subsets)
    agreement, ceiling = noise_ceiling(noisy)
    reached = linear_datamodelling_score(SCORES, subsets, noisy.mean(axis=0), resamples=0)["lds"]
    assert agreement < reached
    assert reached == pytest.approx(ceiling, abs=0.02)


def test_halves_are_halves_of_units_and_keep_units_whole():
    owners = [f"o{at % 7}" for at in range(50)]
    chosen = halves(owners, 20, name="x")
    for mask in chosen:
        members = {owner for owner, inside in zip(owners, mask, strict=True) if inside}
        assert len(members) == 3
        assert all((owner in members) == inside for owner, inside in zip(owners, mask, strict=True))
    assert len({mask.tobytes() for mask in chosen}) == 20, "all halves differ"
    assert np.array_equal(halves(owners, 5, name="x"), chosen[:5]), "the first subsets are the same for any count"
    assert not np.array_equal(halves(owners, 5, name="y"), chosen[:5])
    # Few units have few halves.
    assert halves(["a", "b", "c", "d", "a"], 24, name="x").shape == (6, 5)
    assert halves(["a", "b"], 24, name="x").sum(axis=0).tolist() == [1, 1]
