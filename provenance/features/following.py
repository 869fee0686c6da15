"""Finds how a model's gradients can be followed: the uses of its weights, and the arrangement of its batches.

Both are found by trying a few examples. `checks` holds the result against autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from provenance.core.arrays import Array, namespace
from provenance.core.rows import Rows, by_block, concatenate
from provenance.features.layers import layout
from provenance.features.operations import (
    CASTS,
    EXPERTS,
    EXPERTS_INPUT_FIRST,
    HARMLESS,
    OPERATIONS,
    OTHER,
    VIEWS,
    Weight,
    call_of,
    view_of,
    weights_among,
)
from provenance.features.projection import AUTOGRAD, Projection
from provenance.features.report import ONE_BY_ONE, SIDE_BY_SIDE, TURN_BY_TURN, Arrangement, Following, Layout
from provenance.features.tap import Tap, run_batch, tapped
from provenance.models.model import Adapter, Example, example_losses

# Features of an example alone and in a batch may differ by so much, for rounding; in a wrong arrangement they are others.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def chosen(examples: Sequence[Example], count: int = 3) -> list[Example]:
    """A few different examples, short and long ones; at least two, even if they are the same."""
    by_length = sorted(set(examples), key=lambda example: (example.size, example.content))
    places = {round(at * (len(by_length) - 1) / max(1, count - 1)) for at in range(count)}
    found = [by_length[place] for place in sorted(places)]
    return found if len(found) > 1 else found * 2


def pass_dtype(module: torch.nn.Module) -> torch.dtype:
    """The type whose rounding decides a pass: the least exact of the weights', and at least bfloat16 for quantised ones."""
    kinds = {parameter.dtype if parameter.dtype in TOLERANCE else torch.bfloat16 for parameter in module.parameters()}
    return max(kinds, key=TOLERANCE.__getitem__)


def find_following(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    projection: Projection,
    checkpoint: str,
    *,
    xp: Any,
    uses: Mapping[str, frozenset[str]] | None = None,
    whole: frozenset[str] = frozenset(),
    without: frozenset[str] = frozenset(),
) -> Following:
    """How a model's gradients are followed, found on a few of the examples.

    Args:
        uses: forms of the uses of weights, by default those in these examples.
        whole: weights to follow by autograd, whatever their uses.
        without: weights to leave out.
    """
    few = chosen(examples)
    uses = uses_of(adapter, module, few) if uses is None else uses
    shape = layout(module, projection, uses, whole=whole, without=without)
    if len(examples) == 1 or _alone(shape):
        return Following(shape, Arrangement(ONE_BY_ONE))
    with tapped(module, Following(shape, Arrangement(SIDE_BY_SIDE)), projection, checkpoint, xp) as tap:
        return Following(shape, find_arrangement(adapter, module, few, tap))


def _alone(shape: Layout) -> bool:
    """Whether the layout needs each example by itself."""
    return any(block.by == AUTOGRAD or block.form in (EXPERTS, EXPERTS_INPUT_FIRST) for block in shape.blocks)


def uses_of(adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example]) -> dict[str, frozenset[str]]:
    """The forms of all uses of each trainable weight of two axes or more, in the losses of the examples.

    A weight that no example uses is not in the result; OTHER stands for a use that no operation is known for.
    """
    trace = Trace(module)
    for example in examples:
        with trace, torch.no_grad():
            trace.begin()
            example_losses(adapter, module, [example])
    return {name: frozenset(forms) for name, forms in trace.uses.items()}


class Trace(TorchFunctionMode):
    """Notes the uses of a module's trainable weights.

    Attributes:
        uses: forms of the uses, by the weight's name.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.weights = {
            id(p): Weight(name, p.dim()) for name, p in module.named_parameters() if p.requires_grad and p.dim() > 1
        }
        self.uses: dict[str, set[str]] = {}
        self.begin()

    def begin(self) -> None:
        """Forget views of the last forward pass."""
        self.known = dict(self.weights)
        self.views: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and note the weights among its arguments."""
        keywords = kwargs or {}
        result = func(*args, **keywords)
        among = weights_among(args, keywords, self.known)
        if not among or func in HARMLESS or not _has_tensor(result):
            return result
        if id(result) in self.known:  # the weight itself, such as a cast to the type that it has
            return result
        if func in CASTS and id(args[0]) not in self.known:  # only the type is read
            return result
        if func in VIEWS and (view := view_of(func, args, keywords, self.known)):
            self.known[id(result)] = view
            self.views.append(result)
            return result
        call = call_of(func, args, keywords, self.known) if func in OPERATIONS else None
        for weight in among:
            form = call.form if call and call.weight.name == weight.name else OTHER
            self.uses.setdefault(weight.name, set()).add(form)
        return result


def _has_tensor(result: Any) -> bool:
    values = result if isinstance(result, list | tuple) else [result]
    return any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in values)


def find_arrangement(adapter: Adapter, module: torch.nn.Module, few: Sequence[Example], tap: Tap) -> Arrangement:
    """The arrangement of this adapter's batches in the rows of operations.

    It is the one in which a few examples in a batch have the same features as each alone. If there is none (for example because
    the loss depends on the whole batch), examples are computed one by one.
    """
    single, called = [], []
    for example in few:
        run_batch(adapter, module, [example], tap)
        single.append(tap.rows(ONE_BY_ONE))
        called.append({name: tuple(rows) for name, rows in tap.called.items()})
    expected = concatenate(single)
    if any(rows.keys() != called[0].keys() or any(len(rows[n]) != len(called[0][n]) for n in rows) for rows in called):
        return Arrangement(ONE_BY_ONE)  # examples use different weights, so that a batch cannot be taken apart
    tolerance = TOLERANCE[pass_dtype(module)]
    try:
        run_batch(adapter, module, list(few), tap)
        shared = _shared(tap.called, called)
        if shared:
            tap.shared = frozenset(shared)
            run_batch(adapter, module, list(few), tap)
    except RuntimeError:  # an operation has one row for the whole batch
        return Arrangement(ONE_BY_ONE)
    finally:
        tap.shared = frozenset()
    rows = {
        name: tuple(counts[0] if len(set(counts)) == 1 else 0 for counts in zip(*(one[name] for one in called), strict=True))
        for name in called[0]
        if name not in shared
    }
    for order in (SIDE_BY_SIDE, TURN_BY_TURN):
        try:
            arrangement = Arrangement(order, tuple(shared), rows)
            if arrangement.holds(tap.called, len(few)) and nearly_equal(tap.rows(order), expected, tolerance):
                return arrangement
        except ValueError:  # the number of rows is no multiple of the number of examples
            continue
    return Arrangement(ONE_BY_ONE)


def _shared(together: Mapping[str, Sequence[int]], alone: Sequence[Mapping[str, Sequence[int]]]) -> list[str]:
    """Blocks with as many rows in a batch as for its longest example alone."""
    return [
        name
        for name, rows in together.items()
        if max(rows) > 1 and list(rows) == [max(counts) for counts in zip(*(one[name] for one in alone), strict=True)]
    ]


def nearly_equal(rows: Rows, expected: Rows, tolerance: float) -> bool:
    """Whether features are equal up to a tolerance, relative to each layer over the vocabulary and to all inner layers."""
    xp, part, other = namespace(rows.dense), rows.sparse, expected.sparse
    if part.values.shape != other.values.shape or not bool(
        xp.all((part.token == other.token) & (part.example == other.example))
    ):
        return False
    blocks = (by_block(sparse.values, sparse.blocks) for sparse in (part, other))
    pairs = [(rows.dense, expected.dense), *zip(*blocks, strict=True)]
    return all(a.shape == b.shape and norm(a - b) <= tolerance * norm(b) for a, b in pairs)


def norm(values: Array) -> float:
    """The Euclidean norm of all numbers, in float64."""
    xp = namespace(values)
    return float(xp.linalg.vector_norm(xp.astype(values, xp.float64))) if 0 not in values.shape else 0.0
