import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from provenance.core.errors import ModelError
from provenance.features.adapters.causal_lm import CausalLM
from provenance.features.model import keep_ends, read_model, state_manifest


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "tiny")


def card(folder, old, new):
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def middle(folder):
    return sorted(folder.glob("step-*.safetensors"))[3]


def load_all(folder):
    model = read_model(folder)
    for checkpoint in model.card.checkpoints:
        model.load(checkpoint)


def test_a_good_folder_is_read(tiny_model):
    model = read_model(tiny_model)
    assert model.card.model_id == "tiny"
    assert [c.step for c in model.card.checkpoints] == [0, 3, 6, 12, 18, 30]
    assert set(model.files) == {"config.json", "model.toml", *(c.file for c in model.card.checkpoints)}
    load_all(tiny_model)


def test_training_makes_the_model_better(tiny_model):
    model, adapter = read_model(tiny_model), read_model(tiny_model).adapter()
    batch = adapter.collate([b"grape stone grape stone"])
    with torch.no_grad():
        losses = [adapter.loss(model.load(c), batch).item() for c in model.card.checkpoints]
    assert losses[-1] < losses[0]


def test_of_all_checkpoints_the_first_and_the_last_can_be_kept(folder):
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


def test_what_a_run_was_trained_on_is_stated_beside_a_command(folder):
    card(folder, "[training]\n", '[training]\ncommand = ["train", "{works}", "{seed}", "{out}"]\n')
    state_manifest(folder, b"{}")
    found = read_model(folder)
    assert found.card.training.command == ("train", "{works}", "{seed}", "{out}")
    assert found.manifest == folder / "manifest.json"


def missing_file(folder):
    middle(folder).unlink()


def not_toml(folder):
    (folder / "model.toml").write_text("model_id = ")


def no_model_id(folder):
    card(folder, 'model_id = "tiny"\n', "")


def unknown_key(folder):
    card(folder, 'model_id = "tiny"', 'model_id = "tiny"\nmodle = 1')


def pickled(folder):
    torch.save({"weight": torch.zeros(2)}, middle(folder))


def truncated(folder):
    data = middle(folder).read_bytes()
    middle(folder).write_bytes(data[: len(data) // 2])


def nan(folder):
    tensors = load_file(middle(folder))
    tensors["lm_head.weight"][3, 4] = float("nan")
    save_file(tensors, middle(folder))


def other_shape(folder):
    tensors = load_file(middle(folder))
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:, :8].contiguous()
    save_file(tensors, middle(folder))


def tensor_missing(folder):
    tensors = load_file(middle(folder))
    del tensors["lm_head.weight"]
    save_file(tensors, middle(folder))


def tensor_left_over(folder):
    save_file({**load_file(middle(folder)), "extra": torch.zeros(2)}, middle(folder))


def unknown_adapter(folder):
    card(folder, '"CausalLM"', '"CausalML"')


def adapter_not_importable(folder):
    card(folder, '"CausalLM"', '"no.such.module:Class"')


def unknown_argument(folder):
    card(folder, "context = 300", "contxt = 300")


def adapter_without_methods(folder):
    text = (folder / "model.toml").read_text().replace('"CausalLM"', '"contextlib:nullcontext"')
    lines = [line for line in text.splitlines() if line.partition(" =")[0] not in CausalLM.__init__.__kwdefaults__]
    (folder / "model.toml").write_text("\n".join(lines))


def out_of_order(folder):
    card(folder, "step = 12", "step = 20")


def no_config(folder):
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (missing_file, r"model.toml: checkpoints: expected a file step-0012.safetensors, found no such file"),
        (not_toml, r"model.toml: expected TOML, found"),
        (no_model_id, r"model.toml: key 'model_id': expected a value, found no such key"),
        (unknown_key, r"model.toml: key 'modle': expected Extra inputs are not permitted"),
        (pickled, r"step-0012.safetensors: expected safetensors, found a pickle.*Convert it"),
        (truncated, r"step-0012.safetensors: expected a whole safetensors file, found"),
        (nan, r"step-0012.safetensors: tensor 'lm_head.weight': expected finite weights, found 1 NaN"),
        (other_shape, r"tensor 'lm_head.weight': expected shape \(257, 16\), found shape \(257, 8\)"),
        (tensor_missing, r"tensor 'lm_head.weight': expected shape \(257, 16\), found no such tensor"),
        (tensor_left_over, r"tensor 'extra': expected a tensor of the adapter's module, found none"),
        (unknown_adapter, r"key 'adapter': expected package.module:Class or one of CausalLM, .*Did you mean 'CausalLM'"),
        (adapter_not_importable, r"key 'adapter': expected a module to import, found no.such.module:Class.*PYTHONPATH"),
        (unknown_argument, r"an adapter that can be constructed, found .*unexpected keyword argument 'contxt'"),
        (
            adapter_without_methods,
            r"expected an adapter with the methods module, collate and loss, found contextlib:nullcontext",
        ),
        (out_of_order, r"checkpoint 'step-0018.safetensors': expected training order: beyond step 20, .*found step 18"),
        (no_config, r"config.json: expected a transformers configuration, found no such file"),
    ],
)
def test_a_broken_folder_names_file_key_expected_and_found(folder, breakage, message):
    breakage(folder)
    with pytest.raises(ModelError, match=message):
        load_all(folder)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(ModelError, match=r"model.toml: expected a model folder with model.toml, found no such file"):
        read_model(tmp_path)


def test_too_long_a_content_is_refused_and_not_cut(tiny_model):
    adapter = read_model(tiny_model).adapter()
    with pytest.raises(ModelError, match=r"example 1 of the batch: .*at most 300 bytes, .*found 301 bytes"):
        adapter.collate([b"x", b"y" * 301])


def test_tied_weights_are_stored_once_and_loaded_whole(tmp_path):
    from transformers import GPT2Config

    from provenance.features.adapters.causal_lm import CausalLM

    folder = tmp_path / "tied"
    folder.mkdir()
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=64, tie_word_embeddings=True).save_pretrained(folder)
    CausalLM(folder, epochs=1, batch_size=2, context=60).train([b"one", b"two"], seed=0, folder=folder)
    stored = load_file(folder / "step-0001.safetensors")
    assert "lm_head.weight" not in stored
    module = read_model(folder).load(read_model(folder).card.checkpoints[-1])
    assert module.lm_head.weight is module.transformer.wte.weight
    assert torch.equal(module.lm_head.weight, stored["transformer.wte.weight"])
