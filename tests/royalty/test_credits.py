"""Spans of outputs rest on the works that they were learnt from, passages word for word are found, and no amount changes."""

import numpy as np
import polars as pl
import pytest
from samples import DAY, corpus_frames, create_database, deliver, enter, outputs_frame, settings_of
from stages import SMALL, run

from provenance.core.errors import StoreError
from provenance.core.stages import COMPUTED, FREEZE
from provenance.core.store import Store
from provenance.core.tables import MATCHES, SPANS
from provenance.influence import night_spans
from provenance.inputs.night import read_whole
from provenance.royalty.credits import read_credits

CONTRACTS = """
[[contract]]
name = "search"
products = ["search"]
developer_ppb = 0
rule = "proportional"
duplicates = "off"

[[contract]]
name = "rest"
developer_ppb = 0
rule = "proportional"
"""


@pytest.fixture(scope="module")
def outputs():
    """A day of outputs: half are contents of works, half are not."""
    frame = outputs_frame(DAY, 8)
    copied = corpus_frames()["examples"].filter(pl.col("position") == 1)["content"].gather_every(4).head(4)
    content = [*copied, *frame["content"][4:]]
    product = pl.when(pl.int_range(pl.len()) % 4 == 3).then(pl.lit("search")).otherwise(pl.lit("chat"))
    return frame.with_columns(pl.Series("content", content), product=product)


@pytest.fixture(scope="module")
def settings(tmp_path_factory, postgres, tiny_model, outputs):
    """Settings of a store with one night up to the shares; returns the environment, the store and the night's folder."""
    folder = tmp_path_factory.mktemp("credits")
    (folder / "contracts.toml").write_text(CONTRACTS)
    store = Store(f"file://{folder}/store", {})
    more = SMALL | {"ROYALTY__CONTRACTS": f"{folder}/contracts.toml", "COUNTERFACTUALS__TRAININGS": "0"}
    deliver(store, corpus_frames(), days=())
    store.write_table(f"outputs/day={DAY}/part.parquet", outputs)
    environment = settings_of(store, create_database(postgres), tiny_model, folder, **more)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, environment)
        run("corpus.ingest")
        night = run(FREEZE.name, DAY)
        for stage in COMPUTED:
            run(stage.name, night)
    return environment, store, night


@pytest.fixture
def credited(settings, monkeypatch):
    """Runs the stage, optionally with other settings of credits; returns its tables."""
    environment, store, night = settings
    enter(monkeypatch, environment)

    def make(**changed):
        enter(monkeypatch, {f"PROVENANCE_CREDITS__{name}": value for name, value in changed.items()})
        assert run("royalty.credit", night) == night
        return read_credits(store, night)

    return make


def test_spans_lie_side_by_side_and_name_leading_parties(credited, outputs):
    spans = credited()["spans"]
    assert spans.schema == SPANS.schema
    contents = dict(outputs.select("output_id", "content").iter_rows())
    assert set(spans["output_id"]) == set(contents)
    for (name,), own in spans.group_by("output_id"):
        places = own.select("start", "end").unique().sort("start")
        assert places["start"].to_list() == [0, *places["end"].to_list()[:-1]]
        assert places["end"][-1] == len(contents[name])
        assert 2 <= places.height <= 16
        parts = own.group_by("start").agg(pl.col("part").sum(), count=pl.len())
        assert (parts["part"] <= 1 + 1e-9).all()
        assert (parts["count"] <= night_spans.LEADING).all()
    assert (spans["part"] > 0).all()
    examples = dict(corpus_frames()["examples"].select("content", "work_id").iter_rows())
    assert set(spans["work_id"].drop_nulls()) <= set(examples.values())


def test_influence_of_an_output_is_the_sum_of_its_spans(settings, credited, monkeypatch):
    _, store, night = settings
    monkeypatch.setattr(night_spans, "LEADING", 99)
    spans = credited(SPANS="15")["spans"]
    keys = ["output_id", "account", "party_id"]
    sums = spans.group_by(keys).agg(pl.col("influence").sum())
    whole = read_whole(store, night, "estimate", "party_influence")
    both = whole.join(sums, on=keys, suffix="_of_spans")
    of_positive = both.filter(pl.col("influence") > 0)
    assert of_positive.height > 20
    # Features of outputs are kept in few bits, and spans with a negative influence are not listed.
    assert np.corrcoef(of_positive["influence"], of_positive["influence_of_spans"])[0, 1] > 0.97


def test_spans_of_a_work_rest_on_its_owner(credited, outputs):
    spans = credited()["spans"]
    owners = {
        content: work.split("-")[1] for content, work in corpus_frames()["examples"].select("content", "work_id").iter_rows()
    }
    leading = spans.group_by("output_id", "start", maintain_order=True).first()
    right = [
        party in (f"owner-{owners[content]}", "unmatched-somebody" if owners[content] == "4" else "")
        for output, content in outputs.select("output_id", "content").head(4).iter_rows()
        for party in leading.filter(pl.col("output_id") == output)["party_id"]
    ]
    assert np.mean(right) > 0.5, "by chance a fifth"


def test_passages_that_stand_word_for_word_in_works_are_found(credited, outputs):
    matches = credited()["matches"]
    assert matches.schema == MATCHES.schema
    examples = corpus_frames()["examples"]
    contents = dict(outputs.select("output_id", "content").iter_rows())
    for name in list(contents)[:4]:
        own = matches.filter(pl.col("output_id") == name)
        assert (0, len(contents[name])) in own.select("start", "end").rows()
        work = examples.filter(pl.col("content") == contents[name])["work_id"][0]
        assert work in own["work_id"].to_list()


def test_the_stage_is_done_once_and_again_with_other_settings(settings, credited, caplog):
    _, store, night = settings
    first = credited(OUTPUTS="3")
    assert first["spans"]["output_id"].n_unique() == 3
    keys = {key: store.read(key) for key in store.list(f"{night}/credits")}
    with caplog.at_level("INFO", logger="provenance.credit"):
        credited(OUTPUTS="3")
    assert "credits: reused" in caplog.text
    assert not [key for key in keys if night_spans.SCRATCH in key]
    store.remove(f"{night}/credits.json")  # as if it had been killed before its last write
    credited(OUTPUTS="3")
    assert {key: store.read(key) for key in keys} == keys
    none = credited(OUTPUTS="0")
    assert none["spans"].is_empty()
    assert none["matches"].equals(first["matches"])


def test_two_runs_of_a_night_at_once_leave_each_other_s_scratch_alone(settings, credited, monkeypatch):
    """As a backfill and a run by hand of the same day."""
    _, store, night = settings
    alone, score, others = credited(OUTPUTS="4"), night_spans.score_groups, []

    def scored(*arguments, **how):
        if not others:
            others.append(night)
            others.append(credited(OUTPUTS="4"))
        return score(*arguments, **how)

    store.remove(f"{night}/credits.json")
    monkeypatch.setattr(night_spans, "score_groups", scored)
    assert credited(OUTPUTS="4")["spans"].equals(alone["spans"])
    assert others[1]["spans"].equals(alone["spans"])
    assert not [key for key in store.list(night) if night_spans.SCRATCH in key]


def test_no_amount_depends_on_it(settings, credited):
    _, store, night = settings
    files = ("inputs.json", "plan.json", "scores.json", "estimate.json", "shares.json", "shares/000000.parquet")
    before = {name: store.read(f"{night}/{name}") for name in files}
    credited(OUTPUTS="2", SPANS="4")
    assert run(FREEZE.name, DAY) == night, "settings of credits are no input of a night"
    assert {name: store.read(f"{night}/{name}") for name in files} == before


def test_a_changed_table_is_refused_and_a_night_without_any_has_none(settings, credited):
    _, store, night = settings
    credited()
    key = store.read_json(f"{night}/credits.json")["writes"]["spans"]["key"]
    kept = store.read(key)
    store.write(key, kept + b"x")
    with pytest.raises(StoreError, match="SHA-256"):
        read_credits(store, night)
    store.write(key, kept)
    store.remove(f"{night}/credits.json")
    assert all(table.is_empty() for table in read_credits(store, night).values())
