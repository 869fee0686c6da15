"""What works are paid for, and what coalitions are worth to first order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.royalty.shapley import exact, sampled, shapley
from provenance.royalty.values import PUSH, Expanded, common_push, kept_part, lengthening

OUTPUTS, EACH = 48, 12


def game(owners=6, outputs=3, seed=0):
    draws = np.random.default_rng(seed)
    slopes = draws.standard_normal((3, owners, outputs))
    slopes -= slopes.mean(axis=1, keepdims=True)
    worth = np.cumsum(draws.random((5, outputs)), axis=0)
    return Expanded(draws.integers(1, 9, owners).astype(float), np.array([0.1, 0.5, 0.9]), worth, slopes)


def test_shapley_values_of_the_expansion_sum_to_what_everybody_adds():
    played = game()
    assert np.allclose(exact(played).sum(axis=0), played.worth[-1] - played.worth[0])


def test_walking_an_order_values_its_coalitions():
    played, order = game(), np.array([3, 0, 5, 1, 4, 2])
    coalitions = np.tri(7, 6, -1, dtype=bool)[:, np.argsort(order)]
    assert np.allclose(played.walk(order), played.values(coalitions))


def test_sampled_values_agree_with_exact_ones():
    played = game(owners=12)
    larger = game(owners=14, seed=1)
    many = shapley(larger, width=0.05, most=4000, seed=1)
    assert np.allclose(many.value.sum(axis=0), larger.worth[-1] - larger.worth[0])
    found = sampled(played, width=0.01, most=4000, seed=1)
    assert np.abs(found.value - exact(played)).max() < 0.05 * np.abs(exact(played)).max()


def noisy(seed, real=5, nothing=20, signal_to_noise=5.0):
    """Values of works of owners, some of whom contribute and some of whom do not; the noise of an owner's sum is a fifth."""
    draws = np.random.default_rng(seed)
    mean = np.concatenate([np.full(real * EACH, 1 / EACH), np.zeros(nothing * EACH)])
    noise = draws.standard_normal((OUTPUTS, len(mean))) / np.sqrt(EACH) / signal_to_noise
    return mean + noise, real * EACH


@pytest.mark.parametrize("seed", range(5))
def test_twenty_owners_who_contributed_nothing_get_next_to_nothing(seed):
    values, real = noisy(seed)
    paid = np.maximum(values, 0) * kept_part(values)
    share = paid[:, real:].sum() / paid.sum()
    assert share <= 0.02
    clipped = np.maximum(values, 0)
    assert clipped[:, real:].sum() / clipped.sum() > 0.25  # what clipping alone hands them


@given(st.integers(0, 1000), st.randoms())
def test_splitting_oneself_changes_nothing(seed, chance):
    values, _ = noisy(seed, real=2, nothing=1)
    paid = np.maximum(values, 0) * kept_part(values)
    mine = list(range(EACH))
    chance.shuffle(mine)
    by_sign = sorted(mine, key=lambda work: values[:, work].sum())
    for order in (mine, by_sign):
        cut = chance.randrange(EACH)
        assert np.isclose(paid[:, order[:cut]].sum() + paid[:, order[cut:]].sum(), paid[:, :EACH].sum())


def test_a_work_that_one_output_rests_on_is_paid_though_the_others_do_not():
    values = np.zeros((OUTPUTS, 1))
    values[3] = 1.0
    assert kept_part(values)[0] == 1.0
    values[4:] = -1.0
    assert kept_part(values)[0] == 0.0


def test_only_works_that_push_the_right_way_are_paid_for_a_longer_run():
    push = np.array([1.0, 3.0, 2.0, PUSH, -4.0, 0.0])
    common = common_push(push)
    assert common == 1.5
    assert lengthening(push, common).tolist() == [1, 1, 1, PUSH / (PUSH * common), 0, 0]
    assert lengthening(-push[:3], common_push(-push[:3])).tolist() == [0, 0, 0]


def test_neither_much_nonsense_nor_a_few_giants_decide_what_is_common():
    draws = np.random.default_rng(0)
    works = 10 + draws.standard_normal(40)
    for others in (-np.ones(1000), draws.normal(0, 0.01, 200), np.full(4, 1e6)):
        assert 9 < common_push(np.concatenate([works, others])) < 12


def test_a_sketch_keeps_inner_products_on_average():
    from provenance.features.exact import sketch

    draws = np.random.default_rng(0)
    rows = draws.standard_normal((2, 20_000)).astype(np.float32)
    rows[1] += rows[0]
    found = [sketch(rows, 512, seed=seed, checkpoint="c") for seed in range(200)]
    products = np.array([each[0] @ each[1] for each in found])
    error = np.linalg.norm(rows[0]) * np.linalg.norm(rows[1]) / np.sqrt(512)
    assert abs(products.mean() - rows[0] @ rows[1]) < 4 * error / np.sqrt(200)
    assert 0.5 * error < products.std() < 2 * error
