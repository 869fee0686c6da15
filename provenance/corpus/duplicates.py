"""Find copies: examples with the same or nearly the same content, so that copying a work does not pay.

Pairs of contents whose sketches share a band are candidates (`corpus.sketches`). Those whose sketches are about as similar as
copies are compared run by run, so no estimate decides. The workers search band by band and compare piece by piece; the order
and the pieces in which examples come change nothing. A copy belongs to the most similar earlier example, and to that alone, so
that an example similar to two works does not join them. Clusters are data: a person may decide that an example is no copy, or
is the same as another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from provenance.core.checks import conform, reject, unique
from provenance.core.money import PPB, allocate
from provenance.core.store import Store
from provenance.core.tables import DECISIONS, DUPLICATES, is_unclaimed
from provenance.core.where import SerialWorkers, Workers
from provenance.core.words import MODALITIES
from provenance.corpus.delivery import identities, read_delivered
from provenance.corpus.sketches import ALIKE, BANDS, Sketches, estimates, jaccard, runs_of, sketch

# Bands that are joined at a time, to limit memory; they divide BANDS.
BANDS_AT_ONCE = 7
# Of contents that share a band, each is compared with so many of the earliest: a phrase that is everybody's makes no n squared.
EARLIEST = 64
# Estimates so much below the least similarity of copies are compared exactly: three of their standard errors.
MARGIN = 0.13
GROUPS = BANDS // BANDS_AT_ONCE


class Sketched(Protocol):
    """A piece of a corpus, with its sketches."""

    @property
    def examples(self) -> int:
        """The number of examples."""

    def read_values(self) -> np.ndarray:
        """The values of the sketches, (examples, 128) uint16."""

    def read_bands(self, group: int) -> np.ndarray:
        """The bands of a group, (examples, 7) uint64."""

    def keep_runs(self, rows: np.ndarray) -> None:
        """Make the runs of some examples ready to be read."""

    def read_runs(self) -> Callable[[int], np.ndarray]:
        """A function that gives the runs of each of those examples."""


@dataclass(frozen=True, eq=False)
class InMemory:
    """Contents in memory, with their sketches."""

    contents: Sequence[bytes]
    modalities: Sequence[str]
    sketches: Sketches

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.contents)

    def read_values(self) -> np.ndarray:
        """The values of the sketches."""
        return self.sketches.values

    def read_bands(self, group: int) -> np.ndarray:
        """The bands of a group."""
        return bands_of(self.sketches, group)

    def keep_runs(self, rows: np.ndarray) -> None:
        """Nothing: contents are at hand."""

    def read_runs(self) -> Callable[[int], np.ndarray]:
        """Makes the runs of an example."""
        return cache(lambda row: runs_of([self.contents[row]], self.modalities[row])[0])


def bands_of(sketches: Sketches, group: int) -> np.ndarray:
    """The bands of a group, (n, 7) uint64."""
    return sketches.bands[:, group * BANDS_AT_ONCE : (group + 1) * BANDS_AT_ONCE]


def find_duplicates(
    examples: pl.DataFrame,
    decisions: pl.DataFrame | None = None,
    *,
    sketched: Sequence[Sketched] = (),
    workers: Workers | None = None,
) -> pl.DataFrame:
    """Clusters of copies among examples.

    Args:
        examples: `example_id, content_sha256, modality, since` (`ownership.since`) and, optionally, `prompt` or `identity`;
            with `content` if nothing is sketched, else with `runs` (`Sketches.runs`).
        decisions: the duplicate decisions of the delivery, checked by `check_decisions`.
        sketched: the sketches of the examples, piece by piece in their order; by default they are made here.

    Returns:
        The duplicates table, one row for each example that has a copy.
    """
    if not sketched:
        sketches = sketch(examples["content"].to_list(), examples["modality"].to_list())
        own = InMemory(examples["content"].to_list(), examples["modality"].to_list(), sketches)
        examples, sketched = examples.with_columns(runs=pl.Series(sketches.runs)), [own]
    # Undated examples sort last and cannot claim priority.
    with_prompts = identities(examples) if "identity" not in examples.columns else examples["identity"]
    facts = examples.select("example_id", "content_sha256", "modality", "since", "runs").with_columns(
        pl.Series("identity", with_prompts, dtype=pl.String)
    )
    facts = facts.with_row_index("row").sort("since", "example_id", nulls_last=True)
    ids = facts["example_id"]
    rulings = pl.DataFrame(schema=DECISIONS.schema) if decisions is None else decisions
    place = dict(ids.to_frame().with_row_index("at").filter(_named(rulings)).select("example_id", "at").iter_rows())
    alone = [place[example] for example in rulings.filter(pl.col("same_as").is_null())["example_id"]]
    joined = {place[a]: place[b] for a, b in rulings.drop_nulls("same_as").select("example_id", "same_as").iter_rows()}
    found = _links(facts, np.array(alone, dtype=np.int64), joined, sketched, workers or SerialWorkers())
    links = dict(found) | dict.fromkeys(joined.items(), 1.0)
    if not links:
        return pl.DataFrame(schema=DUPLICATES.schema)
    pairs = np.asarray(list(links))
    linked, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    _, label = connected_components(coo_array((np.ones(len(places)), places.T), shape=(len(linked),) * 2), directed=False)
    alike = np.zeros(len(linked))
    np.maximum.at(alike, places, np.asarray(list(links.values()))[:, None])
    names = ids.gather(linked).to_list()
    reasons = {row["example_id"]: f"{row['decided_by']}: {row['reason']}" for row in rulings.iter_rows(named=True)}
    table = pl.DataFrame(
        {"example_id": names, "similarity": alike, "decision": [reasons.get(i, "") for i in names], "label": label}
    )
    clusters = table.filter(pl.len().over("label") > 1).with_columns(cluster_id=pl.col("example_id").min().over("label"))
    return clusters.select(*DUPLICATES.columns).sort("cluster_id", "example_id")


def _named(rulings: pl.DataFrame) -> pl.Expr:
    """Whether an example is named in decisions."""
    return pl.col("example_id").is_in(pl.concat([rulings["example_id"], rulings["same_as"].drop_nulls()]).implode())


def read_decisions(store: Store, folder: str, examples: pl.DataFrame) -> pl.DataFrame | None:
    """Read and check people's decisions about copies; None if none are delivered."""
    table, file = read_delivered(store, folder, "decisions")
    if table is None:
        return None
    decisions = conform(DECISIONS, table, file)
    check_decisions(decisions, examples, file)
    return decisions


def check_decisions(decisions: pl.DataFrame, examples: pl.DataFrame, file: str) -> None:
    """Raise ContractError if a decision names an unknown example, itself, or an example twice."""
    unique(DECISIONS, decisions, file)
    for column in ("example_id", "same_as"):
        unknown = ~pl.col(column).is_in(examples["example_id"].implode())
        reject(decisions, unknown, file, column, expected="an example that the model was trained on")
    same = pl.col("same_as") == pl.col("example_id")
    reject(decisions, same, file, "same_as", expected="another example", found="the same one")


def claimants(stakes: pl.DataFrame, *, rule: str) -> pl.DataFrame:
    """Divide each cluster among claimants: `cluster_id, account, party_id, stake_ppb`; stakes sum to 1e9 per cluster.

    Args:
        stakes: `cluster_id, work_id, account, party_id, stake_ppb, since` (a date or null), one row per party of each member.
        rule: `earliest`: the parties with the earliest claim (or, undated, the earliest acquired work), by
            stake; undated claims come after dated ones, and unclaimed works last. `equal`: the parties of all members, each
            member with the same weight.
    """
    if rule == "earliest":
        # Undated claims sort last and cannot claim priority.
        began = pl.col("since").fill_null(pl.date(9999, 12, 31))
        for key in (is_unclaimed(), began):
            stakes = stakes.filter(key == key.min().over("cluster_id"))
    weights = stakes.group_by("cluster_id", "account", "party_id").agg(weight=pl.col("stake_ppb").sum())
    rows = []
    for (cluster,), group in weights.sort("cluster_id", "account", "party_id").group_by("cluster_id", maintain_order=True):
        parts = allocate(PPB, group["weight"].to_list())
        rows.append(group.select(pl.lit(cluster).alias("cluster_id"), "account", "party_id", pl.Series("stake_ppb", parts)))
    return pl.concat(rows) if rows else weights.rename({"weight": "stake_ppb"})


def _links(
    facts: pl.DataFrame, alone: np.ndarray, joined: dict[int, int], sketched: Sequence[Sketched], workers: Workers
) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield `(original, copy), similarity` of places in `facts`; the original is earlier and is no copy itself.

    Args:
        facts: sorted, the earliest first, with `row`, the example's row among the sketches.
        alone: places of examples that are no copies by a person's decision.
        joined: places of examples that are copies by a person's decision, with those of which they are.
    """
    free = ~np.isin(np.arange(facts.height), alone)
    decided = np.isin(np.arange(facts.height), list(joined))
    # A short answer, such as a number, is nobody's until it is the answer to something.
    short = pl.col("modality").is_in(list(MODALITIES)) & (pl.col("runs") == 0)
    key = facts.select(pl.when(short).then("identity").otherwise("content_sha256"))["identity"]
    keys = pl.DataFrame({"key": key, "at": np.arange(facts.height), "free": free})
    first = keys.filter("free").unique("key", keep="first", maintain_order=True)["at"].to_numpy()
    is_first = np.zeros(facts.height, dtype=bool)
    is_first[first] = True
    searched = free & (facts["runs"].to_numpy() > 0) & (is_first | decided)
    similar = _similar_pairs(facts, searched, sketched, workers)
    # All others are originals that nothing is compared with.
    concerned = pl.Series(free) & (key.is_duplicated() | pl.Series(decided) | pl.Series(similar.concerned(facts.height)))
    originals, copies, since = set[int](), dict[int, list[int]](), facts["since"].to_list()
    first_of: dict[str, int] = {}
    for at in np.flatnonzero(concerned.to_numpy()).tolist():
        same = first_of.setdefault(key[at], at)
        if same != at and not decided[at]:
            yield (same, at), 1.0
            continue
        if not searched[at]:
            continue
        match = None if decided[at] else _original(similar, at, originals, copies, since)
        if match:
            original, alike = match
            first_of[key[at]] = original
            copies.setdefault(original, []).append(at)
            yield (original, at), alike
        else:
            originals.add(at)


@dataclass(frozen=True)
class _Similar:
    """Pairs of examples that are similar enough to be copies, by place.

    Attributes:
        before: of each later one, the earlier ones with their similarities, the most similar first.
        pairs: all of them, `(earlier, later)`.
    """

    before: dict[int, list[tuple[int, float]]]
    pairs: set[tuple[int, int]]

    def concerned(self, count: int) -> np.ndarray:
        """Whether an example is in a pair, (count,) bool."""
        found = np.zeros(count, dtype=bool)
        found[list({place for pair in self.pairs for place in pair})] = True
        return found


def _original(
    similar: _Similar, at: int, originals: set[int], copies: dict[int, list[int]], since: Sequence[date | None]
) -> tuple[int, float] | None:
    """The original of an example and their similarity; None if it is no copy."""
    for candidate, alike in similar.before.get(at, ()):
        if candidate not in originals:
            continue
        # Examples of the same day have no known order: a copy must also be similar to one of the other copies.
        others = copies.get(candidate, []) if since[candidate] == since[at] else []
        if not others or any((other, at) in similar.pairs for other in others):
            return candidate, alike
    return None


def _similar_pairs(facts: pl.DataFrame, searched: np.ndarray, sketched: Sequence[Sketched], workers: Workers) -> _Similar:
    """The pairs of examples whose similarity makes them copies: candidates band by band, compared piece by piece."""
    rows, starts = facts["row"].to_numpy(), np.cumsum([0, *(piece.examples for piece in sketched)])
    least = facts["modality"].replace_strict(ALIKE, default=1.0, return_dtype=pl.Float64).to_numpy()
    place, asked = np.empty(facts.height, dtype=np.uint32), np.zeros(facts.height, dtype=bool)
    place[rows] = np.arange(facts.height, dtype=np.uint32)
    asked[rows] = searched
    pieces, found = tuple(sketched), np.zeros(0, np.uint64)
    for more in workers.map(_candidates, _Join(pieces, place, asked), range(GROUPS), what="candidates for copies"):
        found = np.union1d(found, more)
    pairs = np.stack([found >> np.uint64(32), found & np.uint64(2**32 - 1)]).astype(np.int64)

    def compared(function: Callable[[_Pieces, np.ndarray], np.ndarray], pairs: np.ndarray, what: str) -> np.ndarray:
        """What a function gives of pairs, piece by piece of the later ones."""
        later = np.searchsorted(starts, rows[pairs[1]], side="right") - 1
        order = np.argsort(later, kind="stable")
        cuts = np.flatnonzero(np.diff(later[order], prepend=-1, append=-1))
        items = [rows[pairs[:, order[a:b]]].astype(np.uint32) for a, b in pairwise(cuts)]
        result = np.zeros(pairs.shape[1])
        result[order] = np.concatenate([np.zeros(0), *workers.map(function, _Pieces(pieces, starts), items, what=what)])
        return result

    about = compared(_estimate, pairs, "estimates for copies")
    pairs = pairs[:, about >= least[pairs[1]] - MARGIN]
    concerned = np.unique(rows[pairs])
    own = [concerned[(concerned >= a) & (concerned < b)] - a for a, b in pairwise(starts)]
    kept = [(piece, rows_of) for piece, rows_of in zip(sketched, own, strict=True) if len(rows_of)]
    for _ in workers.map(_keep_runs, None, kept, what="runs of candidates"):
        pass
    alike = compared(_jaccard, pairs, "comparisons for copies")
    before: dict[int, list[tuple[int, float]]] = {}
    enough = alike >= least[pairs[1]]
    (earlier, later), alike = pairs[:, enough], alike[enough]
    for at in np.lexsort((earlier, -alike)).tolist():
        before.setdefault(int(later[at]), []).append((int(earlier[at]), float(alike[at])))
    return _Similar(before, set(zip(earlier.tolist(), later.tolist(), strict=True)))


@dataclass(frozen=True, eq=False)
class _Join:
    """What the search for candidates needs to know of all examples: by row, their place, and whether they are searched."""

    sketched: tuple[Sketched, ...]
    place: np.ndarray
    asked: np.ndarray


def _candidates(shared: _Join, group: int) -> np.ndarray:
    """Pairs of examples that share a band of a group: the earlier place in the upper, the later in the lower 32 bits."""
    bands = np.concatenate([piece.read_bands(group) for piece in shared.sketched])[shared.asked]
    place, found = shared.place[shared.asked], [np.zeros(0, np.uint64)]
    for column in bands.T:
        band = pl.DataFrame({"hash": column, "place": place}).filter(pl.col("hash") != 0)
        band = band.filter(pl.col("hash").is_duplicated()).sort("hash", "place")
        earliest = band.filter(pl.int_range(pl.len()).over("hash") < EARLIEST)
        pairs = earliest.join(band, on="hash", suffix="_later").filter(pl.col("place") < pl.col("place_later"))
        packed = pairs.select(pl.col("place").cast(pl.UInt64) * 2**32 + pl.col("place_later").cast(pl.UInt64))
        found.append(np.unique(packed.to_series().to_numpy()))
    return np.unique(np.concatenate(found))


@dataclass(frozen=True, eq=False)
class _Pieces:
    """All pieces, with the row at which each begins, and the end of the last."""

    sketched: tuple[Sketched, ...]
    starts: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the pieces of some rows."""
        return np.searchsorted(self.starts, rows, side="right") - 1


def _blocks(shared: _Pieces, pairs: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """The pairs by their pieces: that of the earlier, that of the later, and which pairs."""
    earlier, later = shared.of(pairs[0]), shared.of(pairs[1])
    for one, other in sorted({*zip(earlier.tolist(), later.tolist(), strict=True)}):
        yield one, other, np.flatnonzero((earlier == one) & (later == other))


def _estimate(shared: _Pieces, pairs: np.ndarray) -> np.ndarray:
    """The estimated similarities of pairs of rows, (2, n)."""
    about = np.empty(pairs.shape[1])
    for one, other, block in _blocks(shared, pairs):
        values = shared.sketched[one].read_values(), shared.sketched[other].read_values()
        for start in range(0, len(block), 2**14):
            own = block[start : start + 2**14]
            a, b = pairs[:, own] - shared.starts[[one, other], None]
            about[own] = estimates(values[0][a], values[1][b])
    return about


def _keep_runs(_: None, item: tuple[Sketched, np.ndarray]) -> None:
    piece, rows = item
    piece.keep_runs(rows)


def _jaccard(shared: _Pieces, pairs: np.ndarray) -> np.ndarray:
    """The similarities of pairs of rows, (2, n)."""
    alike = np.empty(pairs.shape[1])
    for one, other, block in _blocks(shared, pairs):
        runs = shared.sketched[one].read_runs(), shared.sketched[other].read_runs()
        for at, a, b in zip(block.tolist(), *(pairs[:, block] - shared.starts[[one, other], None]).tolist(), strict=True):
            alike[at] = jaccard(runs[0](a), runs[1](b))
    return alike
