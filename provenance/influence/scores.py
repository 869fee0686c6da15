"""Reduces scores, outputs x examples, to sums per party and a few candidates for evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.tables import EVIDENCE

PARTY = ["account", "party_id"]
NO_NUMBERS = pl.DataFrame(schema={"account": pl.String, "party_id": pl.String, "party": pl.UInt32})
KEYS = ["output_id", *PARTY]


@dataclass(frozen=True)
class Held:
    """Who holds the examples of a shard: a row for each example and party.

    Attributes:
        row: place of the example in the shard; party: its number in the night.
        part: the part that the party holds; own: whether the example may be shown as evidence for it.
    """

    row: np.ndarray
    party: np.ndarray
    part: np.ndarray
    own: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Candidates for evidence, arrays of one length: by output, the strongest first.

    Attributes:
        output: row of the sums; party: number of the party; example: place in the corpus.
        influence: with the weights of the time; components: influence by component, `(c, K)` float32.
    """

    output: np.ndarray
    party: np.ndarray
    example: np.ndarray
    influence: np.ndarray
    components: np.ndarray

    def take(self, chosen: np.ndarray) -> Candidates:
        """Some of them."""
        return Candidates(**{name: array[chosen] for name, array in vars(self).items()})


@dataclass(frozen=True)
class Scores:
    """The reduced scores of some shards.

    Attributes:
        parties: numbers of the parties, ascending.
        sums: influence by component, output and party, `(K, q, parties)`, float64.
        candidates: the strongest of every output.
    """

    parties: np.ndarray
    sums: np.ndarray
    candidates: Candidates


def reduce_scores(
    shards: Iterable[tuple[int, Sequence[Array], Held]], *, outputs: int, weights: np.ndarray, top: int, most: int
) -> Scores:
    """The scores of some shards against all outputs, summed by party with one product per component.

    Args:
        shards: the place of the first example in the corpus, scores per component, each `(q, n)`, and holders.
        outputs: q.
        weights: weights of components for the choice of candidates, `(K,)`.
        top, most: candidates kept for each output and party, and for each output.
    """
    sums, kept = list[tuple[np.ndarray, np.ndarray]](), list[Candidates]()
    found, least = 0, np.full(outputs, -np.inf)
    for first, blocks, held in shards:
        sums.append(_sums(blocks, held))
        kept.append(_candidates(first, [to_numpy(block) for block in blocks], held, weights, least))
        found += len(kept[-1].output)
        if found > 2 * most * outputs:  # what is weaker than the last of these will never be kept
            kept = [strongest(joined(kept), top, most)]
            found, counts = len(kept[0].output), np.bincount(kept[0].output, minlength=outputs)
            ends = np.cumsum(counts)
            least[counts == most] = kept[0].influence[ends[counts == most] - 1]
    parties, whole = _added(sums)
    return Scores(parties, whole, strongest(joined(kept), top, most))


def _sums(blocks: Sequence[Array], held: Held) -> tuple[np.ndarray, np.ndarray]:
    """The parties of a shard, and their sums `(K, q, parties)`."""
    xp = namespace(blocks[0])
    parties, column = np.unique(held.party, return_inverse=True)
    parts = np.zeros((blocks[0].shape[1], len(parties)), dtype=np.float32)
    parts[held.row, column] = held.part
    columns = xp.asarray(parts)
    return parties, np.stack([to_numpy(xp.matmul(block, columns)) for block in blocks]).astype(np.float64)


def _candidates(first: int, blocks: Sequence[np.ndarray], held: Held, weights: np.ndarray, least: np.ndarray) -> Candidates:
    """The candidates of a shard that are at least as strong as `least` of their output, `(q,)`."""
    row, party = held.row[held.own], held.party[held.own]
    weighed = sum(weight * block.astype(np.float64) for weight, block in zip(weights, blocks, strict=True))
    values = np.asarray(weighed)[:, row]
    output, at = np.nonzero(values >= least[:, None])
    components = np.stack([block[output, row[at]] for block in blocks], axis=1)
    return Candidates(output, party[at], first + row[at].astype(np.int64), values[output, at], components)


def strongest(candidates: Candidates, top: int, most: int) -> Candidates:
    """The `most` strongest of every output, no more than `top` of a party; of equals, those that come first in the corpus."""
    ordered = candidates.take(np.lexsort((candidates.party, candidates.example, -candidates.influence, candidates.output)))
    party = ordered.output.astype(np.int64) << 32 | ordered.party.astype(np.int64)
    ordered = ordered.take(_earlier(party) < top)
    return ordered.take(_earlier(ordered.output) < most)


def _earlier(keys: np.ndarray) -> np.ndarray:
    """How many equal keys come before each one."""
    order = np.argsort(keys, kind="stable")
    grouped = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])[: len(keys)])
    counts = np.empty(len(keys), dtype=np.int64)
    counts[order] = np.arange(len(keys)) - np.repeat(starts, np.diff([*starts, len(keys)]))
    return counts


def joined(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of some parts."""
    return Candidates(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def _added(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of several shards, in their order, over all their parties."""
    parties = np.unique(np.concatenate([numbers for numbers, _ in parts]))
    whole = np.zeros((*parts[0][1].shape[:2], len(parties)))
    for numbers, sums in parts:
        whole[:, :, np.searchsorted(parties, numbers)] += sums
    return parties, whole


def merge(parts: Sequence[Scores], *, top: int, most: int) -> Scores:
    """Merge the scores of several groups of shards; their order changes only rounding."""
    parties, sums = _added([(part.parties, part.sums) for part in parts])
    return Scores(parties, sums, strongest(joined([part.candidates for part in parts]), top, most))


def reweight_evidence(evidence: pl.DataFrame, weights: np.ndarray, top: int) -> pl.DataFrame:
    """The evidence table: the `top` strongest candidates of each output and party under weights of the components, `(K,)`.

    Args:
        evidence: columns of the evidence table, with `components` in place of `influence`.
    """
    influence = evidence["components"].to_numpy().reshape(evidence.height, len(weights)) @ weights
    table = evidence.with_columns(influence=pl.Series(influence, dtype=pl.Float64)).select(*EVIDENCE.columns)
    ranked = table.sort(*KEYS, "influence", "example_id", descending=[False] * 3 + [True, False])
    chosen: pl.DataFrame = ranked.group_by(*KEYS, maintain_order=True).head(top)
    return chosen.select(*EVIDENCE.columns)


def number_parties(known: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """`account, party_id, party`: known parties with their numbers and, after them, the new ones of some rows."""
    new = rows.select(PARTY).unique(maintain_order=True).join(known, on=PARTY, how="anti", maintain_order="left")
    return pl.concat([known, new.with_row_index("party", offset=known.height).select(known.columns)])


def party_influence(parties: pl.DataFrame, influence: np.ndarray, output_ids: Sequence[str]) -> pl.DataFrame:
    """`output_id, account, party_id, influence`, one row for each output and party, sorted.

    Args:
        influence: `(q, parties)`.
    """
    output, party = np.indices(influence.shape).reshape(2, -1)
    outputs = pl.Series(list(output_ids), dtype=pl.String).gather(output)
    rows = parties.select(PARTY)[party].with_columns(output_id=outputs, influence=pl.Series(influence.reshape(-1)))
    table: pl.DataFrame = rows.select(*KEYS, "influence").sort(*KEYS)
    return table
