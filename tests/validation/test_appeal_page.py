"""The page of a report on an appeal: hostile names stay text."""

import re

import pytest
from lxml import etree
from samples import HOSTILE, HOSTILE_IDS

from provenance.core.text import plain
from provenance.validation.appeals.page import LISTED, as_html, limits, verdicts

PPB, NANO = 10**9, 10**9
SHARE = {"ppb": 200_000_000, "low_ppb": 150_000_000, "high_ppb": 260_000_000}
NONE = {"ppb": 0, "low_ppb": 0, "high_ppb": 0}


def currency(name="EUR", verdict="agrees"):
    change = {"low": -3, "value": 5, "high": 12}
    return {
        "currency": name, "outputs": 2, "pool_minor": 1000, "paid_minor": 200, "paid": SHARE, "found": SHARE,
        "verdict": verdict, "difference_minor": change,
    }  # fmt: skip


def output(name, pool=5, found=SHARE, paid=SHARE):
    row = {"output_id": name, "currency": "EUR", "paid_by": "faithful", "effect_nats": {"low": 1.0, "value": 2.0, "high": 3.0}}
    return row | {"pool_nanominor": pool * NANO, "paid": paid, "found": found}


def report(**changes):
    values = {
        "owner_id": "ann", "owner_name": "Ann Author", "day": "2026-11-19", "revision": 1, "notice": "",
        "verdict": ["The experiment agrees with what was paid."], "currencies": [currency()], "outputs": [output("one")],
        "experiment": {"pairs": 8, "others": 4, "works": 1, "examples": 12, "shared": 0, "elsewhere": 0},
        "inputs": {"night": "nights/day=2026-11-19/abc", "model_id": "tiny"},
    }  # fmt: skip
    values |= changes
    return {"limits": list(limits(values["outputs"], values["experiment"])), **values}


def text(page):
    return " ".join(" ".join(etree.fromstring(page).itertext()).split())


def test_the_same_report_is_the_same_page():
    assert as_html(report()) == as_html(report())


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_text(name):
    outputs = [output(name), *map(output, HOSTILE_IDS)]
    page = as_html(report(owner_id=name, owner_name=name, notice=name, outputs=outputs, inputs={"model_id": name}))
    root = etree.fromstring(page)
    assert not root.findall(".//{*}script")
    assert {element.get("href") for element in root.iter() if element.get("href")} <= {None}
    assert b"\x1b" not in page
    assert "\u202e" not in page.decode()
    assert " ".join(plain(name).split()) in text(page)


def test_the_page_lists_the_outputs_with_the_largest_pools():
    outputs = [output(f"output-{number:03d}", pool=number + 1) for number in range(LISTED + 20)]
    page = text(as_html(report(outputs=outputs)))
    assert f"Shown are the outputs with the largest pools: {LISTED} of {LISTED + 20}" in page
    assert f"output-{LISTED + 19:03d}" in page
    assert "output-019" not in page


def test_the_page_states_the_limits_of_the_experiment():
    experiment = {"pairs": 8, "others": 4, "works": 2, "examples": 12, "shared": 1, "elsewhere": 3}
    less = {"paid_by": "srs", "effect_nats": {"low": -9.0, "value": -2.0, "high": 5.0}}
    page = text(
        as_html(report(experiment=experiment, outputs=[output("one"), output("two", found=None), output("six") | less]))
    )
    assert "the rule srs. 2 outputs were paid by faithful." in page
    assert "1 output became less likely with these works" in page
    assert "1 piece of these works belongs in part to others" in page
    assert "3 pieces in which the owner has a smaller part stayed" in page
    assert "1 output did not become more likely by training" in page
    assert "not known" in page
    assert "This report books nothing." in page


def test_shares_of_nothing_are_drawn_too():
    zeros = report(currencies=[currency() | {"paid": NONE, "found": NONE}], outputs=[output("one", found=NONE, paid=NONE)])
    places = re.findall(rb'c?x[12]?="(-?[0-9.]+)"', as_html(zeros))
    assert places
    assert all(0 <= float(place) <= 640 for place in places)


def test_equal_results_are_one_sentence():
    assert verdicts([currency("EUR"), currency("USD")], "Ann") == ["The experiment agrees with what was paid."]
    assert verdicts([currency("EUR", "less")], "Ann") == ["Ann was paid less than the experiment shows."]
    assert verdicts([currency("EUR", "more"), currency("USD", "less")], "Ann") == [
        "EUR: Ann was paid more than the experiment shows.",
        "USD: Ann was paid less than the experiment shows.",
    ]
