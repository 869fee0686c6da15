"""What overlaps gives the same results, in the same order, as what does not; a GPU's copies are compared where one is."""

import threading

import numpy as np
import pytest
import torch

from provenance.core.arrays import gpu_count, namespace_of, to_numpy
from provenance.core.overlap import ahead, begin_download, begin_upload, behind

ARRAYS = {
    "codes": np.arange(7, dtype=np.uint8),
    "scales": np.arange(-3, 3, dtype=np.int16).reshape(2, 3),
    "examples": np.arange(5, dtype=np.uint16),
    "token": np.arange(4),
    "none": np.zeros((0, 3), dtype=np.float32),
}
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no GPU")])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_copies_to_a_device_and_back_are_equal(device):
    receive, xp = begin_upload(ARRAYS, device), namespace_of(device)
    moved = receive()
    for name, array in ARRAYS.items():
        assert moved[name].dtype == array.dtype
        assert np.array_equal(to_numpy(xp.asarray(moved[name])), array)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in ARRAYS.items()}
    back = begin_download({**tensors, "facts": np.arange(3)})()
    for name, array in {**ARRAYS, "facts": np.arange(3)}.items():
        assert isinstance(back[name], np.ndarray)
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)


@pytest.mark.parametrize("overlap", [False, True])
def test_items_come_in_order_and_the_next_begins_while_one_is_in_use(overlap):
    begun, started = [], [threading.Event() for _ in range(4)]

    def begin(item):
        begun.append(item)
        started[item].set()
        return lambda: 10 * item

    seen = []
    for result in ahead(begin, [0, 1, 2, 3], overlap=overlap):
        following = result // 10 + 1
        if overlap and following < 4:
            assert started[following].wait(20), "begins before this one is done with"
        elif not overlap:
            assert begun[-1] == result // 10
        seen.append(result)
    assert seen == [0, 10, 20, 30]
    assert list(ahead(begin, [], overlap=overlap)) == []


@pytest.mark.parametrize("overlap", [False, True])
def test_errors_of_what_runs_ahead_or_behind_are_raised(overlap):
    def fails(item=None):
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        list(ahead(fails, [1, 2], overlap=overlap))
    with pytest.raises(OSError, match="no such file"), behind(overlap=overlap) as later:
        later(fails)
    done = []
    with behind(overlap=overlap) as later:
        for number in range(5):
            later(lambda number=number: done.append(number))
    assert done == [0, 1, 2, 3, 4]
