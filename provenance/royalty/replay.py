"""What the model would have become on some owners' works, without training it: its training run is replayed.

At a few checkpoints of the one real run we know the gradient of every owner's works, and how it changes nearby (the Fisher
information, from sampled targets). So the gradient of any coalition's works is a linear function of where its run stands, and
the optimiser takes its steps on that function: the same number of passes over fewer examples, with its own second moments.

The replay of everybody is not quite the real run. What counts is therefore the *difference* between a coalition's replay and
everybody's at the same point of the run, laid on the real run's losses there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

# Coalitions replayed at a time.
AT_A_TIME = 64


@dataclass(frozen=True)
class Optimiser:
    """What took the steps.

    Attributes:
        kind: `adam` (AdamW, too) or `sgd`.
        momentum: the first beta of Adam, or the momentum of SGD.
        decay: the second beta of Adam.

    Weight decay is left out: it pulls a coalition's run and everybody's alike.
    """

    kind: str
    batch_size: int
    momentum: float = 0.9
    decay: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of the real run, as a replay sees it; P parameters, O owners, Q outputs.

    Attributes:
        step: when it was taken; clock: the sum of learning rates up to there.
        position: parameters, less those of the first checkpoint, `(P,)`.
        gradient: sums of gradients of owners' examples, `(O, P)`.
        square: sums of their squares, example by example, `(O, P)`.
        curvature: rows r of each owner with `sum r r'` its Fisher information, `(O, m, P)`.
        slope: gradients of the outputs' losses, `(Q, P)`.
        loss: of the outputs, `(Q,)`.
    """

    step: int
    clock: float
    position: np.ndarray
    gradient: np.ndarray
    square: np.ndarray
    curvature: np.ndarray
    slope: np.ndarray
    loss: np.ndarray


def coalition_losses(snapshots: list[Snapshot], counts: np.ndarray, optimiser: Optimiser, coalitions: np.ndarray) -> np.ndarray:
    """Losses of the outputs under the models of coalitions, `(m, Q)`.

    Args:
        snapshots: of the real run, the first its base.
        counts: examples of each owner, `(O,)`.
        coalitions: parts of each owner's works that are in, `(m, O)`.
    """
    run = _Run(snapshots, counts, optimiser)
    everybody, clocks = run.everybody()
    found = np.empty((coalitions.shape[0], snapshots[0].loss.shape[0]))
    order = np.argsort(coalitions @ counts, kind="stable")
    for start in range(0, len(order), AT_A_TIME):
        chosen = order[start : start + AT_A_TIME]
        ends, at = run.ends(coalitions[chosen])
        for row, end, clock in zip(chosen, ends, at, strict=True):
            low, part = _between(clock, run.clocks)
            beside = _mix(everybody, *_between(clock, clocks))
            first, second = snapshots[low], snapshots[low + 1]
            moved = end - beside
            found[row] = (1 - part) * (first.loss + first.slope @ moved) + part * (second.loss + second.slope @ moved)
    return found


class _Run:
    """The real run, ready to be replayed."""

    def __init__(self, snapshots: list[Snapshot], counts: np.ndarray, optimiser: Optimiser) -> None:
        self.snapshots, self.counts, self.optimiser = snapshots, counts, optimiser
        self.clocks = np.array([snapshot.clock for snapshot in snapshots])
        self.steps = np.array([snapshot.step for snapshot in snapshots], dtype=float)
        self.rows = [s.curvature.reshape(-1, s.position.shape[0]) for s in snapshots]
        # K (x - position) takes one product of rows with x, less this.
        self.offset = [rows @ s.position for rows, s in zip(self.rows, snapshots, strict=True)]
        self.per_owner = snapshots[0].curvature.shape[1]

    def rates(self, length: float, steps: int) -> np.ndarray:
        """Learning rates of the steps of a run of some length: the real run's at the same parts, as far as checkpoints tell."""
        edges = np.minimum(np.arange(steps + 1) / length, 1) * self.steps[-1]
        rates: np.ndarray = np.diff(np.interp(edges, self.steps, self.clocks)) * length / self.steps[-1]
        return rates

    def replay(self, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Where coalitions stand, `(b, P)`, and at what clock: at first, and after each step; the same arrays, changed."""
        how = self.optimiser
        examples = weights @ self.counts
        # Not rounded, so that what an example adds is smooth: the last step is as long as what is left.
        length = np.asarray(self.steps[-1] * examples / self.counts.sum(), dtype=np.float64)
        steps = np.ceil(length - 1e-9).astype(int)
        rates = np.zeros((len(weights), steps.max(initial=0)), dtype=np.float32)
        for row in np.flatnonzero(steps):
            rates[row, : steps[row]] = self.rates(length[row], steps[row])
        x, first, second = (np.zeros((len(weights), len(self.snapshots[0].position)), dtype=np.float32) for _ in range(3))
        clock = np.zeros(len(weights))
        yield x, clock
        for step in range(rates.shape[1]):
            live = np.flatnonzero(steps > step)
            rate = rates[live, step]
            gradient, variance = self._gradient(x[live], weights[live], examples[live], clock[live] + rate / 2)
            if how.kind == "sgd":
                first[live] = move = how.momentum * first[live] + gradient
            else:
                first[live] = moment = how.momentum * first[live] + (1 - how.momentum) * gradient
                second[live] = square = how.decay * second[live] + (1 - how.decay) * (gradient**2 + variance / how.batch_size)
                scale = np.sqrt(square / (1 - how.decay ** (step + 1))) + how.epsilon
                move = moment / (1 - how.momentum ** (step + 1)) / scale
            x[live] -= rate[:, None] * move
            clock[live] += rate
            yield x, clock

    def ends(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where coalitions end, `(b, P)`, and at what clock."""
        *_, last = self.replay(weights)
        return last

    def everybody(self) -> tuple[np.ndarray, np.ndarray]:
        """The replay of the whole corpus: where it stands, `(steps + 1, P)`, and at what clock."""
        whole = np.ones((1, len(self.counts)), dtype=np.float32)
        path = [(x[0].copy(), float(clock[0])) for x, clock in self.replay(whole)]
        return np.stack([x for x, _ in path]), np.array([clock for _, clock in path])

    def _gradient(
        self, x: np.ndarray, weights: np.ndarray, examples: np.ndarray, clock: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean gradients of coalitions where they stand, and the variance of one example's, both `(b, P)`."""
        here, moved, squares = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
        low, part = _between(clock, self.clocks)
        for at in range(len(self.snapshots)):
            share = np.where(low == at, 1 - part, np.where(low + 1 == at, part, 0)).astype(np.float32)
            rows = np.flatnonzero(share)
            if not len(rows):
                continue
            held = weights[rows] * share[rows, None]
            along = (x[rows] @ self.rows[at].T - self.offset[at]) * np.repeat(held, self.per_owner, axis=1)
            here[rows] += held @ self.snapshots[at].gradient
            moved[rows] += along @ self.rows[at]
            squares[rows] += held @ self.snapshots[at].square
        count = examples[:, None].astype(np.float32)
        return (here + moved) / count, np.maximum(squares / count - (here / count) ** 2, 0)


def _between(clock: np.ndarray, clocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last checkpoint before, and the part of the way to the next."""
    low = np.clip(np.searchsorted(clocks, clock) - 1, 0, len(clocks) - 2)
    return low, np.clip((clock - clocks[low]) / (clocks[low + 1] - clocks[low]), 0, 1)


def _mix(values: np.ndarray, low: np.ndarray, part: np.ndarray) -> np.ndarray:
    mixed: np.ndarray = (1 - part) * values[low] + part * values[low + 1]
    return mixed
