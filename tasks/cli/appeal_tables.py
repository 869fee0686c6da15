"""What an appeal costs before it starts, and what it found: lines and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from provenance.core.money import PPB, format_minor
from provenance.validation.appeals.experiment import Appeal
from provenance.validation.appeals.page import count, largest_first
from tasks.cli.tables import number, titled
from tasks.terminal import cell, line


def cost_screen(appeal: Appeal, workers: int | None) -> Iterator[RenderableType]:
    """What is contested, and what answering takes where so many workers train at a time (None: a cluster decides)."""
    facts, cost = appeal.case.facts, appeal.cost
    outputs = count(appeal.case.outputs.height, "output")
    yield line(f"{facts['owner_id']} contests {outputs} of {facts['day']}, revision {facts['revision']}.", style="bold")
    yield line(f"{cost['pairs']} pairs, with and without the owner's works: {cost['trainings']} trainings.")
    rest = f"the other {cost['missing']} are worth {cost['worth']} trainings on everything"
    yield line(f"{cost['there']} of them are there; {rest}.")
    if cost["missing"] and workers:
        times = cost["worth"] / min(workers, cost["missing"])
        yield line(
            f"With {workers} at a time that takes about {times:.1f} times as long as one training on everything does here."
        )


def appeal_screen(report: Mapping[str, Any], folder: str, *, most: int) -> Iterator[RenderableType]:
    """What an appeal found beside what was paid."""
    title = f"Appeal of {cell(report['owner_name'])} about {report['day']}, revision {report['revision']}"
    headings = ("paid", "range", "experiment", "range", "difference\nfor the day", "range")
    table = titled(title, "outputs", *(number(heading, no_wrap=True) for heading in headings))
    for row in report["currencies"]:
        change, currency = row["difference_minor"], row["currency"]
        ends = " to ".join(format_minor(change[end], currency, symbol=False) for end in ("low", "high"))
        cells = (*_share(row["paid"]), *_share(row["found"]), format_minor(change["value"], currency), ends)
        table.add_row(f"{row['outputs']} in {currency}", *cells)
    table.add_section()
    outputs = largest_first(report)
    for row in outputs[:most]:
        table.add_row(cell(row["output_id"]), *_share(row["paid"]), *_share(row["found"]), "", "")
    yield table
    if len(outputs) > most:
        yield Text(f"and {len(outputs) - most:,} more, in report.json", style="dim")
    for sentence in report["verdict"]:
        yield line(sentence, style="bold")
    yield Text("Nothing is booked. Ranges are 90 %; more pairs make the experiment's narrower.", style="dim")
    yield line(f"{folder}: report.html, report.json, report.sig")


def _share(share: Mapping[str, int] | None) -> tuple[str, str]:
    if share is None:
        return "not known", ""
    return f"{share['ppb'] / PPB:.2%}", f"{share['low_ppb'] / PPB * 100:.1f}-{share['high_ppb'] / PPB:.1%}"
