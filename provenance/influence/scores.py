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
    """What is kept of one shard.

    Attributes:
        parties: `account, party_id`, one row per column of `sums`.
        sums: influence per checkpoint, output and party, `(c, q, parties)`, float64.
        evidence: rows of the evidence contract, at most `top` per output and party.
    """

    parties: pl.DataFrame
    sums: np.ndarray
    evidence: pl.DataFrame


def score_shard(
    queries: Sequence[Array],
    features: Sequence[Array],
    examples: pl.DataFrame,
    parties: pl.DataFrame,
    *,
    output_ids: Sequence[str],
    top: int,
) -> ShardScores:
    """Score a shard's examples against all outputs: one product per checkpoint, and one more to sum by party.

    Args:
        queries: preconditioned queries per checkpoint, `(q, p_c)`.
        features: the shard's gradient features per checkpoint, `(n, p_c)`.
        examples: `example_id, work_id, source_uri` of the shard's rows.
        parties: `work_id, account, party_id, stake_ppb` for at least the shard's works.
        top: pieces of evidence kept per output and party.
    """
    xp = namespace(queries[0])
    held = examples.select("example_id", "work_id", "source_uri").with_row_index("row").join(parties, on="work_id")
    names = held.select("account", "party_id").unique().sort("account", "party_id").with_row_index("column")
    held = held.join(names, on=["account", "party_id"])
    stakes = np.zeros((examples.height, names.height), dtype=np.float32)
    stakes[held["row"], held["column"]] = held["stake_ppb"].to_numpy() / PPB
    weights = xp.asarray(stakes)

    sums = np.empty((len(queries), len(output_ids), names.height))
    total = None
    for checkpoint, (query, feature) in enumerate(zip(queries, features, strict=True)):
        scores = xp.matmul(query, xp.matrix_transpose(feature))
        sums[checkpoint] = to_numpy(xp.matmul(scores, weights))
        total = scores if total is None else total + scores
    influence = to_numpy(total).astype(np.float64)

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


def merge(
    shards: Sequence[ShardScores], *, output_ids: Sequence[str], checkpoints: Sequence[str], top: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All shards' sums and evidence as the party influence and evidence tables; the order of shards does not matter."""
    names = pl.concat([shard.parties for shard in shards]).unique().sort("account", "party_id").with_row_index("column")
    sums = np.zeros((len(checkpoints), len(output_ids), names.height))
    for shard in shards:
        columns = shard.parties.join(names, on=["account", "party_id"], maintain_order="left")["column"].to_numpy()
        sums[:, :, columns] += shard.sums
    index = np.indices(sums.shape).reshape(3, -1)
    party = names[index[2]]
    influence = pl.DataFrame(
        {
            "output_id": np.asarray(output_ids, dtype=object)[index[1]].tolist(),
            "account": party["account"],
            "party_id": party["party_id"],
            "checkpoint": np.asarray(checkpoints, dtype=object)[index[0]].tolist(),
            "influence": sums.reshape(-1),
        },
        schema=PARTY_INFLUENCE.schema,
    ).sort(*PARTY_INFLUENCE.key)
    return influence, strongest(pl.concat([shard.evidence for shard in shards]), top)
