"""What a night costs, as ratios of two times taken turn by turn on one machine: such figures mean the same everywhere."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from threadpoolctl import threadpool_limits

from provenance.core.arrays import namespace_of
from provenance.corpus.shards import part_key
from provenance.features.featurise import Recipe, featurise, featurise_one, read_features, recipe
from provenance.features.gradients import gradient_features
from provenance.features.plan import compared, load_plan, shard
from provenance.influence.methods import queries_from_tensors
from provenance.influence.methods import score as score_rows
from provenance.influence.score import query_key
from provenance.inputs.freeze import AT_A_TIME
from provenance.local.attribute import Request, attribute, opened, score_every_example
from provenance.models.model import all_losses, forward_and_backward
from provenance.royalty import estimate as numerics
from tasks.cluster import open_cluster
from tasks.settings import Settings

# Each side of a ratio is timed so often, turn by turn; the ratio is that of the medians.
ROUNDS = 7
# Examples of the memory part's smaller corpus, enough for the whole sample of the curvature, and how much larger the other is.
SMALL, LARGER = 768, 10
# Of the royalty part: owners and outputs of each case, counterfactual models, and components of influence.
CASES, MODELS, COMPONENTS = ((10_000, 500), (10_000, 1_000)), 64, 10


def bench(request: Request, settings: Settings, parts: Sequence[str]) -> dict[str, Any]:
    """The figures of the parts that are asked for, of `PARTS`; every time is in seconds.

    Args:
        request: what to compute; nothing is left in its folder.
        settings: as for `attribute`.
    """
    found: dict[str, Any] = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "device": settings.cluster.device, "torch": torch.__version__}
    }
    for name in parts:
        with tempfile.TemporaryDirectory(prefix="provenance-bench-") as folder:
            found[name] = PARTS[name](replace(request, out=Path(folder)), settings)
    return found


def _features(request: Request, settings: Settings) -> dict[str, Any]:
    """CPU time of a shard's features against a bare forward and backward pass on the same batches, on one thread."""
    found: dict[str, Any] = {"checkpoints": {}}
    with opened(request, alone(settings)) as (here, night), threadpool_limits(limits=1):
        store = here.store.open()
        shard(night.folder, here)
        plan, made = load_plan(store, night.folder), recipe(store, night, here)
        for source in plan.sources:
            file = plan.of(source)[0][0]
            contents = store.read_table(part_key(file.part), columns=["content"])["content"].to_list()
            adapter, module = made.open(source)
            where: dict[str, Any] = {"projection": made.projection, "checkpoint": source, "batch_size": made.batch_size}
            times = _turn_by_turn(
                bare=partial(forward_and_backward, adapter, module, contents, made.batch_size),
                features=partial(gradient_features, adapter, module, contents, **where),
                written=partial(featurise_one, made, file),
            )
            stored = sum(array.nbytes for array in load_tensors(store.read(file.key)).values())
            found["checkpoints"][source] = {
                "examples": file.rows,
                "forward_and_backward": times["bare"],
                "features": times["features"],
                "features_normalisers_and_writing": times["written"],
                "bytes_per_example": round(stored / file.rows),
            }
    every = found["checkpoints"].values()
    spent = sum(each["forward_and_backward"] for each in every)
    found["features_ratio"] = sum(each["features"] for each in every) / spent
    found["written_ratio"] = sum(each["features_normalisers_and_writing"] for each in every) / spent
    found["bytes_per_example"] = max(each["bytes_per_example"] for each in every)
    return found


def _scoring(request: Request, settings: Settings) -> dict[str, Any]:
    """Time of a shard's scores against a dense product of as many numbers, examples and outputs (64 at most), on one thread.

    The numbers are those that are stored; `width` is how many a row would have if it were not sparse.
    """
    with opened(request, alone(settings)) as (here, night), threadpool_limits(limits=1):
        score_every_example(night, here)
        store = here.store.open()
        plan, xp = load_plan(store, night.folder), namespace_of(here.cluster.device)
        found = {}
        for number, source in enumerate(plan.sources):
            file = plan.of(source)[0][0]
            tensors = load_tensors(store.read(query_key(night.folder, 0, number)))
            queries = queries_from_tensors(compared(night)[file.kind], tensors, xp)
            rows, outputs = read_features(store, file, here.cluster.device), queries.table.values.shape[2]
            numbers = rows.dense.size + rows.sparse.values.size
            left = xp.asarray(np.random.default_rng(1).random((rows.examples, numbers // rows.examples), dtype=np.float32))
            right = xp.asarray(np.random.default_rng(2).random((left.shape[1], outputs), dtype=np.float32))
            times = _turn_by_turn(product=partial(xp.matmul, left, right), scores=partial(score_rows, queries, rows))
            width = rows.dense.shape[1] + rows.sparse.vocabulary * rows.sparse.values.shape[1]
            shape = {"examples": rows.examples, "outputs": outputs, "numbers": left.shape[1], "width": width}
            found[source] = shape | times
    product = sum(each["product"] for each in found.values())
    return {"checkpoints": found, "ratio": sum(each["scores"] for each in found.values()) / product}


def _memory(request: Request, settings: Settings) -> dict[str, Any]:
    """Peak memory of attribution on the CPU, in MB, for a small corpus and a larger one, each in a process of its own."""
    influence = settings.influence.model_copy(update={"method": "fitted", "checkpoints": 1})
    cluster = settings.cluster.model_copy(update={"address": "", "device": "cpu", "workers": 1, "processes": False})
    asked = settings.model_copy(update={"influence": influence, "cluster": cluster})
    peaks = {}
    for times in (1, LARGER):
        corpus = request.out / f"corpus-{times}"
        _copy_corpus(request.corpus, corpus, times)
        _, peaks[times] = _apart(attribute, replace(request, corpus=corpus, out=request.out / f"out-{times}"), asked)
    return {
        "examples": SMALL,
        "times": LARGER,
        "peak": peaks[1],
        "peak_larger": peaks[LARGER],
        "ratio": peaks[LARGER] / peaks[1],
    }


def _apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns in a process of its own, and the peak memory of that, in MB."""
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(_with_its_peak, function, *arguments).result()


def _with_its_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    found = function(*arguments)
    # Its own word: what a parent is told of a child's peak is never less than the parent's.
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    return found, peak


def _workers(request: Request, settings: Settings) -> dict[str, Any]:
    """Time of the whole corpus' features with one worker and with two, in processes that have begun."""
    times = {}
    for count in (1, 2):
        cluster = settings.cluster.model_copy(update={"workers": count, "processes": True})
        asked = settings.model_copy(update={"cluster": cluster})
        with opened(replace(request, out=request.out / str(count)), asked) as (here, night):
            shard(night.folder, here)
            with open_cluster(here.cluster) as client:
                made, workers = recipe(here.store.open(), night, here), client.scheduler_info()["workers"]
                begun = [client.submit(_begin, made, night.checkpoints, workers=[worker], pure=False) for worker in workers]
                client.gather(begun)
            start = time.perf_counter()
            featurise(night.folder, here)
            times[count] = time.perf_counter() - start
    return {"one": times[1], "two": times[2], "ratio": times[1] / times[2]}


def _night(request: Request, settings: Settings) -> dict[str, Any]:
    """Time of a night on which everything is new, and of the next, on which corpus, model and outputs are the same."""
    times = []
    for later in (0, 1):
        with opened(replace(request, day=request.day + timedelta(days=later)), settings) as (here, night):
            start = time.perf_counter()
            score_every_example(night, here)
            times.append(time.perf_counter() - start)
    return {"everything_new": times[0], "nothing_new": times[1], "ratio": times[1] / times[0]}


def _royalty(request: Request, settings: Settings) -> dict[str, Any]:
    """Time and peak memory of the estimate on made-up counterfactual models, whatever the request's corpus, on one thread."""
    del request, settings
    cases = []
    for owners, outputs in CASES:
        case, peak = _apart(_royalty_of, owners, outputs)
        cases.append(case | {"peak_mb": peak})
    half, whole = cases[0]["shares"], cases[1]["shares"]
    return {"cases": cases, "twice_as_many_outputs": whole / half}


def _royalty_of(owners: int, outputs: int) -> dict[str, Any]:
    """One case: fit, and shares with intervals, block by block of the outputs as a night takes them."""
    draws = np.random.default_rng(owners)
    with threadpool_limits(limits=1):
        size = draws.dirichlet(np.full(owners, 5.0))
        inside = np.concatenate([_made_up_parts(draws, owners, 8), *(_made_up_parts(draws, owners, 2) for _ in range(28))])
        effect = draws.standard_normal((owners, 1)) / np.sqrt(owners)
        value = (inside @ size)[:, None] * 100 + (inside - (inside @ size)[:, None]) @ effect
        value = value + 0.1 * draws.standard_normal((MODELS, outputs))
        models = numerics.Outcomes(
            inside, np.arange(MODELS), value, np.zeros(outputs), np.full(outputs, 100.0), size, inside @ size
        )
        blocks = [np.arange(start, min(start + AT_A_TIME, outputs)) for start in range(0, outputs, AT_A_TIME)]

        def influence(block: np.ndarray) -> np.ndarray:
            return np.random.default_rng(int(block[0])).standard_normal((COMPONENTS, owners, len(block)))

        clock, times = time.process_time, {}
        start = clock()
        projected = np.concatenate([numerics.project(models, influence(block)) for block in blocks], axis=2)
        times["project"], start = clock() - start, clock()
        fitted = numerics.fit(models, projected)
        times["fit"], start = clock() - start, clock()
        rule = numerics.rule_named("faithful", fitted)
        drawn = numerics.deviations(fitted, rule)
        for block in blocks:
            numerics.shares(fitted, rule, influence(block), block, drawn)
        times["shares"] = clock() - start
    return {"owners": owners, "outputs": outputs, "models": MODELS, "components": COMPONENTS, **times}


def _made_up_parts(draws: np.random.Generator, owners: int, parts: int) -> np.ndarray:
    """A random partition of the owners, `(parts, owners)`: 0 or 1."""
    return np.eye(parts)[draws.permutation(owners) % parts].T


def _likelihoods(request: Request, settings: Settings) -> dict[str, Any]:
    """CPU time of a forward pass over the outputs, which every counterfactual model takes, against a forward and a backward."""
    with opened(request, alone(settings)) as (here, night), threadpool_limits(limits=1):
        store = here.store.open()
        adapter, module = recipe(store, night, here).open(night.checkpoints[-1])
        contents = night.read_outputs(store)["content"].to_list()
        size = here.features.batch_size
        times = _turn_by_turn(
            bare=partial(forward_and_backward, adapter, module, contents, size),
            forward=partial(all_losses, adapter, module, contents, batch_size=size),
        )
    return {**times, "ratio": times["forward"] / times["bare"]}


PARTS = {
    "features": _features,
    "scoring": _scoring,
    "memory": _memory,
    "workers": _workers,
    "night": _night,
    "likelihoods": _likelihoods,
    "royalty": _royalty,
}


def _turn_by_turn(**sides: Callable[[], object]) -> dict[str, float]:
    """Median time of each side, timed in turns, so that what else the machine does falls on all alike.

    On a GPU it is the time until the GPU is done; without one the CPU's own time.
    """
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            start = clock()
            side()
            if gpu:
                torch.cuda.synchronize()
            times[name].append(clock() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _begin(made: Recipe, checkpoints: Sequence[str]) -> None:
    """What a fresh worker does once."""
    for checkpoint in checkpoints:
        made.open(checkpoint)


def alone(settings: Settings) -> Settings:
    """One worker, in this process."""
    return settings.model_copy(update={"cluster": settings.cluster.model_copy(update={"workers": 1, "processes": False})})


def _copy_corpus(corpus: Path, to: Path, times: int) -> None:
    """A corpus of the first examples, repeated so many times."""
    to.mkdir()
    for file in corpus.glob("*.parquet"):
        frame = pl.read_parquet(file)
        if file.name == "examples.parquet":
            few = frame.head(SMALL).drop("example_id", strict=False).with_row_index("row")
            copies = [few.with_columns(example_id=pl.format("{}-{}", pl.lit(at), "row")) for at in range(times)]
            frame = pl.concat(copies).drop("row")
        frame.write_parquet(to / file.name)
