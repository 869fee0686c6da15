"""A replay is the real run where gradients are linear, and everybody's replay leaves the real run's losses as they are."""

import numpy as np
import pytest
import torch

from provenance.royalty import replay
from provenance.royalty.replay import Optimiser, Snapshot, coalition_losses

OWNERS, EACH, SIZE, STEPS, RATE = 3, 4, 5, 12, 0.02
ADAM, SGD = Optimiser("adam", batch_size=10**9), Optimiser("sgd", batch_size=10**9, momentum=0.0)


def problem(seed=0):
    """Least squares: of each example the loss is (x'w - y)^2 / 2, so that gradients are linear in w."""
    draws = np.random.default_rng(seed)
    return draws.standard_normal((OWNERS, EACH, SIZE)), draws.standard_normal((OWNERS, EACH))


def trained(kind, x, y, steps):
    """Weights after each step on all examples given."""
    w = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    x, y = torch.from_numpy(x.reshape(-1, SIZE)), torch.from_numpy(y.reshape(-1))
    step = torch.optim.Adam([w], lr=RATE) if kind == "adam" else torch.optim.SGD([w], lr=RATE)
    path = [np.zeros(SIZE)]
    for _ in range(steps):
        step.zero_grad()
        ((x @ w - y) ** 2 / 2).mean().backward()
        step.step()
        path.append(w.detach().numpy().copy())
    return path


def snapshots(kind, x, y, at=(0, 5, STEPS)):
    path = trained(kind, x, y, STEPS)
    queries = np.eye(SIZE)[:2]
    found = []
    for step in at:
        w = path[step]
        # As if each owner had one example: no variance among them, as in the whole batches above.
        gradient = np.einsum("oe,oep->op", x @ w - y, x) / EACH
        found.append(
            Snapshot(step, step * RATE, w.astype("f4"), gradient.astype("f4"), 0 * gradient.astype("f4"),
                     (x / np.sqrt(EACH)).astype("f4"), queries.astype("f4"), queries @ w)
        )  # fmt: skip
    return found


@pytest.mark.parametrize("optimiser", [ADAM, SGD])
def test_where_gradients_are_linear_a_replay_is_the_run(optimiser):
    x, y = problem()
    marks = snapshots(optimiser.kind, x, y)
    run = replay._Run(marks, np.ones(OWNERS, dtype="f4"), optimiser)
    path, clocks = run.everybody()
    assert np.allclose(path, trained(optimiser.kind, x, y, STEPS), atol=1e-5)
    assert np.allclose(clocks, RATE * np.arange(STEPS + 1))
    # One owner of three has a third of the steps.
    ends, clock = run.ends(np.eye(OWNERS, dtype="f4"))
    for owner, end in enumerate(ends):
        assert np.allclose(end, trained(optimiser.kind, x[owner], y[owner], STEPS // OWNERS)[-1], atol=1e-5)
    assert np.allclose(clock, RATE * STEPS / OWNERS)


def test_losses_of_everybody_and_of_nobody_are_the_real_run_s():
    marks = snapshots("adam", *problem())
    both = np.array([[0, 0, 0], [1, 1, 1]], dtype="f4")
    losses = coalition_losses(marks, np.ones(OWNERS, dtype="f4"), ADAM, both)
    assert np.allclose(losses, [marks[0].loss, marks[-1].loss], atol=1e-6)


def test_coalitions_do_not_depend_on_their_company(monkeypatch):
    marks, counts = snapshots("adam", *problem()), np.array([1, 2, 3], dtype="f4")
    coalitions = np.random.default_rng(0).uniform(size=(9, OWNERS)).astype("f4")
    together = coalition_losses(marks, counts, ADAM, coalitions)
    monkeypatch.setattr(replay, "AT_A_TIME", 2)
    assert np.allclose(coalition_losses(marks, counts, ADAM, coalitions[::-1])[::-1], together, atol=1e-6)


def test_what_a_part_of_an_owner_adds_is_smooth():
    marks, counts = snapshots("adam", *problem()), np.ones(OWNERS, dtype="f4")
    parts = np.ones((201, OWNERS), dtype="f4")
    parts[:, 0] = np.linspace(0.5, 0.7, 201)
    jumps = np.abs(np.diff(coalition_losses(marks, counts, ADAM, parts), axis=0))
    assert jumps.max() < 5 * jumps.mean()
