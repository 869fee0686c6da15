"""PostgreSQL's advisory locks that the ledger and the register of payees take, each with a number of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, unique

import sqlalchemy as sa


@unique
class Lock(IntEnum):
    """What only one process does at a time."""

    BOOKING = 7_304_512_009  # each booking's opening balance is its predecessor's closing balance
    PUBLISHING = 7_304_512_010  # no late writer touches what another has published
    CLEARING = 7_304_512_011  # what freezing finds must still be there once a night names it
    MIGRATING = 7_304_512_012  # of two first runs at once one makes the tables
    PAYEES = 7_304_512_013  # versions of a payee's details are numbered


def lock(connection: sa.Connection, key: Lock) -> None:
    """Take a lock until the connection's transaction ends."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key.value})


@contextmanager
def held(engine: sa.Engine, key: Lock, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock outside of any transaction; it ends with the process, too. Shared holders exclude only the others."""
    kind = "_shared" if shared else ""
    with engine.connect() as connection:
        connection.execute(sa.text(f"SELECT pg_advisory_lock{kind}(:key)"), {"key": key.value})
        try:
            yield
        finally:
            connection.execute(sa.text(f"SELECT pg_advisory_unlock{kind}(:key)"), {"key": key.value})
