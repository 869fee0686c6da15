"""Stores the results of audits, names the one in force, and lists those that published manifests cite.

audits/<digest>/lds.json     a result, with its figure beside it
audits/current.json          the result in force, which the next manifests cite
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provenance.core.errors import StoreError
from provenance.core.published import MANIFEST, published_days
from provenance.core.published import in_force as revision_in_force
from provenance.core.store import Store, canonical_json, digest, sha256

CURRENT = "audits/current.json"


@dataclass(frozen=True)
class AuditFigure:
    """A method's LDS on halves of a family, with interval and ceiling.

    Attributes:
        family: what is halved: `examples` or `owners`.
        ceiling: the best score that the noise of training allows.
    """

    family: str
    method: str
    score: float
    low: float
    high: float
    ceiling: float


@dataclass(frozen=True)
class Audit:
    """An audit that manifests cite, or the next manifest will cite.

    Attributes:
        day: the day of the audited night.
        cited_from: day of the first booking whose manifest cites it; empty if no manifest does yet.
        figures: figures of the method of influence that the audited night used.
    """

    folder: str
    sha256: str
    day: str
    cited_from: str
    figures: tuple[AuditFigure, ...]


def publish(store: Store, kind: str, result: dict[str, Any], figure: bytes) -> str:
    """Write a result and its figure; returns their folder, which is named by the digest of the result."""
    folder = f"audits/{digest({'kind': kind, 'result': result})[:32]}"
    store.write(f"{folder}/{kind}.png", figure)
    store.write(f"{folder}/{kind}.json", canonical_json(result))
    return folder


def put_in_force(store: Store, folder: str, night: str) -> None:
    """Put a result in force: manifests cite it from now on.

    Args:
        night: the folder of the night that was audited.
    """
    data = store.read(f"{folder}/lds.json")
    store.write(CURRENT, canonical_json({"folder": folder, "sha256": sha256(data), "night": night}))


def in_force(store: Store) -> dict[str, Any] | None:
    """The citation of the audit in force: `folder`, `sha256` of its result, and `night`; None if there is none."""
    return store.read_json(CURRENT) if store.exists(CURRENT) else None


def read_document(store: Store, key: str, sha: str = "") -> dict[str, Any]:
    """A JSON document that never changes.

    Args:
        sha: its expected SHA-256, if it is known.

    Raises:
        StoreError: it is missing, is not JSON, or has another SHA-256.
    """
    data = store.read(key)
    if sha and sha256(data) != sha:
        raise StoreError(store.locate(key), expected=f"SHA-256 {sha}", found=sha256(data))
    try:
        content: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise StoreError(store.locate(key), expected="JSON", found=str(error)) from error
    return content


def audits(
    store: Store, *, last: int | None = None, read: Callable[[Store, str, str], dict[str, Any]] = read_document
) -> list[Audit]:
    """The audits that current manifests cite, in the order of booking, then the one in force if no manifest cites it yet.

    Args:
        last: number of days whose manifests are read; by default all.
        read: reads a document like `read_document`; a cache saves time for callers that ask often.

    Raises:
        StoreError: a cited audit is missing or was changed.
    """
    days = published_days(store)
    pointers = [revision_in_force(store, day) for day in days[-last if last else None :]]
    manifests = [read(store, f"{pointer['folder']}/{MANIFEST}", pointer["manifest_sha256"]) for pointer in pointers]
    manifests.sort(key=lambda manifest: manifest["booking_id"])
    citations: dict[str, tuple[Mapping[str, Any], str]] = {}
    for manifest in manifests:
        if manifest["audit"]:
            citations.setdefault(manifest["audit"]["sha256"], (manifest["audit"], manifest["day"]))
    if current := in_force(store):
        citations.setdefault(current["sha256"], (current, ""))
    return [
        _audit(read(store, f"{citation['folder']}/lds.json", citation["sha256"]), citation, cited_from)
        for citation, cited_from in citations.values()
    ]


def _audit(result: Mapping[str, Any], citation: Mapping[str, Any], cited_from: str) -> Audit:
    """An audit from its result, with the figures of the method that its night used."""
    name = result["night"]["method"]["name"]
    figures = tuple(
        AuditFigure(family, name, estimate["lds"], estimate["low"], estimate["high"], outcome["ceiling"])
        for family, outcome in sorted(result["families"].items())
        if (estimate := outcome["methods"].get(name))
    )
    return Audit(citation["folder"], citation["sha256"], result["night"]["day"], cited_from, figures)
