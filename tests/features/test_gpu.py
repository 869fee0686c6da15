"""A GPU computes the same as a CPU. Run by `make gpu-check`; skipped without a GPU."""

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
from provenance.features.statistics import gather
from provenance.influence.methods import Sampled, fit, prepare, score
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
    assert cuda.dense.__class__.__module__.startswith("cupy")
    cuda = move(cuda, np)
    assert np.allclose(cuda.dense, cpu.dense, rtol=1e-3, atol=1e-4 * np.abs(cpu.dense).max())
    part, other = cpu.sparse, cuda.sparse
    assert np.array_equal(other.token, part.token)
    assert np.array_equal(other.example, part.example)
    assert np.allclose(other.values, part.values, rtol=1e-3, atol=1e-4 * np.abs(part.values).max())


def test_codes_of_a_file(tiny_model):
    cupy = namespace_of("cuda")
    rows = features_on("cpu", tiny_model)[0]
    cpu, cuda = (encode(copy, dense_bits=8, sparse_bits=4) for copy in (rows, move(rows, cupy)))
    for name, array in cpu.items():
        assert np.abs(array.astype(np.int64) - cuda[name].astype(np.int64)).max(initial=0) <= 1, name


@pytest.mark.parametrize("cells", [2**28, 500])
def test_scores(tiny_model, monkeypatch, cells):
    monkeypatch.setattr("provenance.core.kernels.GPU_CELLS", cells)
    cupy = namespace_of("cuda")
    rows, sampled = features_on("cpu", tiny_model)
    first = sampled[0]
    sample = Sampled(first.data, first.sampled, np.asarray(first.terms.T @ first.terms, dtype=np.float64), len(first.terms))
    fitted = fit("curved", gather(rows), sample)
    cpu = score(prepare(fitted, first.data, np), rows)
    cuda = score(prepare(fitted, first.data, cupy), move(rows, cupy))
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
