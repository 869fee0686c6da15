"""`provenance bench`: every part measures what it says."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from samples import request_on, words_of

from provenance.validation import cost as bench
from tasks.settings import Settings

SETTINGS = Settings.model_validate({"cluster": {"workers": 1}, "influence": {"method": "factored", "sample": 24}})


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model):
    return request_on(tmp_path_factory.mktemp("bench"), tiny_model)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)


def test_features_and_scores_are_held_against_what_they_cannot_be_without(request_of):
    found = bench.bench(request_of, SETTINGS, ("features", "scoring"))
    checkpoints = found["features"]["checkpoints"].values()
    assert len(checkpoints) == 3
    assert all(each["forward_and_backward"] > 0 and each["features"] > 0 for each in checkpoints)
    ratio = sum(each["features"] for each in checkpoints) / sum(each["forward_and_backward"] for each in checkpoints)
    assert found["features"]["features_ratio"] == pytest.approx(ratio)
    assert 100 < found["features"]["bytes_per_example"] < 4096
    for each in found["scoring"]["checkpoints"].values():
        assert each["outputs"] == 8
        assert each["numbers"] < each["width"], "rows are sparse"
    assert not request_of.out.exists(), "a benchmark leaves nothing"


def test_a_night_with_nothing_new_computes_no_gradients(request_of):
    found = bench.bench(request_of, SETTINGS, ("night",))["night"]
    assert found["nothing_new"] < found["everything_new"]


def test_the_estimate_is_timed_on_made_up_models(request_of, monkeypatch):
    for name, value in (("CASES", ((32, 4), (32, 8))), ("ProcessPoolExecutor", ThreadPoolExecutor)):
        monkeypatch.setattr(bench, name, value)  # processes of their own would take long to start
    found = bench.bench(request_of, SETTINGS, ("royalty",))["royalty"]
    assert [(case["owners"], case["outputs"]) for case in found["cases"]] == [(32, 4), (32, 8)]
    assert all(case["models"] == 64 and case["components"] == 10 for case in found["cases"])
    assert all(case[key] > 0 for case in found["cases"] for key in ("project", "fit", "shares", "peak_mb"))
    assert found["twice_as_many_outputs"] == found["cases"][1]["shares"] / found["cases"][0]["shares"]


def test_what_a_counterfactual_model_takes_each_night_is_less_than_a_step_of_training(request_of):
    found = bench.bench(request_of, SETTINGS, ("likelihoods",))["likelihoods"]
    assert 0 < found["forward"] < found["bare"]
    assert found["ratio"] == found["forward"] / found["bare"]


@pytest.mark.night
def test_memory_and_workers(request_of, monkeypatch):
    monkeypatch.setattr(bench, "SMALL", 24)
    found = bench.bench(request_of, SETTINGS, ("memory", "workers"))
    assert 100 < found["memory"]["peak"] < found["memory"]["peak_larger"] * 1.2
    assert found["memory"]["ratio"] < 1.2
    assert found["workers"]["one"] > 0 < found["workers"]["two"]


def test_the_command_prints_json_and_names_an_unknown_part(request_of, shown, refused):
    words = ("bench", *words_of(request_of, "corpus", "model", "outputs"), "--parts")
    assert json.loads(shown(*words, "scoring", "--device", "cpu"))["scoring"]["ratio"] > 0
    said = refused(*words, "speed")
    assert "expected some of features, scoring, memory, workers, night, likelihoods, royalty, found 'speed'" in said
