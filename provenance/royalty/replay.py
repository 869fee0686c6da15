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
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from provenance.core.arrays import namespace, to_numpy

if TYPE_CHECKING:
    from provenance.core.arrays import Array

# Checkpoints on either side of a place in the run, and what each counts.
Near = tuple[tuple[int, float], ...]
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
        curvature: rows r with `sum r r'` the mean Fisher information of a work, `(m, P)` (`few_rows`).
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
        inverse: of what the implicit step solved, in the rows of the curvature, `(m, m)`.
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
    near: Near
    done: float
    inverse: Array = None


class Run:
    """The real run, ready to be replayed.

    Args:
        snapshots: the first is its base.
        spread: where coordinates are projections of weights, by how much longer a step is in them.
    """

    def __init__(self, snapshots: list[Snapshot], optimiser: Optimiser, spread: Array | float = 1.0) -> None:
        self.snapshots, self.optimiser, self.spread = snapshots, optimiser, spread
        self.xp = namespace(snapshots[0].position)
        self.clocks = np.array([snapshot.clock for snapshot in snapshots])
        self.steps = np.array([snapshot.step for snapshot in snapshots], dtype=float)
        variances = [self.xp.maximum(s.square - s.gradient**2, 0 * s.square) for s in snapshots]
        self.noise = [variance / optimiser.batch_size for variance in variances]

    def replay(self, part: float, strides: int = STRIDES) -> list[Stride]:
        """The strides of a replay on a part of every work: as many passes, so fewer steps."""
        ends = _ends(part * float(self.steps[-1]), max(1, int(np.ceil(strides * part))))
        # The learning rate is the real run's at the same part of the run, as far as checkpoints tell.
        # Plain numbers: NumPy's own would make arrays of 32 bits ones of 64.
        clocks = (np.interp(np.array(ends) / part, self.steps, self.clocks) * part).tolist()
        x = first = second = self.xp.zeros_like(self.snapshots[0].position)
        found = []
        for clock, done in zip(pairwise(clocks), pairwise(ends), strict=True):
            stride = self._stride((x, first, second), clock, done)
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

    def curve(self, moved: Array, near: Near) -> Array:
        """`K moved`, with K the mean Fisher information between two checkpoints; `(Q, P)`."""
        return self.back(self.along(moved, near), near)

    def along(self, moved: Array, near: Near) -> Array:
        """Products with the rows r of `K = sum r r'` between two checkpoints: `(Q, P)` to `(Q, m)`."""
        turned = [share**0.5 * (moved @ self.xp.matrix_transpose(self.snapshots[at].curvature)) for at, share in near]
        return self.xp.concat(turned, axis=1)

    def back(self, along: Array, near: Near) -> Array:
        """Combinations of the rows: `(Q, m)` to `(Q, P)`."""
        size = along.shape[1] // len(near)
        parts = [
            share**0.5 * along[:, number * size : (number + 1) * size] @ self.snapshots[at].curvature
            for number, (at, share) in enumerate(near)
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def gradient(self, x: Array, near: Near) -> Array:
        """The mean gradient at x."""
        found = None
        for at, share in near:
            snapshot = self.snapshots[at]
            turned = (snapshot.curvature @ (x - snapshot.position)) @ snapshot.curvature
            found = share * (snapshot.gradient + turned) + (0.0 if found is None else found)
        return found

    def scales(self, stride: Stride) -> tuple[Array, float, float]:
        """Of a stride: the root of its second moment, and how far the moment before it and its own gradient carry it.

        The root is less by the spread, which makes a step longer.
        """
        how = self.optimiser
        if how.kind == "sgd":
            lag = how.momentum * self._lag(stride.steps)
            return self.xp.ones_like(stride.end) / self.spread, stride.rate * lag, stride.rate * (1 - lag) / (1 - how.momentum)
        lag = self._lag(stride.steps) * how.momentum
        whole = self._started(how.momentum, stride)
        root = self.xp.sqrt(stride.second / (1 - how.decay**stride.done)) + how.epsilon
        return root / self.spread, stride.rate * lag / whole, stride.rate * (1 - lag) / whole

    def _solve(self, scale: Array, near: Near) -> Array:
        """`(1 + r scale r')^-1` for the rows r between two checkpoints, `(m, m)`."""
        xp = self.xp
        blocks = []
        for at, share in near:
            scaled = xp.matrix_transpose(self.snapshots[at].curvature * (share**0.5 * scale))
            others = [part**0.5 * (self.snapshots[other].curvature @ scaled) for other, part in near]
            blocks.append(xp.concat(others, axis=0))
        inner = xp.concat(blocks, axis=1)
        found: Array = xp.linalg.inv(inner + xp.eye(inner.shape[0], dtype=inner.dtype))
        return found

    def _stride(self, state: tuple[Array, Array, Array], clocks: tuple[float, float], ends: tuple[float, float]) -> Stride:
        how, (x, first, second), steps = self.optimiser, state, ends[1] - ends[0]
        (low,), (part,) = between(np.array([sum(clocks) / 2]), self.clocks)
        near = tuple((at, share) for at, share in ((int(low), 1 - float(part)), (int(low) + 1, float(part))) if share)
        here = self.gradient(x, near)
        noise = sum(share * self.noise[at] for at, share in near)
        keep = how.decay**steps
        second = keep * second + (1 - keep) * (here**2 + noise)
        made = Stride(x, x, clocks[1], steps, clocks[1] - clocks[0], here, here, first, second, near, ends[1])
        root, of_first, of_own = self.scales(made)
        scale = of_own / root
        level = self.gradient(self.xp.zeros_like(x), near)  # if it changed from the first place on as it does here
        before = x - of_first / root * first - scale * level
        inverse = self._solve(scale, near)
        end = before - scale * self.back(self.along(before[None, :], near) @ inverse, near)[0, :]
        return replace(made, end=end, at_end=self.gradient(end, near), inverse=inverse)

    def gain(self, steps: float) -> float:
        """What a stride's gradient adds to the first moment."""
        how = self.optimiser
        return float((1 - how.momentum**steps) / (1.0 if how.kind == "adam" else 1 - how.momentum))

    def _lag(self, steps: float) -> float:
        """The mean of the powers of momentum from 0 on over a stride's steps."""
        steps = max(1.0, steps)
        return float((1 - self.optimiser.momentum**steps) / (steps * (1 - self.optimiser.momentum)))

    def _started(self, beta: float, stride: Stride) -> float:
        """The mean over a stride of what a moment that began at zero holds of a gradient that stays as it is."""
        return float(1 - beta ** (stride.done - stride.steps) * beta * self._lag(stride.steps))


def _ends(length: float, strides: int) -> list[float]:
    """Where strides begin and end, in steps: longer and longer ones, for a run turns most at first; none below one step."""
    found = [0.0]
    for wanted in (length * np.linspace(0, 1, strides + 1) ** 2).tolist()[1:]:
        end = min(max(wanted, found[-1] + 1), length)
        if end > found[-1]:
            found.append(end)
    return found


def few_rows(rows: np.ndarray, count: int, signs: np.ndarray) -> np.ndarray:
    """Rows r with `sum r r'` that of many, on average: the strongest directions as they are, the rest at random.

    A step is as long as the sharpest directions allow, so those may not be left to chance.

    Args:
        rows: `(n, P)`; signs: random ones, `(count, n)`.

    Returns:
        `(count, P)`, or fewer where there are fewer.
    """
    if len(rows) <= count:
        return rows
    strong = count // 2
    _, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))  # ascending
    along = vectors[:, -strong:].astype(np.float32)
    found = along.T @ rows
    rest = signs[: count - strong] / np.float32((count - strong) ** 0.5)
    return np.concatenate([found, (rest - rest @ along @ along.T) @ rows])


def loss_at(run: Run, end: Array, clock: float, path: tuple[Array, np.ndarray]) -> np.ndarray:
    """Losses of the outputs where a replay ends: the real run's at that clock, and what the difference to it makes, `(Q,)`."""
    low, part = (side[0].item() for side in between(np.array([clock]), run.clocks))
    before, on = (side[0].item() for side in between(np.array([clock]), path[1]))
    moved = end - ((1 - on) * path[0][before, :] + on * path[0][before + 1, :])
    first, second = run.snapshots[low], run.snapshots[low + 1]
    rise = (1 - part) * (first.slope @ moved) + part * (second.slope @ moved)
    found: np.ndarray = (1 - part) * first.loss + part * second.loss + to_numpy(rise)
    return found


def between(clock: np.ndarray, clocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last checkpoint before, and the part of the way to the next."""
    low = np.clip(np.searchsorted(clocks, clock) - 1, 0, len(clocks) - 2)
    return low, np.clip((clock - clocks[low]) / (clocks[low + 1] - clocks[low]), 0, 1)
