"""`provenance rights`: the explanation of one work, the summary of a corpus, and the warnings of an ingest."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from samples import corpus_frames, deliver, optout_row
from stages import run

from provenance.core.errors import ContractError
from provenance.core.tables import OPTOUTS, SIGNALS, SOURCES
from provenance.corpus import records
from provenance.corpus.delivery import read_corpus
from provenance.corpus.packages.distributions import sources_of
from provenance.corpus.quality import last_report
from provenance.corpus.rights.explain import explain, summary
from provenance.corpus.rights.licences import rights_of
from provenance.corpus.rights.policy import read_policy
from provenance.corpus.rights.sources.registry import registry, source_ids
from provenance.corpus.shards import corpus_in_force, freeze_corpus
from provenance.inputs.claims import claims_of
from tasks.settings import load

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
DAY = date(2026, 11, 20)
WORK = "work-0-0"


def assertion(work, licence, by, **columns):
    row = {"work_id": work, "licence": licence, "asserted_by": by, "evidence": f"the {by}'s page", "asserter": None}
    return row | {"asserted_at": None, "evidence_sha256": None, "expires_at": None} | columns


ASSERTED = [
    assertion(WORK, "mit", "aggregator", asserter="PyPI", evidence_sha256="ab" * 32),
    assertion(WORK, "CC BY-NC", "source", asserted_at=NOON),
    assertion(WORK, "MIT", "source", asserted_at=datetime(2026, 1, 1, tzinfo=UTC)),
    assertion(WORK, "MIT", "owner", asserted_at=NOON, expires_at=datetime(2026, 11, 19, tzinfo=UTC)),
    assertion("work-1-0", "MIT OR", "aggregator"),
    assertion("work-9-9", "MIT", "owner"),
]


@pytest.fixture
def delivered(store, monkeypatch):
    """A corpus in force with assertions; one work's examples are all held out."""
    frames = corpus_frames()
    split = pl.when(pl.col("work_id") == "work-2-1").then(pl.lit("held_out")).otherwise(pl.lit("train"))
    frames["examples"] = frames["examples"].with_columns(split=split, licence_spdx=pl.lit("Apache-2.0"))
    frames["assertions"] = pl.DataFrame(ASSERTED, infer_schema_length=None)
    monkeypatch.setenv("PROVENANCE_STORE__URL", store.url)
    deliver(store, frames)
    corpus = read_corpus(store, "corpus")
    rights = rights_of(corpus.examples, corpus.assertions, read_policy(load().rights.policy), now=NOON)
    freeze_corpus(store, corpus, shard_examples=8, rights=rights)
    return store


@pytest.fixture
def where(delivered, doors):
    return doors(ledger=False)


def test_a_work_s_chain_has_every_assertion_what_counts_and_what_follows(where):
    report = explain(where, WORK, DAY)
    terms = report["terms"]
    assert {(row["asserted_by"], row["licence"]): row["standing"] for row in terms["assertions"]} == {
        ("aggregator", "mit"): "the source's word counts before the aggregator's",
        ("source", "CC BY-NC"): "counts",
        ("source", "MIT"): "the source has said otherwise since",
        ("owner", "MIT"): "expired on 2026-11-19",
    }
    assert (terms["licence_class"], terms["asserted_by"]) == ("non_commercial", "source")
    assert terms["as_ingested"]["asserted_by"] == "owner", "on the day before, the owner's word was good"
    assert terms["conflict"] == "class: source says cc by-nc (non_commercial), aggregator says MIT (commercial)"
    assert terms["uses"] == {
        "train": "non_commercial, and the policy lets train only commercial", "research": "allowed", "evaluate": "allowed",
    }  # fmt: skip
    assert {party["party_id"]: party["stake_ppb"] for party in report["claims"]["parties"]} == {
        "owner-0": 600_000_000, "owner-1": 400_000_000,
    }  # fmt: skip
    assert report["source"]["uris"] == [f"https://example.org/{WORK}"]
    assert explain(where, WORK, date(2026, 11, 18))["terms"]["asserted_by"] == "owner"
    assert explain(where, WORK, date(2026, 11, 17))["terms"]["licence_spdx"] == "MIT", "the earlier word of the source"


def test_records_of_sources_signals_and_opt_outs_are_shown_where_there_are_any(delivered, where):
    assert not any(explain(where, WORK, DAY)[name] for name in ("signals", "optouts"))
    source = {"source_uri": f"https://example.org/{WORK}", "acquired_at": NOON, "collector": "a crawl", "evidence": "a line"}
    signal = {
        "scope": "https://example.org/", "about": "https://example.org", "kind": "robots", "use": "train", "allowed": False,
        "agents": "GPTBot", "says": "Disallow: /",
        "url": "https://example.org/robots.txt", "fetched_at": NOON, "status": 200,
    }  # fmt: skip
    optout = optout_row(NOON, WORK, "owner-0", DAY)
    elsewhere = signal | {"scope": "https://e.org/", "about": "https://e.org"}
    for contract, row in ((SOURCES, source), (SIGNALS, signal), (SIGNALS, elsewhere), (OPTOUTS, optout)):
        records.append(delivered, contract, pl.DataFrame([row]))
    report = explain(where, WORK, DAY)
    assert [row["collector"] for row in report["source"]["records"]] == ["a crawl"]
    assert [(row["says"], row["counts"]) for row in report["signals"]] == [("Disallow: /", True)]
    assert [(row["choice"], row["counts"]) for row in report["optouts"]] == [("held", True)]
    assert ("escrow", "held-owner-0", 600_000_000) in [tuple(party.values()) for party in report["claims"]["parties"]]
    assert [against.partition(":")[0] for against in report["against_training"]] == [
        "terms", "opt-out of owner-0 (held)", "signal",
    ]  # fmt: skip
    again = optout | {"action": "withdraw", "effective_on": date(2026, 11, 21), "recorded_at": NOON.replace(day=21)}
    records.append(delivered, OPTOUTS, pl.DataFrame([again]))
    assert [row["counts"] for row in explain(where, WORK, date(2026, 11, 21))["optouts"]] == [False, False]
    assert [row["counts"] for row in explain(where, WORK, DAY)["optouts"]] == [True]
    assert explain(where, WORK, date(2026, 11, 19))["optouts"] == []


def test_a_work_that_is_held_out_and_one_that_nobody_claims_are_explained(delivered, where):
    held_out = explain(where, "work-2-1", DAY)
    assert held_out["source"]["examples"] == {"held_out": 3}
    assert held_out["claims"]["stakes"][0]["owner_id"] == "owner-2"
    assert held_out["claims"]["parties"] == [], "nothing is booked for it"
    assert held_out["against_training"] == ["held out: all of it is kept to measure models by"]
    assert claims_of(delivered, "work-2-1")["parties"] == []
    assert claims_of(delivered, "work-2-1")["stakes"][0]["owner_id"] == "owner-2"
    assert (held_out["terms"]["licence_spdx"], held_out["terms"]["asserted_by"]) == ("Apache-2.0", "aggregator")
    unmatched = explain(where, "work-4-0", DAY)
    assert unmatched["claims"]["parties"][0]["account"] == "escrow"
    assert unmatched["claims"]["unmatched_reason"] == "no author is named"


def test_an_unknown_work_and_a_corpus_without_rights_are_errors_with_a_next_step(delivered, where):
    with pytest.raises(ContractError, match=r"work 'work-0-O': expected a work of the corpus in .*Did you mean 'work-0-"):
        explain(where, "work-0-O", DAY)
    freeze_corpus(delivered, read_corpus(delivered, "corpus"), shard_examples=8)
    with pytest.raises(ContractError, match="expected one with a table of rights, found none.*Ingest it again"):
        summary(where)


def test_the_summary_counts_every_work_once(where):
    report = summary(where)
    assert sum(report["classes"].values()) == sum(report["asserted_by"].values()) == report["works"] == 20
    assert report["classes"] == {"commercial": 19, "unspecified": 1}
    assert report["held_out"] == 1
    assert [row["such_as"] for row in report["quarantine"]] == ["work-1-0"]
    assert "MIT OR" in report["quarantine"][0]["because"]


def test_the_command_line_shows_both(delivered, shown, refused):
    words = ("rights", "explain", WORK, "--day", "2026-11-20")
    out = shown(*words)
    texts = ("CC BY-NC", "expired on 2026-11-19", "owner-0", "train     non_commercial", "When it was ingested: commercial")
    assert [text for text in texts if text not in out] == []
    assert shown(*words, "--json")["terms"]["licence_class"] == "non_commercial"
    assert "20 works: 19 commercial, 1 unspecified" in shown("rights", "summary")
    assert shown("rights", "summary", "--json")["works"] == 20
    assert "Did you mean 'work-0-0'?" in refused("rights", "explain", "wrk-0-0")
    refused("rights", "explain", WORK, "--day", "20.11.2026")


def test_works_are_listed_by_class_conflict_and_quarantine(delivered, shown, refused, tmp_path):
    def works(*words):
        return [row["work_id"] for row in shown("rights", "works", *words, "--json")]

    everything = works()
    assert len(everything) == 20
    assert works("--conflicts") == works("--conflicts", "--class", "commercial") == [WORK]
    assert works("--quarantine") == works("--class", "unspecified") == ["work-1-0"]
    assert works("--quarantine", "--conflicts") == []
    assert works("--like", "WORK-3") == [work for work in everything if "work-3" in work]
    assert works("--class", "forbidden") == []
    assert len(works("--most", "3")) == 3
    output = shown("rights", "works", "--most", "3", "--csv", str(tmp_path / "works.csv"))
    assert "3 of 20 works" in output
    assert pl.read_csv(tmp_path / "works.csv")["work_id"].to_list() == everything
    assert "There are none." in shown("rights", "works", "--class", "forbidden")
    assert "Did you mean 'commercial'?" in refused("rights", "works", "--class", "comercial")
    assert "no such folder" in refused("rights", "works", "--csv", str(tmp_path / "no" / "x.csv"))
    assert "expected a file, found a folder" in refused("rights", "works", "--csv", str(tmp_path))


def test_an_ingest_freezes_rights_and_warns_of_what_a_person_should_look_at(store, ingested, caplog):
    digest = ingested(corpus_frames() | {"assertions": pl.DataFrame(ASSERTED, infer_schema_length=None)})
    frozen = corpus_in_force(store)
    assert frozen.digest == digest
    rights = store.read_table(frozen.rights.key)
    assert rights.height == 20
    assert rights["licence_class"].null_count() == 0
    assert store.read_table(frozen.assertions.key).height == len(ASSERTED)
    counts = {row["measure"]: row["count"] for row in last_report(store)["findings"]}
    expected = {"unspecified": 19, "conflicts": 1, "expired": 1, "quarantined": 20, "strays": 1}
    assert {name: counts[name] for name in expected} == expected
    assert "warn: 20 of 20 works that the policy excludes from training" in caplog.text
    assert "works that are not delivered; they have no effect (warns above 0.0%), the first: 'work-9-9'" in caplog.text
    assert run("corpus.ingest") == digest


def test_an_ingest_with_a_policy_that_is_none_stops_first(store, environment, tmp_path):
    path = tmp_path / "rights.toml"
    path.write_text('strictnes = ["commercial"]')
    environment(store, RIGHTS__POLICY=str(path))
    with pytest.raises(ContractError, match=r"rights\.toml: .*"):
        run("corpus.ingest")
    assert not store.list("frozen")


def test_what_the_demo_collects_has_a_class_and_evidence_for_every_work(demo_corpus):
    corpus = demo_corpus
    rights = rights_of(corpus.examples, corpus.assertions, read_policy(load().rights.policy), now=NOON)
    assert set(rights["work_id"]) == set(corpus.examples["work_id"])
    assert (rights["evidence"].str.len_chars() > 0).all()
    assert (rights["licence_class"] == "commercial").mean() > 0.8
    assert {"source", "aggregator"} <= set(rights["asserted_by"])
    of_files = corpus.assertions.filter(pl.col("asserted_by") == "source")
    assert (of_files["evidence_sha256"].str.len_chars() == 64).all()
    assert rights.filter(pl.col("conflict") != "").height
    collected = sources_of(corpus.examples)
    assert collected.height == corpus.examples["work_id"].n_unique() == registry(collected).height
    assert source_ids(registry(collected), corpus.examples["source_uri"]).null_count() == 0
    assert collected["evidence"].str.contains(r"^RECORD of \S+: \S.*,").all()
    unmatched = corpus.examples.filter(pl.col("unmatched_reason").is_not_null())
    assert set(unmatched["work_id"]).isdisjoint(corpus.claims["work_id"]), "rights give nobody's escrow away"
