"""Likelihoods of outputs under every model: computed once, and equal to those of the models themselves."""

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import outputs_frame, request_on

from provenance.core.errors import ModelError
from provenance.core.store import canonical_json
from provenance.local.attribute import folder_night
from provenance.models.counterfactual_records import read_record
from provenance.models.frozen import fetch_model
from provenance.models.model import all_losses, examples_in, read_model
from provenance.royalty.likelihoods import BASE, SERVED, read_likelihoods
from provenance.royalty.stage import likelihoods
from tasks.where import local_settings, opened


def run(request, **changes):
    """The stage alone, on a night of a request; the store, the night and the likelihoods."""
    with opened(local_settings(method="tfidf", device="cpu", workers=1), ledger=False) as where:
        local, night = folder_night(where, request)
        store, night = local.store, replace(night, **changes)
        store.write(f"{night.folder}/inputs.json", canonical_json(night.inputs))
        likelihoods(local, night.folder)
        return store, night, read_likelihoods(store, night.folder)


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, tiny_model, tiny_set):
    return request_on(tmp_path_factory.mktemp("likelihoods"), tiny_model, counterfactuals=tiny_set)


@pytest.fixture(scope="module")
def computed(request_of):
    """The store, the night and the likelihoods of the first run."""
    return run(request_of)


def losses(model, checkpoint, request):
    outputs = examples_in(pl.read_parquet(request.outputs).sort("output_id"))
    return all_losses(model.adapter(), model.load(model.card.checkpoints[checkpoint]), outputs, batch_size=3)


def asking(request, folder, outputs):
    """The request with other outputs."""
    outputs.select("output_id", "content").write_parquet(folder / "outputs.parquet")
    return replace(request, outputs=folder / "outputs.parquet")


def test_they_are_those_of_the_models(computed, request_of, tiny_model, tmp_path):
    store, night, values = computed
    assert set(values) == {BASE, SERVED, *night.counterfactuals}
    assert len(night.counterfactuals) == 9
    served = read_model(tiny_model)
    assert np.allclose(values[BASE], -losses(served, 0, request_of), rtol=1e-5)
    assert np.allclose(values[SERVED], -losses(served, -1, request_of), rtol=1e-5)
    assert (values[SERVED] > values[BASE]).all()
    for name in night.counterfactuals:
        record = read_record(store, night.model, name)
        model = fetch_model(store, record.folder, record.files, tmp_path / "cache")
        assert np.allclose(values[name], -losses(model, -1, request_of), rtol=1e-5)
        assert (values[name] < values[SERVED]).mean() > 0.5, "it has seen less"


def test_a_night_without_counterfactual_models_has_those_before_and_after_training(computed, request_of):
    assert set(run(replace(request_of, counterfactuals=None))[2]) == {BASE, SERVED}


def test_outputs_in_parts_have_the_same_likelihoods(computed, request_of, monkeypatch, tmp_path):
    monkeypatch.setattr("provenance.inputs.frozen.PART_OUTPUTS", 3)
    _, night, parts = run(replace(request_of, out=tmp_path / "other"))
    assert sum(part.rows > 0 for part in night.outputs) == 3
    assert set(parts) == set(computed[2])
    for name, whole in computed[2].items():
        assert np.allclose(parts[name], whole, rtol=1e-6)


def test_known_likelihoods_are_not_computed_again(computed, request_of, monkeypatch, tmp_path):
    store, night, values = computed
    files = set(store.list("likelihoods"))
    named = {key for keys in store.read_json(f"{night.folder}/likelihoods.json")["files"].values() for key in keys}
    assert (len(named), named <= files) == (11, True)
    with monkeypatch.context() as patch:
        patch.setattr("provenance.royalty.likelihoods._evaluate", None)
        _, later, again = run(replace(request_of, day=date(2026, 11, 21)))
        renamed = pl.read_parquet(request_of.outputs).with_columns(pl.lit("x-") + pl.col("output_id"))
        run(asking(request_of, tmp_path, renamed))  # a model reads no ids
    assert later.folder != night.folder
    assert set(store.list("likelihoods")) == files
    assert all(np.array_equal(again[name], values[name]) for name in values)
    run(asking(request_of, tmp_path, outputs_frame("2026-11-18")))
    assert len(set(store.list("likelihoods")) - files) == 11, "other outputs are computed"


def test_a_model_that_was_replaced_since_the_night_was_frozen_is_named(computed, request_of):
    first, *_ = computed[1].counterfactuals
    with pytest.raises(ModelError, match=rf"{first}.json: expected the model folder x that the night was frozen with, found"):
        run(request_of, counterfactuals={first: "x"})


def test_an_output_that_no_model_can_read_is_named(computed, request_of, tmp_path):
    long = pl.when(pl.col("output_id").str.ends_with("003")).then(pl.lit(b"y" * 301)).otherwise(pl.col("content"))
    outputs = pl.read_parquet(request_of.outputs).with_columns(content=long)
    with pytest.raises(ModelError, match=r"output_id '2026-11-19-003': expected at most 300 bytes, .*found 301 bytes"):
        run(asking(request_of, tmp_path, outputs))
