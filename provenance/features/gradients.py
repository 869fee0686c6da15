"""Per-example gradients from one forward and one backward pass per batch.

Weights are frozen and only the output of the first layers that see data requires a gradient, so autograd computes
activation gradients alone. Hooks see each layer's inputs and output gradients, and project them at once.
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
from provenance.models.model import Adapter, example_losses

# How a batch lies in the rows that a layer sees, when there are several rows per example (noise draws, say).
SIDE_BY_SIDE, TURN_BY_TURN, ONE_BY_ONE = "side by side", "turn by turn", "one by one"
AGREEMENT = 1e-3


def gradient_features(
    adapter: Adapter,
    module: torch.nn.Module,
    contents: Sequence[bytes],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    xp: Any = None,
) -> Rows:
    """Projected per-example gradients of the loss at one checkpoint.

    Args:
        module: the checkpoint's weights, on the device to compute on.
        checkpoint: names the checkpoint in the seeds of its projections.
        batch_size: examples per pass; changes no result beyond rounding.
        xp: the array module of the result, by default that of the device: NumPy, or CuPy without a copy.

    Returns:
        The examples' rows; their dense part has the layout's size.

    Raises:
        ModelError: a wrong or non-finite loss, a layer that no gradient reached, or a feature that is not finite.
    """
    shape = layout(module, projection)
    xp = xp or namespace_of(next(module.parameters()).device.type)
    order: list[int] = []
    batches: list[Rows] = []
    with hooked(module, shape, projection, checkpoint, xp) as tap:
        arrangement = arrangement_of(adapter, module, contents, tap)
        # Batches of like lengths waste no work on padding.
        by_length = sorted(range(len(contents)), key=lambda place: len(contents[place]))
        size = 1 if arrangement == ONE_BY_ONE else batch_size
        for start in range(0, len(by_length), size):
            places = by_length[start : start + size]
            _batch(adapter, module, [contents[place] for place in places], tap)
            order += places
            batches.append(tap.rows(arrangement))
    rows = _reorder(concatenate(batches), order)
    check_rows(rows, checkpoint)
    return rows


@dataclass
class Tap:
    """What the layers saw of the batch in flight: by layer, one entry for each time it was used.

    Attributes:
        dense: projected gradients, `(k, size)` with k rows per batch.
        sides: of layers over a vocabulary, inputs and output gradients by position, the hidden side projected.
    """

    shape: Layout
    xp: Any
    dense: dict[str, list[Array]] = field(default_factory=dict)
    sides: dict[str, list[tuple[Array, Array]]] = field(default_factory=dict)
    examples: int = 0

    def clear(self, examples: int) -> None:
        """Forget the last batch; how many examples the next has."""
        self.dense.clear()
        self.sides.clear()
        self.examples = examples

    def add(self, block: Block, layer: torch.nn.Module, sides: tuple[torch.Tensor, torch.Tensor], a: Array, b: Array) -> None:
        """Project what a layer saw: its inputs, and the gradients of its outputs."""
        x, d = sides
        xp = self.xp
        if isinstance(layer, torch.nn.Embedding) and layer.padding_idx is not None:  # a row that is never trained
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
        """The vectors of all layers over the vocabulary, side by side at each token of each example."""
        blocks = self.shape.tokens
        if not blocks:
            return no_tokens(self.xp)
        parts = []
        for block in blocks:
            uses = [tuple(_positions(s, self.examples, arrangement) for s in sides) for sides in self.sides[block.name]]
            parts.append(_token_rows(block, uses))
        cells, values = side_by_side(parts)
        widths = tuple(part.shape[1] for _, part in parts)
        return Sparse(blocks[0].vocabulary, widths, cells % self.examples, cells // self.examples, values)

    def terms(self, rows: Rows) -> Array:
        """The dense part with one row for each of the rows that the layers saw, `(k, p)`: a batch's loss terms.

        Args:
            rows: the batch's feature rows, which are the terms where layers saw different numbers of rows.
        """
        dense = [self.dense[block.name] for block in self.shape.dense]
        joined = [self.xp.concat(uses, axis=0) if len(uses) > 1 else uses[0] for uses in dense]
        alike = len({values.shape[0] for values in joined}) == 1
        return self.xp.concat(joined, axis=1) if alike else rows.dense


def _by_example(values: Array, examples: int, arrangement: str) -> Array:
    """`(k, ...)` as `(examples, k / examples, ...)`."""
    xp = namespace(values)
    if arrangement == TURN_BY_TURN:
        apart = xp.reshape(values, (-1, examples, *values.shape[1:]))
        return xp.permute_dims(apart, (1, 0, *range(2, apart.ndim)))
    return xp.reshape(values, (examples, -1, *values.shape[1:]))


def _positions(side: Array, examples: int, arrangement: str) -> Array:
    """`(k, t, ...)` as `(examples, positions, ...)`."""
    by_example = _by_example(side, examples, arrangement)
    return namespace(side).reshape(by_example, (examples, -1, *side.shape[2:]))


def _token_rows(block: Block, uses: list[tuple[Array, ...]]) -> tuple[Array, Array]:
    """Gradient rows of a layer over a vocabulary, for the tokens that an example holds.

    Returns:
        cells, `token * count + example`, distinct; and the row at each.
    """
    of_batch = _input_rows if block.kind == "input_tokens" else _output_rows
    found = [of_batch(first, second) for first, second in uses]
    if len(found) == 1:
        return found[0]
    xp = namespace(found[0][1])
    return _add_up(xp.concat([cell for cell, _ in found]), xp.concat([value for _, value in found]))


def _add_up(cell: Array, value: Array) -> tuple[Array, Array]:
    """Distinct cells, and the sum of the rows at each."""
    cell, inverse = namespace(value).unique_inverse(cell)
    return cell, add_by_group(value, inverse, cell.shape[0])


def side_by_side(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The rows of several tables over cells as one table: cells, ascending, and zeros where a table lacks one.

    Args:
        parts: of each table, its cells `(m,)`, distinct, and its rows `(m, d)`.
    """
    xp = namespace(parts[0][1])
    cells = runs(xp.sort(xp.concat([cell for cell, _ in parts])))[0]
    columns = []
    for cell, value in parts:
        order = xp.argsort(cell)
        columns.append(look_up(cells, xp.take(cell, order), xp.take(value, order, axis=0)))
    return cells, xp.concat(columns, axis=1)


def _input_rows(ids: Array, d: Array) -> tuple[Array, Array]:
    """Cells and rows of an embedding: the sum of d `(n, t, columns)` over the positions of each token in ids `(n, t)`."""
    xp, count = namespace(d), d.shape[0]
    cell = xp.reshape(xp.astype(ids, xp.int64) * count + xp.reshape(xp.arange(count), (-1, 1)), (-1,))
    rows = xp.reshape(d, (-1, d.shape[2]))
    seen = xp.nonzero(xp.any(rows != 0, axis=1))[0]  # padding has no gradient
    cell, value = _add_up(xp.take(cell, seen), xp.take(rows, seen, axis=0))
    return cell, xp.astype(value, xp.float32)


def _output_rows(h: Array, d: Array) -> tuple[Array, Array]:
    """Cells and rows of an output head for the tokens that are targets: whose likelihood a step would raise somewhere.

    Args:
        h: hidden states, `(n, t, rows)`; d: gradients of the logits, `(n, t, vocabulary)`, negative at targets alone.
    """
    xp, count = namespace(d), d.shape[0]
    example, token = xp.nonzero(xp.min(d, axis=1) < 0)
    ends = to_numpy(xp.searchsorted(example, xp.arange(count), side="right")).tolist()
    rows = [
        xp.matrix_transpose(xp.take(d[at, ...], token[start:end], axis=1)) @ h[at, ...]
        for at, (start, end) in enumerate(pairwise([0, *ends]))
    ]
    return token * count + example, xp.astype(xp.concat(rows), xp.float32)


def _batch(adapter: Adapter, module: torch.nn.Module, contents: list[bytes], tap: Tap) -> None:
    """One forward and one backward pass; the tap holds what came of it."""
    tap.clear(len(contents))
    example_losses(adapter, module, contents).sum().backward()


def arrangement_of(adapter: Adapter, module: torch.nn.Module, contents: Sequence[bytes], tap: Tap) -> str:
    """How batches of this adapter lie in its layers.

    It is the arrangement under which three examples at once give what each gives alone. Where there is none (a loss that
    depends on its batch, say), examples are taken one by one.
    """
    chosen = sorted(set(contents), key=len)
    chosen = [chosen[at] for at in sorted({0, len(chosen) // 2, len(chosen) - 1})]
    if len(contents) == 1:
        return SIDE_BY_SIDE  # there is no other batch
    chosen = chosen if len(chosen) > 1 else chosen * 2
    alone = []
    for content in chosen:
        _batch(adapter, module, [content], tap)
        alone.append(tap.rows(ONE_BY_ONE))
    expected = concatenate(alone)
    try:
        _batch(adapter, module, chosen, tap)
    except RuntimeError:  # a lookup for all rows at once cannot be told apart by example
        return ONE_BY_ONE
    for arrangement in (SIDE_BY_SIDE, TURN_BY_TURN):
        try:
            if _agree(tap.rows(arrangement), expected):
                return arrangement
        except ValueError:  # rows that no whole number of them belongs to each example
            continue
    return ONE_BY_ONE


def _agree(found: Rows, expected: Rows) -> bool:
    xp, part, other = namespace(found.dense), found.sparse, expected.sparse
    if part.values.shape != other.values.shape or not bool(
        xp.all((part.token == other.token) & (part.example == other.example))
    ):
        return False
    blocks = (by_block(side.values, side.blocks) for side in (part, other))
    pairs = [(found.dense, expected.dense), *zip(*blocks, strict=True)]
    return all(
        one.shape == two.shape and float(xp.linalg.vector_norm(one - two)) <= AGREEMENT * float(xp.linalg.vector_norm(two))
        for one, two in pairs
    )


@contextmanager
def hooked(module: torch.nn.Module, shape: Layout, projection: Projection, checkpoint: str, xp: Any) -> Iterator[Tap]:
    """The module with frozen weights and a tap on every layer that the layout names."""
    tap = Tap(shape, xp)
    trainable = [p for p in module.parameters() if p.requires_grad]
    wide = xp.float64 if next(module.parameters()).dtype == torch.float64 else xp.float32
    layers, handles = dict(module.named_modules()), []
    try:
        module.requires_grad_(False)
        for block in shape.blocks:
            a, b = (xp.asarray(side, dtype=wide) for side in matrices(block, projection, checkpoint))
            handles.append(layers[block.name].register_forward_hook(_watch(tap, block, a, b), with_kwargs=True))
        yield tap
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)


def _watch(tap: Tap, block: Block, a: Array, b: Array) -> Any:
    def forward(
        layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        x, seen = next(iter((*inputs, *named.values()))).detach(), output
        first = not output.requires_grad  # it sees data, not another layer's output: gradients are followed from here on
        if first:
            seen = output.requires_grad_(True)
        if output.shape[0] == 1 < tap.examples:  # positions, say, looked up once for all examples: one gradient each
            seen = seen.expand(tap.examples, *output.shape[1:])
            x = x.expand(tap.examples, *x.shape[1:])
        seen.register_hook(lambda d: tap.add(block, layer, (x, d), a, b))
        return seen.clone() if first else seen  # what follows may work in place, which a leaf does not allow

    return forward


def _reorder(rows: Rows, order: list[int]) -> Rows:
    """Rows that were computed in an order, back in the order of the contents."""
    xp, part = namespace(rows.dense), rows.sparse
    there = xp.asarray(order)
    sparse = by_token(part.vocabulary, part.blocks, xp.take(there, part.example), part.token, part.values)
    return Rows(xp.take(rows.dense, xp.argsort(there), axis=0), rows.blocks, sparse)


def check_rows(rows: Rows, checkpoint: str) -> None:
    """Refuse features that are not finite, or all zero: a projector has been known to return zeros in silence."""
    xp = namespace(rows.dense)
    values = rows.dense, rows.sparse.values
    if not all(bool(xp.all(xp.isfinite(value))) for value in values):
        raise ExampleError(f"checkpoint {checkpoint}", expected="finite gradient features", found="NaN or infinite ones")
    if not any(bool(xp.any(value != 0)) for value in values):
        raise ModelError(f"checkpoint {checkpoint}", expected="gradient features", found="only zeros")
