"""Holds features against autograd before anything rests on them: on a few examples, at one checkpoint, once for a model.

For every weight that is followed, the whole gradient of each example is computed by autograd, projected by the same matrices
and compared. A weight that deviates is followed by autograd instead; one that still deviates, or is too large for that, is not
followed, and the setting `features.unfollowed` says whether the model is refused or the weight left out. A loss that is not the
same twice, or not the same alone as in a batch, is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from provenance.core.arrays import Array, from_torch, namespace
from provenance.core.errors import ModelError
from provenance.core.kernels import add_by_group
from provenance.core.rows import Rows, by_block
from provenance.features.following import chosen, find_following, norm, pass_dtype, uses_of
from provenance.features.gradients import check_finite
from provenance.features.layers import LARGEST_WHOLE, project_whole, too_large
from provenance.features.projection import OPERATION, UNSEEN, Block, Projection
from provenance.features.report import (
    DEVIATES,
    FOLLOWED,
    ONE_BY_ONE,
    SMALL,
    TOO_LARGE,
    UNUSED,
    Arrangement,
    Following,
    LayerCheck,
    Layout,
    Report,
)
from provenance.features.room import measure_room
from provenance.features.tap import Tap, run_batch, taken, tapped
from provenance.models.model import Adapter, Example, example_losses

# Features may deviate from autograd by so much; measured on the architectures of tests/features/test_architectures.py, they do
# by 3e-7 in float32 and 5e-3 in bfloat16.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 0.02}
# A gradient this much smaller than the whole is compared as if it were so large, since rounding decides it.
FLOOR = {torch.float64: 1e-8, torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}


def check_following(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    *,
    projection: Projection,
    checkpoint: str,
    xp: Any,
) -> Report:
    """Check how a model's gradients can be followed.

    Args:
        examples: some tens of different lengths; all are tried for the weights that they use, and at least three
            are compared, and one for each weight.
        projection, checkpoint, xp: as of `gradients.gradient_features`.

    Raises:
        ModelError: the loss is random, depends on the batch, is not finite or has no gradient at all.
    """
    dtype = pass_dtype(module)
    tolerance, few = TOLERANCE[dtype], chosen(examples)
    with_prompt = next((example for example in examples if example.prompt is not None), None)
    if with_prompt is not None and all(example.prompt is None for example in few):
        few.append(with_prompt)
    place = _Place(adapter, module, projection, checkpoint, xp)
    batched = _loss_in_batch(place, few, tolerance)
    uses: dict[str, frozenset[str]] = {}
    covered = uses_of(adapter, module, few).keys()
    for example in examples:
        own = uses_of(adapter, module, [example])
        if not own.keys() <= {*covered, *uses}:  # each weight that is used is compared
            few.append(example)
        uses |= {name: forms | uses.get(name, frozenset()) for name, forms in own.items()}
    sizes = {name: p.numel() for name, p in module.named_parameters() if p.requires_grad}
    large = too_large(module, uses)
    whole: frozenset[str] = frozenset()
    without = large
    deviations: dict[str, float | None] = {}
    while True:
        if sizes and without >= sizes.keys():
            weight = max(without, key=sizes.__getitem__)
            found = f"none; {weight!r} deviates by {deviations.get(weight) or math.inf:.2g}"
            raise ModelError(f"checkpoint {checkpoint}", expected="a weight whose gradient can be followed", found=found)
        following = find_following(adapter, module, few, projection, checkpoint, xp=xp, uses=uses, whole=whole, without=without)
        if not deviations:
            repeated = _deviation_of_same_pass(place, few[-1], following.layout, tolerance)
        deviations |= _compare(place, few, following.layout)
        wrong = {block.weight for block in following.layout.blocks if not (deviations[block.weight] or 0.0) <= tolerance}
        if not wrong:
            break
        lost = {name for name in wrong if name in whole or sizes[name] > LARGEST_WHOLE}
        whole, without = whole | (wrong - lost), without | lost
    if following.arrangement.order != ONE_BY_ONE and not _alike(place, examples, following):
        following = replace(following, arrangement=Arrangement(ONE_BY_ONE))
    following = replace(following, layout=_with_unseen(following.layout, deviations))
    following = replace(following, sizes=_sizes(place, few, following))
    following = replace(following, room=_room(place, few, following))
    layers = _layers(following.layout, deviations, sizes, large)
    name = str(dtype).removeprefix("torch.")
    return Report(checkpoint, name, len(few), tolerance, repeated, batched, layers, following)


@dataclass(frozen=True)
class _Place:
    """A model at a checkpoint, and the projections of its gradients."""

    adapter: Adapter
    module: torch.nn.Module
    projection: Projection
    checkpoint: str
    xp: Any

    def tapped(self, following: Following) -> Any:
        """A tap on the module."""
        return tapped(self.module, following, self.projection, self.checkpoint, self.xp)


def _with_unseen(shape: Layout, deviations: Mapping[str, float | None]) -> Layout:
    """A layout whose weights without a gradient are held against autograd when they have one."""
    unseen = {block for block in shape.blocks if block.by == OPERATION and deviations[block.weight] is None}
    return replace(shape, blocks=tuple(replace(block, by=UNSEEN) if block in unseen else block for block in shape.blocks))


def _layers(
    shape: Layout, deviations: Mapping[str, float | None], sizes: Mapping[str, int], large: frozenset[str]
) -> tuple[LayerCheck, ...]:
    """The verdict on each trainable weight, in the model's order."""
    by = {block.weight: block.by for block in shape.blocks}

    def verdict(name: str) -> str:
        if name in by:
            return UNUSED if deviations[name] is None else FOLLOWED
        return TOO_LARGE if name in large else DEVIATES if name in deviations else SMALL

    return tuple(LayerCheck(name, size, by.get(name, ""), deviations.get(name), verdict(name)) for name, size in sizes.items())


def _loss_in_batch(place: _Place, few: Sequence[Example], tolerance: float) -> float:
    """The largest deviation of losses in a batch from those of each example alone.

    Raises:
        ModelError: it is more than the tolerance, so an example has no likelihood of its own.
    """
    adapter, module = place.adapter, place.module
    with torch.no_grad():
        alone = torch.cat([example_losses(adapter, module, [example]) for example in few]).double().cpu()
        together = example_losses(adapter, module, few).double().cpu()
    deviations = (together - alone).abs() / alone.abs().clamp(min=1e-3 * float(alone.abs().max()) + 1e-30)
    worst = int(deviations.argmax())
    if not float(deviations[worst]) <= tolerance:
        _raise_if_random(place, few[worst], f"losses of {float(alone[worst]):.6g} and {float(together[worst]):.6g}")
        raise ModelError(
            f"adapter {type(adapter).__module__}:{type(adapter).__qualname__}: loss",
            expected=f"the same loss of an example alone as in a batch, within {tolerance:g}",
            found=f"{float(alone[worst]):.6g} alone, {float(together[worst]):.6g} in a batch of {len(few)}",
            hint="Mask padding, and compute nothing across examples.",
        )
    return float(deviations[worst])


def _deviation_of_same_pass(place: _Place, example: Example, shape: Layout, tolerance: float) -> float:
    """How much the features of an example differ when its pass is run again.

    Raises:
        ModelError: by more than the tolerance; it names what draws random numbers.
    """
    with place.tapped(Following(shape, Arrangement(ONE_BY_ONE))) as tap:
        first, second = (_rows_of(place, example, tap) for _ in range(2))
    norms = [norm(part) for part in (first.dense, first.sparse.values)]
    apart = [norm(first.dense - second.dense)]
    same = first.sparse.values.shape == second.sparse.values.shape
    apart.append(norm(first.sparse.values - second.sparse.values) if same else norms[1])
    deviation = math.hypot(*apart) / max(math.hypot(*norms), 1e-30)
    if deviation > tolerance:
        found = f"gradients that differ by {deviation:.1%}"
        _raise_if_random(place, example, found)
        raise ModelError(
            f"checkpoint {place.checkpoint}",
            expected="the same gradients when the same pass is run again",
            found=f"{found}; no function of torch draws random numbers in it",
            hint="The adapter's loss must be a function of the content and the weights alone.",
        )
    return deviation


def _rows_of(place: _Place, example: Example, tap: Tap) -> Rows:
    run_batch(place.adapter, place.module, [example], tap)
    rows = tap.rows(ONE_BY_ONE)
    check_finite(rows, place.checkpoint)
    return rows


def _compare(place: _Place, few: Sequence[Example], shape: Layout) -> dict[str, float | None]:
    """The deviation of each weight's features from autograd, over some examples; None for a weight without a gradient.

    Raises:
        ModelError: no example has a gradient.
    """
    # The hidden sides of token rows are not projected here, so that those of a tied weight can be added up.
    shape = replace(shape, blocks=tuple(_with_whole_rows(block) for block in shape.blocks))
    with place.tapped(Following(shape, Arrangement(ONE_BY_ONE))) as tap:
        rows = [_rows_of(place, example, tap) for example in few]
        sides = tap.matrices
    if not any(bool(namespace(row.dense).any(row.dense != 0)) or norm(row.sparse.values) for row in rows):
        found = f"only zeros for {len(few)} examples"
        raise ModelError(f"checkpoint {place.checkpoint}", expected="gradients of the loss", found=found)
    blocks: dict[str, list[Block]] = {}
    for block in shape.blocks:
        blocks.setdefault(block.weight, []).append(block)
    apart, whole = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0.0)
    for example, row in zip(few, rows, strict=True):
        features = _Features(shape, row)

        def hold(name: str, gradient: Array, features: _Features = features) -> None:
            own = blocks[name]
            found, expected = (
                (features.dense[own[0].name], project_whole(own[0], gradient, *sides[own[0].name]))
                if own[0].kind == "dense"
                else features.token_rows(own, gradient)
            )
            apart[name] += norm(found - expected) ** 2
            whole[name] += norm(expected) ** 2

        seen = _gradients(place, example, blocks, hold)
        for name in blocks.keys() - seen:
            apart[name] += features.square(blocks[name])
    floor = FLOOR[pass_dtype(place.module)] ** 2 * sum(whole.values())
    return {
        name: None if apart[name] == whole[name] == 0 else math.sqrt(apart[name] / max(whole[name], floor)) for name in blocks
    }


def _with_whole_rows(block: Block) -> Block:
    """A block over a vocabulary without a projection of its hidden side; others as they are."""
    if block.kind == "output_tokens":
        return replace(block, rows=block.inputs)
    return replace(block, columns=block.outputs) if block.kind == "input_tokens" else block


class _Features:
    """The features of one example by block: dense ones, and token rows."""

    def __init__(self, shape: Layout, row: Rows) -> None:
        self.dense = dict(zip((b.name for b in shape.dense), by_block(row.dense, row.blocks), strict=True))
        part = row.sparse
        self.token = part.token
        self.rows = dict(zip((b.name for b in shape.tokens), by_block(part.values, part.blocks), strict=True))

    def token_rows(self, blocks: Sequence[Block], gradient: Array) -> tuple[Array, Array]:
        """The rows of all blocks of a weight, added up, and the gradient's, at the tokens that have them.

        A head keeps the rows of targets alone; an embedding those of all inputs, so that others must be zero.
        """
        xp = namespace(gradient)
        heads = [self.rows[block.name] for block in blocks if block.kind == "output_tokens"]
        total = sum(self.rows[block.name] for block in blocks)
        if heads:
            at = xp.nonzero(xp.any(heads[0] != 0, axis=1))[0]
            return xp.take(total, at, axis=0), xp.take(gradient, xp.take(self.token, at), axis=0)
        return add_by_group(total, self.token, gradient.shape[0]), gradient

    def square(self, blocks: Sequence[Block]) -> float:
        """The squared norm of the features of some blocks."""
        return sum(norm(self.dense[b.name] if b.kind == "dense" else self.rows[b.name]) ** 2 for b in blocks)


def _gradients(place: _Place, example: Example, names: Mapping[str, Any], receive: Any) -> set[str]:
    """Send the whole gradient of each weight, as autograd computes it, to a function; returns the names of weights with one.

    One gradient is in memory at a time.
    """
    seen: set[str] = set()

    def taker(name: str) -> Any:
        def take(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:  # a function of the model's own may return none
                seen.add(name)
                receive(name, from_torch(parameter.grad, place.xp))
                parameter.grad = None

        return take

    with taken(place.module, {name: taker(name) for name in names}):
        losses = example_losses(place.adapter, place.module, [example])
        if losses.requires_grad:
            losses.sum().backward()
    return seen


def _alike(place: _Place, examples: Sequence[Example], following: Following) -> bool:
    """Whether all examples have the same uses of weights, with the rows that the arrangement expects."""
    arrangement = following.arrangement
    known = {*arrangement.rows, *arrangement.shared}
    with place.tapped(following) as tap:
        for example in examples:
            tap.begin(1)
            with tap:
                example_losses(place.adapter, place.module, [example])
            if tap.called.keys() != known or not arrangement.holds(tap.called, 1):
                return False
    return True


def _sizes(place: _Place, few: Sequence[Example], following: Following) -> tuple[tuple[int, int], ...]:
    """Bytes that autograd keeps between the forward and the backward pass of one example, by its length."""
    sizes: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in place.module.parameters()}
    with place.tapped(following) as tap:
        for example in few:
            kept: dict[int, int] = {}

            def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            tap.begin(1)
            with tap, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                losses = example_losses(place.adapter, place.module, [example])
            sizes[example.size] = max(sum(kept.values()), sizes.get(example.size, 0))
            del losses
    return tuple(sorted(sizes.items()))


def _room(place: _Place, few: Sequence[Example], following: Following) -> int:
    """Bytes that autograd may keep in a pass, by the peak of a pass of the longest example."""
    longest, (_, kept) = max(few, key=lambda example: example.size), following.sizes[-1]
    with place.tapped(following) as tap:
        return measure_room(next(place.module.parameters()).device, kept, lambda: _rows_of(place, longest, tap))


# Functions that draw random numbers, and functions that do so only while training.
RANDOM = {
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.randint_like,
    torch.bernoulli, torch.multinomial, torch.normal, torch.poisson, torch.Tensor.normal_, torch.Tensor.uniform_,
    torch.Tensor.bernoulli_, torch.Tensor.random_, torch.Tensor.exponential_, torch.Tensor.bernoulli, torch.Tensor.multinomial,
    functional.gumbel_softmax,
}  # fmt: skip
IN_TRAINING = {
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d, functional.alpha_dropout,
    functional.feature_alpha_dropout, functional.rrelu, functional.multi_head_attention_forward,
    functional.fractional_max_pool2d, torch.dropout,
}  # fmt: skip


class _Randomness(TorchFunctionMode):
    """Notes the functions that draw random numbers, with the module that calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.found: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and note it if it draws random numbers."""
        keywords = kwargs or {}
        drawn = func in RANDOM and keywords.get("generator") is None
        if func in IN_TRAINING:
            drawn = _draws(func, args, keywords)
        if func is functional.scaled_dot_product_attention:
            drawn = bool(args[4] if len(args) > 4 else keywords.get("dropout_p"))
        if drawn:
            where = self.inside[-1] if self.inside else "the adapter's loss"
            self.found.append((where, getattr(func, "__name__", str(func))))
        return func(*args, **keywords)


def _draws(function: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    """Whether a function that draws only while training does so."""
    if function is torch.dropout:
        return bool(args[1] and args[2])
    names = inspect.signature(function).bind(*args, **keywords)
    names.apply_defaults()
    values = names.arguments
    return bool(values.get("training", True)) and bool(values.get("p", values.get("dropout_p", 1.0)))


def _raise_if_random(place: _Place, example: Example, found: str) -> None:
    """Raise ModelError if a pass draws random numbers, naming the module and the function that do."""
    noted, handles = _Randomness(), []
    try:
        for name, module in place.module.named_modules():
            title = f"module {name!r} ({type(module).__name__})" if name else f"module {type(module).__name__}"
            handles.append(module.register_forward_pre_hook(lambda *_, title=title: noted.inside.append(title)))
            handles.append(module.register_forward_hook(lambda *_: noted.inside.pop() and None))
        with noted, torch.no_grad():
            example_losses(place.adapter, place.module, [example])
    finally:
        for handle in handles:
            handle.remove()
    if noted.found:
        where, function = noted.found[0]
        more = len(noted.found) - 1
        raise ModelError(
            where,
            expected="the same loss and gradients when the same pass is run again",
            found=f"{found}: {function} draws random numbers" + (f", and so do {more} more calls" if more else ""),
            hint="Put the module in evaluation mode in the adapter's loss, and draw noise from the content.",
        )
