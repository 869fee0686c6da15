"""Measures the cost of a night as ratios of two times, taken in turns on one machine, so that they compare across machines."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from threadpoolctl import threadpool_limits

from provenance.core.arrays import namespace_of
from provenance.core.settings import Settings
from provenance.core.where import Where
from provenance.corpus.shards import read_part
from provenance.features.featurise import Featuriser, featurise_one, featuriser, read_features
from provenance.features.gradients import gradient_features
from provenance.features.plan import comparisons_of, load_plan
from provenance.features.stage import featurise, plan
from provenance.influence.methods import queries_from_tensors
from provenance.influence.methods import score as score_rows
from provenance.influence.night_scores import query_key
from provenance.inputs.frozen import PART_OUTPUTS
from provenance.inputs.night import Night
from provenance.local.attribute import Request, attribute, folder_night, score_every_example
from provenance.models.model import all_losses, examples_in, forward_and_backward
from provenance.royalty import estimate as numerics
from provenance.royalty.outcomes import Outcomes
from provenance.validation import scale, scale_night

# Timings of each side of a ratio; the ratio is that of the medians.
ROUNDS = 7
# Examples of the memory part's smaller corpus, enough for the whole sample of the curvature; the size factor of the larger one.
SMALL, LARGER = 768, 10
# Royalty part: owners and outputs of each case, counterfactual models, and components of influence.
CASES, MODELS, COMPONENTS = ((10_000, 500), (10_000, 1_000)), 64, 10

OpenWorkers = Callable[..., AbstractContextManager[Where]]


@dataclass(frozen=True)
class Setup:
    """The arguments of a measurement.

    Attributes:
        request: with a folder that is removed afterwards.
        settings, open_workers, examples: the arguments of `bench`.
    """

    request: Request
    settings: Settings
    open_workers: OpenWorkers
    examples: int = 0

    @contextmanager
    def alone(self) -> Iterator[tuple[Where, Night]]:
        """The request's night, on one worker in this process and one thread."""
        with self.open_workers(alone(self.settings)) as where, threadpool_limits(limits=1):
            local, night = folder_night(where, self.request)
            begin(local, night)  # computes on one thread from now on, as a worker does
            yield local, night


def bench(
    request: Request, settings: Settings, parts: Sequence[str], open_workers: OpenWorkers, *, examples: int = 0
) -> dict[str, Any]:
    """The figures of some of `PARTS`; every time is in seconds.

    Args:
        request: the inputs; nothing is written to its folder.
        settings: the settings of `attribute`.
        open_workers: opens the workers of some settings, and no ledger unless `ledger=True`; it can be sent to a process.
        examples: of the deliveries that the parts `ingest` and `scale` make up.
    """
    machine = {"cores": len(os.sched_getaffinity(0)), "device": settings.cluster.device, "torch": torch.__version__}
    figures: dict[str, Any] = {"machine": machine}
    for name in parts:
        with tempfile.TemporaryDirectory(prefix="provenance-bench-") as folder:
            figures[name] = PARTS[name](Setup(replace(request, out=Path(folder)), settings, open_workers, examples))
    return figures


def _features(setup: Setup) -> dict[str, Any]:
    """CPU time of a shard's features against a bare forward and backward pass on the same batches, on one thread."""
    checkpoints: dict[str, dict[str, Any]] = {}
    with setup.alone() as (local, night):
        store = local.store
        plan(local, night.folder)
        planned = load_plan(store, night.folder)
        maker = featuriser(local, night, planned)
        for source in planned.sources:
            file = planned.of(source)[0][0]
            examples = examples_in(read_part(store, file.part, "content", "prompt"))
            adapter, module = maker.open(source)
            times = _in_turns(
                bare=partial(forward_and_backward, adapter, module, examples, maker.batch_size),
                features=partial(gradient_features, adapter, module, examples, **maker.passes(source)),
                written=partial(featurise_one, maker, file),
            )
            stored = sum(array.nbytes for array in load_tensors(store.read(file.key)).values())
            checkpoints[source] = {
                "examples": file.rows,
                "forward_and_backward": times["bare"],
                "features": times["features"],
                "features_normalisers_and_writing": times["written"],
                "bytes_per_example": round(stored / file.rows),
            }
    total = {name: sum(row[name] for row in checkpoints.values()) for name in next(iter(checkpoints.values()))}
    return {
        "checkpoints": checkpoints,
        "features_ratio": total["features"] / total["forward_and_backward"],
        "written_ratio": total["features_normalisers_and_writing"] / total["forward_and_backward"],
        "bytes_per_example": max(row["bytes_per_example"] for row in checkpoints.values()),
    }


def _scoring(setup: Setup) -> dict[str, Any]:
    """Time of a shard's scores against a dense product of as many numbers, examples and outputs (64 at most), on one thread.

    `numbers` are the stored ones of a row; `width` is the length of a row that is not sparse.
    """
    with setup.alone() as (local, night):
        score_every_example(local, night)
        store, device = local.store, local.settings.cluster.device
        planned, xp = load_plan(store, night.folder), namespace_of(device)
        checkpoints = {}
        for number, source in enumerate(planned.sources):
            file = planned.of(source)[0][0]
            tensors = load_tensors(store.read(query_key(night.folder, 0, number)))
            queries = queries_from_tensors(comparisons_of(night)[file.kind], tensors, xp)
            rows, outputs = read_features(store, file, device), queries.table.values.shape[2]
            numbers = rows.dense.size + rows.sparse.values.size
            left = xp.asarray(np.random.default_rng(1).random((rows.examples, numbers // rows.examples), dtype=np.float32))
            right = xp.asarray(np.random.default_rng(2).random((left.shape[1], outputs), dtype=np.float32))
            times = _in_turns(product=partial(xp.matmul, left, right), scores=partial(score_rows, queries, rows))
            width = rows.dense.shape[1] + rows.sparse.vocabulary * rows.sparse.values.shape[1]
            shape = {"examples": rows.examples, "outputs": outputs, "numbers": left.shape[1], "width": width}
            checkpoints[source] = shape | times
    product = sum(row["product"] for row in checkpoints.values())
    return {"checkpoints": checkpoints, "ratio": sum(row["scores"] for row in checkpoints.values()) / product}


def _memory(setup: Setup) -> dict[str, Any]:
    """Peak memory of attribution on the CPU, in MB, for a small corpus and a larger one, each in a process of its own."""
    settings, request = setup.settings, setup.request
    influence = settings.influence.model_copy(update={"method": "fitted", "checkpoints": 1})
    cluster = settings.cluster.model_copy(update={"address": "", "device": "cpu", "workers": 1, "processes": False})
    settings = settings.model_copy(update={"influence": influence, "cluster": cluster})
    peaks = {}
    for times in (1, LARGER):
        corpus = request.out / f"corpus-{times}"
        _copy_corpus(request.corpus, corpus, times)
        part = replace(request, corpus=corpus, out=request.out / f"out-{times}")
        _, peaks[times] = _in_new_process(_attribute_with, setup.open_workers, settings, part)
    ratio = peaks[LARGER] / peaks[1]
    return {"examples": SMALL, "times": LARGER, "peak": peaks[1], "peak_larger": peaks[LARGER], "ratio": ratio}


def _attribute_with(open_workers: OpenWorkers, settings: Settings, request: Request) -> None:
    with open_workers(settings) as where:
        attribute(where, request)


def _in_new_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The result of a function in a new process, and the peak memory of that process, in MB."""
    result: tuple[Any, float] = scale.in_new_process(_with_peak, function, *arguments)
    return result


def _with_peak(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    result = function(*arguments)
    # Read in the child: getrusage of children in the parent is never less than the parent's own peak.
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    return result, peak


def _workers(setup: Setup) -> dict[str, Any]:
    """Time of the whole corpus' features with one worker and with two, in processes that have started."""
    times, settings, request = {}, setup.settings, setup.request
    for count in (1, 2):
        cluster = settings.cluster.model_copy(update={"workers": count, "processes": True})
        with setup.open_workers(settings.model_copy(update={"cluster": cluster})) as where:
            local, night = folder_night(where, replace(request, out=request.out / str(count)))
            plan(local, night.folder)
            begin(local, night, night.checkpoints)
            start = time.perf_counter()
            featurise(local, night.folder)
            times[count] = time.perf_counter() - start
    return {"one": times[1], "two": times[2], "ratio": times[1] / times[2]}


def _night(setup: Setup) -> dict[str, Any]:
    """Time of a night with everything new, and of the next night with the same corpus, model and outputs."""
    times, request = [], setup.request
    with setup.open_workers(setup.settings) as where:
        for later in (0, 1):
            local, night = folder_night(where, replace(request, day=request.day + timedelta(days=later)))
            begin(local, night)
            start = time.perf_counter()
            score_every_example(local, night)
            times.append(time.perf_counter() - start)
    return {"everything_new": times[0], "nothing_new": times[1], "ratio": times[1] / times[0]}


def _royalty(setup: Setup) -> dict[str, Any]:
    """Time and peak memory of the estimate on random counterfactual models, without the request's corpus, on one thread."""
    del setup
    cases = []
    for owners, outputs in CASES:
        case, peak = _in_new_process(_royalty_of, owners, outputs)
        cases.append(case | {"peak_mb": peak})
    half, whole = cases[0]["shares"], cases[1]["shares"]
    return {"cases": cases, "twice_as_many_outputs": whole / half}


def _royalty_of(owners: int, outputs: int) -> dict[str, Any]:
    """One case: fit, then shares with intervals, in the blocks of outputs of a night."""
    with threadpool_limits(limits=1):
        models = made_up_models(owners, outputs, MODELS)
        blocks = [np.arange(start, min(start + PART_OUTPUTS, outputs)) for start in range(0, outputs, PART_OUTPUTS)]

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


def made_up_models(owners: int, outputs: int, models: int) -> Outcomes:
    """Random outcomes of counterfactual models: one partition in eight, the others in two."""
    draws = np.random.default_rng(owners)
    size = draws.dirichlet(np.full(owners, 5.0))
    halves = (_random_parts(draws, owners, 2) for _ in range((models - 8) // 2))
    inside = np.concatenate([_random_parts(draws, owners, 8), *halves])
    effect = draws.standard_normal((owners, 1)) / np.sqrt(owners)
    value = (inside @ size)[:, None] * 100 + (inside - (inside @ size)[:, None]) @ effect
    value = value + 0.1 * draws.standard_normal((models, outputs))
    return Outcomes(inside, np.arange(models), value, np.zeros(outputs), np.full(outputs, 100.0), size, inside @ size)


def _random_parts(draws: np.random.Generator, owners: int, parts: int) -> np.ndarray:
    """A random partition of the owners, `(parts, owners)`: 0 or 1."""
    return np.eye(parts)[draws.permutation(owners) % parts].T


def _likelihoods(setup: Setup) -> dict[str, Any]:
    """CPU time of a forward pass over the outputs, as each counterfactual model takes it, against forward and backward."""
    with setup.alone() as (local, night):
        adapter, module = featuriser(local, night).open(night.checkpoints[-1])
        outputs = examples_in(night.read_outputs(local.store))
        size = local.settings.features.batch_size
        times = _in_turns(
            bare=partial(forward_and_backward, adapter, module, outputs, size),
            forward=partial(all_losses, adapter, module, outputs, batch_size=size),
        )
    return {**times, "ratio": times["forward"] / times["bare"]}


def _ingest(setup: Setup) -> dict[str, Any]:
    """Cost of an ingest with one worker and with two, each in a process of its own; and of the reference, in one loop."""
    work = setup.request.out / "delivered"
    scale.deliver(work / "corpus", setup.examples)
    figures: dict[str, Any] = {"examples": setup.examples}
    for workers in (1, 2):
        folder = setup.request.out / f"with-{workers}"
        folder.mkdir()
        (folder / "corpus").symlink_to(work / "corpus")
        figures[f"workers_{workers}"] = scale.in_new_process(scale.ingest, folder, setup.settings, setup.open_workers, workers)
    figures["reference"] = scale.in_new_process(scale.reference, work)
    one, two = figures["workers_1"], figures["workers_2"]
    for loop in ("one_by_one", "by_file"):
        figures[f"ratio_{loop}"] = one["processor"] / figures["reference"][loop]["processor"]
    return figures | {"ratio_workers": one["seconds"] / two["seconds"], "same_corpus": one["corpus"] == two["corpus"]}


def _scale(setup: Setup) -> dict[str, Any]:
    """Cost of every stage of a night, from the delivery to the reconciled export, on a ledger of its own."""
    open_all = partial(setup.open_workers, ledger=True)
    return scale_night.scale(setup.request.out, setup.settings, open_all, setup.examples)


PARTS = {
    "features": _features,
    "scoring": _scoring,
    "memory": _memory,
    "workers": _workers,
    "night": _night,
    "likelihoods": _likelihoods,
    "royalty": _royalty,
    "ingest": _ingest,
    "scale": _scale,
}


def _in_turns(**sides: Callable[[], object]) -> dict[str, float]:
    """Median time of each side, timed in turns, so that other load on the machine affects all sides.

    With a GPU it is wall-clock time until the GPU is done; otherwise CPU time.
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


def begin(where: Where, night: Night, checkpoints: Sequence[str] = ()) -> None:
    """Start every worker, which takes time once, and open some checkpoints on each."""
    maker = featuriser(where, night)
    for _ in where.workers.map(_open_all, maker, [()], what="starting workers"):
        pass
    where.workers.everywhere(partial(_open_all, maker, tuple(checkpoints)))


def _open_all(maker: Featuriser, checkpoints: Sequence[str]) -> None:
    for checkpoint in checkpoints:
        maker.open(checkpoint)


def alone(settings: Settings) -> Settings:
    """The settings with one worker, in this process."""
    return settings.model_copy(update={"cluster": settings.cluster.model_copy(update={"workers": 1, "processes": False})})


def _copy_corpus(corpus: Path, to: Path, times: int) -> None:
    """Write a corpus of the first `SMALL` examples, repeated."""
    to.mkdir()
    for file in corpus.glob("*.parquet"):
        frame = pl.read_parquet(file)
        if file.name == "examples.parquet":
            few = frame.head(SMALL).drop("example_id", strict=False).with_row_index("row")
            copies = [few.with_columns(example_id=pl.format("{}-{}", pl.lit(at), "row")) for at in range(times)]
            frame = pl.concat(copies).drop("row")
        frame.write_parquet(to / file.name)
