"""What operators watch is what the ledger, the manifests and the audits say."""

import pytest

from provenance.core.errors import StoreError
from provenance.core.store import canonical_json, sha256
from provenance.validation import results
from tasks.monitor import audits


def audited(store, day, score, *, values=None):
    """An audit of a day's night, in force from now on."""
    families = {
        family: {
            "subsets": 4,
            "seed_agreement": 0.5,
            "ceiling": 0.8,
            "methods": {
                name: {"lds": score + bonus, "low": score - 0.1, "high": score + 0.1}
                for name, bonus in (("factored", 0.0), ("tfidf", 0.1), ("faithful", 0.2))
            },
        }
        for family in ("owners", "examples")
    }
    night = {"day": day, "method": {"name": "factored", "values": values}}
    folder = results.publish(store, "lds", {"night": night, "families": families}, b"figure")
    results.put_in_force(store, folder, f"nights/day={day}/x")
    return folder


def published(store, day, booking_id, audit):
    """As much of a published day as names its audit."""
    folder = f"exports/payouts/day={day}/rev=0001"
    manifest = canonical_json({"day": day, "booking_id": booking_id, "audit": audit})
    store.write(f"{folder}/manifest.json", manifest)
    pointer = {"revision": 1, "folder": folder, "manifest_sha256": sha256(manifest)}
    store.write(f"exports/payouts/day={day}/current.json", canonical_json(pointer))


def test_audits_come_in_the_order_in_which_bookings_cite_them(store):
    assert audits(store) == []
    published(store, "2026-11-01", 1, None)
    assert audits(store) == []
    first = audited(store, "2026-11-01", 0.5)
    published(store, "2026-11-02", 2, results.in_force(store))
    second = audited(store, "2026-11-02", 0.4, values={"numbers": 64})
    published(store, "2026-10-05", 3, results.in_force(store))  # a day that was late
    published(store, "2026-11-03", 4, results.in_force(store))
    third = audited(store, "2026-11-03", 0.3)
    found = audits(store)
    assert [(audit.folder, audit.day, audit.cited_from) for audit in found] == [
        (first, "2026-11-01", "2026-11-02"),
        (second, "2026-11-02", "2026-10-05"),
        (third, "2026-11-03", ""),
    ]
    used = [[(f.family, f.method, round(f.score, 2)) for f in audit.figures] for audit in found[:2]]
    assert used[0] == [("examples", "factored", 0.5), ("owners", "factored", 0.5)]
    assert used[1] == [
        ("examples", "factored", 0.4), ("examples", "faithful", 0.6), ("owners", "factored", 0.4), ("owners", "faithful", 0.6),
    ]  # fmt: skip
    assert {(f.ceiling, round(f.low, 2), round(f.high, 2)) for f in found[0].figures} == {(0.8, 0.4, 0.6)}
    assert [audit.folder for audit in audits(store, last=1)] == [second, third]


def test_an_audit_that_is_not_what_was_cited_is_an_error(store):
    folder = audited(store, "2026-11-01", 0.5)
    published(store, "2026-11-02", 1, results.in_force(store))
    store.write(f"{folder}/lds.json", b"{}")
    with pytest.raises(StoreError, match="lds.json: expected SHA-256"):
        audits(store)
