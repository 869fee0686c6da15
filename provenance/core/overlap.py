"""Overlaps reading, copying and writing with computation on a GPU; on a CPU the same steps follow one another.

Copies go through pinned memory, on a stream of their own, so that neither the host nor the computation waits for them. Each
function here returns another, which waits for the copies and gives what was copied.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np

from provenance.core.arrays import Array, from_torch, namespace_of, to_numpy

Item = TypeVar("Item")
Result = TypeVar("Result")


def begin_upload(arrays: Mapping[str, np.ndarray], device: str) -> Callable[[], dict[str, Array]]:
    """Begin to copy arrays to a device, as arrays of its module; on a CPU they stay where they are."""
    if device == "cpu":
        return lambda: dict(arrays)
    torch, side, tensors = importlib.import_module("torch"), _stream_of_copies(), dict[str, Any]()
    with torch.cuda.stream(side):
        for name, array in arrays.items():
            pinned = torch.from_numpy(np.empty(array.shape, array.dtype)).pin_memory()
            pinned.numpy()[...] = array
            tensors[name] = pinned.to(device, non_blocking=True)
        done = side.record_event()

    def receive() -> dict[str, Array]:
        current = torch.cuda.current_stream()
        current.wait_event(done)
        for tensor in tensors.values():
            tensor.record_stream(current)  # its memory is not given to another copy while this stream reads it
        return {name: from_torch(tensor, namespace_of(device)) for name, tensor in tensors.items()}

    return receive


def begin_download(arrays: Mapping[str, Array]) -> Callable[[], dict[str, np.ndarray]]:
    """Begin to copy tensors of a GPU to host memory; others are copied, if they must be, when they are received."""
    if not any(getattr(array, "is_cuda", False) for array in arrays.values()):
        return lambda: {name: to_numpy(array) for name, array in arrays.items()}
    torch, side, host = importlib.import_module("torch"), _stream_of_copies(), dict[str, Any]()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for name, array in arrays.items():
            if not getattr(array, "is_cuda", False):
                host[name] = array
                continue
            host[name] = torch.empty(array.shape, dtype=array.dtype, pin_memory=True).copy_(array, non_blocking=True)
            array.record_stream(side)
        done = side.record_event()

    def receive() -> dict[str, np.ndarray]:
        done.synchronize()
        return {name: np.asarray(array) for name, array in host.items()}

    return receive


def _stream_of_copies() -> Any:
    """The stream of copies of this process; that of the computation where memory is not torch's own to give.

    Another allocator (RMM) does not heed `record_stream`, and would give memory away that a kernel still reads.
    """
    torch = importlib.import_module("torch")
    return _own_stream() if torch.cuda.get_allocator_backend() == "native" else torch.cuda.current_stream()


@cache
def _own_stream() -> Any:
    return importlib.import_module("torch").cuda.Stream()


def ahead(
    begin: Callable[[Item], Callable[[], Result]], items: Sequence[Item], *, overlap: bool
) -> Generator[Result, None, None]:
    """Yield `begin(item)()` of each item, in order.

    Args:
        overlap: begin each item in a thread while the one before it is in use.
    """
    if not overlap:
        yield from (begin(item)() for item in items)
        return
    with ThreadPoolExecutor(1) as thread:
        begun: Future[Callable[[], Result]] | None = None
        for item in items:
            following = thread.submit(begin, item)
            if begun is not None:
                yield begun.result()()
            begun = following
        if begun is not None:
            yield begun.result()()


def _call(function: Callable[[], object]) -> None:
    function()


@contextmanager
def behind(*, overlap: bool) -> Iterator[Callable[[Callable[[], object]], None]]:
    """A function that calls another; errors are raised by a later call, or at the end.

    Args:
        overlap: call it in a thread, one at a time.
    """
    if not overlap:
        yield _call
        return
    with ThreadPoolExecutor(1) as thread:
        running: list[Future[object]] = []

        def call(function: Callable[[], object]) -> None:
            while running:
                running.pop().result()
            running.append(thread.submit(function))

        yield call
        while running:
            running.pop().result()
