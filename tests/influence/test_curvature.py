import numpy as np
import pytest

from provenance.core.errors import ContractError
from provenance.influence.curvature import fit, from_tensors, gram, to_tensors

RNG = np.random.default_rng(0)
FEATURES = (RNG.standard_normal((50, 12)) * np.geomspace(0.1, 10, 12)).astype(np.float32)
QUERIES = RNG.standard_normal((4, 12)).astype(np.float32)


def test_scores_are_the_formula_written_out():
    curvature = fit(gram(FEATURES), 50, damping=0.3)
    g, q = FEATURES.astype(float), QUERIES.astype(float)
    h = g.T @ g / 50
    mean_square = np.diag(h)
    d = np.diag((mean_square + 0.01 * mean_square.mean()) ** -0.25)
    dhd = d @ h @ d
    inverse = np.linalg.inv(dhd + 0.3 * np.trace(dhd) / 12 * np.eye(12))
    scores = q @ d @ inverse @ d @ g.T
    scores /= np.sqrt(np.mean(scores**2))
    assert np.allclose(curvature.precondition(QUERIES) @ FEATURES.T, scores, rtol=1e-4, atol=1e-4)


def test_influences_have_a_mean_square_of_one():
    scores = fit(gram(FEATURES), 50, damping=1.0).precondition(QUERIES) @ FEATURES.T
    assert np.mean(scores.astype(float) ** 2) == pytest.approx(1, rel=1e-4)


def test_gram_matrices_of_shards_add_up():
    parts = sum(gram(FEATURES[start : start + 7]) for start in range(0, 50, 7))
    assert np.allclose(parts, gram(FEATURES), rtol=1e-13)


def test_removing_an_example_moves_a_ridge_regression_as_its_influence_says():
    """The closed-form truth: leave-one-out of a linear regression, against influence at small damping."""
    x = RNG.standard_normal((400, 6))
    y = x @ RNG.standard_normal(6) + 0.5 * RNG.standard_normal(400)
    theta = np.linalg.solve(x.T @ x, x.T @ y)
    query, target = RNG.standard_normal(6), 0.0
    gradients = (x @ theta - y)[:, None] * x
    # The Fisher of a Gaussian regression has the residual's variance as a factor of x'x.
    asked = (query @ theta - target) * query
    influence = fit(gram(gradients), 400, damping=1e-6).precondition(asked[None]) @ gradients.T.astype(np.float32)
    effect = []
    for left_out in range(400):
        keep = np.arange(400) != left_out
        without = np.linalg.solve(x[keep].T @ x[keep], x[keep].T @ y[keep])
        effect.append(0.5 * (query @ without - target) ** 2 - 0.5 * (query @ theta - target) ** 2)
    assert np.corrcoef(influence[0], effect)[0, 1] > 0.9


def test_a_curvature_survives_the_store():
    curvature = fit(gram(FEATURES), 50, damping=0.3)
    again = from_tensors(to_tensors(curvature))
    assert np.array_equal(again.precondition(QUERIES), curvature.precondition(QUERIES))


def test_no_gradients_is_an_error():
    with pytest.raises(ContractError, match="expected gradients of training examples, found none in 5 examples"):
        fit(np.zeros((3, 3)), 5, damping=1.0)
