"""A stage of a settlement in a process that SIGKILLs itself right after its n-th booking or write."""

import contextlib
import os
import signal


def run(stage, count, environment, *arguments):
    """Stand in a process of its own."""
    from provenance.core.store import Store
    from provenance.settlement import books
    from tasks import settle

    os.environ.update(environment)
    left = [count]

    def survive():
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(method):
        def write(self, key, data):
            outcome = method(self, key, data)
            survive()
            return outcome

        return write

    alone = books.alone

    @contextlib.contextmanager
    def booked(engine):
        with alone(engine) as connection:
            yield connection
        survive()

    books.alone = booked
    Store.write, Store.create = deadly(Store.write), deadly(Store.create)
    getattr(settle, stage)(*arguments)
