"""What earnings of a period rest on: works with titles and passages, outputs with what was asked and answered."""

import polars as pl
import pytest
from samples import freeze, table
from test_credited_works import credit

from provenance.core.tables import CREDITS
from provenance.corpus.shards import corpus_key, freeze_part
from provenance.settlement.months import credited

DAY, LATER = "2026-10-15", "2026-10-16"
KEY = ("ann", "EUR")


@pytest.fixture
def period(store):
    """A corpus of two works, a day of two outputs, and the inputs that manifests name."""
    rows = [("song", b"la la la", "s1"), ("song", b"li li", "s2"), ("poem", b"roses are red", "p1")]
    examples = table("work_id content example_id position owner_id", *((*r, n, "ann") for n, r in enumerate(rows)))
    corpus = freeze(store, {"examples": examples.with_columns(licence_spdx=pl.lit("CC-BY-4.0"))})
    outputs = table("output_id prompt content modality", ("o1", b"Sing!", b"la lo la", "text"), ("o2", b"\x03", b"rosy", None))
    part = freeze_part(store, outputs)
    inputs = {"corpus": corpus.digest, "outputs": [part.sha256], "model_id": "m"}
    return {DAY: inputs, LATER: inputs}, part


ROWS = (
    credit(DAY, "o1", 500, ("song", "s1", 2.0), ("poem", "p1", 0.5)),
    credit(LATER, "o1", 300, ("song", "s2", 3.0)),
    credit(DAY, "o2", 900, ("poem", "p1", 0.1)),
)


def gathered(store, inputs, *rows, quote=True):
    return credited.gather(store, CREDITS.frame(list(rows)), inputs, quote=quote)


def test_works_have_their_most_influential_passage_and_the_amounts_of_their_outputs(store, period):
    found = gathered(store, period[0], *ROWS)[KEY]
    assert [(w.work_id, w.title, w.licence, w.outputs, w.amount_nanominor) for w in found.works] == [
        ("poem", "poem", "CC-BY-4.0", 2, 1400),
        ("song", "song", "CC-BY-4.0", 2, 800),
    ]
    assert [work.passage.text for work in found.works] == ["roses are red", "li li"]
    assert found.works[0].link == "https://example.org/poem"
    assert [(o.day, o.output_id, o.amount_nanominor) for o in found.outputs] == [
        (DAY, "o2", 900),
        (DAY, "o1", 500),
        (LATER, "o1", 300),
    ]
    assert [(o.prompt, o.excerpt.text, o.works) for o in found.outputs[:2]] == [
        ("", "rosy", ("poem",)),  # its prompt is a label, not a text
        ("Sing!", "la lo la", ("song", "poem")),
    ]
    assert (found.outputs_in_all, found.works_in_all) == (3, 2)


def test_outputs_and_works_of_all_currencies_are_counted_once(store, period):
    in_dollars = credit(DAY, "o3", 10, ("song", "s1", 1.0)) | {"currency": "USD"}
    found = gathered(store, period[0], *ROWS, in_dollars)
    assert (found["ann", "USD"].outputs_in_all, found["ann", "USD"].works_in_all) == (1, 1)
    assert {own.in_any_currency for own in found.values()} == {(4, 2)}


def test_only_the_largest_are_listed_and_all_are_counted(store, period, monkeypatch):
    monkeypatch.setattr(credited, "LISTED", 1)
    found = gathered(store, period[0], *ROWS)[KEY]
    assert ([work.work_id for work in found.works], found.works_in_all) == (["poem"], 2)
    assert ([output.output_id for output in found.outputs], found.outputs_in_all) == (["o2"], 3)


def test_owners_and_currencies_are_kept_apart(store, period):
    other = ROWS[0] | {"owner_id": "bob", "currency": "USD"}
    found = gathered(store, period[0], *ROWS[1:], other)
    assert {key: (one.outputs_in_all, one.works_in_all) for key, one in found.items()} == {KEY: (2, 2), ("bob", "USD"): (1, 2)}


def test_what_the_model_was_asked_and_answered_is_shown_only_where_the_settings_say_so(store, period):
    found = gathered(store, period[0], *ROWS, quote=False)[KEY]
    assert {(output.prompt, output.excerpt) for output in found.outputs} == {("", None)}
    assert found.works[0].passage.text == "roses are red"


def test_what_retention_has_removed_leaves_titles_and_amounts(store, period):
    inputs, part = period
    store.remove(part.key)
    store.remove(corpus_key(inputs[DAY]["corpus"]))
    found = gathered(store, inputs, *ROWS)[KEY]
    assert [(work.title, work.passage) for work in found.works] == [("poem", None), ("song", None)]
    assert [output.excerpt for output in found.outputs] == [None, None, None]


def test_a_period_without_credits_rests_on_nothing(store):
    assert gathered(store, {}) == {}
