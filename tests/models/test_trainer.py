"""A model's training command runs in its folder, and errors show its last lines."""

import json
import sys

import polars as pl
import pytest
from samples import reword

from provenance.core.errors import ModelError
from provenance.models.model import read_model
from provenance.models.trainer import train_model

WORKS = pl.DataFrame({"work_id": ["a", "b"], "content": [b"one", b"two"]})


def test_a_command_runs_in_the_model_s_folder_with_works_seed_and_output_folder(by_command, tmp_path):
    out = tmp_path / "scratch/model"
    out.parent.mkdir()
    train_model(read_model(by_command), WORKS, seed=7, folder=out)
    assert json.loads((out / "arguments.json").read_text()) == ["7", str(by_command)]
    assert pl.read_parquet(out / "examples.parquet").equals(WORKS)


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
