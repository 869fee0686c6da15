"""Methods of influence behind one interface, so that they can be compared and combined.

A method names the kinds of features it reads. For each kind (and, for gradients, each checkpoint) it fits what it needs from
the corpus, turns the day's outputs into queries once, and scores shards by one product. Queries are scaled so that influences
have a root mean square of one over outputs and a sample of examples: checkpoints and kinds add up on one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import namespace, to_numpy
from provenance.core.errors import ContractError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, decode, encode, move
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
    from collections.abc import Callable, Iterator, Mapping

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
    weights: dict[str, Weights] = field(default_factory=dict)
    dense: Dense | None = None
    landmarks: Landmarks | None = None
    mean_length: float = 0.0


@dataclass(frozen=True)
class Queries:
    """Outputs, ready to be multiplied with examples.

    Attributes:
        dense: `(q, p)` float32, or None.
        tables: by sparse part.
        metric: by sparse part, in which examples are brought to length one for `tfidf`.
        mean_length: of examples in words, for `bm25`.
    """

    comparison: str
    count: int
    dense: Array | None
    tables: dict[str, Table]
    metric: dict[str, Weights] = field(default_factory=dict)
    mean_length: float = 0.0


def fit(comparison: str, statistics: Statistics, sampled: Sampled) -> Fitted:
    """What a comparison needs of the corpus."""
    vocabularies = {name: part.vocabulary for name, part in sampled.data.sparse.items()}
    if comparison == "curved":
        weights = metric(statistics, vocabularies)
        dense = None if sampled.total is None or not len(sampled.total) else fit_dense(sampled.total, sampled.terms)
        landmarks = fit_landmarks(sampled.landmarks, weights) if weights and sampled.landmarks is not None else None
        return Fitted(comparison, sampled.data, weights, dense, landmarks)
    if comparison == "cosine":
        return Fitted(comparison, sampled.data)
    weights = {}
    for name, part in statistics.parts.items():
        seen, count = part.examples, statistics.examples
        if comparison == "bm25":
            weight = np.log1p((count - seen + 0.5) / (seen + 0.5))
        else:  # both sides are weighted by the inverse document frequency
            weight = (np.log((1 + count) / (1 + seen)) + 1) ** 2
        weights[name] = Weights(part.token, weight)
    mass = sum(float(part.mass.sum()) for part in statistics.parts.values())
    return Fitted(comparison, sampled.data, weights, mean_length=mass / max(1, statistics.examples))


def prepare(fitted: Fitted, outputs: Rows, weight: float, xp: Any) -> Queries:
    """The outputs as queries whose influences have a root mean square of `weight` over the sample.

    Args:
        outputs: features of outputs, as NumPy arrays.
        xp: where the queries shall lie.
    """
    comparison, count = fitted.comparison, outputs.examples
    if comparison == "curved":
        halves = []
        if fitted.weights:
            tables = sparse_queries(outputs, fitted.weights, fitted.landmarks, xp)
            halves.append(_scaled(Queries(comparison, count, None, tables), fitted.sample, 1.0, xp))
        if fitted.dense is not None:
            rows = xp.asarray(fitted.dense.precondition(to_numpy(outputs.dense)).astype(np.float32))
            share = INNER_WEIGHT if halves else 1.0
            halves.append(_scaled(Queries(comparison, count, rows, {}), fitted.sample, share, xp))
        queries = halves[0] if len(halves) == 1 else replace(halves[0], dense=halves[1].dense)
    elif comparison == "cosine":
        known = {name: _plain(part) for name, part in outputs.sparse.items()}
        queries = Queries(comparison, count, xp.asarray(outputs.dense), sparse_queries(outputs, known, None, xp))
    else:
        counts = _tfidf_counts(outputs) if comparison == "tfidf" else outputs
        tables = sparse_queries(counts, fitted.weights, None, xp)
        queries = Queries(comparison, count, None, tables, fitted.weights, fitted.mean_length)
    return _scaled(queries, fitted.sample, weight, xp)


def score(queries: Queries, rows: Rows) -> Array:
    """Influences of a shard's examples on every output: `(q, n)` float32.

    Args:
        rows: in the namespace of the queries.
    """
    xp = namespace(rows.dense)
    n = rows.examples
    if queries.comparison == "tfidf":
        rows = _tfidf_counts(rows)
    elif queries.comparison == "bm25":
        rows = _bm25_counts(rows, queries.mean_length)
    found = xp.zeros((n, queries.count), dtype=xp.float32)
    for name, table in queries.tables.items():
        found = found + apply(rows.sparse[name], table, n)
    if queries.dense is not None:
        found = found + rows.dense @ xp.matrix_transpose(queries.dense)
    if queries.comparison in {"cosine", "tfidf"}:
        norms = xp.sqrt(squared_norms(rows, queries.metric or None))
        found = found / xp.reshape(xp.where(norms > 0, norms, xp.ones_like(norms)), (-1, 1))
    return xp.matrix_transpose(found)


def _scaled(queries: Queries, sample: Rows, to: float, xp: Any) -> Queries:
    """The queries such that influences have the root mean square `to` over all outputs and the sample."""
    if not queries.count or not sample.examples:
        return queries
    found = to_numpy(score(queries, move(sample, xp))).astype(np.float64)
    size = float(np.sqrt(np.mean(found**2)))
    factor = to / size if size > 0 else 1.0
    tables = {name: Table(table.token, table.values * factor) for name, table in queries.tables.items()}
    return replace(queries, tables=tables, dense=None if queries.dense is None else queries.dense * factor)


def _tfidf_counts(rows: Rows) -> Rows:
    """Logarithms of word counts."""
    xp = namespace(rows.dense)
    return _with_values(rows, lambda part: 1 + xp.log(part.values))


def _bm25_counts(rows: Rows, mean_length: float) -> Rows:
    """A document's word counts, which saturate, sooner in a long one."""
    xp = namespace(rows.dense)

    def saturated(part: Sparse) -> Array:
        lengths = add_by_group(part.values, part.example, rows.examples)
        relative = xp.take(lengths, part.example, axis=0) / mean_length
        return part.values * (BM25_K1 + 1) / (part.values + BM25_K1 * (1 - BM25_B + BM25_B * relative))

    return _with_values(rows, saturated)


def _with_values(rows: Rows, values: Callable[[Sparse], Array]) -> Rows:
    return replace(rows, sparse={name: replace(part, values=values(part)) for name, part in rows.sparse.items()})


def _plain(part: Sparse) -> Weights:
    token = np.unique(to_numpy(part.token))
    return Weights(token, np.ones(len(token)))


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

    weights = _weights_from_tensors("weights", tensors)
    dense, landmarks = None, None
    if curved := below("dense/"):
        dense = Dense(curved["factor"], curved["scale"], float(curved["damping"][0]))
    if marks := below("landmarks/"):
        landmarks = Landmarks(decode(marks, np), tensors["landmark_factor"], float(tensors["landmark_damping"][0]))
    length = float(tensors["mean_length"][0])
    return Fitted(comparison, decode(below("sample/"), np), weights, dense, landmarks, length)


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """The arrays that are stored, but for the comparison, as by `to_tensors`."""
    tensors = {"facts": np.asarray([queries.count, queries.mean_length], dtype=np.float64)}
    if queries.dense is not None:
        tensors["dense"] = to_numpy(queries.dense)
    for name, table in queries.tables.items():
        tensors |= {f"tables/{name}:token": to_numpy(table.token), f"tables/{name}:values": to_numpy(table.values)}
    tensors |= _weights_to_tensors("metric", queries.metric)
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def queries_from_tensors(comparison: str, tensors: Mapping[str, np.ndarray], xp: Any) -> Queries:
    """The inverse of `queries_to_tensors`, as arrays of `xp`."""
    count, length = tensors["facts"].tolist()
    dense = xp.asarray(tensors["dense"]) if "dense" in tensors else None
    tables = {
        name: Table(xp.asarray(token), xp.asarray(values)) for name, token, values in _by_token(tensors, "tables", "values")
    }
    return Queries(comparison, int(count), dense, tables, _weights_from_tensors("metric", tensors), length)


def _weights_to_tensors(prefix: str, held: Mapping[str, Weights]) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for name, weights in held.items():
        tensors |= {f"{prefix}/{name}:token": weights.token, f"{prefix}/{name}:weight": weights.weight}
    return tensors


def _weights_from_tensors(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Weights]:
    return {name: Weights(token, weight) for name, token, weight in _by_token(tensors, prefix, "weight")}


def _by_token(tensors: Mapping[str, np.ndarray], prefix: str, field: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, tokens and what stands at them, of each part below a prefix."""
    start, end = f"{prefix}/", ":token"
    for name in sorted(key[len(start) : -len(end)] for key in tensors if key.startswith(start) and key.endswith(end)):
        yield name, tensors[f"{start}{name}{end}"], tensors[f"{start}{name}:{field}"]
