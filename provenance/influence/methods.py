"""Methods of influence behind one interface, so that they can be compared and combined.

A method names the kinds of features it reads. For each kind (and, for gradients, each checkpoint) it fits what it needs from
the corpus, turns the day's outputs into queries once, and scores shards by one product. Queries are scaled so that influences
have a root mean square of one over outputs and a sample of examples: checkpoints and kinds add up on one scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    from collections.abc import Mapping

    from provenance.core.arrays import Array
    from provenance.influence.statistics import Statistics

FACTORED, RADEMACHER, WORDS = "factored", "rademacher", "words"
# How much the inner layers count beside the rows of head and embedding; chosen on the tuning subsets of `make workloads`.
INNER_WEIGHT = 0.2
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
    meaning: str


METHODS = {
    method.name: method
    for method in (
        Method("factored", {FACTORED: 1.0}, {FACTORED: "curved"}, "gradients of all layers, factored projection, curvature"),
        Method("dense", {RADEMACHER: 1.0}, {RADEMACHER: "curved"}, "whole gradients, Rademacher projection, curvature; slow"),
        Method("cosine", {FACTORED: 1.0}, {FACTORED: "cosine"}, "cosine of projected gradients, no curvature"),
        Method("tfidf", {WORDS: 1.0}, {WORDS: "tfidf"}, "cosine of word counts, rare words weighing more; no model"),
        Method("bm25", {WORDS: 1.0}, {WORDS: "bm25"}, "BM25 of word counts; no model"),
        Method(
            "hybrid",
            {FACTORED: 0.5, WORDS: 0.5},
            {FACTORED: "curved", WORDS: "tfidf"},
            "factored and tfidf, by a fitted weight",
        ),
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
    return Method(found.name, {FACTORED: 1 - hybrid_weight, WORDS: hybrid_weight}, found.comparison, found.meaning)


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
        unit: the metric in which examples are brought to length one first; None for none, empty for the plain one.
        mean_length: of examples in words, for `bm25`; 0 otherwise.
    """

    count: int
    dense: Array | None
    tables: dict[str, Table]
    unit: dict[str, Weights] | None = None
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
    if fitted.comparison == "curved":
        halves = []
        if fitted.weights:
            tables = sparse_queries(outputs, fitted.weights, fitted.landmarks, xp)
            halves.append(_scaled(Queries(outputs.examples, None, tables), fitted.sample, 1.0, xp))
        if fitted.dense is not None:
            rows = xp.asarray(fitted.dense.precondition(to_numpy(outputs.dense)).astype(np.float32))
            share = INNER_WEIGHT if halves else 1.0
            halves.append(_scaled(Queries(outputs.examples, rows, {}), fitted.sample, share, xp))
        queries = halves[0] if len(halves) == 1 else Queries(outputs.examples, halves[1].dense, halves[0].tables)
        return _scaled(queries, fitted.sample, weight, xp)
    if fitted.comparison == "cosine":
        known = {name: _plain(part) for name, part in outputs.sparse.items()}
        queries = Queries(outputs.examples, xp.asarray(outputs.dense), sparse_queries(outputs, known, None, xp), unit={})
        return _scaled(queries, fitted.sample, weight, xp)
    outputs = _counts(outputs, fitted.comparison, 0.0)
    tables = sparse_queries(outputs, fitted.weights, None, xp)
    unit = fitted.weights if fitted.comparison == "tfidf" else None
    length = fitted.mean_length if fitted.comparison == "bm25" else 0.0
    return _scaled(Queries(outputs.examples, None, tables, unit, length), fitted.sample, weight, xp)


def score(queries: Queries, rows: Rows) -> Array:
    """Influences of a shard's examples on every output: `(q, n)` float32.

    Args:
        rows: in the namespace of the queries.
    """
    xp = namespace(rows.dense)
    n = rows.examples
    words = queries.dense is None and (queries.unit is not None or queries.mean_length)
    if words:
        rows = _counts(rows, "bm25" if queries.mean_length else "tfidf", queries.mean_length)
    found = xp.zeros((n, queries.count), dtype=xp.float32)
    for name, table in queries.tables.items():
        found = found + apply(rows.sparse[name], table, n)
    if queries.dense is not None:
        found = found + rows.dense @ xp.matrix_transpose(queries.dense)
    if queries.unit is not None:
        norms = xp.sqrt(squared_norms(rows, queries.unit or None))
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
    dense = None if queries.dense is None else queries.dense * factor
    return Queries(queries.count, dense, tables, queries.unit, queries.mean_length)


def _counts(rows: Rows, comparison: str, mean_length: float) -> Rows:
    """Word counts as the comparison weighs them: logarithmic for `tfidf`, saturating for the documents of `bm25`."""
    xp = namespace(rows.dense)
    sparse = {}
    for name, part in rows.sparse.items():
        counts = part.values
        if comparison == "tfidf":
            counts = 1 + xp.log(counts)
        elif mean_length:
            lengths = add_by_group(counts, part.example, rows.examples)
            relative = xp.take(lengths, part.example, axis=0) / mean_length
            counts = counts * (BM25_K1 + 1) / (counts + BM25_K1 * (1 - BM25_B + BM25_B * relative))
        sparse[name] = Sparse(part.vocabulary, part.example, part.token, counts)
    return Rows(rows.dense, rows.blocks, sparse)


def _plain(part: Sparse) -> Weights:
    token = np.unique(to_numpy(part.token))
    return Weights(token, np.ones(len(token)))


def to_tensors(fitted: Fitted) -> dict[str, np.ndarray]:
    """The arrays that are stored. The comparison is the reader's to know: it is part of the key."""
    tensors = {f"sample/{key}": value for key, value in encode(fitted.sample, dense_bits=32, sparse_bits=32).items()}
    tensors["mean_length"] = np.asarray([fitted.mean_length])
    for name, weights in fitted.weights.items():
        tensors |= {f"weights/{name}:token": weights.token, f"weights/{name}:weight": weights.weight}
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

    held = below("weights/")
    names = sorted(key.removesuffix(":token") for key in held if key.endswith(":token"))
    weights = {name: Weights(held[f"{name}:token"], held[f"{name}:weight"]) for name in names}
    dense, landmarks = None, None
    if curved := below("dense/"):
        dense = Dense(curved["factor"], curved["scale"], float(curved["damping"][0]))
    if marks := below("landmarks/"):
        landmarks = Landmarks(decode(marks, np), tensors["landmark_factor"], float(tensors["landmark_damping"][0]))
    length = float(tensors["mean_length"][0])
    return Fitted(comparison, decode(below("sample/"), np), weights, dense, landmarks, length)


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """The arrays that are stored."""
    facts = [queries.count, queries.unit is not None, queries.mean_length]
    tensors = {"facts": np.asarray(facts, dtype=np.float64)}
    if queries.dense is not None:
        tensors["dense"] = to_numpy(queries.dense)
    for name, table in queries.tables.items():
        tensors |= {f"tables/{name}:token": to_numpy(table.token), f"tables/{name}:values": to_numpy(table.values)}
    for name, weights in (queries.unit or {}).items():
        tensors |= {f"unit/{name}:token": weights.token, f"unit/{name}:weight": weights.weight}
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def queries_from_tensors(tensors: Mapping[str, np.ndarray], xp: Any) -> Queries:
    """The inverse of `queries_to_tensors`, as arrays of `xp`."""

    def named(prefix: str, field: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        names = [key[len(prefix) : -len(":token")] for key in tensors if key.startswith(prefix) and key.endswith(":token")]
        return {name: (tensors[f"{prefix}{name}:token"], tensors[f"{prefix}{name}:{field}"]) for name in sorted(names)}

    count, has_unit, length = tensors["facts"].tolist()
    dense = xp.asarray(tensors["dense"]) if "dense" in tensors else None
    tables = {name: Table(*map(xp.asarray, pair)) for name, pair in named("tables/", "values").items()}
    unit = {name: Weights(*pair) for name, pair in named("unit/", "weight").items()} if has_unit else None
    return Queries(int(count), dense, tables, unit, length)
