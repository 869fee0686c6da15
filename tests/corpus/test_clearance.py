"""Clearance for training: cleared works, reasons against others, and the check of a model's training data."""

import json
from datetime import date

import polars as pl
import pytest
from samples import corpus_frames, table

from provenance.core.errors import ContractError, InputError
from provenance.corpus.delivery import check_examples
from provenance.corpus.rights.clearance import clear, copies
from provenance.corpus.rights.manifest import check_trained_on, cleared_manifest, contents, manifest_of, read_manifest

NO_OPTOUTS = pl.DataFrame(schema={"work_id": pl.String, "owner_id": pl.String})
NO_VERDICTS = pl.DataFrame(schema={"source_uri": pl.String, "allowed": pl.Boolean, "because": pl.String})


@pytest.fixture
def examples():
    return check_examples(corpus_frames(owners=3, each=6)["examples"], "examples")


def rights(examples, **quarantine):
    rows = [
        {"work_id": work, "quarantine": quarantine.get(work.replace("-", "_"), ""), "licence_spdx": "MIT",
         "licence_class": "commercial", "asserted_by": "source"}
        for work in examples["work_id"].unique().sort()
    ]  # fmt: skip
    return pl.DataFrame(rows)


def because(judged):
    return dict(judged.filter(~pl.col("cleared")).select("work_id", "because").iter_rows())


def test_each_reason_keeps_a_work_out_and_is_told(examples):
    nobody_looked = clear(examples, None, NO_OPTOUTS, NO_VERDICTS)
    assert nobody_looked["cleared"].sum() == 0
    assert set(nobody_looked["because"].explode()) == {"terms: nobody has looked under which it came"}
    uri = examples.filter(work_id="work-2-0")["source_uri"][0]
    verdicts = pl.DataFrame(
        {"source_uri": [uri, "https://example.org/work-2-1", "elsewhere"], "allowed": [False, None, False], "because": "robots"}
    )
    optouts = pl.DataFrame({"work_id": ["work-0-0", "work-0-0"], "owner_id": ["owner-1", "owner-0"]})
    disputes = pl.DataFrame({"work_id": ["work-1-1"], "owner_id": ["eve"], "opened_on": [date(2026, 11, 1)]})
    terms = rights(examples, work_0_0="forbidden", work_1_0="unspecified")
    table = clear(examples, terms, optouts, verdicts, disputes=disputes)
    assert because(table) == {
        "work-0-0": ["quarantine: forbidden", "opt-out: of owner-0", "opt-out: of owner-1"],
        "work-1-0": ["quarantine: unspecified"],
        "work-1-1": ["dispute: by eve since 2026-11-01"],
        "work-2-0": [f"signal: {uri}: robots"],
    }
    assert set(table.filter(pl.col("cleared"))["because"].explode()) == {"terms: MIT (commercial), by source"}
    manifest = cleared_manifest(examples, table, {"use": "train"})
    assert sorted(manifest.works) == ["work-0-1", "work-2-1"]
    assert manifest.facts["left_out"] == {
        "works": 4, "examples": 12, "because": {"dispute": 1, "opt-out": 1, "quarantine": 2, "signal": 1},
    }  # fmt: skip
    assert manifest.facts["cleared"] == {"works": 2, "examples": 6}


def test_the_same_works_are_the_same_bytes_in_whatever_order_they_come(examples):
    shuffled = examples.sample(fraction=1, shuffle=True, seed=1)
    tables = ((frame, clear(frame, rights(frame), NO_OPTOUTS, NO_VERDICTS)) for frame in (examples, shuffled))
    first, second = (cleared_manifest(frame, judged, {"day": "d"}).as_bytes() for frame, judged in tables)
    assert first == second
    manifest = read_manifest(first, "m")
    assert manifest.as_bytes() == first
    check_trained_on(manifest, contents(shuffled), "m")


def test_a_model_trained_on_something_else_is_refused(examples):
    trained = manifest_of(examples.filter(pl.col("work_id") != "work-1-0"))
    with pytest.raises(InputError) as refused:
        check_trained_on(trained, contents(examples.filter(pl.col("position") < 2)), "model/manifest.json")
    message = str(refused.value)
    assert "work 'work-0-0': 1 of its 3 examples are not in the corpus, 0 of the corpus's 2" in message
    assert "In all 6 works differ: 5 examples that it was trained on and the corpus has not, 2 the other way" in message
    check_trained_on(manifest_of(examples), contents(examples), "m")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"m: expected a training manifest: .*, found JSONDecodeError"),
        (b"[]", r"expected a training manifest"),
        (b"{}", r"found KeyError: 'works'"),
        (b'{"works": []}', r"found AttributeError"),
        (b'{"works": {"w": "abc"}}', r"m: work 'w': expected a list of SHA-256 in hex, found 'abc'"),
        (json.dumps({"works": {"w": ["abc"]}}).encode(), r"work 'w': expected a list of SHA-256 in hex"),
        (b'{"works": {"w": 1}}', r"found TypeError"),
        (b"\x80", r"expected a training manifest: .*, found UnicodeDecodeError"),
    ],
)
def test_what_is_no_manifest_is_refused(data, message):
    with pytest.raises(ContractError, match=message):
        read_manifest(data, "m")


def test_a_whole_copy_of_what_was_opted_out_of_is_found_and_a_shared_licence_is_none():
    rows = [
        ("mine", "a", "2020-01-01"), ("mine", "licence", "2020-01-01"), ("copy", "a", "2024-01-01"), ("piece", "licence", None),
        ("shares", "licence", "2024-01-01"), ("shares", "b", "2024-01-01"), ("older", "a", "2019-01-01"), ("else", "b", None),
    ]  # fmt: skip
    examples = table("work_id content_sha256 since", *rows).with_columns(pl.col("since").str.to_date())
    own, foreign = examples.filter(work_id="mine"), examples.filter(pl.col("work_id") != "mine")
    assert copies(examples, own).rows() == [("copy", "mine"), ("piece", "mine")]
    assert copies(foreign, own).rows() == [("copy", "mine"), ("piece", "mine")], "also where it is delivered no more"
    assert copies(examples, own.clear()).is_empty()
    younger = own.with_columns(work_id=pl.lit("a younger one"), since=pl.lit(date(2025, 1, 1)))
    assert dict(copies(foreign, pl.concat([younger, own])).iter_rows())["copy"] == "mine", "it is no copy of what came later"
