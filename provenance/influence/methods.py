"""Methods of influence behind one interface, so that they can be compared and combined.

A method names the kinds of features it reads. For each kind (and, for gradients, each checkpoint) it fits what it needs from
the corpus, turns the day's outputs into queries once, and scores shards by one product. An influence is a sum of *components*:
of gradients the rows of the head, the rows of the embedding and the inner layers, at each checkpoint; of words one. Each is
scaled so that influences between examples of a sample have a root mean square of one; how much each counts is fitted to
counterfactual models (`royalty.estimate`), and without any they count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.errors import ContractError
from provenance.core.rows import Rows, by_block, decode, encode, some, spread
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
from provenance.influence.statistics import Statistics

FACTORED, WORDS = "factored", "words"
# Components of gradients: the inner layers, and layers over a vocabulary by their kind.
INNER, ROWS_OF = "inner", {"output_tokens": "head", "input_tokens": "embedding"}
# Examples of the sample whose influences on all others say how large influences are.
YARDSTICK = 64


# Ways to measure influence. Of each, by the kinds of features that it reads, how these are compared: `curved` (corrected by
# curvature) or `tfidf`.
METHODS = {
    # What a night rests on: gradients of all layers, factored projection; and words, which count where they are fitted to.
    "fitted": {FACTORED: "curved", WORDS: "tfidf"},
    "factored": {FACTORED: "curved"},
    "tfidf": {WORDS: "tfidf"},
}


def comparisons(method: str) -> dict[str, str]:
    """How a method compares features, by their kind.

    Raises:
        ContractError: there is no such method.
    """
    if method not in METHODS:
        raise ContractError("method", expected=f"one of {', '.join(METHODS)}", found=repr(method))
    return METHODS[method]


def default_weights(components: Sequence[str]) -> np.ndarray:
    """What each component counts where nothing says more: all of gradients alike, words only where there is nothing else."""
    gradients = np.array([not component.startswith(WORDS) for component in components])
    counted = gradients if gradients.any() else ~gradients
    return np.asarray(counted / counted.sum())


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
        factors: of each component of a query, for influences with a root mean square of one.
    """

    comparison: str
    weights: Weights
    dense: Dense | None = None
    landmarks: Landmarks | None = None
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Queries:
    """Outputs, ready to be multiplied with examples.

    Attributes:
        dense: `(q, p)` float32, or None.
        table: of the sparse part.
        blocks: how many numbers of the sparse part each of its components has; none where the parts of an example are one.
        metric: of the sparse part, in which examples are brought to length one for `tfidf`; None for the plain one.
    """

    comparison: str
    dense: Array | None
    table: Table
    blocks: tuple[int, ...] = ()
    metric: Weights | None = None


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
    # Both sides are weighted by the inverse document frequency.
    weight = (np.log((1 + count) / (1 + tokens.examples)) + 1) ** 2
    return Fitted(comparison, Weights(tokens.token, weight.reshape(-1, 1)))


def _factors(fitted: Fitted, sample: Rows) -> tuple[float, ...]:
    """Factors under which some examples of the sample influence all others with a root mean square of one, by component."""
    count = sample.examples
    chosen = np.unique(np.linspace(0, count - 1, min(YARDSTICK, count)).astype(np.int64))  # spread, for a sample is sorted
    queries = prepare(fitted, some(sample, chosen), np)
    others = np.arange(count)[None, :] != chosen[:, None]
    return tuple(_inverse_size(found[others].astype(np.float64)) for found in score(queries, sample))


def _inverse_size(influences: np.ndarray) -> float:
    size = float(np.sqrt(np.mean(influences**2))) if influences.size else 0.0
    return 1 / size if size > 0 else 1.0


def prepare(fitted: Fitted, outputs: Rows, xp: Any) -> Queries:
    """The outputs as queries; influences of each component have a root mean square of about one.

    Args:
        outputs: features of outputs, as NumPy arrays.
        xp: where the queries shall lie.
    """
    comparison = fitted.comparison
    if comparison == "tfidf":
        outputs = _tfidf_counts(outputs)
    table = sparse_queries(outputs, fitted.weights, fitted.landmarks)
    rows = None if fitted.dense is None else fitted.dense.precondition(outputs.dense).astype(np.float32)
    blocks = outputs.sparse.blocks if comparison == "curved" else ()
    components = (len(blocks) + (rows is not None)) or 1
    factors = np.asarray(fitted.factors or [1.0] * components, dtype=np.float32)
    of_table = spread(factors[None, : len(blocks)], blocks)[0][:, None] if blocks else factors[-1]
    table = Table(xp.asarray(table.token), xp.asarray(table.values * of_table))
    dense = None if rows is None else xp.asarray(rows * factors[-1])
    held = fitted.weights if comparison == "tfidf" else None
    return Queries(comparison, dense, table, blocks, held)


def component_names(source: str, kinds: Sequence[str], *, inner: bool) -> tuple[str, ...]:
    """What the components of a source of gradients are called, in the order of `score`.

    Args:
        source: such as a checkpoint's file.
        kinds: of the layers over a vocabulary, as `features.layers` names them, in their order.
        inner: whether there are inner layers.
    """
    names = [ROWS_OF[kind] for kind in kinds] + [INNER] * inner
    return tuple(f"{source}/{name}" for name in names)


def score(queries: Queries, rows: Rows) -> list[Array]:
    """Influences of a shard's examples on every output, by component: each `(q, n)` float32.

    Args:
        rows: in the namespace of the queries.
    """
    xp = namespace(rows.dense)
    if queries.metric is not None:
        rows = _tfidf_counts(rows)
        norms = xp.sqrt(squared_norms(rows, queries.metric))
        found = apply(rows.sparse, queries.table, rows.examples)
        return [xp.matrix_transpose(found / xp.reshape(xp.where(norms > 0, norms, xp.ones_like(norms)), (-1, 1)))]
    part, table = rows.sparse, queries.table
    ends = np.cumsum(queries.blocks).tolist()
    pairs = zip(by_block(part.values, queries.blocks), queries.blocks, ends, strict=True)
    found = [
        apply(replace(part, values=values), Table(table.token, table.values[:, end - size : end, :]), rows.examples)
        for values, size, end in pairs
    ]
    found += [] if queries.dense is None else [rows.dense @ xp.matrix_transpose(queries.dense)]
    return [xp.matrix_transpose(component) for component in found]


def _tfidf_counts(rows: Rows) -> Rows:
    """Logarithms of word counts."""
    part = rows.sparse
    return replace(rows, sparse=replace(part, values=1 + namespace(part.values).log(part.values)))


def to_tensors(fitted: Fitted) -> dict[str, np.ndarray]:
    """The arrays that are stored. The comparison is the reader's to know: it is part of the key."""
    tensors = {"factors": np.asarray(fitted.factors)}
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
    return Fitted(comparison, _weights_from_tensors("weights", tensors), dense, landmarks, tuple(tensors["factors"].tolist()))


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """The arrays that are stored, but for the comparison, as by `to_tensors`."""
    tensors = {
        "blocks": np.asarray(queries.blocks, dtype=np.int64),
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
    blocks = tuple(tensors["blocks"].tolist())
    return Queries(comparison, dense, table, blocks, known)


def _weights_to_tensors(prefix: str, weights: Weights) -> dict[str, np.ndarray]:
    return {f"{prefix}/token": weights.token, f"{prefix}/weight": weights.weight}


def _weights_from_tensors(prefix: str, tensors: Mapping[str, np.ndarray]) -> Weights:
    return Weights(tensors[f"{prefix}/token"], tensors[f"{prefix}/weight"])
