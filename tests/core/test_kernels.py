"""The CUDA kernels, compiled for GPUs by NVRTC and run as C++, equal the plain operations that define them."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig

import array_api_strict
import numpy as np
import pytest

from provenance.core.arrays import to_numpy
from provenance.core.kernels import SOURCE, _by_group, add_by_group, sparse_products

R = np.random.default_rng(0)
NAMES = ("token_products", "add_by_group")
# One thread after another: what a kernel may not rely on is any order among them.
SHIM = r"""
struct Place { unsigned x; };
static thread_local Place blockIdx, blockDim, threadIdx;
#define __global__
#define __shared__ static
"""
LAUNCH = r"""
extern "C" void launch_%(name)s(unsigned blocks, unsigned threads, %(parameters)s) {
    blockDim.x = threads;
    for (unsigned b = blocks; b-- > 0;)
        for (unsigned t = 0; t < threads; ++t) { blockIdx.x = b; threadIdx.x = t; %(name)s(%(arguments)s); }
}
"""


def signature(name):
    """The parameters of a kernel in its source."""
    inside = SOURCE.split(f"void {name}(")[1].split(")")[0]
    parameters = [part.strip() for part in inside.replace("\n", " ").split(",")]
    return parameters, [part.replace("*", " ").split()[-1] for part in parameters]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """The kernels as functions of a shared library."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    command = [compiler] if compiler else [sys.executable, "-m", "ziglang", "c++"]
    folder = tmp_path_factory.mktemp("kernels")
    code = SHIM + SOURCE
    for name in NAMES:
        parameters, arguments = signature(name)
        code += LAUNCH % {"name": name, "parameters": ", ".join(parameters), "arguments": ", ".join(arguments)}
    (folder / "kernels.cpp").write_text(code)
    library = folder / f"kernels{sysconfig.get_config_var('SHLIB_SUFFIX')}"
    subprocess.run([*command, "-shared", "-fPIC", "-O1", "-o", library, folder / "kernels.cpp"], check=True, cwd=folder)
    return ctypes.CDLL(str(library))


def run(library, name, threads_needed, *arguments):
    plain = [a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else ctypes.c_longlong(a) for a in arguments]
    threads = 32  # small blocks, so that several are needed and the last is not full
    getattr(library, f"launch_{name}")(ctypes.c_uint(-(-threads_needed // threads)), ctypes.c_uint(threads), *plain)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_the_source_compiles_for_gpus(architecture):
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(SOURCE, "kernels.cu")
    binary, _ = program.compile((f"-arch={architecture}", "-std=c++17"))
    for name in NAMES:
        assert name.encode() in binary


def grouped_on_cpu(library, values, group, groups):
    order, starts = _by_group(group, groups)
    sums = np.full((groups, values.shape[1]), np.nan, dtype=np.float32)
    run(library, "add_by_group", sums.size, values, order, starts, sums, groups, values.shape[1])
    return sums


@pytest.mark.parametrize("groups", [1, 4, 18])
def test_adding_by_group(on_cpu, groups):
    values, group = R.standard_normal((60, 7)).astype(np.float32), R.integers(0, groups, 60) // 2 * 2  # some are empty
    expected = np.stack([values[group == number].sum(axis=0) for number in range(groups)])
    strict = add_by_group(array_api_strict.asarray(values), array_api_strict.asarray(group), groups)
    for sums in (grouped_on_cpu(on_cpu, values, group, groups), add_by_group(values, group, groups), to_numpy(strict)):
        assert np.allclose(sums, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "examples", "columns", "queries", "tokens"), [(1, 1, 1, 1, 1), (50, 9, 4, 5, 6), (200, 3, 7, 33, 20)]
)
def test_sparse_products(on_cpu, vectors, examples, columns, queries, tokens):
    values = R.standard_normal((vectors, columns)).astype(np.float32)
    table = R.standard_normal((tokens, columns, queries)).astype(np.float32)
    example, place = R.integers(0, examples, vectors), np.sort(R.integers(0, tokens, vectors))
    products = np.full((vectors, queries), np.nan, dtype=np.float32)
    run(on_cpu, "token_products", products.size, values, place, table, products, vectors, columns, queries)
    sums = grouped_on_cpu(on_cpu, products, example, examples)
    expected = np.zeros((examples, queries))
    np.add.at(expected, example, np.einsum("rd,rdq->rq", values.astype(float), table[place].astype(float)))
    assert np.allclose(sums, expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(sparse_products(values, example, place, table, examples), expected, rtol=1e-5, atol=1e-5)
    strict = (array_api_strict.asarray(a) for a in (values, example, place, table))
    assert np.allclose(to_numpy(sparse_products(*strict, examples)), expected, rtol=1e-5, atol=1e-5)
