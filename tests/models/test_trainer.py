"""A model's training command runs in a copy of its folder, and errors show its last lines."""

import json
import shutil
import sys

import polars as pl
import pytest
from bases import adapted, save_base
from samples import reword

from provenance.core.errors import ModelError
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.model import read_model
from provenance.models.trainer import point_to_base, train_model

WORKS = pl.DataFrame({"work_id": ["a", "b"], "content": [b"one", b"two"]})


def test_a_command_runs_in_a_copy_of_the_model_s_folder_with_works_seed_and_output_folder(by_command, tmp_path):
    out, before = tmp_path / "scratch/model", read_model(by_command)
    out.parent.mkdir()
    train_model(before, WORKS, seed=7, folder=out)
    seed, files = json.loads((out / "arguments.json").read_text())
    assert (seed, files) == ("7", sorted([*before.files, "log.txt"]))
    assert pl.read_parquet(out / "examples.parquet").equals(WORKS)
    assert read_model(by_command) == before, "what the command writes there stays in the copy"
    assert list(out.parent.iterdir()) == [out]


class Writer:
    """An adapter whose training writes weights and a card alone."""

    def __init__(self, folder, **arguments):
        self.inner = CausalLM(folder, epochs=1, **arguments)
        self.module, self.collate, self.loss = self.inner.module, self.inner.collate, self.inner.loss

    def train(self, contents, *, seed, folder):
        self.inner.train(contents, seed=seed, folder=folder, model_id="written")
        (folder / "config.json").unlink()
        reword(folder / "model.toml", '"CausalLM"', '"test_trainer:Writer"')


def test_files_that_a_training_does_not_write_are_copied(tiny_model, tmp_path):
    folder = tmp_path / "served"
    shutil.copytree(tiny_model, folder)
    (folder / "words.txt").write_text("one two")
    reword(folder / "model.toml", '"CausalLM"', '"test_trainer:Writer"')
    served = read_model(folder)
    train_model(served, WORKS, seed=1, folder=tmp_path / "again")
    again = read_model(tmp_path / "again")
    assert again.other_files() == served.other_files() == again.other_files() | {"words.txt": again.files["words.txt"]}
    again.load(again.card.checkpoints[-1])


@pytest.mark.parametrize(
    ("program", "seed", "message"),
    [
        (sys.executable, 13, r"expected exit code 0, found 1; .*: training with seed 13 \| this seed is unlucky"),
        (sys.executable, 14, r"expected a model folder, written to \{out\}, found no model.toml there"),
        ("no-such-program", 1, r"expected a command that can be run, found no-such-program: .*No such file"),
        ("{corpus}", 1, r"expected only the placeholders {works}, .*, found '\{corpus\}'"),
        ("{works.name}", 1, r"expected only the placeholders {works}, .*, found '\{works.name\}'"),
        ("{", 1, r"expected only the placeholders {works}, .*, found '\{'"),
    ],
)
def test_the_error_of_a_failed_command_shows_its_last_lines(by_command, tmp_path, program, seed, message):
    reword(by_command / "model.toml", json.dumps(sys.executable), json.dumps(program))
    with pytest.raises(ModelError, match=rf"model.toml: \[training\] command: {message}"):
        train_model(read_model(by_command), WORKS, seed=seed, folder=tmp_path / "model")


def test_a_command_finds_the_base_from_its_copy(tmp_path):
    save_base(tmp_path / "base")
    folder = adapted(tmp_path / "adapted")
    program = (
        "import pathlib, sys; from provenance.models.model import read_model; model = read_model(pathlib.Path('.'));"
        "out = pathlib.Path(sys.argv[1]); out.mkdir(); (out / 'model.toml').write_text(model.base.digest)"
    )
    command = json.dumps([sys.executable, "-c", program, "{out}"])
    (folder / "model.toml").write_text((folder / "model.toml").read_text() + f"\n[training]\ncommand = {command}\n")
    model = read_model(folder)
    train_model(model, WORKS, seed=7, folder=tmp_path / "out")
    assert (tmp_path / "out/model.toml").read_text() == model.base.digest


def test_a_card_that_lies_elsewhere_names_its_base_by_its_whole_path(tmp_path):
    save_base(tmp_path / "base")
    model = read_model(adapted(tmp_path / "adapted"))
    shutil.copytree(model.folder, tmp_path / "far/away/copy")
    point_to_base(model, tmp_path / "far/away/copy")
    copy = read_model(tmp_path / "far/away/copy")
    assert (copy.base, copy.card.checkpoints) == (model.base, model.card.checkpoints)
