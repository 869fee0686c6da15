"""Scores, reduced where they are made: a block of outputs x examples becomes sums per party and a little evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.contracts import EVIDENCE

KEYS = ["output_id", "account", "party_id"]


@dataclass(frozen=True)
class ShardScores:
    """What is kept of some shards.

    Attributes:
        parties: `account, party_id`, one row per column of `sums`.
        sums: influence per component, output and party, `(k, q, parties)`, float64.
        evidence: candidates: columns of the evidence contract with `components`, the influence by component, at most so many
            per output and party.
    """

    parties: pl.DataFrame
    sums: np.ndarray
    evidence: pl.DataFrame


def reduce_scores(
    scores: Sequence[Array],
    examples: pl.DataFrame,
    holdings: pl.DataFrame,
    *,
    output_ids: Sequence[str],
    weights: np.ndarray,
    top: int,
) -> ShardScores:
    """A shard's scores against all outputs, summed by party with one product per component.

    Args:
        scores: per component, `(q, n)`.
        examples: `example_id, source_uri` of the shard's rows.
        holdings: `example_id, work_id, account, party_id, part, own` of the shard's examples (`corpus.holdings`).
        weights: what each component counts where evidence is chosen, `(k,)`.
        top: candidates kept per output and party.
    """
    xp = namespace(scores[0])
    held = examples.select("example_id", "source_uri").with_row_index("row").join(holdings, on="example_id")
    names = held.select("account", "party_id").unique().sort("account", "party_id").with_row_index("column")
    held = held.join(names, on=["account", "party_id"]).sort("row", "column")
    parts = np.zeros((examples.height, names.height), dtype=np.float32)
    parts[held["row"], held["column"]] = held["part"].to_numpy()
    columns = xp.asarray(parts)
    sums = np.stack([to_numpy(xp.matmul(block, columns)) for block in scores]).astype(np.float64)
    every = np.stack([to_numpy(block) for block in scores])
    own = held.filter("own").drop("column", "part", "own")
    long = own.join(pl.DataFrame({"output_id": list(output_ids)}).with_row_index("output"), how="cross")
    found = every[:, long["output"].to_numpy(), long["row"].to_numpy()].T.astype(np.float64)
    long = long.with_columns(influence=found @ weights, components=pl.Series(found, dtype=pl.Array(pl.Float64, len(scores))))
    return ShardScores(names.select("account", "party_id"), sums, strongest(long.select(*EVIDENCE.columns, "components"), top))


def strongest(evidence: pl.DataFrame, top: int) -> pl.DataFrame:
    """The `top` strongest pieces of evidence of each output and party; merging shards is concatenating and this."""
    ranked = evidence.sort(*KEYS, "influence", "example_id", descending=[False] * 3 + [True, False])
    chosen = ranked.group_by(*KEYS, maintain_order=True).head(top)
    return chosen.select(*evidence.columns)


def weighed(evidence: pl.DataFrame, weights: np.ndarray, top: int) -> pl.DataFrame:
    """The strongest of the candidates where components count by weight: the evidence table."""
    found = evidence["components"].to_numpy().reshape(evidence.height, len(weights)) @ weights
    frame = evidence.with_columns(influence=pl.Series(found, dtype=pl.Float64)).select(*EVIDENCE.columns)
    return strongest(frame, top)


def merge(shards: Sequence[ShardScores], *, top: int) -> ShardScores:
    """Several shards' scores as one; merging is associative, and the order of shards matters to rounding alone."""
    names = pl.concat([shard.parties for shard in shards]).unique().sort("account", "party_id").with_row_index("column")
    sums = np.zeros((*shards[0].sums.shape[:2], names.height))
    for shard in shards:
        columns = shard.parties.join(names, on=["account", "party_id"], maintain_order="left")["column"].to_numpy()
        sums[:, :, columns] += shard.sums
    evidence = strongest(pl.concat([shard.evidence for shard in shards]), top)
    return ShardScores(names.select("account", "party_id"), sums, evidence)


def party_influence(parties: pl.DataFrame, influence: np.ndarray, output_ids: Sequence[str]) -> pl.DataFrame:
    """`output_id, account, party_id, influence`, one row for each output and party, sorted.

    Args:
        influence: `(q, parties)`.
    """
    index = np.indices(influence.shape).reshape(2, -1)
    rows = parties.select("account", "party_id")[index[1]]
    outputs = np.asarray(output_ids, dtype=object)[index[0]].tolist()
    columns = {"output_id": pl.Series(outputs, dtype=pl.String), "influence": pl.Series(influence.reshape(-1))}
    frame: pl.DataFrame = rows.with_columns(**columns).select(*KEYS, "influence").sort(*KEYS)
    return frame
