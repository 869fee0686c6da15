"""`provenance bench`: the figures of every part."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import polars as pl
import pytest
from samples import request_on, words_of

from provenance.core.published import in_force
from provenance.core.settings import Settings
from provenance.core.stages import APPROVE, STAGES
from provenance.core.store import Store
from provenance.core.tables import CLAIMS
from provenance.corpus.delivery import read_corpus_folder
from provenance.corpus.duplicates import find_duplicates
from provenance.corpus.ownership import since
from provenance.settlement.exports.export import read_credits
from provenance.validation import cost, scale, scale_night
from tasks.where import local_settings, opened

SETTINGS = Settings.model_validate({"cluster": {"workers": 1}, "influence": {"method": "factored", "sample": 24}})


def bench(request, parts):
    return cost.bench(request, SETTINGS, parts, partial(opened, ledger=False))


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model):
    return request_on(tmp_path_factory.mktemp("bench"), tiny_model)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 1)


def test_features_and_scores_are_compared_with_bare_passes_and_products(request_of):
    figures = bench(request_of, ("features", "scoring"))
    checkpoints = figures["features"]["checkpoints"].values()
    assert len(checkpoints) == 3
    assert all(row["forward_and_backward"] > 0 and row["features"] > 0 for row in checkpoints)
    ratio = sum(row["features"] for row in checkpoints) / sum(row["forward_and_backward"] for row in checkpoints)
    assert figures["features"]["features_ratio"] == pytest.approx(ratio)
    assert 100 < figures["features"]["bytes_per_example"] < 4096
    for row in figures["scoring"]["checkpoints"].values():
        assert row["outputs"] == 8
        assert row["numbers"] < row["width"], "rows are sparse"
    assert not request_of.out.exists(), "a benchmark leaves nothing"


def test_a_night_with_nothing_new_computes_no_gradients(request_of):
    figures = bench(request_of, ("night",))["night"]
    assert figures["nothing_new"] < figures["everything_new"]


def test_the_estimate_is_timed_on_random_models(request_of, monkeypatch):
    monkeypatch.setattr(cost, "CASES", ((32, 4), (32, 8)))
    monkeypatch.setattr(scale, "ProcessPoolExecutor", ThreadPoolExecutor)  # new processes take long to start
    figures = bench(request_of, ("royalty",))["royalty"]
    cases = figures["cases"]
    assert [(case["owners"], case["outputs"]) for case in cases] == [(32, 4), (32, 8)]
    assert all(case["models"] == 64 and case["components"] == 10 for case in cases)
    assert all(case[key] > 0 for case in cases for key in ("project", "fit", "shares", "peak_mb"))
    assert figures["twice_as_many_outputs"] == cases[1]["shares"] / cases[0]["shares"]


def test_a_forward_pass_takes_less_than_forward_and_backward(request_of):
    figures = bench(request_of, ("likelihoods",))["likelihoods"]
    assert 0 < figures["forward"] < figures["bare"]
    assert figures["ratio"] == figures["forward"] / figures["bare"]


@pytest.mark.night
def test_memory_and_workers(request_of, monkeypatch):
    monkeypatch.setattr(cost, "SMALL", 24)
    figures = bench(request_of, ("memory", "workers"))
    assert 100 < figures["memory"]["peak"] < figures["memory"]["peak_larger"] * 1.2
    assert figures["memory"]["ratio"] < 1.2
    assert figures["workers"]["one"] > 0 < figures["workers"]["two"]


@pytest.mark.night
def test_an_ingest_is_the_same_with_one_worker_and_with_two(request_of, monkeypatch):
    figures = cost.bench(request_of, SETTINGS, ("ingest",), partial(opened, ledger=False), examples=1500)["ingest"]
    assert figures["same_corpus"]
    assert figures["workers_1"]["bytes"]["scratch"] == 0
    assert figures["ratio_by_file"] > figures["ratio_one_by_one"] > 0


def test_a_delivery_that_is_made_up_has_near_copies_and_the_same_rows_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "FILE_ROWS", 400)
    for examples in (400, 1000):
        scale.deliver(tmp_path / str(examples) / "corpus", examples)
    few, many = (read_corpus_folder(tmp_path / str(examples) / "corpus").examples for examples in (400, 1000))
    assert few.drop("content_sha256").equals(many.head(400).drop("content_sha256"))
    assert many["content"].bin.size().max() == scale.BYTES
    assert 20 < find_duplicates(since(many, pl.DataFrame(schema=CLAIMS.schema))).height < 120


def test_a_night_of_made_up_works_runs_from_its_delivery_to_its_credits(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_night, "in_new_process", lambda function, *arguments: function(*arguments))
    small = {"OUTPUTS": 6, "TRAININGS": 1, "CLUSTER": scale_night.CLUSTER | {"processes": False}}
    for name, value in small.items():
        monkeypatch.setattr(scale_night, name, value)
    result = scale_night.scale(tmp_path, local_settings(device="cpu", workers=1), opened, 300, workers=1)
    others = ("corpus.ingest", "counterfactuals.plan", "counterfactuals.train")
    assert list(result["stages"]) == [*others, *(stage.name for stage in STAGES if stage != APPROVE)]
    assert all(cost["processor"] > 0 and cost["memory"] > 0 for cost in result["stages"].values())
    assert result["stages"]["features.featurise"]["bytes"] > 0
    store = Store(f"file://{tmp_path}", {})
    assert read_credits(store, in_force(store, scale_night.DAY)["folder"], "output_id").n_unique() == 6


def test_the_command_prints_json_and_names_an_unknown_part(request_of, shown, refused):
    words = ("bench", *words_of(request_of, "corpus", "model", "outputs"), "--parts")
    assert json.loads(shown(*words, "scoring", "--device", "cpu"))["scoring"]["ratio"] > 0
    error = refused(*words, "speed")
    assert (
        "expected some of features, scoring, memory, workers, night, likelihoods, royalty, ingest, scale, found 'speed'"
        in error
    )
    assert "--model: expected a path, for parts other than royalty, ingest, scale, found none" in refused(
        *words[:3], "--parts", "scoring"
    )
