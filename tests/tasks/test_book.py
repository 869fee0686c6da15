"""A night whose shares are there, booked and published."""

import killing
from paid import bench

from provenance.settlement.book import book
from provenance.settlement.publish import publish
from provenance.settlement.reconcile import reconcile


def test_a_night_killed_at_every_write_of_booking_and_publishing_ends_as_one_that_was_not(new_books):
    undisturbed = new_books("undisturbed")
    book(bench.lay_out(400, 40))
    publish(bench.DAY)
    killed, folder = new_books("killed"), bench.lay_out(400, 40)
    assert killing.at_every_boundary("provenance.settlement.book", "book", folder) >= 1
    assert killing.at_every_boundary("provenance.settlement.publish", "publish", bench.DAY) >= 9, (
        "seven files, a manifest and a pointer"
    )
    reconcile(bench.DAY)
    left, wanted = ({key: store.read(key) for key in store.list("exports")} for store in (killed, undisturbed))
    assert left == wanted
