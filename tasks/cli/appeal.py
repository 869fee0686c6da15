"""`provenance appeal`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from provenance.core.errors import InputError
from tasks.cli.shared import AsJson, OwnerId, Workers, console, day_argument, settings_in_force, show, watched
from tasks.terminal import Terminal

if TYPE_CHECKING:
    from tasks.settings import Settings

app = typer.Typer()


@app.command()
def appeal(
    owner_id: OwnerId,
    day: Annotated[
        str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="The day contested; by default the latest with a credit.")
    ] = None,
    outputs: Annotated[
        str, typer.Option("--outputs", help="Outputs contested, with commas between; by default all that credit the owner.")
    ] = "",
    pairs: Annotated[int, typer.Option(min=4, help="Pairs of trainings, an even number; more make the answer surer.")] = 16,
    yes: Annotated[bool, typer.Option("--yes", help="Train without asking.")] = False,
    most: Annotated[int, typer.Option(min=1, help="Outputs listed.")] = 20,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Answer an owner who contests a share by an experiment: models trained with and without its works.

    Says first what that costs, and asks. Each pair trains a model on some of the other owners, and one on those and the owner.
    How much more likely the works make an output is the owner's share of it, with an interval, beside the share that was paid.
    Writes a signed report, a page and JSON, below `appeals/` in the store. Nothing is booked: that is a person's decision.
    Stopped at any moment, the same command goes on where it was; again it trains nothing and writes the same report.

    Example: `provenance appeal tom-christie --day 2026-11-20 --pairs 16`
    """
    from provenance.validation.appeals import experiment as task
    from tasks.cli.appeal_tables import appeal_screen, cost_screen

    settings = _settings(workers)
    chosen = tuple(name.strip() for name in outputs.split(",") if name.strip())
    asked = day_argument(day) if day else None
    with watched():
        planned = task.plan(settings, task.contested(settings, owner_id, day=asked, output_ids=chosen), pairs)
    at_a_time = None if settings.cluster.address else settings.cluster.workers
    Terminal(stderr=True).print(*cost_screen(planned, at_a_time), sep="\n", soft_wrap=True)
    if planned.missing and not yes and not _agreed(planned.cost["missing"], as_json=as_json):
        console.print("Nothing was trained.")
        return
    with watched():
        report = task.answer(settings, planned)
    show({"folder": planned.folder, **report}, appeal_screen(report, planned.folder, most=most), as_json=as_json)


def _settings(workers: int | None) -> Settings:
    """The settings in force, with their cluster, or else with workers of this machine."""
    from provenance.local.attribute import local_settings

    settings = settings_in_force()
    return settings if settings.cluster.address and not workers else local_settings(device="cpu", workers=workers)


def _agreed(trainings: int, *, as_json: bool) -> bool:
    """Whether somebody at a terminal agrees to so many trainings; raises InputError where there is nobody to ask."""
    if as_json or not sys.stdin.isatty():
        expected = f"somebody's consent to {trainings} trainings"
        raise InputError("--yes", expected=expected, found="none", hint="Give the same command with --yes.")
    return typer.confirm(f"Train {trainings} models?", err=True)
