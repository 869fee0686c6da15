"""A preview shows the changes of all days, including days that cannot be paid."""

import io
import json

from rich.console import Console
from samples import DAY
from stages import SMALL

from tasks.cli.nights import preview_screen

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


def test_owners_are_counted_once_whatever_currencies_they_earn_in():
    changes = [("ann", "EUR", 0, 5), ("ann", "USD", 0, 7), ("bob", "EUR", 3, 1)]
    console = Console(width=100, file=io.StringIO())
    for part in preview_screen([{"day": DAY, "changes": changes, "reasons": [], "problem": ""}]):
        console.print(part)
    shown = console.file.getvalue()
    (row,) = [line.split() for line in shown.splitlines() if line.split()[:1] == [DAY]]
    assert row[1] == "2"
    assert "Owners whose amounts change by these days together: 2" in " ".join(shown.split())
