"""Fits comparisons of features to the corpus, turns outputs into queries and scores examples.

A method of influence compares one or more kinds of features (`inputs.methods`). For each kind (and, for gradients, each
checkpoint) a comparison is fitted to the corpus, the day's outputs become queries once, and shards are scored by one product.
An influence is a weighted sum of *components*. Gradients have three at each checkpoint: the rows of the head, the rows of the
embedding and the inner layers; words have one. Each component is scaled so that influences between examples of a sample have a
root mean square of one. The weights are fitted to counterfactual models (`royalty.estimate`); without any they are
`default_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.rows import Rows, by_block, decode, encode, move, some, spread
from provenance.features.statistics import Statistics
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
from provenance.influence.index import Table, multiply
from provenance.inputs.methods import WORDS

# Names of components of gradients: the inner layers, and layers over a vocabulary by their kind.
INNER, VOCABULARY_LAYERS = "inner", {"output_tokens": "head", "input_tokens": "embedding"}
# Examples of the sample whose influences on all others set the scale.
SCALE_EXAMPLES = 64


def default_weights(components: Sequence[str]) -> np.ndarray:
    """Weights of components that are not fitted: equal for all of gradients; words count only if there is nothing else."""
    gradients = np.array([not component.startswith(WORDS) for component in components])
    used = gradients if gradients.any() else ~gradients
    return np.asarray(used / used.sum())


@dataclass(frozen=True)
class Sampled:
    """Features of a sample of examples, and of targets that the model samples for them.

    Attributes:
        data: the sample's features; words have nothing else.
        landmarks: sparse features for sampled targets.
        total: `sum g g'` over sampled terms, `(p, p)`.
        terms: number of terms.
    """

    data: Rows
    landmarks: Rows | None = None
    total: np.ndarray | None = None
    terms: int = 0


@dataclass(frozen=True)
class Fitted:
    """A comparison fitted to the corpus; it turns outputs into queries.

    Attributes:
        factors: factor of each component, for influences with a root mean square of one.
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
        table: the sparse part.
        blocks: numbers of the sparse part in each of its components; empty for `tfidf`, which has one component.
        metric: for `tfidf`, the metric in which examples are scaled to length one; otherwise None.
    """

    comparison: str
    dense: Array | None
    table: Table
    blocks: tuple[int, ...] = ()
    metric: Weights | None = None


def fit(comparison: str, statistics: Statistics, sampled: Sampled, xp: Any = np) -> Fitted:
    """Fit a comparison to the corpus.

    Args:
        comparison: `curved` or `tfidf`.
        statistics: sums over the corpus.
        sampled: of a sample of the corpus, as NumPy arrays.
        xp: the array module to compute in: NumPy's, or CuPy's on a GPU.
    """
    fitted = _fit_unscaled(comparison, statistics, sampled, xp)
    return replace(fitted, factors=_factors(fitted, sampled.data, xp))


def _fit_unscaled(comparison: str, statistics: Statistics, sampled: Sampled, xp: Any) -> Fitted:
    tokens, count, part = statistics.tokens, statistics.examples, sampled.data.sparse
    if comparison == "curved":
        weights, marks = metric(statistics, part.vocabulary), sampled.landmarks
        total, examples = sampled.total, sampled.data.examples
        dense = None if total is None or not len(total) else fit_dense(xp.asarray(total), sampled.terms, examples)
        return Fitted(comparison, weights, dense, fit_landmarks(move(marks, xp), weights) if marks else None)
    # Squared, because both sides are weighted by the inverse document frequency.
    weight = (np.log((1 + count) / (1 + tokens.examples)) + 1) ** 2
    return Fitted(comparison, Weights(tokens.token, weight.reshape(-1, 1)))


def _factors(fitted: Fitted, sample: Rows, xp: Any) -> tuple[float, ...]:
    """Factors that scale influences between examples of the sample to a root mean square of one, by component."""
    count = sample.examples
    chosen = np.unique(np.linspace(0, count - 1, min(SCALE_EXAMPLES, count)).astype(np.int64))  # spread: the sample is sorted
    queries = prepare(fitted, some(sample, chosen), xp)
    others = np.arange(count)[None, :] != chosen[:, None]
    influences = (to_numpy(component) for component in score(queries, move(sample, xp)))
    return tuple(_scale(component[others].astype(np.float64)) for component in influences)


def _scale(influences: np.ndarray) -> float:
    """1 / root mean square, or 1 if that is zero."""
    size = float(np.sqrt(np.mean(influences**2))) if influences.size else 0.0
    return 1 / size if size > 0 else 1.0


def prepare(fitted: Fitted, outputs: Rows, xp: Any) -> Queries:
    """Turn outputs into queries, scaled by the factors of the components.

    Args:
        outputs: features of outputs, in any array module.
        xp: the array module to compute in, and of the queries.
    """
    comparison, outputs = fitted.comparison, move(outputs, xp)
    if comparison == "tfidf":
        outputs = _tfidf_counts(outputs)
    table = sparse_queries(outputs, fitted.weights, fitted.landmarks)
    preconditioned = None if fitted.dense is None else xp.astype(fitted.dense.precondition(outputs.dense), xp.float32)
    blocks = outputs.sparse.blocks if comparison == "curved" else ()
    components = (len(blocks) + (preconditioned is not None)) or 1
    factors = np.asarray(fitted.factors or [1.0] * components, dtype=np.float32)
    table_factors = spread(factors[None, : len(blocks)], blocks)[0][:, None] if blocks else factors[-1:]
    table = Table(table.token, table.values * xp.asarray(table_factors))
    dense = None if preconditioned is None else preconditioned * xp.asarray(factors[-1:])
    return Queries(comparison, dense, table, blocks, fitted.weights if comparison == "tfidf" else None)


def component_names(source: str, kinds: Sequence[str], *, inner: bool) -> tuple[str, ...]:
    """Names of the components of a source of gradients, in the order of `score`.

    Args:
        source: the checkpoint's file.
        kinds: kinds of the layers over a vocabulary (`features.layers`), in their order.
        inner: whether there are inner layers.
    """
    names = [VOCABULARY_LAYERS[kind] for kind in kinds] + [INNER] * inner
    return tuple(f"{source}/{name}" for name in names)


def score(queries: Queries, rows: Rows) -> list[Array]:
    """Influences of a shard's examples on every output, by component: each `(q, n)` float32.

    Args:
        rows: the shard's features, in the array module of the queries.
    """
    xp = namespace(rows.dense)
    if queries.metric is not None:
        rows = _tfidf_counts(rows)
        norms = xp.sqrt(squared_norms(rows, queries.metric))
        products = multiply(rows.sparse, queries.table, rows.examples)
        return [xp.matrix_transpose(products / xp.reshape(xp.where(norms > 0, norms, xp.ones_like(norms)), (-1, 1)))]
    part, table = rows.sparse, queries.table
    ends = np.cumsum(queries.blocks).tolist()
    pairs = zip(by_block(part.values, queries.blocks), queries.blocks, ends, strict=True)
    components = [
        multiply(replace(part, values=values), Table(table.token, table.values[:, end - size : end, :]), rows.examples)
        for values, size, end in pairs
    ]
    if queries.dense is not None:
        components.append(rows.dense @ xp.matrix_transpose(queries.dense))
    return [xp.matrix_transpose(component) for component in components]


def _tfidf_counts(rows: Rows) -> Rows:
    """Rows with `1 + log(count)` in place of word counts."""
    part = rows.sparse
    return replace(rows, sparse=replace(part, values=1 + namespace(part.values).log(part.values)))


def to_tensors(fitted: Fitted) -> dict[str, np.ndarray]:
    """Arrays for the store; the comparison is not among them, because the key depends on it."""
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
    # Safetensors writes memory as it lies, and SciPy's factors lie column by column.
    return {key: np.ascontiguousarray(value) for key, value in tensors.items()}


def from_tensors(comparison: str, tensors: Mapping[str, np.ndarray]) -> Fitted:
    """The inverse of `to_tensors`."""
    dense, landmarks = None, None
    if "dense/factor" in tensors:
        dense = Dense(tensors["dense/factor"], tensors["dense/scale"], float(tensors["dense/damping"][0]))
    if "landmark_factor" in tensors:
        prefix = "landmarks/"
        rows = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        landmarks = Landmarks(decode(rows, np), tensors["landmark_factor"], float(tensors["landmark_damping"][0]))
    return Fitted(comparison, _weights_from_tensors("weights", tensors), dense, landmarks, tuple(tensors["factors"].tolist()))


def queries_to_tensors(queries: Queries) -> dict[str, np.ndarray]:
    """Arrays for the store, without the comparison."""
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
    weights = _weights_from_tensors("metric", tensors) if "metric/token" in tensors else None
    return Queries(comparison, dense, table, tuple(tensors["blocks"].tolist()), weights)


def _weights_to_tensors(prefix: str, weights: Weights) -> dict[str, np.ndarray]:
    return {f"{prefix}/token": weights.token, f"{prefix}/weight": weights.weight}


def _weights_from_tensors(prefix: str, tensors: Mapping[str, np.ndarray]) -> Weights:
    return Weights(tensors[f"{prefix}/token"], tensors[f"{prefix}/weight"])
