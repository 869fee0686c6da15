import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from provenance.core.errors import InputError
from provenance.core.locks import publishing
from provenance.settlement import books, ledger
from provenance.settlement.accounts import Account

MONDAY, TUESDAY = date(2026, 11, 16), date(2026, 11, 17)
DISPUTE = {"day": TUESDAY, "reason": "disputed by zoe", "by": "me"}
REVENUE, ANN, BOB = Account("receivable", "", "EUR"), Account("payable", "ann", "EUR"), Account("payable", "bob", "EUR")


@pytest.fixture
def engine(database):
    engine = sa.create_engine(database)
    ledger.migrate(engine)
    yield engine
    engine.dispose()


def day(ann, bob):
    return {account: amount for account, amount in ((REVENUE, ann + bob), (ANN, -ann), (BOB, -bob)) if amount}


def test_the_schema_of_the_migrations_however_often_is_the_one_that_the_code_knows(engine):
    ledger.migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), books.METADATA) == []


def test_the_same_cause_is_booked_once(engine):
    first = ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c")
    assert ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c") == first
    assert len(ledger.bookings(engine)) == 1
    assert ledger.balances(engine, through=first.booking_id) == day(70, 30)


def test_a_day_booked_again_is_booked_by_difference(engine):
    first = ledger.book(engine, MONDAY, day(70, 30), night="n1", cause="c1")
    other = ledger.book(engine, TUESDAY, day(5, 5), night="t", cause="t")
    second = ledger.book(engine, MONDAY, day(60, 50), night="n2", cause="c2")
    assert (second.revision, second.corrects) == (2, first.booking_id)
    assert dict(ledger.entries(engine, second.booking_id)) == {REVENUE: 10, ANN: 10, BOB: -20}
    assert ledger.day_amounts(engine, MONDAY, through=second.booking_id) == day(60, 50)
    assert ledger.day_amounts(engine, MONDAY, through=other.booking_id) == day(70, 30)
    assert ledger.balances(engine, through=second.booking_id) == day(65, 55)
    back = ledger.book(engine, MONDAY, day(70, 30), night="n1", cause="c1")
    assert back.revision == 3, "back to what it was is a correction too"


@pytest.mark.parametrize("booked", [
    lambda engine: ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c"),
    lambda engine: ledger.hold(engine, "ann", **DISPUTE),
])  # fmt: skip
def test_what_is_booked_by_several_at_once_is_booked_once(engine, booked):
    with ThreadPoolExecutor(6) as pool:
        assert {booking.booking_id for booking in pool.map(booked, [engine] * 12)} == {1}


def test_days_booked_at_once_chain(engine):
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: ledger.book(engine, date(2026, 11, n), day(n, 1), night="n", cause=f"c{n}"), range(1, 13)))
    booked = ledger.bookings(engine)
    assert len(booked) == 12
    assert ledger.balances(engine, through=booked[-1].booking_id) == day(78, 12)


@pytest.mark.parametrize("statement", ["UPDATE entry SET amount_minor = 1", "DELETE FROM entry", "DELETE FROM booking",
                                       "UPDATE booking SET night = 'x'",
                                       "TRUNCATE entry, closed, outcome, invoice"])  # fmt: skip
def test_the_database_refuses_to_change_what_is_booked(engine, statement):
    ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c")
    with pytest.raises(sa.exc.InternalError, match="only ever added to"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    assert ledger.balances(engine, through=99) == day(70, 30)


def test_the_database_refuses_a_booking_that_does_not_balance_and_leaves_no_gap_in_the_numbers(engine):
    with pytest.raises(sa.exc.InternalError, match="does not balance: EUR is off by 1 minor units"):
        ledger.book(engine, MONDAY, {REVENUE: 100, ANN: -99}, night="n", cause="c")
    with pytest.raises(sa.exc.InternalError, match="does not balance"):  # currencies balance only together
        ledger.book(engine, MONDAY, {REVENUE: 100, Account("payable", "ann", "USD"): -100}, night="n", cause="c")
    assert ledger.bookings(engine) == []
    assert ledger.book(engine, MONDAY, day(7, 3), night="n", cause="c").booking_id == 1


def test_the_database_refuses_entries_that_come_late(engine):
    booking = ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c")
    late = "INSERT INTO entry VALUES (:b, 9, 'payable', 'eve', 'EUR', -1), (:b, 10, 'receivable', '', 'EUR', 1)"
    with pytest.raises(sa.exc.InternalError, match="transaction that made their booking"), engine.begin() as connection:
        connection.execute(sa.text(late), {"b": booking.booking_id})


def test_a_ledger_keeps_to_the_store_it_began_with(engine):
    assert ledger.bind(engine, "one") == "one"
    assert ledger.bind(engine, "two") == "one"


def test_only_one_process_publishes_at_a_time(engine):
    order = []

    def publish(name):
        with publishing(engine):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(publish, "abc"))
    assert order[0::2] == order[1::2]


HELD_ANN = Account("held", "ann", "EUR")


def balances(engine):
    return ledger.balances(engine, through=ledger.newest(engine))


def test_what_an_owner_on_hold_is_owed_and_earns_is_held_until_the_last_release(engine):
    ledger.book(engine, MONDAY, day(70, 30), night="n", cause="c")
    placed = ledger.hold(engine, "ann", **DISPUTE)
    assert ledger.hold(engine, "ann", **DISPUTE) == placed, "the same hold is placed once"
    ledger.hold(engine, "ann", day=TUESDAY, reason="no tax data", by="me")
    assert balances(engine) == {REVENUE: 100, HELD_ANN: -70, BOB: -30}
    ledger.book(engine, TUESDAY, day(5, 5), night="t", cause="t")
    ledger.book(engine, MONDAY, day(60, 30), night="n2", cause="c2")
    assert balances(engine) == {REVENUE: 100, HELD_ANN: -65, BOB: -35}
    ledger.release(engine, "ann", **DISPUTE)
    assert balances(engine)[HELD_ANN] == -65, "there is another hold"
    ledger.release(engine, "ann", day=TUESDAY, reason="no tax data", by="me")
    assert balances(engine) == {REVENUE: 100, ANN: -65, BOB: -35}
    assert ledger.standing(engine, through=placed.booking_id).holds == {"ann": ("disputed by zoe",)}
    with pytest.raises(InputError, match="expected a hold in force because of 'disputed by zoe', found none"):
        ledger.release(engine, "ann", **DISPUTE)
    again = ledger.hold(engine, "ann", **DISPUTE)
    assert again.booking_id > placed.booking_id


def test_what_was_claimed_out_of_escrow_is_never_paid_twice(engine):
    escrow = Account("escrow", "unmatched-x", "EUR")
    ledger.book(engine, MONDAY, {REVENUE: 10, escrow: -10}, night="n", cause="c")
    arguments = {"day": TUESDAY, "evidence": "letter", "by": "me"}
    with pytest.raises(InputError, match="Did you mean 'unmatched-x'"):
        ledger.claim(engine, "unmatched-y", "ann", **arguments)
    claim = ledger.claim(engine, "unmatched-x", "ann", **arguments)
    assert ledger.claim(engine, "unmatched-x", "ann", **arguments) == claim
    with pytest.raises(InputError, match="a claim of ann, booked as 2"):
        ledger.claim(engine, "unmatched-x", "bob", **arguments)
    assert balances(engine) == {REVENUE: 10, ANN: -10}
    ledger.book(engine, MONDAY, {REVENUE: 10, ANN: -10}, night="n2", cause="the corpus has the claim now")
    assert balances(engine) == {REVENUE: 10, ANN: -10}
    ledger.book(engine, TUESDAY, {REVENUE: 3, escrow: -3}, night="t", cause="t")
    assert balances(engine) == {REVENUE: 13, ANN: -13}
