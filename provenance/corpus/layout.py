"""Decide which shard each example lies in, so that few features are computed when a corpus grows or shrinks by a part.

Features are computed shard by shard. So a shard stays as long as all its examples are there unchanged and it has half to twice
the nominal size. All other examples are cut into shards together, in the order of their works: those that are new, those of a
shard that has lost or changed one, and those of the shard at the end of the last cut, which may be small. So at most one shard
is smaller than half, however often a corpus grows. The content determines the cuts (content-defined chunking), so of a corpus
that is laid out for the first time a work that is added or withdrawn changes few shards.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from operator import xor

import numpy as np
import polars as pl

from provenance.corpus.delivery import identities

# Rows of a frame.
Rows = slice | np.ndarray
# The order of examples in a shard, and of works in a corpus.
ORDER = ("work_id", "position", "example_id")
# Columns whose values a mark has.
_MARKED = {*ORDER, "content", "prompt", "content_sha256"}


def cut(examples: pl.DataFrame, shard_examples: int) -> Iterator[pl.DataFrame]:
    """Cut examples, in the order of their works, into shards of about `shard_examples` (half to twice as many)."""
    ordered = examples.sort(*ORDER, nulls_last=True)
    for start, end in pairwise(cuts(ordered["content_sha256"], shard_examples)):
        yield ordered[start:end]


def cuts(contents: Iterable[str], shard_examples: int) -> list[int]:
    """Where shards begin, by the digests of ordered contents; and the end of the last."""
    smallest, largest = sizes(shard_examples)
    starts, end = [0], 0
    for end, content in enumerate(contents, 1):
        size = end - starts[-1]
        if size >= largest or (size >= smallest and int(content[:8], 16) % smallest == 0):
            starts.append(end)
    return starts if starts[-1] == end else [*starts, end]


def sizes(shard_examples: int) -> tuple[int, int]:
    """The fewest and the most examples of a shard; the last of a cut may have fewer."""
    return max(1, shard_examples // 2), 2 * shard_examples


def marks(examples: pl.DataFrame) -> pl.Series:
    """Digests, of 16 bytes, of what decides the places and features of examples: ids, position, content and prompt."""
    places = examples.select(*ORDER, pl.Series("identity", identities(examples), dtype=pl.String))
    return pl.Series(
        "mark", [hashlib.sha256(repr(place).encode()).digest()[:16] for place in places.iter_rows()], dtype=pl.Binary
    )


def labels(examples: pl.DataFrame) -> pl.Series:
    """Hashes of all that marks leave out, such as owner, licence and tokens; equal only within one version of Polars.

    An empty value counts as a missing column.
    """
    none = pl.lit(0, pl.UInt64)
    hashes = [
        pl.when(pl.col(name).is_null()).then(none).otherwise(pl.col(name).hash(zlib.crc32(name.encode())))
        for name in examples.columns
        if name not in _MARKED
    ]
    return examples.select(reduce(xor, hashes).alias("labels")).to_series()


def arrange(examples: pl.DataFrame, known: pl.DataFrame, shard_examples: int) -> list[tuple[int | None, np.ndarray]]:
    """Lay out examples.

    Args:
        examples: `mark, labels, content_sha256`, in order.
        known: `mark, labels, shard` of the examples of the shards that there are, each with all its examples.

    Returns:
        The rows of each shard, and the number of the known one that it is, labels included; None for a shard that must be
        written. Shards are in the order of their first examples.
    """
    smallest, largest = sizes(shard_examples)
    found = known.join(examples.select("mark", now="labels").with_row_index("row"), on="mark", how="left")
    stay = (
        found.group_by("shard")
        .agg(
            whole=pl.col("row").is_not_null().all() & pl.len().is_between(smallest, largest),
            same=pl.col("labels").eq_missing(pl.col("now")).all(),
        )
        .filter("whole")
    )
    kept = found.join(stay, on="shard")
    shard = np.full(examples.height, -1)
    shard[kept["row"].to_numpy()] = kept["shard"].to_numpy()
    rest = np.flatnonzero(shard < 0)
    first = int(known["shard"].to_numpy().max(initial=-1)) + 1
    for number, (start, end) in enumerate(pairwise(cuts(examples["content_sha256"].gather(rest), shard_examples)), first):
        shard[rest[start:end]] = number
    same = set(stay.filter("same")["shard"])
    rows = np.argsort(shard, kind="stable")
    groups = np.split(rows, np.flatnonzero(np.diff(shard[rows])) + 1) if len(rows) else []
    laid = [(int(shard[group[0]]), group) for group in sorted(groups, key=lambda group: int(group[0]))]
    return [(number if number in same else None, group) for number, group in laid]


def brief(rows: np.ndarray) -> Rows:
    """Ascending rows as a slice if they are neighbours, since tasks of the cluster carry them."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows.astype(np.uint32)
