"""What part of a corpus has its features computed when one per cent of it is new or withdrawn.

    .venv/bin/python bench/growth.py [--examples 20000] [--shard 384] [--nights 50] [--small 12]

Ingests a made-up corpus of a hundred owners, and then, each on top of it, deliveries that differ by one per cent of the
examples: works of one owner, whose ids stand together, or works anywhere. Prints JSON: the part of examples that lie in shards
whose contents the corpus in force did not have. A feature file is named by the contents of its shard, so these are the examples
whose features the next night computes (`pytest tests/features/test_growth.py` holds it against real nights). Then some are new
each night, anywhere: what that costs together, and how large the shards are in the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from provenance.core.settings import CorpusSettings, Settings
from provenance.core.store import Store
from provenance.core.where import Where
from provenance.corpus import stage
from provenance.corpus.shards import CURRENT, FrozenCorpus, corpus_in_force

OWNERS, WORDS, BEGINNING = 100, 40, datetime(2026, 1, 1, tzinfo=UTC)
# A work: its owner, its number among all works ever made up, and what its texts say.
Work = tuple[int, int, str]


@dataclass(frozen=True)
class Bench:
    """A store to ingest into, and the number of examples of a work."""

    where: Where
    each: int

    def ingest(self, works: Iterable[Work]) -> tuple[FrozenCorpus, float]:
        """Ingest some works; returns the corpus and the part of its examples whose features are new."""
        store = self.where.store
        known = {part.content_digest for part in corpus_in_force(store).shards} if store.exists(CURRENT) else set()
        store.write_table("corpus/examples.parquet", self.delivery(works))
        stage.ingest(self.where)
        corpus = corpus_in_force(store)
        return corpus, sum(part.rows for part in corpus.shards if part.content_digest not in known) / corpus.examples

    def beside(self, works: Iterable[Work]) -> float:
        """As `ingest`, for a delivery that is taken back."""
        before = self.where.store.read(CURRENT)
        part = self.ingest(works)[1]
        self.where.store.write(CURRENT, before)
        return round(part, 4)

    def delivery(self, works: Iterable[Work]) -> pl.DataFrame:
        """The examples of some works."""
        rows = []
        for owner, number, says in works:
            name = f"owner-{owner:03d}"
            for at in range(self.each):
                draws = np.random.default_rng([owner, number, at])
                text = says + " ".join(f"w{word}" for word in draws.integers(10_000, size=WORDS))
                rows.append(
                    (f"{name}/work-{_scattered(number)}", at, text.encode(), name, f"https://example.org/{number}/{at}")
                )
        names = ["work_id", "position", "content", "owner_id", "source_uri"]
        frame = pl.DataFrame(rows, schema=names, orient="row")
        return frame.with_columns(licence_spdx=pl.lit("MIT"), acquired_at=pl.lit(BEGINNING))


def _scattered(number: int) -> str:
    """An id of a work that stands anywhere among the others."""
    return f"{np.random.default_rng(number).integers(10**9):09d}"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=384, help="examples in a shard, about")
    parser.add_argument("--nights", type=int, default=50, help="nights of one per cent each")
    parser.add_argument("--small", type=int, default=12, help="nights of a quarter of one per cent each")
    asked = parser.parse_args()
    report = {f"works of {each}": of_works(each, asked) for each in (1, 20)}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def of_works(each: int, asked: argparse.Namespace) -> dict[str, object]:
    """The report on a corpus of works of `each` examples."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(corpus=CorpusSettings(folder="corpus", shard_examples=asked.shard))
        bench = Bench(Where(settings, Store(f"file://{folder}", {})), each)
        count = asked.examples // each
        some = max(1, count // 100)
        works = [(at % OWNERS, at, "") for at in range(count)]
        anywhere = set(np.random.default_rng(1).permutation(count)[:some].tolist())
        new = [(at % OWNERS, at, "") for at in range(count, count + some)]
        bench.ingest(works)
        report: dict[str, object] = {
            "the same again": bench.beside(works[::-1]),
            "new, of one owner": bench.beside([*works, *((OWNERS // 2, number, "") for _, number, _ in new)]),
            "new, anywhere": bench.beside([*works, *new]),
            "rewritten, anywhere": bench.beside([(o, n, "Now " if n in anywhere else "") for o, n, _ in works]),
            "withdrawn, of one owner": bench.beside([work for work in works if work[0] != OWNERS // 2]),
            "withdrawn, one work": bench.beside(works[1:]),
            "withdrawn, anywhere": bench.beside([work for work in works if work[1] not in anywhere]),
        }
        start = bench.where.store.read(CURRENT)
        report["one per cent each night"], after = of_nights(bench, works, asked.nights, some)
        report["an owner withdraws after these"] = bench.beside([work for work in after if work[0] != OWNERS // 2])
        bench.where.store.write(CURRENT, start)
        report["a quarter of one per cent each night"], _ = of_nights(bench, works, asked.small, max(1, some // 4))
        return report


def of_nights(bench: Bench, works: Sequence[Work], nights: int, some: int) -> tuple[dict[str, object], list[Work]]:
    """What nights cost that bring some works each, anywhere, and the works after them."""
    first = corpus = corpus_in_force(bench.where.store)
    parts, computed, now = [], 0.0, list(works)
    for _ in range(nights):
        now += [(at % OWNERS, at, "") for at in range(len(now), len(now) + some)]
        corpus, part = bench.ingest(now)
        parts.append(part)
        computed += part * corpus.examples
    sizes = sorted(part.rows for part in corpus.shards)
    report: dict[str, object] = {
        "nights": nights,
        "new examples each": some * bench.each,
        "computed for each new example": round(computed / max(1, corpus.examples - first.examples), 2),
        "computed in a night, mean and most": [round(sum(parts) / max(1, nights), 4), round(max(parts, default=0), 4)],
        "shards before and after": [len(first.shards), len(corpus.shards)],
        "smallest shards": sizes[:2],
    }
    return report, now


if __name__ == "__main__":
    main()
