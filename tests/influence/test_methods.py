"""Methods behind one interface: each against its formula, and all on one scale."""

from dataclasses import replace

import numpy as np
import pytest

from provenance.core.errors import ContractError
from provenance.core.rows import Rows, Sparse, concatenate, no_tokens, some
from provenance.features.words import word_features
from provenance.influence import methods
from provenance.influence.curvature import gram
from provenance.influence.methods import Sampled, comparisons, component_names, default_weights, fit, prepare, score
from provenance.influence.statistics import gather

DOCUMENTS = [b"the cat sat on the mat", b"the dog sat", b"a cat and a dog", b"quantum cats", b"the the the"]
ASKED = [b"the cat", b"quantum dog dog"]


def rows(examples, seed, blocks=(6,)):
    r = np.random.default_rng(seed)
    token, example = np.nonzero(r.random((9, examples)) < 0.5)
    values = r.standard_normal((len(token), 3)).astype(np.float32)
    dense = r.standard_normal((examples, sum(blocks))).astype(np.float32)
    return Rows(dense, blocks, Sparse(9, (2, 1), example, token, values))


def dense_part(of):
    return Rows(of.dense, of.blocks, no_tokens(np))


CORPUS, SAMPLE, TARGETS, OUTPUTS = rows(40, 1), rows(15, 2), rows(15, 3), rows(4, 4)
SAMPLED = Sampled(SAMPLE, TARGETS, gram(TARGETS.dense), 15)


def components(fitted, outputs, corpus=CORPUS):
    """`(k, q, n)`."""
    return np.stack(score(prepare(fitted, outputs, np), corpus))


def counts(texts):
    names = sorted({word for text in [*DOCUMENTS, *ASKED] for word in text.split()})
    return np.array([[text.split().count(name) for name in names] for text in texts], dtype=float)


def lexical(comparison):
    documents, asked = word_features(DOCUMENTS, ["text"] * len(DOCUMENTS)), word_features(ASKED, ["text"] * len(ASKED))
    (found,) = score(prepare(fit(comparison, gather(documents), Sampled(documents)), asked, np), documents)
    return found


def test_tfidf_is_the_cosine_of_weighted_counts():
    frequency = (counts(DOCUMENTS) > 0).sum(axis=0)
    idf = np.log((1 + len(DOCUMENTS)) / (1 + frequency)) + 1
    weigh = lambda texts: np.where(counts(texts) > 0, 1 + np.log(np.maximum(counts(texts), 1)), 0) * idf  # noqa: E731
    documents = weigh(DOCUMENTS)
    expected = weigh(ASKED) * (frequency > 0) @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    found = lexical("tfidf")
    assert np.allclose(found / found[0, 0], expected / expected[0, 0], rtol=1e-4, atol=1e-5)


def test_by_each_component_examples_of_the_sample_influence_one_another_with_a_root_mean_square_of_one():
    found = components(fit("curved", gather(CORPUS), SAMPLED), SAMPLE, SAMPLE).astype(float)
    assert found.shape == (3, SAMPLE.examples, SAMPLE.examples)
    others = found[:, ~np.eye(SAMPLE.examples, dtype=bool)]
    assert np.sqrt((others**2).mean(axis=1)) == pytest.approx(1, rel=1e-4)


def test_the_order_of_the_sample_hardly_changes_the_scale():
    """It comes sorted by length, and a part of it is the yardstick."""
    r = np.random.default_rng(0)
    texts = sorted((b" ".join(r.choice([b"a", b"b", b"c", b"d", b"e"], r.integers(1, 60))) for _ in range(300)), key=len)
    sizes = []
    for order in (texts, [texts[at] for at in r.permutation(300)]):
        documents = word_features(order, ["text"] * 300)
        sizes.append(fit("tfidf", gather(documents), Sampled(documents)).factors[0])
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_sample_may_be_very_small(count):
    few = np.arange(count)
    sampled = Sampled(some(SAMPLE, few), some(TARGETS, few), gram(TARGETS.dense), 15)
    found = components(fit("curved", gather(CORPUS), sampled), OUTPUTS)
    assert np.isfinite(found).all()
    assert found.any()


def test_landmarks_that_meet_no_token_of_the_corpus_correct_nothing():
    strangers = replace(TARGETS, sparse=replace(TARGETS.sparse, token=TARGETS.sparse.token + 9))
    fitted = fit("curved", gather(CORPUS), Sampled(SAMPLE, strangers, gram(TARGETS.dense), 15))
    assert fitted.landmarks is None
    assert np.isfinite(components(fitted, OUTPUTS)).all()


def test_neither_an_outputs_company_nor_shards_change_an_influence():
    fitted = fit("curved", gather(CORPUS), SAMPLED)
    alone = components(fitted, some(OUTPUTS, np.array([2])))
    assert np.allclose(components(fitted, OUTPUTS)[:, 2:3], alone, rtol=1e-4, atol=1e-6)
    queries = prepare(fitted, OUTPUTS, np)
    shards = [rows(size, seed) for size, seed in ((3, 7), (11, 8), (1, 9))]
    apart = np.concatenate([np.stack(score(queries, shard)) for shard in shards], axis=2)
    assert np.allclose(score(queries, concatenate(shards)), apart, rtol=1e-5, atol=1e-6)


def test_the_components_of_a_curved_score_are_its_parts_alone():
    """The rows of each layer over the vocabulary, and the inner layers."""
    found = components(fit("curved", gather(CORPUS), SAMPLED), OUTPUTS)
    without_inner = lambda of: Rows(of.dense[:, :0], (), of.sparse)  # noqa: E731
    sparse_only = Sampled(without_inner(SAMPLE), TARGETS)
    rows_alone = components(fit("curved", gather(CORPUS), sparse_only), OUTPUTS, without_inner(CORPUS))
    dense_only = Sampled(dense_part(SAMPLE), dense_part(TARGETS), gram(TARGETS.dense), 15)
    inner_alone = components(fit("curved", gather(dense_part(CORPUS)), dense_only), dense_part(OUTPUTS), dense_part(CORPUS))
    assert len(rows_alone) == 2
    assert len(inner_alone) == 1
    assert np.allclose(found, np.concatenate([rows_alone, inner_alone]), rtol=1e-3, atol=1e-4)


def test_components_are_named_by_source_in_the_order_of_their_scores():
    found = component_names("step-1", ["output_tokens", "input_tokens"], inner=True)
    assert found == ("step-1/head", "step-1/embedding", "step-1/inner")
    assert component_names("step-1", [], inner=True) == ("step-1/inner",)
    assert component_names("step-1", ["output_tokens"], inner=False) == ("step-1/head",)


def test_without_more_to_go_by_gradients_count_alike_and_words_where_there_is_nothing_else():
    assert default_weights(["a/head", "a/inner", "words"]).tolist() == [0.5, 0.5, 0]
    assert default_weights(["words"]).tolist() == [1]


@pytest.mark.parametrize("comparison", ["curved", "tfidf"])
def test_what_was_fitted_and_queries_survive_the_store(comparison):
    corpus, outputs, sampled = CORPUS, OUTPUTS, SAMPLED
    if comparison == "tfidf":
        corpus, outputs = (word_features(texts, ["text"] * len(texts)) for texts in (DOCUMENTS, ASKED))
        sampled = Sampled(corpus)
    fitted = fit(comparison, gather(corpus), sampled)
    again = prepare(methods.from_tensors(comparison, methods.to_tensors(fitted)), outputs, np)
    queries = prepare(fitted, outputs, np)
    stored = methods.queries_from_tensors(comparison, methods.queries_to_tensors(queries), np)
    assert np.array_equal(score(again, corpus), score(queries, corpus))
    assert np.array_equal(score(stored, corpus), score(queries, corpus))


def test_an_unknown_method_is_named():
    with pytest.raises(ContractError, match="method: expected one of fitted, factored, tfidf, found 'magic'"):
        comparisons("magic")
