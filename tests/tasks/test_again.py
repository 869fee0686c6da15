"""What a night without news costs is mostly imports: a stage that has nothing to compute loads nothing that computes."""

import json
import os
import subprocess
import sys

import pytest
from samples import DAY, outputs_frame
from stages import SMALL, night, run

from provenance.core.settings import CHECKOUT

NEXT = "2026-11-20"
# Modules of a second or more together, which only computing needs: models, workers, migrations.
HEAVY = ("torch", "transformers", "scipy", "cupy", "dask", "distributed", "alembic", "datasketch", "typst")
SCRIPT = """
import json, sys
heavy, stages, day = json.loads(sys.argv[1])
import tasks.lineage.events
from tasks.stages import run
argument, found = day, {}
for stage in stages:
    result = run(stage, day if stage in ("inputs.freeze", "settlement.publish", "settlement.reconcile") else argument)
    argument = result if stage == "inputs.freeze" else argument
    found[stage] = [name for name in heavy if name in sys.modules]
print("FOUND" + json.dumps([argument, found]))
"""
COMPUTING = (
    "inputs.freeze", "features.plan", "features.featurise", "influence.fit_curvature", "influence.score",
    "royalty.likelihoods", "royalty.estimate", "royalty.share",
)  # fmt: skip
MONEY = ("settlement.review", "settlement.book", "settlement.publish", "settlement.reconcile", "royalty.credit")


@pytest.fixture
def paid(ingested):
    """The folder of a night that is paid, with its credits."""
    ingested(days=(DAY,), **SMALL)
    folder = night()
    run("royalty.credit", folder)
    return folder


def in_a_fresh_process(stages, day):
    """Run stages in a new process, as tasks do; returns the night's folder, and the heavy modules loaded after each stage."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([HEAVY, stages, day])]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("FOUND")[1])


def test_a_night_that_is_done_loads_nothing_that_computes(paid):
    folder, found = in_a_fresh_process((*COMPUTING, *MONEY), DAY)
    assert folder == paid
    assert found == {stage: [] for stage in (*COMPUTING, *MONEY)}


def test_a_new_day_loads_no_model_before_features_are_computed(paid, store):
    store.write_table(f"outputs/day={NEXT}/part.parquet", outputs_frame(NEXT))
    stages = ("inputs.freeze", "features.plan")
    folder, found = in_a_fresh_process(stages, NEXT)
    assert folder.startswith(f"nights/day={NEXT}/")
    assert found == {stage: [] for stage in stages}


def test_what_computes_loads_what_it_needs(ingested):
    """Or the tests above would hold if the list of modules named none that is used."""
    ingested(days=(DAY,), **SMALL)
    _, found = in_a_fresh_process(COMPUTING[:3], DAY)
    assert {"torch", "transformers", "scipy", "distributed"} <= set(found["features.featurise"])
