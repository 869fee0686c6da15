"""Computes gradients for targets sampled from the model, from which the Fisher information is estimated.

Curvature is a sum over loss terms (tokens, noise draws), and its unbiased estimate needs targets sampled from the model, not
those of the data (Kunstner et al. 2019, arXiv 1905.12558, section 3). An adapter defines its loss but not its targets, so the
law of the targets is recognised from the loss as a function of the module's output z:

- cross-entropy: the gradient is `w (softmax(z) - e_y)` for some class y at each position; another class is drawn.
- a sum over the elements of z with curvature h >= 0 (squared errors, weighted or not): `sqrt(h)` times a normal number.

For any other loss, or a module that is not called as a whole, the gradients of the data are used, and `law` says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from provenance.core.arrays import Array, namespace_of
from provenance.core.rows import Rows
from provenance.features.gradients import ONE_BY_ONE, check_rows, find_arrangement, hooked
from provenance.features.layers import layout
from provenance.features.projection import Projection
from provenance.models.model import Adapter, Example, example_losses

CROSS_ENTROPY, ELEMENTWISE, DATA = "cross-entropy", "elementwise", "the data's own"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Terms:
    """Gradients of a batch.

    Attributes:
        data: feature rows for the targets of the data.
        sampled: feature rows for sampled targets.
        terms: dense part for sampled targets by loss term, `(k, p)` (`Tap.terms`).
        law: law of the sampled targets: `CROSS_ENTROPY`, `ELEMENTWISE` or, if unknown, `DATA`.
    """

    data: Rows
    sampled: Rows
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
    xp: Any = None,
) -> Iterator[Terms]:
    """Gradients for the targets of the data and for `draws` samples of targets, batch by batch, with one forward pass each.

    Batches follow the order of the examples. The random numbers of a batch depend only on its examples and the checkpoint.

    Yields:
        the terms of each batch and draw.
    """
    xp = xp or namespace_of(next(module.parameters()).device.type)
    shape = layout(module, projection)
    with hooked(module, shape, projection, checkpoint, xp) as tap:
        arrangement = find_arrangement(adapter, module, examples, tap)
        size = 1 if arrangement == ONE_BY_ONE else batch_size
        for start in range(0, len(examples), size):
            batch = list(examples[start : start + size])
            tap.clear(len(batch))
            passes = []
            for law in _backward_passes(adapter, module, batch, checkpoint=checkpoint, draws=draws):
                rows = tap.rows(arrangement)
                check_rows(rows, checkpoint)
                passes.append((law, rows, tap.terms(rows)))
                tap.clear(len(batch))
            (_, data, _), *sampled = passes
            for law, rows, terms in sampled:
                yield Terms(data, rows, terms, law)


def _backward_passes(
    adapter: Adapter, module: torch.nn.Module, examples: Sequence[Example], *, checkpoint: str, draws: int
) -> Iterator[str]:
    """Run one forward pass, a backward pass for the targets of the data, and one for each sample of targets.

    Yields:
        after each backward pass, the law of its targets.
    """
    with cut(module) as cuts:
        losses = example_losses(adapter, module, examples)
    generator = torch.Generator().manual_seed(_seed(examples, checkpoint))
    leaves = [leaf for _, leaf in cuts]
    slopes = torch.autograd.grad(losses.sum(), leaves, create_graph=True, allow_unused=True) if cuts else ()
    used = [(output, leaf, slope) for (output, leaf), slope in zip(cuts, slopes, strict=True) if slope is not None]
    outputs = [output for output, _, _ in used]
    _backward(outputs, [slope for _, _, slope in used], losses)
    yield DATA
    for _ in range(draws):
        samples = [sample_flow(leaf, slope, generator) for _, leaf, slope in used]
        _backward(outputs, [flow for flow, _ in samples], losses)
        yield samples[0][1] if samples else DATA


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
        if isinstance(getattr(output, "logits", None), torch.Tensor):
            output["logits"] = leaf_of(output.logits)
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
    else:
        losses.sum().backward(retain_graph=True)


def sample_flow(leaf: torch.Tensor, slope: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, str]:
    """An output gradient with the covariance of the gradients for sampled targets, and the law of these targets.

    Args:
        leaf: the module's output, as a leaf.
        slope: the loss's gradient with respect to the leaf, itself differentiable.
    """
    z, d = leaf.detach(), slope.detach()
    for axis in dict.fromkeys((z.dim() - 1, 1)):
        if z.dim() > 1 and (weights := _class_weights(z, d, axis)) is not None:
            return _sample_classes(z, weights, axis, generator), CROSS_ENTROPY
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), leaf, retain_graph=True)
        signs = torch.randint(0, 2, z.shape, generator=generator).to(z) * 2 - 1
        (mixed,) = torch.autograd.grad((slope * signs).sum(), leaf, retain_graph=True)
        elementwise = (mixed - signs * curvature).norm() <= TOLERANCE * curvature.norm()
        if bool(elementwise) and bool((curvature >= 0).all()) and bool(curvature.any()):
            return curvature.sqrt() * torch.randn(z.shape, generator=generator).to(z), ELEMENTWISE
    return d, DATA


def _class_weights(z: torch.Tensor, d: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The weights w with `d = w (softmax(z) - e_y)`, one for each position; None if d has another form."""
    if z.shape[axis] < 2:
        return None
    error = z.softmax(axis)
    target = d.argmin(axis, keepdim=True)
    error = error.scatter_add(axis, target, -torch.ones_like(target, dtype=z.dtype))
    weights = (d * error).sum(axis, keepdim=True) / error.square().sum(axis, keepdim=True).clamp(min=1e-30)
    return weights if bool((d - weights * error).norm() <= TOLERANCE * d.norm()) and bool((weights >= 0).all()) else None


def _sample_classes(z: torch.Tensor, weights: torch.Tensor, axis: int, generator: torch.Generator) -> torch.Tensor:
    """`w (softmax(z) - e_y)` with y drawn from the softmax, by inverting its distribution function."""
    probabilities = z.softmax(axis)
    uniform = torch.rand(weights.shape, generator=generator).to(z)
    classes = (probabilities.cumsum(axis) < uniform).sum(axis, keepdim=True).clamp(max=z.shape[axis] - 1)
    return weights * probabilities.scatter_add(axis, classes, -torch.ones_like(classes, dtype=z.dtype))


def _seed(examples: Sequence[Example], checkpoint: str) -> int:
    sha = hashlib.sha256(checkpoint.encode())
    for example in examples:
        sha.update(hashlib.sha256(example.content).digest())
        if example.prompt is not None:
            sha.update(hashlib.sha256(example.prompt).digest())
    return int.from_bytes(sha.digest()[:8]) >> 1
