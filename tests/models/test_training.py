"""Models are trained by the recipe of their folder: as `transformers.Trainer` does, and the same again."""

import json
import shutil
import threading

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from samples import reword
from trainers import corpus, tiny_llama, trainer
from transformers import GPT2Config, get_scheduler

from provenance.core.errors import ModelError
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.training_loop import _batches, in_order, rates_of
from provenance.models.model import read_model
from provenance.models.recipe import BUILT_IN_RUN, Training
from provenance.models.recording import Recorder
from provenance.models.trainer import check_trainable, train_model
from provenance.models.writing import RUN


def weights(folder):
    return load_file(folder / read_model(folder).card.checkpoints[-1].file)


def differ(one, other):
    """The largest difference between the last weights of two folders."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def recorded(folder, module=None, **changes):
    works, contents = corpus(22)
    module = module or tiny_llama()
    trainer(module, contents, folder, Recorder(folder / "model", works, contents), **changes).train()
    return folder / "model", contents


def batches_of(folder, contents):
    """The batches of a recorded run, by places in the order in which adapters train."""
    place = {row: at for at, row in enumerate(in_order(contents))}
    lines = (folder / RUN).read_text().splitlines()[1:]
    return [[place[row] for row in json.loads(line)["examples"]] for line in lines]


RECIPES = [
    {},
    {"optim": "sgd", "weight_decay": 0.0, "learning_rate": 0.5},
    {"optim": "adafactor", "lr_scheduler_type": "cosine", "warmup_steps": 0.3},
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "max_grad_norm": 0.0},
    {"lr_scheduler_type": "inverse_sqrt", "gradient_accumulation_steps": 1},
    {"lr_scheduler_type": "constant_with_warmup", "bf16": True, "weight_decay": 0.0},
]


@pytest.mark.parametrize("changes", RECIPES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_the_recipe_of_a_trainer_s_run_gives_its_weights_again(changes, tmp_path):
    """With the same batches: optimizer, decay, schedule, clipping, accumulation, dtype and start are those of the trainer."""
    folder, contents = recorded(tmp_path, **changes)
    adapter = read_model(folder).adapter()
    adapter.train(contents, seed=1, folder=tmp_path / "again", batches=batches_of(folder, contents))
    moved = max((weights(folder)[name] - first).abs().max().item() for name, first in start_of(folder).items())
    assert differ(folder, tmp_path / "again") < (0.05 if "bf16" in changes else 1e-4) * moved
    one, other = read_model(folder).card, read_model(tmp_path / "again").card
    assert other.training.decisive() == one.training.decisive()
    assert [each.step for each in other.checkpoints] == [each.step for each in one.checkpoints]
    for ours, theirs in zip(one.checkpoints, other.checkpoints, strict=True):
        assert theirs.learning_rate_sum == pytest.approx(ours.learning_rate_sum)


def start_of(folder):
    return load_file(folder / read_model(folder).card.checkpoints[0].file)


def test_another_order_of_the_same_examples_ends_close_to_the_run(tmp_path):
    """What a retrained model differs by, when only the order does: the noise of training."""
    folder, contents = recorded(tmp_path)
    read_model(folder).adapter().train(contents, seed=5, folder=tmp_path / "again")
    before, after = start_of(folder), weights(folder)
    change = torch.cat([(after[name] - before[name]).flatten() for name in before])
    off = torch.cat([(weights(tmp_path / "again")[name] - after[name]).flatten() for name in before])
    assert off.norm() < 0.5 * change.norm()
    assert start_of(tmp_path / "again").keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in start_of(tmp_path / "again").items())


def test_a_run_is_repeated_bit_for_bit_whatever_the_order_of_its_contents(tiny_model, tmp_path):
    contents = corpus(60)[1]
    model = read_model(tiny_model)
    assert model.card.training.seed == 1
    for name, given in (("same", contents), ("reversed", contents[::-1])):
        model.adapter().train(given, seed=1, folder=tmp_path / name)
        assert differ(tiny_model, tmp_path / name) == 0
    model.adapter().train(contents, seed=2, folder=tmp_path / "other")
    assert differ(tiny_model, tmp_path / "other") > 0


def test_a_model_with_frozen_parts_is_trained_in_bfloat16(served, tmp_path):
    reword(served / "model.toml", 'dtype = "float32"', 'dtype = "bfloat16_weights"')
    reword(served / "model.toml", 'adapter = "CausalLM"', 'adapter = "CausalLM"\nfreeze = ["model.embed_tokens.weight"]')
    train_model(read_model(served), pl.DataFrame({"content": corpus(20)[1]}), seed=1, folder=tmp_path / "again", ends_only=True)
    model = read_model(tmp_path / "again")
    first, last = (load_file(model.folder / checkpoint.file) for checkpoint in model.card.checkpoints)
    assert {tensor.dtype for tensor in last.values()} == {torch.bfloat16}
    assert [name for name in last if torch.equal(first[name].bfloat16(), last[name])] == ["model.embed_tokens.weight"]


def test_the_size_of_a_pass_decides_because_noise_and_dropout_are_drawn_in_each():
    whole, cut = (Training(**BUILT_IN_RUN, micro_batch_size=size) for size in (None, 3))
    assert whole.decisive() != cut.decisive()


def test_a_batch_in_small_passes_is_the_same_batch(tmp_path):
    _, contents = corpus(12)
    folder = tmp_path / "files"
    tiny_llama().config.save_pretrained(folder)
    for name, size in (("whole", None), ("cut", 3)):
        adapter = CausalLM(folder, epochs=3, batch_size=8, **({"micro_batch_size": size} if size else {}))
        adapter.train(contents, seed=1, folder=tmp_path / name)
    assert differ(tmp_path / "whole", tmp_path / "cut") < 1e-5


def test_dropout_is_on_in_training_and_its_draws_belong_to_one_training(tmp_path):
    """Trainings in threads of one process share its generators."""
    folder, contents = tmp_path / "files", [b"abcd", b"dcba", b"abab", b"cdcd"] * 2
    sizes = {"vocab_size": 257, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 20, "bos_token_id": 256}

    for rate in (0.0, 0.3):
        config = GPT2Config(**sizes, eos_token_id=None, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate)
        config.save_pretrained(folder / str(rate))

    def train(name, seed=1, rate=0.3):
        CausalLM(folder / str(rate), epochs=8, batch_size=4).train(contents, seed=seed, folder=tmp_path / name)

    train("alone")
    train("without", rate=0.0)
    assert differ(tmp_path / "alone", tmp_path / "without") > 0
    threads = [threading.Thread(target=train, args=(f"thread-{seed}", seed)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differ(tmp_path / "alone", tmp_path / "thread-1") == 0


@pytest.mark.parametrize(
    ("last", "contents", "sizes"),
    [
        ("short", 10, [4, 4, 2] * 2),
        ("drop", 10, [4, 4] * 2),
        ("across", 10, [4] * 5),
        ("short", 3, [3, 3]),
        ("drop", 3, [3, 3]),
        ("across", 1, [4]),
    ],
)
def test_epochs_decide_the_steps_on_parts_of_the_corpus(last, contents, sizes):
    recipe = Training(**BUILT_IN_RUN | {"epochs": 2.0, "batch_size": 4, "last_batch": last})
    batches = list(_batches(recipe, contents, torch.Generator().manual_seed(1)))
    assert [len(batch) for batch in batches] == sizes
    if last == "short":
        assert sorted(row for batch in batches for row in batch) == sorted(list(range(contents)) * 2)


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "warmup_stable_decay", "cosine_warmup_with_min_lr"])
def test_schedules_are_those_of_transformers(name, tmp_path):
    more = {"num_decay_steps": 4} if name == "warmup_stable_decay" else {"min_lr": 1e-4} if "min" in name else {}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = get_scheduler(name, optimizer, 3, 20, more)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    recipe = Training(learning_rate=0.01, schedule=name, schedule_args=more, warmup=3 / 20)
    assert rates_of(recipe, 20) == pytest.approx(expected)


# What is not known.


@pytest.fixture
def served(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "served")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('optimizer = "adamw"\n', "", r"expected the recipe of the run, with optimizer, found nothing .* `command`"),
        ("weight_decay = 0.01\ndecay_all = true\n", "weight_decay = 0.01\n", "of the run, with decay_all, found"),
        ("warmup = 0.05\n", "", "of the run, with warmup, found"),
        ('start = "fresh"\n', "", "of the run, with start, found"),
        ('"adamw"', '"lion"', r"training.optimizer: expected one of adamw, adam, sgd, adafactor, to train again, found 'lion'"),
        ('"cosine_to_1_percent"', '"greedy"', r"training.schedule: expected one of linear, .*, found 'greedy'"),
        ('dtype = "float32"', 'dtype = "float16"', r"training.dtype: expected one of .*, found 'float16'"),
        (
            'start = "fresh"',
            'start = "fresh"\nloss = "label smoothing 0.1"',
            "training.loss: expected the mean .* 'label smoot",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name_and_never_replaced(served, tmp_path, old, new, message):
    reword(served / "model.toml", old, new)
    model = read_model(served)
    with pytest.raises(ModelError, match=message):
        check_trainable(model)
    with pytest.raises(ModelError, match=message):
        model.adapter().train([b"one"], seed=1, folder=tmp_path / "trained")
    reword(served / "model.toml", "[training]\n", '[training]\ncommand = ["train"]\n')
    check_trainable(read_model(served))


def test_a_folder_with_the_recipe_among_the_adapter_s_arguments_is_trained_as_it_was(tiny_model, served, tmp_path):
    """As folders were written before [training] had all of it."""
    text = (served / "model.toml").read_text()
    start, end = text.index("[adapter_args]"), text.index("[[checkpoints]]")
    old = (
        "[adapter_args]\ncontext = 300\nepochs = 8\nbatch_size = 16\nlearning_rate = 0.01\nwarmup = 0.05\n"
        "keep = [0.1, 0.2, 0.4, 0.6, 1.0]\n\n"
        '[training]\noptimizer = "adamw"\nweight_decay = 0.01\nbatch_size = 16\nepochs = 8.0\n\n'
    )
    (served / "model.toml").write_text(text[:start] + old + text[end:])
    model = read_model(served)
    assert model.card.adapter_args == {"context": 300}
    assert model.card.training.decisive() == read_model(tiny_model).card.training.decisive()
    assert model.architecture() == read_model(tiny_model).architecture()
    model.adapter().train(corpus(60)[1], seed=1, folder=tmp_path / "again")
    assert differ(tiny_model, tmp_path / "again") == 0


@pytest.mark.parametrize("training", ['source = "imported"\nepochs = 2.0', "learning_rate = 0.02", 'optimizer = "sgd"'])
def test_a_key_of_a_recipe_beside_another_recipe_is_refused_and_not_completed(served, training):
    text = (served / "model.toml").read_text()
    start, end = text.index("[adapter_args]"), text.index("[[checkpoints]]")
    card = f"[adapter_args]\ncontext = 300\nbatch_size = 8\n\n[training]\n{training}\n\n"
    (served / "model.toml").write_text(text[:start] + card + text[end:])
    with pytest.raises(
        ModelError, match=r"adapter_args.batch_size: expected a part of the recipe .* training.batch_size, found"
    ):
        check_trainable(read_model(served))


def test_an_argument_that_is_no_key_of_the_recipe_is_named(tmp_path):
    tiny_llama().config.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'epoch'. Did you mean 'epochs'"):
        CausalLM(tmp_path, epoch=3)
    with pytest.raises(ModelError, match="recipe: batch_size: expected greater than 0"):
        CausalLM(tmp_path, batch_size=0)
