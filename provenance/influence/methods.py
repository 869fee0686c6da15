"""Methods of influence behind one interface, so that they can be compared and combined.

A method names the kinds of features it reads. For each kind (and, for gradients, each checkpoint) it fits what it needs from
the corpus, turns the day's outputs into queries once, and scores shards by one product. Queries are scaled as it takes for
influences between examples of a sample to have a root mean square of one: checkpoints and kinds add up on one scale, and what
else was served that day changes no output's influences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import namespace, to_numpy
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, decode, encode, some
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
# Examples of the sample whose influences on all others say how large influences are.
YARDSTICK = 64


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
    """All that a kind of features needs of the corpus to turn outputs into queries.

    Attributes:
        factors: of the sparse and of the dense part of a query, for influences with a root mean square of one.
    """

    comparison: str
    weights: Weights
    dense: Dense | None = None
    landmarks: Landmarks | None = None
    mean_length: float = 0.0
    factors: tuple[float, float] = (1.0, 1.0)


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
    dense: Array | None
    table: Table
    metric: Weights | None = None
    mean_length: float = 0.0

    @property
    def count(self) -> int:
        """How many outputs there are."""
        return int(self.table.values.shape[2])


def fit(comparison: str, statistics: Statistics, sampled: Sampled) -> Fitted:
    """What a comparison needs of the corpus."""
    fitted = _unscaled(comparison, statistics, sampled)
    return replace(fitted, factors=_factors(fitted, sampled.data))


def _unscaled(comparison: str, statistics: Statistics, sampled: Sampled) -> Fitted:
    tokens, count, part = statistics.tokens, statistics.examples, sampled.data.sparse
    if comparison == "curved":
        weights, marks = metric(statistics, part.vocabulary), sampled.landmarks
        total, examples = sampled.total, sampled.data.examples
        dense = None if total is None or not len(total) else fit_dense(total, sampled.terms, examples)
        return Fitted(comparison, weights, dense, fit_landmarks(marks, weights) if marks else None)
    if comparison == "cosine":
        return Fitted(comparison, Weights(tokens.token, np.ones((len(tokens.token), len(part.blocks)))))
    if comparison == "bm25":
        weight = np.log1p((count - tokens.examples + 0.5) / (tokens.examples + 0.5))
    else:  # both sides are weighted by the inverse document frequency
        weight = (np.log((1 + count) / (1 + tokens.examples)) + 1) ** 2
    mean_length = float(tokens.mass.sum()) / max(1, count)
    return Fitted(comparison, Weights(tokens.token, weight.reshape(-1, 1)), mean_length=mean_length)


def _factors(fitted: Fitted, sample: Rows) -> tuple[float, float]:
    """Factors under which some examples of the sample influence all others with a root mean square of one."""
    count = sample.examples
    chosen = np.unique(np.linspace(0, count - 1, min(YARDSTICK, count)).astype(np.int64))  # spread, for a sample is sorted
    queries = prepare(fitted, some(sample, chosen), 1.0, np)
    others = np.arange(count)[None, :] != chosen[:, None]
    if fitted.comparison != "curved":
        return (_inverse_size(score(queries, sample)[others].astype(np.float64)),) * 2
    nothing = Table(queries.table.token[:0], queries.table.values[:0])
    sparse = score(replace(queries, dense=None), sample)[others].astype(np.float64)
    dense = score(replace(queries, table=nothing), sample)[others].astype(np.float64)
    factors = _inverse_size(sparse), _inverse_size(dense) * (1.0 if fitted.landmarks is None else INNER_WEIGHT)
    both = _inverse_size(factors[0] * sparse + factors[1] * dense)
    return factors[0] * both, factors[1] * both


def _inverse_size(influences: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(influences**2))) if influences.size else 0.0
    return 1 / size if size > 0 else 1.0


def prepare(fitted: Fitted, outputs: Rows, weight: float, xp: Any) -> Queries:
    """The outputs as queries whose influences have a root mean square of about `weight`.

    Args:
        outputs: features of outputs, as NumPy arrays.
        xp: where the queries shall lie.
    """
    comparison, of_sparse, of_dense = fitted.comparison, *fitted.factors
    if comparison == "tfidf":
        outputs = _tfidf_counts(outputs)
    table = sparse_queries(outputs, fitted.weights, fitted.landmarks)
    table = Table(xp.asarray(table.token), xp.asarray(table.values * (weight * of_sparse)))
    rows = None
    if comparison == "cosine":
        rows = outputs.dense
    elif fitted.dense is not None:
        rows = fitted.dense.precondition(outputs.dense).astype(np.float32)
    dense = None if rows is None else xp.asarray(rows * (weight * of_dense))
    held = fitted.weights if comparison == "tfidf" else None
    return Queries(comparison, dense, table, held, fitted.mean_length)


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
    tensors = {"facts": np.asarray([fitted.mean_length, *fitted.factors])}
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
    length, *factors = tensors["facts"].tolist()
    return Fitted(comparison, _weights_from_tensors("weights", tensors), dense, landmarks, length, tuple(factors))


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """The arrays that are stored, but for the comparison, as by `to_tensors`."""
    tensors = {
        "mean_length": np.asarray([queries.mean_length]),
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
    dense = xp.asarray(tensors["dense"]) if "dense" in tensors else None
    table = Table(xp.asarray(tensors["table/token"]), xp.asarray(tensors["table/values"]))
    known = _weights_from_tensors("metric", tensors) if "metric/token" in tensors else None
    return Queries(comparison, dense, table, known, float(tensors["mean_length"][0]))


def _weights_to_tensors(prefix: str, weights: Weights) -> dict[str, np.ndarray]:
    return {f"{prefix}/token": weights.token, f"{prefix}/weight": weights.weight}


def _weights_from_tensors(prefix: str, tensors: Mapping[str, np.ndarray]) -> Weights:
    return Weights(tensors[f"{prefix}/token"], tensors[f"{prefix}/weight"])
