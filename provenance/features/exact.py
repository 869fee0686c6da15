"""Whole gradients: what a replay of the training run takes its steps on.

Coordinates are the weights of the layers that `layers.layout` follows, layer by layer, inputs before outputs. Of a larger
model each layer's weights are projected on both sides (`Projection.sides`), at all checkpoints alike. A projection P of a
layer has orthonormal rows; gradients g become `P g`, and places x become `c P x` with c the number of weights for each number
kept, so that inner products keep their mean; a step of the optimiser is then c times as long (`spread`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from provenance.core.arrays import namespace
from provenance.core.errors import ExampleError, ModelError
from provenance.core.kernels import add_by_group
from provenance.features.gradients import check_rows, gradient_batches, gradient_features
from provenance.features.layers import layout, named_blocks
from provenance.features.model import example_losses
from provenance.features.projection import Projection, matrices
from provenance.features.sampled import sampled_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from provenance.core.arrays import Array
    from provenance.features.model import Adapter

# Which earlier block has a weight, and the shape that is to be turned to lie as it does there, if it is.
Shared = tuple[int, tuple[int, int] | None]
# What sides may be projected to, at most; 0 is not at all.
SIDES = (0, 64, 48, 32, 24, 16, 12, 8, 6, 4)


def whole_size(module: torch.nn.Module, projection: Projection) -> int:
    """How many coordinates there are."""
    return sum(stop - start for start, stop, other in _columns(module, projection) if other is None)


def fitting(module: torch.nn.Module, most: int, seed: int) -> Projection | None:
    """Coordinates of at most so many numbers, projected no more than it takes; None if there are none."""
    every = (Projection(seed, whole=True, sides=sides) for sides in SIDES)
    return next((projection for projection in every if whole_size(module, projection) <= most), None)


def whole_sum(
    adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], *, projection: Projection, batch_size: int
) -> np.ndarray:
    """The sum of the gradients of the examples' losses, `(P,)` float32, by ordinary backward passes."""
    wanted = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(True)
    try:
        forward_and_add(adapter, module, contents, batch_size)
        found = _flat(module, lambda weight: weight.grad, projection)
    finally:
        module.zero_grad(set_to_none=True)
        for parameter, before in zip(module.parameters(), wanted, strict=True):
            parameter.requires_grad_(before)
    if not np.isfinite(found).all():
        raise ExampleError("sum of gradients", expected="finite numbers", found="NaN or infinite ones")
    return found


def forward_and_add(adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], batch_size: int) -> None:
    """Add the gradients of the examples' losses up in the module, batches of like lengths."""
    module.zero_grad(set_to_none=True)
    order = sorted(contents, key=len)
    for start in range(0, len(order), batch_size):
        example_losses(adapter, module, order[start : start + batch_size]).sum().backward()


def whole_gradients(adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], **how: Any) -> Array:
    """Gradients of the examples' losses, `(n, P)` float32.

    Args:
        how: `projection`, `checkpoint` and `batch_size`, as of `gradient_features`.
    """
    rows = gradient_features(adapter, module, contents, **how).dense
    return _together(rows, _columns(module, how["projection"]))


def whole_batches(
    adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], **how: Any
) -> Iterator[tuple[list[int], Array]]:
    """The same batch by batch, for there may be more than memory holds: places among the contents, and their rows."""
    columns = _columns(module, how["projection"])
    for places, rows in gradient_batches(adapter, module, contents, **how):
        check_rows(rows, how["checkpoint"])
        yield places, _together(rows.dense, columns)


def whole_sampled(
    adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], **how: Any
) -> Iterator[tuple[Array, Array]]:
    """Batch by batch, gradients for the data's targets and for targets sampled from the model, each `(n, P)` float32."""
    columns = _columns(module, how["projection"])
    for terms in sampled_features(adapter, module, contents, draws=1, **how):
        yield _together(terms.data.dense, columns), _together(terms.sampled.dense, columns)


def whole_position(module: torch.nn.Module, projection: Projection) -> np.ndarray:
    """Where a module stands, `(P,)` float32."""
    found: np.ndarray = _flat(module, lambda weight: weight, projection) * spread(module, projection)
    return found


def spread(module: torch.nn.Module, projection: Projection) -> np.ndarray:
    """Weights for each number kept, `(P,)` float32."""
    pairs = zip(layout(module, projection).blocks, _columns(module, projection), strict=True)
    kept = [block for block, (*_, other) in pairs if other is None]
    each = [np.full(block.size, block.inputs * block.outputs / (block.rows * block.columns)) for block in kept]
    return np.concatenate(each).astype(np.float32)


def sketch(rows: Array, numbers: int, *, seed: int, checkpoint: str) -> Array:
    """Rows `(n, P)` projected at random to `(n, numbers)`; inner products keep their mean.

    Every coordinate is added, with a random sign, to one of the numbers (count sketch: Charikar et al. 2004; as a feature hash
    Weinberger et al. 2009), drawn from a digest of seed and checkpoint.
    """
    xp = namespace(rows)
    name = hashlib.sha256(f"{seed}/{checkpoint}/sketch".encode()).digest()
    draws = np.random.Generator(np.random.Philox(int.from_bytes(name[:16])))
    place = xp.asarray(draws.integers(0, numbers, rows.shape[1]))
    signs = xp.asarray((2 * draws.integers(0, 2, rows.shape[1]) - 1).astype(np.float32))
    summed = add_by_group(xp.matrix_transpose(rows * signs), place, numbers)
    return xp.matrix_transpose(summed)


def _flat(
    module: torch.nn.Module, of_weight: Callable[[torch.Tensor], torch.Tensor | None], projection: Projection
) -> np.ndarray:
    """What there is of every followed weight, projected, as one row; zeros where there is nothing."""
    found = []
    blocks = named_blocks(module, layout(module, projection))
    for (block, layer), (_, _, other) in zip(blocks, _columns(module, projection), strict=True):
        if other is None:
            weight: Any = layer.weight
            value = of_weight(weight)
            value = torch.zeros_like(weight) if value is None else value
            sides = matrices(block, projection, "")
            a, b = (None if side.shape[0] == side.shape[1] else side for side in sides)
            matrix = _inputs_first(layer, value).detach().cpu().float().numpy()
            matrix = matrix if a is None else a.T @ matrix
            found.append((matrix if b is None else matrix @ b).reshape(-1))
    return np.concatenate(found)


def _columns(module: torch.nn.Module, projection: Projection) -> list[tuple[int, int, Shared | None]]:
    """Of each block its columns in a row as it comes; and, of a weight that an earlier one shares, which, and how it lies."""
    found: list[tuple[int, int, Shared | None]] = []
    first: dict[int, int] = {}
    turned: list[bool] = []
    start = 0
    for block, layer in named_blocks(module, layout(module, projection)):
        weight, size = layer.weight, block.size
        shared = first.setdefault(id(weight), len(found))
        if shared == len(found):
            found.append((start, start + size, None))
        elif isinstance(layer, torch.nn.Linear | torch.nn.Embedding):
            lies_alike = isinstance(layer, torch.nn.Linear) == turned[shared]
            found.append((start, start + size, (shared, None if lies_alike else (block.rows, block.columns))))
        else:
            raise ModelError(f"module {block.name!r}", expected="a weight of its own", found="one that another module has, too")
        turned.append(isinstance(layer, torch.nn.Linear))  # its weight has outputs first
        start += size
    return found


def _together(rows: Array, columns: list[tuple[int, int, Shared | None]]) -> Array:
    """Rows with the gradients of a shared weight added up."""
    xp = namespace(rows)
    parts = [rows[:, start:stop] for start, stop, _ in columns]
    for at, (_, _, other) in enumerate(columns):
        if other is not None:
            shared, shape = other
            part = parts[at]
            if shape:
                part = xp.reshape(xp.matrix_transpose(xp.reshape(part, (rows.shape[0], *shape))), (rows.shape[0], -1))
            parts[shared] = parts[shared] + part
    kept = [part for part, (_, _, other) in zip(parts, columns, strict=True) if other is None]
    return xp.concat(kept, axis=1) if len(kept) < len(parts) else rows


def _inputs_first(layer: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A weight with the axes of its gradient: `(groups,) inputs, outputs`."""
    if isinstance(layer, torch.nn.Embedding | Conv1D):
        return weight
    if isinstance(layer, torch.nn.Linear):
        return weight.transpose(0, 1)
    groups: Any = layer.groups
    return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
