"""Read the examples of a delivery piece by piece on the workers, so that a delivery is never held whole.

    scratch/ingest/<id>/00012/facts.parquet         what is known of a piece's examples, without contents and prompts
    scratch/ingest/<id>/00012/leaf-003.parquet      those that models are trained on, in the order of shards
    scratch/ingest/<id>/00012/values, bands-0, ...  their sketches, in the same order

A piece is a stretch of rows of one delivered file. However a delivery is cut into pieces, the corpus has the same digest. The
files are scratch: they are removed at the end, and housekeeping removes what a killed run leaves.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np
import polars as pl

from provenance.core.checks import rows_from, stack
from provenance.core.store import Store
from provenance.core.tables import EXAMPLES
from provenance.core.where import Where
from provenance.corpus.delivery import (
    Corpus,
    check_rows,
    check_together,
    examples_root,
    find_examples,
    identities,
    with_stated,
    with_tables,
)
from provenance.corpus.duplicates import BANDS_AT_ONCE, GROUPS, bands_of
from provenance.corpus.layout import ORDER, Rows, brief, labels, marks
from provenance.corpus.shards import with_tokens
from provenance.corpus.sketches import PERMUTATIONS, runs_of, sketch

SCRATCH = "scratch/ingest"
# Rows of a piece, and bytes of a file for each of its pieces.
PIECE_ROWS, PIECE_BYTES = 2**15, 2**26
# Rows of a leaf, and bytes of its contents.
LEAF_ROWS, LEAF_BYTES = 2**10, 2**25
# Of an example, what is not kept among the facts.
CONTENTS = ("content", "prompt")
IN_TRAINING = pl.col("split") == "train"


@dataclass(frozen=True)
class Slice:
    """Some rows of a delivered file."""

    key: str
    number: int
    first: int
    rows: int


@dataclass(frozen=True, eq=False)
class Piece:
    """A checked piece in scratch, with the sketches of its examples (`duplicates.Sketched`).

    Attributes:
        file: the delivered file, for errors.
        leaves: rows of each leaf; only examples that models are trained on.
        columns: an empty frame with the columns of the leaves.
    """

    store: Store
    folder: str
    file: str
    leaves: tuple[int, ...]
    columns: pl.DataFrame

    @property
    def examples(self) -> int:
        """The number of examples in leaves."""
        return sum(self.leaves)

    def read_facts(self) -> pl.DataFrame:
        """What is known of the examples: of those in leaves, in their order, and then of those held out."""
        return self.store.read_table(f"{self.folder}/facts.parquet")

    def read_leaf(self, number: int, *columns: str) -> pl.DataFrame:
        """The examples of a leaf, or some of their columns."""
        return self.store.read_table(f"{self.folder}/leaf-{number:03d}.parquet", columns=columns)

    def read_values(self) -> np.ndarray:
        """See `Sketched`; those of the last few pieces stay in memory."""
        return _values(self.store, self.folder).reshape(self.examples, PERMUTATIONS)

    def read_bands(self, group: int) -> np.ndarray:
        """See `Sketched`."""
        data = np.frombuffer(self.store.read(f"{self.folder}/bands-{group}"), dtype=np.uint64)
        return data.reshape(self.examples, BANDS_AT_ONCE)

    def keep_runs(self, rows: np.ndarray) -> None:
        """See `Sketched`; writes them to a file."""
        runs: list[np.ndarray] = []
        for leaf, (first, end) in enumerate(pairwise(np.cumsum([0, *self.leaves]))):
            own = rows[(rows >= first) & (rows < end)] - first
            if len(own):
                chosen = self.read_leaf(leaf, "content", "modality")[own]
                for modality, alike in groupby(chosen.iter_rows(), key=itemgetter(1)):
                    runs += runs_of([content for content, _ in alike], modality)
        head = np.concatenate([[len(rows)], rows, np.cumsum([0, *map(len, runs)])]).astype(np.uint64)
        self.store.write(f"{self.folder}/runs", np.concatenate([head, *runs]).tobytes())

    def read_runs(self) -> Callable[[int], np.ndarray]:
        """See `Sketched`; those of the last few pieces stay in memory."""
        return _runs(self.store, self.folder)


@lru_cache(maxsize=64)
def _values(store: Store, folder: str) -> np.ndarray:
    return np.frombuffer(store.read(f"{folder}/values"), dtype=np.uint16)


@lru_cache(maxsize=16)
def _runs(store: Store, folder: str) -> Callable[[int], np.ndarray]:
    data = np.frombuffer(store.read(f"{folder}/runs"), dtype=np.uint64)
    count = int(data[0])
    rows, ends, runs = data[1 : count + 1], data[count + 1 : 2 * count + 2].astype(np.int64), data[2 * count + 2 :]
    places = {row: slice(start, end) for row, (start, end) in zip(rows.tolist(), pairwise(ends), strict=True)}
    return lambda row: runs[places[row]]


@dataclass(frozen=True)
class Stretch:
    """Some examples, as rows of leaves: `piece, leaf, rows`."""

    places: tuple[tuple[int, int, Rows], ...]


@dataclass(frozen=True, eq=False)
class Leaves:
    """The contents of a corpus, in the leaves of its pieces.

    Attributes:
        columns: an empty frame with the columns of all pieces.
    """

    pieces: tuple[Piece, ...]
    columns: pl.DataFrame

    @cached_property
    def names(self) -> list[tuple[int, int]]:
        """The piece and the number of each leaf."""
        return [(at, leaf) for at, piece in enumerate(self.pieces) for leaf in range(len(piece.leaves))]

    @cached_property
    def starts(self) -> np.ndarray:
        """The place at which each leaf begins, and the end of the last."""
        return np.cumsum([0, *(rows for piece in self.pieces for rows in piece.leaves)])

    def stretch(self, places: np.ndarray) -> Stretch:
        """Where some examples lie, by their places in all leaves, one after another."""
        names, starts, places = self.names, self.starts, np.sort(places)
        of = np.searchsorted(starts, places, side="right") - 1
        cuts = np.flatnonzero(np.diff(of, prepend=-1, append=len(names)))
        return Stretch(tuple((*names[of[a]], brief(places[a:b] - starts[of[a]])) for a, b in pairwise(cuts)))

    def read(self, stretch: Stretch) -> pl.DataFrame:
        """The examples of a stretch, in the order of shards, with all columns of the corpus."""
        frames = [self.pieces[piece].read_leaf(leaf)[rows] for piece, leaf, rows in stretch.places]
        return pl.concat([self.columns, *frames], how="diagonal_relaxed").sort(*ORDER, nulls_last=True)


def _columns(pieces: Sequence[Piece]) -> pl.DataFrame:
    """An empty frame with the columns of all pieces; ContractError if an extra column has several kinds of type."""
    by_file: dict[str, pl.DataFrame] = {}
    for piece in pieces:
        by_file.setdefault(piece.file, piece.columns)
    return stack(EXAMPLES, by_file)


@contextmanager
def read_pieces(where: Where, folder: str) -> Iterator[Corpus]:
    """Read and check a delivery as `delivery.read_corpus` does, on the workers; its contents can be read meanwhile.

    Examples have no contents and prompts, but `identity` (`delivery.identities`), `mark` and `labels` (`corpus.layout`),
    `bytes`, `runs` (`Sketches.runs`) and, unless they are held out, `place` among all leaves, one after another.
    """
    store, scratch = where.store, f"{SCRATCH}/{uuid.uuid4().hex}"
    try:
        slices = _cut(store, find_examples(store, folder))
        shared = (store, examples_root(folder), scratch)
        pieces = tuple(where.workers.map(_check, shared, slices, what="pieces of the delivery", name=lambda own: own.key))
        contents = Leaves(pieces, _columns(pieces))
        examples = check_together(_read_facts(pieces), store.locate(examples_root(folder)))
        yield replace(with_tables(store, folder, examples), contents=contents)
    finally:
        store.remove_folder(scratch)


def _read_facts(pieces: Sequence[Piece]) -> pl.DataFrame:
    """What is known of all examples, in the order of the delivery, with their places among the leaves."""
    place = pl.when(IN_TRAINING).then(IN_TRAINING.cum_sum().cast(pl.Int64) - 1)
    facts = pl.concat([piece.read_facts() for piece in pieces])
    return facts.with_columns(place=place).sort("piece", "row").drop("piece", "row")


def _cut(store: Store, keys: Sequence[str]) -> list[Slice]:
    """Cut files into slices of about equal size."""
    slices: list[Slice] = []
    for key in keys:
        rows = store.count_rows(key)
        parts = max(1, -(-rows // PIECE_ROWS), -(-store.size(key) // PIECE_BYTES))
        for first, end in pairwise(rows * part // parts for part in range(parts + 1)):
            slices.append(Slice(key, len(slices), first, end - first))
    return slices


def _check(shared: tuple[Store, str, str], own: Slice) -> Piece:
    """Check a slice, and write its facts, leaves and sketches."""
    store, root, scratch = shared
    file, folder = store.locate(own.key), f"{scratch}/{own.number:05d}"
    with rows_from(own.first):
        frame = check_rows(with_stated(store, store.read_rows(own.key, own.first, own.rows), own.key, root, EXAMPLES), file)
    frame = frame.with_row_index("row").sort(~IN_TRAINING, *ORDER, nulls_last=True)
    train = with_tokens(frame.filter(IN_TRAINING).drop("row"))
    sketches = sketch(train["content"].to_list(), train["modality"].to_list())
    store.write(f"{folder}/values", sketches.values.tobytes())
    for group in range(GROUPS):
        store.write(f"{folder}/bands-{group}", bands_of(sketches, group).tobytes())
    leaves = list(_leaves(train))
    for number, leaf in enumerate(leaves):
        store.write_table(f"{folder}/leaf-{number:03d}.parquet", leaf)
    runs = pl.Series("runs", sketches.runs, dtype=pl.UInt8).extend_constant(0, frame.height - train.height)
    facts = frame.select(name for name in EXAMPLES.columns if name not in CONTENTS).with_columns(
        frame["row"].cast(pl.Int64),
        runs,
        pl.Series("identity", identities(frame), dtype=pl.String),
        marks(frame),
        labels(train).extend_constant(None, frame.height - train.height),
        frame["content"].bin.size().cast(pl.Int64).alias("bytes"),
        piece=pl.lit(own.number),
    )
    store.write_table(f"{folder}/facts.parquet", facts)
    return Piece(store, folder, file, tuple(leaf.height for leaf in leaves), train.clear())


def _leaves(train: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut examples into leaves of limited size."""
    ends = train["content"].bin.size().cum_sum().to_numpy()
    start = 0
    while start < train.height:
        before = int(ends[start - 1]) if start else 0
        end = min(
            start + LEAF_ROWS, max(start + 1, int(np.searchsorted(ends, before + LEAF_BYTES, side="right"))), train.height
        )
        yield train[start:end]
        start = end
