"""A backup restores a ledger and a store that were lost."""

import io
from datetime import date

import pytest
import sqlalchemy as sa
from rich.console import Console
from samples import DAY, create_database
from stages import SMALL, night

from infra import backup
from infra.postgres.setup import LOGINS, set_up
from provenance.core.errors import InputError, StoreError
from provenance.core.store import Store
from provenance.settlement import ledger
from provenance.settlement.exports.nights import check_day
from tasks.database import get_server, open_ledger
from tasks.settings import load
from tasks.where import opened

NEXT = "2026-11-20"


def problems(day):
    with opened() as where:
        return [problem for check in check_day(where, day)[1] for problem in check.problems]


def entries(database):
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    return [(b, ledger.entries(engine, b.booking_id)) for b in ledger.bookings(engine)]


def test_a_ledger_and_a_store_come_back_and_the_next_night_is_the_same(
    tmp_path, store, ingested, environment, postgres, database
):
    folder, console = tmp_path / "backup", Console(quiet=True)
    ingested(days=(DAY, NEXT), **SMALL)
    night(day=DAY)
    backup.make(load(), folder, console)
    kept = entries(database)
    # A night comes in between the dump and the copy: the copy has its files, and the dump no booking of it.
    dump = (folder / backup.DUMP).read_bytes()
    night(day=NEXT)
    exported = {key: store.read(key) for key in store.list("exports")}
    backup.make(load(), folder, console)
    (folder / backup.DUMP).write_bytes(dump)

    other, lost = create_database(postgres), Store(f"file://{tmp_path}/other", {})
    with pytest.raises(StoreError, match="expected an empty store to restore into|expected an empty ledger"):
        backup.restore(load(), folder, console)
    environment(lost, **SMALL, DATABASE__URL=other, MODEL__CACHE=str(tmp_path / "cache2"))
    backup.restore(load(), folder, console)
    assert entries(other) == kept
    assert not problems(DAY)
    night(day=NEXT)
    assert {key: lost.read(key) for key in lost.list("exports")} == exported
    assert [b.booking_id for b, _ in entries(other)] == [1, 2]
    assert not problems(NEXT)
    with sa.create_engine(other, poolclass=sa.NullPool).connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("DELETE FROM entry"))  # what guards the ledger is restored with it


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> list[sa.URL]:
    """Three PostgreSQL servers, as their superuser."""
    folders = [tmp_path_factory.mktemp(f"server{n}") for n in range(3)]
    return [sa.make_url(get_server(folder).get_uri(database="postgres", driver="psycopg2")) for folder in folders]


def as_login(server: sa.URL, login: str) -> str:
    return server.set(username=login, database="provenance", password=login).render_as_string(hide_password=False)


def test_a_backup_of_a_stack_goes_to_a_machine_without_its_logins_and_into_a_new_stack(
    tmp_path, store, environment, servers, monkeypatch
):
    old, bare, new = servers
    for server in (old, new):
        set_up(server.render_as_string(hide_password=False), {login: login for login in LOGINS})
    folder, quiet = tmp_path / "backup", Console(quiet=True)
    environment(store, DATABASE__URL=as_login(old, "provenance"))
    with pytest.raises(StoreError, match=r"(?s)expected a ledger to back up, found an empty one.*infra\.stack run") as empty:
        backup.make(load(), folder, quiet)
    assert ":provenance@" not in str(empty.value)
    assert not folder.exists()
    engine = open_ledger(load().database, store)
    store.write("works/a", b"a work")
    store.write("works/b", b"another")
    ledger.hold(engine, "ann", day=date(2026, 11, 20), reason="no address", by="bob")
    screen = Console(record=True, width=300, file=io.StringIO())
    backup.make(load(), folder, screen)
    assert f"@{old.host or ''}" in (told := screen.export_text())
    assert "up to booking 1" in told
    assert store.url in told
    kept = [(b.booking_id, b.facts) for b in ledger.bookings(engine)]

    # A new stack has made its tables, and bound them to its own, empty store.
    other = Store(f"file://{tmp_path}/new", {})
    environment(other, DATABASE__URL=as_login(new, "provenance"))
    open_ledger(load().database, other)
    write, left = Store.write, [1]

    def fail_once(self, key, data):
        if left[0] == 0:
            left[0] = -1
            raise OSError("the disk is full")
        left[0] -= 1
        write(self, key, data)

    monkeypatch.setattr(Store, "write", fail_once)
    with pytest.raises(OSError, match="the disk is full"):
        backup.restore(load(), folder, quiet)
    backup.restore(load(), folder, quiet)
    restored = open_ledger(load().database, other)
    assert [(b.booking_id, b.facts) for b in ledger.bookings(restored)] == kept
    assert other.list("") == store.list("")
    assert ledger.bookings(sa.create_engine(as_login(new, "metrics"), poolclass=sa.NullPool))
    with pytest.raises(StoreError, match="expected an empty ledger to restore into.*rows in the table booking"):
        backup.restore(load(), folder, quiet)

    # A development machine's server has none of the logins.
    third = Store(f"file://{tmp_path}/bare", {})
    with sa.create_engine(bare, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text("CREATE DATABASE provenance"))
        connection.execute(sa.text("CREATE ROLE nobody LOGIN PASSWORD 'nobody'"))
    environment(third, DATABASE__URL=as_login(bare, "nobody"))
    with pytest.raises(InputError, match=r"expected the role \w+, which the dump names, found none.*infra\.postgres\.setup"):
        backup.restore(load(), folder, quiet)
    assert not third.list("")
    environment(third, DATABASE__URL=bare.set(database="provenance").render_as_string(hide_password=False))
    backup.restore(load(), folder, quiet)
    assert [(b.booking_id, b.facts) for b in ledger.bookings(open_ledger(load().database, third))] == kept


def test_without_a_backup_nothing_is_restored(tmp_path, store, environment):
    environment(store)
    with pytest.raises(InputError, match="expected a dump"):
        backup.restore(load(), tmp_path, Console(quiet=True))


def test_a_ledger_of_a_later_version_says_so(database):
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    ledger.migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v9999'"))
    with pytest.raises(StoreError, match="expected a schema that this version knows, found 'v9999'"):
        ledger.migrate(engine)
