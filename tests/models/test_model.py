"""Model folders are read and checked."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import reword
from transformers import GPT2Config

from provenance.core.errors import ModelError
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.model import keep_ends, read_model
from provenance.models.training_manifest import state_manifest


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "tiny")


def middle(folder):
    return sorted(folder.glob("step-*.safetensors"))[3]


def load_checkpoints(folder):
    model = read_model(folder)
    for checkpoint in model.card.checkpoints:
        model.load(checkpoint)


def test_a_good_folder_is_read(tiny_model):
    model = read_model(tiny_model)
    assert model.card.model_id == "tiny"
    assert [c.step for c in model.card.checkpoints] == [0, 3, 6, 12, 18, 30]
    assert set(model.files) == {"config.json", "model.toml", *(c.file for c in model.card.checkpoints)}
    load_checkpoints(tiny_model)


def test_keep_ends_keeps_the_first_and_the_last_checkpoint(folder):
    before = read_model(folder)
    (folder / "model.toml").write_text((folder / "model.toml").read_text() + "# the end\n")
    keep_ends(folder)
    kept = read_model(folder)
    assert kept.card.checkpoints == (before.card.checkpoints[0], before.card.checkpoints[-1])
    assert kept.card.model_copy(update={"checkpoints": before.card.checkpoints}) == before.card
    assert kept.architecture() == before.architecture()
    assert {name for name in before.files if name not in kept.files} == {c.file for c in before.card.checkpoints[1:-1]}
    text = (folder / "model.toml").read_text()
    keep_ends(folder)
    assert (folder / "model.toml").read_text() == text


def test_a_manifest_is_named_beside_a_command(folder):
    reword(folder / "model.toml", "[training]\n", '[training]\ncommand = ["train", "{works}", "{seed}", "{out}"]\n')
    state_manifest(folder, b"{}")
    model = read_model(folder)
    assert model.card.training.command == ("train", "{works}", "{seed}", "{out}")
    assert model.manifest == folder / "manifest.json"


HEAD = "lm_head.weight"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model_id = "tiny"\n', "", r"model.toml: key 'model_id': expected a value, found no such key"),
        ('"tiny"', '"tiny"\nmodle = 1', r"model.toml: key 'modle': expected Extra inputs are not permitted"),
        ('"CausalLM"', '"CausalML"', r"key 'adapter': expected package.module:Class or one of Causal.*Did you mean 'CausalLM'"),
        ('"CausalLM"', '"no.such.module:Class"', r"'adapter': expected a module to import, found no.such.*PYTHONPATH"),
        ("context", "contxt", r"an adapter that can be constructed, found .*unexpected keyword argument 'contxt'"),
        ("step = 12", "step = 20", r"'step-0018.safetensors': expected training order: beyond step 20, .*found step 18"),
    ],
)
def test_a_broken_card_names_key_expected_and_found(folder, old, new, message):
    reword(folder / "model.toml", old, new)
    with pytest.raises(ModelError, match=message):
        load_checkpoints(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {HEAD: t[HEAD].index_fill(0, torch.tensor([3]), torch.nan)}, r"'lm_head.weight': .* weights, found 16 NaN"),
        (lambda t: {HEAD: t[HEAD][:, :8].contiguous()}, r"'lm_head.weight': expected shape .257, 16., found shape .257, 8."),
        (lambda _: {HEAD: None}, r"tensor 'lm_head.weight': expected shape \(257, 16\), found no such tensor"),
        (lambda _: {"extra": torch.zeros(2)}, r"tensor 'extra': expected a tensor of the adapter's module, found none"),
    ],
)
def test_a_broken_tensor_is_named(folder, change, message):
    tensors = load_file(middle(folder))
    tensors = {name: tensor for name, tensor in {**tensors, **change(tensors)}.items() if tensor is not None}
    save_file(tensors, middle(folder))
    with pytest.raises(ModelError, match=message):
        load_checkpoints(folder)


def pickled(folder):
    torch.save({"weight": torch.zeros(2)}, middle(folder))


def truncated(folder):
    data = middle(folder).read_bytes()
    middle(folder).write_bytes(data[: len(data) // 2])


def adapter_without_methods(folder):
    text = (folder / "model.toml").read_text().replace('"CausalLM"', '"contextlib:nullcontext"')
    (folder / "model.toml").write_text(re.sub(r"\[adapter_args\]\n(.+\n)+", "", text))


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (shutil.rmtree, r"model.toml: expected a model folder with model.toml, found no such file"),
        (lambda f: middle(f).unlink(), r"model.toml: checkpoints: expected a file step-0012.safetensors, found no such file"),
        (lambda f: (f / "model.toml").write_text("model_id = "), r"model.toml: expected TOML, found"),
        (lambda f: (f / "config.json").unlink(), r"config.json: expected a transformers configuration, found no such file"),
        (pickled, r"step-0012.safetensors: expected safetensors, found a pickle.*Convert it"),
        (truncated, r"step-0012.safetensors: expected a whole safetensors file, found"),
        (adapter_without_methods, r"an adapter with the methods module, collate and loss, found contextlib:nullcontext"),
    ],
)
def test_a_broken_file_is_named(folder, breakage, message):
    breakage(folder)
    with pytest.raises(ModelError, match=message):
        load_checkpoints(folder)


def test_tied_weights_are_stored_once_and_loaded_for_both_layers(tmp_path):
    folder = tmp_path / "tied"
    folder.mkdir()
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=64, tie_word_embeddings=True).save_pretrained(folder)
    CausalLM(folder, epochs=1, batch_size=2, context=60).train([b"one", b"two"], seed=0, folder=folder)
    stored = load_file(folder / "step-0001.safetensors")
    assert "lm_head.weight" not in stored
    module = read_model(folder).load(read_model(folder).card.checkpoints[-1])
    assert module.lm_head.weight is module.transformer.wte.weight
    assert torch.equal(module.lm_head.weight, stored["transformer.wte.weight"])
