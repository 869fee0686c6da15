"""`provenance attribute`: influence without money, on plain folders."""

import re
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from bases import adapted, save_base
from safetensors.torch import load_file, save_file
from samples import outputs_frame, request_on, reword, words_of

from provenance.core.errors import ContractError, ModelError, SettingsError
from provenance.core.settings import Settings
from provenance.local import attribute as local
from tasks.where import local_settings, opened


@pytest.fixture
def request_of(tiny_model, tmp_path):
    """A request on the test's own inputs, which it may spoil."""
    folder = tmp_path / "in"
    folder.mkdir()
    return request_on(folder, shutil.copytree(tiny_model, folder / "model"), out=tmp_path / "out")


@pytest.fixture(scope="module")
def done(tiny_model, tmp_path_factory):
    """A request that was run with default settings, its manifest, and its scores."""
    request = request_on(tmp_path_factory.mktemp("attribute"), tiny_model)
    return request, attribute(request), read_scores(request)


def settings(**changes):
    values = {"cluster": {"workers": 1}, "features": {"dense": 64, "token_rank": 4}, "influence": {"sample": 24}}
    return Settings.model_validate({**values, **changes})


def attribute(request, chosen=None):
    with opened(chosen or settings(), ledger=False) as where:
        return local.attribute(where, request)


def read_scores(request):
    frame = pl.read_parquet(request.out / "scores.parquet").sort("output_id", "example_id")
    return frame["influence"].to_numpy().reshape(frame["output_id"].n_unique(), -1)


def scores_of(request, **changes):
    attribute(request, settings(**changes))
    return read_scores(request)


def test_the_tables_have_the_influence_of_examples_and_owners(done):
    request, manifest, _ = done
    scores = pl.read_parquet(request.out / "scores.parquet")
    owners = pl.read_parquet(request.out / "owner_influence.parquet")
    assert scores.columns == ["output_id", "example_id", "influence"]
    assert scores.height == 8 * 60
    assert owners.columns[:3] == ["output_id", "owner_id", "influence"]
    assert set(owners["owner_id"]) == {"owner-0", "owner-1", "owner-2", "owner-3", "unmatched-somebody"}
    total = scores.group_by("output_id").agg(pl.col("influence").sum()).sort("output_id")["influence"]
    by_owner = owners.group_by("output_id").agg(pl.col("influence").sum()).sort("output_id")["influence"]
    assert np.allclose(total, by_owner, rtol=1e-4, atol=1e-3)
    assert 0.9 < manifest["parameters_covered"]["share"] < 1
    assert "model.norm.weight" in manifest["parameters_covered"]["left_out"]

    # An output rests most on the owner of its words.
    best = owners.sort("influence", descending=True).group_by("output_id", maintain_order=True).first().sort("output_id")
    expected = [f"owner-{n % 5}" if n % 5 < 4 else "unmatched-somebody" for n in range(8)]
    assert sum(owner == right for owner, right in zip(best["owner_id"], expected, strict=True)) >= 6


def assert_close(scores, expected):
    # Scores are sums of large numbers of both signs and may nearly vanish: the bound is relative to their usual size.
    assert np.abs(scores - expected).max() <= 1e-5 * np.sqrt((expected**2).mean())


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": {"shard_examples": 7}},
        {"features": {"dense": 64, "token_rank": 4, "batch_size": 3}},
        {"cluster": {"workers": 2}},
    ],
    ids=["shard size", "batch size", "workers"],
)
def test_shards_batches_and_workers_change_no_score(done, tmp_path, changes):
    assert_close(scores_of(replace(done[0], out=tmp_path), **changes), done[2])


def test_many_outputs_are_computed_in_parts(done, tmp_path, monkeypatch):
    monkeypatch.setattr("provenance.inputs.frozen.PART_OUTPUTS", 3)
    other = replace(done[0], out=tmp_path)
    assert_close(scores_of(other), done[2])
    for name, columns in (
        ("owner_influence", ["influence"]),
        ("work/nights/*/*/influence/off-evidence", ["components"]),
    ):
        whole, parts = (pl.read_parquet(run.out / f"{name}.parquet").drop(columns) for run in (done[0], other))
        assert whole.equals(parts)


def test_words_alone_give_a_table(done, tmp_path):
    scores = scores_of(replace(done[0], out=tmp_path), influence={"method": "tfidf"}, corpus={"shard_examples": 20})
    assert scores.shape == (8, 60)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() > 0


def test_without_counterfactual_models_gradients_have_equal_weights_and_words_none(done, tmp_path):
    _, manifest, scores = done
    gradients = scores_of(replace(done[0], out=tmp_path), influence={"method": "factored", "sample": 24})
    assert np.allclose(scores, gradients, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradients).all()
    assert np.abs(gradients).max() > 0
    report = manifest["counterfactuals"]
    components, kinds = dict(report["components"]), ("head", "embedding", "inner")
    assert set(components) == {f"step-{n:04d}.safetensors/{kind}" for n in (6, 12, 18) for kind in kinds} | {"words"}
    assert components.pop("words") == 0
    assert list(components.values()) == pytest.approx([1 / 9] * 9)
    assert report["weights"] == "default"


def test_a_second_run_with_other_outputs_reuses_the_corpus(done, tmp_path):
    first, out = done[0], tmp_path / "out"
    shutil.copytree(first.out, out)
    times = {path.name: path.stat().st_mtime_ns for path in (out / "work/features").iterdir()}
    outputs_frame("2026-11-18").select("output_id", "content").write_parquet(tmp_path / "outputs.parquet")
    attribute(replace(first, outputs=tmp_path / "outputs.parquet", out=out))
    again = {path.name: path.stat().st_mtime_ns for path in (out / "work/features").iterdir()}
    assert times.items() <= again.items()
    assert len(again) == len(times) + 4, "one file for each checkpoint and one of words, of the new outputs"
    assert set(pl.read_parquet(out / "scores.parquet")["output_id"]) == {f"2026-11-18-{n:03d}" for n in range(8)}


def nan_weights(request):
    path = request.model / "step-0006.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, path)


def long_example(request):
    path = request.corpus / "examples.parquet"
    frame = pl.read_parquet(path).with_columns(example_id=pl.format("e{}", pl.int_range(pl.len())))
    long = pl.when(pl.int_range(pl.len()) == 17).then(pl.lit(b"y" * 301)).otherwise(pl.col("content"))
    frame.with_columns(content=long).write_parquet(path)


def no_content(request):
    path = request.corpus / "examples.parquet"
    pl.read_parquet(path).drop("content").write_parquet(path)


LONG = r"example_id 'e17': .*expected at most 300 bytes, the model's context, found 301 bytes. Split"
LOST = "outputs.parquet: expected outputs as a Parquet file, found no such file"


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (nan_weights, ModelError, r"step-0006.safetensors: tensor 'lm_head.weight': expected finite weights, found 1 NaN"),
        (long_example, ModelError, LONG),
        (no_content, ContractError, r"examples.parquet: column 'content': expected a required column"),
        (lambda r: r.outputs.unlink(), ContractError, LOST),
        (lambda r: shutil.rmtree(r.corpus), ContractError, r"corpus: expected a corpus folder with examples.parquet"),
        (lambda r: (r.model / "model.toml").unlink(), ModelError, r"model.toml: expected a model folder with model.toml"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_is_published(request_of, spoil, kind, message):
    spoil(request_of)
    with pytest.raises(kind, match=message):
        attribute(request_of)
    assert not (request_of.out / "manifest.json").exists()
    assert not (request_of.out / "scores.parquet").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error(request_of):
    with pytest.raises(SettingsError, match=r"--device: expected a CUDA device and CuPy, found none. Use --device cpu or auto"):
        attribute(request_of, local_settings(method="factored", device="cuda", workers=1))


def test_the_command_writes_and_shows(request_of, monkeypatch, shown):
    monkeypatch.setenv("PROVENANCE_INFLUENCE__SAMPLE", "24")
    words = ("attribute", *words_of(request_of), "--workers", "1", "--method", "tfidf")
    assert "Influence on 8 outputs, method tfidf" in shown(*words)
    assert shown(*words, "--json")["method"]["name"] == "tfidf"
    works = pl.read_parquet(request_of.out / "examples.parquet")
    scored = pl.read_parquet(request_of.out / "scores.parquet")["example_id"].unique()
    assert set(works["example_id"]) == set(scored)
    assert set(works["work_id"]) == set(pl.read_parquet(request_of.corpus / "examples.parquet")["work_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "method: expected one of fitted, factored, .*found 'magic'"),
        (["--out", "/dev/null/x"], "--out /dev/null/x: expected a folder to write to"),
    ],
)
def test_bad_arguments_are_named(request_of, refused, arguments, message):
    assert re.search(message, refused("attribute", *words_of(request_of), "--workers", "1", *arguments))
    assert not (request_of.out / "work").exists()


@pytest.mark.parametrize(("name", "message"), [("x", "found no such folder"), ("in", "found none. Train some for this very")])
def test_a_folder_without_counterfactual_models_of_the_model_is_named(request_of, tmp_path, name, message):
    request = replace(request_of, counterfactuals=tmp_path / name)
    expected = rf"--counterfactuals .*/{name}: expected counterfactual models of the model \w+, as .*, {message}"
    with pytest.raises(ContractError, match=expected):
        attribute(request)
    assert not (request.out / "manifest.json").exists()


def test_words_are_cut_by_modality_and_again_when_it_changes(request_of):
    as_text = scores_of(request_of, influence={"method": "tfidf"})
    examples = request_of.corpus / "examples.parquet"
    pl.read_parquet(examples).with_columns(modality=pl.lit("music")).write_parquet(examples)
    as_music = scores_of(request_of, influence={"method": "tfidf"})
    assert not np.allclose(as_text, as_music)
    assert (as_music > 0).mean() > 0.9, "examples and outputs share runs of events, also without a modality of outputs"


def test_of_a_model_on_frozen_weights_the_adapter_alone_is_followed(tmp_path):
    """Its works are longer than its context, and are cut."""
    save_base(tmp_path / "base")
    folder = tmp_path / "in"
    folder.mkdir()
    request = request_on(folder, adapted(tmp_path / "adapted"), out=tmp_path / "out")
    reword(request.model / "model.toml", "context = 64", 'context = 64\nlong = "cut"')
    manifest = attribute(request)
    scores = read_scores(request)
    assert np.isfinite(scores).all()
    assert scores.any(axis=1).all()
    assert 0 < manifest["parameters_covered"]["share"] <= 1
