"""Replays and sketches on a GPU are those on a CPU. Run by `make gpu-check`; skipped, never passed, where there is no GPU."""

import numpy as np
import pytest

from provenance.core.arrays import gpu_count, namespace_of, to_numpy
from provenance.features.exact import sketch
from provenance.royalty.diagonal import differentiate
from provenance.royalty.replay import Optimiser, Run, Snapshot, loss_at

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no CUDA device and CuPy")]
SIZE, ROWS, OUTPUTS = 5000, 16, 4


def run_on(xp, kind):
    draws = np.random.default_rng(0)

    def make(*shape, scale=1.0):
        return xp.asarray((scale * draws.standard_normal(shape)).astype(np.float32))

    marks = []
    for at in range(3):
        position = xp.zeros(SIZE, dtype=xp.float32) if at == 0 else make(SIZE, scale=0.01 * at)
        gradient, rows = make(SIZE, scale=0.1), make(ROWS, SIZE, scale=0.3)
        square = gradient**2 + make(SIZE, scale=0.2) ** 2
        marks.append(Snapshot(20 * at, 0.05 * at, position, gradient, square, rows, make(OUTPUTS, SIZE), np.ones(OUTPUTS) * at))
    return Run(marks, Optimiser(kind, batch_size=8))


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_replay_and_its_derivative_are_the_same_on_both(kind):
    found = []
    for device in ("cpu", "cuda"):
        run = run_on(namespace_of(device), kind)
        node = differentiate(run, 0.5, 1.0)
        end = run.replay(0.5)[-1]
        slopes = [to_numpy(each) for each in node.slopes.of_gradient if each is not None]
        found.append([to_numpy(end.end), loss_at(run, end.end, end.clock, run.path()), *slopes])
    for one, two in zip(*found, strict=True):
        assert np.allclose(one, two, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def test_a_sketch_is_the_same_on_both():
    rows = np.random.default_rng(0).standard_normal((7, SIZE)).astype(np.float32)
    one, two = (to_numpy(sketch(namespace_of(device).asarray(rows), 256, seed=1, checkpoint="a")) for device in ("cpu", "cuda"))
    assert np.allclose(one, two, atol=1e-3)
