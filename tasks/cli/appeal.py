"""Command for appeals: `provenance appeal`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from typer import Option

from provenance.core.errors import InputError, parse_day
from provenance.core.money import PPB, format_minor
from tasks.cli.help import DECIDE, Command
from tasks.cli.shared import AsJson, OwnerId, Workers, console, show, watched, words
from tasks.cli.tables import Grid, more, number, range_of
from tasks.settings import load
from tasks.terminal import Terminal, as_text, line
from tasks.where import local_settings, opened

if TYPE_CHECKING:
    from provenance.validation.appeals.experiment import Appeal

app = typer.Typer()


@app.command(cls=Command, rich_help_panel=DECIDE)
def appeal(
    owner_id: OwnerId,
    day: Annotated[
        str | None, Option("--day", metavar="DAY", help="YYYY-MM-DD; by default the latest day with a credit.")
    ] = None,
    outputs: Annotated[
        str | None, Option("--outputs", help="Outputs, with commas between; by default all that credit the owner.")
    ] = None,
    pairs: Annotated[int, Option(min=4, help="Pairs of trainings, an even number; more narrow the intervals.")] = 16,
    yes: Annotated[bool, Option("--yes", help="Train without asking.")] = False,
    most: Annotated[int, Option(min=1, help="Outputs listed.")] = 20,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Answer an owner who contests a share by an experiment: models trained with and without its works.

    Shows the cost first, and asks. Each pair trains a model on some of the other owners, and one on those and the owner. The
    increase of an output's likelihood by the owner's works is its share, shown with an interval beside the share that was paid.
    Writes a signed report, a page and JSON, below `appeals/` in the store. Nothing is booked: a person decides that.
    Stopped at any moment, the same command goes on from there; run again, it trains nothing and writes the same report.

    Example: `provenance appeal tom-christie --day 2026-11-20 --pairs 16`
    """
    from provenance.validation.appeals import experiment

    settings = load()
    if workers or not settings.cluster.address:
        settings = local_settings(device="cpu", workers=workers)
    contested_day = parse_day("--day", day).isoformat() if day else None
    chosen = words(outputs or "")
    if outputs is not None and not chosen:
        hint = "Without --outputs all that credit the owner are contested."
        raise InputError("--outputs", expected="ids of outputs, with commas between", found=repr(outputs), hint=hint)
    with opened(settings) as where:
        with watched():
            case = experiment.contested(where, owner_id, day=contested_day, output_ids=chosen)
            plan = experiment.plan(where, case, pairs)
        at_a_time = None if settings.cluster.address else settings.cluster.workers
        Terminal(stderr=True).print(*as_text(cost_screen(plan, at_a_time)), sep="\n", soft_wrap=True)
        if plan.missing and not yes and not _confirmed(plan.cost["missing"], as_json=as_json):
            console.print("Nothing was trained.")
            return
        with watched():
            report = experiment.answer(where, plan)
    show({"folder": plan.folder, **report}, appeal_screen(report, plan.folder, most=most), as_json=as_json)


def _confirmed(trainings: int, *, as_json: bool) -> bool:
    """Whether a person at the terminal agrees to the trainings; raises InputError without a person to ask."""
    if as_json or not sys.stdin.isatty():
        expected = f"somebody's consent to {trainings} trainings"
        raise InputError("--yes", expected=expected, found="none", hint="Give the same command with --yes.")
    return typer.confirm(f"Train {trainings} models?", err=True)


def cost_screen(plan: Appeal, at_a_time: int | None) -> Iterator[RenderableType]:
    """What is contested, and the trainings needed.

    Args:
        at_a_time: trainings in parallel on this machine; None on a cluster.
    """
    from provenance.validation.appeals.page import count

    facts, cost = plan.case.facts, plan.cost
    outputs = count(plan.case.outputs.height, "output")
    yield line(f"{facts['owner_id']} contests {outputs} of {facts['day']}, revision {facts['revision']}.", "bold")
    yield f"{cost['pairs']} pairs, with and without the owner's works: {cost['trainings']} trainings."
    rest = f"the other {cost['missing']} are worth {cost['worth']} trainings on everything"
    yield f"{cost['there']} of them are there; {rest}."
    if cost["missing"] and at_a_time:
        times = cost["worth"] / min(at_a_time, cost["missing"])
        yield f"With {at_a_time} at a time that takes about {times:.1f} times as long as one training on everything does here."


def appeal_screen(report: Mapping[str, Any], folder: str, *, most: int) -> Iterator[RenderableType]:
    """Shares by the experiment, beside those that were paid."""
    from provenance.validation.appeals.page import largest_first

    title = f"Appeal of {report['owner_name']} about {report['day']}, revision {report['revision']}"
    headings = ("paid", "range", "experiment", "range", "difference\nfor the day", "range")
    table = Grid(title, "outputs", *(number(heading, no_wrap=True) for heading in headings))
    for row in report["currencies"]:
        change, currency = row["difference_minor"], row["currency"]
        ends = " to ".join(format_minor(change[end], currency, symbol=False) for end in ("low", "high"))
        cells = (*_share(row["paid"]), *_share(row["found"]), format_minor(change["value"], currency), ends)
        table.add_row(f"{row['outputs']} in {currency}", *cells)
    table.add_section()
    outputs = largest_first(report)
    for row in outputs[:most]:
        table.add_row(row["output_id"], *_share(row["paid"]), *_share(row["found"]), "", "")
    yield table
    if len(outputs) > most:
        yield more(len(outputs) - most, ", in report.json")
    yield from (line(sentence, "bold") for sentence in report["verdict"])
    yield from report["limits"]
    yield line("Nothing is booked. Ranges are 90 %; more pairs make the experiment's narrower.", "dim")
    yield f"{folder}: report.html, report.json, report.sig"


def _share(share: Mapping[str, int] | None) -> tuple[str, str]:
    if share is None:
        return "not known", ""
    return f"{share['ppb'] / PPB:.2%}", range_of(share["low_ppb"] / PPB, share["high_ppb"] / PPB)
