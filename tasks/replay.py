"""Stage `replay`: what every work adds to every output, by replaying the training run, shard by shard over the feature store.

snapshots/<digest>.safetensors  one checkpoint as a replay sees it: computed once for a model and a corpus
sketches/<digest>.safetensors   a shard's whole gradients at a checkpoint, projected: computed once, too
nights/.../values/              derivatives of outputs as queries, and every example's values, by shard
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from provenance.core.arrays import namespace, namespace_of, to_numpy
from provenance.core.errors import StoreError
from provenance.core.store import Store, canonical_json, digest, sha256
from provenance.corpus.shards import part_key
from provenance.features.exact import (
    sketch,
    spread,
    whole_batches,
    whole_gradients,
    whole_position,
    whole_sampled,
    whole_size,
    whole_sum,
)
from provenance.features.model import all_losses
from provenance.features.projection import Projection
from provenance.royalty.diagonal import differentiate, nodes
from provenance.royalty.replay import Optimiser, Run, Snapshot, between, few_rows
from provenance.royalty.values import common_push
from tasks.cluster import compute, compute_tree, open_cluster
from tasks.featurise import close_models, recipe
from tasks.models import fetch_model
from tasks.night import night_to_compute
from tasks.settings import load
from tasks.shard import load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distributed import Client

    from provenance.core.arrays import Array
    from provenance.features.model import Model
    from tasks.featurise import Recipe
    from tasks.night import Night
    from tasks.settings import Settings
    from tasks.shard import Plan

log = logging.getLogger("provenance.replay")

# Examples of the sample whose gradients are looked at one by one, and how many at a time.
FISHER, BATCH = 256, 16
WORTH = "worth.safetensors"
# Numbers of outputs' derivatives in memory at a time.
NUMBERS = 16_000_000
LARGEST, TINY = 127, 1e-9
# A replay of everybody that stands at a smaller cosine with the real run than this does not follow it.
FOLLOWS = 0.5


@dataclass(frozen=True)
class _Here:
    """The night in hand, and where it is computed."""

    store: Store
    night: Night
    plan: Plan
    settings: Settings
    client: Client
    made: Recipe
    model: Model


@dataclass(frozen=True)
class _Task:
    """The snapshot of a checkpoint: on which part of the store, and where it shall lie."""

    checkpoint: str
    part: str
    key: str


@dataclass(frozen=True)
class _Slice:
    """Some outputs at a node of the diagonal.

    Attributes:
        start: where in their part they begin; begin: where among all outputs.
    """

    part: str
    start: int
    begin: int
    count: int
    node: int
    key: str


@dataclass(frozen=True)
class _Replay:
    """What workers need to replay a run.

    Attributes:
        snapshots: by checkpoint, where each lies.
        kept: checkpoints at which every example's gradient is known, projected to so many numbers.
    """

    made: Recipe
    snapshots: dict[str, str]
    optimiser: Optimiser
    examples: int
    rates: tuple[float, ...]
    weights: tuple[float, ...]
    kept: tuple[str, ...]
    numbers: int
    coordinates: Projection


@dataclass(frozen=True)
class Stream:
    """What workers need to give every example of a shard its values."""

    store: Store
    device: str
    folder: str
    kept: tuple[str, ...]
    weights: tuple[float, ...]
    slices: tuple[tuple[int, int, tuple[str, ...]], ...]
    outputs: int


@dataclass(frozen=True)
class Worth:
    """What was found of a night's outputs, `(..., Q)`.

    Attributes:
        ends: what the outputs are worth to nobody's model and to everybody's: minus their losses, `(2, Q)`.
        at_nodes: and to models of a part of everything, `(F, Q)`.
        mean: over all examples of their values by checkpoint `(C, Q)` and by node `(F, Q)`.
        push: what works commonly push all outputs together.
        cosines: by checkpoint, between where everybody's replay stands and where the real run did.
    """

    ends: np.ndarray
    at_nodes: np.ndarray
    mean: tuple[np.ndarray, np.ndarray]
    push: float
    examples: int
    cosines: dict[str, float]


def replay(folder: str, settings: Settings | None = None) -> str:
    """Write every example's values, and `worth.safetensors` of the outputs; returns the night's folder."""
    settings = settings or load()
    store = settings.store.open()
    night = night_to_compute(store, folder)
    how = night.method["values"]
    if not how or not sum(part.rows for part in night.outputs) or store.exists(f"{folder}/replay.json"):
        log.info("replay: %s", "reused" if store.exists(f"{folder}/replay.json") else "nothing asks for it")
        return folder
    model = fetch_model(store, night.model, night.model_files, settings.model.cache)
    module, coordinates = model.adapter().module(), _coordinates(night)
    followed = whole_size(module, replace(coordinates, sides=0))
    log.info("replay: %d weights are followed, as %d numbers", followed, whole_size(module, coordinates))
    with open_cluster(settings.cluster) as client:
        here = _Here(store, night, load_plan(store, folder), settings, client, recipe(store, night, settings), model)
        rates, weights = nodes(how["nodes"])
        shared = _Replay(
            made=here.made,
            snapshots=_snapshots(here),
            optimiser=optimiser_of(model),
            examples=night.frozen_corpus(store).examples,
            rates=tuple(rates.tolist()),
            weights=tuple(weights.tolist()),
            kept=tuple(how["checkpoints"]),
            numbers=how["numbers"],
            coordinates=coordinates,
        )
        sketched = _sketches(here, shared)
        worth = _stream_values(here, shared, sketched)
    low, high = min(worth.cosines.values()), max(worth.cosines.values())
    log.info("replay: everybody's stands at a cosine of %.2f to %.2f with the real run", low, high)
    if low < FOLLOWS:
        log.warning("replay: it does not follow the real run, and what it says of works may be wrong; audit it")
    write_worth(store, folder, worth, reads=[*shared.snapshots.values(), *sketched.values()])
    return folder


def write_worth(store: Store, folder: str, worth: Worth, *, reads: Sequence[str] = ()) -> None:
    """Put down what the replay of a night has found of its outputs; its values are there from then on.

    Args:
        reads: the snapshots and sketches that it rests on.
    """
    tensors = {"ends": worth.ends, "at_nodes": worth.at_nodes, "by_checkpoint": worth.mean[0], "by_node": worth.mean[1]}
    data = save_tensors(tensors)
    store.write(f"{folder}/{WORTH}", data)
    facts = {"examples": worth.examples, "cosines": worth.cosines, "push": worth.push}
    made = {"reads": sorted(reads), "writes": {WORTH: sha256(data)}}
    store.write(f"{folder}/replay.json", canonical_json(facts | made))


def _coordinates(night: Night) -> Projection:
    how = night.method["values"]
    return Projection(how["seed"], whole=True, sides=how["sides"])


def read_worth(store: Store, folder: str) -> Worth:
    """What the replay of a night has found of its outputs."""
    facts, data = store.read_json(f"{folder}/replay.json"), store.read(f"{folder}/{WORTH}")
    if sha256(data) != facts["writes"][WORTH]:
        expected = f"SHA-256 {facts['writes'][WORTH]}, as replay.json says"
        raise StoreError(store.locate(f"{folder}/{WORTH}"), expected=expected, found=sha256(data))
    tensors = load_tensors(data)
    mean = (tensors["by_checkpoint"], tensors["by_node"])
    return Worth(tensors["ends"], tensors["at_nodes"], mean, facts["push"], facts["examples"], facts["cosines"])


def _stream_values(here: _Here, shared: _Replay, sketched: Mapping[tuple[str, str], str]) -> Worth:
    """The outputs' derivatives, and with them every example's values.

    Args:
        sketched: by part and checkpoint, where the examples' gradients lie.
    """
    store, cluster = here.store, here.settings.cluster
    size = max(1, min(64, NUMBERS // whole_size(here.model.adapter().module(), shared.coordinates)))
    slices: list[_Slice] = []
    places: list[tuple[int, int, tuple[str, ...]]] = []
    start = 0
    for number, part in enumerate(part for part in here.night.outputs if part.rows):
        for at in range(0, part.rows, size):
            keys = tuple(f"{here.night.folder}/values/{number:06d}-{at:02d}-{n}.safetensors" for n in range(len(shared.rates)))
            count = min(size, part.rows - at)
            slices += [_Slice(part.sha256, at, start, count, node, key) for node, key in enumerate(keys)]
            places.append((start, count, keys))
            start += count
    slices.sort(key=lambda item: -item.node)  # the longest first
    at_nodes, ends = np.zeros((len(shared.rates), start)), np.zeros((2, start))
    cosines: dict[str, float] = {}
    found = compute(here.client, _differentiate, shared, slices, settings=cluster, what="derivatives of outputs")
    for item, (loss, at_ends, seen) in zip(slices, found, strict=True):
        at_nodes[item.node, item.begin : item.begin + item.count] = -loss
        ends[:, item.begin : item.begin + item.count] = -at_ends
        cosines = seen
    stream = Stream(store, cluster.device, here.night.folder, shared.kept, shared.weights, tuple(places), start)
    parts = [part.sha256 for part in here.night.frozen_corpus(store).shards if part.rows]
    items = [(part, tuple(sketched[part, checkpoint] for checkpoint in shared.kept)) for part in parts]
    *sums, push = compute_tree(here.client, stream_shard, stream, items, add_up, settings=cluster, what="values of examples")
    mean = (sums[0] / shared.examples, sums[1] / shared.examples)
    return Worth(ends, at_nodes, mean, common_push(push), shared.examples, cosines)


def optimiser_of(model: Model) -> Optimiser:
    """What took the steps of a model's run, as its card says; what it does not say is what is most common."""
    said = model.card.training
    kind = "sgd" if (said.optimizer or "adam").lower() == "sgd" else "adam"
    if said.optimizer is None or said.batch_size is None:
        log.warning("model.toml does not say the optimizer or its batch_size: taken for Adam, in batches of 32")
    betas = said.betas or (0.9, 0.999)
    return Optimiser(kind, said.batch_size or 32, betas[0], betas[1], said.eps or 1e-8)


def _snapshots(here: _Here) -> dict[str, str]:
    """By checkpoint, where what a replay needs of it lies; computed where the store lacks it."""
    store, night, plan, made, model = here.store, here.night, here.plan, here.made, here.model
    rows, coordinates = night.method["values"]["rows"], _coordinates(night)
    keys = {}
    for checkpoint in model.card.checkpoints:
        made_of = {
            "version": night.method["versions"]["values"],
            "architecture": model.architecture(),
            "weights": night.model_files[checkpoint.file],
            "sample": plan.sample.content_digest,
            "rows": rows,
            "projected": coordinates.sides and [coordinates.seed, coordinates.sides],
        }
        keys[checkpoint.file] = f"snapshots/{digest(made_of)}.safetensors"
    missing = [_Task(file, plan.sample.sha256, key) for file, key in keys.items() if not store.exists(key)]
    work = partial(_snapshot, rows=rows, coordinates=coordinates)
    for _ in compute(here.client, work, made, missing, settings=here.settings.cluster, what="snapshots of the run"):
        pass
    here.client.run(close_models)
    log.info("snapshots of the run: %d reused, %d computed", len(keys) - len(missing), len(missing))
    return keys


def _snapshot(made: Recipe, task: _Task, *, rows: int, coordinates: Projection) -> str:
    """Write what a replay needs of a checkpoint: the mean gradient of the sample, and of some of it more; returns the key.

    Of those some, the mean squared gradient, and a few rows that stand for the gradients for sampled targets.
    """
    adapter, module = made.open(task.checkpoint)
    frame = made.store.read_table(part_key(task.part), columns=["example_id", "content"])
    chosen = np.unique(np.linspace(0, frame.height - 1, min(FISHER, frame.height)).astype(np.int64))
    others = np.setdiff1d(np.arange(frame.height), chosen)
    few = frame[chosen]
    size = whole_size(module, coordinates)
    how: dict[str, Any] = {"projection": coordinates, "checkpoint": task.checkpoint, "batch_size": BATCH}
    gradient: np.ndarray = np.zeros(size)
    square: np.ndarray = np.zeros(size)
    drawn: np.ndarray = np.empty((few.height, size), dtype=np.float32)
    start = 0
    batches = whole_sampled(adapter, module, few["content"].to_list(), **how)
    for data, sampled in batches:
        gradient += to_numpy(data.sum(axis=0))
        square += to_numpy((data**2).sum(axis=0))
        drawn[start : start + data.shape[0]] = to_numpy(sampled)
        start += data.shape[0]
    if len(others):
        rest = frame[others]["content"].to_list()
        gradient += whole_sum(adapter, module, rest, projection=coordinates, batch_size=made.batch_size)
    held = few_rows(drawn, rows, np.stack([_signs(example, rows) for example in few["example_id"]], axis=1))
    scale = float(np.abs(held).max()) or 1.0
    tensors: dict[str, np.ndarray] = {
        "gradient": (gradient / frame.height).astype(np.float32),
        "square": (square / few.height).astype(np.float32),
        "curvature": (held / scale).astype(np.float16),
        "scale": np.asarray([scale / few.height**0.5]),
    }
    made.store.write(task.key, save_tensors(tensors))
    return task.key


def _signs(example: str, rows: int) -> np.ndarray:
    """Random signs of an example."""
    seed = int.from_bytes(hashlib.sha256(example.encode()).digest()[:16])
    drawn = np.random.Generator(np.random.Philox(seed)).integers(0, 2, rows)
    signs: np.ndarray = (2 * drawn - 1).astype(np.float32)
    return signs


def add_up(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """What `stream_shard` returns of several shards, together."""
    *sums, push = zip(*parts, strict=True)
    return (*(np.sum(np.stack(side), axis=0) for side in sums), np.concatenate(push))


@lru_cache(maxsize=1)
def _read_snapshots(url: str, options: tuple[tuple[str, str], ...], keys: tuple[str, ...]) -> list[dict[str, np.ndarray]]:
    """Read once by each worker's process."""
    store = Store(url, dict(options))
    found = []
    for key in keys:
        tensors = load_tensors(store.read(key))
        tensors["curvature"] = tensors["curvature"].astype(np.float32) * np.float32(tensors.pop("scale")[0])
        found.append(tensors)
    return found


def _differentiate(replay: _Replay, item: _Slice) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Write queries for every checkpoint kept: a row for each output, and one for what works push all of them.

    Returns:
        losses at the node, losses at both ends of the run, and the cosine with the real run by checkpoint.
    """
    made, store = replay.made, replay.made.store
    xp = namespace_of(made.device)
    contents = store.read_table(part_key(item.part))["content"].slice(item.start, item.count).to_list()
    model = fetch_model(store, made.model, made.model_files, made.cache)
    card = model.card.checkpoints
    rate, last = replay.rates[item.node], len(card) - 1
    (low,), _ = between(np.array([rate * card[-1].learning_rate_sum]), np.array([c.learning_rate_sum for c in card]))
    options = tuple(sorted(store.options.items()))
    stored = _read_snapshots(store.url, options, tuple(replay.snapshots[checkpoint.file] for checkpoint in card))
    base: np.ndarray | None = None
    marks, ends = [], []
    for at, checkpoint in enumerate(card):
        adapter, module = made.open(checkpoint.file)
        stands = whole_position(module, replay.coordinates)
        base = stands if base is None else base
        loss, slope = np.zeros(item.count), xp.zeros((item.count, len(stands)), dtype=xp.float32)[:0, :]
        if at in {0, low, low + 1, last}:
            loss = all_losses(adapter, module, contents, batch_size=BATCH)
        if at in {low, low + 1}:
            how = {"projection": replay.coordinates, "checkpoint": checkpoint.file, "batch_size": made.batch_size}
            slope = xp.asarray(whole_gradients(adapter, module, contents, **how))
        if at in {0, last}:
            ends.append(loss)
        known = {name: xp.asarray(tensor) for name, tensor in stored[at].items()}
        marks.append(
            Snapshot(checkpoint.step, checkpoint.learning_rate_sum, xp.asarray(stands - base), slope=slope, loss=loss, **known)
        )
    run = Run(marks, replay.optimiser, xp.asarray(spread(module, replay.coordinates)))
    path = run.path()
    node = differentiate(run, rate, replay.weights[item.node], path)
    tensors: dict[str, np.ndarray] = {}
    for at, checkpoint in enumerate(card):
        of_gradient, push = node.slopes.of_gradient[at], node.push.of_gradient[at]
        if checkpoint.file in replay.kept and of_gradient is not None:
            scale = metric(marks[at].square)
            rows = xp.concat([of_gradient, push], axis=0)
            rows = xp.where(scale > 0, rows / xp.where(scale > 0, scale, 1 + 0 * scale), 0 * rows)
            kept = sketch(rows, replay.numbers, seed=replay.coordinates.seed, checkpoint=checkpoint.file)
            tensors[checkpoint.file] = np.ascontiguousarray(to_numpy(kept)) / np.float32(replay.examples)
    store.write(item.key, save_tensors(tensors or {"nothing": np.zeros(1)}))
    return (
        node.loss,
        np.stack(ends),
        {checkpoint.file: _cosine(path, mark) for checkpoint, mark in zip(card[1:], marks[1:], strict=True)},
    )


def _cosine(path: tuple[Array, np.ndarray], mark: Snapshot) -> float:
    """Between where everybody's replay stands and where the real run did."""
    stands = path[0][int(np.argmin(np.abs(path[1] - mark.clock))), :]
    one, two = to_numpy(stands).astype(np.float64), to_numpy(mark.position).astype(np.float64)
    sizes = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / sizes if sizes else 0.0


def metric(square: Array) -> Array:
    """By how much coordinates are scaled before they are projected: by their mean square to the power -3/8.

    Between the optimiser's own metric (-1/4 on either side) and whitening (-1/2), which both lose more. A coordinate that no
    example of the sample moves is left out: derivatives there are large, and mean nothing.
    """
    xp = namespace(square)
    alive = square > 0
    found: Array = xp.where(alive, xp.maximum(square, TINY * xp.mean(square)) ** -0.375, 0 * square)
    return found


def _sketches(here: _Here, shared: _Replay) -> dict[tuple[str, str], str]:
    """By shard and checkpoint kept, where every example's gradient lies, projected; computed where the store lacks it."""
    store, corpus = here.store, here.night.frozen_corpus(here.store)
    keys: dict[tuple[str, str], str] = {}
    for checkpoint in shared.kept:
        for part in corpus.shards:
            made_of = {
                "version": here.night.method["versions"]["values"],
                "snapshot": shared.snapshots[checkpoint],
                "checkpoint": checkpoint,
                "content": part.content_digest,
                "numbers": shared.numbers,
                "seed": shared.coordinates.seed,
            }
            keys[part.sha256, checkpoint] = f"sketches/{digest(made_of)}.safetensors"
    there = set(store.list("sketches"))
    missing = [_Task(checkpoint, part, key) for (part, checkpoint), key in keys.items() if key not in there]
    name = "whole gradients of examples"
    for _ in compute(
        here.client, _sketch_one, shared, missing, settings=here.settings.cluster, what=name, name=lambda task: task.part
    ):
        pass
    here.client.run(close_models)
    log.info("whole gradients of examples: %d shards reused, %d computed", len(keys) - len(missing), len(missing))
    return keys


def _sketch_one(shared: _Replay, task: _Task) -> str:
    """Write a shard's projected gradients as 8-bit numbers, a scale for each example; returns the key."""
    made = shared.made
    adapter, module = made.open(task.checkpoint)
    contents = made.store.read_table(part_key(task.part), columns=["content"])["content"].to_list()
    snapshot = load_tensors(made.store.read(shared.snapshots[task.checkpoint]))
    scale = metric(namespace_of(made.device).asarray(snapshot["square"]))
    found = np.zeros((len(contents), shared.numbers), dtype=np.float32)
    how: dict[str, Any] = {"projection": shared.coordinates, "checkpoint": task.checkpoint, "batch_size": BATCH}
    for places, rows in whole_batches(adapter, module, contents, **how):
        kept = sketch(rows * scale, shared.numbers, seed=shared.coordinates.seed, checkpoint=task.checkpoint)
        found[places] = to_numpy(kept)
    largest = np.maximum(np.abs(found).max(axis=1, keepdims=True), np.float32(1e-30))
    codes = np.rint(found / largest * LARGEST).astype(np.int8)
    made.store.write(task.key, save_tensors({"codes": codes, "scale": (largest / LARGEST).astype(np.float32)}))
    return task.key


def stream_shard(stream: Stream, item: tuple[str, tuple[str, ...]]) -> tuple[np.ndarray, ...]:
    """Write the values of every example of a shard, and what it pushes; returns the sums of the values, and the pushes."""
    part, keys = item
    xp = namespace_of(stream.device)
    turned: list[Array] = []
    by_node: Any = 0.0
    push: Any = 0.0
    for checkpoint, key in zip(stream.kept, keys, strict=True):
        stored = load_tensors(stream.store.read(key))
        rows = xp.asarray(stored["codes"].astype(np.float32) * stored["scale"])
        at_nodes = np.zeros((len(stream.weights), stream.outputs, rows.shape[0]), dtype=np.float32)
        for begin, size, queries in stream.slices:
            for node, query in enumerate(queries):
                known = _read_query(stream.store.url, tuple(sorted(stream.store.options.items())), query)
                if checkpoint in known:
                    found = to_numpy(xp.asarray(known[checkpoint]) @ xp.matrix_transpose(rows))
                    at_nodes[node, begin : begin + size] = found[:size]
                    push = push + stream.weights[node] * found[size]
        turned.append(np.tensordot(np.asarray(stream.weights, dtype=np.float32), at_nodes, 1))
        by_node = by_node + at_nodes
    by_checkpoint = np.stack(turned)
    tensors = {"by_checkpoint": by_checkpoint, "by_node": by_node, "push": push}
    stream.store.write(values_key(stream.folder, part), save_tensors(tensors))
    return by_checkpoint.sum(axis=2, dtype=np.float64), by_node.sum(axis=2, dtype=np.float64), push


@lru_cache(maxsize=64)
def _read_query(url: str, options: tuple[tuple[str, str], ...], key: str) -> dict[str, np.ndarray]:
    """Read once by each worker's process."""
    found: dict[str, np.ndarray] = load_tensors(Store(url, dict(options)).read(key))
    return found


def every_value(store: Store, night: Night) -> tuple[list[str], np.ndarray]:
    """What every example adds to every output, by the derivative alone: nothing is kept back yet.

    Returns:
        example ids in the order of the shards, and `(outputs, examples)`.
    """
    worth = read_worth(store, night.folder)
    longer = (worth.ends[1] - worth.ends[0]) / worth.examples - worth.mean[0].sum(axis=0)
    examples: list[str] = []
    found = []
    for part in night.frozen_corpus(store).shards:
        if part.rows:
            examples += store.read_table(part.key, columns=["example_id"])["example_id"].to_list()
            turned = load_tensors(store.read(values_key(night.folder, part.sha256)))["by_checkpoint"].astype(np.float64)
            found.append(turned.sum(axis=0) + longer[:, None])
    return examples, np.concatenate(found, axis=1)


def values_key(folder: str, part: str) -> str:
    """Where every example's values of a shard lie."""
    return f"{folder}/values/{part}.safetensors"
