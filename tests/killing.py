"""Kills work right after its n-th booking or write: a stage in its own process, or code in this one."""

import contextlib
import multiprocessing
import os
import signal

import pytest

from provenance.core.stages import BY_NAME, Stage
from provenance.core.store import Store


class Killed(BaseException):
    """Stands for the death of the process."""


@contextlib.contextmanager
def dying(count, below=""):
    """Raise Killed in place of every write or removal of one object below a folder, once `count` of them were made."""
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


def at_every_boundary(stage, *arguments):
    """Run a stage, by its name or as `module:function`, killed after its first booking or write, its second, until it ends.

    Returns the number of boundaries.
    """
    # The fork server has imported slow modules, and has no threads yet.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["provenance.settlement.months.stage", "provenance.settlement.stage"])
    boundary, killed = 0, True
    while killed:
        boundary += 1
        process = processes.Process(target=run, args=(stage, boundary, dict(os.environ), *arguments))
        process.start()
        process.join()
        assert process.exitcode in {0, -signal.SIGKILL}
        killed = process.exitcode != 0
    return boundary - 1


def run(stage, count, environment, *arguments):
    """Run a stage in this process, and kill it at a boundary."""
    from tasks.where import opened

    os.environ.update(environment)
    die_after(count)
    with opened() as where:
        BY_NAME.get(stage, Stage(stage, function=stage)).run(where, *arguments)


def die_after(count, word=""):
    """Have this process kill itself right after its n-th write to a key that contains `word`, or its n-th "booking"."""
    from provenance.settlement import books

    left = [count]

    def survive(event):
        left[0] -= word in event
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(method):
        def write(self, key, data):
            outcome = method(self, key, data)
            survive(key)
            return outcome

        return write

    alone = books.booking_transaction

    @contextlib.contextmanager
    def booked(engine):
        with alone(engine) as connection:
            yield connection
        survive("booking")

    books.booking_transaction = booked
    Store.write, Store.create = deadly(Store.write), deadly(Store.create)
