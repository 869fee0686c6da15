"""Computes projected per-example gradients with one forward and one backward pass per batch.

Weights are frozen, and only the outputs of the first layers require a gradient, so autograd computes no gradients of weights.
Hooks receive each layer's inputs and output gradients and project them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from provenance.core.arrays import Array, from_torch, look_up, namespace, namespace_of, runs, to_numpy
from provenance.core.errors import ExampleError, ModelError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, by_block, by_token, concatenate, no_tokens
from provenance.features.layers import Layout, input_side, layout, output_side
from provenance.features.projection import Block, Projection, matrices
from provenance.models.model import Adapter, Example, example_losses

# The arrangement of a batch in a layer's rows, if a layer has several rows per example (such as noise draws): the rows of an
# example side by side, or one row of each example in turn, or unknown, so that examples are computed one by one.
SIDE_BY_SIDE, TURN_BY_TURN, ONE_BY_ONE = "side by side", "turn by turn", "one by one"
TOLERANCE = 1e-3


def gradient_features(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    xp: Any = None,
) -> Rows:
    """Projected per-example gradients of the loss at one checkpoint.

    Args:
        module: the checkpoint's weights, on the device to compute on.
        checkpoint: name of the checkpoint, for the seeds of its projections.
        batch_size: examples per pass; changes only rounding.
        xp: the array module of the result, by default that of the device: NumPy, or CuPy without a copy.

    Returns:
        One row per example; the dense part has the layout's size.

    Raises:
        ModelError: a wrong or non-finite loss, a layer without a gradient, or a feature that is not finite.
    """
    shape = layout(module, projection)
    xp = xp or namespace_of(next(module.parameters()).device.type)
    order: list[int] = []
    batches: list[Rows] = []
    with hooked(module, shape, projection, checkpoint, xp) as tap:
        arrangement = find_arrangement(adapter, module, examples, tap)
        # Batches of similar lengths need little padding.
        by_length = sorted(range(len(examples)), key=lambda number: examples[number].size)
        size = 1 if arrangement == ONE_BY_ONE else batch_size
        for start in range(0, len(by_length), size):
            numbers = by_length[start : start + size]
            _run_batch(adapter, module, [examples[number] for number in numbers], tap)
            order += numbers
            batches.append(tap.rows(arrangement))
    rows = _reorder(concatenate(batches), order)
    check_rows(rows, checkpoint)
    return rows


@dataclass
class Tap:
    """Collects projected gradients of the current batch: by layer, one entry for each call of it.

    Attributes:
        dense: for inner layers, projected gradients `(k, size)` with k rows per batch.
        sides: for layers over a vocabulary, inputs and output gradients by position, the hidden side projected.
    """

    shape: Layout
    xp: Any
    dense: dict[str, list[Array]] = field(default_factory=dict)
    sides: dict[str, list[tuple[Array, Array]]] = field(default_factory=dict)
    examples: int = 0

    def clear(self, examples: int) -> None:
        """Remove the last batch; `examples` is the size of the next."""
        self.dense.clear()
        self.sides.clear()
        self.examples = examples

    def add(self, block: Block, layer: torch.nn.Module, sides: tuple[torch.Tensor, torch.Tensor], a: Array, b: Array) -> None:
        """Add a layer's inputs and output gradients, projected by a and b."""
        x, d = sides
        xp = self.xp
        if isinstance(layer, torch.nn.Embedding) and layer.padding_idx is not None:  # its row is never trained
            d = d.masked_fill((x == layer.padding_idx)[..., None], 0.0)
        outputs = from_torch(d, xp)
        if block.kind == "dense":
            left, right = input_side(layer, x, a), output_side(layer, outputs, b)
            value = xp.reshape(xp.matrix_transpose(left) @ right, (left.shape[0], -1))
            self.dense.setdefault(block.name, []).append(value)
        elif block.kind == "input_tokens":
            right = output_side(layer, outputs, b)[:, 0, ...]
            self.sides.setdefault(block.name, []).append((xp.reshape(from_torch(x, xp), (x.shape[0], -1)), right))
        else:
            left = input_side(layer, x, a)[:, 0, ...]
            self.sides.setdefault(block.name, []).append((left, xp.reshape(outputs, (*left.shape[:2], -1))))

    def rows(self, arrangement: str) -> Rows:
        """The batch's feature rows."""
        xp, n = self.xp, self.examples
        for block in self.shape.blocks:
            if block.name not in self.dense and block.name not in self.sides:
                raise ModelError(f"module {block.name!r}", expected="a gradient", found="none: the loss does not depend on it")
        dense = self.shape.dense
        parts = [sum(xp.sum(_by_example(v, n, arrangement), axis=1) for v in self.dense[block.name]) for block in dense]
        joined = xp.concat(parts, axis=1) if parts else xp.zeros((n, 0), dtype=xp.float32)
        return Rows(xp.astype(joined, xp.float32), tuple(block.size for block in dense), self._sparse(arrangement))

    def _sparse(self, arrangement: str) -> Sparse:
        """The vectors of all layers over the vocabulary, joined at each token of each example."""
        blocks = self.shape.tokens
        if not blocks:
            return no_tokens(self.xp)
        tables = []
        for block in blocks:
            calls = [tuple(_positions(s, self.examples, arrangement) for s in sides) for sides in self.sides[block.name]]
            tables.append(_token_rows(block, calls))
        cells, values = join_columns(tables)
        widths = tuple(rows.shape[1] for _, rows in tables)
        return Sparse(blocks[0].vocabulary, widths, cells % self.examples, cells // self.examples, values)

    def terms(self, rows: Rows) -> Array:
        """Gradients of a batch's loss terms, `(k, p)`: the dense part with one row for each row of the layers.

        Args:
            rows: the batch's feature rows; their dense part is returned if layers have different numbers of rows.
        """
        dense = [self.dense[block.name] for block in self.shape.dense]
        joined = [self.xp.concat(calls, axis=0) if len(calls) > 1 else calls[0] for calls in dense]
        equal = len({values.shape[0] for values in joined}) == 1
        return self.xp.concat(joined, axis=1) if equal else rows.dense


def _by_example(values: Array, examples: int, arrangement: str) -> Array:
    """`(k, ...)` as `(examples, k / examples, ...)`."""
    xp = namespace(values)
    if arrangement == TURN_BY_TURN:
        in_turn = xp.reshape(values, (-1, examples, *values.shape[1:]))
        return xp.permute_dims(in_turn, (1, 0, *range(2, in_turn.ndim)))
    return xp.reshape(values, (examples, -1, *values.shape[1:]))


def _positions(side: Array, examples: int, arrangement: str) -> Array:
    """`(k, t, ...)` as `(examples, positions, ...)`."""
    by_example = _by_example(side, examples, arrangement)
    return namespace(side).reshape(by_example, (examples, -1, *side.shape[2:]))


def _token_rows(block: Block, calls: list[tuple[Array, ...]]) -> tuple[Array, Array]:
    """Gradient rows of a layer over a vocabulary, at the tokens of each example.

    Returns:
        cells, `token * count + example`, distinct; and the row at each.
    """
    rows_of = _input_rows if block.kind == "input_tokens" else _output_rows
    tables = [rows_of(first, second) for first, second in calls]
    if len(tables) == 1:
        return tables[0]
    xp = namespace(tables[0][1])
    return _add_up(xp.concat([cell for cell, _ in tables]), xp.concat([value for _, value in tables]))


def _add_up(cell: Array, value: Array) -> tuple[Array, Array]:
    """Distinct cells, and the sum of the rows at each."""
    cell, inverse = namespace(value).unique_inverse(cell)
    return cell, add_by_group(value, inverse, cell.shape[0])


def join_columns(tables: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Join the columns of several tables: all cells, ascending, and rows with zeros where a table lacks a cell.

    Args:
        tables: for each, its cells `(m,)`, distinct, and its rows `(m, d)`.
    """
    xp = namespace(tables[0][1])
    cells = runs(xp.sort(xp.concat([cell for cell, _ in tables])))[0]
    columns = []
    for cell, value in tables:
        order = xp.argsort(cell)
        columns.append(look_up(cells, xp.take(cell, order), xp.take(value, order, axis=0)))
    return cells, xp.concat(columns, axis=1)


def _input_rows(ids: Array, d: Array) -> tuple[Array, Array]:
    """Cells and rows of an embedding: the sum of d `(n, t, columns)` over the positions of each token in ids `(n, t)`."""
    xp, count = namespace(d), d.shape[0]
    cell = xp.reshape(xp.astype(ids, xp.int64) * count + xp.reshape(xp.arange(count), (-1, 1)), (-1,))
    rows = xp.reshape(d, (-1, d.shape[2]))
    nonzero = xp.nonzero(xp.any(rows != 0, axis=1))[0]  # padding has no gradient
    cell, value = _add_up(xp.take(cell, nonzero), xp.take(rows, nonzero, axis=0))
    return cell, xp.astype(value, xp.float32)


def _output_rows(h: Array, d: Array) -> tuple[Array, Array]:
    """Cells and rows of an output head at targets, the tokens whose likelihood a training step would raise.

    Args:
        h: hidden states, `(n, t, rows)`.
        d: gradients of the logits, `(n, t, vocabulary)`, negative only at targets.
    """
    xp, count = namespace(d), d.shape[0]
    example, token = xp.nonzero(xp.min(d, axis=1) < 0)
    ends = to_numpy(xp.searchsorted(example, xp.arange(count), side="right")).tolist()
    rows = [
        xp.matrix_transpose(xp.take(d[at, ...], token[start:end], axis=1)) @ h[at, ...]
        for at, (start, end) in enumerate(pairwise([0, *ends]))
    ]
    return token * count + example, xp.astype(xp.concat(rows), xp.float32)


def _run_batch(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example], tap: Tap) -> None:
    """Run one forward and one backward pass; the tap collects the gradients."""
    tap.clear(len(examples))
    example_losses(adapter, module, examples).sum().backward()


def find_arrangement(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example], tap: Tap) -> str:
    """The arrangement of this adapter's batches in its layers.

    It is the one in which three examples in a batch have the same features as each alone. If there is none (for example because
    the loss depends on the whole batch), examples are computed one by one.
    """
    if len(examples) == 1:
        return SIDE_BY_SIDE  # there will be no larger batch
    by_length = sorted(dict.fromkeys(examples), key=lambda example: example.size)
    chosen = [by_length[at] for at in sorted({0, len(by_length) // 2, len(by_length) - 1})]
    chosen = chosen if len(chosen) > 1 else chosen * 2
    single = []
    for example in chosen:
        _run_batch(adapter, module, [example], tap)
        single.append(tap.rows(ONE_BY_ONE))
    expected = concatenate(single)
    try:
        _run_batch(adapter, module, chosen, tap)
    except RuntimeError:  # a layer has one row for the whole batch
        return ONE_BY_ONE
    for arrangement in (SIDE_BY_SIDE, TURN_BY_TURN):
        try:
            if _nearly_equal(tap.rows(arrangement), expected):
                return arrangement
        except ValueError:  # the number of rows is no multiple of the number of examples
            continue
    return ONE_BY_ONE


def _nearly_equal(rows: Rows, expected: Rows) -> bool:
    xp, part, other = namespace(rows.dense), rows.sparse, expected.sparse
    if part.values.shape != other.values.shape or not bool(
        xp.all((part.token == other.token) & (part.example == other.example))
    ):
        return False
    blocks = (by_block(sparse.values, sparse.blocks) for sparse in (part, other))
    pairs = [(rows.dense, expected.dense), *zip(*blocks, strict=True)]
    return all(
        a.shape == b.shape and float(xp.linalg.vector_norm(a - b)) <= TOLERANCE * float(xp.linalg.vector_norm(b))
        for a, b in pairs
    )


@contextmanager
def hooked(module: torch.nn.Module, shape: Layout, projection: Projection, checkpoint: str, xp: Any) -> Iterator[Tap]:
    """Freeze the module's weights and hook a tap to every layer of the layout; undone on exit."""
    tap = Tap(shape, xp)
    trainable = [p for p in module.parameters() if p.requires_grad]
    dtype = xp.float64 if next(module.parameters()).dtype == torch.float64 else xp.float32
    layers, handles = dict(module.named_modules()), []
    try:
        module.requires_grad_(False)
        for block in shape.blocks:
            a, b = (xp.asarray(side, dtype=dtype) for side in matrices(block, projection, checkpoint))
            handles.append(layers[block.name].register_forward_hook(_hook(tap, block, a, b), with_kwargs=True))
        yield tap
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)


def _hook(tap: Tap, block: Block, a: Array, b: Array) -> Any:
    """A forward hook that adds a layer's inputs and output gradients to the tap."""

    def forward(
        layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], keywords: dict[str, torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        x, result = next(iter((*inputs, *keywords.values()))).detach(), output
        first = not output.requires_grad  # its input is data, so autograd has to start here
        if first:
            result = output.requires_grad_(True)
        if output.shape[0] == 1 < tap.examples:  # shared by all examples, such as positions: each gets its own gradient
            result = result.expand(tap.examples, *output.shape[1:])
            x = x.expand(tap.examples, *x.shape[1:])
        result.register_hook(lambda d: tap.add(block, layer, (x, d), a, b))
        return result.clone() if first else result  # the next layer may work in place, which a leaf does not allow

    return forward


def _reorder(rows: Rows, order: list[int]) -> Rows:
    """Put rows into the order of the examples.

    Args:
        order: the number of the example of each row.
    """
    xp, part = namespace(rows.dense), rows.sparse
    numbers = xp.asarray(order)
    sparse = by_token(part.vocabulary, part.blocks, xp.take(numbers, part.example), part.token, part.values)
    return Rows(xp.take(rows.dense, xp.argsort(numbers), axis=0), rows.blocks, sparse)


def check_rows(rows: Rows, checkpoint: str) -> None:
    """Raise for features that are not finite, or all zero, which a failing projection can return silently."""
    xp = namespace(rows.dense)
    values = rows.dense, rows.sparse.values
    if not all(bool(xp.all(xp.isfinite(value))) for value in values):
        raise ExampleError(f"checkpoint {checkpoint}", expected="finite gradient features", found="NaN or infinite ones")
    if not any(bool(xp.any(value != 0)) for value in values):
        raise ModelError(f"checkpoint {checkpoint}", expected="gradient features", found="only zeros")
