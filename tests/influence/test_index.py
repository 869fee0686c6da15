"""Products with sparse rows equal products with dense matrices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.arrays import look_up
from provenance.core.rows import Sparse
from provenance.influence.index import Table, multiply, tabulate, tokens_of


@st.composite
def parts(draw, vocabulary=8, columns=2):
    examples = draw(st.integers(1, 6))
    cells = draw(st.sets(st.tuples(st.integers(0, vocabulary - 1), st.integers(0, examples - 1)), max_size=30))
    token, example = (np.array([cell[side] for cell in sorted(cells)], dtype=np.int64) for side in (0, 1))
    seed = draw(st.integers(0, 1000))
    values = np.random.default_rng(seed).standard_normal((len(cells), columns)).astype(np.float32)
    return Sparse(vocabulary, (columns,), example, token, values), examples


def whole(part, examples):
    dense = np.zeros((examples, part.vocabulary, part.values.shape[1]), np.float32)
    dense[part.example, part.token] = part.values
    return dense


@given(parts(), parts())
def test_scores_are_the_dense_product(rows, queries):
    (part, n), (query_part, q) = rows, queries
    table = tabulate(query_part, np.eye(q, dtype=np.float32), tokens_of(query_part))
    expected = np.einsum("nvd,qvd->nq", whole(part, n), whole(query_part, q))
    assert np.allclose(multiply(part, table, n), expected, atol=1e-5)


@given(parts(), st.sets(st.integers(0, 7)))
def test_a_table_has_combinations_at_its_tokens(rows, chosen):
    part, n = rows
    token = np.array(sorted(chosen), dtype=np.int64)
    coefficients = np.random.default_rng(1).standard_normal((n, 3)).astype(np.float32)
    expected = np.einsum("nvd,nq->vdq", whole(part, n), coefficients)[token]
    assert np.allclose(tabulate(part, coefficients, token).values, expected, atol=1e-5)


def test_many_products_are_added_up_in_parts(monkeypatch):
    r = np.random.default_rng(0)
    token, example = np.nonzero(r.random((40, 30)) < 0.5)
    part = Sparse(40, (4,), example, token, r.standard_normal((len(token), 4)).astype(np.float32))
    table = Table(np.arange(40), r.standard_normal((40, 4, 5)).astype(np.float32))
    expected = multiply(part, table, 30)
    monkeypatch.setattr("provenance.core.kernels.CELLS", 60)
    assert np.allclose(multiply(part, table, 30), expected, rtol=1e-5, atol=1e-5)


def test_an_unknown_token_gets_zeros():
    values = look_up(np.array([1, 2, 5, 9]), np.array([2, 5]), np.array([[20.0, 2], [50, 5]]))
    assert values.tolist() == [[0, 0], [20, 2], [50, 5], [0, 0]]
    assert look_up(np.array([1]), np.zeros(0, np.int64), np.zeros((0, 2))).tolist() == [[0, 0]]
