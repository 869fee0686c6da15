"""Escrow as it ages: claimants, reminders, and what the policy gives away."""

from datetime import date, timedelta
from pathlib import Path

import paid
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.errors import InputError
from provenance.core.settings import CHECKOUT
from provenance.settlement import books, escrow, ledger
from provenance.settlement.accounts import Account
from provenance.settlement.escrow import Policy, left_of, read_policy
from provenance.settlement.exports.nights import check_day
from provenance.settlement.months.closings import escrow_ages
from provenance.settlement.stage import book, publish

TODAY, OLD, NEW = date(2026, 11, 29), date(2023, 1, 10), date(2026, 11, 1)
NAME, REVENUE = Account("escrow", "unmatched-x", "EUR"), Account("receivable", "", "EUR")
POLICY = Policy(reminders=(90, 365), after=1095, then="developer")
BY = {"day": TODAY, "evidence": "letter", "by": "me"}
TWO = {"on": TODAY, "evidence": "contract, 7.2", "by": ("me", "you")}


@pytest.fixture
def engine(database):
    engine = sa.create_engine(database)
    ledger.migrate(engine)
    for day, amount in ((OLD, 700), (NEW, 300)):
        for after, account in ((0, NAME), (1, Account("escrow", "dispute-2023-01-10-k-w", "EUR"))):
            amounts = {REVENUE: amount, account: -amount}
            ledger.book(engine, day + timedelta(after), amounts, night="n", cause=f"{account} {day}")
    yield engine
    engine.dispose()


def steps(engine, policy=POLICY):
    return {one.escrow_id: one.next_step(policy, TODAY) for one in escrow.kept(engine, through=ledger.newest(engine))}


def balance(engine, account):
    return -ledger.balances(engine, through=ledger.newest(engine)).get(account, 0)


def test_a_name_is_kept_then_looked_for_then_the_contract_decides(engine):
    assert steps(engine) == {
        "unmatched-x": "look for its owner again: 2 reminders due", "dispute-2023-01-10-k-w": "in dispute: nothing ages",
    }  # fmt: skip
    with pytest.raises(InputError, match="with all its reminders, found look for its owner again: 2"):
        escrow.apply(engine, "unmatched-x", POLICY, **TWO)
    first = escrow.remind(engine, "unmatched-x", **BY)
    assert escrow.remind(engine, "unmatched-x", **BY) == first, "once a day"
    escrow.remind(engine, "unmatched-x", **BY | {"day": TODAY - timedelta(1)})
    assert steps(engine)["unmatched-x"] == "the contract gives it: developer"
    assert steps(engine, Policy(after=1095))["unmatched-x"] == "kept, as the contract says"
    assert steps(engine, Policy(after=9999))["unmatched-x"] == f"wait until {OLD + timedelta(9999)}"
    before = ledger.balances(engine, through=ledger.newest(engine))
    assert before[NAME] == -1000, "reminders move nothing"
    applied = escrow.apply(engine, "unmatched-x", POLICY, **TWO)
    assert dict(ledger.entries(engine, applied.booking_id)) == {NAME: 700, Account("developer", "", "EUR"): -700}
    assert (applied.facts["by"], applied.facts["approved_by"]) == ("me", "you")
    assert steps(engine)["unmatched-x"] == f"wait until {NEW + timedelta(90)}", "what is left is young"
    table = escrow_ages(ledger.by_day(engine, "escrow", through=ledger.newest(engine)), TODAY)
    assert table.filter(escrow_id="unmatched-x")["up_to_90_days_minor"].to_list() == [300]
    with pytest.raises(InputError, match="amounts that are 1095 days old"):
        escrow.apply(engine, "unmatched-x", POLICY, **TWO)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by": ("me", " ME")}, "two people who decide"),
        ({"by": ("me", "")}, "two people who decide"),
        ({"policy": Policy(after=1)}, "one that keeps it"),
        ({"name": "dispute-2023-01-10-k-w"}, "in dispute: nothing ages"),
        ({"name": "unmatched-y"}, "a name under which something lies in escrow"),
    ],
)
def test_what_is_not_given_away(engine, change, said):
    options, giving = TWO | {"by": change.get("by", TWO["by"])}, Policy(after=1, then="developer")
    with pytest.raises(InputError, match=said):
        escrow.apply(engine, change.get("name", "unmatched-x"), change.get("policy", giving), **options)
    assert {booking.kind for booking in ledger.bookings(engine)} == {"night"}


def test_what_was_given_away_and_is_owed_to_nobody_after_all_comes_back(engine):
    giving = Policy(after=1, then="developer")
    dollars = Account("escrow", "unmatched-x", "USD")
    revenue = Account("receivable", "", "USD")
    ledger.book(engine, OLD + timedelta(7), {revenue: 900, dollars: -900}, night="d", cause="dollars")
    escrow.apply(engine, "unmatched-x", giving, **TWO)
    ledger.book(engine, OLD + timedelta(7), {}, night="e", cause="not theirs after all")
    assert (balance(engine, dollars), balance(engine, NAME)) == (-900, 0)
    assert steps(engine, giving)["unmatched-x"].startswith("less than nothing: bring back what was given away")
    with pytest.raises(InputError, match="found less than nothing"):
        escrow.apply(engine, "unmatched-x", giving, **TWO)
    escrow.give_back(engine, "unmatched-x", on=TODAY, evidence="run again", by="me")
    assert (balance(engine, dollars), balance(engine, NAME)) == (0, 1000)


def test_while_several_claim_a_name_nobody_gets_it(engine):
    for owner in ("ann", "bob"):
        escrow.record_claimant(engine, "unmatched-x", owner, **BY)
    again = escrow.record_claimant(engine, "unmatched-x", "bob", **BY)
    assert again.booking_id == ledger.newest(engine), "the same is recorded once"
    assert steps(engine)["unmatched-x"] == "2 owners claim it: decide between them"
    for owner in ("ann", "eve"):
        with pytest.raises(InputError, match="to be its only claimant, found claims of .*bob"):
            ledger.claim(engine, "unmatched-x", owner, **BY)
    with pytest.raises(InputError, match="2 owners claim it"):
        escrow.apply(engine, "unmatched-x", Policy(after=1, then="developer"), **TWO)
    escrow.record_claimant(engine, "unmatched-x", "bob", withdrawn=True, **BY)
    assert steps(engine)["unmatched-x"] == "decide on the claim of ann"
    ledger.claim(engine, "unmatched-x", "ann", **BY)
    assert balance(engine, Account("payable", "ann", "EUR")) == 1000
    with pytest.raises(InputError, match="a claim of eve that is recorded"):
        escrow.record_claimant(engine, "unmatched-x", "eve", withdrawn=True, **BY)


@pytest.mark.parametrize(
    ("recorded", "due"),
    [
        ((), 2), ((1, 2), 2), ((364,), 2), ((365,), 1), ((365, 366), 1), ((1, 365, 730), 0), ((731,), 1), ((731, 732), 0),
        ((400, 800), 0), ((-5, 400), 1),
    ],
)  # fmt: skip
def test_a_reminder_counts_from_its_own_age_on(recorded, due):
    since = date(2023, 1, 1)
    one = escrow.Kept("unmatched-x", "EUR", ((since, 5),), {}, tuple(since + timedelta(days) for days in recorded))
    policy = Policy(reminders=(365, 730), after=1095, then="developer")
    assert one.reminders_due(policy, since + timedelta(1200)) == due
    assert one.next_step(policy, since + timedelta(1200)).startswith("look for its owner" if due else "the contract gives it")
    assert one.reminders_due(policy, since + timedelta(364)) == 0


@pytest.mark.parametrize("claimed_first", [True, False])
def test_what_was_given_away_comes_back_for_an_owner_who_has_come_after_all(engine, claimed_first):
    for then in ("developer", "unattributed"):
        with pytest.raises(InputError, match="amounts that the policy gave away"):
            escrow.give_back(engine, "unmatched-x", on=TODAY, evidence="x", by="me")
        policy = Policy(after=1095 if then == "developer" else 1, then=then)
        escrow.apply(engine, "unmatched-x", policy, **TWO)
        if then == "developer":
            escrow.give_back(engine, "unmatched-x", on=TODAY, evidence="x", by="me")
    assert balance(engine, Account("unattributed", "", "EUR")) == 1000
    if claimed_first:
        ledger.claim(engine, "unmatched-x", "ann", **BY)
    escrow.give_back(engine, "unmatched-x", on=TODAY, evidence="x", by="me")
    if not claimed_first:
        ledger.claim(engine, "unmatched-x", "ann", **BY)
    assert balance(engine, Account("payable", "ann", "EUR")) == 1000
    assert balance(engine, Account("unattributed", "", "EUR")) == balance(engine, Account("developer", "", "EUR")) == 0


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 10**6)), min_size=1, max_size=9), st.integers(0, 100))
def test_what_is_left_is_all_that_came_in_less_what_went_out_oldest_first(came, part):
    by_day = {}
    for age, amount in came:
        key = (NAME, TODAY - timedelta(age))
        by_day[key] = by_day.get(key, 0) - amount
    whole = -sum(by_day.values())
    gone = whole * part // 100
    left = left_of(by_day | ({(NAME, TODAY + timedelta(1)): gone} if gone else {})).get(NAME, [])
    assert sum(amount for _, amount in left) == whole - gone
    assert all(amount > 0 for _, amount in left)
    days = sorted(day for _, day in by_day)
    assert [day for day, _ in left] == days[len(days) - len(left) :], "the youngest stay whole"


def test_nights_are_published_and_verified_after_a_policy_was_applied(where):
    store, engine = paid.pay(where, paid.DAYS[:2])
    facts = {"escrow_id": "unmatched-x", "then": "given back", "evidence": "x", "by": "me"}
    escrow._move(engine, "unmatched-x", {("developer", "EUR"): -500}, facts, OLD)
    escrow.record_claimant(engine, "unmatched-x", "somebody", **BY)
    escrow.record_claimant(engine, "unmatched-x", "somebody", withdrawn=True, **BY)
    escrow.apply(engine, "unmatched-x", Policy(after=1, then="unattributed"), **TWO)
    book(where, paid.lay_out(store, paid.DAYS[2], 600, seed=3))
    publish(where, paid.DAYS[2])
    assert all(check.passed for check in check_day(where, paid.DAYS[2])[1])
    assert books.APPLIED in {booking.kind for booking in ledger.bookings(engine)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reminders = [365, 90]", "reminders in order"),
        ("reminders = [90]\nafter = 30", "reminders in order, each at most after"),
        ('then = "me"', "then: expected 'keep', 'developer' or 'unattributed'"),
        ("afterwards = 3", "Did you mean 'after'"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path, text, said):
    path = Path(tmp_path / "escrow.toml")
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_policy(path)


def test_the_policy_that_is_shipped_keeps_everything():
    assert read_policy(CHECKOUT / "infra/settings/escrow.toml").then == "keep"


def test_commands_note_and_apply_and_bring_back(where, shown, refused, tmp_path, monkeypatch):
    owner, owed = "ann", Account("payable", "ann", "EUR")
    ledger.book(where.ledger, OLD, {REVENUE: 600, NAME: -500, owed: -100}, night="n", cause="c")
    note = ("--evidence", "letter", "--by", "me", "--json")
    assert shown("escrow", "list", "--json")[0]["next"] == "look for its owner again: 3 reminders due"
    shown("escrow", "remind", "unmatched-x", *note)
    shown("escrow", "claimant", "unmatched-x", owner, *note)
    assert shown("escrow", "list", "--json")[0]["claimants"] == {owner: "letter"}
    shown("escrow", "claimant", "unmatched-x", owner, "--withdrawn", *note)
    assert "one that keeps it" in refused("escrow", "apply", "unmatched-x", "--approved-by", "you", *note[:-1])
    policy = tmp_path / "policy.toml"
    policy.write_text('after = 1000\nthen = "developer"\n')
    monkeypatch.setenv("PROVENANCE_SETTLEMENT__ESCROW", str(policy))
    assert "two people" in refused("escrow", "apply", "unmatched-x", *note[:-1])
    shown("escrow", "apply", "unmatched-x", "--approved-by", "you", *note)
    assert balance(where.ledger, NAME) == 0
    shown("escrow", "apply", "unmatched-x", "--back", *note)
    assert balance(where.ledger, NAME) == 500
