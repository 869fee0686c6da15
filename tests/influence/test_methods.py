"""Each comparison equals its formula, and all have the same scale."""

from dataclasses import replace

import array_api_strict
import numpy as np
import pytest
from safetensors.numpy import load, save

from provenance.core.arrays import gpu_count, namespace_of, to_numpy
from provenance.core.errors import ContractError
from provenance.core.rows import Rows, Sparse, concatenate, move, no_tokens, some
from provenance.features.statistics import gather
from provenance.features.words import word_features
from provenance.influence import methods
from provenance.influence.curvature import gram
from provenance.influence.methods import Sampled, component_names, default_weights, fit, prepare, score
from provenance.inputs.methods import comparisons

DOCUMENTS = [b"the cat sat on the mat", b"the dog sat", b"a cat and a dog", b"quantum cats", b"the the the"]
QUERIES = [b"the cat", b"quantum dog dog"]


def rows(examples, seed, blocks=(6,)):
    r = np.random.default_rng(seed)
    token, example = np.nonzero(r.random((9, examples)) < 0.5)
    values = r.standard_normal((len(token), 3)).astype(np.float32)
    dense = r.standard_normal((examples, sum(blocks))).astype(np.float32)
    return Rows(dense, blocks, Sparse(9, (2, 1), example, token, values))


def dense_part(rows):
    return Rows(rows.dense, rows.blocks, no_tokens(np))


CORPUS, SAMPLE, TARGETS, OUTPUTS = rows(40, 1), rows(15, 2), rows(15, 3), rows(4, 4)
SAMPLED = Sampled(TARGETS, gram(TARGETS.dense), 15, 15)


def components(fitted, outputs, corpus=CORPUS):
    """`(k, q, n)`."""
    return np.stack(score(prepare(fitted, outputs, np), corpus))


def counts(texts):
    names = sorted({word for text in [*DOCUMENTS, *QUERIES] for word in text.split()})
    return np.array([[text.split().count(name) for name in names] for text in texts], dtype=float)


def lexical():
    documents, queries = (word_features(texts, ["text"] * len(texts)) for texts in (DOCUMENTS, QUERIES))
    (influence,) = score(prepare(fit(gather(documents), documents), queries, np), documents)
    return influence


def test_tfidf_is_the_cosine_of_weighted_counts():
    frequency = (counts(DOCUMENTS) > 0).sum(axis=0)
    idf = np.log((1 + len(DOCUMENTS)) / (1 + frequency)) + 1
    weigh = lambda texts: np.where(counts(texts) > 0, 1 + np.log(np.maximum(counts(texts), 1)), 0) * idf  # noqa: E731
    documents = weigh(DOCUMENTS)
    expected = weigh(QUERIES) * (frequency > 0) @ (documents / np.linalg.norm(documents, axis=1, keepdims=True)).T
    influence = lexical()
    assert np.allclose(influence / influence[0, 0], expected / expected[0, 0], rtol=1e-4, atol=1e-5)


def test_influences_between_the_examples_that_set_the_scale_have_a_root_mean_square_of_one():
    influences = components(fit(gather(CORPUS), SAMPLE, SAMPLED), SAMPLE, SAMPLE).astype(float)
    assert influences.shape == (3, SAMPLE.examples, SAMPLE.examples)
    others = influences[:, ~np.eye(SAMPLE.examples, dtype=bool)]
    assert np.sqrt((others**2).mean(axis=1)) == pytest.approx(1, rel=1e-4)


def test_the_order_of_the_examples_does_not_change_the_scale():
    r = np.random.default_rng(0)
    texts = sorted((b" ".join(r.choice([b"a", b"b", b"c", b"d", b"e"], r.integers(1, 60))) for _ in range(300)), key=len)
    sizes = []
    for order in (texts, [texts[at] for at in r.permutation(300)]):
        documents = word_features(order, ["text"] * 300)
        sizes.append(fit(gather(documents), documents).factors[0])
    assert sizes[0] == pytest.approx(sizes[1])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_sample_may_be_very_small(count):
    few = np.arange(count)
    sampled = Sampled(some(TARGETS, few), gram(TARGETS.dense), 15, count)
    influences = components(fit(gather(CORPUS), some(SAMPLE, few), sampled), OUTPUTS)
    assert np.isfinite(influences).all()
    assert influences.any()


def test_landmarks_without_tokens_of_the_corpus_are_ignored():
    strangers = replace(TARGETS, sparse=replace(TARGETS.sparse, token=TARGETS.sparse.token + 9))
    fitted = fit(gather(CORPUS), SAMPLE, Sampled(strangers, gram(TARGETS.dense), 15, 15))
    assert fitted.landmarks is None
    assert np.isfinite(components(fitted, OUTPUTS)).all()


def test_neither_other_outputs_nor_shards_change_an_influence():
    fitted = fit(gather(CORPUS), SAMPLE, SAMPLED)
    single = components(fitted, some(OUTPUTS, np.array([2])))
    assert np.allclose(components(fitted, OUTPUTS)[:, 2:3], single, rtol=1e-4, atol=1e-6)
    queries = prepare(fitted, OUTPUTS, np)
    shards = [rows(size, seed) for size, seed in ((3, 7), (11, 8), (1, 9))]
    by_shard = np.concatenate([np.stack(score(queries, shard)) for shard in shards], axis=2)
    assert np.allclose(score(queries, concatenate(shards)), by_shard, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "device", ["strict", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no GPU")])]
)
def test_a_fit_and_its_queries_are_the_same_on_any_device(device, monkeypatch):
    monkeypatch.setattr("provenance.influence.curvature.BLOCK", 4)  # several, and the last is not full
    xp = array_api_strict if device == "strict" else namespace_of(device)
    plain, other = (fit(gather(CORPUS), SAMPLE, SAMPLED, library) for library in (np, xp))
    assert other.factors == pytest.approx(plain.factors, rel=1e-3)
    for one, two in ((plain.dense, other.dense), (plain.landmarks, other.landmarks)):
        assert isinstance(two.factor, np.ndarray)
        assert two.damping == pytest.approx(one.damping, rel=1e-4)
        assert np.allclose(one.factor, two.factor, rtol=1e-4, atol=1e-5)
    influences = score(prepare(other, OUTPUTS, xp), move(CORPUS, xp))
    for expected, component in zip(components(plain, OUTPUTS), influences, strict=True):
        assert np.allclose(to_numpy(component), expected, rtol=1e-3, atol=1e-4)


def test_a_component_is_the_score_of_its_part_of_the_rows():
    """The components are the layers over the vocabulary, and the inner layers."""
    influences = components(fit(gather(CORPUS), SAMPLE, SAMPLED), OUTPUTS)
    without_inner = lambda rows: Rows(rows.dense[:, :0], (), rows.sparse)  # noqa: E731
    sparse_fit = fit(gather(CORPUS), without_inner(SAMPLE), Sampled(TARGETS, np.zeros((0, 0)), 15, 15))
    sparse_scores = components(sparse_fit, OUTPUTS, without_inner(CORPUS))
    dense_only = Sampled(dense_part(TARGETS), gram(TARGETS.dense), 15, 15)
    dense_fit = fit(gather(dense_part(CORPUS)), dense_part(SAMPLE), dense_only)
    dense_scores = components(dense_fit, dense_part(OUTPUTS), dense_part(CORPUS))
    assert len(sparse_scores) == 2
    assert len(dense_scores) == 1
    assert np.allclose(influences, np.concatenate([sparse_scores, dense_scores]), rtol=1e-3, atol=1e-4)


def test_components_are_named_by_source_and_by_default_gradients_count_equally_and_words_only_alone():
    names = component_names("step-1", ["output_tokens", "input_tokens"], inner=True)
    assert names == ("step-1/head", "step-1/embedding", "step-1/inner")
    assert component_names("step-1", [], inner=True) == ("step-1/inner",)
    assert component_names("step-1", ["output_tokens"], inner=False) == ("step-1/head",)
    assert default_weights(["a/head", "a/inner", "words"]).tolist() == [0.5, 0.5, 0]
    assert default_weights(["words"]).tolist() == [1]
    with pytest.raises(ContractError, match="method: expected one of fitted, factored, tfidf, found 'magic'"):
        comparisons("magic")


@pytest.mark.parametrize("comparison", ["curved", "tfidf"])
def test_a_fitted_comparison_and_queries_are_the_same_after_the_store(comparison):
    corpus, outputs, examples, sampled = CORPUS, OUTPUTS, SAMPLE, SAMPLED
    if comparison == "tfidf":
        corpus, outputs = (word_features(texts, ["text"] * len(texts)) for texts in (DOCUMENTS, QUERIES))
        examples, sampled = corpus, None
    fitted = fit(gather(corpus), examples, sampled)
    queries = prepare(fitted, outputs, np)
    stored_fit = methods.from_tensors(comparison, load(save(methods.to_tensors(fitted))))
    stored_queries = methods.queries_from_tensors(comparison, load(save(methods.queries_to_tensors(queries))), np)
    assert np.array_equal(score(prepare(stored_fit, outputs, np), corpus), score(queries, corpus))
    assert np.array_equal(score(stored_queries, corpus), score(queries, corpus))
