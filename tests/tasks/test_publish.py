"""The manifest of an export says how far the shares that it pays can be trusted."""

import paid
import pytest

from provenance.inputs.night import load_night
from provenance.royalty.share import fidelity_of
from provenance.settlement.book import book
from provenance.settlement.exports.export import in_force
from provenance.settlement.publish import publish
from provenance.settlement.reconcile import reconcile

DAY = paid.DAYS[0]
AS_MEASURED = {"models": 24, "lds": paid.SUPPORTED["lds"], "intervals_hold": {"left_out": 0.93, "set_aside": 0.9}}


pytestmark = pytest.mark.usefixtures("books")


def manifest(store, folder):
    book(folder)
    publish(DAY)
    reconcile(DAY)
    return store.read_json(f"{in_force(store, DAY)['folder']}/manifest.json")


def test_a_manifest_says_what_pays_and_how_well_it_predicts(store):
    said = manifest(store, paid.lay_out(DAY, 200))["fidelity"]
    assert said == {"everything": {"rule": "faithful", "paid_by": {"faithful": 1.0}, "failed": [], **AS_MEASURED}}


def test_a_rule_that_fails_its_check_is_named_with_what_pays_instead(store):
    said = manifest(store, paid.lay_out(DAY, 200, report=paid.UNSUPPORTED))["fidelity"]
    assert said == {"everything": {"rule": "faithful", "paid_by": {"flat": 1.0}, "failed": [paid.NO_BETTER], **AS_MEASURED}}


def test_too_few_models_have_no_scores(store):
    report = {"models": 3, "failed": ["3 counterfactual models; 8 are the fewest"]}
    said = manifest(store, paid.lay_out(DAY, 200, report=report))["fidelity"]["everything"]
    assert (said["models"], said["lds"], said["intervals_hold"]) == (3, {}, {})
    assert said["failed"] == report["failed"]


def test_both_rules_are_named_where_both_pay(store):
    folder = paid.lay_out(DAY, 200)
    paid.rewrite(store, f"{folder}/shares.json", weights={"everything": 0.75})
    assert manifest(store, folder)["fidelity"]["everything"]["paid_by"] == {"faithful": 0.75, "flat": 0.25}


def test_a_contract_under_which_nothing_was_divided_is_left_out(store):
    folder = paid.lay_out(DAY, 200)
    paid.rewrite(store, f"{folder}/estimate.json", contracts={})
    assert fidelity_of(store, load_night(store, folder)) == {}


def test_a_night_that_measured_nothing_is_published_and_verified_without_it(store):
    assert "fidelity" not in manifest(store, paid.as_of_old(store, paid.lay_out(DAY, 200)))
