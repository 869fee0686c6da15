"""Taps a module: sees each use of its weights, and projects the gradients of a batch by example.

Weights are frozen, and only the outputs of the first operations on them require a gradient, so autograd computes no gradients
of weights. A tap sees each use of a weight, projects its inputs at once, and its output gradients when they come. Weights that
are used in another way get their whole gradient from autograd, for one example at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from provenance.core.arrays import TORCH, Array, device_of, from_torch, look_up, namespace, runs
from provenance.core.errors import ModelError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, Sparse, no_tokens
from provenance.features.layers import input_side, project_whole, token_outputs, use_of
from provenance.features.operations import LOOKUP, OPERATIONS, VIEWS, Call, Weight, call_of, view_of
from provenance.features.projection import AUTOGRAD, UNSEEN, Block, Projection, matrices
from provenance.features.report import TURN_BY_TURN, Following, Layout
from provenance.models.model import Adapter, Example, example_losses

# A gradient that no check has seen may deviate by so much from autograd, whatever the type of the weights.
UNCHECKED = 0.1


class Tap(TorchFunctionMode):
    """Collects projected gradients of the current batch: by weight, one entry for each use of it.

    Attributes:
        dense: for inner layers, projected gradients `(k, size)` with k rows per batch.
        sides: for layers over a vocabulary, inputs and output gradients by position, the hidden side projected.
        called: rows of each use, by block.
        seen: blocks that had a gradient in any batch.
        listening: whether output gradients are received; if not, they are counted in `unheard`.
    """

    def __init__(self, module: torch.nn.Module, shape: Layout, projection: Projection, checkpoint: str, xp: Any) -> None:
        super().__init__()
        self.shape, self.xp, self.examples = shape, xp, 0
        self.shared: frozenset[str] = frozenset()
        first = next(module.parameters())
        dtype = xp.float64 if first.dtype == torch.float64 else xp.float32
        self.device = first.device if xp.__name__ == TORCH else None
        self.matrices = {
            block.name: tuple(
                xp.asarray(side, dtype=dtype, device=self.device) for side in matrices(block, projection, checkpoint)
            )
            for block in shape.blocks
        }
        self.parameters = dict(module.named_parameters())
        self.blocks = {(b.weight, b.form == LOOKUP): b for b in shape.blocks if b.by != AUTOGRAD}
        self.weights = {
            id(self.parameters[b.weight]): Weight(b.weight, self.parameters[b.weight].dim()) for b in self.blocks.values()
        }
        self.dense: dict[str, list[Array]] = {}
        self.sides: dict[str, list[tuple[Array, Array]]] = {}
        self.called: dict[str, list[int]] = {}
        self.seen: set[str] = set()
        self.listening, self.unheard = True, 0
        self.clear(0)

    def clear(self, examples: int) -> None:
        """Remove the last batch; `examples` is the size of the next."""
        self.dense.clear()
        self.sides.clear()
        self.examples = examples

    def begin(self, examples: int) -> None:
        """Remove the last batch and what is known of its forward pass."""
        self.clear(examples)
        self.called.clear()
        self.unheard = 0
        self.known = dict(self.weights)
        self.views: list[Any] = []  # kept, so that no other tensor gets the identity of one

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; follow its result if it uses a weight."""
        keywords = kwargs or {}
        result = func(*args, **keywords)
        if func in OPERATIONS:
            call = call_of(func, args, keywords, self.known) if torch.is_grad_enabled() else None
            block = self.blocks.get((call.weight.name, call.form == LOOKUP)) if call else None
            return self._follow(block, call, result) if block and call else result
        if func in VIEWS and (view := view_of(func, args, keywords, self.known)):
            self.known.setdefault(id(result), view)
            self.views.append(result)
        return result

    def _follow(self, block: Block, call: Call, output: torch.Tensor) -> torch.Tensor:
        """Project an operation's inputs, and its output gradients when they come."""
        x, result = call.x.detach(), output
        first = not output.requires_grad  # its input is data, so autograd has to start here
        if first:
            result = output.requires_grad_(True)
        if block.name in self.shared and x.dim() == 1:
            result, x = result.expand(self.examples, *output.shape), x.expand(self.examples, *x.shape)
        elif output.shape[0] == 1 < self.examples:  # shared by all examples, such as positions: each gets its own gradient
            result = result.expand(self.examples, *output.shape[1:])
            x = x.expand(self.examples, *x.shape[1:])
        self.called.setdefault(block.name, []).append(result.shape[0])
        receive, padding = self._receiver(block, call, x), call.options.get("padding_idx")
        padded = None if padding is None else torch.eq(x, padding)[..., None]

        def hear(d: torch.Tensor) -> None:
            if not self.listening:
                self.unheard += 1
            elif padded is None:
                receive(d)
            else:  # the row of padding is never trained
                receive(d.masked_fill(padded, 0.0))

        result.register_hook(hear)
        return result.clone() if first else result  # what follows may work in place, which a leaf does not allow

    def _receiver(self, block: Block, call: Call, x: torch.Tensor) -> Any:
        """A function that receives the gradient of a use's output. It keeps only what is projected of the input."""
        (a, b), xp = self.matrices[block.name], self.xp
        if block.kind == "dense":
            use = use_of(block, call, x, a, self.examples)
            return lambda d: self.dense.setdefault(block.name, []).append(use.gradient(d, b))
        if block.kind == "input_tokens":
            ids = xp.reshape(from_torch(x, xp), (x.shape[0], -1))
            return lambda d: self.sides.setdefault(block.name, []).append((ids, token_outputs(d, b)))
        left = input_side(block, call, x, a, self.examples)[:, 0, ...]

        def receive_logits(d: torch.Tensor) -> None:
            outputs = xp.reshape(from_torch(d, xp), (*left.shape[:2], -1))
            self.sides.setdefault(block.name, []).append((left, outputs))

        return receive_logits

    def take_whole(self, block: Block) -> Any:
        """A function that receives a weight whose whole gradient autograd has just computed, projects and frees it."""

        def receive(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:  # a function of the model's own may return none
                gradient = project_whole(block, from_torch(parameter.grad, self.xp), *self.matrices[block.name])
                self.dense.setdefault(block.name, []).append(gradient)
                parameter.grad = None

        return receive

    def hold(self, blocks: Sequence[Block]) -> Any:
        """A function that receives the whole gradient of a weight that had none when the model was checked.

        It raises ModelError if the weight's operations do not show that gradient.
        """

        def receive(parameter: torch.Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None or not bool(gradient.any()):
                return
            block, xp = blocks[0], self.xp
            held = any(each.name in self.called for each in blocks)
            if held and block.kind == "dense" and (values := self.dense.get(block.name)):
                found = sum(xp.sum(value, axis=0) for value in values)
                expected = project_whole(block, from_torch(gradient, xp), *self.matrices[block.name])[0, ...]
                apart, whole = (float(xp.linalg.vector_norm(side)) for side in (found - expected, expected))
                held = apart <= UNCHECKED * whole
            if not held:
                raise ModelError(
                    f"weight {block.weight!r}",
                    expected="no gradient, as in the examples that the model was checked on, or one that its layer's use shows",
                    found="a gradient of another use",
                    hint="Freeze it (requires_grad_(False)), or use it by the operation of its layer.",
                )

        return receive

    def rows(self, order: str) -> Rows:
        """The batch's feature rows, by the order of its rows in operations."""
        xp, n = self.xp, self.examples
        self.seen |= self.dense.keys() | self.sides.keys()
        parts = [self._dense(block, order) for block in self.shape.dense]
        joined = xp.concat(parts, axis=1) if parts else xp.zeros((n, 0), dtype=xp.float32, device=self.device)
        return Rows(xp.astype(joined, xp.float32), tuple(block.size for block in self.shape.dense), self._sparse(order))

    def _dense(self, block: Block, order: str) -> Array:
        calls = self.dense.get(block.name)
        if calls is None:
            dtype = self.matrices[block.name][0].dtype
            return self.xp.zeros((self.examples, block.size), dtype=dtype, device=self.device)
        return reduce(add, (_summed(values, self.examples, order) for values in calls))

    def _sparse(self, order: str) -> Sparse:
        """The vectors of all layers over the vocabulary, joined at each token of each example."""
        blocks, xp = self.shape.tokens, self.xp
        if not blocks:
            return no_tokens(xp, self.device)
        tables = []
        for block in blocks:
            calls = [tuple(_positions(s, self.examples, order) for s in sides) for sides in self.sides.get(block.name, ())]
            width = block.columns if block.kind == "input_tokens" else block.rows
            none = (
                xp.zeros(0, dtype=xp.int64, device=self.device),
                xp.zeros((0, width), dtype=xp.float32, device=self.device),
            )
            tables.append(_token_rows(block, calls) if calls else none)
        cells, values = join_columns(tables)
        widths = tuple(rows.shape[1] for _, rows in tables)
        return Sparse(blocks[0].vocabulary, widths, cells % self.examples, cells // self.examples, values)

    def terms(self, rows: Rows) -> Array:
        """Gradients of a batch's loss terms, `(k, p)`: the dense part with one row for each row of the operations.

        Args:
            rows: the batch's feature rows; their dense part is returned if operations have different numbers of rows.
        """
        dense = [self.dense.get(block.name, []) for block in self.shape.dense]
        joined = [self.xp.concat(calls, axis=0) if len(calls) > 1 else calls[0] for calls in dense if calls]
        equal = len(joined) == len(dense) and len({values.shape[0] for values in joined}) == 1
        return self.xp.concat(joined, axis=1) if equal else rows.dense


def _by_example(values: Array, examples: int, arrangement: str) -> Array:
    """`(k, ...)` as `(examples, k / examples, ...)`."""
    xp = namespace(values)
    if arrangement == TURN_BY_TURN:
        in_turn = xp.reshape(values, (-1, examples, *values.shape[1:]))
        return xp.permute_dims(in_turn, (1, 0, *range(2, in_turn.ndim)))
    return xp.reshape(values, (examples, -1, *values.shape[1:]))


def _summed(values: Array, examples: int, arrangement: str) -> Array:
    """The sum of each example's rows, `(examples, ...)`."""
    if values.shape[0] == examples:  # one row each, in either arrangement
        return values
    return namespace(values).sum(_by_example(values, examples, arrangement), axis=1)


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
    example = xp.reshape(xp.arange(count, device=device_of(d)), (-1, 1))
    cell = xp.reshape(xp.astype(ids, xp.int64) * count + example, (-1,))
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
    ends = xp.searchsorted(example, xp.arange(count, device=device_of(d)), side="right")
    rows = _rows_in_turn(h, d, token, ends) if xp is np else _rows_at_once(h, d, example, token, ends)
    return token * count + example, xp.astype(rows, xp.float32)


def _rows_in_turn(h: Array, d: Array, token: Array, ends: Array) -> Array:
    """`sum_t d[i, t, w] h[i, t]` of each target w of an example i, `(m, rows)`: one product for each example."""
    some = enumerate(pairwise([0, *ends.tolist()]))
    return np.concatenate([np.take(d[at], token[start:end], axis=1).T @ h[at] for at, (start, end) in some])


def _rows_at_once(h: Array, d: Array, example: Array, token: Array, ends: Array) -> Array:
    """The same as one product, with as many targets for each example: on a GPU many small ones cost more."""
    xp, device, count = namespace(d), device_of(d), token.shape[0]
    if not count:
        return xp.zeros((0, h.shape[2]), dtype=h.dtype, device=device)
    starts = xp.concat([xp.zeros(1, dtype=ends.dtype, device=device), ends[:-1]])
    place = xp.arange(count, device=device) - xp.take(starts, example)
    most = int(xp.max(place)) + 1
    filled = xp.clip(starts[:, None] + xp.arange(most, device=device)[None, :], max=count - 1)
    chosen = xp.reshape(xp.take(token, xp.reshape(filled, (-1,))), (-1, 1, most))
    columns = xp.take_along_axis(d, xp.broadcast_to(chosen, (*d.shape[:2], most)), axis=2)
    products = xp.reshape(xp.matrix_transpose(columns) @ h, (-1, h.shape[2]))
    return xp.take(products, example * most + place, axis=0)


def run_batch(adapter: Adapter, module: torch.nn.Module, examples: list[Example], tap: Tap) -> None:
    """Run one forward and one backward pass; the tap collects the gradients."""
    tap.begin(len(examples))
    with tap:
        losses = example_losses(adapter, module, examples)
    if not losses.requires_grad:  # a loss may depend on no weight, such as that of an empty example
        return
    try:
        losses.sum().backward()
    except CheckpointError as error:
        raise ModelError(
            f"adapter {type(adapter).__module__}:{type(adapter).__qualname__}: loss",
            expected="blocks that are computed again alike in the backward pass",
            found="other tensors, because autograd starts inside such a block",
            hint="Let its input require a gradient: x = x.detach().requires_grad_(True) before a block whose input is frozen.",
        ) from error


@contextmanager
def tapped(module: torch.nn.Module, following: Following, projection: Projection, checkpoint: str, xp: Any) -> Iterator[Tap]:
    """Freeze the module's weights, but for those that autograd follows, and tap the others; undone on exit."""
    tap = Tap(module, following.layout, projection, checkpoint, xp)
    tap.shared = frozenset(following.arrangement.shared)
    takers = {block.weight: tap.take_whole(block) for block in following.layout.blocks if block.by == AUTOGRAD}
    unseen: dict[str, list[Block]] = {}
    for block in following.layout.blocks:
        if block.by == UNSEEN:
            unseen.setdefault(block.weight, []).append(block)
    with taken(module, takers | {name: tap.hold(blocks) for name, blocks in unseen.items()}):
        yield tap


@contextmanager
def taken(module: torch.nn.Module, takers: Mapping[str, Any]) -> Iterator[None]:
    """Freeze the module's weights but for some, each with a function that takes it when its gradient is there."""
    trainable, handles = [p for p in module.parameters() if p.requires_grad], []
    try:
        module.requires_grad_(False)
        for name, take in takers.items():
            weight = module.get_parameter(name).requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(take))
        yield
    finally:
        for handle in handles:
            handle.remove()
        module.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
