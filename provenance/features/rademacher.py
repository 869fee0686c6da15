"""The slow and obvious way: whole per-example gradients, one backward pass each, times a dense matrix of random signs.

It projects everything, vocabularies, biases and norms included, and serves as an oracle for the factored way.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from provenance.core.arrays import from_torch, namespace_of
from provenance.core.rows import Rows, concatenate, no_tokens
from provenance.features.gradients import check_rows
from provenance.features.model import example_losses
from provenance.features.sampled import Terms, backward_passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from provenance.core.arrays import Array
    from provenance.features.model import Adapter
    from provenance.features.projection import Projection

# Parameters that are projected at a time.
STRETCH = 4096
# Whole gradients in memory at a time.
TOGETHER = 16


def rademacher_features(
    adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], *, projection: Projection, checkpoint: str
) -> Rows:
    """Whole gradients of each example's loss, projected to `projection.dense` numbers."""
    projected = []
    for start in range(0, len(contents), TOGETHER):
        gradients = []
        for content in contents[start : start + TOGETHER]:
            module.zero_grad()
            example_losses(adapter, module, [content]).sum().backward()
            gradients.append(_take_gradient(module))
        projected.append(_project(gradients, module, projection, checkpoint))
    if not projected:
        return _project([], module, projection, checkpoint)
    rows = concatenate(projected)
    check_rows(rows, checkpoint)
    return rows


def rademacher_sampled(
    adapter: Adapter,
    module: torch.nn.Module,
    contents: Sequence[bytes],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    draws: int,
) -> Iterator[Terms]:
    """The same for the data's targets and for sampled ones, example by example; a term is an example's whole loss."""
    del batch_size
    for content in contents:
        module.zero_grad()
        passes = backward_passes(adapter, module, [content], checkpoint=checkpoint, draws=draws)
        found = [(law, _project([_take_gradient(module)], module, projection, checkpoint)) for law in passes]
        (_, data), *sampled = found
        for law, rows in sampled:
            yield Terms(data, rows, rows.dense, law)


def _take_gradient(module: torch.nn.Module) -> torch.Tensor:
    """The whole gradient, which the module then has no more."""
    parts = [p.grad.flatten() if p.grad is not None else torch.zeros_like(p).flatten() for p in module.parameters()]
    module.zero_grad()
    return torch.cat(parts).detach()


def _project(gradients: list[torch.Tensor], module: torch.nn.Module, projection: Projection, checkpoint: str) -> Rows:
    xp = namespace_of(next(module.parameters()).device.type)
    rows = xp.zeros((len(gradients), projection.dense), dtype=xp.float32)
    if gradients:
        whole = from_torch(torch.stack(gradients).float())
        for start in range(0, whole.shape[1], STRETCH):
            stretch = whole[:, start : start + STRETCH]
            rows = rows + stretch @ xp.asarray(_signs(stretch.shape[1], projection, checkpoint, start))
    return Rows(rows / projection.dense**0.5, (projection.dense,), no_tokens(xp))


def _signs(size: int, projection: Projection, checkpoint: str, start: int) -> Array:
    """Random signs `(size, dense)`, drawn from a digest of seed, checkpoint and place."""
    key = f"{projection.seed}/{checkpoint}/{start}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16])
    bits = np.random.Generator(np.random.Philox(seed)).bytes((size * projection.dense + 7) // 8)
    drawn = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: size * projection.dense]
    return drawn.reshape(size, projection.dense).astype(np.float32) * 2 - 1
