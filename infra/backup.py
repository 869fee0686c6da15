"""A backup of the ledger and the store, and the way back.

    python -m infra.backup make FOLDER        dump the ledger, then copy what the store has and the folder lacks
    python -m infra.backup restore FOLDER     into a ledger without bookings and a store without anything else

Both are of the settings: of a stack on this machine by `python -m infra.stack run python -m infra.backup ...`.

The ledger is dumped first: whatever it refers to is in the store by then, so the copy is never older than the dump. What a
night published in between has no booking in the dump; the night run again books it, and finds its own files. Secrets are no
part of a backup: the signing key, and the key that opens payees' details, are kept where secrets are kept.

A restore that failed can be given again: the store goes on where it was, and the ledger comes last and whole.
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
    from tasks.settings import Settings

DUMP, COPY = "ledger.dump", "store"
FROM_THE_BEGINNING = {"alembic_version", "store"}
OF_A_STACK = "Of a stack on this machine: python -m infra.stack run python -m infra.backup ..."


def make(settings: Settings, folder: Path, console: Console) -> None:
    """Back up to a folder; done again, it takes a new dump and copies what is new.

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
    """Put a backup into a database whose ledger has booked nothing, and a store that has nothing but what is in the backup.

    Raises:
        InputError: there is no backup, or something is where it should go.
    """
    if not (folder / DUMP).is_file():
        raise InputError(str(folder / DUMP), expected="a dump that `make` has made", found="none")
    store, saved, engine = settings.store.open(), Store(f"file://{folder.resolve()}/{COPY}", {}), _engine(settings)
    known = {stored.key: stored.bytes for stored in saved.describe()}
    for stored in store.describe():
        if known.get(stored.key) != stored.bytes:
            expected = "an empty store to restore into, or the beginning of this restore"
            raise StoreError(store.locate(stored.key), expected=expected, found="an object that is not in the backup")
    _make_roles(engine, _postgres("pg_restore", settings, "--schema-only", "--file=-", str(folder / DUMP)))
    _drop_unused(engine)
    copied = _copy(saved, store, console)
    with console.status("Restoring the ledger"):
        how = ("--no-owner", "--clean", "--if-exists", "--exit-on-error", "--single-transaction")
        _postgres("pg_restore", settings, *how, f"--dbname={engine.url.database}", str(folder / DUMP))
    console.print(
        f"Restored {copied:,} objects into {store.url}, and the ledger into {_place(engine)}.\n"
        "Now check: provenance verify DAY, for the latest days.",
        soft_wrap=True,
        markup=False,
    )


def _engine(settings: Settings) -> sa.Engine:
    return sa.create_engine(database_url(settings.database), poolclass=sa.NullPool)


def _place(engine: sa.Engine) -> str:
    """Where a database is, without its password."""
    return engine.url.render_as_string(hide_password=True)


def _make_roles(engine: sa.Engine, script: str) -> None:
    """Make the roles that a dump gives rights to, where the server lacks them: it makes none itself.

    Raises:
        InputError: the login may not.
    """
    rights = "\n".join(re.findall(r"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .*;$", script, re.MULTILINE))
    wanted = set(re.findall(r"(?:TO|FROM|FOR ROLE) (\w+)(?:;| IN SCHEMA)", rights)) - {"PUBLIC"}
    with engine.begin() as connection:
        missing = sorted(wanted - set(connection.execute(sa.text("SELECT rolname FROM pg_roles")).scalars()))
        may = connection.execute(
            sa.text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
        ).scalar_one()
        if missing and not may:
            hint = "Set the server up first: python -m infra.postgres.setup (docs/production.md)."
            raise InputError(_place(engine), expected=f"the role {missing[0]}, which the dump names", found="none", hint=hint)
        for role in missing:
            connection.execute(sa.text(f'CREATE ROLE "{role}" NOLOGIN'))


def _drop_unused(engine: sa.Engine) -> None:
    """Drop the tables of a ledger that has been made and never used.

    Raises:
        InputError: it has been used.
    """
    for name, count in _rows(engine).items():
        if count:
            expected = "a ledger that nothing is in, to restore into"
            raise StoreError(_place(engine), expected=expected, found=f"{count:,} rows in the table {name}")
    _tables(engine).drop_all(engine)


def _rows(engine: sa.Engine) -> dict[str, int]:
    """How many rows each of a ledger's tables has, but for those that it has from the beginning."""
    names = [table for table in _tables(engine).sorted_tables if table.name not in FROM_THE_BEGINNING]
    with engine.connect() as connection:
        return {t.name: connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in names}


def _tables(engine: sa.Engine) -> sa.MetaData:
    found = sa.MetaData()
    for schema in {None, "payees"} & {None, *sa.inspect(engine).get_schema_names()}:
        found.reflect(engine, schema=schema)
    return found


def _copy(source: Store, target: Store, console: Console) -> int:
    """Copy what the target lacks or has in another size; pointers, which are small and change, always. Returns how many."""
    there = {stored.key: stored.bytes for stored in target.describe()}
    wanted = [s for s in source.describe() if there.get(s.key) != s.bytes or s.key.endswith(".json")]
    for stored in track(wanted, "Copying the store", console=console, transient=True, disable=not wanted):
        target.write(stored.key, source.read(stored.key))
    return sum(stored.key not in there for stored in wanted)


def _postgres(tool: str, settings: Settings, *words: str) -> str:
    """What one of PostgreSQL's tools says of the ledger's database; the URL goes by the environment: process lists are read."""
    url = sa.make_url(database_url(settings.database))
    host = url.host or str(url.query.get("host", ""))
    told = {"PGHOST": host, "PGPORT": str(url.port or ""), "PGUSER": url.username or "", "PGPASSWORD": url.password or "",
            "PGDATABASE": url.database or ""}  # fmt: skip
    done = subprocess.run(
        [str(POSTGRES / tool), *words],
        env={name: value for name, value in told.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr.strip()[-500:]}")
    return done.stdout


def main() -> None:
    """Exit codes: 0 good, 1 failed, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "restore"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    console = Console()
    with exit_codes(RuntimeError):
        (make if arguments.what == "make" else restore)(load(), arguments.folder, console)


if __name__ == "__main__":
    main()
