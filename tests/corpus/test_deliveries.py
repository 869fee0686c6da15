"""Ingesting judges a delivery: it stores a report, and a blocked delivery is not put in force."""

from datetime import UTC, datetime

import polars as pl
import pytest
from samples import corpus_frames, deliver
from stages import run

from provenance.core.errors import CheckFailed
from provenance.core.tables import SOURCES
from provenance.corpus import records
from provenance.corpus.quality import last_report
from provenance.corpus.shards import CURRENT, corpus_in_force

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


def levels(store):
    return {row["measure"]: row["level"] for row in last_report(store)["findings"]}


def page_of(store):
    (key,) = [key for key in store.list("rights/quality") if key.endswith(".html")]
    return store.read(key).decode()


def test_a_delivery_that_the_rules_block_is_reported_and_not_put_in_force(store, environment, tmp_path):
    rules = tmp_path / "quality.toml"
    rules.write_text("[unspecified]\nblock = 0.1\n")
    environment(store, CORPUS__QUALITY=str(rules))
    deliver(store, corpus_frames())
    with pytest.raises(CheckFailed, match=r"not put in force: 20 of 20 works without stated .*The report: .*\.html"):
        run("corpus.ingest")
    assert not store.exists(CURRENT)
    assert levels(store)["unspecified"] == "block"
    assert "Not put in force" in page_of(store)
    rules.write_text("[unspecified]\nwarn = 0.1\n")
    digest = run("corpus.ingest")
    assert corpus_in_force(store).digest == digest
    assert levels(store)["unspecified"] == "warn"
    reports = store.list("rights/quality")
    assert len(reports) == 4
    assert run("corpus.ingest") == digest
    assert store.list("rights/quality") == reports, "the same again adds nothing"


def test_the_report_counts_what_was_delivered_and_its_page_has_no_markup_of_strangers(store, ingested, shown):
    frames = corpus_frames()
    work_id = pl.when(pl.col("work_id") == "work-0-0").then(pl.lit(HOSTILE)).otherwise("work_id").alias("work_id")
    frames["claims"] = frames["claims"].with_columns(work_id, evidence=pl.lit(None, pl.String))
    ingested(frames | {"examples": frames["examples"].with_columns(work_id)})
    findings = {row["measure"]: row for row in last_report(store)["findings"]}
    assert findings["unevidenced"]["count"] == findings["unevidenced"]["total"] == frames["claims"].height
    assert HOSTILE in findings["unevidenced"]["names"]
    page = page_of(store)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "unevidenced" in shown("rights", "quality")
    assert shown("rights", "quality", "--json")["works"] == 20


def test_sources_of_a_delivery_are_registered_once_and_name_the_works(store, environment):
    environment(store)
    deliver(store, corpus_frames())
    rows = [
        {
            "source_uri": f"http://EXAMPLE.org/work-{owner}-{n}#top", "acquired_at": NOON, "collector": "a crawl",
            "evidence": "a line", "identifiers": ["doi:10.1000/182"] if (owner, n) == (0, 0) else [],
        }
        for owner in range(5) for n in range(4)
    ]  # fmt: skip
    store.write_table("corpus/sources.parquet", pl.DataFrame(rows))
    assert run("rights.sources") == 20
    assert run("rights.sources") == 0
    assert records.read(store, SOURCES).height == 20
    run("corpus.ingest")
    rights = store.read_table(corpus_in_force(store).rights.key)
    assert rights["source_id"].null_count() == 0
    assert rights.filter(pl.col("work_id") == "work-0-0")["source_id"].item() == "doi:10.1000/182"


def test_what_may_be_trained_on_today_is_written_and_nobody_is_asked_who_must_not_be(store, ingested):
    frames = corpus_frames()
    licence = pl.when(pl.col("work_id").str.starts_with("work-1")).then(pl.lit("CC-BY-NC-4.0")).otherwise(pl.lit("MIT"))
    ingested(frames | {"examples": frames["examples"].with_columns(licence_spdx=licence)})
    assert run("rights.signals") == {}
    key = run("rights.manifest")
    manifest = store.read_json(key)
    assert {work.split("-")[1] for work in manifest["works"]} == {"0", "2", "3", "4"}
    assert manifest["left_out"]["because"] == {"quarantine": 4}
    assert run("rights.manifest") == key
