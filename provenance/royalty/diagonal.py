"""What each work adds when everybody's works come in together: the Aumann-Shapley value, by the replay's derivative.

With many works, a work's Shapley value is the derivative of the value with respect to its weight, all weights being t, on
average over t from 0 to 1 (Aumann and Shapley 1974, chapter III; as the limit of group values Wang et al. 2025,
arXiv 2505.19013). The derivative is taken backwards through the replay, once for each output and node, whatever the number of
works; it is a linear function of a work's gradients at the checkpoints, which are then read once.

A work adds in two ways. It turns the gradient, which is its own less everybody's mean, and it makes the run longer, which is
what any work does. The values of all works sum to v(1) - v(0), the fall of the real run's losses.

What a work itself pushes is another derivative: with the optimiser's second moments held as they are, the place where a run
ends is moved by each work's own gradients, and by nothing else. Nonsense makes a run longer, but it pushes nowhere good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from provenance.royalty.replay import Run, Stride, between, loss_at

if TYPE_CHECKING:
    from provenance.core.arrays import Array

# Gauss-Legendre nodes: an integral over [0, 1] of a polynomial of degree five is exact.
NODES = 3
TINY = 1e-20


@dataclass(frozen=True)
class Functional:
    """A function of a work's gradients g at the checkpoints: `sum_c of_gradient_c g_c + of_square_c g_c^2`.

    Less its mean over all works it is what the work adds by turning the gradient.

    Attributes:
        of_gradient, of_square: one array `(Q, P)` for each checkpoint, or None where it has no part in it.
    """

    of_gradient: list[Array | None]
    of_square: list[Array | None]


@dataclass(frozen=True)
class Node:
    """The diagonal at a rate t.

    Attributes:
        rate, weight: of the quadrature.
        loss: of the outputs with a part t of everything, `(Q,)`.
        slopes: derivatives with respect to a work's weight, but for what a longer run makes.
        push: of the sum of all outputs, with second moments held, `(1, P)` each: not less its mean.
    """

    rate: float
    weight: float
    loss: np.ndarray
    slopes: Functional
    push: Functional


def nodes(count: int = NODES) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weights of the quadrature on [0, 1]."""
    at, weight = np.polynomial.legendre.leggauss(count)
    return (1 + at) / 2, weight / 2


def differentiate(run: Run, rate: float, weight: float, path: tuple[Array, np.ndarray] | None = None) -> Node:
    """The derivative of minus the outputs' losses with respect to each work's weight, where all weights are `rate`.

    Args:
        path: everybody's replay, where it is known already.
    """
    strides = run.replay(rate)
    clock = strides[-1].clock
    low, part = (side[0].item() for side in between(np.array([clock]), run.clocks))
    of_end = -((1 - part) * run.snapshots[low].slope + part * run.snapshots[low + 1].slope)
    slopes = _backwards(run, strides, of_end, rate, held=False)
    push = _backwards(run, strides, run.xp.sum(of_end, axis=0, keepdims=True), rate, held=True)
    return Node(rate, weight, loss_at(run, strides[-1].end, clock, path or run.path()), slopes, push)


def _backwards(run: Run, strides: list[Stride], of_x: Array, rate: float, *, held: bool) -> Functional:
    """From derivatives with respect to where a replay ends to those with respect to a work's gradients.

    Args:
        held: second moments stay as they are, whatever works do.
    """
    of_first, of_second = run.xp.zeros_like(of_x), run.xp.zeros_like(of_x)
    gradients: list[Array] = [None for _ in run.snapshots]
    squares: list[Array] = [None for _ in run.snapshots]
    for stride in reversed(strides):
        of_x, of_first, of_second, of_mean, of_square = _stride_back(run, stride, (of_x, of_first, of_second), held=held)
        for at, share in stride.near:
            turned = share * (of_mean - 2 * of_square * run.snapshots[at].gradient)
            gradients[at] = turned if gradients[at] is None else gradients[at] + turned
            squares[at] = share * of_square if squares[at] is None else squares[at] + share * of_square
    return Functional(*([each if each is None else each / rate for each in side] for side in (gradients, squares)))


def _stride_back(run: Run, stride: Stride, after: tuple[Array, Array, Array], *, held: bool) -> tuple[Array, ...]:
    """From derivatives after a stride to those before it: of place and moments, and of its mean gradient and mean square."""
    how, (of_end, of_first, of_second) = run.optimiser, after
    root, by_first, by_own = run.scales(stride)
    scale = by_own / root
    gain = run.gain(stride.steps)
    of_end = of_end + run.curve(gain * of_first, stride.near)  # the moment after it takes the gradient at its end
    pulled = run.along(of_end * scale, stride.near)
    of_before = of_end - run.back(pulled @ stride.inverse, stride.near)
    of_mean = gain * of_first - scale * of_before
    of_first = how.momentum**stride.steps * of_first - by_first / root * of_before
    if held or how.kind == "sgd":
        return of_before, of_first, of_second, of_mean, 0 * of_mean
    # The root of the second moment divides the whole stride.
    of_root = of_before * ((by_first * stride.first + by_own * stride.at_end) / root**2)
    whole = 1 - how.decay**stride.done
    alone = run.xp.maximum(run.spread * root - how.epsilon, 0 * root + TINY)
    of_second = of_second + of_root / (2 * whole * run.spread * alone)
    kept = how.decay**stride.steps
    through = 2 * (1 - kept) * stride.at_start * of_second
    of_square = (1 - kept) / how.batch_size * of_second
    of_start = of_before + run.curve(through, stride.near)
    return of_start, of_first, kept * of_second, of_mean + through, of_square
