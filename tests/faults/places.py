"""Where a night of a test runs, and what it leaves there."""

import contextlib
import json
import shutil
from dataclasses import dataclass

import sqlalchemy as sa

from provenance.core.store import Store, sha256
from provenance.settlement import ledger


@dataclass(frozen=True)
class Place:
    """A store and a ledger, and the environment of nights there.

    Attributes:
        store: reached without any fault.
    """

    store: Store
    environment: dict[str, str]

    @property
    def exports(self):
        """Every file that was published."""
        return {key: self.store.read(key) for key in self.store.list("exports")}

    @property
    def entries(self):
        """The ledger: what was booked, and on which accounts."""
        engine = sa.create_engine(self.environment["PROVENANCE_DATABASE__URL"], poolclass=sa.NullPool)
        booked = ledger.bookings(engine)
        return [(b.kind, b.day, b.revision, b.night, ledger.entries(engine, b.booking_id)) for b in booked]

    def copy(self, store, *prefixes):
        """What lies below some folders, written to another store; without any, all that a night has when it is to be booked."""
        left = ("exports/", "store.json")
        for key in self.store.list(""):
            if key.startswith(prefixes or "") and not key.startswith(left):
                store.write(key, self.store.read(key))

    @property
    def half_published(self):
        """Folders with a manifest that names a file which is not there, or is another; days that point at no manifest."""
        files = self.exports
        pointed = {json.loads(data)["folder"] for key, data in files.items() if key.endswith("/current.json")}
        folders = {key.removesuffix("/manifest.json") for key in files if key.endswith("/manifest.json")}
        broken = {
            folder
            for folder in folders
            for name, stated in json.loads(files[f"{folder}/manifest.json"])["files"].items()
            if sha256(files.get(f"{folder}/{name}", b"")) != stated["sha256"]
        }
        return (pointed - folders) | broken


@contextlib.contextmanager
def filled(disk, left):
    """A disk on which no more than some bytes are left; whoever writes to it meanwhile leaves less."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(bytes(max(shutil.disk_usage(disk).free - left, 0)))
    try:
        yield
    finally:
        ballast.unlink()
