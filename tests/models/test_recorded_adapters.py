"""A recorded run of an adapter is read, attributed and trained again on its base."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from samples import request_on
from trainers import corpus, pad, tiny_llama, trainer

from provenance.core.errors import ModelError
from provenance.core.settings import Settings
from provenance.local.attribute import folder_night
from provenance.models.model import Example, all_losses, read_model
from provenance.models.recording import Recorder
from provenance.models.trainer import train_model
from provenance.validation.retrain import base_and_served, retrain
from tasks.where import opened

SETTINGS = Settings.model_validate({"cluster": {"workers": 1}})
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a recorded LoRA run, its works and contents, and the trained module."""
    folder, (works, contents) = tmp_path_factory.mktemp("lora"), corpus(60)
    tiny_llama(seed=3).save_pretrained(folder / "base")
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    torch.manual_seed(1)
    module = peft.get_peft_model(tiny_llama(seed=3), config)
    recorder = Recorder(folder / "model", works, contents, base=folder / "base")
    trainer(module, contents, folder, recorder, learning_rate=0.05, num_train_epochs=6).train()
    return folder / "model", works, contents, module


def test_its_losses_are_those_of_peft_and_its_retraining_starts_from_it(recorded, tmp_path):
    folder, _, contents, module = recorded
    model = read_model(folder)
    loaded = model.load(model.card.checkpoints[-1])
    examples = [Example(content) for content in contents]
    losses = all_losses(model.adapter(), loaded, examples, batch_size=8)
    with torch.no_grad():
        module.eval()
        theirs = [
            module(input_ids=(ids := torch.tensor([[256, *content]])), labels=ids).loss.item() * len(content)
            for content in contents
        ]
    assert losses == pytest.approx(np.array(theirs), rel=1e-5)
    import polars as pl

    train_model(model, pl.DataFrame({"content": contents}), seed=5, folder=tmp_path / "again", ends_only=True)
    again = read_model(tmp_path / "again", base=model.base)
    assert [each.step for each in again.card.checkpoints] == [0, 48]
    first = [load_file(each.folder / "step-0000.safetensors") for each in (model, again)]
    assert all(torch.equal(tensor, first[1][name]) for name, tensor in first[0].items())
    assert again.architecture() == model.architecture()
    assert again.card.training.decisive() == model.card.training.decisive()
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["r"] == 2


def test_its_audit_starts_from_the_adapter_and_the_base(recorded, tmp_path):
    folder = recorded[0]
    with opened(SETTINGS, ledger=False) as where:
        local, night = folder_night(where, request_on(tmp_path, folder, count=4))
        base, served = -base_and_served(local, night)
        again = retrain(local, night, np.ones((1, 60), dtype=bool), 5, "everything")[0]
        nothing = retrain(local, night, np.zeros((1, 60), dtype=bool), 5, "nothing")[0]
    assert np.array_equal(nothing, base)
    assert np.abs(again - served).mean() < 0.3 * np.abs(base - served).mean()


def test_the_tokens_around_a_sequence_are_found_in_the_batches(tmp_path):
    works, contents = corpus(12)

    def run(folder, rows, **options):
        made = trainer(tiny_llama(), contents, tmp_path, Recorder(folder, works, contents, **options))
        made.train_dataset = rows
        made.train()
        return read_model(folder)

    rows = [{"input_ids": [*content, 0]} for content in contents]
    model = run(tmp_path / "ended", rows)
    assert model.card.adapter_args == {"begin": False, "end": 0}
    assert model.adapter().collate([b"ab"]).ids.tolist() == [[97, 98, 0]]
    rows = [{"input_ids": [7, *content]} for content in contents]
    assert run(tmp_path / "begun", rows).card.adapter_args == {"begin": 7}
    rows[3]["input_ids"] = rows[3]["input_ids"][1:]
    with pytest.raises(ModelError, match=r"example \d+ of the training: expected the adapter's \d+ tokens, found"):
        run(tmp_path / "mixed", rows)


def test_a_prompt_has_no_loss_and_one_that_has_is_refused(tmp_path):
    works, contents = corpus(12)
    prompts = [f"say {number}: ".encode() for number in range(12)]
    rows = [{"input_ids": [256, *prompt, *content]} for prompt, content in zip(prompts, contents, strict=True)]

    def pad_and_mask(batch):
        made = pad(batch)
        for at, row in enumerate(batch):
            made["labels"][at, : bytes(row["input_ids"][1:]).index(b": ") + 3] = -100
        return made

    for name, collate in (("right", pad_and_mask), ("wrong", pad)):
        made = trainer(tiny_llama(), contents, tmp_path, Recorder(tmp_path / name, works, contents, prompts=prompts))
        made.train_dataset, made.data_collator = rows, collate
        if name == "right":
            made.train()
            continue
        with pytest.raises(
            ModelError, match=r"expected a loss on \d+ tokens, as the adapter has it, found \d+ in the trainer's"
        ):
            made.train()
