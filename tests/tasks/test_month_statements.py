"""Statements are what the ledger and the manifests of a month's nights say."""

import json

import paid
import pytest

from tasks.book import book
from tasks.publish import publish
from tasks.settings import load
from tasks.statements import statement

PERIOD, OWNER = "2026-10", "owner-000001"


@pytest.fixture
def settings(books):
    """Settings of a store and a ledger with nothing in them."""
    return load()


def test_a_statement_says_how_far_the_month_s_shares_can_be_trusted(settings):
    store, old = settings.store.open(), paid.DAYS[0]
    book(paid.as_of_old(store, paid.lay_out(old, 200)))
    publish(old)
    assert statement(settings, OWNER, PERIOD).trust == "How far shares can be trusted was not measured."
    paid.pay(paid.DAYS[1:])
    assert statement(settings, OWNER, PERIOD).trust == (
        "On 2 of 3 nights shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is "
        "perfect, 0 is chance). On 1 night how far shares can be trusted was not measured."
    )


def test_the_revision_that_counts_is_what_a_statement_goes_by(settings):
    paid.pay(paid.DAYS[:1])
    book(paid.lay_out(paid.DAYS[0], 400, seed=9, report=paid.UNSUPPORTED))
    publish(paid.DAYS[0])
    assert statement(settings, OWNER, PERIOD).trust == "The check failed and amounts were divided by size."


def test_the_same_is_said_of_a_night_and_of_an_output(settings, command_line):
    day = paid.DAYS[0]
    paid.pay([day])
    words = "Shares rest on 24 counterfactual models; left out and predicted, these ranked at 0.86 (1 is perfect, 0 is chance)."
    assert words in " ".join(command_line("payouts", day)[1].split())
    assert words in " ".join(command_line("explain", "o-0000001")[1].split())
    found = json.loads(command_line("explain", "o-0000001", "--json")[1])
    assert (found["trust"], found["fidelity"]["models"]) == (words, 24)
    book(paid.lay_out(day, 400, seed=9, report=paid.UNSUPPORTED))
    publish(day)
    for shown in (command_line("payouts", day)[1], command_line("explain", "o-0000001")[1]):
        told = " ".join(shown.split())
        assert "The check failed and amounts were divided by size." in told
        assert f"Contract 'everything' pays 0% by faithful, 100% by flat ({paid.NO_BETTER})" in told
