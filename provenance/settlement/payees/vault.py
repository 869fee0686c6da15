"""Keeps the register of payees: sealed records, with every version, in their own schema under their own role.

A payment is bound to the version of its payee's details at the close, so nobody can redirect it between approval and bank.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import MultiFernet

from provenance.core.locks import Lock, lock
from provenance.settlement.payees.details import Details, seal, unseal

# The database role that reads payees; the ledger's role may not.
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
# Removed details are empty; their version numbers stay.
KNOWN = PAYEE.c.sealed != b""


def register(engine: sa.Engine, box: MultiFernet, payees: Iterable[Details], *, by: str) -> dict[str, int]:
    """Register payees, all or none; returns the version in force of each. Unchanged details keep their version."""
    with engine.begin() as connection:
        lock(connection, Lock.PAYEES)
        last = _last(connection)
        current, in_force = _opened(last.values(), box), {}
        for details in payees:
            version, before = current.get(details.owner_id, (0, None))
            if before != details:
                version = last[details.owner_id].version + 1 if details.owner_id in last else 1
                row = {"owner_id": details.owner_id, "version": version, "changed_by": by}
                connection.execute(sa.insert(PAYEE), {**row, "sealed": seal(box, details, version)})
            in_force[details.owner_id] = version
        return in_force


def any_there(engine: sa.Engine) -> bool:
    """Whether any payee is registered; needs no key."""
    with engine.connect() as connection:
        return connection.execute(sa.select(PAYEE.c.owner_id).where(KNOWN).limit(1)).first() is not None


def in_force(engine: sa.Engine, box: MultiFernet) -> dict[str, tuple[int, Details]]:
    """Every payee's newest version, by owner."""
    with engine.connect() as connection:
        return _opened(_last(connection).values(), box)


def versions(engine: sa.Engine, box: MultiFernet, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Details]:
    """Payees by owner and version."""
    pairs = set(wanted)
    query = sa.select(PAYEE).where(PAYEE.c.owner_id.in_({owner for owner, _ in pairs}) & KNOWN)
    with engine.connect() as connection:
        return {
            (row.owner_id, row.version): unseal(box, row.sealed, row.owner_id, row.version)
            for row in connection.execute(query)
            if (row.owner_id, row.version) in pairs
        }


def history(engine: sa.Engine, owner_id: str) -> list[tuple[int, str, datetime]]:
    """Version, person and time of each change of an owner's details."""
    query = sa.select(PAYEE.c.version, PAYEE.c.changed_by, PAYEE.c.changed_at).where(PAYEE.c.owner_id == owner_id)
    with engine.connect() as connection:
        return [(row.version, row.changed_by, row.changed_at) for row in connection.execute(query.order_by(PAYEE.c.version))]


def reseal(engine: sa.Engine, box: MultiFernet) -> int:
    """Seal every record again with the first key; returns their number."""
    with engine.begin() as connection:
        lock(connection, Lock.PAYEES)
        rows = list(connection.execute(sa.select(PAYEE).where(KNOWN)))
        for row in rows:
            same = (PAYEE.c.owner_id == row.owner_id) & (PAYEE.c.version == row.version)
            connection.execute(sa.update(PAYEE).where(same).values(sealed=box.rotate(row.sealed)))
        return len(rows)


def remove(engine: sa.Engine, owner_id: str) -> int:
    """Remove a payee's details; returns the number of versions.

    Version numbers are not used again, so a payment bound to a removed version cannot go to a later one.
    """
    with engine.begin() as connection:
        owned = (PAYEE.c.owner_id == owner_id) & KNOWN
        return connection.execute(sa.update(PAYEE).where(owned).values(sealed=b"")).rowcount


def _last(connection: sa.Connection) -> dict[str, sa.Row[Any]]:
    """The last version of every payee, removed or not."""
    return {row.owner_id: row for row in connection.execute(sa.select(PAYEE).order_by(PAYEE.c.version))}


def _opened(rows: Iterable[sa.Row[Any]], box: MultiFernet) -> dict[str, tuple[int, Details]]:
    """Versions with their details, by owner, without those that were removed."""
    return {r.owner_id: (r.version, unseal(box, r.sealed, r.owner_id, r.version)) for r in rows if r.sealed}
