"""Reads JSON files of the store that never change, once in each process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from provenance.core.errors import StoreError
from provenance.core.published import MANIFEST, revision_folder
from provenance.core.store import Store
from provenance.influence.audits import read_document
from provenance.settlement.books import Booking


@lru_cache(maxsize=4096)
def read_frozen(store: Store, key: str, sha: str = "") -> dict[str, Any]:
    """Read a JSON file that never changes; callers share the result and must not change it.

    Args:
        sha: its expected SHA-256, if known.

    Raises:
        StoreError: it is missing, or has another digest.
    """
    return read_document(store, key, sha)


def manifest_of(store: Store, booking: Booking) -> dict[str, Any] | None:
    """The manifest of a booking's revision; None if it is not published."""
    key = f"{revision_folder(booking.day, booking.revision)}/{MANIFEST}"
    try:
        return read_frozen(store, key)
    except StoreError:
        if store.exists(key):
            raise
        return None
