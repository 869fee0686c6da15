"""Models that stand on frozen weights: adapters of peft, and parts of a model frozen by pattern."""

import copy
import json
import shutil
import threading

import numpy as np
import pytest
import torch
from bases import CARD, adapted, save_base
from safetensors.torch import load_file, save_file
from samples import corpus_frames, reword, train_counterfactuals

from provenance.core.errors import ModelError
from provenance.core.store import Store
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.frozen import close_models, fetch_model, freeze_model, open_model
from provenance.models.model import Example, all_losses, read_model
from provenance.models.stored import base_digest, stored_keys

EXAMPLES = [Example(b"a first example"), Example(b"another", b"asked: "), Example(b"x")]


@pytest.fixture
def folder(tmp_path):
    save_base(tmp_path / "base")
    return adapted(tmp_path / "adapted")


def last(folder, **options):
    model = read_model(folder, **options)
    return model.load(model.card.checkpoints[-1])


def losses(folder, module=None):
    return all_losses(read_model(folder).adapter(), module or last(folder), EXAMPLES, batch_size=2).tolist()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "target_modules": "all-linear"},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_on_its_base_has_the_losses_of_the_merged_model(options, tmp_path):
    save_base(tmp_path / "base")
    folder = adapted(tmp_path / "adapted", **options)
    module = last(folder)
    stored = load_file(folder / "step-0010.safetensors")
    assert {name for name, p in module.named_parameters() if p.requires_grad} == set(stored)
    merged = tmp_path / "merged"
    merged.mkdir()
    shutil.copyfile(tmp_path / "base" / "config.json", merged / "config.json")
    (merged / "model.toml").write_text(CARD.replace('[base]\nfolder = "../base"\n', ""))
    module = copy.deepcopy(module)  # merging changes the base
    for layer in module.modules():
        if hasattr(layer, "merge"):
            layer.merge()
    weights = {name.replace(".base_layer", ""): p for name, p in module.named_parameters() if "lora_" not in name}
    if "modules_to_save" in options:
        del weights["lm_head.original_module.weight"]
        weights["lm_head.weight"] = weights.pop("lm_head.modules_to_save.default.weight")
    for number in (0, 10):
        save_file({name: p.detach().contiguous() for name, p in weights.items()}, merged / f"step-{number:04d}.safetensors")
    assert losses(folder) == pytest.approx(losses(merged), rel=1e-5)
    fresh = read_model(folder).load(read_model(folder).card.checkpoints[0])
    assert losses(folder, fresh) != pytest.approx(losses(folder), rel=1e-3)


def test_a_base_in_shards_is_the_same(folder, tmp_path):
    whole = losses(folder)
    shutil.rmtree(tmp_path / "base")
    save_base(tmp_path / "base", max_shard_size="8KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    assert losses(folder) == whole
    (tmp_path / "base" / "notes.txt").write_text("no part of the base")
    names = {name for name in read_model(folder).files if name.startswith("base/")}
    assert names == {f"base/{file.name}" for file in (tmp_path / "base").glob("*") if file.name != "notes.txt"}


def test_a_base_lies_once_in_the_store_and_once_on_a_worker(folder, tmp_path):
    store, cache = Store(f"file://{tmp_path}/store", {}), tmp_path / "cache"
    models = [read_model(folder), *(read_model(adapted(tmp_path / f"other{seed}", seed)) for seed in (2, 3))]
    names = [freeze_model(store, model) for model in models]
    assert len(set(names)) == 3
    weights = [key for key in store.list("frozen/models") if key.endswith("/model.safetensors")]
    assert weights == [f"frozen/models/{base_digest(models[0].files)}/model.safetensors"]
    assert {key for name, model in zip(names, models, strict=True) for key in stored_keys(name, model.files)} == set(
        store.list("frozen/models")
    )
    for name, model in zip(names, models, strict=True):
        fetched = fetch_model(store, name, model.files, cache)
        assert fetched.files == model.files
        assert fetched.architecture() == model.architecture()
        module = fetched.load(fetched.card.checkpoints[-1])
        assert all_losses(fetched.adapter(), module, EXAMPLES, batch_size=2).tolist() == losses(model.folder)
    assert len(list(cache.rglob("model.safetensors"))) == 1


def test_threads_share_the_base_and_switching_models_loads_trained_tensors_alone(folder, tmp_path):
    store, cache = Store(f"file://{tmp_path}/store", {}), tmp_path / "cache"
    models = [read_model(folder), read_model(adapted(tmp_path / "other", 2))]
    names = [freeze_model(store, model) for model in models]

    def opened(which, checkpoint="step-0010.safetensors"):
        return open_model(store, names[which], models[which].files, checkpoint, cache=cache, device="cpu")[1]

    try:
        here, there = opened(0), []
        thread = threading.Thread(target=lambda: there.append(opened(1)))
        thread.start()
        thread.join()
        for (name, one), (_, two) in zip(here.named_parameters(), there[0].named_parameters(), strict=True):
            assert (one.data_ptr() == two.data_ptr()) == (not one.requires_grad), name
            assert one is not two
        assert losses(models[0].folder, here) == losses(models[0].folder)
        assert losses(models[1].folder, there[0]) == losses(models[1].folder)
        assert opened(1) is here
        assert losses(models[1].folder, here) == losses(models[1].folder)
        assert opened(0, "step-0000.safetensors") is here
    finally:
        close_models()


def test_only_the_trained_tensors_of_two_modules_are_their_own(folder):
    first, second = last(folder), last(folder)
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    assert losses(folder, second) == losses(folder)


def test_parts_are_frozen_by_pattern(folder, tmp_path):
    reword(folder / "model.toml", 'adapter = "CausalLM"', 'adapter = "CausalLM"\nfreeze = ["*.layers.0.*", "*lora_B*"]')
    for file in folder.glob("step-*.safetensors"):
        kept = {name: t for name, t in load_file(file).items() if ".layers.1." in name and "lora_A" in name}
        save_file(kept, file)
    module = last(folder)
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trainable == set(load_file(folder / "step-0010.safetensors"))
    assert len(trainable) == 3
    reword(folder / "model.toml", '"*lora_B*"', '"*lora_C*"')
    with pytest.raises(ModelError, match=r"key 'freeze': expected patterns of names of parameters, found '\*lora_C\*'"):
        last(folder)


def test_a_part_of_a_base_is_trained_without_an_adapter_and_the_rest_is_shared(folder, tmp_path):
    (folder / "adapter_config.json").unlink()
    reword(folder / "model.toml", 'adapter = "CausalLM"', 'adapter = "CausalLM"\nfreeze = ["model.*"]')
    base = load_file(tmp_path / "base" / "model.safetensors")
    for file in folder.glob("step-*.safetensors"):
        save_file({"lm_head.weight": torch.randn(257, 16)}, file)
    one, two = last(folder), last(folder)
    assert {name for name, parameter in one.named_parameters() if parameter.requires_grad} == {"lm_head.weight"}
    for name, parameter in one.named_parameters():
        assert (parameter.data_ptr() == two.get_parameter(name).data_ptr()) == (name != "lm_head.weight")
        if name != "lm_head.weight":
            assert torch.equal(parameter, base[name])


def changed(path, change):
    tensors = load_file(path)
    save_file({name: change(name, tensor) for name, tensor in tensors.items() if change(name, tensor) is not None}, path)


HEAD = "lm_head.weight"


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (
            lambda f, b: shutil.rmtree(b),
            r"key 'base.folder': expected a folder with the base's safetensors, found no such folder",
        ),
        (lambda f, b: (b / "config.json").unlink(), r"base/config.json: expected a transformers configuration, found no such"),
        (lambda f, b: (b / "model.safetensors").unlink(), r"expected model.safetensors, or .*, found no weights"),
        (
            lambda f, b: (b / "model.safetensors").rename(b / "pytorch_model.bin"),
            r"expected model.safetensors, or .*, found pytorch_model.bin. Save it with save_pretrained",
        ),
        (
            lambda f, b: torch.save({}, b / "model.safetensors"),
            r"model.safetensors: expected safetensors, found a pickle",
        ),
        (
            lambda f, b: changed(b / "model.safetensors", lambda name, t: None if name == HEAD else t),
            r"base: tensor 'lm_head.weight': expected a tensor of the base, found no such tensor",
        ),
        (
            lambda f, b: changed(b / "model.safetensors", lambda name, t: t[:9].contiguous() if name == HEAD else t),
            r"base: tensor 'lm_head.weight': expected shape \(257, 16\), found shape \(9, 16\)",
        ),
        (
            lambda f, b: changed(b / "model.safetensors", lambda name, t: t * torch.nan if name == HEAD else t),
            r"base: tensor 'lm_head.weight': expected finite weights, found 4112 NaN or infinite",
        ),
        (
            lambda f, b: reword(b / "config.json", '"num_hidden_layers": 2', '"num_hidden_layers": 1'),
            r"base: tensor 'model.layers.1.*': expected tensors of LlamaForCausalLM, found one that it has not",
        ),
        (
            lambda f, b: reword(b / "config.json", '"llama"', '"lama"'),
            r"config.json: expected the configuration of an architecture of transformers, found",
        ),
        (
            lambda f, b: changed(f / "step-0010.safetensors", lambda name, t: None if "1.mlp" in name else t),
            r"tensor 'model.layers.1.mlp.down_proj.lora_A.default.weight': expected shape \(2, 32\), found no such tensor",
        ),
        (
            lambda f, b: save_file(load_file(b / "model.safetensors"), f / "step-0010.safetensors"),
            r"tensor 'model.layers.0.self_attn.q_proj.lora_A.default.weight': expected shape .*, found no such tensor",
        ),
        (
            lambda f, b: save_file(
                load_file(f / "step-0010.safetensors") | {HEAD: torch.zeros(257, 16)}, f / "step-0010.safetensors"
            ),
            r"tensor 'lm_head.weight': expected trained tensors alone, found one of the base, which is frozen",
        ),
        (
            lambda f, b: reword(f / "model.toml", 'folder = "../base"', 'folder = "../base"\ndigest = "abc"'),
            r"key 'base.digest': expected the digest of .*, found abc. It was changed after the adapter was trained on it",
        ),
        (
            lambda f, b: reword(f / "model.toml", '[base]\nfolder = "../base"\n', ""),
            r"adapter_config.json: expected \[base\] folder in model.toml, the weights that it adapts",
        ),
        (
            lambda f, b: (b / "adapter_config.json").write_text("{}"),
            r"key 'base.folder': expected the folder of a whole model alone, found .*adapter_config.json",
        ),
        (
            lambda f, b: reword(f / "adapter_config.json", '"init_lora_weights": true', '"init_lora_weights": "pissa"'),
            r"init_lora_weights: expected an adapter that leaves the weights of its base as they are, found 'pissa'",
        ),
        (
            lambda f, b: reword(f / "adapter_config.json", '"peft_type": "LORA"', '"peft_type": "PREFIX"'),
            r"adapter_config.json: expected an adapter that peft can put into the base, found",
        ),
        (
            lambda f, b: reword(f / "model.toml", "context = 64", 'context = 64\ndtype = "float8"'),
            r"adapter_args: dtype: expected float32 or bfloat16, found 'float8'",
        ),
        (
            lambda f, b: reword(f / "model.toml", "context = 64", "context = 64\nbase_bits = 4"),
            r"adapter_args: base_bits: expected 8, for a model on a base with adapter_config.json, found 4",
        ),
        (
            lambda f, b: reword(f / "model.toml", 'adapter = "CausalLM"', 'adapter = "Denoiser"'),
            r"key 'adapter': expected an adapter that can be constructed, found .*unexpected keyword argument",
        ),
    ],
)
def test_what_is_wrong_with_a_base_is_named(breakage, message, folder, tmp_path):
    breakage(folder, tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        losses(folder)


def test_a_frozen_base_that_changed_on_a_worker_is_named(folder, tmp_path):
    store, cache = Store(f"file://{tmp_path}/store", {}), tmp_path / "cache"
    model = read_model(folder)
    name = freeze_model(store, model)
    base = cache / base_digest(model.files)
    store.fetch(f"frozen/models/{base.name}", {"config.json": model.files["base/config.json"]}, base)
    save_base(tmp_path / "base2")
    shutil.copyfile(tmp_path / "base2" / "model.safetensors", base / "model.safetensors")
    shutil.copyfile(tmp_path / "base2" / "generation_config.json", base / "generation_config.json")
    changed(base / "model.safetensors", lambda _, tensor: tensor * 2)
    with pytest.raises(ModelError, match=r"model.safetensors: expected the file that was frozen, found another. Remove"):
        fetch_model(store, name, model.files, cache)


@pytest.mark.parametrize(
    ("bits", "dtype", "tolerance"), [(None, "bfloat16", 5e-3), (8, "float32", 5e-3), (8, "bfloat16", 1e-2)]
)
def test_a_base_in_fewer_bits_gives_nearly_the_same_losses(bits, dtype, tolerance, folder):
    expected = losses(folder)
    stated = f'dtype = "{dtype}"' + (f"\nbase_bits = {bits}" if bits else "")
    reword(folder / "model.toml", "context = 64", f"context = 64\n{stated}")
    module = last(folder)
    assert {p.dtype for name, p in module.named_parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for name, p in module.named_parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    values = read_model(folder).adapter().loss(module, read_model(folder).adapter().collate([b"a"]))
    assert values.dtype == torch.float32
    assert losses(folder) == pytest.approx(expected, rel=tolerance)
    assert losses(folder) != expected
    assert json.loads(json.dumps(read_model(folder).adapter().arguments))["dtype" if dtype != "float32" else "base_bits"]


@pytest.mark.parametrize("stated", ["", "base_bits = 8", 'dtype = "bfloat16"'])
def test_features_are_the_same_where_activations_are_computed_again(stated, folder):
    reword(folder / "model.toml", "context = 64", f"context = 64\n{stated}")
    expected = gradients(folder)
    assert np.abs(expected).max() > 0
    reword(folder / "model.toml", "context = 64", "context = 64\ncheckpointing = true")
    assert not any(layer.training for layer in last(folder).modules())
    assert gradients(folder) == pytest.approx(expected, rel=1e-6)


def gradients(folder):
    projection = Projection(dense=64)
    rows = gradient_features(
        read_model(folder).adapter(), last(folder), EXAMPLES, projection=projection, checkpoint="last", batch_size=2
    )
    return rows.dense


def test_recomputed_blocks_keep_less_until_the_backward_pass(folder):
    def kept():
        sizes = []
        adapter, module = read_model(folder).adapter(), last(folder)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            adapter.loss(module, adapter.collate([b"x" * 60]))
        return sum(sizes)

    whole = kept()
    reword(folder / "model.toml", "context = 64", "context = 64\ncheckpointing = true")
    assert kept() < 0.6 * whole  # the logits are kept


def test_counterfactual_models_train_the_adapter_alone_on_the_same_base(tmp_path):
    save_base(tmp_path / "base")
    start = adapted(tmp_path / "start")
    (start / "model.toml").unlink()
    contents = corpus_frames()["examples"]["content"].to_list()
    recipe = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "keep": [0.5, 1.0]}
    adapter = CausalLM(start, base=tmp_path / "base", long="cut", **recipe)
    adapter.train(contents, seed=1, folder=tmp_path / "served")
    served = read_model(tmp_path / "served")
    assert served.base.folder == (tmp_path / "base").resolve()
    assert len(load_file(served.folder / served.card.checkpoints[-1].file)) == 12
    (tmp_path / "in").mkdir()
    folder = train_counterfactuals(tmp_path / "in", served.folder, 2)
    keys = [key for key in Store(f"file://{folder}", {}).list("frozen/models") if key.endswith("model.safetensors")]
    assert keys == [f"frozen/models/{base_digest(served.files)}/model.safetensors"]
