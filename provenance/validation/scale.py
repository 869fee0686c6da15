"""Measures what an ingest costs by the number of works, on deliveries that are made up.

    provenance bench --parts ingest --examples 1000000

Texts are words of a made-up language with the frequencies of a real one (Zipf), 500 bytes each; one in twenty is a near copy.
The reference reads the same files, hashes every content, and makes its MinHash by the same library, in one loop.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rensa import RMinHash

from provenance.core.settings import Settings
from provenance.core.where import Where
from provenance.corpus import stage
from provenance.corpus.shards import corpus_in_force
from provenance.corpus.sketches import PERMUTATIONS, RUN, SEED, sketch

OWNERS, COPIES, BYTES = 10_000, 0.05, 500
# Rows of a delivered file; words of the language, and changed words of a copy.
FILE_ROWS, VOCABULARY, CHANGED = 50_000, 20_000, 4
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
OpenWorkers = Callable[[Settings], AbstractContextManager[Where]]


def deliver(folder: Path, examples: int) -> None:
    """Write a delivery of texts, file by file, with owners in the examples."""
    (folder / "examples.parquet").mkdir(parents=True)
    for number, first in enumerate(range(0, examples, FILE_ROWS)):
        rows = min(FILE_ROWS, examples - first)
        texts(first, rows).write_parquet(folder / f"examples.parquet/part-{number:04d}.parquet")


def texts(first: int, rows: int) -> pl.DataFrame:
    """Some rows of a delivery, from the number `first` on; copies are of texts of the same file."""
    draws, words = np.random.default_rng([1, first]), _vocabulary()
    often = 1 / (np.arange(len(words)) + 2.7)
    chosen = words[draws.choice(len(words), size=(rows, BYTES // 4), p=often / often.sum())]
    for copy in np.flatnonzero(draws.random(rows) < COPIES)[1:]:
        chosen[copy] = chosen[draws.integers(copy)]
        chosen[copy, draws.integers(BYTES // 8, size=CHANGED)] = words[draws.integers(len(words), size=CHANGED)]
    owners = (draws.random(rows) ** 2 * OWNERS).astype(int)
    names = [f"owner-{owner:05d}" for owner in owners]
    return pl.DataFrame(
        {
            "example_id": [f"e{first + row:09d}" for row in range(rows)],
            "work_id": [f"{name}/work-{first + row:09d}" for row, name in enumerate(names)],
            "content": [" ".join(text)[:BYTES].encode() for text in chosen],
            "owner_id": names,
            "source_uri": [f"https://example.org/{name}/{first + row}" for row, name in enumerate(names)],
            "licence_spdx": [("MIT", "CC-BY-4.0", "Apache-2.0")[owner % 3] for owner in owners],
            "acquired_at": [BEGINNING + timedelta(days=int(owner) % 300) for owner in owners],
        }
    )


def _vocabulary() -> np.ndarray:
    draws = np.random.default_rng(1)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    often = 1 / (np.arange(len(letters)) + 3)
    sizes = np.sort(draws.integers(2, 11, size=VOCABULARY) + draws.integers(0, 4, size=VOCABULARY)).clip(2, 12)
    return np.array(["".join(draws.choice(letters, size=size, p=often / often.sum())) for size in sizes], dtype=object)


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and of the processor; peak memory of this process and of the largest worker, in MB.

    Attributes:
        pace: seconds of the processor for a fixed piece of work, just before and after: a machine is not equally fast all day.
    """

    seconds: float
    processor: float
    memory: float
    worker_memory: float
    pace: float


def measured(function: Callable[[], object]) -> Cost:
    """The cost of a function that starts its own workers; to be called in a process of its own."""
    first = _pace()
    start, before = time.perf_counter(), _processor()
    function()
    seconds, processor = time.perf_counter() - start, _processor() - before
    own, workers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Cost(seconds, processor, own, workers, (first + _pace()) / 2)


def _pace() -> float:
    """Seconds of the processor to sort, hash and add up the same numbers, and for a loop of Python: about half a second."""
    numbers = np.random.default_rng(1).random(2**20)
    start, total = time.process_time(), 0
    for _ in range(12):
        hashlib.sha256(np.sort(numbers).tobytes()).digest()
        (numbers * numbers).sum()
        for number in range(2**20):
            total += number
    return time.process_time() - start


def _processor() -> float:
    """Seconds of the processor that this process and its ended children took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def ingest(folder: Path, settings: Settings, open_workers: OpenWorkers, workers: int) -> dict[str, Any]:
    """Ingest the delivery below a folder with some workers, processes of this machine; returns cost and corpus."""
    cluster = settings.cluster.model_copy(update={"address": "", "workers": workers, "processes": True})

    def run() -> None:
        with open_workers(settings.model_copy(update={"cluster": cluster})) as where:
            stage.ingest(where.at(folder))

    cost = measured(run)
    corpus = corpus_in_force(settings.at(folder).store.open())
    return vars(cost) | {"corpus": corpus.digest, "shards": len(corpus.shards), "bytes": _bytes(folder)}


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, whose memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _bytes(folder: Path) -> dict[str, int]:
    """Bytes below each folder of a store."""
    kinds = {path.relative_to(folder).parts[0] for path in folder.glob("*/*")}
    return {kind: sum(f.stat().st_size for f in (folder / kind).rglob("*") if f.is_file()) for kind in sorted(kinds)}


def reference(folder: Path) -> dict[str, Any]:
    """Read, hash and sketch all contents: one after another, and a file at a time as the ingest does."""

    def one_by_one() -> None:
        for content in _contents(folder):
            hashlib.sha256(content).hexdigest()
            plain = " ".join(content.decode(errors="replace").casefold().split())
            size = RUN["text"]
            minhash = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
            minhash.update([plain[at : at + size] for at in range(len(plain) - size + 1)])
            minhash.digest()

    def by_file() -> None:
        for file in _files(folder):
            contents = pl.read_parquet(file, columns=["content"])["content"].to_list()
            for content in contents:
                hashlib.sha256(content).hexdigest()
            sketch(contents, ["text"] * len(contents))

    return {"one_by_one": vars(measured(one_by_one)), "by_file": vars(measured(by_file))}


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "corpus/examples.parquet").glob("*.parquet"))


def _contents(folder: Path) -> Iterator[bytes]:
    for file in _files(folder):
        yield from pl.read_parquet(file, columns=["content"])["content"]
