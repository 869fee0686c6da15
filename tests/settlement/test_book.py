"""A night with shares is booked and published."""

import killing
from paid import bench

from provenance.settlement.stage import book, publish, reconcile


def test_a_night_killed_at_every_write_of_booking_and_publishing_ends_as_one_that_was_not(new_books, doors):
    undisturbed = new_books("undisturbed")
    where = doors()
    book(where, bench.lay_out(undisturbed, 400, 40))
    publish(where, bench.DAY)
    killed = new_books("killed")
    folder = bench.lay_out(killed, 400, 40)
    assert killing.at_every_boundary("settlement.book", folder) >= 1
    assert killing.at_every_boundary("settlement.publish", bench.DAY) >= 9, "seven files, a manifest and a pointer"
    reconcile(doors(), bench.DAY)
    left, wanted = ({key: store.read(key) for key in store.list("exports")} for store in (killed, undisturbed))
    assert left == wanted
