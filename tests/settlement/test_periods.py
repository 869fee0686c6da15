from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.errors import InputError
from provenance.core.money import PPB
from provenance.settlement.accounts import OWED, Account
from provenance.settlement.months import periods
from provenance.settlement.months.periods import ClosingTerms, Line, Payee, close, closing_entries, payment_entries, preview

ANN = {"ann": Payee("ann", "EUR")}


def account(name, currency="EUR"):
    return Account(name, "ann", currency)


def one(balances, payees=ANN, **terms):
    (line,) = close({account(name): amount for name, amount in balances.items()}, payees, ClosingTerms(**terms))
    return line


def test_what_is_owed_is_paid():
    line = one({"payable": -700})
    assert line == Line("ann", "EUR", 700, net=700, pay_currency="EUR", paid=700, outcome=periods.PAY)
    assert closing_entries([line]) == {}
    assert payment_entries([line]) == {account("payable"): 700, account("paid"): -700}


def test_too_little_is_carried_forward_and_untaxed():
    line = one({"payable": -999}, {"ann": Payee("ann", "EUR", 150_000_000)}, minimum={"EUR": 1000})
    assert (line.outcome, line.withheld, line.left) == (periods.BELOW, 0, 999)
    assert closing_entries([line]) == payment_entries([line]) == {}


def test_below_zero_is_carried_over_and_repaid_from_later_earnings():
    first = one({"payable": 50})
    assert (first.outcome, first.left) == (periods.NEGATIVE, -50)
    assert closing_entries([first]) == {account("carried"): 50, account("payable"): -50}
    later = one({"payable": -70, "carried": 50})
    assert (later.repaid, later.net, later.left) == (50, 20, 0)
    assert closing_entries([later]) == {account("carried"): -50, account("payable"): 50}


def test_advances_are_recouped_before_anything_is_paid_and_taxed():
    line = one({"payable": -700, "advance": 500, "recouped": -100}, {"ann": Payee("ann", "EUR", 250_000_000)})
    assert (line.recouped, line.withheld, line.net) == (400, 75, 225)
    assert one({"payable": -300, "advance": 500}).outcome == periods.NOTHING


def test_what_is_held_stays():
    line = one({"held": -700}, {})
    assert (line.outcome, line.left) == (periods.ON_HOLD, 700)


def test_another_currency_is_paid_at_the_recorded_rate_rounded_down():
    line = one({"payable": -1999}, {"ann": Payee("ann", "JPY")}, rates={("EUR", "JPY"): Decimal("163.37")})
    assert (line.net, line.pay_currency, line.paid) == (1999, "JPY", 3265)
    euros, yen = {account("payable"): 1999, account("exchange"): -1999}, {account("exchange", "JPY"): 3265}
    assert payment_entries([line]) == euros | yen | {account("paid", "JPY"): -3265}


def test_a_rate_that_is_missing_and_an_owner_without_a_payee_are_errors():
    with pytest.raises(InputError, match="rate EUR to JPY: expected one recorded for the period, found none"):
        one({"payable": -1}, {"ann": Payee("ann", "JPY")})
    with pytest.raises(InputError, match="owner ann: expected a payee whose tax is known, .* and no payee data"):
        one({"payable": -1}, {})
    with pytest.raises(InputError, match="and no tax data"):
        one({"payable": -1}, {"ann": Payee("ann", "EUR", None)})


def test_a_preview_is_the_close_but_for_what_waits_for_a_rate():
    payees = {"ann": Payee("ann", "JPY"), "bob": Payee("bob", "EUR")}
    balances = {account("payable"): -199, account("payable", "JPY"): -7, account("carried", "USD"): 3}
    balances |= {Account("payable", "bob", "EUR"): -5, Account("held", "bob", "USD"): -6}
    lines = preview(balances, payees, ClosingTerms())
    waits = Line("ann", "EUR", 199, pay_currency="JPY", outcome=periods.NO_RATE)
    assert [line for line in lines if line.outcome == periods.NO_RATE] == [waits]
    del balances[account("payable")]
    assert [line for line in lines if line.outcome != periods.NO_RATE] == close(balances, payees, ClosingTerms())


accounts = st.tuples(*map(st.sampled_from, (["payable", "carried", "advance", "recouped"], ["ann", "bob"], ["EUR", "JPY"])))
books = st.dictionaries(accounts, st.integers(-(10**9), 10**9))


@given(books, st.integers(0, PPB), st.sampled_from(["EUR", "JPY"]), st.integers(0, 10**4))
def test_a_close_balances_loses_nothing_and_pays_no_more_than_is_owed(books, tax, currency, minimum):
    sign = {"carried": 1, "advance": 1, "recouped": -1}
    balances = {Account(*key): abs(amount) * sign[key[0]] if key[0] in sign else amount for key, amount in books.items()}
    payees = {owner: Payee(owner, currency, tax) for owner in ("ann", "bob")}
    rates = {("EUR", "JPY"): Decimal("163.37"), ("JPY", "EUR"): Decimal("0.00612")}
    lines = close(balances, payees, ClosingTerms({"EUR": minimum, "JPY": minimum}, rates))
    after = defaultdict(int, balances)
    for entries in (closing_entries(lines), payment_entries(lines)):
        sums = defaultdict(int)
        for account_, amount in entries.items():
            after[account_] += amount
            sums[account_.currency] += amount
        assert not any(sums.values())
    for line in lines:
        owed = -sum(after[Account(name, line.owner_id, line.currency)] for name in OWED)
        assert owed == line.left
        assert after[Account("carried", line.owner_id, line.currency)] >= 0
        mine = [Account(name, line.owner_id, line.currency) for name in ("advance", "recouped")]
        before, now = (sum(amounts_of.get(name, 0) for name in mine) for amounts_of in (balances, after))
        assert now >= min(0, before), "no more is recouped than was advanced"
        if line.outcome == periods.PAY:
            assert owed == 0
            assert line.paid >= max(1, minimum)
            assert line.net + line.withheld + line.recouped + line.repaid == line.owed
        else:
            assert line.net == line.withheld == 0
