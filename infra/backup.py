"""A backup of the ledger and the store, and the way back.

    python -m infra.backup make FOLDER        dump the ledger, then copy what the store has and the folder lacks
    python -m infra.backup restore FOLDER     into an empty database and an empty store, those of the settings

The ledger is dumped first: whatever it refers to is in the store by then, so the copy is never older than the dump. What a
night published in between has no booking in the dump; the night run again books it, and finds its own files. Secrets are no
part of a backup: the signing key, and the key that opens payees' details, are kept where secrets are kept.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from rich.console import Console
from rich.progress import track

from provenance.core.errors import InputError, StoreError
from provenance.core.store import Store
from tasks.database import POSTGRES, database_url
from tasks.settings import load
from tasks.terminal import exit_codes

if TYPE_CHECKING:
    from tasks.settings import Settings

DUMP, COPY = "ledger.dump", "store"
# Roles of the ledger's tables; a dump of one database grants them rights and does not make them.
ROLES = ("provenance_ledger", "provenance_payees")


def make(settings: Settings, folder: Path, console: Console) -> None:
    """Back up to a folder; done again, it takes a new dump and copies what is new."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = folder / f"{DUMP}.new"
    with console.status("Dumping the ledger"):
        _postgres("pg_dump", settings, "--format=custom", f"--file={fresh}")
        fresh.rename(folder / DUMP)
    copied = _copy(settings.store.open(), Store(f"file://{folder.resolve()}/{COPY}", {}), console)
    console.print(f"{folder}: the ledger, {(folder / DUMP).stat().st_size:,} bytes; {copied:,} objects new of the store")


def restore(settings: Settings, folder: Path, console: Console) -> None:
    """Put a backup into an empty database and an empty store.

    Raises:
        InputError: there is no backup, or something is where it should go.
    """
    if not (folder / DUMP).is_file():
        raise InputError(str(folder / DUMP), expected="a dump that `make` has made", found="none")
    store = settings.store.open()
    if found := store.list(""):
        raise StoreError(store.locate(found[0]), expected="an empty store to restore into", found="an object")
    engine = sa.create_engine(database_url(settings.database), poolclass=sa.NullPool)
    if tables := sa.inspect(engine).get_table_names():
        raise InputError("database.url", expected="an empty database to restore into", found=f"tables: {', '.join(tables[:5])}")
    with engine.begin() as connection:
        there = set(connection.execute(sa.text("SELECT rolname FROM pg_roles")).scalars())
        for role in ROLES:
            if role not in there:
                connection.execute(sa.text(f"CREATE ROLE {role} NOLOGIN"))
    copied = _copy(Store(f"file://{folder.resolve()}/{COPY}", {}), store, console)
    with console.status("Restoring the ledger"):
        _postgres("pg_restore", settings, "--no-owner", "--exit-on-error", "--single-transaction", str(folder / DUMP))
    console.print(f"Restored {copied:,} objects and the ledger. Now check: provenance verify DAY, for the latest days.")


def _copy(source: Store, target: Store, console: Console) -> int:
    """Copy what the target lacks or has in another size; pointers, which are small and change, always. Returns how many."""
    there = {stored.key: stored.bytes for stored in target.describe()} if target.list("") else {}
    wanted = [s for s in source.describe() if there.get(s.key) != s.bytes or s.key.endswith(".json")]
    for stored in track(wanted, "Copying the store", console=console, transient=True, disable=not wanted):
        target.write(stored.key, source.read(stored.key))
    return sum(stored.key not in there for stored in wanted)


def _postgres(tool: str, settings: Settings, *words: str) -> None:
    """Run one of PostgreSQL's tools on the ledger's database; the URL goes by the environment, since process lists are read."""
    url = sa.make_url(database_url(settings.database))
    host = url.host or str(url.query.get("host", ""))
    told = {"PGHOST": host, "PGPORT": str(url.port or ""), "PGUSER": url.username or "", "PGPASSWORD": url.password or "",
            "PGDATABASE": url.database or ""}  # fmt: skip
    into = [f"--dbname={url.database}"] if tool == "pg_restore" else []
    done = subprocess.run(
        [str(POSTGRES / tool), *into, *words],
        env={name: value for name, value in told.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr.strip()[-500:]}")


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
