"""A night checks its model on a worker before it computes features, once, and a setting says what happens then."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from samples import request_on
from scipy.stats import spearmanr

from provenance.core.errors import ModelError, SettingsError
from provenance.features import night_check
from provenance.features.night_check import read_check
from provenance.features.plan import coverage, load_plan
from provenance.features.stage import plan
from provenance.influence import night_scores
from provenance.local.attribute import attribute, folder_night
from provenance.models.frozen import close_models
from tasks.where import local_settings

ADAPTERS = """
import torch
from torch.nn import functional

from provenance.models.adapters.causal_lm import CausalLM


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, d):
        x, weight = ctx.saved_tensors
        return d @ weight, d.flatten(0, 1).t() @ x.flatten(0, 1)


class Wrong(CausalLM):
    '''One weight is used where no function of torch shows it, and another one by a multiple of it.'''

    def module(self):
        module = super().module()
        module.model.layers[0].mlp.up_proj.forward = lambda x: Product.apply(x, module.model.layers[0].mlp.up_proj.weight)
        module.model.layers[0].mlp.gate_proj.__class__ = Scaled
        return module


class Scaled(torch.nn.Linear):
    def forward(self, x):
        return functional.linear(x, 8 * self.weight)


class Dropping(CausalLM):
    def loss(self, module, batch):
        module.lm_head.forward = lambda x: functional.linear(functional.dropout(x, 0.5, True), module.lm_head.weight)
        return super().loss(module, batch)


class Mixing(CausalLM):
    def loss(self, module, batch):
        head = module.lm_head.weight.float()
        module.lm_head.forward = lambda x: functional.linear(x, head)
        return super().loss(module, batch)


class Partly(CausalLM):
    '''The loss of some contents is a constant.'''

    def loss(self, module, batch):
        return super().loss(module, batch) * (batch.ids[:, 1:].sum(1) % 5 != 0)
"""


@pytest.fixture
def night_of(tmp_path, tiny_model, doors, monkeypatch):
    """A function that freezes a night of the tiny model with an adapter of the test's own."""
    (tmp_path / "odd_layers.py").write_text(ADAPTERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_layers", raising=False)  # another test's, whose file is gone
    settings = local_settings(method="factored", device="cpu", workers=1)
    request = request_on(tmp_path, shutil.copytree(tiny_model, tmp_path / "model"))

    def make(adapter="CausalLM", **features):
        if adapter != "CausalLM":
            path = request.model / "model.toml"
            path.write_text(path.read_text().replace('"CausalLM"', f'"odd_layers:{adapter}"'))
        changed = settings.model_copy(update={"features": settings.features.model_copy(update=features)})
        return doors(changed, ledger=False), request

    yield make
    close_models()


def test_a_model_is_checked_once_and_the_report_says_what_is_followed(night_of, monkeypatch):
    where, night = folder_night(*night_of())
    plan(where, night.folder)
    planned = load_plan(where.store, night.folder)
    assert where.store.list("checks") == [planned.check]
    report = read_check(where.store, planned.check)
    assert {layer.verdict for layer in report.layers} == {"followed", "left out"}
    covered = coverage(where.store, planned)
    assert covered["share"] == report.share > 0.9
    assert covered["check"]["largest_deviation"] < 1e-5
    assert covered["check"]["batches"] == "side by side"

    def again(*_):
        raise AssertionError("checked twice")

    monkeypatch.setattr(night_check, "_check", again)
    plan(where, night.folder)


def test_what_cannot_be_followed_stops_a_night_or_is_left_out(night_of, monkeypatch):
    for module in ("layers", "checks"):
        monkeypatch.setattr(f"provenance.features.{module}.LARGEST_WHOLE", 100)
    where, request = night_of("Wrong")
    with pytest.raises(ModelError, match=r"weight 'model.layers.0.mlp.(up|gate)_proj.weight' .* So have 1 more"):
        attribute(where, request)
    assert where.at(request.out / "work").store.list("features") == []
    where, request = night_of("Wrong", unfollowed="leave_out")
    covered = attribute(where, request)["parameters_covered"]
    assert covered["check"]["not_followed"] == {
        "model.layers.0.mlp.up_proj.weight": pytest.approx(1.0),
        "model.layers.0.mlp.gate_proj.weight": None,
    }
    assert covered["share"] < 0.95
    scores = pl.read_parquet(request.out / "scores.parquet")["influence"].to_numpy()
    assert np.isfinite(scores).all()


def test_dropout_that_was_left_on_stops_a_night_by_its_name(night_of):
    where, night = folder_night(*night_of("Dropping"))
    with pytest.raises(ModelError, match=r"module .lm_head. .Linear.: .*dropout draws random numbers"):
        plan(where, night.folder)


def test_examples_without_a_gradient_stop_no_night_however_shards_are_cut(night_of, caplog):
    where, request = night_of("Partly")
    scores = []
    for size in (60, 1):
        cut = where.settings.corpus.model_copy(update={"shard_examples": size})
        other = replace(where, settings=where.settings.model_copy(update={"corpus": cut}))
        request = replace(request, out=request.out.with_name(f"out-{size}"))
        attribute(other, request)
        table = pl.read_parquet(request.out / "scores.parquet").sort("output_id", "example_id")
        scores.append(table["influence"].to_numpy())
    assert np.isfinite(scores[0]).all()
    assert (scores[0] == 0).any()
    assert np.abs(scores[0] - scores[1]).max() <= 1e-5 * np.sqrt((scores[0] ** 2).mean())
    assert "examples have no gradient" in caplog.text


def test_influence_that_is_not_finite_is_never_written(night_of, monkeypatch):
    where, request = night_of()
    score_rows = night_scores.score_rows
    monkeypatch.setattr(night_scores, "score_rows", lambda *sides: [np.nan * component for component in score_rows(*sides)])
    with pytest.raises(ModelError, match=r"influence by step-.* of part .*: expected finite numbers, found NaN or infinite"):
        attribute(where, request)
    assert not (request.out / "scores.parquet").exists()


def influences_of(where, request):
    attribute(where, request)
    return pl.read_parquet(request.out / "scores.parquet").sort("output_id", "example_id")["influence"].to_numpy()


def test_passes_in_bfloat16_have_features_of_their_own_and_hardly_other_influences(night_of):
    where, request = night_of()
    expected = influences_of(where, request)
    keys = {}
    for precision in ("float32", "bfloat16"):
        where, _ = night_of(precision=precision)
        local, night = folder_night(where, replace(request, out=request.out.with_name(precision)))
        plan(local, night.folder)
        planned = load_plan(local.store, night.folder)
        assert read_check(local.store, planned.check).dtype == precision
        keys[precision] = {planned.check, *(file.key for file in planned.corpus)}
    assert not keys["float32"] & keys["bfloat16"]
    found = influences_of(where, replace(request, out=request.out.with_name("rounded")))
    assert not np.array_equal(found, expected)
    assert spearmanr(found, expected).statistic > 0.98


def test_passes_that_cannot_be_rounded_are_refused(night_of):
    where, night = folder_night(*night_of("Mixing", precision="bfloat16"))
    with pytest.raises(SettingsError, match=r"features.precision: expected passes in bfloat16, found .*dtype"):
        plan(where, night.folder)
    night_check.require_precision("float32", on_base=True)
    with pytest.raises(SettingsError, match="expected float32 for a model on a base, found bfloat16. Set dtype = 'bfloat16'"):
        night_check.require_precision("bfloat16", on_base=True)


def test_full_memory_ends_a_night_with_the_setting_to_change(night_of, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("provenance.features.featurise.gradient_features", full)
    with pytest.raises(SettingsError, match=r"features.memory_gb: .* found CUDA out of memory.* Set it below 8"):
        attribute(*night_of())
