"""What a night costs, as ratios of two times taken turn by turn on one machine: such figures mean the same everywhere."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from threadpoolctl import threadpool_limits

from provenance.core.arrays import namespace_of
from provenance.core.errors import CheckFailed
from provenance.core.money import PPB
from provenance.corpus.examples import Corpus, check_claims, check_examples
from provenance.corpus.shards import freeze_corpus, part_key
from provenance.features.gradients import gradient_features
from provenance.features.model import forward_and_backward
from provenance.influence.methods import queries_from_tensors
from provenance.influence.methods import score as score_rows
from provenance.royalty.contracts import Contract
from provenance.royalty.diagonal import nodes
from provenance.royalty.values import common_push
from tasks.attribute import Request, opened, score_every_example
from tasks.cluster import compute_tree, open_cluster
from tasks.featurise import featurise, featurise_one, read_features, recipe
from tasks.freeze import freeze_outputs
from tasks.night import VERSIONS, Night
from tasks.replay import Stream, Worth, add_up, stream_shard, write_worth
from tasks.score import query_key
from tasks.shard import chosen_method, load_plan, shard
from tasks.values import shares_by_value, sums_by_party

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distributed import Client

    from tasks.featurise import Recipe
    from tasks.settings import Settings

# Each side of a ratio is timed so often, turn by turn; the ratio is that of the medians.
ROUNDS = 7
# Examples of the memory part's smaller corpus, enough for the whole sample of the curvature, and how much larger the other is.
SMALL, LARGER = 768, 10
# Examples and outputs of the royalty part, and the examples, outputs and owners that it is extrapolated to.
STORED, OUTPUTS, LARGE = 8192, 100, (1_000_000, 1_000, 10_000)
FEW, MANY = 64, 4096  # owners

# The command line, leaving its own peak memory (kB) in a file; what a parent is told of a child's is never less than the
# parent's own.
TELLING_ITS_PEAK = r"""
import atexit, pathlib, re, sys
from tasks.cli import main
to, status = pathlib.Path(sys.argv.pop(1)), pathlib.Path("/proc/self/status")
atexit.register(lambda: to.write_text(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]))
main()
"""


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
            queries = queries_from_tensors(chosen_method(night).comparison[file.kind], tensors, xp)
            rows = read_features(store, file, here.cluster.device)
            numbers = rows.dense.size + rows.sparse.values.size
            left = xp.asarray(np.random.default_rng(1).random((rows.examples, numbers // rows.examples), dtype=np.float32))
            right = xp.asarray(np.random.default_rng(2).random((left.shape[1], queries.count), dtype=np.float32))
            times = _turn_by_turn(product=partial(xp.matmul, left, right), scores=partial(score_rows, queries, rows))
            width = rows.dense.shape[1] + rows.sparse.vocabulary * rows.sparse.values.shape[1]
            shape = {"examples": rows.examples, "outputs": queries.count, "numbers": left.shape[1], "width": width}
            found[source] = shape | times
    product = sum(each["product"] for each in found.values())
    return {"checkpoints": found, "ratio": sum(each["scores"] for each in found.values()) / product}


def _memory(request: Request, _settings: Settings) -> dict[str, Any]:
    """Peak memory of attribution on the CPU, in MB, for a small corpus and a larger one, each in a process of its own."""
    peaks = {}
    for times in (1, LARGER):
        corpus = request.out / f"corpus-{times}"
        _copy_corpus(request.corpus, corpus, times)
        peak = request.out / f"peak-{times}"
        command = [sys.executable, "-c", TELLING_ITS_PEAK, str(peak), "attribute", "--workers", "1", "--device", "cpu"]
        for name, path in (
            ("corpus", corpus), ("model", request.model), ("outputs", request.outputs), ("out", request.out / f"out-{times}"),
        ):  # fmt: skip
            command += [f"--{name}", str(path.resolve())]
        environment = os.environ | {"PROVENANCE_INFLUENCE__CHECKPOINTS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise CheckFailed(f"provenance attribute failed on the corpus of {times}: {done.stderr[-2000:]}")
        peaks[times] = int(peak.read_text()) / 1024
    return {
        "examples": SMALL,
        "times": LARGER,
        "peak": peaks[1],
        "peak_larger": peaks[LARGER],
        "ratio": peaks[LARGER] / peaks[1],
    }


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
    """Time of values, sums and shares over a synthetic feature store, whatever the request's corpus, on one thread.

    Of three cases the second has twice the first's examples, and the third as many but many more owners. Values and sums take
    a time for each example and output, sums and shares another for each owner and output: that is what tells what a large
    corpus takes.
    """
    few = settings.model_copy(update={"corpus": settings.corpus.model_copy(update={"shard_examples": 512})})
    cases = []
    for examples, owners in ((STORED, FEW), (2 * STORED, FEW), (2 * STORED, MANY)):
        here = alone(few).at(request.out / f"{examples}-{owners}")
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # whose peak memory is its own
            cases.append(fresh.submit(_royalty_of, here, examples, owners, OUTPUTS).result())
        shutil.rmtree(request.out / f"{examples}-{owners}")
    half, few_owners, many_owners = cases
    pairs, more = few_owners["examples"] * OUTPUTS, (MANY - FEW) * OUTPUTS
    per_example = {key: few_owners[key] / pairs for key in ("values", "sums")}
    per_owner = {key: max(0.0, many_owners[key] - few_owners[key]) / more for key in ("sums", "shares")}
    memory = max(0.0, many_owners["peak"] - few_owners["peak"]) * 2**20 / more
    n, q, o = LARGE
    seconds = {
        "values": per_example["values"] * n * q,
        "sums": per_example["sums"] * n * q + per_owner["sums"] * o * q,
        "shares": per_owner["shares"] * o * q,
    }
    return {
        "cases": cases,
        "twice_as_many_examples": {key: few_owners[key] / half[key] for key in ("values", "sums")},
        "values_ratio": few_owners["values"] / few_owners["product"],
        "seconds_per_example_and_output": per_example,
        "seconds_per_owner_and_output": per_owner,
        "bytes_per_owner_and_output": round(memory),
        "at": {"examples": n, "outputs": q, "owners": o},
        "hours_at": {key: taken / 3600 for key, taken in seconds.items()},
        "gigabytes_at": memory * o * q / 1e9,
    }


def _royalty_of(settings: Settings, examples: int, parties: int, outputs: int) -> dict[str, Any]:
    """One case: random sketches and queries; owners have works in turn."""
    with open_cluster(settings.cluster) as client, threadpool_limits(limits=1):
        return _synthetic(settings, client, (examples, parties, outputs))


def _synthetic(settings: Settings, client: Client, size: tuple[int, int, int]) -> dict[str, Any]:
    examples, parties, outputs = size
    store, draws = settings.store.open(), np.random.default_rng(examples)
    kept, (rates, weights), numbers = ("a", "b", "c", "d"), nodes(3), settings.royalty.numbers
    owners = [f"owner-{number:05d}" for number in range(parties)]
    works = [f"work-{number:07d}" for number in range(examples)]
    frame = pl.DataFrame({"work_id": works, "content": [work.encode() for work in works]}).with_columns(modality=pl.lit("text"))
    claims = pl.DataFrame({"work_id": works, "owner_id": [owners[at % len(owners)] for at in range(examples)]})
    corpus = Corpus(
        check_examples(frame, "synthetic"),
        check_claims(claims.with_columns(stake_ppb=pl.lit(PPB)), "synthetic"),
        pl.DataFrame({"owner_id": owners, "name": owners}),
    )
    frozen = freeze_corpus(store, corpus, shard_examples=settings.corpus.shard_examples)
    output_ids = [f"output-{number:04d}" for number in range(outputs)]
    contract = Contract(name="bench", developer_ppb=0)
    night = Night(
        day="2026-01-01",
        corpus=frozen.digest,
        outputs=freeze_outputs(store, pl.DataFrame({"output_id": output_ids})),
        model="",
        model_id="synthetic",
        model_files={},
        checkpoints=(),
        method={"versions": VERSIONS, "evidence": 3}
        | {"values": {"checkpoints": list(kept), "nodes": 3, "width": settings.royalty.width}},
        contract={"contracts": [contract.model_dump(mode="json")]},
    )
    slices = []
    for begin in range(0, outputs, 64):
        count = min(64, outputs - begin)
        keys = tuple(f"queries/{begin}-{node}.safetensors" for node in range(3))
        for key in keys:
            store.write(key, save_tensors({c: draws.standard_normal((count + 1, numbers), dtype=np.float32) for c in kept}))
        slices.append((begin, count, keys))
    items = []
    for part in frozen.shards:
        keys = tuple(f"sketches/{part.sha256}-{checkpoint}.safetensors" for checkpoint in kept)
        for key in keys:
            codes = draws.integers(-127, 128, (part.rows, numbers), dtype=np.int8)
            store.write(key, save_tensors({"codes": codes, "scale": np.ones((part.rows, 1), dtype=np.float32)}))
        items.append((part.sha256, keys))
    stream = Stream(store, "cpu", night.folder, kept, tuple(weights.tolist()), tuple(slices), outputs)
    left, right = (draws.standard_normal((size, numbers), dtype=np.float32) for size in (512, outputs))
    times: dict[str, float] = {}
    clock = time.process_time
    start = clock()
    for _ in range(examples // 512 * len(kept) * 3):
        left @ right.T
    times["product"] = clock() - start
    start = clock()
    *sums, push = compute_tree(client, stream_shard, stream, items, add_up, settings=settings.cluster, what="values")
    times["values"] = clock() - start
    mean = (sums[0] / examples, sums[1] / examples)
    ends = np.stack([np.zeros(outputs), np.full(outputs, 1e5)])
    at_nodes = np.outer(rates, ends[1])
    write_worth(store, night.folder, Worth(ends, at_nodes, mean, common_push(push), examples, {}))
    start = clock()
    found = sums_by_party(store, night, contract, output_ids, (client, settings.cluster))
    times["sums"] = clock() - start
    start = clock()
    shares_by_value(store, night, output_ids, found)
    times["shares"] = clock() - start
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]
    return {"examples": examples, "outputs": outputs, "owners": len(owners), "peak": peak, **times}


PARTS = {
    "features": _features,
    "scoring": _scoring,
    "memory": _memory,
    "workers": _workers,
    "night": _night,
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
