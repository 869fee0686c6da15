"""Says how much influence owes to the random projection: computes it by two seeds, and correlates the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from provenance.core.arrays import to_numpy
from provenance.core.errors import ContractError
from provenance.core.rows import move
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.features.report import Following
from provenance.features.sampled import sampled_features
from provenance.features.statistics import gather
from provenance.influence.methods import component_names, fit, prepare, sampled_of, score
from provenance.models.model import Adapter, Example


def seed_agreement(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    outputs: Sequence[Example],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    following: Following,
    draws: int = 4,
    memory: float | None = None,
) -> dict[str, float]:
    """Spearman's correlation between influences by two seeds of the projection, by component; a mean over outputs.

    Args:
        examples: at least some tens; the curvature is fitted to them.
        projection, checkpoint, batch_size, following, memory: as of `gradient_features`.
        draws: sampled targets for each example.

    Raises:
        ContractError: there are fewer than three examples, or no output.
    """
    if len(examples) < 3 or not outputs:
        found = f"{len(examples)} and {len(outputs)}"
        raise ContractError("agreement of seeds", expected="three examples and an output at least", found=found)
    passes: dict[str, Any] = {"checkpoint": checkpoint, "batch_size": batch_size, "following": following, "memory": memory}
    sides = [
        influences(
            adapter, module, examples, outputs, draws=draws, passes={**passes, "projection": replace(projection, seed=seed)}
        )
        for seed in (projection.seed, projection.seed + 1)
    ]
    kinds = [block.kind for block in following.layout.tokens]
    names = component_names(checkpoint, kinds, inner=bool(following.layout.dense))
    agreement = {}
    for name, one, other in zip(names, *sides, strict=True):
        by_output = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
        agreement[name.rpartition("/")[2]] = float(np.mean(by_output)) if by_output else float("nan")
    return agreement


def influences(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    outputs: Sequence[Example],
    *,
    draws: int,
    passes: dict[str, Any],
) -> list[np.ndarray]:
    """Influences by component, each `(outputs, examples)`.

    Args:
        passes: arguments of `gradient_features`.
    """
    rows, of_outputs = (move(gradient_features(adapter, module, some, **passes), np) for some in (examples, outputs))
    sampled = sampled_of(list(sampled_features(adapter, module, examples, draws=draws, **passes)), len(examples))
    queries = prepare(fit(gather(rows), rows, sampled), of_outputs, np)
    return [to_numpy(component) for component in score(queries, rows)]
