"""Computes gradients for targets sampled from the model, from which the Fisher information is estimated.

Curvature is a sum over loss terms (tokens, noise draws), and its unbiased estimate needs targets sampled from the model, not
those of the data (Kunstner et al. 2019, arXiv 1905.12558, section 3). An adapter defines its loss but not its targets, so the
law of the targets is recognised from the loss as a function of the module's output z:

- cross-entropy: the gradient is `w (softmax(z) - e_y)` for some class y at each position; another class is drawn.
- a sum over the elements of z with curvature h >= 0 (squared errors, weighted or not): `sqrt(h)` times a normal number.

For any other loss, a module that is not called as a whole or whose weights the loss uses again, the gradients of the data are
used, and `law` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from provenance.core.arrays import Array, pass_namespace
from provenance.core.rows import Rows
from provenance.features.following import find_following
from provenance.features.gradients import batched, check_finite
from provenance.features.projection import Projection
from provenance.features.report import ONE_BY_ONE, TURN_BY_TURN, Arrangement, Following
from provenance.features.room import of_memory
from provenance.features.tap import Tap, tapped
from provenance.models.model import Adapter, Example, example_losses

# Numbers of the softmax that are computed at once.
BLOCK_NUMBERS = 2**24
CROSS_ENTROPY, ELEMENTWISE, DATA = "cross-entropy", "elementwise", "the data's own"
LAWS = (DATA, ELEMENTWISE, CROSS_ENTROPY)  # the weakest first
# A gradient of the output may differ from a law by so much, for its rounding.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 0.01}

# Peak memory with the loss's own graph of gradients, against that of `gradient_features`.
SECOND = 1.7


@dataclass(frozen=True)
class Terms:
    """Gradients of a batch for sampled targets.

    Attributes:
        rows: feature rows.
        terms: dense part by loss term, `(k, p)` (`Tap.terms`).
        law: law of the targets: `CROSS_ENTROPY`, `ELEMENTWISE` or, if unknown, `DATA`; of several outputs the weakest.
    """

    rows: Rows
    terms: Array
    law: str


def sampled_features(
    adapter: Adapter,
    module: torch.nn.Module,
    examples: Sequence[Example],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    draws: int,
    memory: float | None = None,
    following: Following | None = None,
    xp: Any = None,
) -> Iterator[Terms]:
    """Gradients for `draws` samples of targets, batch by batch, with one forward pass each.

    The random numbers of an example depend on it and the checkpoint alone, so batches change only rounding.

    Args: those of `gradient_features`, and `draws`.

    Yields:
        the terms of each batch and draw; batches have examples of similar lengths.
    """
    xp = xp or pass_namespace(next(module.parameters()).device.type)
    following = following or find_following(adapter, module, examples, projection, checkpoint, xp=xp)
    with tapped(module, following, projection, checkpoint, xp) as tap:
        for numbers in batched(examples, following, batch_size, memory, peak=SECOND):
            batch = [examples[number] for number in numbers]
            try:
                passes = _passes(adapter, module, batch, tap, following.arrangement, draws=draws, checkpoint=checkpoint)
            except (UnknownRows, RuntimeError) as error:  # an operation has one row for the batch, or other rows than expected
                if len(batch) == 1 or of_memory(error):
                    raise
                alone = replace(following.arrangement, order=ONE_BY_ONE)
                for example in batch:
                    single = _passes(adapter, module, [example], tap, alone, draws=draws, checkpoint=checkpoint)
                    yield from single
                continue
            yield from passes


class UnknownRows(ValueError):
    """The rows of a batch's operations or outputs cannot be told apart by example."""


def _passes(
    adapter: Adapter,
    module: torch.nn.Module,
    batch: list[Example],
    tap: Tap,
    arrangement: Arrangement,
    *,
    draws: int,
    checkpoint: str,
) -> list[Terms]:
    """The terms of a batch, for each draw."""
    order = arrangement.order if len(batch) > 1 else ONE_BY_ONE
    passes = []
    tap.begin(len(batch))
    for law in _backward_passes(adapter, module, batch, tap, draws=draws, drawn=Draws(batch, checkpoint, order)):
        if len(batch) > 1 and not arrangement.holds(tap.called, len(batch)):
            raise UnknownRows
        rows = tap.rows(order)
        check_finite(rows, checkpoint)
        passes.append(Terms(rows, tap.terms(rows), law))
        tap.clear(len(batch))
    return passes


def _backward_passes(
    adapter: Adapter, module: torch.nn.Module, batch: list[Example], tap: Tap, *, draws: int, drawn: Draws
) -> Iterator[str]:
    """Run one forward pass, and a backward pass for each sample of targets.

    Yields:
        after each backward pass, the law of its targets.
    """
    with tap, cut(module) as cuts:
        losses = example_losses(adapter, module, batch)
    leaves = [leaf for _, leaf in cuts]
    connected = bool(cuts) and losses.requires_grad
    tap.listening = False
    # Only curvature that is no cross-entropy's needs the gradient's own gradient, and the memory for it.
    slopes = torch.autograd.grad(losses.sum(), leaves, retain_graph=True, allow_unused=True) if connected else ()
    classes = [None if slope is None else classes_of(leaf, slope) for leaf, slope in zip(leaves, slopes, strict=False)]
    if any(slope is not None and found is None for slope, found in zip(slopes, classes, strict=True)):
        slopes = torch.autograd.grad(losses.sum(), leaves, create_graph=True, allow_unused=True)
    tap.listening = True
    if connected and (tap.unheard or _has_other_leaves(losses, leaves)):  # a weight is used after the module's output
        tap.begin(len(batch))
        with tap:
            losses = example_losses(adapter, module, batch)
        slopes = ()
    used = [
        (output, leaf, slope, found)
        for (output, leaf), slope, found in zip(cuts, slopes, classes, strict=False)
        if slope is not None and output.requires_grad
    ]
    outputs = [output for output, *_ in used]
    for _ in range(draws):
        samples = [sample_flow(leaf, slope, found, drawn) for _, leaf, slope, found in used]
        _backward(outputs, [flow for flow, _ in samples], losses)
        yield min((law for _, law in samples), key=LAWS.index, default=DATA)


def _has_other_leaves(losses: torch.Tensor, leaves: Sequence[torch.Tensor]) -> bool:
    """Whether the losses depend on a tensor that requires a gradient and is none of the leaves."""
    known, seen, nodes = {id(leaf) for leaf in leaves}, set(), [losses.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", leaves[0])) not in known:
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


class Draws:
    """Random numbers for a batch's outputs; those of an example are the same in every batch and with any padding.

    Args:
        order: arrangement of the examples in the rows of the outputs.
    """

    def __init__(self, batch: Sequence[Example], checkpoint: str, order: str) -> None:
        self.order = order
        self.generators = [np.random.Generator(np.random.Philox(_seed(example, checkpoint))) for example in batch]

    def fill(self, where: torch.Tensor, kind: str) -> torch.Tensor:
        """Random numbers at the places where a mask `(k, ...)` is true, in their order for each example; zeros elsewhere.

        Args:
            kind: `random` (uniform on [0, 1)) or `standard_normal`.

        Raises:
            UnknownRows: the rows are no multiple of the examples.
        """
        mask, count = where.cpu().numpy(), len(self.generators)
        if mask.ndim == 0 or len(mask) % count:
            raise UnknownRows
        numbers = np.zeros(mask.shape, dtype=np.float32)
        size = len(mask) // count
        for place, generator in enumerate(self.generators):
            own = slice(place, None, count) if self.order == TURN_BY_TURN else slice(place * size, (place + 1) * size)
            numbers[own][mask[own]] = getattr(generator, kind)(int(mask[own].sum()))
        return torch.from_numpy(numbers).to(where.device)


@contextmanager
def cut(module: torch.nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Separate the module's output from the loss: the loss receives a leaf, so any gradient can be sent into the module.

    Yields:
        a list that collects each output with its leaf.
    """
    cuts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def leaf_of(z: torch.Tensor) -> torch.Tensor:
        cuts.append((z, z.detach().requires_grad_(True)))
        return cuts[-1][1]

    def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return leaf_of(output)
        if isinstance(logits := getattr(output, "logits", None), torch.Tensor):
            if isinstance(output, MutableMapping):
                output["logits"] = leaf_of(logits)
            else:
                output.logits = leaf_of(logits)
        elif isinstance(output, tuple):
            return tuple(leaf_of(z) if isinstance(z, torch.Tensor) and z.is_floating_point() else z for z in output)
        return output

    handle = module.register_forward_hook(hook)
    try:
        yield cuts
    finally:
        handle.remove()


def _backward(outputs: list[torch.Tensor], flows: Sequence[torch.Tensor], losses: torch.Tensor) -> None:
    """Send gradients of the outputs back through the module; without outputs, those of the loss."""
    if outputs:
        torch.autograd.backward(outputs, [flow.detach() for flow in flows], retain_graph=True)
    elif losses.requires_grad:
        losses.sum().backward(retain_graph=True)


def sample_flow(
    leaf: torch.Tensor, slope: torch.Tensor, classes: tuple[torch.Tensor, int] | None, drawn: Draws
) -> tuple[torch.Tensor, str]:
    """An output gradient with the covariance of the gradients for sampled targets, and the law of these targets.

    Args:
        leaf: the module's output, as a leaf.
        slope: the loss's gradient with respect to the leaf, itself differentiable if the loss is no cross-entropy.
        classes: of a cross-entropy (`classes_of`).
    """
    z, tolerance = _wide(leaf.detach()), TOLERANCE[leaf.dtype]
    if classes is not None:
        return _sample_classes(z, *classes, drawn).to(leaf.dtype), CROSS_ENTROPY
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), leaf, retain_graph=True)
        signs = torch.randint(0, 2, z.shape, generator=torch.Generator().manual_seed(0)).to(leaf) * 2 - 1
        (mixed,) = torch.autograd.grad((slope * signs).sum(), leaf, retain_graph=True)
        curvature, mixed = _wide(curvature), _wide(mixed)
        elementwise = (mixed - _wide(signs) * curvature).norm() <= tolerance * curvature.norm()
        if bool(elementwise) and bool((curvature >= 0).all()) and bool(curvature.any()):
            numbers = drawn.fill(curvature > 0, "standard_normal").to(z)
            return (curvature.sqrt() * numbers).to(leaf.dtype), ELEMENTWISE
    return slope.detach(), DATA


def classes_of(leaf: torch.Tensor, slope: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """The weights of a cross-entropy at each place, and the axis of its classes; None if the loss is none."""
    z, d = (_wide(tensor.detach()) for tensor in (leaf, slope))
    for axis in dict.fromkeys((z.dim() - 1, 1)):
        if z.dim() > 1 and (weights := _class_weights(z, d, axis, TOLERANCE[leaf.dtype])) is not None:
            return weights, axis
    return None


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.element_size() < torch.float32.itemsize else tensor


def _class_weights(z: torch.Tensor, d: torch.Tensor, axis: int, tolerance: float) -> torch.Tensor | None:
    """The weights w with `d = w (softmax(z) - e_y)`, one for each position; None if d has another form."""
    if z.shape[axis] < 2:
        return None
    logits, slopes = _by_position(z, axis), _by_position(d, axis)
    weights = z.new_zeros(len(logits), 1)
    deviation = size = 0.0
    for block in _blocks(logits):
        slope, error = slopes[block], logits[block].softmax(1)
        target = slope.argmin(1, keepdim=True)
        error = error.scatter_add(1, target, -torch.ones_like(target, dtype=z.dtype))
        weights[block] = (slope * error).sum(1, keepdim=True) / error.square().sum(1, keepdim=True).clamp(min=1e-30)
        deviation += (slope - weights[block] * error).square().sum().item()
        size += slope.square().sum().item()
    if deviation > tolerance**2 * size or bool((weights < 0).any()):
        return None
    return _as_before(weights, z, axis)


def _sample_classes(z: torch.Tensor, weights: torch.Tensor, axis: int, drawn: Draws) -> torch.Tensor:
    """`w (softmax(z) - e_y)` with y drawn from the softmax, by inverting its distribution function."""
    logits, uniform = _by_position(z, axis), _by_position(drawn.fill(weights > 0, "random").to(z), axis)
    flow, weight = torch.empty_like(logits), _by_position(weights, axis)
    for block in _blocks(logits):
        probabilities = logits[block].softmax(1)
        classes = torch.searchsorted(probabilities.cumsum(1), uniform[block]).clamp(max=z.shape[axis] - 1)
        errors = probabilities.scatter_add_(1, classes, -torch.ones_like(classes, dtype=z.dtype))
        torch.mul(weight[block], errors, out=flow[block])
    return _as_before(flow, z, axis)


def _by_position(values: torch.Tensor, axis: int) -> torch.Tensor:
    """`(positions, classes)`."""
    return values.movedim(axis, -1).flatten(0, -2)


def _as_before(values: torch.Tensor, z: torch.Tensor, axis: int) -> torch.Tensor:
    """The inverse of `_by_position`, for a tensor with the positions of z."""
    positions = z.movedim(axis, -1).shape[:-1]
    return values.view(*positions, values.shape[1]).movedim(-1, axis)


def _blocks(rows: torch.Tensor) -> Iterator[slice]:
    """Positions in blocks, because each needs several numbers for every class."""
    size = max(1, BLOCK_NUMBERS // rows.shape[1])
    return (slice(start, start + size) for start in range(0, len(rows), size))


def _seed(example: Example, checkpoint: str) -> int:
    sha = hashlib.sha256(checkpoint.encode())
    for part in (example.content, *([] if example.prompt is None else [example.prompt])):
        sha.update(hashlib.sha256(part).digest())
    return int.from_bytes(sha.digest()[:16])
