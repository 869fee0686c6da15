"""What part of a corpus has its features computed anew when one per cent of it is new, by the place of the new works.

    .venv/bin/python bench/growth.py [--examples 100000] [--shard 384]

Shards are cut in the order of work ids, and a shard with a new work is computed as a whole. Prints JSON: the part of all
examples that lie in such shards, where the ids of new works stand together (those of one owner, or of one day), and where they
stand anywhere among the others, for works of one, twenty and a hundred examples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys

import polars as pl

from provenance.corpus.shards import cut


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--shard", type=int, default=384, help="examples in a shard, about")
    asked = parser.parse_args()
    report = {}
    for each in (1, 20, 100):
        draws, works = random.Random(1), asked.examples // each  # noqa: S311
        before, anywhere = ([f"{draws.random():.12f}" for _ in range(count)] for count in (works, works // 100))
        together = [f"{0.5 + at * 1e-9:.12f}" for at in range(works // 100)]
        known = shards(before, each, asked.shard)
        report[f"works of {each}"] = {
            name: round(part_outside(known, shards([*before, *new], each, asked.shard)), 3)
            for name, new in (("together", together), ("anywhere", anywhere))
        }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def shards(works: list[str], each: int, size: int) -> dict[str, int]:
    """Shards of works of `each` examples: number of examples by the digest of their names."""
    rows = [
        (work, f"{work}:{at}", at, hashlib.sha256(f"{work}:{at}".encode()).hexdigest()) for work in works for at in range(each)
    ]
    frame = pl.DataFrame(rows, schema=["work_id", "example_id", "position", "content_sha256"], orient="row")
    return {hashlib.sha256("".join(shard["example_id"]).encode()).hexdigest(): shard.height for shard in cut(frame, size)}


def part_outside(known: dict[str, int], now: dict[str, int]) -> float:
    """The part of the examples that lie in shards that are not known."""
    return sum(rows for name, rows in now.items() if name not in known) / sum(now.values())


if __name__ == "__main__":
    main()
