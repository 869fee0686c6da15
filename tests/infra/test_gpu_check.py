"""`make gpu-check` without a GPU reports that, and never passes; with one it says what failed or was not measured."""

import json
from types import SimpleNamespace

import pytest

from infra import gpu_check
from provenance.core.arrays import gpu_count
from provenance.core.settings import CHECKOUT


@pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU")
def test_without_a_gpu_nothing_is_run_and_that_is_said(capsys, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing may run"))
    assert gpu_check.main() == gpu_check.NOTHING_RUN
    assert "Nothing was run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failed", "figures", "code"),
    [
        (0, {"curvature": {"fit": 1.0}}, 0),
        (1, {"curvature": {"fit": 1.0}}, 1),
        (0, {"curvature": {"error": "OutOfMemoryError: too much"}}, 1),
        (0, {"copies": {"not_run": "400 seconds were over"}}, 1),
    ],
)
def test_figures_are_printed_as_json_and_what_is_missing_is_no_success(capsys, monkeypatch, failed, figures, code):
    asked = []
    monkeypatch.setattr(gpu_check, "_missing", lambda: "")
    monkeypatch.setattr("subprocess.run", lambda command, **_: asked.extend(command) or SimpleNamespace(returncode=failed))
    monkeypatch.setattr("provenance.validation.gpu_cost.measure", lambda device, seconds: figures)
    assert gpu_check.main() == code
    assert json.loads(capsys.readouterr().out) == figures
    assert all((CHECKOUT / test).exists() for test in gpu_check.TESTS)
    assert set(gpu_check.TESTS) <= set(asked)
    marked = {
        str(file.relative_to(CHECKOUT)) for file in (CHECKOUT / "tests").rglob("*.py") if "gpu_count()" in file.read_text()
    }
    assert marked - {"tests/core/test_arrays.py", "tests/infra/test_gpu_check.py"} == set(gpu_check.TESTS)
