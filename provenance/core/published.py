"""Keys of published exports in the store, and the revision of a day that is in force."""

from __future__ import annotations

from datetime import date
from typing import Any

from provenance.core.errors import StoreError
from provenance.core.store import Store

MANIFEST = "manifest.json"
# Published days that an error names each.
FEW = 7


def revision_folder(day: date | str, revision: int) -> str:
    """The folder of a revision of a day's export."""
    return f"exports/payouts/day={day}/rev={revision:04d}"


def current_key(day: date | str) -> str:
    """The key of the pointer to the revision in force."""
    return f"exports/payouts/day={day}/current.json"


def published_days(store: Store) -> list[str]:
    """Days with an export in force, oldest first."""
    keys = store.list("exports/payouts")
    return sorted(key.split("/day=")[1].split("/")[0] for key in keys if key.endswith("/current.json"))


def in_force(store: Store, day: date | str) -> dict[str, Any]:
    """The pointer to a day's revision in force: `revision, folder, manifest_sha256`; an error names the published days."""
    if not store.exists(current_key(day)):
        raise StoreError(
            store.locate(current_key(day)),
            expected="a published day",
            found="none",
            hint=_nearest(published_days(store), str(day)),
        )
    found = store.read_json(current_key(day))
    if lacking := {"revision", "folder", "manifest_sha256"} - found.keys():
        where = store.locate(current_key(day))
        raise StoreError(where, expected="revision, folder and manifest_sha256", found=f"no {', '.join(sorted(lacking))}")
    return found


def _nearest(days: list[str], day: str) -> str:
    """A hint for a day that is not published: the nearest one, and how many there are."""
    if not days:
        return "No day is published yet: `make demo` pays one."
    if len(days) <= FEW:
        return f"Published: {', '.join(days)}."
    wanted = date.fromisoformat(day)
    near = min(days, key=lambda other: abs((date.fromisoformat(other) - wanted).days))
    return f"Did you mean {near!r}? {len(days)} days are published, from {days[0]} to {days[-1]}."


def night_in_force(store: Store, day: date | str) -> str:
    """The folder of the night behind a day's revision in force."""
    return str(store.read_json(f"{in_force(store, day)['folder']}/{MANIFEST}")["night"])
