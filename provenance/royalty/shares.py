"""Owner shares of each output, in parts per billion."""

from __future__ import annotations

import numpy as np
import polars as pl

from provenance.core.contracts import SHARES, UNATTRIBUTED
from provenance.core.errors import ContractError
from provenance.core.money import PPB


def proportional(influence: pl.DataFrame) -> pl.DataFrame:
    """Each party's part of an output's positive influence: `max(0, I) / sum max(0, I)`, with `I` summed over checkpoints.

    The interval of a share is its range over the checkpoints, each deciding alone. An output on which no party has a
    positive influence is unattributed.

    Args:
        influence: the party influence table.

    Returns:
        The shares table, without rows of no share.

    Raises:
        ContractError: an influence is not finite.
    """
    parts = []
    for (output,), group in influence.sort("output_id").group_by("output_id", maintain_order=True):
        # The order of keys decides ties of rounding, so it must not depend on who computed first.
        table = group.pivot("checkpoint", index=["account", "party_id"], values="influence", sort_columns=True)
        table = table.sort("account", "party_id")
        by_checkpoint = table.drop("account", "party_id").to_numpy()
        if not np.isfinite(by_checkpoint).all():
            raise ContractError(f"influence on output {output!r}", expected="finite numbers", found="NaN or infinite ones")
        share = to_ppb(by_checkpoint.sum(axis=1))
        if share is None:
            parts.append(_unattributed(str(output)))
            continue
        alone = [part for part in (to_ppb(column) for column in by_checkpoint.T) if part is not None]
        ends = np.stack([share, *alone])
        parts.append(
            table.select(
                pl.lit(output).alias("output_id"),
                "account",
                "party_id",
                pl.Series("share_ppb", share),
                pl.Series("low_ppb", ends.min(axis=0)),
                pl.Series("high_ppb", ends.max(axis=0)),
            ).filter(pl.col("share_ppb") > 0)
        )
    return pl.concat(parts).sort(*SHARES.key) if parts else pl.DataFrame(schema=SHARES.schema)


def to_ppb(values: np.ndarray) -> np.ndarray | None:
    """Non-negative parts of `values` as integers that sum to exactly 1e9 (largest remainder); None if there are none."""
    positive = np.maximum(values.astype(np.float64), 0.0)
    whole = positive.sum()
    if not whole > 0:
        return None
    exact = positive / whole * PPB
    parts: np.ndarray = np.floor(exact).astype(np.int64)
    rest = PPB - int(parts.sum())
    parts[np.argsort(-(exact - parts), kind="stable")[:rest]] += 1
    return parts


def _unattributed(output: str) -> pl.DataFrame:
    row = {
        "output_id": output,
        "account": UNATTRIBUTED,
        "party_id": "",
        "share_ppb": PPB,
        "low_ppb": PPB,
        "high_ppb": PPB,
    }
    return pl.DataFrame([row], schema=SHARES.schema)
