"""Fits comparisons of features to the corpus, turns outputs into queries and scores examples.

A method of influence compares one or more kinds of features (`inputs.methods`). For each kind (and, for gradients, each
checkpoint) a comparison is fitted to the corpus, the day's outputs become queries once, and shards are scored by one product.
An influence is a weighted sum of *components*. Gradients have three at each checkpoint: the rows of the head, the rows of the
embedding and the inner layers; words have one. Each component is scaled so that influences between examples of the corpus have
a root mean square of one. The weights are fitted to counterfactual models (`royalty.estimate`); without any they are
`default_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.rows import Rows, by_block, concatenate, decode, encode, move, some, sparse_only, spread
from provenance.features.statistics import Statistics
from provenance.influence.curvature import (
    BLOCK,
    Dense,
    Landmarks,
    Weights,
    fit_dense,
    fit_landmarks,
    gram,
    metric,
    sparse_queries,
    squared_norms,
)
from provenance.influence.index import Table, multiply
from provenance.inputs.methods import WORDS

if TYPE_CHECKING:
    from provenance.features.sampled import Terms  # which loads torch

# Names of components of gradients: the inner layers, and layers over a vocabulary by their kind.
INNER, VOCABULARY_LAYERS = "inner", {"output_tokens": "head", "input_tokens": "embedding"}


def default_weights(components: Sequence[str]) -> np.ndarray:
    """Weights of components that are not fitted: equal for all of gradients; words count only if there is nothing else."""
    gradients = np.array([not component.startswith(WORDS) for component in components])
    used = gradients if gradients.any() else ~gradients
    return np.asarray(used / used.sum())


@dataclass(frozen=True)
class Sampled:
    """Gradients of a sample of examples, for targets that the model samples.

    Attributes:
        landmarks: the sparse part of feature rows.
        total: `sum g g'` over loss terms, `(p, p)`.
        terms: number of terms.
        examples: number of examples.
    """

    landmarks: Rows
    total: np.ndarray
    terms: int
    examples: int


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


def join(parts: Sequence[Sampled]) -> Sampled:
    """What was sampled for several groups of examples, as one."""
    total = sum(part.total for part in parts)
    counts = (sum(part.terms for part in parts), sum(part.examples for part in parts))
    return Sampled(concatenate([part.landmarks for part in parts]), np.asarray(total), *counts)


def sampled_of(passes: Sequence[Terms], examples: int) -> Sampled:
    """What was sampled for a number of examples, from their passes."""
    terms = namespace(passes[0].terms).concat([each.terms for each in passes], axis=0)
    landmarks = move(concatenate([sparse_only(each.rows) for each in passes]), np)
    return Sampled(landmarks, to_numpy(gram(terms)), terms.shape[0], examples)


def fit(statistics: Statistics, examples: Rows, sampled: Sampled | None = None, xp: Any = np) -> Fitted:
    """Fit a comparison to the corpus: `curved` with a sample, else `tfidf`.

    Args:
        statistics: sums over the corpus.
        examples: features of some examples of the corpus, as NumPy arrays; influences between them set the scale.
        sampled: what the curvature is estimated from.
        xp: the array module to compute in: NumPy's, or CuPy's on a GPU.
    """
    fitted = _fit_unscaled(statistics, sampled, xp)
    return replace(fitted, factors=_factors(fitted, examples, xp))


def _fit_unscaled(statistics: Statistics, sampled: Sampled | None, xp: Any) -> Fitted:
    tokens, count = statistics.tokens, statistics.examples
    if sampled is not None:
        weights, total = metric(statistics, sampled.landmarks.sparse.vocabulary), sampled.total
        dense = fit_dense(xp.asarray(total), sampled.terms, sampled.examples) if len(total) else None
        return Fitted("curved", weights, dense, fit_landmarks(move(sampled.landmarks, xp), weights))
    # Squared, because both sides are weighted by the inverse document frequency.
    weight = (np.log((1 + count) / (1 + tokens.examples)) + 1) ** 2
    return Fitted("tfidf", Weights(tokens.token, weight.reshape(-1, 1)))


def _factors(fitted: Fitted, examples: Rows, xp: Any) -> tuple[float, ...]:
    """Factors that scale influences between examples to a root mean square of one, by component."""
    count, moved = examples.examples, move(examples, xp)
    squares = []
    for start in range(0, max(1, count), BLOCK):
        places = np.arange(start, min(start + BLOCK, count))
        influences = score(prepare(fitted, some(examples, places), xp), moved)
        others = places[:, None] != np.arange(count)
        squares.append([np.square(to_numpy(each).astype(np.float64)).sum(where=others) for each in influences])
    sizes = np.sqrt(np.sum(squares, axis=0) / max(1, count * (count - 1)))
    return tuple(1 / size if size > 0 else 1.0 for size in sizes.tolist())


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
