"""Gradients for targets that the model itself would give: what the Fisher information is made of.

Curvature is a sum over loss terms (tokens, noise draws), and its unbiased estimate takes targets sampled from the model, not
those of the data (Kunstner et al. 2019, arXiv 1905.12558, section 3). An adapter says its loss and nothing of its targets, so
the law of the targets is recognised from the loss, as a function of the module's output z:

- cross-entropy: the gradient is `w (softmax(z) - e_y)` for some class y at each position; another class is drawn.
- a sum over the elements of z with curvature h >= 0 (squared errors, weighted or not): `sqrt(h)` times a normal number.

For any other loss, or a module that is not called as a whole, the data's own gradients stand in, and that is said.
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
from provenance.features.gradients import ONE_BY_ONE, arrangement_of, check_rows, hooked
from provenance.features.layers import layout
from provenance.features.projection import Projection
from provenance.models.model import Adapter, example_losses

CROSS_ENTROPY, ELEMENTWISE, DATA = "cross-entropy", "elementwise", "the data's own"
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Terms:
    """Gradients of a batch.

    Attributes:
        data: rows for the data's own targets.
        sampled: rows for sampled targets, one per example.
        terms: dense part for sampled targets, `(k, p)` with one row for each row that the layers saw.
        law: how targets were sampled.
    """

    data: Rows
    sampled: Rows
    terms: Array
    law: str


def sampled_features(
    adapter: Adapter,
    module: torch.nn.Module,
    contents: Sequence[bytes],
    *,
    projection: Projection,
    checkpoint: str,
    batch_size: int,
    draws: int,
    xp: Any = None,
) -> Iterator[Terms]:
    """Gradients for the data's targets and, `draws` times, for sampled ones, batch by batch; one forward pass for all.

    Batches are taken in the order given, and the random numbers of a batch are a function of its contents.
    """
    xp = xp or namespace_of(next(module.parameters()).device.type)
    shape = layout(module, projection)
    with hooked(module, shape, projection, checkpoint, xp) as tap:
        arrangement = arrangement_of(adapter, module, contents, tap)
        size = 1 if arrangement == ONE_BY_ONE else batch_size
        for start in range(0, len(contents), size):
            chosen = list(contents[start : start + size])
            tap.clear(len(chosen))
            found = []
            for law in _backward_passes(adapter, module, chosen, checkpoint=checkpoint, draws=draws):
                rows = tap.rows(arrangement)
                check_rows(rows, checkpoint)
                found.append((law, rows, tap.terms(rows)))
                tap.clear(len(chosen))
            (_, data, _), *sampled = found
            for law, rows, terms in sampled:
                yield Terms(data, rows, terms, law)


def _backward_passes(
    adapter: Adapter, module: torch.nn.Module, contents: list[bytes], *, checkpoint: str, draws: int
) -> Iterator[str]:
    """One forward pass, a backward pass for the data's targets, and then one for each draw of sampled ones.

    Yields:
        after each backward pass, the law of its targets.
    """
    with cut(module) as cuts:
        losses = example_losses(adapter, module, contents)
    generator = torch.Generator().manual_seed(_seed(contents, checkpoint))
    found = torch.autograd.grad(losses.sum(), [leaf for _, leaf in cuts], create_graph=True, allow_unused=True) if cuts else ()
    used = [(pair, slope) for pair, slope in zip(cuts, found, strict=True) if slope is not None]
    cuts, slopes = [pair for pair, _ in used], [slope for _, slope in used]
    leaves = [leaf for _, leaf in cuts]
    _backward(cuts, slopes, losses)
    yield DATA
    for _ in range(draws):
        drawn = [sample_flow(leaf, slope, generator) for leaf, slope in zip(leaves, slopes, strict=True)]
        _backward(cuts, [noise for noise, _ in drawn], losses)
        yield drawn[0][1] if drawn else DATA


@contextmanager
def cut(module: torch.nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Part the module's output from the loss: the loss sees a leaf, and what flows back into the module is ours to choose.

    Yields:
        each output with its leaf, as they come.
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


def _backward(cuts: list[tuple[torch.Tensor, torch.Tensor]], flows: Sequence[torch.Tensor], losses: torch.Tensor) -> None:
    """Send gradients of the outputs back through the module; without a cut, those of the loss."""
    if cuts:
        torch.autograd.backward([z for z, _ in cuts], [flow.detach() for flow in flows], retain_graph=True)
    else:
        losses.sum().backward(retain_graph=True)


def sample_flow(leaf: torch.Tensor, slope: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, str]:
    """An output gradient with the covariance of those that sampled targets would give, and the law that it follows.

    Args:
        leaf: the module's output, as the loss saw it.
        slope: the loss' gradient with respect to it, itself a function of it.
    """
    z, d = leaf.detach(), slope.detach()
    for axis in dict.fromkeys((z.dim() - 1, 1)):
        if z.dim() > 1 and (weights := _class_weights(z, d, axis)) is not None:
            return _other_classes(z, weights, axis, generator), CROSS_ENTROPY
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), leaf, retain_graph=True)
        signs = torch.randint(0, 2, z.shape, generator=generator).to(z) * 2 - 1
        (mixed,) = torch.autograd.grad((slope * signs).sum(), leaf, retain_graph=True)
        apart = (mixed - signs * curvature).norm() <= TOLERANCE * curvature.norm()
        if bool(apart) and bool((curvature >= 0).all()) and bool(curvature.any()):
            return curvature.sqrt() * torch.randn(z.shape, generator=generator).to(z), ELEMENTWISE
    return d, DATA


def _class_weights(z: torch.Tensor, d: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The weights w for which `d = w (softmax(z) - e_y)`, one for each position; None where d is nothing of the kind."""
    if z.shape[axis] < 2:
        return None
    error = z.softmax(axis)
    target = d.argmin(axis, keepdim=True)
    error = error.scatter_add(axis, target, -torch.ones_like(target, dtype=z.dtype))
    weights = (d * error).sum(axis, keepdim=True) / error.square().sum(axis, keepdim=True).clamp(min=1e-30)
    return weights if bool((d - weights * error).norm() <= TOLERANCE * d.norm()) and bool((weights >= 0).all()) else None


def _other_classes(z: torch.Tensor, weights: torch.Tensor, axis: int, generator: torch.Generator) -> torch.Tensor:
    """`w (softmax(z) - e_y)` with y drawn from the softmax, by inverting its distribution function."""
    chances = z.softmax(axis)
    uniform = torch.rand(weights.shape, generator=generator).to(z)
    drawn = (chances.cumsum(axis) < uniform).sum(axis, keepdim=True).clamp(max=z.shape[axis] - 1)
    return weights * chances.scatter_add(axis, drawn, -torch.ones_like(drawn, dtype=z.dtype))


def _seed(contents: Sequence[bytes], checkpoint: str) -> int:
    sha = hashlib.sha256(checkpoint.encode())
    for content in contents:
        sha.update(hashlib.sha256(content).digest())
    return int.from_bytes(sha.digest()[:8]) >> 1
