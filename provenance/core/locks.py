"""PostgreSQL's advisory locks, one number each, and the clock of the ledger's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import IntEnum, unique

import sqlalchemy as sa


@unique
class Lock(IntEnum):
    """Work that one process does at a time."""

    BOOKING = 7_304_512_009  # each booking's opening balance is its predecessor's closing balance
    PUBLISHING = 7_304_512_010  # a late writer must not change a published export
    CLEARING = 7_304_512_011  # a frozen part must still exist when a night names it
    MIGRATING = 7_304_512_012  # two first runs at once must not both create tables
    PAYEES = 7_304_512_013  # versions of a payee's details have consecutive numbers
    INVOICING = 7_304_512_014  # numbers of invoices have no gap


def lock(connection: sa.Connection, key: Lock) -> None:
    """Take a lock until the connection's transaction ends."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key.value})


@contextmanager
def held(engine: sa.Engine | None, key: Lock, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock outside any transaction, at most until the process ends. Shared holders exclude only exclusive ones.

    Args:
        engine: None for work on folders, on which nobody else works.
    """
    if engine is None:
        yield
        return
    kind = "_shared" if shared else ""
    with engine.connect() as connection:
        connection.execute(sa.text(f"SELECT pg_advisory_lock{kind}(:key)"), {"key": key.value})
        try:
            yield
        finally:
            connection.execute(sa.text(f"SELECT pg_advisory_unlock{kind}(:key)"), {"key": key.value})


def now(engine: sa.Engine) -> datetime:
    """The time by the ledger's clock, since clocks of machines differ."""
    with engine.connect() as connection:
        found: datetime = connection.execute(sa.select(sa.func.now())).scalar_one()
        return found


def publishing(engine: sa.Engine | None) -> AbstractContextManager[None]:
    """Hold the right to publish: one process at a time."""
    return held(engine, Lock.PUBLISHING)


def freezing(engine: sa.Engine | None) -> AbstractContextManager[None]:
    """Keep housekeeping from removing frozen parts meanwhile."""
    return held(engine, Lock.CLEARING, shared=True)


def clearing(engine: sa.Engine | None) -> AbstractContextManager[None]:
    """Hold the right to remove parts that no night needs; nothing is frozen meanwhile."""
    return held(engine, Lock.CLEARING)
