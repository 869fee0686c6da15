"""A backup, everything lost, and the way back."""

import pytest
import sqlalchemy as sa
from rich.console import Console
from samples import DAY, corpus_frames, create_database, deliver
from stages import SMALL, night, run

from infra import backup
from provenance.core.errors import InputError, StoreError
from provenance.core.store import Store
from provenance.settlement import ledger
from tasks.reconcile import check_day
from tasks.settings import load

NEXT = "2026-11-20"


def problems(day):
    return [problem for check in check_day(load(), day)[1] for problem in check.problems]


def entries(database):
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    return [(b, ledger.entries(engine, b.booking_id)) for b in ledger.bookings(engine)]


def test_a_ledger_and_a_store_come_back_and_the_next_night_is_the_same(tmp_path, environment, postgres, database, monkeypatch):
    store, folder, console = Store(f"file://{tmp_path}/store", {}), tmp_path / "backup", Console(quiet=True)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"PROVENANCE_{name}", value)
    monkeypatch.setenv("PROVENANCE_SETTLEMENT__KEY", str(tmp_path / "signing.pem"))
    environment(store)
    deliver(store, corpus_frames(), days=(DAY, NEXT))
    run("ingest.ingest")
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
    with pytest.raises(StoreError, match="expected an empty store to restore into"):
        backup.restore(load(), folder, console)
    environment(lost, DATABASE__URL=other, MODEL__CACHE=str(tmp_path / "cache2"))
    backup.restore(load(), folder, console)
    assert entries(other) == kept
    assert not problems(DAY)
    night(day=NEXT)
    assert {key: lost.read(key) for key in lost.list("exports")} == exported
    assert [b.booking_id for b, _ in entries(other)] == [1, 2]
    assert not problems(NEXT)
    with sa.create_engine(other, poolclass=sa.NullPool).connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("DELETE FROM entry"))  # what guards the ledger is restored with it


def test_without_a_backup_nothing_is_restored(tmp_path, environment):
    environment(Store(f"file://{tmp_path}/store", {}))
    with pytest.raises(InputError, match="expected a dump"):
        backup.restore(load(), tmp_path, Console(quiet=True))


def test_a_ledger_of_a_later_version_says_so(database):
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    ledger.migrate(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v9999'"))
    with pytest.raises(StoreError, match="expected a schema that this version knows, found 'v9999'"):
        ledger.migrate(engine)
