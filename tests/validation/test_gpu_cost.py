"""What `make gpu-check` measures, measured on a CPU with tiny sizes: every part runs, and the two sides agree."""

import json
from dataclasses import replace

import pytest
from transformers import GPT2Config

from provenance.core.arrays import gpu_count
from provenance.validation import gpu_cost
from provenance.validation.gpu_cost import Case, Sizes, llama, measure

GPT2 = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
                  attn_pdrop=0.0, bos_token_id=None, eos_token_id=None)  # fmt: skip
TINY = Sizes(
    cases={"gpt2": Case(GPT2, 10, 20, 20), "small": Case(llama(257, 16, 24, 1, (2, 1), tied=False), 24, 10, 30)},
    numbers=40, landmarks=20, models=16, owners=30, outputs=6, files=3, rows=20, rounds=1, batch_size=4,
)  # fmt: skip
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not gpu_count(), reason="no GPU")])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_part_is_measured_and_both_sides_agree(device):
    figures = measure(device, TINY)
    assert not [part for part in figures.values() if "error" in part or "not_run" in part]
    assert json.loads(json.dumps(figures)) == figures
    for precision in ("float32", "bfloat16"):
        passes = figures[f"passes: small, {precision}"]
        assert passes["ratio"] == passes["features"] / passes["bare"] > 0
        assert passes["batches_bare"] == 6
    assert figures["precision"]["spearman_of_products"] > 0.95
    assert figures["curvature"]["largest_deviation"] < 1e-3
    assert figures["estimate"]["largest_deviation"] < 1e-6
    assert figures["copies"]["scored_gain"] > 0


def test_a_part_that_fails_is_named_and_no_part_begins_after_the_time(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such thing")

    for part in ("_passes", "_precision", "_copies"):
        monkeypatch.setattr(gpu_cost, part, lambda *_: {})
    monkeypatch.setattr(gpu_cost, "_curvature", fails)
    monkeypatch.setattr(gpu_cost, "_estimate", lambda *_: {"fit": 1.0})
    figures = measure("cpu", replace(TINY, cases=dict(list(TINY.cases.items())[1:])))
    assert figures["curvature"] == {"error": "RuntimeError: no such thing"}
    assert figures["estimate"] == {"fit": 1.0}
    assert measure("cpu", TINY, seconds=-1)["estimate"] == {"not_run": "-1 seconds were over"}
