"""Hands out published files: exports of nights, closings, payments and statements, and nothing else of the store.

A file is handed out if the manifest of its folder names it, with the bytes that the manifest proves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provenance.core.errors import ContractError, StoreError
from provenance.core.published import MANIFEST
from provenance.core.store import sha256
from provenance.settlement.exports.export import signature_of

if TYPE_CHECKING:
    from provenance.core.store import Store

# Folders of which files are handed out, with what tells their files apart on somebody's disk.
PUBLISHED = re.compile(
    r"(?P<folder>exports/(?:payouts/day=(?P<day>\d{4}-\d{2}-\d{2})/rev=(?P<revision>\d{4,})"
    r"|(?:periods|statements)/period=(?P<period>\d{4}-\d{2})(?:/closing|/payments)?))/(?P<name>[^\x00]+)"
)


def published_file(store: Store, key: str) -> tuple[bytes, str]:
    """A published file and a name for it on a disk.

    Raises:
        ContractError: no manifest of a published folder names it.
        StoreError: it is not what its manifest says.
    """
    match = PUBLISHED.fullmatch(key)
    manifest = f"{match['folder']}/{MANIFEST}" if match else ""
    if not match or not store.exists(manifest):
        raise ContractError(f"file {key!r}", expected="a published file", found="none of that name")
    name = match["name"]
    files = store.read_json(manifest)["files"]
    if name not in files and name not in {MANIFEST, signature_of(MANIFEST)}:
        raise ContractError(f"file {key!r}", expected=f"one that {MANIFEST} names", found="none of that name")
    data = store.read(key)
    if name in files and sha256(data) != files[name]["sha256"]:
        raise StoreError(store.locate(key), expected=f"SHA-256 {files[name]['sha256']}", found="other bytes")
    stem, _, ending = name.rpartition("/")[2].rpartition(".")
    owner = name.partition("/")[0].removeprefix("owner=") if "/" in name else ""
    tags = (owner, match["day"] or match["period"], f"rev{int(match['revision'])}" if match["revision"] else "")
    return data, f"{'-'.join([stem, *(tag for tag in tags if tag)])}.{ending}"
