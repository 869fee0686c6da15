"""What is killed right after its n-th booking or write: a stage in a process of its own, or code in this one."""

import contextlib
import importlib
import multiprocessing
import os
import signal

import pytest

from provenance.core.store import Store


class Killed(BaseException):
    """The process is gone."""


@contextlib.contextmanager
def dying(count, below=""):
    """Inside, nothing is written or removed after so many writes, and removals of one object each, below some folders."""
    left = [count]

    def survive(key):
        if key.startswith(below):
            left[0] -= 1
            if left[0] < 0:
                raise Killed

    def deadly(method):
        def write(self, key, data):
            survive(key)
            return method(self, key, data)

        return write

    def remove_all(self, keys):
        for key in keys:
            survive(key)
            self.remove(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", deadly(Store.write))
        patch.setattr(Store, "create", deadly(Store.create))
        patch.setattr(Store, "remove_all", remove_all)
        yield


def at_every_boundary(module, stage, *arguments):
    """Run a stage again and again, killed after its first booking or write, its second, and so on until it ends.

    Returns how many boundaries there were.
    """
    # Of a server that has imported what takes long, and has no threads yet.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["provenance.settlement.months.settle", "provenance.settlement.book"])
    boundary, killed = 0, True
    while killed:
        boundary += 1
        process = processes.Process(target=run, args=(module, stage, boundary, dict(os.environ), *arguments))
        process.start()
        process.join()
        assert process.exitcode in {0, -signal.SIGKILL}
        killed = process.exitcode != 0
    return boundary - 1


def run(module, stage, count, environment, *arguments):
    """Stand in a process of its own."""
    os.environ.update(environment)
    die_after(count)
    getattr(importlib.import_module(module), stage)(*arguments)


def die_after(count, word=""):
    """Have this process kill itself right after its n-th write to a key with a word in it, or booking, if that is the word."""
    from provenance.settlement import books

    left = [count]

    def survive(what):
        left[0] -= word in what
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(method):
        def write(self, key, data):
            outcome = method(self, key, data)
            survive(key)
            return outcome

        return write

    alone = books.alone

    @contextlib.contextmanager
    def booked(engine):
        with alone(engine) as connection:
            yield connection
        survive("booking")

    books.alone = booked
    Store.write, Store.create = deadly(Store.write), deadly(Store.create)
