"""Reduces a block of scores, outputs x examples, to sums per party and a few pieces of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from provenance.core.arrays import Array, namespace, to_numpy
from provenance.core.tables import EVIDENCE

PARTY = ["account", "party_id"]
KEYS = ["output_id", *PARTY]


@dataclass(frozen=True)
class ShardScores:
    """The reduced scores of some shards.

    Attributes:
        parties: `account, party_id`, one row per column of `sums`.
        sums: influence per component, output and party, `(k, q, parties)`, float64.
        evidence: the strongest candidates per output and party: columns of the evidence contract with `components`, the
            influence by component.
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
        weights: weights of components for the choice of evidence, `(k,)`.
        top: candidates kept per output and party.
    """
    xp = namespace(scores[0])
    rows = examples.select("example_id", "source_uri").with_row_index("row").join(holdings, on="example_id")
    parties = _number_parties(rows)
    rows = rows.join(parties, on=PARTY).sort("row", "column")
    parts = np.zeros((examples.height, parties.height), dtype=np.float32)
    parts[rows["row"], rows["column"]] = rows["part"].to_numpy()
    columns = xp.asarray(parts)
    sums = np.stack([to_numpy(xp.matmul(block, columns)) for block in scores]).astype(np.float64)
    own = rows.filter("own").drop("column", "part", "own")
    evidence = own.join(pl.DataFrame({"output_id": list(output_ids)}).with_row_index("output"), how="cross")
    blocks = np.stack([to_numpy(block) for block in scores])
    components = blocks[:, evidence["output"].to_numpy(), evidence["row"].to_numpy()].T.astype(np.float64)
    evidence = evidence.with_columns(
        influence=components @ weights, components=pl.Series(components, dtype=pl.Array(pl.Float64, len(scores)))
    )
    return ShardScores(parties.select(PARTY), sums, strongest(evidence.select(*EVIDENCE.columns, "components"), top))


def _number_parties(parties: pl.DataFrame) -> pl.DataFrame:
    """`account, party_id`, distinct and sorted, each with its `column`."""
    return parties.select(PARTY).unique().sort(PARTY).with_row_index("column")


def strongest(evidence: pl.DataFrame, top: int) -> pl.DataFrame:
    """The `top` strongest pieces of evidence of each output and party."""
    ranked = evidence.sort(*KEYS, "influence", "example_id", descending=[False] * 3 + [True, False])
    chosen = ranked.group_by(*KEYS, maintain_order=True).head(top)
    return chosen.select(*evidence.columns)


def reweight_evidence(evidence: pl.DataFrame, weights: np.ndarray, top: int) -> pl.DataFrame:
    """The evidence table: the strongest candidates under other weights of the components, `(k,)`."""
    influence = evidence["components"].to_numpy().reshape(evidence.height, len(weights)) @ weights
    reweighted = evidence.with_columns(influence=pl.Series(influence, dtype=pl.Float64)).select(*EVIDENCE.columns)
    return strongest(reweighted, top)


def merge(shards: Sequence[ShardScores], *, top: int) -> ShardScores:
    """Merge the scores of several shards; the order of shards changes only rounding."""
    parties = _number_parties(pl.concat([shard.parties for shard in shards]))
    sums = np.zeros((*shards[0].sums.shape[:2], parties.height))
    for shard in shards:
        columns = shard.parties.join(parties, on=PARTY, maintain_order="left")["column"].to_numpy()
        sums[:, :, columns] += shard.sums
    evidence = strongest(pl.concat([shard.evidence for shard in shards]), top)
    return ShardScores(parties.select(PARTY), sums, evidence)


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
