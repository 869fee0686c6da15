"""Curvature equals its formulas, and predicts a case with a known answer."""

from dataclasses import replace

import numpy as np
import pytest

from provenance.core.errors import ContractError
from provenance.core.rows import Rows, Sparse, no_tokens
from provenance.features.statistics import gather, merge
from provenance.influence import curvature
from provenance.influence.curvature import Weights, fit_dense, fit_landmarks, gram, metric, shrinkage, squared_norms
from provenance.influence.index import multiply

RNG = np.random.default_rng(0)
TERMS = (RNG.standard_normal((300, 12)) * np.geomspace(0.1, 10, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((4, 12)).astype(np.float32)


def sparse_rows(examples, seed, vocabulary=9, widths=(2, 1), chance=0.4):
    r = np.random.default_rng(seed)
    token, example = np.nonzero(r.random((vocabulary, examples)) < chance)
    values = r.standard_normal((len(token), sum(widths))).astype(np.float32)
    return Rows(np.zeros((examples, 0), np.float32), (), Sparse(vocabulary, widths, example, token, values))


def whole(rows):
    part = rows.sparse
    dense = np.zeros((rows.examples, part.vocabulary, part.values.shape[1]))
    dense[part.example, part.token] = part.values
    return dense


def test_the_dense_part_equals_the_formula_gram_matrices_add_up_and_without_gradients_it_is_an_error():
    examples = len(TERMS) // 4
    fitted = fit_dense(gram(TERMS), len(TERMS), examples)
    f = TERMS.T.astype(float) @ TERMS / len(TERMS)
    d = np.diag((np.diag(f) + 0.01 * np.diag(f).mean()) ** -0.25)
    dfd = d @ f @ d
    p, n, t, t2 = 12, examples, np.trace(dfd), np.trace(dfd @ dfd)
    rho = ((1 - 2 / p) * t2 + t**2) / ((n + 1 - 2 / p) * (t2 - t**2 / p))
    damping = rho / (1 - rho) * t / p
    expected = QUERIES @ d @ np.linalg.inv(dfd + damping * np.eye(p)) @ d
    assert fitted.damping == pytest.approx(rho / (1 - rho))
    assert np.allclose(fitted.precondition(QUERIES), expected, rtol=1e-4)
    parts = sum(gram(TERMS[start : start + 7]) for start in range(0, 300, 7))
    assert np.allclose(parts, gram(TERMS), rtol=1e-13)
    with pytest.raises(ContractError, match="expected gradients of sampled loss terms, found none in 5 terms"):
        fit_dense(np.zeros((3, 3)), 5, 5)


def test_shrinkage_is_small_for_many_examples_and_total_for_noise_alone():
    spectrum = np.geomspace(1, 1e-4, 50)
    moments = spectrum.sum(), (spectrum**2).sum()
    few, many = shrinkage(*moments, 50, 100), shrinkage(*moments, 50, 10_000)
    assert 0 < many < few / 50
    assert shrinkage(50.0, 50.0, 50, 100) > 1e4, "all eigenvalues are equal"


def test_influence_predicts_the_effect_of_removing_an_example():
    """Leave-one-out of a linear regression has a closed form; the curvature comes from sampled targets."""
    x = RNG.standard_normal((400, 6))
    y = x @ RNG.standard_normal(6) + 0.5 * RNG.standard_normal(400)
    theta = np.linalg.solve(x.T @ x, x.T @ y)
    query, target = RNG.standard_normal(6), 0.0
    gradients = (x @ theta - y)[:, None] * x
    sampled = np.concatenate([RNG.standard_normal((400, 1)) * x for _ in range(20)])
    query_gradient = (query @ theta - target) * query
    influence = fit_dense(gram(sampled), len(sampled), 400).precondition(query_gradient[None]) @ gradients.T
    effect = []
    for left_out in range(400):
        keep = np.arange(400) != left_out
        without = np.linalg.solve(x[keep].T @ x[keep], x[keep].T @ y[keep])
        effect.append(0.5 * (query @ without - target) ** 2 - 0.5 * (query @ theta - target) ** 2)
    assert np.corrcoef(influence[0], effect)[0, 1] > 0.98


def test_the_sparse_part_equals_woodburys_identity():
    queries, landmarks, examples = sparse_rows(4, 1), sparse_rows(11, 2), sparse_rows(20, 3)
    weights = Weights(np.arange(9), RNG.random((9, 2)) + 0.5)
    marks = fit_landmarks(landmarks, weights)
    influence = multiply(examples.sparse, curvature.sparse_queries(queries, weights, marks), 20).T

    root = np.sqrt(weights.weight)[None, :, [0, 0, 1]]
    q, s, g = ((whole(rows) * root).reshape(rows.examples, -1) for rows in (queries, landmarks, examples))
    mean = s.T @ s / 11
    trace = np.trace(mean)
    damping = shrinkage(trace, np.trace(mean @ mean), 27, 11)
    level = max(11 * damping, 1e-6 * trace) / 11
    expected = level * q @ np.linalg.inv(mean + level * np.eye(27)) @ g.T
    assert np.allclose(influence, expected, rtol=1e-3, atol=1e-4)


def test_weights_make_the_mean_squared_norm_of_each_block_one_and_a_token_that_is_not_in_it_has_none():
    rows = sparse_rows(50, 4)
    weights = metric(gather(rows), 9)
    assert squared_norms(rows, weights).mean() == pytest.approx(2, rel=1e-5), "one for each block"
    mean_square = np.stack([(whole(rows)[:, :, of] ** 2).sum(axis=2).mean(axis=0) for of in ([0, 1], [2])], axis=1)
    expected = 1 / (mean_square + 0.01 * mean_square.mean(axis=0))
    assert np.allclose(weights.weight / weights.weight[0], expected / expected[0], rtol=1e-5)
    rows = sparse_rows(10, 12)
    values = np.where((rows.sparse.token == 4)[:, None], [1, 1, 0], rows.sparse.values).astype(np.float32)
    weights = metric(gather(replace(rows, sparse=replace(rows.sparse, values=values))), 9)
    assert weights.weight[4, 0] > 0
    assert weights.weight[4, 1] == 0


def test_statistics_of_shards_merge_in_any_order_and_without_tokens():
    shards = [sparse_rows(7, seed) for seed in (5, 6, 7)]
    forwards = merge(merge(gather(shards[0]), gather(shards[1])), gather(shards[2]))
    backwards = merge(gather(shards[2]), merge(gather(shards[1]), gather(shards[0])))
    assert forwards.examples == backwards.examples == 21
    assert np.array_equal(forwards.tokens.token, backwards.tokens.token)
    assert np.array_equal(forwards.tokens.examples, backwards.tokens.examples)
    assert np.allclose(forwards.tokens.squares, backwards.tokens.squares, rtol=1e-13)
    for rows in (Rows(TERMS, (12,), no_tokens(np)), sparse_rows(5, 1, chance=0)):
        both = merge(gather(rows), gather(rows))
        assert both.examples == 2 * rows.examples
        assert both.tokens.squares.shape == (0, len(rows.sparse.blocks))


def test_with_equal_weights_norms_are_plain_norms():
    rows = sparse_rows(6, 8)
    rows = Rows(RNG.standard_normal((6, 5)).astype(np.float32), (5,), rows.sparse)
    expected = (rows.dense**2).sum(1) + (whole(rows) ** 2).sum((1, 2))
    plain = Weights(np.arange(9), np.ones((9, len(rows.sparse.blocks))))
    assert np.allclose(squared_norms(rows, plain), expected, rtol=1e-5)
