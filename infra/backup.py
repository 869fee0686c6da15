"""Backs up the ledger and the store, and restores them.

    python -m infra.backup make FOLDER        dump the ledger, then copy new objects of the store
    python -m infra.backup restore FOLDER     into a ledger without bookings and an empty store

Ledger and store are those of the settings; for a stack on this machine: `python -m infra.stack run python -m infra.backup ...`.

The ledger is dumped first, so the copy of the store has all that the dump refers to. A night that is published in between has
no booking in the dump; running it again books it and finds its files. A backup has no secrets: keep the signing key and the key
of payees' details elsewhere.

A failed restore can be run again: it copies the rest of the store, and restores the ledger last, in one transaction.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from rich.console import Console
from rich.progress import track

from provenance.core.errors import InputError, StoreError
from provenance.core.store import Store
from tasks.database import IDENTITY, POSTGRES, database_url
from tasks.settings import load
from tasks.terminal import exit_codes

if TYPE_CHECKING:
    from provenance.core.settings import Settings

DUMP, COPY = "ledger.dump", "store"
FROM_THE_BEGINNING = {"alembic_version", "store"}
OF_A_STACK = "Of a stack on this machine: python -m infra.stack run python -m infra.backup ..."


def make(settings: Settings, folder: Path, console: Console) -> None:
    """Back up to a folder; again, it makes a new dump and copies new objects.

    Raises:
        InputError: there is nothing to back up.
    """
    store, engine = settings.store.open(), _engine(settings)
    rows = _rows(engine)
    if not any(rows.values()):
        raise StoreError(_place(engine), expected="a ledger to back up", found="an empty one", hint=OF_A_STACK)
    if not store.exists(IDENTITY):
        raise StoreError(store.locate(""), expected="a store to back up", found="nothing", hint=OF_A_STACK)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = folder / f"{DUMP}.new"
    with console.status("Dumping the ledger"):
        _postgres("pg_dump", settings, "--format=custom", f"--file={fresh}")
        fresh.rename(folder / DUMP)
    copied = _copy(store, Store(f"file://{folder.resolve()}/{COPY}", {}), console)
    console.print(
        f"{folder} has the ledger {_place(engine)} up to booking {rows['booking']:,}, "
        f"and the store {store.url}, of which {copied:,} objects are new.",
        soft_wrap=True,
        markup=False,
    )


def restore(settings: Settings, folder: Path, console: Console) -> None:
    """Restore a backup into a ledger without bookings and a store without other objects.

    Raises:
        InputError: there is no backup, or the ledger or the store is not empty.
    """
    if not (folder / DUMP).is_file():
        raise InputError(str(folder / DUMP), expected="a dump by `make`", found="none")
    store, saved, engine = settings.store.open(), Store(f"file://{folder.resolve()}/{COPY}", {}), _engine(settings)
    sizes = {stored.key: stored.bytes for stored in saved.describe()}
    for stored in store.describe():
        if sizes.get(stored.key) != stored.bytes:
            expected = "an empty store to restore into, or the beginning of this restore"
            raise StoreError(store.locate(stored.key), expected=expected, found="an object that is not in the backup")
    _make_roles(engine, _postgres("pg_restore", settings, "--schema-only", "--file=-", str(folder / DUMP)))
    _drop_unused(engine)
    copied = _copy(saved, store, console)
    with console.status("Restoring the ledger"):
        options = ("--no-owner", "--clean", "--if-exists", "--exit-on-error", "--single-transaction")
        _postgres("pg_restore", settings, *options, f"--dbname={engine.url.database}", str(folder / DUMP))
    console.print(
        f"Restored {copied:,} objects into {store.url}, and the ledger into {_place(engine)}.\n"
        "Now check: provenance verify DAY, for the latest days.",
        soft_wrap=True,
        markup=False,
    )


def _engine(settings: Settings) -> sa.Engine:
    return sa.create_engine(database_url(settings.database), poolclass=sa.NullPool)


def _place(engine: sa.Engine) -> str:
    """The URL of a database, without its password."""
    return engine.url.render_as_string(hide_password=True)


def _make_roles(engine: sa.Engine, script: str) -> None:
    """Make the roles that a dump grants rights to, if the server lacks them: a dump has no roles.

    Raises:
        InputError: the login may not make roles.
    """
    rights = "\n".join(re.findall(r"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .*;$", script, re.MULTILINE))
    roles = set(re.findall(r"(?:TO|FROM|FOR ROLE) (\w+)(?:;| IN SCHEMA)", rights)) - {"PUBLIC"}
    with engine.begin() as connection:
        missing = sorted(roles - set(connection.execute(sa.text("SELECT rolname FROM pg_roles")).scalars()))
        can_create = connection.execute(
            sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        ).scalar_one()
        if missing and not can_create:
            hint = "Set the server up first: python -m infra.postgres.setup (docs/production.md)."
            raise InputError(_place(engine), expected=f"the role {missing[0]}, which the dump names", found="none", hint=hint)
        for role in missing:
            connection.execute(sa.text(f'CREATE ROLE "{role}" NOLOGIN'))


def _drop_unused(engine: sa.Engine) -> None:
    """Drop the tables of a ledger that was never used.

    Raises:
        InputError: it has rows.
    """
    for name, count in _rows(engine).items():
        if count:
            expected = "an empty ledger to restore into"
            raise StoreError(_place(engine), expected=expected, found=f"{count:,} rows in the table {name}")
    _tables(engine).drop_all(engine)


def _rows(engine: sa.Engine) -> dict[str, int]:
    """Numbers of rows by table, without the tables that every ledger fills when it is made."""
    names = [table for table in _tables(engine).sorted_tables if table.name not in FROM_THE_BEGINNING]
    with engine.connect() as connection:
        return {t.name: connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in names}


def _tables(engine: sa.Engine) -> sa.MetaData:
    tables = sa.MetaData()
    for schema in {None, "payees"} & {None, *sa.inspect(engine).get_schema_names()}:
        tables.reflect(engine, schema=schema)
    return tables


def _copy(source: Store, target: Store, console: Console) -> int:
    """Copy objects that the target lacks or has in another size, and all JSON files, which are small and may change.

    Returns:
        The number of new objects.
    """
    sizes = {stored.key: stored.bytes for stored in target.describe()}
    objects = [s for s in source.describe() if sizes.get(s.key) != s.bytes or s.key.endswith(".json")]
    for stored in track(objects, "Copying the store", console=console, transient=True, disable=not objects):
        target.write(stored.key, source.read(stored.key))
    return sum(stored.key not in sizes for stored in objects)


def _postgres(tool: str, settings: Settings, *words: str) -> str:
    """The output of a PostgreSQL tool on the ledger's database. The password is in the environment, not in process lists."""
    url = sa.make_url(database_url(settings.database))
    environment = {
        "PGHOST": url.host or str(url.query.get("host", "")),
        "PGPORT": str(url.port or ""),
        "PGUSER": url.username or "",
        "PGPASSWORD": url.password or "",
        "PGDATABASE": url.database or "",
    }
    process = subprocess.run(
        [str(POSTGRES / tool), *words],
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"{tool}: {process.stderr.strip()[-500:]}")
    return process.stdout


def main() -> None:
    """Run from the command line; exit codes: 0 good, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "restore"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    console = Console()
    with exit_codes(RuntimeError):
        (make if arguments.what == "make" else restore)(load(), arguments.folder, console)


if __name__ == "__main__":
    main()
