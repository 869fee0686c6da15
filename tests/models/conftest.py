"""A model folder with a training command."""

import json
import shutil
import sys

import pytest
from samples import reword

TRAINER = """
import json, pathlib, shutil, sys
works, seed, out = sys.argv[1:]
print("training with seed", seed)
pathlib.Path("log.txt").write_text("step 1")
if seed == "13":
    sys.exit("this seed is unlucky")
pathlib.Path(out).mkdir()
if seed != "14":
    shutil.copy("model.toml", out)
shutil.copy(pathlib.Path(works) / "examples.parquet", out)
(pathlib.Path(out) / "arguments.json").write_text(json.dumps([seed, sorted(map(str, pathlib.Path().iterdir()))]))
"""


@pytest.fixture
def by_command(tiny_model, tmp_path):
    """A copy of the tiny model whose `model.toml` names a command."""
    folder = tmp_path / "commanded"
    shutil.copytree(tiny_model, folder)
    (folder / "train.py").write_text(TRAINER)
    command = json.dumps([sys.executable, "train.py", "{works}", "{seed}", "{out}"])
    reword(folder / "model.toml", "[training]\n", f"[training]\ncommand = {command}\n")
    return folder
