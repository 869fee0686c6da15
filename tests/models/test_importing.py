"""Training runs by `transformers.Trainer` and `peft`, made without our code, become model folders with the same losses."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from runs import BEGIN, END, TEXTS, lora, make_base, make_tokenizer, train
from safetensors.torch import load_file, save_file
from samples import lay_corpus_out, table

from provenance.core.errors import ContractError, InputError, ModelError
from provenance.models.adapters.training_loop import rates_of
from provenance.models.importing.clock import factors
from provenance.models.importing.facts import read_arguments, read_card, state_facts
from provenance.models.importing.framing import _both_ways
from provenance.models.importing.importing import Request, import_run
from provenance.models.model import Example, all_losses, read_model

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")
CHECKPOINTS = [f"checkpoint-{step}" for step in (5, 10, 15, 20)]
SOME = [Example(text.encode()) for text in TEXTS[:6]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def full(base, tmp_path_factory):
    """A full fine-tune, with its model card."""
    return train(base, tmp_path_factory.mktemp("runs") / "full", card=True, weight_decay=0.02)


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    """A LoRA fine-tune."""
    return train(base, tmp_path_factory.mktemp("runs") / "lora", adapter=lora())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    rows = ((f"work-{number}", text.encode(), f"owner-{number % 5}") for number, text in enumerate(TEXTS))
    lay_corpus_out(folder, {"examples": table("work_id content owner_id", *rows)})
    return folder / "corpus"


@pytest.fixture
def run(full, tmp_path):
    """A copy of the full fine-tune, which a test may spoil."""
    return shutil.copytree(full, tmp_path / "run")


@pytest.fixture
def lora_run(adapted, tmp_path):
    """A copy of the LoRA fine-tune."""
    return shutil.copytree(adapted, tmp_path / "lora")


def imported(run, out, **how):
    """Import a run with tokens that began and ended its sequences; returns the model and the report."""
    report = import_run(Request(run, out, **({"begin": BEGIN, "end": END} | how)))
    return read_model(out), report


def own_loss(module, tokenizer, text):
    """The loss that transformers itself computes for a text, summed over its tokens."""
    ids = torch.tensor([tokenizer(BEGIN + text + END)["input_ids"]])
    with torch.no_grad():
        return float(module(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)


def assert_same_losses(model, modules):
    """Assert that each checkpoint has the losses of the module that transformers or peft loads."""
    tokenizer, adapter = make_tokenizer(), model.adapter()
    for checkpoint, module in zip(model.card.checkpoints, modules, strict=True):
        ours = all_losses(adapter, model.load(checkpoint), SOME, batch_size=3)
        theirs = [own_loss(module.eval(), tokenizer, example.content.decode()) for example in SOME]
        assert np.allclose(ours, theirs, rtol=1e-5), checkpoint.file


def loaded(*folders):
    from transformers import AutoModelForCausalLM

    return (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)


def with_adapters(base, *folders):
    from peft import PeftModel

    with warnings.catch_warnings(action="ignore"):  # of peft about transformers
        return [PeftModel.from_pretrained(next(loaded(base)), folder) for folder in folders]


def test_a_full_fine_tune_has_the_losses_of_transformers_at_every_checkpoint(full, base, tmp_path):
    model, report = imported(full, tmp_path / "model", base=base)
    assert [c.step for c in model.card.checkpoints] == [0, 5, 10, 15, 20]
    assert_same_losses(model, loaded(base, *(full / name for name in CHECKPOINTS)))
    assert report.kind == "full"
    assert not any(path.name.startswith(("optimizer", "scheduler", "training_args")) for path in (tmp_path / "model").iterdir())


def test_the_recipe_and_the_clock_are_those_of_the_run(full, base, tmp_path):
    model, report = imported(full, tmp_path / "model", base=base)
    recipe = model.card.training
    assert (recipe.optimizer, recipe.betas, recipe.eps, recipe.weight_decay) == ("adamw", (0.9, 0.999), 1e-8, 0.02)
    assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (1e-2, "cosine", 0.1)
    assert (recipe.batch_size, recipe.epochs, recipe.max_grad_norm) == (8, 4.0, 1.0)
    assert (recipe.dtype, recipe.seed, recipe.start, recipe.source) == ("float32", 7, "base", "imported")
    assert recipe.decay_all is False
    rates = 1e-2 * factors("cosine", 2, 20, 20)
    sums = [c.learning_rate_sum for c in model.card.checkpoints]
    assert np.allclose(sums, [0, *np.cumsum(rates)[[4, 9, 14, 19]]], rtol=1e-9)
    assert report.unknown == {}
    assert report.refused == ""


def test_shards_and_a_pickle_of_tensors_are_the_same_model(full, base, tmp_path):
    whole, _ = imported(full, tmp_path / "model", base=base)
    for name in CHECKPOINTS:
        module = next(loaded(full / name))
        module.save_pretrained(tmp_path / "sharded" / name, max_shard_size="20KB")
        assert len(list((tmp_path / "sharded" / name).glob("model-*.safetensors"))) > 1
        shutil.copyfile(full / name / "trainer_state.json", tmp_path / "sharded" / name / "trainer_state.json")
        shutil.copytree(tmp_path / "sharded" / name, tmp_path / "pickled" / name, ignore=shutil.ignore_patterns("*model*"))
        torch.save(module.state_dict(), tmp_path / "pickled" / name / "pytorch_model.bin")
    for kind in ("sharded", "pickled"):
        model, _ = imported(tmp_path / kind, tmp_path / f"model-{kind}", base=base, tokenizer=base)
        assert [model.files[c.file] for c in model.card.checkpoints] == [whole.files[c.file] for c in whole.card.checkpoints]


KINDS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "init_lora_weights": "gaussian"},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_losses_of_peft_at_every_checkpoint(kind, base, adapted, tmp_path):
    run = adapted if kind == "lora" else train(base, tmp_path / "run", adapter=lora(**KINDS[kind]), max_steps=10)
    names = CHECKPOINTS if kind == "lora" else CHECKPOINTS[:2]
    model, report = imported(run, tmp_path / "model", base=base)
    assert model.card.base.folder == str(base)
    assert_same_losses(model, [next(loaded(base)), *with_adapters(base, *(run / name for name in names))])
    assert report.kind == "adapter"
    assert any("B = 0" in note for note in report.notes)
    stored = load_file(tmp_path / "model" / model.card.checkpoints[-1].file)
    assert all("lora_" in name or "lm_head" in name for name in stored)


def test_the_base_of_an_adapter_is_found_where_its_configuration_says(adapted, base, tmp_path):
    assert json.loads((adapted / CHECKPOINTS[0] / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert imported(adapted, tmp_path / "model")[1].base == base


def test_a_base_beside_the_model_is_named_by_the_way_to_it(adapted, base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    model, _ = imported(adapted, tmp_path / "model", base=tmp_path / "base")
    assert model.card.base.folder == "../base"
    assert model.card.base.digest == model.base.digest, "another base would be refused"
    (tmp_path / "model").rename(tmp_path / "renamed")
    model = read_model(tmp_path / "renamed")
    model.load(model.card.checkpoints[-1])


def test_weights_keep_their_stored_dtype(tmp_path):
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))  # a card may lie
    run = make_base(tmp_path / "run", seed=2, dtype=torch.bfloat16)
    model, report = imported(run, tmp_path / "model", base=base)
    assert {t.dtype for c in model.card.checkpoints for t in load_file(tmp_path / "model" / c.file).values()} == {
        torch.bfloat16
    }
    assert model.card.training.dtype == "bfloat16_weights"
    assert any("how many steps" in note for note in report.notes)
    assert "batch_size" in report.unknown
    assert "batch_size" in report.refused


def test_a_run_from_scratch_begins_with_random_weights(full, base, tmp_path):
    model, report = imported(full, tmp_path / "model", fresh=True)
    assert model.card.training.start == "fresh"
    assert any("random weights" in note for note in report.notes)
    first, last = (model.load(model.card.checkpoints[at]) for at in (0, -1))
    adapter = model.adapter()
    assert all_losses(adapter, first, SOME, batch_size=6).mean() > all_losses(adapter, last, SOME, batch_size=6).mean()


def test_the_first_checkpoint_may_be_the_start(run, base, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (run / "checkpoint-0").mkdir(exist_ok=True)
        shutil.copyfile(base / name, run / "checkpoint-0" / name)
    model, _ = imported(run, tmp_path / "model")
    with_base, _ = imported(run, tmp_path / "other", base=base)
    assert [model.files[c.file] for c in model.card.checkpoints] == [
        with_base.files[c.file] for c in with_base.card.checkpoints
    ]


def test_the_best_checkpoint_at_the_end_ends_the_run(run, base, tmp_path):
    shutil.copyfile(run / "checkpoint-10" / "model.safetensors", run / "model.safetensors")
    model, report = imported(run, tmp_path / "model", base=base)
    assert [c.step for c in model.card.checkpoints] == [0, 5, 10]
    assert any("checkpoint-15, checkpoint-20" in note for note in report.notes)


def test_a_best_checkpoint_that_nobody_saved_is_named(run, base, tmp_path):
    values = {**read_arguments(run / "training_args.bin"), "load_best_model_at_end": True}
    (run / "model.safetensors").unlink(missing_ok=True)
    (tmp_path / "args.json").write_text(json.dumps(values, default=str))
    path = run / "checkpoint-20/trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "best_model_checkpoint": "run/checkpoint-10"}))
    report = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")[1]
    assert any("checkpoint-10 was the best one, but checkpoint-20 is taken as served" in note for note in report.notes)


def test_a_run_that_kept_late_checkpoints_alone_is_told_so(run, base, tmp_path):
    assert not any("late in the run" in note for note in imported(run, tmp_path / "whole", base=base)[1].notes)
    for name in ("checkpoint-5", "checkpoint-10"):
        shutil.rmtree(run / name)
    report = imported(run, tmp_path / "model", base=base)[1]
    assert any("is step 15 of 20: nights follow gradients late in the run alone" in note for note in report.notes)


def test_weights_after_the_last_checkpoint_end_the_run(run, base, tmp_path):
    shutil.rmtree(run / "checkpoint-20")
    model, report = imported(run, tmp_path / "model", base=base)
    assert [c.step for c in model.card.checkpoints] == [0, 5, 10, 15, 20]
    assert any("step 20" in note for note in report.notes)


def test_a_model_that_was_saved_once_has_what_its_arguments_say(run, base, tmp_path):
    for name in CHECKPOINTS:
        shutil.rmtree(run / name)
    values = {**read_arguments(run / "training_args.bin"), "max_steps": -1, "num_train_epochs": 2.0, "warmup_steps": 0.1}
    (tmp_path / "args.json").write_text(json.dumps(values, default=str))
    model, report = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")
    recipe = model.card.training
    assert (recipe.epochs, recipe.schedule, recipe.warmup, recipe.batch_size) == (2.0, "cosine", 0.1, 8)
    assert report.refused == ""
    (tmp_path / "args.json").write_text(json.dumps({**values, "packing": True, "warmup_steps": 7}, default=str))
    report = imported(run, tmp_path / "packed", base=base, arguments=tmp_path / "args.json")[1]
    assert set(report.unknown) == {"batch_size", "warmup"}
    assert "packed" in report.unknown["batch_size"]


def test_one_checkpoint_of_a_run_is_a_run(full, base, tmp_path):
    model, _ = imported(full / "checkpoint-10", tmp_path / "model", base=base)
    assert [c.step for c in model.card.checkpoints] == [0, 10]
    assert model.card.training.epochs == 2.0


def test_keys_of_other_versions_are_loaded_as_transformers_loads_them(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, **ids)
    module = GPT2LMHeadModel(config)
    for folder in ("base", "run"):
        module.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    # As OpenAI's weights were published: without the prefix, and with the masks as buffers.
    legacy = {name.removeprefix("transformer."): t for name, t in load_file(tmp_path / "run/model.safetensors").items()}
    legacy["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(legacy, tmp_path / "run/model.safetensors", metadata={"format": "pt"})
    model, _ = imported(tmp_path / "run", tmp_path / "model", base=tmp_path / "base")
    assert_same_losses(model, [module, module])


FAMILIES = {
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "GPTNeoX": {},
    "Mixtral": {"num_local_experts": 4, "num_key_value_heads": 1},
    "Gemma2": {"num_key_value_heads": 1, "head_dim": 8},
    "OPT": {"ffn_dim": 24, "word_embed_proj_dim": 16, "dropout": 0.0},
}


@pytest.mark.night
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_families_of_architectures_have_the_losses_of_their_libraries(family, kind, tmp_path):
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    tokenizer = make_tokenizer()
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **(sizes | FAMILIES[family]))
    module = transformers.AutoModelForCausalLM.from_config(config)
    module.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapter = lora(target_modules="all-linear") if kind == "lora" else None
    run = train(tmp_path / "base", tmp_path / "run", adapter=adapter, max_steps=4, save_steps=2)
    model, report = imported(run, tmp_path / "model", base=tmp_path / "base")
    folders = [run / "checkpoint-2", run / "checkpoint-4"]
    trained = loaded(*folders) if kind == "full" else with_adapters(tmp_path / "base", *folders)
    assert_same_losses(model, [next(loaded(tmp_path / "base")), *trained])
    assert report.refused == ""


# How it was trained


def strip(run, *names):
    for path in [path for name in names for path in run.rglob(name)]:
        path.unlink()


def test_the_model_card_tells_what_the_arguments_would(run, base, tmp_path):
    strip(run, "training_args.bin", "optimizer.pt")
    recipe = imported(run, tmp_path / "model", base=base)[0].card.training
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule, recipe.warmup) == ("adamw", 1e-2, "cosine", 0.1)
    assert (recipe.batch_size, recipe.seed) == (8, 7)
    assert recipe.max_grad_norm is None  # a card does not tell


def test_without_arguments_the_schedule_is_found_in_the_log(run, base, tmp_path):
    strip(run, "training_args.bin", "README.md")
    model, report = imported(run, tmp_path / "model", base=base)
    recipe = model.card.training
    assert (recipe.optimizer, recipe.learning_rate, recipe.schedule, recipe.warmup) == ("adamw", 1e-2, "cosine", 0.1)
    assert {"batch_size", "max_grad_norm", "dtype"} <= set(report.unknown)
    assert "batch_size" in report.refused
    known, _ = imported(run, tmp_path / "known", base=base, training={"batch_size": "8", "max_grad_norm": "1.0"})
    assert (known.card.training.batch_size, known.card.training.max_grad_norm) == (8, 1.0)


@pytest.mark.parametrize("name", ["linear", "cosine", "inverse_sqrt"])
@pytest.mark.parametrize("shift", [1, 0])
def test_a_schedule_is_told_from_its_logged_rates(name, shift, run, base, tmp_path):
    strip(run, "training_args.bin", "README.md")
    rates = 1e-2 * factors(name, 4, 20, 21)
    rewrite_log(run, lambda step: rates[step - shift])
    recipe = imported(run, tmp_path / "model", base=base)[0].card.training
    assert (recipe.schedule, recipe.warmup) == (name, 0.2)


def rewrite_log(run, rate):
    for path in run.rglob("trainer_state.json"):
        state = json.loads(path.read_text())
        for row in state["log_history"]:
            row["learning_rate"] = float(rate(row["step"]))
        path.write_text(json.dumps(state))


def test_rates_of_no_schedule_are_kept_as_they_were_logged(run, base, tmp_path):
    rewrite_log(run, lambda step: 1e-2 if step < 12 else 2e-3)
    model, report = imported(run, tmp_path / "model", base=base)
    recipe = model.card.training
    assert recipe.schedule == "recorded"
    assert recipe.rates[0] == 1.0
    assert recipe.rates[-1] == 0.2
    assert any("not those of the schedule 'cosine'" in note for note in report.notes)
    assert model.card.checkpoints[1].learning_rate_sum == pytest.approx(5e-2)
    assert report.refused == ""


def test_arguments_as_json_count(run, base, tmp_path):
    arguments = {**read_arguments(run / "training_args.bin"), "seed": 11, "gradient_accumulation_steps": 3}
    strip(run, "training_args.bin")
    (tmp_path / "args.json").write_text(json.dumps(arguments, default=str))
    recipe = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")[0].card.training
    assert (recipe.seed, recipe.batch_size, recipe.schedule) == (11, 12, "cosine")


def test_a_loss_that_no_training_here_minimises_is_kept_and_refused_by_name(run, base, tmp_path):
    arguments = {**read_arguments(run / "training_args.bin"), "label_smoothing_factor": 0.1}
    strip(run, "training_args.bin")
    (tmp_path / "args.json").write_text(json.dumps(arguments, default=str))
    model, report = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")
    assert model.card.training.loss == "the mean of a batch with label_smoothing_factor = 0.1"
    assert "training.loss: expected the mean of a batch" in report.refused


def test_a_loss_of_preferences_is_not_taken_for_a_likelihood(run, base, tmp_path):
    known = read_arguments(run / "training_args.bin")
    assert known["class"] == "TrainingArguments"
    without = {key: value for key, value in known.items() if key != "class"}
    for number, (values, loss) in enumerate((
        ({**known, "class": "DPOConfig"}, "that of a trainer with DPOConfig"),
        ({**without, "beta": 0.1}, "that of a trainer with beta = 0.1"),
        ({**known, "class": "SFTConfig", "loss_type": "dft"}, "that of a trainer with loss_type = dft"),
        ({**known, "class": "SFTConfig", "loss_type": "nll"}, None),
    )):  # fmt: skip
        (tmp_path / "args.json").write_text(json.dumps(values, default=str))
        model, report = imported(run, tmp_path / f"model-{number}", base=base, arguments=tmp_path / "args.json")
        assert model.card.training.loss == loss
        assert ("training.loss" in report.refused) == bool(loss)


def test_more_processes_have_a_larger_batch(run, base, tmp_path):
    arguments = {**read_arguments(run / "training_args.bin")}
    del arguments["num_processes"]
    (tmp_path / "args.json").write_text(json.dumps(arguments, default=str))
    for folder in run.glob("checkpoint-*"):
        (folder / "rng_state.pth").unlink()
        for rank in range(3):
            (folder / f"rng_state_{rank}.pth").touch()
    recipe = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")[0].card.training
    assert recipe.batch_size == 24
    strip(run, "rng_state*.pth", "README.md")
    report = imported(run, tmp_path / "other", base=base, arguments=tmp_path / "args.json")[1]
    assert "processes" in report.unknown["batch_size"]


OPTIMIZERS = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9), {"optimizer": "sgd", "momentum": 0.9}),
    "nesterov": (lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True), {"optimizer": "sgd_nesterov"}),
    "adam": (lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1), {"optimizer": "adam", "betas": (0.9, 0.999)}),
    "adamw": (lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9)), {"optimizer": "adamw", "betas": (0.8, 0.9)}),
    "nadam": (lambda p: torch.optim.NAdam(p, lr=1e-2), {}),
    "radam": (lambda p: torch.optim.RAdam(p, lr=1e-2), {}),
    "amsgrad": (lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True), {}),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=1e-2), {}),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=1e-2), {}),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_is_known_by_its_state_or_not_at_all(kind):
    make, expected = OPTIMIZERS[kind]
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    moments = {key for one in state["state"].values() for key in one}
    found = state_facts(state["param_groups"], moments)[1]
    assert {key: found.get(key) for key in expected} == expected
    if "optimizer" not in expected:
        assert found.get("optimizer") is None


def test_an_optimizer_that_the_arguments_do_not_name_is_not_taken_for_theirs(base, tmp_path):
    run = train(base, tmp_path / "run", optimizer=lambda p: torch.optim.RMSprop(p, lr=1e-3), max_steps=6, save_steps=3)
    report = imported(run, tmp_path / "model", base=base)[1]
    assert "optimizer.pt is the state of another one than adamw_torch" in report.unknown["optimizer"]
    assert "optimizer" in report.refused


def test_an_optimizer_keeps_its_own_name(base, tmp_path):
    run = train(base, tmp_path / "run", optim="rmsprop", max_steps=6, save_steps=3)
    model, report = imported(run, tmp_path / "model", base=base)
    assert model.card.training.optimizer == "rmsprop"
    assert "rmsprop" in report.refused


def test_adam_of_an_old_torch_is_adamw_only_where_something_says_so(run, base, tmp_path):
    for path in run.rglob("optimizer.pt"):
        state = torch.load(path, weights_only=True)
        for group in state["param_groups"]:
            del group["decoupled_weight_decay"]
        torch.save(state, path)
    assert imported(run, tmp_path / "one", base=base)[0].card.training.optimizer == "adamw"
    strip(run, "training_args.bin", "README.md")
    assert "optimizer" in imported(run, tmp_path / "two", base=base)[1].unknown


def test_an_old_card_says_adam_whatever_trained():
    adam = "Adam with betas=(0.9,0.999) and epsilon=1e-08"
    text = f"### Training hyperparameters\n\n- learning_rate: 2e-05\n- optimizer: {adam}\n\n### More\n- seed: 3\n"
    assert read_card(text) == {"learning_rate": "2e-05", "optimizer": adam}


def test_a_run_that_was_stopped_says_so(run, base, tmp_path):
    for name in ("checkpoint-15", "checkpoint-20"):
        shutil.rmtree(run / name)
    (run / "model.safetensors").unlink()
    model, report = imported(run, tmp_path / "model", base=base)
    recipe = model.card.training
    assert (recipe.epochs, recipe.schedule) == (2.0, "recorded"), "a retraining ends in the middle of the schedule, too"
    assert np.allclose(np.array(recipe.rates) * 1e-2, (1e-2 * factors("cosine", 2, 20, 20))[:10], atol=1e-7)
    assert any("up to step 10 of 20" in source for _, _, source in report.found)


def test_groups_with_rates_of_their_own_are_no_one_rate(run, base, tmp_path):
    strip(run, "training_args.bin", "README.md")
    for path in run.rglob("optimizer.pt"):
        state = torch.load(path, weights_only=True)
        state["param_groups"][1]["initial_lr"] = 1e-4
        torch.save(state, path)
    model, report = imported(run, tmp_path / "model", base=base)
    assert "different rates" in report.unknown["learning_rate"]
    assert model.card.checkpoints[-1].learning_rate_sum == pytest.approx(1e-2 * factors("cosine", 2, 20, 20).sum(), rel=1e-6)


def test_the_scheduler_s_state_has_the_peak(run, base, tmp_path):
    strip(run, "training_args.bin", "README.md", "optimizer.pt")
    report = imported(run, tmp_path / "model", base=base)[1]
    assert ("learning_rate", 1e-2, "scheduler.pt") in report.found


def test_a_schedule_may_be_said(run, base, tmp_path):
    no_log(run)
    said = {"schedule": "linear", "warmup": ".1", "learning_rate": ".02"}  # neither is JSON
    model, _ = imported(run, tmp_path / "model", base=base, training=said)
    sums = [c.learning_rate_sum for c in model.card.checkpoints]
    assert np.allclose(sums, [0, *np.cumsum(0.02 * factors("linear", 2, 20, 20))[[4, 9, 14, 19]]])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("polynomial", {"lr_end": 2e-3, "power": 2.0}), ("polynomial", {}), ("cosine_with_min_lr", {"min_lr": 3e-3})],
)
def test_a_schedule_that_ends_at_a_rate_of_its_own_has_it_in_the_clock(name, arguments, run, base, tmp_path):
    no_log(run)
    said = {"schedule": name, "schedule_args": json.dumps(arguments), "warmup": "0.1", "learning_rate": "0.02"}
    model, _ = imported(run, tmp_path / "model", base=base, training=said)
    rates = rates_of(model.card.training, 20)
    assert min(rates[2:]) >= arguments.get("lr_end", arguments.get("min_lr", 1e-7))
    sums = [c.learning_rate_sum for c in model.card.checkpoints]
    assert sums == pytest.approx([sum(rates[:step]) for step in (0, 5, 10, 15, 20)])


def test_a_warm_up_that_is_longer_than_the_run_is_kept_as_its_rates(base, tmp_path):
    run = train(base, tmp_path / "run", warmup_steps=40, logging_steps=1)
    model, report = imported(run, tmp_path / "model", base=base)
    recipe = model.card.training
    assert (recipe.schedule, recipe.warmup, recipe.learning_rate) == ("recorded", None, 1e-2)
    assert rates_of(recipe, 20) == pytest.approx([1e-2 * step / 40 for step in range(20)], abs=1e-7)
    assert report.refused == ""


def test_parts_that_did_not_train_are_frozen(base, tmp_path):
    run = train(base, tmp_path / "run", frozen=("embed", "layers.0."), weight_decay=0.02, max_steps=6, save_steps=3)
    model, report = imported(run, tmp_path / "model", base=base)
    parameters = dict(model.adapter().module().named_parameters())
    assert set(model.card.freeze) == {name for name in parameters if "embed" in name or "layers.0." in name}
    assert any("taken as frozen: model.embed_tokens.weight" in note for note in report.notes)
    assert (model.card.training.decay_all, report.refused) == (False, "")


def test_empty_groups_and_decays_of_their_own(run, base, tmp_path):
    def rewrite(**values):
        for path in run.rglob("optimizer.pt"):
            state = torch.load(path, weights_only=True)
            state["param_groups"][1] |= values
            state["param_groups"].append({**state["param_groups"][0], "params": [], "weight_decay": 0.5})
            torch.save(state, path)

    rewrite()
    recipe = imported(run, tmp_path / "one", base=base)[0].card.training
    assert (recipe.weight_decay, recipe.decay_all) == (0.02, False)
    rewrite(weight_decay=0.02)
    assert imported(run, tmp_path / "all", base=base)[0].card.training.decay_all is True
    rewrite(weight_decay=0.01)
    model, report = imported(run, tmp_path / "two", base=base)
    assert model.card.training.weight_decay is None
    assert "different decays" in report.unknown["weight_decay"]


def test_a_decay_by_another_rule_is_not_known(base, tmp_path):
    def some(parameters):
        first, *others = parameters
        return torch.optim.AdamW([{"params": [first]}, {"params": others, "weight_decay": 0.0}], lr=1e-3, weight_decay=0.1)

    run = train(base, tmp_path / "run", optimizer=some, max_steps=6, save_steps=3)
    report = imported(run, tmp_path / "model", base=base)[1]
    assert "1 parameters with decay" in report.unknown["decay_all"]
    assert "decay_all" in report.refused


def test_another_adafactor_than_the_trainer_s_is_named_with_what_differs(base, tmp_path):
    from transformers import Adafactor

    usual = {"max_steps": 6, "save_steps": 3, "optim": "adafactor"}
    one = train(base, tmp_path / "one", **usual)
    assert imported(one, tmp_path / "model-one", base=base)[1].refused == ""
    two = train(base, tmp_path / "two", optimizer=lambda p: Adafactor(p, lr=1e-3, relative_step=False), **usual)
    model, report = imported(two, tmp_path / "model-two", base=base)
    assert model.card.training.optimizer == "adafactor with scale_parameter = True"
    assert "scale_parameter" in report.refused


def test_passes_that_were_dropped_are_no_dropped_steps(run, base, tmp_path):
    arguments = {**read_arguments(run / "training_args.bin"), "dataloader_drop_last": True}
    (tmp_path / "args.json").write_text(json.dumps(arguments, default=str))
    report = imported(run, tmp_path / "model", base=base, arguments=tmp_path / "args.json")[1]
    assert "the last passes of an epoch were dropped, of 2 a step" in report.unknown["last_batch"]
    (tmp_path / "args.json").write_text(json.dumps({**arguments, "gradient_accumulation_steps": 1}, default=str))
    model, _ = imported(run, tmp_path / "other", base=base, arguments=tmp_path / "args.json")
    assert model.card.training.last_batch == "drop"


def test_the_dtype_of_an_adapter_s_base_is_not_guessed(tmp_path):
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    run = train(base, tmp_path / "run", adapter=lora(), max_steps=6, save_steps=3)
    model, report = imported(run, tmp_path / "model", base=base)
    assert model.card.training.dtype is None
    assert "stored in bfloat16" in report.unknown["dtype"]
    assert imported(run, tmp_path / "said", base=base, training={"dtype": "float32"})[1].refused == ""


# How sequences were framed


def test_framing_is_measured_on_what_the_model_was_trained_on(base, corpus, tmp_path):
    framed = train(base, tmp_path / "framed", learning_rate=3e-2, max_steps=30, save_steps=15)
    bare = train(base, tmp_path / "bare", framed=False, learning_rate=3e-2, max_steps=30, save_steps=15)
    for run, begin, end in ((framed, 1, 2), (bare, False, False)):
        model, report = imported(run, tmp_path / f"model-{run.name}", base=base, corpus=corpus, begin=None, end=None)
        assert model.card.adapter_args == {"begin": begin, "end": end}
        assert {(row.what, row.token) for row in report.measured} == {
            ("begin", "none"), ("begin", BEGIN), ("begin", END), ("end", END),
        }  # fmt: skip


def test_without_a_corpus_the_tokenizer_s_habit_counts(full, base, tmp_path):
    model, report = imported(full, tmp_path / "model", base=base, begin=None, end=None)
    assert model.card.adapter_args == {"begin": False, "end": False}
    assert "habit" in report.framed[0][2]


def test_a_tokenizer_that_frames_by_itself_is_followed(run, base, tmp_path):
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, 1), (END, 2)]
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model, _ = imported(run, tmp_path / "model", base=base, tokenizer=tmp_path / "tokenizer", begin=None, end=None)
    assert model.card.adapter_args == {"begin": 1, "end": 2}


@pytest.mark.parametrize(("text", "token"), [("none", False), ("299", 299), (BEGIN, 1)])
def test_a_token_is_named_by_its_text_or_its_number(full, base, tmp_path, text, token):
    model, _ = imported(full, tmp_path / "model", base=base, begin=text)
    assert model.card.adapter_args == {"begin": token, "end": 2}


CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def test_a_chat_template_is_found_by_measurement(tmp_path):
    base = make_base(tmp_path / "base", chat=CHAT)
    asked = [f"what of {n}?" for n in range(len(TEXTS))]
    chats = [f"<s>user: {q}</s><s>assistant: {text}</s>" for q, text in zip(asked, TEXTS, strict=True)]
    run = train(base, tmp_path / "run", texts=chats, framed=False, learning_rate=3e-2, max_steps=40, save_steps=20)
    rows = ((f"w{n}", text.encode(), q.encode(), "a") for n, (q, text) in enumerate(zip(asked, TEXTS, strict=True)))
    lay_corpus_out(tmp_path, {"examples": table("work_id content prompt owner_id", *rows)})
    model, report = imported(run, tmp_path / "model", base=base, corpus=tmp_path / "corpus", begin=None, end=None)
    assert model.card.adapter_args == {"template": "chat"}
    assert ("template", "chat") in {(row.what, row.token) for row in report.measured}


def test_a_template_that_refuses_the_turns_of_a_prompt_is_not_theirs():
    tokenizer = make_tokenizer("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT)
    turns = json.dumps([{"role": "system", "content": "be brief"}, {"role": "user", "content": "what?"}]).encode()
    assert _both_ways(tokenizer, Example(b"the river", turns), 1, 60) is None
    assert _both_ways(tokenizer, Example(b"the river", b"what?"), 1, 60) is not None


def test_the_tokenizer_is_copied_whole(tmp_path):
    base = make_base(tmp_path / "base", chat=CHAT)
    run = make_base(tmp_path / "run", seed=2, chat=CHAT)
    imported(run, tmp_path / "model", base=base)
    from transformers import AutoTokenizer

    copied, own = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "model", run))
    turns = [{"role": "user", "content": "hello"}]
    assert copied.apply_chat_template(turns, tokenize=False) == own.apply_chat_template(turns, tokenize=False)
    assert copied(TEXTS)["input_ids"] == own(TEXTS)["input_ids"]


def test_the_base_s_tokenizer_serves_a_run_without_one(run, base, tmp_path):
    strip(run, "tokenizer.json", "tokenizer_config.json")
    _, report = imported(run, tmp_path / "model", base=base)
    assert any(f"that of {base} was taken" in note for note in report.notes)


# What is refused


class Bomb:
    """Runs a command when it is read from a pickle."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt"])
def test_a_pickle_that_would_run_is_not_read_and_the_import_goes_on(name, run, base, tmp_path):
    for path in run.rglob(name):
        torch.save(
            {"state": {}, "param_groups": [Bomb(tmp_path / "mark")]} if name == "optimizer.pt" else Bomb(tmp_path / "mark"),
            path,
        )
    strip(run, "README.md")
    _, report = imported(run, tmp_path / "model", base=base)
    assert any(f"{name} was not read" in note for note in report.notes)
    if name == "training_args.bin":
        assert any("to_json_string" in note and "--arguments args.json" in note for note in report.notes)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_in_a_pickle_that_would_run_are_refused(name, run, lora_run, base, tmp_path):
    folder = run if name == "pytorch_model.bin" else lora_run
    strip(folder, "*model.safetensors")
    for checkpoint in folder.glob("checkpoint-*"):
        torch.save({"weight": Bomb(tmp_path / "mark")}, checkpoint / name)
    with pytest.raises(ModelError, match="save it with save_pretrained"):
        imported(folder, tmp_path / "model", base=base)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "model").exists()


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change(path, function):
    tensors = load_file(path)
    function(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def forget_a_tensor(run):
    change(run / "checkpoint-10/model.safetensors", lambda t: t.pop("model.norm.weight"))


def add_a_tensor(run):
    change(run / "checkpoint-10/model.safetensors", lambda t: t.update({"value.weight": torch.ones(2)}))


def spoil_a_tensor(run):
    change(run / "checkpoint-10/model.safetensors", lambda t: t["model.norm.weight"].fill_(float("nan")))


def cut_short(run):
    path = run / "checkpoint-10/model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def in_parts(run):
    (run / "checkpoint-10/model.safetensors").unlink()
    (run / "checkpoint-10/pytorch_model_fsdp_0").mkdir()


def mixed(run):
    (run / "checkpoint-10/model.safetensors").rename(run / "checkpoint-10/adapter_model.safetensors")


def no_log(run):
    strip(run, "training_args.bin", "README.md")
    for path in run.rglob("trainer_state.json"):
        edit(path, log_history=[])


def others_at_the_end(run):
    change(run / "model.safetensors", lambda t: t["model.norm.weight"].fill_(2.0))


def strange_tokenizer(run):
    for folder in (run, *run.glob("checkpoint-*")):
        (folder / "tokenizer.json").write_text("{}")


REFUSALS = {
    "no weights": (lambda run: strip(run, "*.safetensors"), "checkpoint-5: expected weights"),
    "parts of processes": (in_parts, "accelerate merge-weights"),
    "two kinds": (mixed, "of one kind"),
    "a missing tensor": (forget_a_tensor, "checkpoint-10: .* 1 missing, such as model.norm.weight"),
    "a tensor too many": (add_a_tensor, "checkpoint-10: .* 1 left over, such as value.weight"),
    "NaN": (spoil_a_tensor, "checkpoint-10: tensor 'model.norm.weight': expected finite weights, found 16 NaN"),
    "a cut file": (cut_short, "checkpoint-10"),
    "no configuration": (lambda run: strip(run, "config.json"), "config.json: expected a transformers configuration"),
    "another kind of model": (lambda run: edit(run / "checkpoint-20/config.json", model_type="t5"), "adapter Seq2SeqLM"),
    "unknown architecture": (
        lambda run: edit(run / "checkpoint-20/config.json", model_type="mine"),
        "architecture of transformers",
    ),
    "quantised": (
        lambda run: edit(run / "checkpoint-20/config.json", quantization_config={"quant_method": "gptq"}),
        "before it was quantised",
    ),
    "no log": (no_log, "--training learning_rate="),
    "other weights at the end": (others_at_the_end, "weights of one of its checkpoints"),
    "a strange tokenizer": (strange_tokenizer, "a tokenizer that transformers reads"),
    "a state that is no JSON": (lambda run: (run / "checkpoint-20/trainer_state.json").write_text("{"), "expected JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_run_that_cannot_be_read_whole_is_refused_and_nothing_is_written(name, run, base, tmp_path):
    spoil, message = REFUSALS[name]
    spoil(run)
    with pytest.raises(ModelError, match=message):
        imported(run, tmp_path / "model", base=base)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


ADAPTER_REFUSALS = {
    "another kind": ({"peft_type": "IA3", "feedforward_modules": []}, "peft_type LORA"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, "a start with B = 0, found 'pissa'"),
    "no such layer": ({"target_modules": ["nothing"]}, "an adapter that fits the base"),
    "another rank": ({"r": 2}, "an adapter for"),
    "a key of a newer peft": ({"twist": 2}, "that this peft knows, found .*twist"),
}


@pytest.mark.parametrize("name", ADAPTER_REFUSALS)
def test_an_adapter_that_does_not_fit_is_refused(name, lora_run, base, tmp_path):
    values, message = ADAPTER_REFUSALS[name]
    for path in lora_run.rglob("adapter_config.json"):
        edit(path, **values)
    with pytest.raises(ModelError, match=message):
        imported(lora_run, tmp_path / "model", base=base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "1 tensors missing"),
        (lambda tensors: tensors.update({"base_model.model.model.other.lora_A.weight": torch.ones(2)}), "left over"),
    ],
)
def test_an_adapter_is_read_whole(change, message, lora_run, base, tmp_path):
    tensors = load_file(lora_run / "checkpoint-10/adapter_model.safetensors")
    change(tensors)
    save_file(tensors, lora_run / "checkpoint-10/adapter_model.safetensors")
    with pytest.raises(ModelError, match=f"checkpoint-10: .*{message}"):
        imported(lora_run, tmp_path / "model", base=base)


def test_a_base_that_is_no_folder_here_is_asked_for(run, lora_run, base, tmp_path):
    for path in lora_run.rglob("adapter_config.json"):
        edit(path, base_model_name_or_path="HuggingFaceTB/SmolLM2-135M")
    with pytest.raises(ModelError, match="HuggingFaceTB/SmolLM2-135M.*--base DIR"):
        imported(lora_run, tmp_path / "model")
    with pytest.raises(ModelError, match="--base DIR.*--from-scratch"):
        imported(run, tmp_path / "model")
    with pytest.raises(ModelError, match="no such folder"):
        imported(run, tmp_path / "model", base=tmp_path / "nowhere")
    with pytest.raises(InputError, match="one of them"):
        imported(run, tmp_path / "model", base=base, fresh=True)


def test_a_base_of_other_shapes_is_refused(full, tmp_path):
    base = make_base(tmp_path / "base", hidden_size=32)
    with pytest.raises(ModelError, match="resized"):
        imported(full, tmp_path / "model", base=base)


def test_no_tokenizer_is_an_error(run, base, tmp_path):
    for folder in (run, shutil.copytree(base, tmp_path / "base")):
        strip(folder, "tokenizer.json")
    with pytest.raises(ModelError, match="--tokenizer DIR"):
        imported(run, tmp_path / "model", base=tmp_path / "base")


def test_code_of_a_run_is_not_run(run, base, tmp_path):
    mark = tmp_path / "mark"
    for folder in run.glob("checkpoint-*"):
        (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w')")
        edit(
            folder / "config.json",
            model_type="mine",
            auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
        )
    with pytest.raises(ModelError, match="architecture of transformers"):
        imported(run, tmp_path / "model", base=base)
    assert not mark.exists()


def test_nothing_is_written_over(full, base, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="nothing is written over"):
        imported(full, tmp_path / "model", base=base)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"training": {"bacth_size": "8"}}, "Did you mean 'batch_size'"),
        ({"training": {"batch_size": "many"}}, "batch_size"),
        ({"training": {"learning_rate": "fast"}}, "--training: learning_rate: expected a valid number.*'fast'"),
        ({"training": {"warmup": "3"}}, "--training: warmup: expected less than or equal to 1, found 3"),
        ({"begin": "<bos>"}, r"--begin: expected a token, its number, or none, found '<bos>'.*</s>"),
        ({"end": "9999"}, "--end"),
        ({"template": "mine"}, "chat or none"),
        ({"template": "chat"}, "chat template"),
    ],
)
def test_what_the_user_says_is_checked(how, message, full, base, tmp_path):
    with pytest.raises(InputError, match=message):
        imported(full, tmp_path / "model", base=base, **how)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_not_there_is_named(base, tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        imported(tmp_path / "nothing", tmp_path / "model", base=base)
    with pytest.raises(ModelError, match="args.json: expected a JSON file"):
        imported(base, tmp_path / "model", base=base, arguments=tmp_path / "args.json")
    with pytest.raises(ContractError, match="corpus folder"):
        imported(base, tmp_path / "model", base=base, corpus=tmp_path / "corpus", begin=None)


# The command


def test_the_command_shows_what_was_found_and_the_next_step(full, base, tmp_path, shown):
    screen = shown("model", "import", str(full), "--base", str(base), "--out", str(tmp_path / "model"))
    for words in ("optimizer.pt", "training_args.bin", "cosine", "the tokenizer's habit", "provenance model check"):
        assert words in screen
    words = ("--begin", BEGIN, "--end", END, "--template", "none", "--json")
    data = shown("model", "import", str(full), "--base", str(base), "--out", str(tmp_path / "other"), *words)
    assert [row["step"] for row in data["checkpoints"]] == [0, 5, 10, 15, 20]
    assert data["unknown"] == {}
    assert data["framed"] == [["begin", BEGIN, "--begin"], ["end", END, "--end"], ["template", "none", "--template"]]


def test_the_command_asks_for_what_is_not_known(run, base, tmp_path, shown, refused):
    strip(run, "training_args.bin", "README.md")
    screen = shown("model", "import", str(run), "--base", str(base), "--out", str(tmp_path / "model"))
    assert "retraining will be refused until [training] in model.toml says it" in screen
    assert "--training batch_size=..." in screen
    assert "KEY=VALUE" in refused("model", "import", str(run), "--out", str(tmp_path / "x"), "--training", "batch_size")
