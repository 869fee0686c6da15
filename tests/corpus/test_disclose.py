"""`provenance disclose` writes files of the frozen corpus: the same for the same day, and none unless all are valid."""

import hashlib
import json
from datetime import UTC, date, datetime

import jsonschema
import mlcroissant as mlc
import pandas as pd
import polars as pl
import pytest
from samples import freeze, optout_row

from provenance.core.errors import CheckFailed, InputError
from provenance.core.settings import CHECKOUT
from provenance.core.tables import CORPORA, OPTOUTS
from provenance.corpus import records
from provenance.corpus.disclosures import disclose as task
from provenance.corpus.disclosures import spdx
from provenance.corpus.shards import CURRENT

DAY = "2026-11-20"
FACTS = """
[model.content]
text = "Sentences of made-up owners"
[[sources]]
name = "example.org"
kind = "crawled"
match = ["https://example.org/"]
"""


@pytest.fixture
def frozen(store, monkeypatch):
    """A corpus in force, in the store of the settings."""
    monkeypatch.setenv("PROVENANCE_STORE__URL", store.url)
    return freeze(store)


@pytest.fixture
def where(frozen, doors):
    return doors(ledger=False)


def test_all_files_are_there_and_hold_to_their_schemas(frozen, shown, tmp_path):
    out = tmp_path / "out"
    output = shown("disclose", "all", "--out", str(out), "--on", DAY, "--json")
    assert output["corpus"] == frozen.digest
    assert set(output["files"]) == {file.name for file in out.iterdir()} == {*task.FILES, task.INDEX}
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in output["files"].items())
    for form in ("eu", "california", "us"):
        document = json.loads((out / f"{form}.json").read_text())
        jsonschema.validate(document, json.loads((out / f"{form}.schema.json").read_text()))
        assert document["missing"] == output["missing"][form] != []
    assert pl.read_csv(out / "works.csv").height == 20
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    shown("disclose", "--out", str(out), "--on", DAY, "--corpus", frozen.digest)
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}


def test_what_is_missing_is_told_and_fails_only_where_asked(frozen, shown, refused, tmp_path):
    facts = tmp_path / "facts.toml"
    facts.write_text(FACTS)
    words = ("disclose", "eu", "--out", str(tmp_path / "out"), "--on", DAY, "--model-facts", str(facts))
    output = shown(*words)
    assert "answers to be completed" in output
    assert "  2.3 Crawler name(s)/identifier(s): crawling.names" in output
    assert "answers are to be completed by the provider" in refused(*words, "--complete", code=1)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"eu.json", "eu.schema.json", "eu.html"}


def test_complete_facts_are_complete(frozen, shown, tmp_path):
    facts = tmp_path / "facts.toml"
    text = (CHECKOUT / "infra/settings/disclosure.toml").read_text()
    text = text.replace('match = ["pkg:pypi/"]', 'match = [""]').replace('code = "Python source files"', 'text = "Sentences"')
    text = text.replace("ongoing = false ", 'collected = "October 2026"\nongoing = false ')
    facts.write_text(text.replace("[model]\n", '[model]\ncollected_until = "10/2026"\n'))
    shown("disclose", "all", "--out", str(tmp_path / "out"), "--on", DAY, "--model-facts", str(facts), "--complete")


def test_records_of_later_days_do_not_count(where, store, tmp_path):
    row = optout_row(datetime(2026, 11, 19, tzinfo=UTC), "work-0-0", "owner-0")
    records.append(store, OPTOUTS, pl.DataFrame([row]), now=datetime(2026, 11, 20, 12, tzinfo=UTC))

    def optouts(day):
        task.disclose(where, "eu", tmp_path, on=day)
        document = json.loads((tmp_path / "eu.json").read_text())
        return next(q for s in document["sections"] for q in s["questions"] if q["key"] == "optouts")["answer"]["rows"]

    assert optouts(date(2026, 11, 19)) == []
    assert optouts(date(2026, 11, 20)) == [["held", 1, 1]]


def test_a_corpus_is_not_disclosed_for_a_day_on_which_it_was_not_in_force(frozen, where, store, tmp_path):
    since = datetime(2026, 11, 20, 12, tzinfo=UTC)
    row = {"corpus_sha256": frozen.digest, "in_force_since": since}
    records.append(store, CORPORA, pl.DataFrame([row]), now=since)
    with pytest.raises(InputError, match=r"--on: expected a day on which .*found 2026-11-19.* put in force on 2026-11-20"):
        task.disclose(where, "eu", tmp_path / "out", on=date(2026, 11, 19))
    assert not (tmp_path / "out").exists()
    task.disclose(where, "eu", tmp_path / "out", on=date(2026, 11, 20))
    document = json.loads((tmp_path / "out/eu.json").read_text())
    (judged,) = [q["answer"] for s in document["sections"] for q in s["questions"] if q["key"] == "clearance"]
    assert judged["title"] == "Works of this corpus, judged on 2026-11-20 for the training of a model to come"


def test_nothing_is_written_unless_all_is_valid(where, tmp_path, monkeypatch):
    bill = spdx.bill
    monkeypatch.setattr(spdx, "bill", lambda *args: bill(*args) | {"spdxVersion": "SPDX-9"})
    with pytest.raises(CheckFailed, match=r"spdx.json"):
        task.disclose(where, "all", tmp_path / "out", on=date(2026, 11, 20))
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated", "ignore:The inplace keyword")  # in mlcroissant
def test_the_description_leads_to_the_examples(frozen, where, store, tmp_path, monkeypatch):
    """The description is enough to read the examples from the store."""
    # mlcroissant reads them, except for the last step, which needs pyarrow.
    monkeypatch.setattr(pd, "read_parquet", lambda file: pd.DataFrame(pl.read_parquet(file.read()).to_dict(as_series=False)))
    task.disclose(where, "croissant", tmp_path / "store", on=date(2026, 11, 20))
    records_ = mlc.Dataset(jsonld=tmp_path / "store" / "croissant.json").records("examples")
    read = {record["examples/example_id"].decode() for record in records_}
    frozen_ids = {name for shard in frozen.shards for name in store.read_table(shard.key)["example_id"]}
    assert read == frozen_ids


def test_a_corpus_or_a_day_that_is_not_there(frozen, store, refused, tmp_path):
    words = ("disclose", "csv", "--out", str(tmp_path))
    assert f"There are: {frozen.digest}" in refused(*words, "--corpus", "nothing")
    assert "expected the digest of a frozen corpus" in refused(*words, "--corpus", "../../etc")
    assert "--on" in refused(*words, "--on", "tomorrow")
    store.remove(CURRENT)
    assert "corpus in force" in refused(*words)
