"""Statements agree with the ledger and with the manifests of a month's nights."""

import paid

from provenance.settlement.months.write_statements import statement
from provenance.settlement.stage import book, publish

PERIOD, OWNER = "2026-10", "owner-000001"


def test_a_statement_says_how_far_the_month_s_shares_can_be_trusted(where):
    old = paid.DAYS[0]
    book(where, paid.as_of_old(where.store, paid.lay_out(where.store, old, 200)))
    publish(where, old)
    assert statement(where, OWNER, PERIOD).trust == "How far shares can be trusted was not measured."
    paid.pay(where, paid.DAYS[1:])
    assert statement(where, OWNER, PERIOD).trust == (
        "On 2 of 3 nights shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is "
        "perfect, 0 is chance). On 1 night how far shares can be trusted was not measured."
    )


def test_the_revision_that_counts_is_what_a_statement_goes_by(where):
    paid.pay(where, paid.DAYS[:1])
    book(where, paid.lay_out(where.store, paid.DAYS[0], 400, seed=9, report=paid.UNSUPPORTED))
    publish(where, paid.DAYS[0])
    assert statement(where, OWNER, PERIOD).trust == "The check failed and amounts were divided by size."


def test_the_same_is_said_of_a_night_and_of_an_output(where, shown):
    day = paid.DAYS[0]
    paid.pay(where, [day])
    words = "Shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is perfect, 0 is chance)."
    for command in (("payouts", day), ("explain", "o-0000001")):
        assert words in " ".join(shown(*command).split())
    explained = shown("explain", "o-0000001", "--json")
    assert (explained["trust"], explained["fidelity"]["models"]) == (words, 24)
    book(where, paid.lay_out(where.store, day, 400, seed=9, report=paid.UNSUPPORTED))
    publish(where, day)
    for command in (("payouts", day), ("explain", "o-0000001")):
        text = " ".join(shown(*command).split())
        assert "The check failed and amounts were divided by size." in text
        assert f"Contract 'everything' pays 0% by faithful, 100% by flat ({paid.NO_BETTER})" in text
