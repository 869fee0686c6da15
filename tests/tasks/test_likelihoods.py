"""How likely outputs are under every model: computed once each, and the same as asking the models."""

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from samples import outputs_frame, request_on

from provenance.core.errors import ModelError
from provenance.core.store import canonical_json
from provenance.local.attribute import local_settings, opened
from provenance.models.counterfactuals import read_record
from provenance.models.frozen import fetch_model
from provenance.models.model import all_losses, read_model
from provenance.royalty import likelihoods as stage
from provenance.royalty.likelihoods import BASE, SERVED, likelihoods, read_likelihoods


@pytest.fixture
def asked(tmp_path, tiny_model, tiny_set):
    return request_on(tmp_path, tiny_model, counterfactuals=tiny_set)


def run(request, **changes):
    """The stage alone, on a night of a request; the store, the night and what was found."""
    settings = local_settings(method="tfidf", device="cpu", workers=1)
    with opened(request, settings) as (here, night):
        store, mine = here.store.open(), replace(night, **changes)
        store.write(f"{mine.folder}/inputs.json", canonical_json(mine.inputs))
        likelihoods(mine.folder, here)
        return store, mine, read_likelihoods(store, mine.folder)


def losses(model, checkpoint, request):
    contents = pl.read_parquet(request.outputs).sort("output_id")["content"].to_list()
    return all_losses(model.adapter(), model.load(model.card.checkpoints[checkpoint]), contents, batch_size=3)


def test_they_are_what_the_models_say(asked, tiny_model, tmp_path):
    store, night, found = run(asked)
    assert set(found) == {BASE, SERVED, *night.counterfactuals}
    assert len(night.counterfactuals) == 9
    served = read_model(tiny_model)
    assert np.allclose(found[BASE], -losses(served, 0, asked), rtol=1e-5)
    assert np.allclose(found[SERVED], -losses(served, -1, asked), rtol=1e-5)
    assert (found[SERVED] > found[BASE]).all()
    for name in night.counterfactuals:
        record = read_record(store, night.model, name)
        model = fetch_model(store, record.folder, record.files, str(tmp_path / "cache"))
        assert np.allclose(found[name], -losses(model, -1, asked), rtol=1e-5)
        assert (found[name] < found[SERVED]).mean() > 0.5, "it has seen less"


def test_a_night_without_counterfactual_models_has_those_before_and_after_training(asked):
    _, _, found = run(replace(asked, counterfactuals=None))
    assert set(found) == {BASE, SERVED}


def test_outputs_part_by_part_are_those_of_all_at_once(asked, monkeypatch, tmp_path):
    _, _, whole = run(asked)
    monkeypatch.setattr("provenance.inputs.freeze.AT_A_TIME", 3)
    _, night, parts = run(replace(asked, out=tmp_path / "other"))
    assert sum(part.rows > 0 for part in night.outputs) == 3
    assert set(parts) == set(whole)
    for name, found in whole.items():
        assert np.allclose(parts[name], found, rtol=1e-6)


def test_what_is_known_is_not_computed_again(asked, monkeypatch):
    store, night, found = run(asked)
    files = store.list("likelihoods")
    assert len(files) == 11
    monkeypatch.setattr(stage, "_evaluate", None)
    store, later, again = run(replace(asked, day=date(2026, 11, 21)))
    assert later.folder != night.folder
    assert store.list("likelihoods") == files
    assert all(np.array_equal(again[name], found[name]) for name in found)
    monkeypatch.undo()
    outputs_frame("2026-11-18").select("output_id", "content").write_parquet(asked.outputs)
    run(asked)
    assert len(store.list("likelihoods")) == 22, "other outputs are asked about anew"


def test_ids_of_outputs_are_nothing_to_a_model(asked):
    store, _, _ = run(asked)
    files = store.list("likelihoods")
    renamed = pl.read_parquet(asked.outputs).with_columns(pl.lit("x-") + pl.col("output_id"))
    renamed.write_parquet(asked.outputs)
    run(asked)
    assert store.list("likelihoods") == files


def test_a_model_that_was_replaced_since_the_night_was_frozen_is_named(asked):
    with opened(asked, local_settings(method="tfidf", device="cpu", workers=1)) as (_, night):
        first, *_ = night.counterfactuals
    with pytest.raises(ModelError, match=rf"{first}.json: expected the model folder x that the night was frozen with, found"):
        run(asked, counterfactuals={first: "x"})


def test_an_output_that_no_model_can_read_is_named(asked):
    frame = pl.read_parquet(asked.outputs)
    long = pl.when(pl.col("output_id").str.ends_with("003")).then(pl.lit(b"y" * 301)).otherwise(pl.col("content"))
    frame.with_columns(content=long).write_parquet(asked.outputs)
    with pytest.raises(ModelError, match=r"output_id '2026-11-19-003': expected at most 300 bytes, .*found 301 bytes"):
        run(asked)
