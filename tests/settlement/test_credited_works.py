"""The works behind credits: of an output, and of an owner over a period."""

import paid
import polars as pl
import pytest
from samples import freeze, table

from provenance.core.published import current_key, in_force, revision_folder
from provenance.core.store import canonical_json
from provenance.core.tables import CREDITS
from provenance.settlement.exports.export import read_credits
from provenance.settlement.exports.works import works_behind

DAYS = ("2026-10-15", "2026-10-16")


def credit(day, output, amount, *works):
    """A row of credits; a work is its id, an example's and an influence."""
    tops = [{"work_id": w, "example_id": e, "source_uri": f"https://example.org/{w}", "influence": i} for w, e, i in works]
    row = dict.fromkeys(CREDITS.columns, 1) | {"account": "payable", "owner_id": "ann", "escrow_id": None, "currency": "EUR"}
    return row | {"day": day, "output_id": output, "amount_nanominor": amount, "top_works": tops, "rules": []}


@pytest.fixture
def published(store):
    """A corpus of some works, and two published days that rest on it."""
    rows = [("song", b"la la la", "s1"), ("song", b"la la la", "s2"), ("song", b"li li", "s3"), ("poem", b"roses", "p1")]
    examples = table("work_id content example_id position owner_id", *((*r, n, "ann") for n, r in enumerate(rows)))
    corpus = freeze(store, {"examples": examples.with_columns(licence_spdx=pl.lit("CC-BY-4.0"))})
    for day in DAYS:
        folder = revision_folder(day, 1)
        store.write(f"{folder}/manifest.json", canonical_json({"inputs": {"corpus": corpus.digest}}))
        store.write(current_key(day), canonical_json({"revision": 1, "folder": folder, "manifest_sha256": "-"}))
    return store, corpus


def test_the_works_behind_an_output_are_the_most_influential_first(published):
    store, _ = published
    credits = CREDITS.frame(
        [credit(DAYS[0], "o1", 500, ("poem", "p1", 0.4), ("song", "s2", 2.0), ("song", "s3", 1.5), ("song", "s1", 1.0))]
    )
    song, poem = works_behind(store, credits, passages=3)
    assert (song.work_id, song.title, song.licence, song.outputs, song.amount_nanominor) == (
        "song",
        "song",
        "CC-BY-4.0",
        1,
        500,
    )
    assert (song.influence, song.link) == (2.0, "https://example.org/song")
    assert [passage.text for passage in song.passages] == ["la la la", "li li"], "a refrain is shown once"
    assert song.passages[0].example_id == "s2", "the most influential of the equal ones"
    assert [passage.text for passage in poem.passages] == ["roses"]


def test_the_works_of_a_period_are_ranked_by_amount(published):
    store, _ = published
    credits = CREDITS.frame(
        [
            credit(DAYS[0], "o1", 500, ("poem", "p1", 0.4), ("song", "s1", 2.0)),
            credit(DAYS[1], "o1", 700, ("poem", "p1", 0.3)),
            credit(DAYS[1], "o2", 100, ("song", "s3", 3.0)),
        ]
    )
    poem, song = works_behind(store, credits)
    assert (poem.work_id, poem.outputs, poem.amount_nanominor) == ("poem", 2, 1200)
    assert (song.outputs, song.amount_nanominor, song.passages[0].text) == (2, 600, "li li")
    assert [work.work_id for work in works_behind(store, credits, most=1)] == ["poem"]


def test_works_keep_their_names_when_the_corpus_was_removed(published):
    store, corpus = published
    store.remove(f"frozen/corpus/{corpus.digest}.json")
    (poem,) = works_behind(store, CREDITS.frame([credit(DAYS[0], "o1", 500, ("poem", "p1", 0.4))]))
    assert (poem.title, poem.passages, poem.licence) == ("poem", (), "")


def test_no_credits_rest_on_no_works(published):
    assert works_behind(published[0], CREDITS.frame()) == []
    assert works_behind(published[0], CREDITS.frame([credit(DAYS[0], "o1", 5)])) == []


def test_credits_of_an_export_have_works(where):
    store, _ = paid.pay(where, paid.DAYS[:1])
    credits = read_credits(store, in_force(store, paid.DAYS[0])["folder"])
    own = credits.filter(pl.col("owner_id") == "owner-000001")
    (work,) = works_behind(store, own)
    assert (work.outputs, work.amount_nanominor) == (own.height, own["amount_nanominor"].sum())
