"""A GPU computes the same as a CPU. Run by `make gpu-check`; skipped without a GPU."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from samples import corpus_frames, request_on

from provenance.core.arrays import gpu_count, namespace_of, pass_namespace, to_numpy
from provenance.core.rows import encode, move
from provenance.features.checks import check_following
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.features.sampled import sampled_features
from provenance.features.statistics import gather
from provenance.influence.methods import fit, prepare, sampled_of, score
from provenance.models.model import examples_in, read_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no CUDA device and CuPy")]
PROJECTION = Projection(dense=256, token_rank=8)


def features_on(device, folder):
    model = read_model(folder)
    examples = examples_in(corpus_frames()["examples"])
    checkpoint = model.card.checkpoints[1]
    module = model.load(checkpoint, device=device)
    options = {"projection": PROJECTION, "checkpoint": checkpoint.file, "batch_size": 16}
    rows = gradient_features(model.adapter(), module, examples, **options)
    sampled = list(sampled_features(model.adapter(), module, examples, draws=1, **options))
    return rows, sampled


def test_features(tiny_model):
    cpu, cuda = features_on("cpu", tiny_model)[0], features_on("cuda", tiny_model)[0]
    assert cuda.dense.is_cuda
    cuda = move(cuda, np)
    assert np.allclose(cuda.dense, cpu.dense, rtol=1e-3, atol=1e-4 * np.abs(cpu.dense).max())
    part, other = cpu.sparse, cuda.sparse
    assert np.array_equal(other.token, part.token)
    assert np.array_equal(other.example, part.example)
    assert np.allclose(other.values, part.values, rtol=1e-3, atol=1e-4 * np.abs(part.values).max())


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_codes_of_a_file(tiny_model, library):
    rows = features_on("cpu", tiny_model)[0]
    moved = move(rows, namespace_of("cuda")) if library == "cupy" else features_on("cuda", tiny_model)[0]
    cpu, cuda = (encode(copy, dense_bits=8, sparse_bits=4) for copy in (rows, moved))
    for name, array in cpu.items():
        assert array.dtype == cuda[name].dtype
        assert np.abs(array.astype(np.int64) - cuda[name].astype(np.int64)).max(initial=0) <= 1, name


def test_the_same_passes_have_the_same_bits(tiny_model):
    first, second = (encode(features_on("cuda", tiny_model)[0], dense_bits=32, sparse_bits=32) for _ in range(2))
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name


def test_the_memory_of_passes_is_measured(tiny_model):
    model = read_model(tiny_model)
    checkpoint = model.card.checkpoints[1]
    module, examples = model.load(checkpoint, device="cuda"), examples_in(corpus_frames()["examples"])[:8]
    options = {"projection": PROJECTION, "checkpoint": checkpoint.file}
    following = check_following(model.adapter(), module, examples, xp=pass_namespace("cuda"), **options).following
    assert 0 < following.room < torch.cuda.mem_get_info()[1]
    rows = gradient_features(model.adapter(), module, examples, following=following, batch_size=2, **options)
    plain = gradient_features(model.adapter(), module, examples, batch_size=2, **options)
    assert np.allclose(to_numpy(rows.dense), to_numpy(plain.dense), rtol=1e-3, atol=1e-4 * float(plain.dense.abs().max()))


@pytest.mark.parametrize("cells", [2**28, 500])
def test_scores(tiny_model, monkeypatch, cells):
    monkeypatch.setattr("provenance.core.kernels.GPU_CELLS", cells)
    cupy = namespace_of("cuda")
    rows, sampled = features_on("cpu", tiny_model)
    fitted = fit(gather(rows), rows, sampled_of(sampled, rows.examples))
    cpu = score(prepare(fitted, rows, np), rows)
    cuda = score(prepare(fitted, rows, cupy), move(rows, cupy))
    assert len(cpu) == len(cuda) == 3
    for expected, component in zip(cpu, cuda, strict=True):
        assert np.allclose(expected, to_numpy(component), rtol=1e-3, atol=1e-3)


def test_a_night_on_a_cuda_cluster(tmp_path, tiny_model, doors):
    """The same command on a LocalCUDACluster and on the CPU."""
    from provenance.local.attribute import attribute
    from tasks.where import local_settings

    base, tables = request_on(tmp_path, tiny_model), {}
    for device in ("cpu", "cuda"):
        request = replace(base, out=tmp_path / device)
        attribute(doors(local_settings(method="factored", device=device, workers=1), ledger=False), request)
        tables[device] = pl.read_parquet(request.out / "scores.parquet").sort("output_id", "example_id")
    cpu, cuda = (tables[device]["influence"].to_numpy() for device in ("cpu", "cuda"))
    assert np.corrcoef(cpu, cuda)[0, 1] > 0.999
