"""A night whose shares are there, booked and published."""

import killing
import pytest
from paid import bench
from samples import create_database

from provenance.core.store import Store
from tasks.book import book
from tasks.publish import publish
from tasks.reconcile import reconcile


@pytest.fixture
def laid_out(tmp_path, postgres, monkeypatch):
    """Makes a night in a store and a ledger of its own, which become those of the settings; returns its folder."""

    def make(name):
        store = Store(f"file://{tmp_path}/{name}", {})
        monkeypatch.setenv("PROVENANCE_STORE__URL", store.url)
        monkeypatch.setenv("PROVENANCE_DATABASE__URL", create_database(postgres))
        monkeypatch.setenv("PROVENANCE_SETTLEMENT__KEY", str(tmp_path / "signing.pem"))
        return store, bench.lay_out(400, 40)

    return make


def test_a_night_killed_at_every_write_of_booking_and_publishing_ends_as_one_that_was_not(laid_out):
    undisturbed, folder = laid_out("undisturbed")
    book(folder)
    publish(bench.DAY)
    killed, folder = laid_out("killed")
    assert killing.at_every_boundary("tasks.book", "book", folder) >= 1
    assert killing.at_every_boundary("tasks.publish", "publish", bench.DAY) >= 9, "seven files, a manifest and a pointer"
    reconcile(bench.DAY)
    assert killed.list("exports") == undisturbed.list("exports")
    for key in undisturbed.list("exports"):
        assert killed.read(key) == undisturbed.read(key)
