"""A replay is the real run where gradients are linear; its derivative is what finite differences say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from provenance.royalty.diagonal import differentiate, nodes
from provenance.royalty.replay import Optimiser, Run, Snapshot, few_rows, loss_at

WORKS, SIZE, STEPS, RATE = 12, 5, 48, 0.02
MARKS = (0, 16, STEPS)
ADAM, SGD = Optimiser("adam", batch_size=10**9), Optimiser("sgd", batch_size=10**9)


def problem():
    """Least squares: of each work the loss is (x'w - y)^2 / 2, so that gradients are linear in w."""
    draws = np.random.default_rng(0)
    return draws.standard_normal((WORKS, SIZE)), draws.standard_normal(WORKS)


def trained(kind, steps=STEPS):
    """Weights after each step on all works."""
    x, y = (torch.from_numpy(side) for side in problem())
    w = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    step = torch.optim.Adam([w], lr=RATE) if kind == "adam" else torch.optim.SGD([w], lr=RATE, momentum=0.9)
    path = [np.zeros(SIZE)]
    for _ in range(steps):
        step.zero_grad()
        ((x @ w - y) ** 2 / 2).mean().backward()
        step.step()
        path.append(w.detach().numpy().copy())
    return np.array(path)


def run_of(optimiser, weights=None, spread=1.0):
    """The run, as if works had been weighed; the mean square is that of the mean, for the whole corpus is one batch."""
    x, y = problem()
    part = np.full(WORKS, 1 / WORKS) if weights is None else weights / weights.sum()
    queries = np.eye(SIZE)[:2]
    found = []
    for step in MARKS:
        w = trained(optimiser.kind)[step]
        each = (x @ w - y)[:, None] * x
        rows = x * np.sqrt(part)[:, None]
        found.append(Snapshot(step, step * RATE, w, part @ each, part @ each**2, rows, queries, queries @ w))
    return Run(found, optimiser, spread)


@pytest.mark.parametrize("optimiser", [ADAM, SGD])
def test_where_gradients_are_linear_a_replay_is_nearly_the_run(optimiser):
    run, real = run_of(optimiser), trained(optimiser.kind)
    fine = run.replay(1.0, STEPS)
    assert np.allclose([stride.clock for stride in fine], RATE * np.arange(1, STEPS + 1))
    coarse = run.replay(1.0)
    assert len(coarse) < STEPS
    for strides, tolerance in ((fine, 0.08), (coarse, 0.15)):
        for stride in strides:
            there = real[round(stride.clock / RATE)]
            assert np.linalg.norm(stride.end - there) <= tolerance * np.linalg.norm(real[-1]), (stride.clock, len(strides))


def test_a_part_of_the_corpus_has_a_part_of_the_steps():
    run = run_of(ADAM)
    ends = [run.replay(part)[-1] for part in (0.25, 0.5, 1.0)]
    assert np.allclose([end.clock for end in ends], [RATE * STEPS * part for part in (0.25, 0.5, 1.0)])
    assert np.allclose([end.done for end in ends], [STEPS * part for part in (0.25, 0.5, 1.0)])


def test_a_stride_may_be_much_longer_than_a_step_that_would_explode():
    run = run_of(Optimiser("sgd", batch_size=1, momentum=0.0))
    steep = [
        Snapshot(s.step, 1e4 * s.clock, s.position, s.gradient, s.square, s.curvature, s.slope, s.loss) for s in run.snapshots
    ]
    ends = [stride.end for stride in Run(steep, run.optimiser).replay(1.0)]
    assert np.abs(ends).max() < 10 * np.abs(trained("sgd")).max()


def test_everybody_s_replay_leaves_the_real_run_s_losses_as_they_are():
    run = run_of(ADAM)
    path = run.path()
    for at, snapshot in enumerate(run.snapshots):
        stands = path[0][0] if at == 0 else next(s.end for s in run.replay(1.0) if s.clock >= snapshot.clock - 1e-9)
        clock = snapshot.clock if at == 0 else next(s.clock for s in run.replay(1.0) if s.clock >= snapshot.clock - 1e-9)
        low = np.interp(clock, run.clocks, [s.loss[0] for s in run.snapshots])
        assert np.isclose(loss_at(run, stands, clock, path)[0], low)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize(("rate", "spread"), [(0.3, 1.0), (1.0, 1.0), (1.0, np.linspace(0.5, 2, SIZE))])
def test_the_derivative_backwards_is_the_derivative_by_differences(kind, rate, spread):
    how = Optimiser(kind, batch_size=2)
    x, y = problem()
    run = run_of(how, spread=spread)
    node = differentiate(run, rate, 1.0)
    backwards = np.zeros((WORKS, 2))
    for mark, of_gradient, of_square in zip(MARKS, node.slopes.of_gradient, node.slopes.of_square, strict=True):
        if of_gradient is None:
            continue
        w = trained(kind)[mark]
        each = (x @ w - y)[:, None] * x
        for parts, slope in ((each, of_gradient), (each**2, of_square)):
            backwards += (parts - parts.mean(axis=0)) @ slope.T
    # Both the place and the curvature's rows depend on the weights; the latter is left out, so it stays as it is here, too.
    plain = run_of(how, spread=spread)

    def worth(weights):
        weighed = run_of(how, weights)
        marks = [
            Snapshot(s.step, s.clock, s.position, w.gradient, w.square, s.curvature, s.slope, s.loss)
            for s, w in zip(plain.snapshots, weighed.snapshots, strict=True)
        ]
        end = Run(marks, how, spread).replay(rate)[-1]
        return -loss_at(plain, end.end, end.clock, plain.path())

    for work in range(WORKS):
        up, down = (np.ones(WORKS) for _ in range(2))
        up[work], down[work] = 1 + 1e-5, 1 - 1e-5
        differences = (worth(up) - worth(down)) / 2e-5
        assert np.allclose(backwards[work] * rate / WORKS, differences, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_push_is_the_derivative_with_second_moments_held(kind, monkeypatch):
    how = Optimiser(kind, batch_size=2)
    plain = run_of(how)
    node = differentiate(plain, 1.0, 1.0)
    held = {stride.done: stride.second for stride in plain.replay(1.0)}
    stride_of = Run._stride
    x, y = problem()

    def stride_with_moments_held(run, state, clocks, ends):
        scales = run.scales
        with monkeypatch.context() as patch:
            patch.setattr(run, "scales", lambda stride: scales(replace(stride, second=held[stride.done])), raising=False)
            return stride_of(run, state, clocks, ends)

    monkeypatch.setattr(Run, "_stride", stride_with_moments_held)
    path = plain.path()

    def worth(gradients):
        marks = [replace(s, gradient=g) for s, g in zip(plain.snapshots, gradients, strict=True)]
        end = Run(marks, how).replay(1.0)[-1]
        return -loss_at(plain, end.end, end.clock, path).sum()

    means = [snapshot.gradient for snapshot in plain.snapshots]
    of_works = [(x @ trained(kind)[mark] - y)[:, None] * x for mark in MARKS]
    for work in range(WORKS):
        push = sum(
            (g[work] @ part.T).item() for g, part in zip(of_works, node.push.of_gradient, strict=True) if part is not None
        )
        up, down = ([mean + sign * 1e-5 * g[work] for mean, g in zip(means, of_works, strict=True)] for sign in (1, -1))
        assert np.isclose(push, (worth(up) - worth(down)) / 2e-5, rtol=1e-4, atol=1e-8)


def test_nodes_integrate_a_polynomial():
    rates, weights = nodes()
    assert np.isclose(weights @ rates**5, 1 / 6)


def test_few_rows_stand_for_many():
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((40, 30)) * np.linspace(3, 0.2, 30)).astype(np.float32)
    rows[0] *= 20
    whole = rows.T @ rows
    found = []
    for _ in range(400):
        few = few_rows(rows, 12, rng.choice([-1.0, 1.0], (12, 40)).astype(np.float32))
        assert few.shape == (12, 30)
        found.append(few.T @ few)
    spread = np.std(found, axis=0) / len(found) ** 0.5
    assert (np.abs(np.mean(found, axis=0) - whole) <= 5 * spread + 1e-3 * np.abs(whole).max()).all()
    sharpest = np.linalg.eigvalsh(whole)[-1]
    assert np.allclose([np.linalg.eigvalsh(one)[-1] for one in found], sharpest, rtol=0.02)
    assert few_rows(rows, 40, np.ones((40, 40), np.float32)) is rows
