"""A night is compared with the nights before; an unusual one is booked only after a person's approval."""

from datetime import date, timedelta

import paid
import pytest
from samples import enter

from provenance.core.errors import CheckFailed
from provenance.influence.audits import Audit, AuditFigure
from provenance.settlement import ledger, reasons
from provenance.settlement.stage import book, review
from tasks.dag_parameters import approval

DAYS = [str(date(2026, 10, 1) + timedelta(days=n)) for n in range(5)]
DANA = {"responded_by_user": {"id": "7", "name": "dana"}, "responded_at": "2026-10-06T08:00:00+00:00"}
YES, NO = (approval({"chosen_options": [chosen], **DANA}) for chosen in ("Approve", "Reject"))


@pytest.fixture
def past(books, doors, monkeypatch):
    """Where four days much alike are booked."""
    enter(monkeypatch, {"PROVENANCE_REVIEW__LEAST": "4", "PROVENANCE_REVIEW__DEVIATIONS": "20"})
    where = doors()
    for seed, day in enumerate(DAYS[:4]):
        book(where, paid.lay_out(where.store, day, 400, seed=seed))
    return where


def bookings(where, day):
    return ledger.bookings(where.ledger, date.fromisoformat(day))


def test_a_usual_night_is_booked_without_anybody(past):
    folder = paid.lay_out(past.store, DAYS[4], 400, seed=9)
    request = review(past, folder)
    assert request["reasons"] == []
    book(past, folder, request, None)
    assert bookings(past, DAYS[4])[0].facts == {}


def test_an_odd_night_is_booked_with_the_name_of_who_approved(past):
    folder = paid.lay_out(past.store, DAYS[4], 40_000, seed=9)
    request = review(past, folder)
    assert [reason.split(":")[0] for reason in request["reasons"]] == ["revenue"]
    assert "Compared with the 4 nights before it:" in request["body"]
    assert "| 40 owners would be booked" in request["body"]
    assert "| owner\\-0000" in request["body"], "a name means nothing in Markdown"
    with pytest.raises(CheckFailed, match="nobody has approved this night"):
        book(past, folder, request, None)
    with pytest.raises(CheckFailed, match=r"dana \(7\) did not approve"):
        book(past, folder, request, NO)
    assert bookings(past, DAYS[4]) == []
    book(past, folder, request, YES)
    (booking,) = bookings(past, DAYS[4])
    assert booking.facts["approved_by"] == "dana (7)"
    assert booking.facts["approved_at"] == DANA["responded_at"]
    assert booking.facts["reasons"] == request["reasons"]


def test_an_approval_is_of_what_was_reviewed(past):
    seen = review(past, paid.lay_out(past.store, DAYS[4], 40_000, seed=9))
    other = paid.lay_out(past.store, DAYS[4], 44_000, seed=9)
    with pytest.raises(CheckFailed, match="has changed since its review"):
        book(past, other, seen, YES)
    assert bookings(past, DAYS[4]) == []


def test_a_day_paid_again_is_held_against_its_own_past_and_what_is_booked(past):
    folder = paid.lay_out(past.store, DAYS[0], 4_000, seed=50)
    request = review(past, folder)
    assert [reason.split(":")[0] for reason in request["reasons"]] == ["correction"], "no days before it teach anything"
    assert "| now booked | then | change |" in request["body"]


def test_falling_audits_are_a_reason(past, monkeypatch):
    def audit(day, score):
        figure = AuditFigure("owners", "factored", score, score - 0.05, score + 0.05, 0.9)
        return Audit(f"audits/{day}", "0" * 64, day, day, (figure,))

    folder = paid.lay_out(past.store, DAYS[4], 400, seed=9)
    monkeypatch.setattr(reasons, "audits", lambda store, last: [audit("2026-09-01", 0.7), audit("2026-09-08", 0.66)])
    assert review(past, folder)["reasons"] == []
    monkeypatch.setattr(reasons, "audits", lambda store, last: [audit("2026-09-01", 0.7), audit("2026-09-08", 0.5)])
    fallen = "audit of 2026-09-08, owners: factored scores 0.50 (0.45 to 0.55), before 0.70 (0.65 to 0.75)"
    assert review(past, folder)["reasons"] == [fallen]


def test_a_rule_that_fails_its_check_waits_for_a_person_where_the_contract_says_so(past):
    folder = paid.lay_out(past.store, DAYS[4], 400, seed=9, report=paid.UNSUPPORTED, unsupported="wait")
    request = review(past, folder)
    (reason,) = request["reasons"]
    assert reason == (
        "contract 'everything': its rule faithful fails its check (predictions for left-out models rank no better than "
        "the amount of work alone (+0.01)), so its fallback flat pays if this is approved"
    )
    assert "- contract 'everything': its rule faithful fails its check" in request["body"]
    with pytest.raises(CheckFailed, match="nobody has approved this night"):
        book(past, folder, request, None)
    book(past, folder, request, YES)
    assert bookings(past, DAYS[4])[0].facts["reasons"] == request["reasons"]


@pytest.mark.parametrize(
    "how",
    [
        {"report": paid.UNSUPPORTED},
        {"report": paid.UNSUPPORTED, "unsupported": "wait", "rule": "flat"},
        {"report": paid.SUPPORTED, "unsupported": "wait"},
    ],
)
def test_nobody_is_asked_about_a_rule_that_passes_its_check_needs_none_or_falls_back_at_once(past, how):
    assert review(past, paid.lay_out(past.store, DAYS[4], 400, seed=9, **how))["reasons"] == []


def test_a_night_that_measured_nothing_of_its_shares_is_reviewed_as_before(past):
    folder = paid.as_of_old(past.store, paid.lay_out(past.store, DAYS[4], 400, seed=9, unsupported="wait"))
    assert review(past, folder)["reasons"] == []


def test_the_store_is_only_read(past, store):
    folder = paid.lay_out(past.store, DAYS[4], 40_000, seed=9)
    before = {key: store.read(key) for key in store.list("")}
    review(past, folder)
    assert {key: store.read(key) for key in store.list("")} == before
