import ast
import re

import array_api_strict
import numpy as np
import pytest
import torch

from provenance.core.arrays import from_torch, namespace, namespace_of, positive_shares, to_numpy
from provenance.core.errors import SettingsError
from provenance.core.settings import CHECKOUT


def test_an_array_names_its_own_library_and_torch_tensors_are_viewed_and_not_copied():
    assert namespace(np.zeros(2)) is np
    assert namespace(array_api_strict.zeros(2)) is array_api_strict
    tensor = torch.arange(3.0)
    view = from_torch(tensor)
    tensor[0] = 7
    assert view[0] == 7
    assert isinstance(to_numpy(view), np.ndarray)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error_and_never_a_fallback():
    with pytest.raises(SettingsError, match="device: expected a CUDA device"):
        namespace_of("cuda")


def test_cupy_has_all_that_the_code_asks_of_a_namespace():
    """Checks only names, without a GPU, in the namespace of CuPy's arrays."""
    cupy = pytest.importorskip("array_api_compat.cupy")
    names = set()
    for folder in ("provenance", "tasks"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            names |= set(re.findall(r"\bxp\.([a-z_0-9]+(?:\.[a-z_]+)?)", file.read_text()))
    assert len(names) > 40
    missing = []
    for name in sorted(names - {"__name__"}):
        value = cupy
        for part in name.split("."):
            value = getattr(value, part, None)
        if value is None:
            missing.append(name)
    assert not missing


# Code that passes run through on a GPU, where torch makes an array on the host unless it is told the device.
OF_PASSES = {
    "core/arrays.py": set(),
    "core/kernels.py": {"sparse_products", "_products", "add_by_group"},  # CuPy's; of the last, what follows its kernel
    "core/rows.py": {"move", "decode", "_decode_blocks"},  # from the host
    "features/tap.py": set(),
    "features/layers.py": set(),
    "features/gradients.py": set(),
    "features/statistics.py": set(),
}
MAKERS = {"zeros", "ones", "full", "empty", "arange", "eye", "asarray", "linspace"}


@pytest.mark.parametrize("file", OF_PASSES)
def test_arrays_of_passes_are_made_on_the_device(file):
    tree = ast.parse((CHECKOUT / "provenance" / file).read_text())
    without = set()
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for call in [node for node in ast.walk(function) if isinstance(node, ast.Call)]:
            made = isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS and ast.unparse(call.func.value) == "xp"
            if made and "device" not in {keyword.arg for keyword in call.keywords}:
                without.add(function.name)
    assert without <= OF_PASSES[file]


def test_shares_are_of_what_is_positive_and_losses_are_not_carried():
    assert positive_shares(np.array([[1.0, -1.0], [3.0, -2.0], [-2.0, 0.0]])).tolist() == [[0.25, 0.0], [0.75, 0.0], [0.0, 0.0]]
