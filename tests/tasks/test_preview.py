"""What days would change is said of all of them, also where one cannot be paid."""

import json

from samples import DAY, corpus_frames, deliver
from stages import SMALL, run
from typer.testing import CliRunner

from tasks.cli import app

BEFORE, NEXT = "2026-11-18", "2026-11-20"


def test_a_day_without_outputs_is_one_line_and_the_others_go_on(store, environment):
    environment(store, **SMALL)
    deliver(store, corpus_frames(), days=(DAY,))
    run("ingest.ingest")
    said = CliRunner().invoke(app, ["preview", BEFORE, NEXT, "--json"])
    assert said.exit_code == 2
    before, day, after = json.loads(said.stdout)
    for failed in (before, after):
        assert "expected the day's outputs as Parquet files, found none. If nothing was served" in failed["problem"]
        assert failed["changes"] == []
    assert (day["day"], day["problem"]) == (DAY, "")
    assert day["changes"]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["preview", DAY, NEXT])
    assert shown.exit_code == 2
    assert "fails: " in shown.stdout
    assert "all 1 days" not in shown.stdout
    assert CliRunner().invoke(app, ["preview", DAY, DAY]).exit_code == 0
