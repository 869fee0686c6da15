"""What the model would have become on a part of the corpus, without training it: its training run is replayed.

At a few checkpoints of the one real run we know the mean gradient of the works, and how it changes nearby (the Fisher
information, from sampled targets). So the gradient is a linear function of where a run stands, and the optimiser takes its
steps on that function, with its own second moments, parameter by parameter. Steps are taken many at a time and implicitly
(Hairer and Wanner 1996, section IV.3), so that none is too long; what many steps of Adam do to its moments is exact where the
gradient stays as it is.

The replay of everybody is not quite the real run. What counts is therefore the *difference* between a replay and everybody's
at the same point of the run, laid on the real run's losses there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.arrays import namespace, to_numpy

if TYPE_CHECKING:
    from provenance.core.arrays import Array

# Strides of a replay of everybody.
STRIDES = 16


@dataclass(frozen=True)
class Optimiser:
    """What took the steps.

    Attributes:
        kind: `adam` (AdamW, too) or `sgd`.
        momentum: the first beta of Adam, or the momentum of SGD.
        decay: the second beta of Adam.

    Weight decay is left out: it pulls a part's run and everybody's alike.
    """

    kind: str
    batch_size: int
    momentum: float = 0.9
    decay: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of the real run, as a replay sees it; P parameters, Q outputs.

    Attributes:
        step: when it was taken; clock: the sum of learning rates up to there.
        position: parameters, less those of the first checkpoint, `(P,)`.
        gradient: mean of the gradients of the works' losses, `(P,)`; square: of their squares.
        curvature: rows r with `sum r r'` the mean Fisher information of a work, `(m, P)`.
        slope: gradients of the outputs' losses, `(Q, P)`.
        loss: of the outputs, `(Q,)`, a NumPy array.
    """

    step: int
    clock: float
    position: Array
    gradient: Array
    square: Array
    curvature: Array
    slope: Array
    loss: np.ndarray


@dataclass(frozen=True)
class Stride:
    """Some steps of a replay, taken together; arrays are `(P,)`.

    Attributes:
        start, end: where it stands before and after; clock: after.
        steps: how many; rate: the sum of their learning rates.
        at_start, at_end: mean gradients there.
        first: the first moment before; second: the second moment after.
        near: checkpoints on either side, and what each counts.
        done: steps of the run so far.
    """

    start: Array
    end: Array
    clock: float
    steps: float
    rate: float
    at_start: Array
    at_end: Array
    first: Array
    second: Array
    near: tuple[tuple[int, float], ...]
    done: float


class Run:
    """The real run, ready to be replayed.

    Args:
        snapshots: the first is its base.
    """

    def __init__(self, snapshots: list[Snapshot], optimiser: Optimiser) -> None:
        self.snapshots, self.optimiser = snapshots, optimiser
        self.xp = namespace(snapshots[0].position)
        self.clocks = np.array([snapshot.clock for snapshot in snapshots])
        self.steps = np.array([snapshot.step for snapshot in snapshots], dtype=float)
        variances = [self.xp.maximum(s.square - s.gradient**2, 0 * s.square) for s in snapshots]
        self.noise = [variance / optimiser.batch_size for variance in variances]

    def replay(self, part: float, strides: int = STRIDES) -> list[Stride]:
        """The strides of a replay on a part of every work: as many passes, so fewer steps."""
        length = part * float(self.steps[-1])
        count = int(max(1, min(np.ceil(strides * part), np.ceil(length - 1e-9))))
        # The learning rate is the real run's at the same part of the run, as far as checkpoints tell.
        edges = np.interp(np.linspace(0, 1, count + 1) * self.steps[-1], self.steps, self.clocks) * part
        x = first = second = self.xp.zeros_like(self.snapshots[0].position)
        found = []
        for number in range(count):
            stride = self._stride(x, first, second, (edges[number], edges[number + 1]), length / count, number)
            keep = self.optimiser.momentum**stride.steps
            x, second = stride.end, stride.second
            first = keep * first + self.gain(stride.steps) * stride.at_end
            found.append(stride)
        return found

    def path(self) -> tuple[Array, np.ndarray]:
        """Where everybody's replay stands at first and after each stride, `(strides + 1, P)`, and at what clock."""
        strides = self.replay(1.0)
        stands = [self.xp.zeros_like(self.snapshots[0].position), *(stride.end for stride in strides)]
        return self.xp.stack(stands), np.array([0.0, *(stride.clock for stride in strides)])

    def curve(self, moved: Array, near: tuple[tuple[int, float], ...]) -> Array:
        """`K moved`, with K the mean Fisher information between two checkpoints; `(P,)` or `(Q, P)`."""
        rows = self.rows(near)
        product: Array = (moved @ self.xp.matrix_transpose(rows)) @ rows
        return product

    def rows(self, near: tuple[tuple[int, float], ...]) -> Array:
        """Rows of the Fisher information between two checkpoints, `(m, P)`."""
        return self.xp.concat([self.snapshots[at].curvature * share**0.5 for at, share in near])

    def gradient(self, x: Array, near: tuple[tuple[int, float], ...]) -> Array:
        """The mean gradient at x."""
        found = self._level(near)
        for at, share in near:
            rows = self.snapshots[at].curvature
            found = found + share * ((rows @ x) @ rows)
        return found

    def scales(self, stride: Stride) -> tuple[Array, float, float]:
        """Of a stride: the root of its second moment, and how far the moment before it and its own gradient carry it."""
        how = self.optimiser
        if how.kind == "sgd":
            lag = how.momentum * self._lag(stride.steps)
            return self.xp.ones_like(stride.end), stride.rate * lag, stride.rate * (1 - lag) / (1 - how.momentum)
        lag = self._lag(stride.steps) * how.momentum
        whole = self._started(how.momentum, stride)
        root = self.xp.sqrt(stride.second / (1 - how.decay**stride.done)) + how.epsilon
        return root, stride.rate * lag / whole, stride.rate * (1 - lag) / whole

    def solve(self, rows: Array, scale: Array) -> Array:
        """`(1 + rows scale rows')^-1`, `(m, m)`."""
        inner = (rows * scale) @ self.xp.matrix_transpose(rows)
        found: Array = self.xp.linalg.inv(inner + self.xp.eye(rows.shape[0], dtype=inner.dtype))
        return found

    def _stride(
        self, x: Array, first: Array, second: Array, clocks: tuple[float, float], steps: float, number: int
    ) -> Stride:
        how = self.optimiser
        (low,), (part,) = between(np.array([sum(clocks) / 2]), self.clocks)
        near = tuple((at, share) for at, share in ((int(low), 1 - float(part)), (int(low) + 1, float(part))) if share)
        here = self.gradient(x, near)
        noise = sum(share * self.noise[at] for at, share in near)
        keep = how.decay**steps
        second = keep * second + (1 - keep) * (here**2 + noise)
        made = Stride(x, x, clocks[1], steps, clocks[1] - clocks[0], here, here, first, second, near, steps * (number + 1))
        root, of_first, of_own = self.scales(made)
        scale = of_own / root
        before = x - of_first / root * first - scale * self._level(near)
        rows = self.rows(near)
        end = before - scale * ((self.solve(rows, scale) @ (rows @ before)) @ rows)
        return replace(made, end=end, at_end=self.gradient(end, near))

    def _level(self, near: tuple[tuple[int, float], ...]) -> Array:
        """The mean gradient at the first checkpoint's place, if it changed as it does between two checkpoints."""
        found = 0.0
        for at, share in near:
            snapshot = self.snapshots[at]
            rows = snapshot.curvature
            found = found + share * (snapshot.gradient - (rows @ snapshot.position) @ rows)
        return found

    def gain(self, steps: float) -> float:
        """What a stride's gradient adds to the first moment."""
        how = self.optimiser
        return (1 - how.momentum**steps) / (1.0 if how.kind == "adam" else 1 - how.momentum)

    def _lag(self, steps: float) -> float:
        """The mean of the powers of momentum from 0 on over a stride's steps."""
        steps = max(1.0, steps)
        return (1 - self.optimiser.momentum**steps) / (steps * (1 - self.optimiser.momentum))

    def _started(self, beta: float, stride: Stride) -> float:
        """The mean over a stride of what a moment that began at zero holds of a gradient that stays as it is."""
        return 1 - beta ** (stride.done - stride.steps) * beta * self._lag(stride.steps)


def loss_at(run: Run, end: Array, clock: float, path: tuple[Array, np.ndarray]) -> np.ndarray:
    """Losses of the outputs where a replay ends: the real run's at that clock, and what the difference to it makes, `(Q,)`."""
    (low,), (part,) = between(np.array([clock]), run.clocks)
    (before,), (on,) = between(np.array([clock]), path[1])
    moved = end - ((1 - on) * path[0][before, :] + on * path[0][before + 1, :])
    first, second = run.snapshots[low], run.snapshots[low + 1]
    rise = (1 - part) * (first.slope @ moved) + part * (second.slope @ moved)
    found: np.ndarray = (1 - part) * first.loss + part * second.loss + to_numpy(rise)
    return found


def between(clock: np.ndarray, clocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last checkpoint before, and the part of the way to the next."""
    low = np.clip(np.searchsorted(clocks, clock) - 1, 0, len(clocks) - 2)
    return low, np.clip((clock - clocks[low]) / (clocks[low + 1] - clocks[low]), 0, 1)
