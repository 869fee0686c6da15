"""Scores, reduced where they are made: a block of outputs x examples becomes sums per party and a little evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from provenance.core.arrays import namespace, to_numpy
from provenance.core.contracts import EVIDENCE, PARTY_INFLUENCE
from provenance.core.money import PPB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.core.arrays import Array


@dataclass(frozen=True)
class ShardScores:
    """What is kept of some shards.

    Attributes:
        parties: `account, party_id`, one row per column of `sums`.
        sums: influence per source (a checkpoint, or word counts), output and party, `(s, q, parties)`, float64.
        evidence: rows of the evidence contract, at most `top` per output and party.
    """

    parties: pl.DataFrame
    sums: np.ndarray
    evidence: pl.DataFrame


def reduce_scores(
    scores: Sequence[Array],
    examples: pl.DataFrame,
    parties: pl.DataFrame,
    *,
    output_ids: Sequence[str],
    top: int,
    ranked: np.ndarray | None = None,
) -> ShardScores:
    """A shard's scores against all outputs, summed by party with one product per source.

    Args:
        scores: per source, `(q, n)`.
        examples: `example_id, work_id, source_uri` of the shard's rows.
        parties: `work_id, account, party_id, stake_ppb` for at least the shard's works.
        top: pieces of evidence kept per output and party.
        ranked: what evidence is strong by, `(q, n)`; the sum of the scores by default.
    """
    xp = namespace(scores[0])
    held = examples.select("example_id", "work_id", "source_uri").with_row_index("row").join(parties, on="work_id")
    names = held.select("account", "party_id").unique().sort("account", "party_id").with_row_index("column")
    held = held.join(names, on=["account", "party_id"])
    stakes = np.zeros((examples.height, names.height), dtype=np.float32)
    stakes[held["row"], held["column"]] = held["stake_ppb"].to_numpy() / PPB
    weights = xp.asarray(stakes)
    sums = np.stack([to_numpy(xp.matmul(block, weights)) for block in scores]).astype(np.float64)
    influence = to_numpy(sum(scores) if ranked is None else ranked).astype(np.float64)

    long = held.drop("column", "stake_ppb").join(
        pl.DataFrame({"output_id": list(output_ids)}).with_row_index("output"), how="cross"
    )
    long = long.with_columns(influence=influence[long["output"].to_numpy(), long["row"].to_numpy()])
    return ShardScores(names.select("account", "party_id"), sums, strongest(long.select(*EVIDENCE.columns), top))


def strongest(evidence: pl.DataFrame, top: int) -> pl.DataFrame:
    """The `top` strongest pieces of evidence of each output and party; merging shards is concatenating and this."""
    ranked = evidence.sort(
        "output_id", "account", "party_id", "influence", "example_id", descending=[False] * 3 + [True, False]
    )
    return ranked.group_by("output_id", "account", "party_id", maintain_order=True).head(top).select(*EVIDENCE.columns)


def merge(shards: Sequence[ShardScores], *, top: int) -> ShardScores:
    """Several shards' scores as one; merging is associative, and the order of shards matters to rounding alone."""
    names = pl.concat([shard.parties for shard in shards]).unique().sort("account", "party_id").with_row_index("column")
    sums = np.zeros((*shards[0].sums.shape[:2], names.height))
    for shard in shards:
        columns = shard.parties.join(names, on=["account", "party_id"], maintain_order="left")["column"].to_numpy()
        sums[:, :, columns] += shard.sums
    evidence = strongest(pl.concat([shard.evidence for shard in shards]), top)
    return ShardScores(names.select("account", "party_id"), sums, evidence)


def parted(scores: ShardScores, account: str) -> tuple[ShardScores, ShardScores]:
    """The same without an account, and that account alone."""
    mine = (scores.parties["account"] == account).to_numpy()
    of_account = pl.col("account") == account
    return tuple(  # type: ignore[return-value]
        ShardScores(scores.parties.filter(chosen), scores.sums[:, :, chosen], scores.evidence.filter(rows))
        for chosen, rows in ((~mine, ~of_account), (mine, of_account))
    )


def party_influence(scores: ShardScores, *, output_ids: Sequence[str], sources: Sequence[str]) -> pl.DataFrame:
    """The sums as the party influence table."""
    index = np.indices(scores.sums.shape).reshape(3, -1)
    party = scores.parties[index[2]]
    return pl.DataFrame(
        {
            "output_id": np.asarray(output_ids, dtype=object)[index[1]].tolist(),
            "account": party["account"],
            "party_id": party["party_id"],
            "checkpoint": np.asarray(sources, dtype=object)[index[0]].tolist(),
            "influence": scores.sums.reshape(-1),
        },
        schema=PARTY_INFLUENCE.schema,
    ).sort(*PARTY_INFLUENCE.key)
