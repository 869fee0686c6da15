"""A preview shows the changes of all days, including days that cannot be paid."""

import json

from samples import DAY
from stages import SMALL

BEFORE, NEXT = "2026-11-18", "2026-11-20"


def test_a_day_without_outputs_is_one_line_and_the_others_go_on(ingested, command_line, shown, monkeypatch):
    ingested(**SMALL)
    code, out, _ = command_line("preview", BEFORE, NEXT, "--json")
    assert code == 2
    before, day, after = json.loads(out)
    for failed in (before, after):
        assert "expected the day's outputs as Parquet files, found none. If nothing was served" in failed["problem"]
        assert failed["changes"] == []
    assert (day["day"], day["problem"]) == (DAY, "")
    assert day["changes"]
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = command_line("preview", DAY, NEXT)
    assert code == 2
    assert "fails: " in out
    assert "all 1 days" not in out
    shown("preview", DAY, DAY)
