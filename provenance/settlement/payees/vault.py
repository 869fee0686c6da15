"""The register of payees: sealed records in a schema and under a role of their own, every version kept.

A payment is bound to the version of its payee's details that was in force when its period was closed, so that nobody can turn
it to another account between the approval and the bank.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import MultiFernet

from provenance.core.locks import Lock, lock
from provenance.settlement.payees.details import Details, seal, unseal

# The role as which a settlement reads payees; the ledger's own may not.
ROLE = "provenance_payees"
PAYEE = sa.Table(
    "payee",
    sa.MetaData(schema="payees"),
    sa.Column("owner_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
# Of a payee that was removed the numbers of its versions stay.
KNOWN = PAYEE.c.sealed != b""


def register(engine: sa.Engine, box: MultiFernet, payees: Iterable[Details], *, by: str) -> dict[str, int]:
    """Take payees in, all or none; returns the version in force of each: the old one, where its details are the same."""
    with engine.begin() as connection:
        lock(connection, Lock.PAYEES)
        last = _last(connection)
        known, found = _opened(last.values(), box), {}
        for details in payees:
            version, before = known.get(details.owner_id, (0, None))
            if before != details:
                version = last[details.owner_id].version + 1 if details.owner_id in last else 1
                row = {"owner_id": details.owner_id, "version": version, "changed_by": by}
                connection.execute(sa.insert(PAYEE), {**row, "sealed": seal(box, details, version)})
            found[details.owner_id] = version
        return found


def any_there(engine: sa.Engine) -> bool:
    """Whether anybody is registered; asks for no key."""
    with engine.connect() as connection:
        return connection.execute(sa.select(PAYEE.c.owner_id).where(KNOWN).limit(1)).first() is not None


def in_force(engine: sa.Engine, box: MultiFernet) -> dict[str, tuple[int, Details]]:
    """Every payee's newest version, by owner."""
    with engine.connect() as connection:
        return _opened(_last(connection).values(), box)


def versions(engine: sa.Engine, box: MultiFernet, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Details]:
    """Payees by owner and version."""
    asked = set(wanted)
    query = sa.select(PAYEE).where(PAYEE.c.owner_id.in_({owner for owner, _ in asked}) & KNOWN)
    with engine.connect() as connection:
        return {
            (row.owner_id, row.version): unseal(box, row.sealed, row.owner_id, row.version)
            for row in connection.execute(query)
            if (row.owner_id, row.version) in asked
        }


def history(engine: sa.Engine, owner_id: str) -> list[tuple[int, str, datetime]]:
    """Who changed an owner's details when, by version; not to what."""
    query = sa.select(PAYEE.c.version, PAYEE.c.changed_by, PAYEE.c.changed_at).where(PAYEE.c.owner_id == owner_id)
    with engine.connect() as connection:
        return [(row.version, row.changed_by, row.changed_at) for row in connection.execute(query.order_by(PAYEE.c.version))]


def reseal(engine: sa.Engine, box: MultiFernet) -> int:
    """Seal every record again with the first key; returns how many there are."""
    with engine.begin() as connection:
        lock(connection, Lock.PAYEES)
        rows = list(connection.execute(sa.select(PAYEE).where(KNOWN)))
        for row in rows:
            this = (PAYEE.c.owner_id == row.owner_id) & (PAYEE.c.version == row.version)
            connection.execute(sa.update(PAYEE).where(this).values(sealed=box.rotate(row.sealed)))
        return len(rows)


def remove(engine: sa.Engine, owner_id: str) -> int:
    """Forget a payee; returns how many versions there were.

    Their numbers are not used again: a payment that was to go to one of them must not go to another.
    """
    with engine.begin() as connection:
        this = (PAYEE.c.owner_id == owner_id) & KNOWN
        return connection.execute(sa.update(PAYEE).where(this).values(sealed=b"")).rowcount


def _last(connection: sa.Connection) -> dict[str, sa.Row[Any]]:
    """The last version of every payee, removed or not."""
    return {row.owner_id: row for row in connection.execute(sa.select(PAYEE).order_by(PAYEE.c.version))}


def _opened(rows: Iterable[sa.Row[Any]], box: MultiFernet) -> dict[str, tuple[int, Details]]:
    """Versions with their details, by owner, without those that were removed."""
    return {r.owner_id: (r.version, unseal(box, r.sealed, r.owner_id, r.version)) for r in rows if r.sealed}
