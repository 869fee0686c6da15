"""Methods of influence behind one interface, so that they can be compared and combined.

A method names the kinds of features it reads. For each kind (and, for gradients, each checkpoint) it fits what it needs from
the corpus, turns the day's outputs into queries once, and scores shards by one product. Queries are scaled so that influences
have a root mean square of one over outputs and a sample of examples: checkpoints and kinds add up on one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import namespace, to_numpy
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, decode, encode, move
from provenance.influence.curvature import (
    Dense,
    Landmarks,
    Weights,
    fit_dense,
    fit_landmarks,
    metric,
    sparse_queries,
    squared_norms,
)
from provenance.influence.index import Table, apply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provenance.core.arrays import Array
    from provenance.influence.statistics import Statistics

FACTORED, RADEMACHER, WORDS = "factored", "rademacher", "words"
# How much the inner layers count beside the rows of head and embedding; chosen on subsets of the workloads
# `subwords` and `music` other than those that their audits draw.
INNER_WEIGHT = 0.3
# Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework", section 3.4: their usual values.
BM25_K1, BM25_B = 1.2, 0.75


@dataclass(frozen=True)
class Method:
    """A way to measure influence.

    Attributes:
        kinds: the kinds of features it reads and the weight of each.
        comparison: `curved` (corrected by curvature), `cosine`, `tfidf` or `bm25`, by kind.
    """

    name: str
    kinds: dict[str, float]
    comparison: dict[str, str]


METHODS = {
    method.name: method
    for method in (
        Method("factored", {FACTORED: 1.0}, {FACTORED: "curved"}),  # gradients of all layers, factored projection
        Method("dense", {RADEMACHER: 1.0}, {RADEMACHER: "curved"}),  # whole gradients, Rademacher projection; slow
        Method("cosine", {FACTORED: 1.0}, {FACTORED: "cosine"}),
        Method("tfidf", {WORDS: 1.0}, {WORDS: "tfidf"}),
        Method("bm25", {WORDS: 1.0}, {WORDS: "bm25"}),
        Method("hybrid", {FACTORED: 0.5, WORDS: 0.5}, {FACTORED: "curved", WORDS: "tfidf"}),
    )
}


def method(name: str, *, hybrid_weight: float | None = None) -> Method:
    """A method by name.

    Args:
        hybrid_weight: the part of `tfidf` in `hybrid`, as an audit fitted it.

    Raises:
        ContractError: there is no such method, or `hybrid` has no weight.
    """
    if name not in METHODS:
        raise ContractError("method", expected=f"one of {', '.join(METHODS)}", found=repr(name))
    found = METHODS[name]
    if name != "hybrid":
        return found
    if hybrid_weight is None or not 0 <= hybrid_weight <= 1:
        raise ContractError(
            "method hybrid",
            expected="the weight of tfidf, between 0 and 1",
            found=str(hybrid_weight),
            hint="Fit one with `provenance audit lds`, which prints it and writes it into its result.",
        )
    return replace(found, kinds={FACTORED: 1 - hybrid_weight, WORDS: hybrid_weight})


@dataclass(frozen=True)
class Sampled:
    """What the curvature pass found: features of a sample of examples, and of targets sampled for them.

    Attributes:
        data: the sample's features; without targets to sample (words) all there is.
        landmarks: sparse features for sampled targets.
        total: `sum g g'` over sampled terms, `(p, p)`.
        terms: how many terms.
    """

    data: Rows
    landmarks: Rows | None = None
    total: np.ndarray | None = None
    terms: int = 0


@dataclass(frozen=True)
class Fitted:
    """All that a kind of features needs of the corpus to turn outputs into queries."""

    comparison: str
    sample: Rows
    weights: Weights
    dense: Dense | None = None
    landmarks: Landmarks | None = None
    mean_length: float = 0.0


@dataclass(frozen=True)
class Queries:
    """Outputs, ready to be multiplied with examples.

    Attributes:
        dense: `(q, p)` float32, or None.
        table: of the sparse part.
        metric: of the sparse part, in which examples are brought to length one for `tfidf`; None for the plain one.
        mean_length: of examples in words, for `bm25`.
    """

    comparison: str
    count: int
    dense: Array | None
    table: Table
    metric: Weights | None = None
    mean_length: float = 0.0


def fit(comparison: str, statistics: Statistics, sampled: Sampled) -> Fitted:
    """What a comparison needs of the corpus."""
    tokens, count, sample = statistics.tokens, statistics.examples, sampled.data
    if comparison == "curved":
        weights = metric(statistics, sample.sparse.vocabulary)
        dense = None if sampled.total is None or not len(sampled.total) else fit_dense(sampled.total, sampled.terms)
        marks = sampled.landmarks
        landmarks = None if marks is None or not len(weights.token) else fit_landmarks(marks, weights)
        return Fitted(comparison, sample, weights, dense, landmarks)
    if comparison == "cosine":
        return Fitted(comparison, sample, Weights(tokens.token, np.ones((len(tokens.token), len(sample.sparse.blocks)))))
    if comparison == "bm25":
        weight = np.log1p((count - tokens.examples + 0.5) / (tokens.examples + 0.5))
    else:  # both sides are weighted by the inverse document frequency
        weight = (np.log((1 + count) / (1 + tokens.examples)) + 1) ** 2
    mean_length = float(tokens.mass.sum()) / max(1, count)
    return Fitted(comparison, sample, Weights(tokens.token, weight.reshape(-1, 1)), mean_length=mean_length)


def prepare(fitted: Fitted, outputs: Rows, weight: float, xp: Any) -> Queries:
    """The outputs as queries whose influences have a root mean square of `weight` over the sample.

    Args:
        outputs: features of outputs, as NumPy arrays.
        xp: where the queries shall lie.
    """
    comparison, count = fitted.comparison, outputs.examples
    if comparison == "curved":
        table = sparse_queries(outputs, fitted.weights, fitted.landmarks, xp)
        queries = _scaled(Queries(comparison, count, None, table), fitted.sample, 1.0, xp)
        if fitted.dense is not None:
            rows = xp.asarray(fitted.dense.precondition(to_numpy(outputs.dense)).astype(np.float32))
            share = INNER_WEIGHT if len(fitted.weights.token) else 1.0
            inner = _scaled(Queries(comparison, count, rows, _nothing(count, xp)), fitted.sample, share, xp)
            queries = replace(queries, dense=inner.dense)
    elif comparison == "cosine":
        table = sparse_queries(outputs, fitted.weights, None, xp)
        queries = Queries(comparison, count, xp.asarray(outputs.dense), table)
    else:
        counts = _tfidf_counts(outputs) if comparison == "tfidf" else outputs
        table = sparse_queries(counts, fitted.weights, None, xp)
        queries = Queries(comparison, count, None, table, fitted.weights, fitted.mean_length)
    return _scaled(queries, fitted.sample, weight, xp)


def score(queries: Queries, rows: Rows) -> Array:
    """Influences of a shard's examples on every output: `(q, n)` float32.

    Args:
        rows: in the namespace of the queries.
    """
    xp = namespace(rows.dense)
    if queries.comparison == "tfidf":
        rows = _tfidf_counts(rows)
    elif queries.comparison == "bm25":
        rows = _bm25_counts(rows, queries.mean_length)
    found = apply(rows.sparse, queries.table, rows.examples)
    if queries.dense is not None:
        found = found + rows.dense @ xp.matrix_transpose(queries.dense)
    if queries.comparison in {"cosine", "tfidf"}:
        norms = xp.sqrt(squared_norms(rows, queries.metric))
        found = found / xp.reshape(xp.where(norms > 0, norms, xp.ones_like(norms)), (-1, 1))
    return xp.matrix_transpose(found)


def _scaled(queries: Queries, sample: Rows, to: float, xp: Any) -> Queries:
    """The queries such that influences have the root mean square `to` over all outputs and the sample."""
    if not queries.count or not sample.examples:
        return queries
    found = to_numpy(score(queries, move(sample, xp))).astype(np.float64)
    size = float(np.sqrt(np.mean(found**2)))
    factor = to / size if size > 0 else 1.0
    table = Table(queries.table.token, queries.table.values * factor)
    return replace(queries, table=table, dense=None if queries.dense is None else queries.dense * factor)


def _nothing(count: int, xp: Any) -> Table:
    return Table(xp.zeros(0, dtype=xp.int64), xp.zeros((0, 0, count), dtype=xp.float32))


def _tfidf_counts(rows: Rows) -> Rows:
    """Logarithms of word counts."""
    part = rows.sparse
    return replace(rows, sparse=replace(part, values=1 + namespace(part.values).log(part.values)))


def _bm25_counts(rows: Rows, mean_length: float) -> Rows:
    """A document's word counts, which saturate, sooner in a long one."""
    part = rows.sparse
    lengths = add_by_group(part.values, part.example, rows.examples)
    relative = namespace(part.values).take(lengths, part.example, axis=0) / mean_length
    saturated = part.values * (BM25_K1 + 1) / (part.values + BM25_K1 * (1 - BM25_B + BM25_B * relative))
    return replace(rows, sparse=replace(part, values=saturated))


def to_tensors(fitted: Fitted) -> dict[str, np.ndarray]:
    """The arrays that are stored. The comparison is the reader's to know: it is part of the key."""
    tensors = {f"sample/{key}": value for key, value in encode(fitted.sample, dense_bits=32, sparse_bits=32).items()}
    tensors["mean_length"] = np.asarray([fitted.mean_length])
    tensors |= _weights_to_tensors("weights", fitted.weights)
    if fitted.dense is not None:
        dense = fitted.dense
        tensors |= {"dense/factor": dense.factor, "dense/scale": dense.scale, "dense/damping": np.asarray([dense.damping])}
    if fitted.landmarks is not None:
        marks = fitted.landmarks
        rows = encode(marks.rows, dense_bits=32, sparse_bits=32)
        tensors |= {f"landmarks/{key}": value for key, value in rows.items()}
        tensors |= {"landmark_factor": marks.factor, "landmark_damping": np.asarray([marks.damping])}
    return tensors


def from_tensors(comparison: str, tensors: Mapping[str, np.ndarray]) -> Fitted:
    """The inverse of `to_tensors`."""

    def below(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    dense, landmarks = None, None
    if curved := below("dense/"):
        dense = Dense(curved["factor"], curved["scale"], float(curved["damping"][0]))
    if marks := below("landmarks/"):
        landmarks = Landmarks(decode(marks, np), tensors["landmark_factor"], float(tensors["landmark_damping"][0]))
    weights, length = _weights_from_tensors("weights", tensors), float(tensors["mean_length"][0])
    return Fitted(comparison, decode(below("sample/"), np), weights, dense, landmarks, length)


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """The arrays that are stored, but for the comparison, as by `to_tensors`."""
    tensors = {
        "facts": np.asarray([queries.count, queries.mean_length], dtype=np.float64),
        "table/token": to_numpy(queries.table.token),
        "table/values": to_numpy(queries.table.values),
    }
    if queries.dense is not None:
        tensors["dense"] = to_numpy(queries.dense)
    if queries.metric is not None:
        tensors |= _weights_to_tensors("metric", queries.metric)
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def queries_from_tensors(comparison: str, tensors: Mapping[str, np.ndarray], xp: Any) -> Queries:
    """The inverse of `queries_to_tensors`, as arrays of `xp`."""
    count, length = tensors["facts"].tolist()
    dense = xp.asarray(tensors["dense"]) if "dense" in tensors else None
    table = Table(xp.asarray(tensors["table/token"]), xp.asarray(tensors["table/values"]))
    known = _weights_from_tensors("metric", tensors) if "metric/token" in tensors else None
    return Queries(comparison, int(count), dense, table, known, length)


def _weights_to_tensors(prefix: str, weights: Weights) -> dict[str, np.ndarray]:
    return {f"{prefix}/token": weights.token, f"{prefix}/weight": weights.weight}


def _weights_from_tensors(prefix: str, tensors: Mapping[str, np.ndarray]) -> Weights:
    return Weights(tensors[f"{prefix}/token"], tensors[f"{prefix}/weight"])
