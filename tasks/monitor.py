"""What operators watch, as plain data: the nights, one night's flow, the audits. The page and the metrics show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from provenance.core.errors import StoreError
from provenance.core.store import Store, sha256
from provenance.royalty.shares import FAITHFUL
from provenance.settlement.exports import MANIFEST, in_force, published_days
from provenance.validation import results

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class AuditFigure:
    """How well a method in use predicted retraining: a linear datamodelling score, its 95 % interval, what noise allows.

    Attributes:
        family: of what halves were left out: `examples` or `owners`.
    """

    family: str
    method: str
    score: float
    low: float
    high: float
    ceiling: float


@dataclass(frozen=True)
class Audit:
    """An audit that manifests cite, or will.

    Attributes:
        day: whose night was audited.
        cited_from: day of the first booking whose manifest cites it; empty where the next one will be the first.
        figures: of the methods that the audited night used: its method of influence and, where it paid by value, `faithful`.
    """

    folder: str
    sha256: str
    day: str
    cited_from: str
    figures: tuple[AuditFigure, ...]


def audits(store: Store, *, last: int | None = None) -> list[Audit]:
    """The audits that manifests in force cite, in the order of booking, and then the one in force if none cites it yet.

    Args:
        last: look at the manifests of so many days; of all by default.

    Raises:
        StoreError: an audit that is cited is gone, or is not what was cited.
    """
    days = published_days(store)
    manifests = [_manifest(store, in_force(store, day)) for day in days[-last if last else None :]]
    manifests.sort(key=lambda manifest: manifest["booking_id"])
    cited: dict[str, tuple[Mapping[str, Any], str]] = {}
    for manifest in manifests:
        if manifest["audit"]:
            cited.setdefault(manifest["audit"]["sha256"], (manifest["audit"], manifest["day"]))
    if current := results.in_force(store):
        cited.setdefault(current["sha256"], (current, ""))
    return [_audit(store, reference, since) for reference, since in cited.values()]


def _audit(store: Store, reference: Mapping[str, Any], since: str) -> Audit:
    """What an audit found of the methods that its night used."""
    result = _read(store, f"{reference['folder']}/lds.json", reference["sha256"])
    method = result["night"]["method"]
    used = {method["name"], *((FAITHFUL,) if method.get("values") else ())}
    figures = tuple(
        AuditFigure(family, name, estimate["lds"], estimate["low"], estimate["high"], found["ceiling"])
        for family, found in sorted(result["families"].items())
        for name, estimate in sorted(found["methods"].items())
        if name in used
    )
    return Audit(reference["folder"], reference["sha256"], result["night"]["day"], since, figures)


def _manifest(store: Store, pointer: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that a day's pointer names."""
    return _read(store, f"{pointer['folder']}/{MANIFEST}", pointer["manifest_sha256"])


def _read(store: Store, key: str, digest: str) -> dict[str, Any]:
    """JSON that never changes; whoever reads it must not change it either.

    Raises:
        StoreError: it is gone, or is not what its digest says.
    """
    return _read_once(store.url, tuple(sorted(store.options.items())), key, digest)


@lru_cache(maxsize=4096)
def _read_once(url: str, options: tuple[tuple[str, Any], ...], key: str, digest: str) -> dict[str, Any]:
    store = Store(url, dict(options))
    data = store.read(key)
    if sha256(data) != digest:
        raise StoreError(store.locate(key), expected=f"SHA-256 {digest}", found=sha256(data))
    found: dict[str, Any] = json.loads(data)
    return found
