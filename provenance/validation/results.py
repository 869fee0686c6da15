"""Where the results of audits lie.

audits/<digest>/lds.json     a result, with its figure beside it
audits/current.json          the one that manifests cite
"""

from __future__ import annotations

from typing import Any

from provenance.core.store import Store, canonical_json, digest, sha256

CURRENT = "audits/current.json"


def publish(store: Store, kind: str, result: dict[str, Any], figure: bytes) -> str:
    """Write a result and its figure; returns their folder, named by the result, so that no other ever takes its place."""
    folder = f"audits/{digest({'kind': kind, 'result': result})[:32]}"
    store.write(f"{folder}/{kind}.png", figure)
    store.write(f"{folder}/{kind}.json", canonical_json(result))
    return folder


def put_in_force(store: Store, folder: str, night: str) -> None:
    """Have manifests cite a result from now on.

    Args:
        night: the folder of the night that was audited.
    """
    data = store.read(f"{folder}/lds.json")
    store.write(CURRENT, canonical_json({"folder": folder, "sha256": sha256(data), "night": night}))


def in_force(store: Store) -> dict[str, Any] | None:
    """What a manifest cites: the latest audit's folder, the digest of its result, and the night audited."""
    return store.read_json(CURRENT) if store.exists(CURRENT) else None
