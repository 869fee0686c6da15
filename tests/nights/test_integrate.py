"""The page docs/integrate.md, run as it stands: from a fine-tune, made without our code, to its first payout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from runs import make_base
from samples import create_database, sentence

from provenance.core.settings import CHECKOUT

pytestmark = pytest.mark.night
PAGE = (CHECKOUT / "docs/integrate.md").read_text()
OWNERS, EACH = 5, 12


@pytest.fixture(scope="module")
def ran(airflow_environment, postgres, tmp_path_factory):
    """A folder in which all commands of the page were run, in order."""
    folder = tmp_path_factory.mktemp("page")
    make_base(folder / "base", max_position_embeddings=256)
    texts = {f"Owner {owner}": [sentence(owner, number).decode() for number in range(EACH)] for owner in range(OWNERS)}
    rows = [{"text": text, "author": owner} for owner, own in texts.items() for text in own]
    pl.DataFrame(rows).write_parquet(folder / "texts.parquet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVENANCE_")}
    environment |= airflow_environment | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "PROVENANCE_DATABASE__URL": create_database(postgres),
        "PROVENANCE_SIGNALS__COLLECT": "false",
    }
    (script,) = re.findall(r"^```python finetune\.py\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "finetune.py").write_text(script)
    commands = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = ["set -eux", "python finetune.py", *commands]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    return folder


def test_every_owner_of_the_texts_may_be_paid_and_shares_add_up(ran):
    (export,) = (ran / "mine/store/exports/payouts/day=2026-11-20").glob("rev=0001")
    payouts = pl.read_csv(export / "payouts.csv")
    assert payouts["earned_minor"].sum() > 0
    assert set(payouts["owner_id"]) <= {f"Owner {owner}" for owner in range(OWNERS)}
    shares = pl.read_parquet(export / "credits.parquet").group_by("output_id").agg(pl.col("share_ppb").sum())
    assert (shares["share_ppb"] == 1_000_000_000).all()
    (fidelity,) = json.loads((export / "manifest.json").read_text())["fidelity"].values()
    assert fidelity["models"] > 4
