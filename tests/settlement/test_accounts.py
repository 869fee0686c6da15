from provenance.settlement.accounts import Account, Standing, imbalances, totals, trial_balance

REVENUE, ANN, BOB = Account("receivable", "", "EUR"), Account("payable", "ann", "EUR"), Account("payable", "bob", "EUR")
HELD, ESCROW = Account("held", "ann", "EUR"), Account("escrow", "unmatched-x", "EUR")
STANDING = Standing(holds={"ann": ("dispute",)}, claimed={"unmatched-x": "bob"})


def test_what_is_held_or_claimed_is_owed_like_the_rest():
    amounts = {REVENUE: 100, ANN: -20, HELD: -10, BOB: -30, ESCROW: -40}
    assert STANDING.earned(amounts) == {REVENUE: 100, ANN: -30, BOB: -70}
    assert totals(STANDING.earned(amounts))["EUR"] == {
        "revenue_minor": 100, "developer_minor": 0, "earned_minor": 100, "escrowed_minor": 0, "unattributed_minor": 0,
    }  # fmt: skip


def test_a_difference_lies_where_its_owner_stands_now():
    booked = {REVENUE: 100, ANN: -60, ESCROW: -40}  # before the hold and the claim
    wanted = {REVENUE: 110, ANN: -65, ESCROW: -45}
    assert STANDING.difference(wanted, booked) == {REVENUE: 10, HELD: -5, BOB: -5}
    assert STANDING.difference(booked, booked) == {}


def test_a_trial_balance_sums_parties_up_with_what_is_owed_above_zero():
    row = trial_balance({REVENUE: 100, ANN: -60, HELD: -10, BOB: 5, ESCROW: -35})["EUR"]
    assert (row["receivable"], row["payable"], row["held"], row["escrow"], row["paid"]) == (100, 55, 10, 35, 0)


def test_an_advance_is_no_part_of_a_trial_balance():
    advance, funding = Account("advance", "ann", "USD"), Account("funding", "", "USD")
    assert trial_balance({REVENUE: 60, ANN: -60, advance: 500, funding: -500}) == trial_balance({REVENUE: 60, ANN: -60})
    assert list(imbalances({REVENUE: 60, ANN: -60, advance: 500, funding: -500}, Standing())) == []


def test_each_imbalance_is_named():
    wrong = {REVENUE: 101, ANN: -60, Account("held", "bob", "EUR"): -5, ESCROW: -35, Account("petty", "", "EUR"): -1}
    assert list(imbalances(wrong, STANDING)) == [
        "EUR: receivable is 101, the other accounts add up to 100",
        "unmatched-x: 35 EUR are in escrow, yet bob has claimed them",
        "bob: 5 EUR are held, yet no hold is in force",
        "ann: 60 EUR are payable, yet there is a hold: dispute",
        "EUR: account 'petty' is not in the chart",
    ]
    assert list(imbalances({REVENUE: 60, HELD: -60}, STANDING)) == []
