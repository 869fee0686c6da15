"""`make gpu-check` without a GPU reports that, and never passes."""

import pytest

from infra import gpu_check
from provenance.core.arrays import gpu_count


@pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU")
def test_without_a_gpu_nothing_is_run_and_that_is_said(capsys, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing may run"))
    assert gpu_check.main() == gpu_check.NOTHING_RUN
    assert "Nothing was run" in capsys.readouterr().out
