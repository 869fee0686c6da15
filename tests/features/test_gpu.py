"""What a GPU computes is what a CPU computes. Run by `make gpu-check`; skipped, never passed, where there is no GPU."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from samples import corpus_frames, request_on

from provenance.core.arrays import gpu_count, namespace_of, to_numpy
from provenance.core.rows import encode, move
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.features.sampled import sampled_features
from provenance.influence.methods import Sampled, fit, prepare, score
from provenance.influence.statistics import gather
from provenance.models.model import read_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no CUDA device and CuPy")]
PROJECTION = Projection(dense=256, token_rank=8)


def features_on(device, folder):
    model = read_model(folder)
    contents = corpus_frames()["examples"]["content"].to_list()
    checkpoint = model.card.checkpoints[1]
    module = model.load(checkpoint, device=device)
    where = {"projection": PROJECTION, "checkpoint": checkpoint.file, "batch_size": 16}
    rows = gradient_features(model.adapter(), module, contents, **where)
    sampled = list(sampled_features(model.adapter(), module, contents, draws=1, **where))
    return rows, sampled


def close(one, two):
    one, two = move(one, np), move(two, np)
    assert np.allclose(one.dense, two.dense, rtol=1e-3, atol=1e-4 * np.abs(two.dense).max())
    part, other = two.sparse, one.sparse
    assert np.array_equal(other.token, part.token)
    assert np.array_equal(other.example, part.example)
    assert np.allclose(other.values, part.values, rtol=1e-3, atol=1e-4 * np.abs(part.values).max())


def test_features(tiny_model):
    here, there = features_on("cpu", tiny_model)[0], features_on("cuda", tiny_model)[0]
    assert there.dense.__class__.__module__.startswith("cupy")
    close(there, here)


def test_codes_of_a_file(tiny_model):
    cupy = namespace_of("cuda")
    rows = features_on("cpu", tiny_model)[0]
    here, there = (encode(each, dense_bits=8, sparse_bits=4) for each in (rows, move(rows, cupy)))
    for name, array in here.items():
        assert np.abs(array.astype(np.int64) - there[name].astype(np.int64)).max(initial=0) <= 1, name


@pytest.mark.parametrize("cells", [2**28, 500])
def test_scores(tiny_model, monkeypatch, cells):
    monkeypatch.setattr("provenance.core.kernels.GPU_CELLS", cells)
    cupy = namespace_of("cuda")
    rows, sampled = features_on("cpu", tiny_model)
    first = sampled[0]
    found = Sampled(first.data, first.sampled, np.asarray(first.terms.T @ first.terms, dtype=np.float64), len(first.terms))
    fitted = fit("curved", gather(rows), found)
    here = score(prepare(fitted, first.data, np), rows)
    there = score(prepare(fitted, first.data, cupy), move(rows, cupy))
    assert len(here) == len(there) == 3
    for one, two in zip(here, there, strict=True):
        assert np.allclose(one, to_numpy(two), rtol=1e-3, atol=1e-3)


def test_a_night_on_a_cuda_cluster(tmp_path, tiny_model):
    """The same command on a LocalCUDACluster and on the CPU."""
    from provenance.local.attribute import attribute, local_settings

    whole, tables = request_on(tmp_path, tiny_model), {}
    for device in ("cpu", "cuda"):
        request = replace(whole, out=tmp_path / device)
        attribute(request, local_settings(method="factored", device=device, workers=1))
        tables[device] = pl.read_parquet(request.out / "scores.parquet").sort("output_id", "example_id")
    one, two = (tables[device]["influence"].to_numpy() for device in ("cpu", "cuda"))
    assert np.corrcoef(one, two)[0, 1] > 0.999
