"""A night is held against those before it; an odd one is booked on somebody's word, and on no other."""

from datetime import date, timedelta

import paid
import pytest
from samples import enter

from infra.monitor.nights import Audit, AuditFigure
from provenance.core.errors import CheckFailed
from provenance.settlement import ledger
from provenance.settlement import review as module
from provenance.settlement.book import book
from provenance.settlement.review import review
from tasks.database import open_ledger
from tasks.settings import load

DAYS = [str(date(2026, 10, 1) + timedelta(days=n)) for n in range(5)]
DANA = {"responded_by_user": {"id": "7", "name": "dana"}, "responded_at": "2026-10-06T08:00:00+00:00"}
SAID = {"chosen_options": ["Approve"], **DANA}


@pytest.fixture
def past(books, monkeypatch):
    """Four booked days much alike."""
    enter(monkeypatch, {"PROVENANCE_REVIEW__LEAST": "4", "PROVENANCE_REVIEW__DEVIATIONS": "20"})
    for seed, day in enumerate(DAYS[:4]):
        book(paid.lay_out(day, 400, seed=seed))


def bookings(day):
    settings = load()
    return ledger.bookings(open_ledger(settings.database, settings.store.open()), date.fromisoformat(day))


def test_a_usual_night_is_booked_without_anybody(past):
    folder = paid.lay_out(DAYS[4], 400, seed=9)
    request = review(folder)
    assert request["reasons"] == []
    book(folder, request, None)
    assert bookings(DAYS[4])[0].facts == {}


def test_an_odd_night_is_booked_with_the_name_of_who_approved(past):
    folder = paid.lay_out(DAYS[4], 40_000, seed=9)
    request = review(folder)
    assert [reason.split(":")[0] for reason in request["reasons"]] == ["revenue"]
    assert "held against the 4 before it" in request["body"]
    assert "| 40 owners would be booked" in request["body"]
    assert "| owner\\-0000" in request["body"], "a name means nothing in Markdown"
    with pytest.raises(CheckFailed, match="nobody has approved this night"):
        book(folder, request, None)
    with pytest.raises(CheckFailed, match=r"dana \(7\) did not approve"):
        book(folder, request, {**SAID, "chosen_options": ["Reject"]})
    assert bookings(DAYS[4]) == []
    book(folder, request, SAID)
    (booking,) = bookings(DAYS[4])
    assert booking.facts["approved_by"] == "dana (7)"
    assert booking.facts["approved_at"] == SAID["responded_at"]
    assert booking.facts["reasons"] == request["reasons"]


def test_an_approval_is_of_what_was_reviewed(past):
    seen = review(paid.lay_out(DAYS[4], 40_000, seed=9))
    other = paid.lay_out(DAYS[4], 44_000, seed=9)
    with pytest.raises(CheckFailed, match="not what was reviewed"):
        book(other, seen, SAID)
    assert bookings(DAYS[4]) == []


def test_a_day_paid_again_is_held_against_its_own_past_and_what_is_booked(past):
    folder = paid.lay_out(DAYS[0], 4_000, seed=50)
    request = review(folder)
    assert [reason.split(":")[0] for reason in request["reasons"]] == ["correction"], "no days before it teach anything"
    assert "| now booked | then | change |" in request["body"]


def test_falling_audits_are_a_reason(past, monkeypatch):
    def audit(day, score):
        figure = AuditFigure("owners", "factored", score, score - 0.05, score + 0.05, 0.9)
        return Audit(f"audits/{day}", "0" * 64, day, day, (figure,))

    folder = paid.lay_out(DAYS[4], 400, seed=9)
    monkeypatch.setattr(module, "audits", lambda store, last: [audit("2026-09-01", 0.7), audit("2026-09-08", 0.66)])
    assert review(folder)["reasons"] == []
    monkeypatch.setattr(module, "audits", lambda store, last: [audit("2026-09-01", 0.7), audit("2026-09-08", 0.5)])
    fallen = "audit of 2026-09-08, owners: factored scores 0.50 (0.45 to 0.55), before 0.70 (0.65 to 0.75)"
    assert review(folder)["reasons"] == [fallen]


def test_a_rule_that_fails_its_check_waits_for_a_person_where_the_contract_says_so(past):
    folder = paid.lay_out(DAYS[4], 400, seed=9, report=paid.UNSUPPORTED, unsupported="wait")
    request = review(folder)
    (reason,) = request["reasons"]
    assert reason == (
        "contract 'everything': its rule faithful fails its check (predictions for left-out models rank no better than "
        "the amount of work alone (+0.01)), so its fallback flat pays if this is approved"
    )
    assert "- contract 'everything': its rule faithful fails its check" in request["body"]
    with pytest.raises(CheckFailed, match="nobody has approved this night"):
        book(folder, request, None)
    book(folder, request, SAID)
    assert bookings(DAYS[4])[0].facts["reasons"] == request["reasons"]


@pytest.mark.parametrize(
    "how",
    [
        {"report": paid.UNSUPPORTED},
        {"report": paid.UNSUPPORTED, "unsupported": "wait", "rule": "flat"},
        {"report": paid.SUPPORTED, "unsupported": "wait"},
    ],
)
def test_nobody_is_asked_about_a_rule_that_passes_its_check_needs_none_or_falls_back_at_once(past, how):
    assert review(paid.lay_out(DAYS[4], 400, seed=9, **how))["reasons"] == []


def test_a_night_that_measured_nothing_of_its_shares_is_reviewed_as_before(past):
    folder = paid.as_of_old(load().store.open(), paid.lay_out(DAYS[4], 400, seed=9, unsupported="wait"))
    assert review(folder)["reasons"] == []


def test_the_store_is_only_read(past, store):
    folder = paid.lay_out(DAYS[4], 40_000, seed=9)
    before = {key: store.read(key) for key in store.list("")}
    review(folder)
    assert {key: store.read(key) for key in store.list("")} == before
