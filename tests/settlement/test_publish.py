"""The manifest of an export says how far the shares that it pays can be trusted."""

import paid
import pytest

from provenance.core.errors import InputError
from provenance.core.published import in_force
from provenance.inputs.night import load_night
from provenance.royalty.support import fidelity_of
from provenance.settlement.stage import book, publish, reconcile
from provenance.validation.replay import recompute

DAY = paid.DAYS[0]
AS_MEASURED = {"models": 24, "lds": paid.SUPPORTED["lds"], "intervals_hold": {"left_out": 0.93, "set_aside": 0.9}}


def manifest(where, folder):
    book(where, folder)
    publish(where, DAY)
    reconcile(where, DAY)
    store = where.store
    return store.read_json(f"{in_force(store, DAY)['folder']}/manifest.json")


def test_a_manifest_says_what_pays_and_how_well_it_predicts(where):
    fidelity = manifest(where, paid.lay_out(where.store, DAY, 200))["fidelity"]
    assert fidelity == {"everything": {"rule": "faithful", "paid_by": {"faithful": 1.0}, "failed": [], **AS_MEASURED}}


def test_a_rule_that_fails_its_check_is_named_with_what_pays_instead(where):
    fidelity = manifest(where, paid.lay_out(where.store, DAY, 200, report=paid.UNSUPPORTED))["fidelity"]
    assert fidelity == {"everything": {"rule": "faithful", "paid_by": {"flat": 1.0}, "failed": [paid.NO_BETTER], **AS_MEASURED}}


def test_too_few_models_have_no_scores(where):
    report = {"models": 3, "failed": ["3 counterfactual models; 8 are the fewest"]}
    fidelity = manifest(where, paid.lay_out(where.store, DAY, 200, report=report))["fidelity"]["everything"]
    assert (fidelity["models"], fidelity["lds"], fidelity["intervals_hold"]) == (3, {}, {})
    assert fidelity["failed"] == report["failed"]


def test_both_rules_are_named_where_both_pay(where):
    folder = paid.lay_out(where.store, DAY, 200)
    paid.rewrite(where.store, f"{folder}/shares.json", weights={"everything": 0.75})
    assert manifest(where, folder)["fidelity"]["everything"]["paid_by"] == {"faithful": 0.75, "flat": 0.25}


def test_a_contract_under_which_nothing_was_divided_is_left_out(where):
    folder = paid.lay_out(where.store, DAY, 200)
    paid.rewrite(where.store, f"{folder}/estimate.json", contracts={})
    assert fidelity_of(where.store, load_night(where.store, folder)) == {}


def test_a_night_that_measured_nothing_is_published_and_verified_without_it(where):
    assert "fidelity" not in manifest(where, paid.as_of_old(where.store, paid.lay_out(where.store, DAY, 200)))


def test_a_revision_in_an_earlier_form_is_replayed_by_the_version_that_published_it(where):
    paid.pay(where, [DAY])
    folder = in_force(where.store, DAY)["folder"]
    paid.rewrite(where.store, f"{folder}/manifest.json", format=1, code_version="0.1.0+earlier")
    with pytest.raises(
        InputError, match=r"expected an export of format 3, .* found format 1. Replay it with .*0\.1\.0\+earlier"
    ):
        recompute(where, DAY)
    with pytest.raises(InputError, match=f"export of {DAY}: expected revision 1, the only one, found 7"):
        recompute(where, DAY, 7)
