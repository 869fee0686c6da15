"""Statements are what the ledger and the manifests of a month's nights say."""

import paid
import pytest

from provenance.settlement.book import book
from provenance.settlement.months.write_statements import statement
from provenance.settlement.publish import publish
from tasks.settings import load

PERIOD, OWNER = "2026-10", "owner-000001"


pytestmark = pytest.mark.usefixtures("books")


def test_a_statement_says_how_far_the_month_s_shares_can_be_trusted(store):
    old = paid.DAYS[0]
    book(paid.as_of_old(store, paid.lay_out(old, 200)))
    publish(old)
    assert statement(load(), OWNER, PERIOD).trust == "How far shares can be trusted was not measured."
    paid.pay(paid.DAYS[1:])
    assert statement(load(), OWNER, PERIOD).trust == (
        "On 2 of 3 nights shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is "
        "perfect, 0 is chance). On 1 night how far shares can be trusted was not measured."
    )


def test_the_revision_that_counts_is_what_a_statement_goes_by():
    paid.pay(paid.DAYS[:1])
    book(paid.lay_out(paid.DAYS[0], 400, seed=9, report=paid.UNSUPPORTED))
    publish(paid.DAYS[0])
    assert statement(load(), OWNER, PERIOD).trust == "The check failed and amounts were divided by size."


def test_the_same_is_said_of_a_night_and_of_an_output(shown):
    day = paid.DAYS[0]
    paid.pay([day])
    words = "Shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is perfect, 0 is chance)."
    for asked in (("payouts", day), ("explain", "o-0000001")):
        assert words in " ".join(shown(*asked).split())
    found = shown("explain", "o-0000001", "--json")
    assert (found["trust"], found["fidelity"]["models"]) == (words, 24)
    book(paid.lay_out(day, 400, seed=9, report=paid.UNSUPPORTED))
    publish(day)
    for asked in (("payouts", day), ("explain", "o-0000001")):
        told = " ".join(shown(*asked).split())
        assert "The check failed and amounts were divided by size." in told
        assert f"Contract 'everything' pays 0% by faithful, 100% by flat ({paid.NO_BETTER})" in told
