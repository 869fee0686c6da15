"""Runs are recorded as they train: what was seen, when, and by which recipe."""

import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from trainers import BEGIN, arguments, corpus, pad, rows_of, tiny_llama, trainer
from transformers import TrainerCallback, TrainingArguments

from provenance.core.errors import InputError, ModelError
from provenance.core.store import sha256
from provenance.corpus.rights.manifest import Manifest, read_manifest
from provenance.models.adapters.training_loop import rates_of
from provenance.models.model import Example, all_losses, read_base, read_model
from provenance.models.recipe import Training
from provenance.models.recording import Recorder, record
from provenance.models.recording.facts import optimizer_facts, order_facts, schedule_facts
from provenance.models.trainer import check_trainable
from provenance.models.writing import RUN, UNFINISHED

PLAIN = ("output_dir", "num_train_epochs", "report_to", "use_cpu", "save_strategy", "remove_unused_columns", "disable_tqdm")
FRAMED = {"begin": BEGIN, "end": False}


class Loss(TrainerCallback):
    """The learning rates that the trainer logs."""

    def __init__(self):
        self.rates = []

    def on_log(self, args, state, control, logs=None, **_):
        if "learning_rate" in logs:
            self.rates.append(logs["learning_rate"])


def steps_of(folder):
    return [json.loads(line) for line in (folder / RUN).read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a recorded run of a trainer, what it was trained on, the trained module, and the rates logged."""
    folder, (works, contents), module, logged = tmp_path_factory.mktemp("run"), corpus(), tiny_llama(), Loss()
    recorder = Recorder(folder / "model", works, contents, adapter_args={"context": 299})
    trainer(module, contents, folder, recorder, logged, logging_strategy="steps", logging_steps=1).train()
    return folder / "model", works, contents, module, logged.rates


def test_a_trainer_s_run_is_a_model_folder_with_the_trainer_s_losses(recorded):
    folder, _, contents, module, rates = recorded
    model = read_model(folder)
    assert [each.step for each in model.card.checkpoints] == [0, 1, 2, 4, 5, 9]
    sums = [each.learning_rate_sum for each in model.card.checkpoints]
    assert sums == pytest.approx([sum(rates[:step]) for step in (0, 1, 2, 4, 5, 9)])
    loaded = model.load(model.card.checkpoints[-1])
    losses = all_losses(model.adapter(), loaded, [Example(content) for content in contents], batch_size=5)
    for content, loss in zip(contents, losses, strict=True):
        with torch.no_grad():
            theirs = module.eval()(**pad(rows_of([content]))).loss.item() * len(content)
        assert loss == pytest.approx(theirs, rel=1e-5)
    first = model.load(model.card.checkpoints[0]).state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in tiny_llama().state_dict().items())


def test_its_recipe_is_known_whole(recorded):
    training = read_model(recorded[0]).card.training
    assert training.missing() == []
    known = training.model_dump(exclude_none=True, exclude={"keep"})
    assert known == {
        "optimizer": "adamw", "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "decay_all": False, "batch_size": 8,
        "micro_batch_size": 4, "epochs": 3.0, "last_batch": "short", "learning_rate": 1e-2, "schedule": "linear",
        "warmup": 2 / 9, "max_grad_norm": 0.5, "dtype": "float32", "seed": 5, "start": "base", "manifest": "manifest.json",
        "source": "recorded",
    }  # fmt: skip
    check_trainable(read_model(recorded[0]))


def test_the_manifest_lists_the_works_and_the_record_what_was_in_each_batch(recorded):
    folder, works, contents, _, rates = recorded
    manifest = read_manifest((folder / "manifest.json").read_bytes(), "manifest")
    expected = {}
    for work, content in zip(works, contents, strict=True):
        expected.setdefault(work, []).append(sha256(content))
    assert manifest.works == {work: tuple(digests) for work, digests in expected.items()}
    lines = steps_of(folder)
    assert [line["rate"] for line in lines] == pytest.approx(rates)
    for epoch in range(3):
        seen = [row for line in lines[3 * epoch : 3 * epoch + 3] for row in line["examples"]]
        assert sorted(seen) == list(range(24))
    assert len({tuple(line["examples"]) for line in lines}) == 9, "another order each epoch"
    assert RUN in read_model(folder).files
    assert RUN not in read_model(folder).other_files()


@pytest.mark.parametrize("last", [{}, {"dataloader_drop_last": True}, {"max_steps": 4}, {"dataloader_num_workers": 1}])
def test_batches_are_those_that_the_model_saw(last, tmp_path):
    """Whatever is left out or drawn ahead."""
    works, contents = corpus(22)
    seen, module = [], tiny_llama()

    def look(_, __, kwargs):
        for row, mask in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            seen.append(bytes(row[mask.bool()][1:].tolist()))

    module.register_forward_pre_hook(look, with_kwargs=True)
    trainer(module, contents, tmp_path, Recorder(tmp_path / "model", works, contents), **last).train()
    recorded = [row for line in steps_of(tmp_path / "model") for row in line["examples"]]
    assert [contents[row] for row in recorded] == seen
    training = read_model(tmp_path / "model").card.training
    # It drops the last pass of an epoch, not the last step.
    assert training.last_batch == (None if "dataloader_drop_last" in last else "short")
    if "max_steps" in last:
        assert training.epochs == pytest.approx(4 / 3)


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_a_killed_run_says_how_far_it_came_and_resumes_to_the_same_folder(recorded, tmp_path):
    whole, works, contents, _, _ = recorded
    folder, options = tmp_path / "model", {"save_strategy": "steps", "save_steps": 2}
    recorder = Recorder(folder, works, contents, adapter_args={"context": 299})
    killed = trainer(tiny_llama(), contents, tmp_path, recorder, Killed(), **options)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    with pytest.raises(ModelError, match=r"a recording that has come to step \d of 9. Resume the training"):
        read_model(folder)
    with (folder / RUN).open("a") as file:
        file.write('{"step": 8, "ra')  # killed while it wrote
    recorder = Recorder(folder, works, contents, adapter_args={"context": 299})
    trainer(tiny_llama(seed=1), contents, tmp_path, recorder, **options).train(resume_from_checkpoint=True)
    one, other = read_model(whole), read_model(folder)
    assert other.card.checkpoints == one.card.checkpoints
    assert steps_of(folder) == steps_of(whole)
    assert other.card.training == one.card.training
    assert not (folder / UNFINISHED).exists()
    for checkpoint in one.card.checkpoints:
        ours, theirs = (load_file(model.folder / checkpoint.file) for model in (one, other))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_not_cleared_is_refused_before_the_first_step_and_at_the_end(tmp_path):
    works, contents = corpus(8)
    cleared = {work: tuple(sha256(c) for w, c in zip(works, contents, strict=True) if w == work) for work in set(works)}
    path = tmp_path / "cleared.json"
    path.write_bytes(Manifest(cleared, {}).as_bytes())
    contents[3] = b"never asked for"
    steps = []
    module = tiny_llama()
    module.register_forward_pre_hook(lambda *_: steps.append(1))
    refused = rf"cleared.json: work '{works[3]}': expected every example .*found 1 of 8 that are not, the first .* example 3"
    with pytest.raises(InputError, match=refused):
        trainer(module, contents, tmp_path, Recorder(tmp_path / "model", works, contents, cleared=path)).train()
    assert steps == []

    works, contents = corpus(8)

    class Withdrawn(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            path.write_bytes(Manifest({**cleared, works[0]: ()}, {}).as_bytes())

    recorder = Recorder(tmp_path / "model", works, contents, cleared=path)
    with pytest.raises(InputError, match=rf"work '{works[0]}': expected every example of the training among those cleared"):
        trainer(module, contents, tmp_path, recorder, Withdrawn()).train()
    assert not (tmp_path / "model/model.toml").exists()


def texts(contents):
    return [content.decode() for content in contents]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda works, contents: (works, contents[:-1]), "expected the work of each example, found 8 works and 7 contents"),
        (lambda works, contents: (works[:-1], contents[:-1]), "expected a dataset with the 7 examples .*, found 8 rows"),
        (
            lambda works, contents: (works, contents[::-1]),
            r"example 0 of the training: expected the adapter's \d+ tokens, found",
        ),
    ],
)
def test_examples_that_are_not_the_rows_of_the_dataset_are_refused(change, message, tmp_path):
    works, contents = corpus(8)
    contents = [content + bytes([65 + at]) * (at + 1) for at, content in enumerate(contents)]
    with pytest.raises(ModelError, match=message):
        trainer(tiny_llama(), contents, tmp_path, Recorder(tmp_path / "model", *change(works, contents))).train()


def test_a_run_that_serves_another_step_than_its_last_and_a_folder_with_a_model_are_refused(recorded, tmp_path):
    folder, works, contents, module, _ = recorded
    best = {
        "load_best_model_at_end": True,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
    }
    made = trainer(module, contents, tmp_path, Recorder(tmp_path / "model", works, contents))
    for name, value in best.items():
        setattr(made.args, name, value)
    with pytest.raises(ModelError, match="expected load_best_model_at_end = False, found True"):
        made.train()
    with pytest.raises(ModelError, match="expected a folder without a model, found a finished one"):
        trainer(module, contents, tmp_path, Recorder(folder, works, contents)).train()


def loop(module, contents, recorder=None, *, epochs=3, size=8, stop=None, optimizer=None):
    """A loop as people write it: SGD with momentum, the rate halved each epoch."""
    optimizer = optimizer or torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    draws, count = torch.Generator().manual_seed(1), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(contents), generator=draws).split(size):
            loss = module(**pad(rows_of([contents[row] for row in rows]))).loss
            optimizer.zero_grad()
            loss.backward()
            if recorder:
                recorder.batch(rows)
            optimizer.step()
            scheduler.step()
            count += 1
            if count == stop:
                raise KeyboardInterrupt


def test_a_plain_loop_is_recorded_in_three_lines(tmp_path):
    works, contents = corpus()
    module = tiny_llama()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    with record(
        module,
        optimizer,
        out=tmp_path / "model",
        adapter_args=FRAMED,
        steps=9,
        works=works,
        contents=texts(contents),
        seed=1,
        max_grad_norm=0.0,
    ) as run:
        loop(module, contents, run, optimizer=optimizer)
    model = read_model(tmp_path / "model")
    training = model.card.training
    assert training.missing() == []
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 0.0)
    assert (training.schedule, training.learning_rate) == ("recorded", 0.5)
    assert training.rates == (1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25)
    assert (training.batch_size, training.epochs, training.last_batch) == (8, 3.0, "short")
    assert model.card.checkpoints[-1].learning_rate_sum == pytest.approx(3 * 0.5 * 1.75)
    last = model.load(model.card.checkpoints[-1])
    assert all(torch.equal(tensor, last.state_dict()[name]) for name, tensor in module.state_dict().items())
    manifest = read_manifest((tmp_path / "model/manifest.json").read_bytes(), "manifest")
    assert Counter(sha for digests in manifest.works.values() for sha in digests) == Counter(map(sha256, contents))


def test_what_a_loop_does_not_say_is_missing_and_named(tmp_path):
    works, contents = corpus(8)
    module = tiny_llama()
    groups = [{"params": [parameter], "weight_decay": 0.1 * (at == 0)} for at, parameter in enumerate(module.parameters())]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    with record(module, optimizer, out=tmp_path / "model", adapter_args=FRAMED, steps=1, works=works, contents=contents) as run:
        loop(module, contents, run, epochs=1, optimizer=optimizer)
    with pytest.raises(ModelError, match=r"\[training\]: expected the recipe of the run, with max_grad_norm, decay_all, found"):
        check_trainable(read_model(tmp_path / "model"))


def test_what_does_not_train_is_frozen_in_the_card(tmp_path):
    works, contents = corpus(8)
    for name, held in (("all", False), ("norm", True)):
        module = tiny_llama()
        module.model.embed_tokens.requires_grad_(False)
        trains = [
            one for key, one in module.named_parameters() if one.requires_grad and not (held and key == "model.norm.weight")
        ]
        optimizer, out = torch.optim.AdamW(trains, lr=1e-3, weight_decay=0.0), tmp_path / name
        with record(
            module, optimizer, out=out, adapter_args=FRAMED, steps=1, works=works, contents=contents, max_grad_norm=0.0
        ) as run:
            loop(module, contents, run, epochs=1, optimizer=optimizer)
        model = read_model(out)
        assert set(model.card.freeze) == {"model.embed_tokens.weight", *(["model.norm.weight"] if held else [])}
        assert model.card.training.loss is None
    with record(module, optimizer, out=tmp_path / "part", adapter_args=FRAMED, steps=1, works=works, contents=contents) as run:
        loop(module, contents, run, epochs=1, optimizer=optimizer)
        module.model.embed_tokens.requires_grad_(True)
    assert "frozen for a part of the run" in read_model(tmp_path / "part").card.training.loss


def test_an_optimizer_of_the_same_name_is_another_one():
    from transformers import Adafactor

    module = torch.nn.Linear(2, 2)
    usual = {"lr": 1e-3, "scale_parameter": False, "relative_step": False}
    changed = {**usual, "clip_threshold": 2.0}
    mine = type("AdamW", (torch.optim.AdamW,), {"__module__": "mine"})
    for kind, options, name in (
        (Adafactor, usual, "adafactor"),
        (Adafactor, changed, "adafactor with clip_threshold = 2.0"),
        (torch.optim.Adafactor, {}, "torch.optim.Adafactor"),
        (mine, {}, "mine.AdamW"),
    ):
        assert optimizer_facts(kind(module.parameters(), **options), module)["optimizer"] == name


def test_a_loop_says_how_its_sequences_are_framed(tmp_path):
    works, contents = corpus(8)
    module = tiny_llama()
    optimizer, known = torch.optim.AdamW(module.parameters()), {"steps": 1, "works": works, "contents": contents}
    message = "recording: adapter_args: expected begin and end, .*, found begin"
    recording = record(module, optimizer, out=tmp_path / "model", adapter_args={"begin": BEGIN}, **known)
    with pytest.raises(ModelError, match=message), recording:
        pass
    assert not (tmp_path / "model").exists()


@dataclass
class DPOConfig(TrainingArguments):
    """As of a trainer of preferences."""

    beta: float = 0.1


def test_a_loss_of_preferences_is_not_taken_for_a_likelihood(tmp_path):
    works, contents = corpus(8)

    class Pairs(type(trainer(tiny_llama(), contents, tmp_path))):
        def compute_loss(self, model, inputs, **_):
            return model(**inputs["pair"]).loss

    def record_pairs(kind, name, **how):
        module, args = tiny_llama(), kind(**vars_of(arguments(tmp_path, remove_unused_columns=False, num_train_epochs=1)))
        recorder = Recorder(tmp_path / name, works, contents, **how)
        collate = {"data_collator": lambda rows: {"pair": pad(rows)}}
        Pairs(model=module, args=args, train_dataset=rows_of(contents), callbacks=[recorder], **collate).train()
        return read_model(tmp_path / name)

    with pytest.raises(ModelError, match="expected begin and end"):
        record_pairs(TrainingArguments, "unframed")
    model = record_pairs(TrainingArguments, "framed", adapter_args=FRAMED)
    assert model.card.training.loss == "that of a trainer whose batches are not token ids of single examples"
    model = record_pairs(DPOConfig, "preferences", adapter_args=FRAMED)
    assert model.card.training.loss == "that of a trainer with DPOConfig"
    with pytest.raises(ModelError, match="training.loss"):
        check_trainable(model)


def vars_of(args):
    return {field.name: getattr(args, field.name) for field in fields(args) if field.init and field.name in PLAIN}


def test_batches_of_many_sizes_have_no_size():
    known = order_facts([[0, 1, 2], [3], [4, 5], [0, 1, 2], [3, 4], [5]], 6, None)
    assert known == {"batch_size": None, "last_batch": None, "epochs": 2.0}
    assert order_facts([[0, 1, 2, 3], [4, 5], [4, 1, 5, 3], [0, 2]], 6, None)["batch_size"] == 4


def test_a_step_without_a_batch_is_an_error(tmp_path):
    works, contents = corpus(8)
    module = tiny_llama()
    optimizer = torch.optim.AdamW(module.parameters())
    recording = record(module, optimizer, out=tmp_path / "model", adapter_args=FRAMED, steps=1, works=works, contents=contents)
    message = r"step 1: expected the examples of the batch, found none. Call `run.batch"
    with pytest.raises(ModelError, match=message), recording:
        loop(module, contents, optimizer=optimizer)


def test_a_loop_that_was_killed_resumes(tmp_path):
    works, contents = corpus()

    def run(out, stop=None):
        module = tiny_llama()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
        with record(module, optimizer, out=out, adapter_args=FRAMED, steps=9, works=works, contents=contents) as recorder:
            loop(module, contents, recorder, optimizer=optimizer, stop=stop)

    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "model", stop=6)
    module = tiny_llama()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.125, momentum=0.9)
    options = {"steps": 9, "works": works, "contents": contents}
    message = "expected the recording of this run, up to step 7 at least, found one up to step 6"
    with (
        pytest.raises(ModelError, match=message),
        record(module, optimizer, out=tmp_path / "model", adapter_args=FRAMED, resume=7, **options),
    ):
        pass
    with record(module, optimizer, out=tmp_path / "model", adapter_args=FRAMED, resume=4, **options) as recorder:
        for _ in range(5):
            recorder.batch(range(8))
            optimizer.step()
    assert [line["step"] for line in steps_of(tmp_path / "model")] == list(range(1, 10))
    assert steps_of(tmp_path / "model")[:4] == steps_of(tmp_path / "whole")[:4]
    assert [each.step for each in read_model(tmp_path / "model").card.checkpoints] == [0, 1, 2, 4, 5, 9]


def test_recording_loads_nothing_that_a_training_environment_lacks():
    heavy = ("airflow", "dask", "distributed", "polars", "s3fs", "sqlalchemy")
    script = f"import sys, provenance.models.recording; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_warm_up_that_is_longer_than_the_run_is_recorded_by_its_rates():
    rates = [1e-2 * step / 40 for step in range(1, 11)]
    stated = {"learning_rate": 1e-2, "schedule": "linear", "warmup": 4.0}
    known = Training.model_validate(schedule_facts(rates, stated))
    assert (known.schedule, known.warmup) == ("recorded", None)
    assert rates_of(known, 10) == pytest.approx(rates)


def test_rates_of_any_schedule_are_followed_at_another_number_of_steps():
    rates = [1e-3 * (0.2 + np.sin(step / 100) ** 2) for step in range(1000)]
    known = Training.model_validate(schedule_facts(rates, {"learning_rate": 1e-3}))
    assert len(known.rates) == 256
    assert rates_of(known, 1000) == pytest.approx(rates, rel=1e-2)
    half = np.interp(np.linspace(0, 999, 500), np.arange(1000), rates)
    assert rates_of(known, 500) == pytest.approx(half.tolist(), rel=1e-2)


# Several processes, and adapters.


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    """The folder of runs that `processes.py` recorded on two processes."""
    folder = tmp_path_factory.mktemp("processes")
    script = Path(__file__).with_name("processes.py")
    path = os.pathsep.join(map(str, (script.parent, script.parents[1], script.parents[2])))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(folder)]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_runs_on_several_processes_are_recorded_whole(on_two_processes):
    works, contents = corpus(16)
    expected = Counter(zip(works, map(sha256, contents), strict=True))
    start = tiny_llama().state_dict()
    for name in ("ddp", "fsdp", "trainer"):
        model = read_model(on_two_processes / name)
        manifest = read_manifest((model.folder / "manifest.json").read_bytes(), name)
        assert Counter((work, sha) for work, digests in manifest.works.items() for sha in digests) == expected
        first = model.load(model.card.checkpoints[0]).state_dict()
        assert all(torch.equal(tensor, first[key]) for key, tensor in start.items())
        assert model.card.training.batch_size == 8
        assert model.card.training.micro_batch_size == 4
        assert model.card.training.missing() == []
        for line in steps_of(model.folder):
            assert len(set(line["examples"])) == 8
    ddp, fsdp = (load_file(on_two_processes / name / "step-0008.safetensors") for name in ("ddp", "fsdp"))
    assert ddp.keys() == fsdp.keys()
    assert all(torch.allclose(ddp[name], fsdp[name], atol=1e-5) for name in ddp)
    assert steps_of(on_two_processes / "ddp")[0]["examples"] == [0, 2, 4, 6, 1, 3, 5, 7]


# peft asks transformers by the old name.
OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora(module):
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    return peft.get_peft_model(module, config)


@OLD_NAME
def test_of_an_adapter_only_the_adapter_is_kept_and_the_base_named(tmp_path):
    works, contents = corpus()
    tiny_llama().save_pretrained(tmp_path / "base")
    module = lora(tiny_llama())
    known = {"digests": [sha256(content) for content in contents], "base": tmp_path / "base"}
    with pytest.raises(ModelError, match="recording: adapter_args: expected begin and end, .* found none"):
        trainer(module, contents, tmp_path, Recorder(tmp_path / "model", works, **known)).train()
    trainer(module, contents, tmp_path, Recorder(tmp_path / "model", works, adapter_args=FRAMED, **known)).train()
    folder, trained = tmp_path / "model", {name: p for name, p in module.named_parameters() if p.requires_grad}
    for step in (0, 9):
        tensors = load_file(folder / f"step-{step:04d}.safetensors")
        assert {f"base_model.model.{name}" for name in tensors} == trained.keys()
        assert all(name.endswith((".lora_A.default.weight", ".lora_B.default.weight")) for name in tensors)
    assert all(torch.equal(tensor, trained[f"base_model.model.{name}"]) for name, tensor in tensors.items())
    card = tomllib.loads((folder / "model.toml").read_text())
    assert card["base"] == {"folder": "../base", "digest": read_base(tmp_path / "base", "base").digest}
    assert card["training"]["start"] == "base"
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2


@OLD_NAME
def test_a_base_in_bfloat16_is_one_again(tmp_path):
    works, contents = corpus(8)
    tiny_llama().bfloat16().save_pretrained(tmp_path / "base")
    recorder = Recorder(tmp_path / "model", works, contents, base=tmp_path / "base")
    trainer(lora(tiny_llama().bfloat16()), contents, tmp_path, recorder).train()
    card = read_model(tmp_path / "model").card
    assert (card.adapter_args["dtype"], card.training.dtype) == ("bfloat16", "float32")
    half = Recorder(tmp_path / "half", works, contents, base=tmp_path / "base")
    trainer(lora(tiny_llama().half()), contents, tmp_path, half).train()
    assert read_model(tmp_path / "half").card.training.dtype == "float32 over frozen weights in float16"


@OLD_NAME
def test_an_adapter_whose_base_is_nowhere_is_refused(tmp_path):
    works, contents = corpus(8)
    message = r"recording: base: expected the folder of the frozen weights .*found None. Save the model before"
    with pytest.raises(ModelError, match=message):
        trainer(lora(tiny_llama()), contents, tmp_path, Recorder(tmp_path / "model", works, contents)).train()
