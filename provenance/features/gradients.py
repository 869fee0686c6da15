"""Computes projected per-example gradients with one forward and one backward pass per batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from provenance.core.arrays import device_of, namespace, pass_namespace, to_numpy
from provenance.core.errors import ExampleError, ModelError
from provenance.core.rows import Rows, by_token, concatenate
from provenance.features.following import find_following
from provenance.features.projection import Projection
from provenance.features.report import ONE_BY_ONE, Arrangement, Following
from provenance.features.room import of_memory
from provenance.features.tap import Tap, run_batch, tapped
from provenance.models.model import Adapter, Example

# The part of a batch that may be padding where it has more than `batch_size` examples.
PADDING = 1 / 8


def gradient_features(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    memory: float | None = None,
    following: Following | None = None,
    xp: Any = None,
) -> Rows:
    """Projected per-example gradients of the loss at one checkpoint; an example without a gradient has zeros.

    Args:
        module: the checkpoint's weights, on the device to compute on.
        checkpoint: name of the checkpoint, for the seeds of its projections.
        batch_size: most examples per pass, or more on a GPU (`batched`); changes only rounding.
        memory: most bytes that autograd may keep in a pass; None for no limit. Needs `following` with sizes.
        following: how this model is followed (`checks.check_following`); by default found on these examples, without a check.
        xp: the array module of the result, by default that of passes on the device.

    Returns:
        One row per example; the dense part has the layout's size.

    Raises:
        ModelError: a wrong or non-finite loss, a weight without a gradient in any example, or a feature that is not finite.
    """
    xp = xp or pass_namespace(next(module.parameters()).device.type)
    found = following or find_following(adapter, module, examples, projection, checkpoint, xp=xp)
    order: list[int] = []
    batches: list[Rows] = []
    with tapped(module, found, projection, checkpoint, xp) as tap:
        for numbers in batched(examples, found, batch_size, memory):
            batches.append(_batch_rows(adapter, module, [examples[number] for number in numbers], tap, found.arrangement))
            order += numbers
        missing = next((block for block in found.layout.blocks if block.name not in tap.seen), None)
    if following is None and missing is not None:  # a check has seen that autograd has none either
        raise ModelError(f"module {missing.name!r}", expected="a gradient", found="none: the loss does not depend on it")
    rows = _reorder(concatenate(batches), order)
    check_finite(rows, checkpoint)
    return rows


def batched(
    examples: Sequence[Example], following: Following, batch_size: int, memory: float | None = None, *, peak: float = 1.0
) -> Iterator[list[int]]:
    """Numbers of examples in batches of similar lengths, which need little padding.

    A batch has at most `batch_size` examples, and as many as the measured sizes allow in so much memory. Where the memory of a
    GPU was measured, a batch goes on while padding is a small part of it: there each pass of a small model costs the same,
    whatever it has. Batches depend on the examples and on what the check of the model found, and so does rounding.

    Args:
        peak: of a pass, as a multiple of that of `gradient_features`.
    """
    by_length = sorted(range(len(examples)), key=lambda number: examples[number].size)
    alone = following.arrangement.order == ONE_BY_ONE
    limit = min(math.inf if memory is None else memory, following.room or math.inf) / peak
    batch, total = list[int](), 0
    for number in by_length:
        size, count = examples[number].size, len(batch) + 1
        enough = alone or (len(batch) >= batch_size and not (following.room and _filled(total + size, count * size)))
        if batch and (enough or count * _bytes_of(size, following.sizes) > limit):
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += size
    if batch:
        yield batch


def _filled(size: int, padded: int) -> bool:
    """Whether little of a batch is padding."""
    return padded - size <= PADDING * padded


def _bytes_of(length: int, sizes: Sequence[tuple[int, int]]) -> float:
    """Bytes that autograd keeps for an example of a length: linear between the measured ones, in proportion beyond them."""
    if not sizes:
        return 0.0
    longer = next((at for at, (known, _) in enumerate(sizes) if known >= length), None)
    if longer is None:
        return sizes[-1][1] * length / max(1, sizes[-1][0])
    if longer == 0:
        return sizes[0][1]
    (low, less), (high, more) = sizes[longer - 1], sizes[longer]
    return less + (more - less) * (length - low) / (high - low)


def _batch_rows(adapter: Adapter, module: torch.nn.Module, batch: list[Example], tap: Tap, arrangement: Arrangement) -> Rows:
    """The rows of a batch; of each example by itself if its rows are not arranged as expected."""
    try:
        run_batch(adapter, module, batch, tap)
        if len(batch) == 1 or arrangement.holds(tap.called, len(batch)):
            return tap.rows(arrangement.order)
    except RuntimeError as error:  # an operation has one row for the whole batch, but other operations several for an example
        if len(batch) == 1 or of_memory(error):
            raise
    single = []
    for example in batch:
        run_batch(adapter, module, [example], tap)
        single.append(tap.rows(ONE_BY_ONE))
    return concatenate(single)


def _reorder(rows: Rows, order: list[int]) -> Rows:
    """Put rows into the order of the contents.

    Args:
        order: the number of the content of each row.
    """
    xp, part = namespace(rows.dense), rows.sparse
    numbers = xp.asarray(order, device=device_of(rows.dense))
    sparse = by_token(part.vocabulary, part.blocks, xp.take(numbers, part.example), part.token, part.values)
    return Rows(xp.take(rows.dense, xp.argsort(numbers), axis=0), rows.blocks, sparse)


def check_finite(rows: Rows, checkpoint: str) -> None:
    """Raise ExampleError for features that are not finite."""
    xp = namespace(rows.dense)
    if not all(bool(xp.all(xp.isfinite(values))) for values in (rows.dense, rows.sparse.values)):
        raise ExampleError(f"checkpoint {checkpoint}", expected="finite gradient features", found="NaN or infinite ones")


def without_gradient(rows: Rows) -> int:
    """The number of examples whose features are all zero."""
    xp, part = namespace(rows.dense), rows.sparse
    dense = to_numpy(xp.any(rows.dense != 0, axis=1))
    if part.example.shape[0]:
        dense = dense.copy()
        dense[to_numpy(part.example)[to_numpy(xp.any(part.values != 0, axis=1))]] = True
    return int((~dense).sum())
