"""`provenance optout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provenance.core.errors import InputError, parse_day
from tasks.cli.shared import Known, Shown, command, console, known_time, settings_in_force

app = typer.Typer(no_args_is_help=True, help="What owners do not want, and what becomes of it.")

WorkId = Annotated[str | None, typer.Argument(metavar="[WORK_ID]", help="The work, as the corpus names it; or --all.")]
Owner = Annotated[str, typer.Option("--owner", help="Who holds a stake in it, or has held one.")]
Evidence = Annotated[str, typer.Option("--evidence", help="What says that it is the owner's will; it stands there for good.")]
By = Annotated[str, typer.Option("--by", help="Who records it; it stands there for good.")]
From = Annotated[
    str | None, typer.Option("--from", metavar="YYYY-MM-DD", help="First day on which it counts (UTC); by default today.")
]
KeepUnknown = Annotated[
    bool, typer.Option("--keep-unknown", help="Record it also for works whose owner is not known, or that may come.")
]


@command(app, "add")
def optout_add(
    owner: Owner,
    choice: Annotated[str, typer.Option("--choice", help="In models that hold the work: paid, credited or held.")],
    by: By,
    evidence: Evidence,
    work_id: WorkId = None,
    every: Annotated[bool, typer.Option("--all", help="All works of the owner in the corpus in force.")] = False,
    day: From = None,
    keep_unknown: KeepUnknown = False,
) -> Shown:
    """Record that an owner wants no model to come to be trained on a work, and what becomes of its part in those that are.

    *paid*: nothing changes; *credited*: named, without money; *held*: its part waits in escrow as `held-OWNER`, until
    `provenance claim` gives it to somebody. Nights of days before stay as they are.

    Example: `provenance optout add httpx==0.28.1/httpx/_client.py --owner tom-christie --choice held --by Ann --evidence mail`
    """
    from provenance.corpus.rights.optout_records import opt_out

    rows = opt_out(
        settings_in_force().store.open(),
        owner,
        _one_or_all(work_id, every=every),
        choice=choice,
        evidence=evidence,
        by=by,
        day=parse_day("--from", day) if day else None,
        keep_unknown=keep_unknown,
    )
    yield from _told(rows.to_dicts())


@command(app, "withdraw")
def optout_withdraw(
    owner: Owner,
    by: By,
    evidence: Evidence,
    work_id: WorkId = None,
    every: Annotated[bool, typer.Option("--all", help="All works that the owner opted out of.")] = False,
    day: From = None,
) -> Shown:
    """Record that an owner agrees again; the opt-out stays in the records.

    Example: `provenance optout withdraw httpx==0.28.1/httpx/_client.py --owner tom-christie --by "J. Doe" --evidence "mail"`
    """
    from provenance.corpus.rights.optout_records import withdraw

    one, first = _one_or_all(work_id, every=every), parse_day("--from", day) if day else None
    rows = withdraw(settings_in_force().store.open(), owner, one, evidence=evidence, by=by, day=first)
    yield from _told(rows.to_dicts())


@command(app, "import")
def optout_import(
    file: Annotated[Path, typer.Argument(help="A CSV file; `provenance optout columns` explains its columns.")],
    by: By,
    keep_unknown: KeepUnknown = False,
) -> Shown:
    """Record opt-outs and withdrawals, all lines of a file or none. The same file again adds nothing.

    Example: `provenance optout import optouts.csv --by "J. Doe"`
    """
    from provenance.corpus.rights.optout_records import import_file

    lines, rows = import_file(settings_in_force().store.open(), file, by=by, keep_unknown=keep_unknown)
    yield from _told(rows.to_dicts(), lines)


@command(app, "list")
def optout_list(known: Known = None) -> Shown:
    """The last that is recorded for each work and owner: in force, for a later day, or withdrawn.

    Example: `provenance optout list --known 2026-11-20T12:00`
    """
    from provenance.corpus.rights.optout_records import listed
    from tasks.cli.rights_tables import optouts_screen

    rows = listed(settings_in_force().store.open(), known=known_time(known))
    yield rows.to_dicts(), optouts_screen(rows)


@command(app, "report")
def optout_report(
    last: Annotated[int, typer.Option("--last", min=1, help="Published nights to look at, the latest.")] = 30,
) -> Shown:
    """Of each opt-out in force, which models still hold the work, and how much of each night's pools rests on it.

    Example: `provenance optout report --last 7`
    """
    from provenance.validation.optout_report import report
    from tasks.cli.rights_tables import optout_report_screen

    found = report(settings_in_force().store.open(), last=last)
    yield found, optout_report_screen(found)


@app.command("columns")
def optout_columns() -> None:
    """The columns of the file that `provenance optout import` takes.

    Example: `provenance optout columns`
    """
    from provenance.corpus.rights.optouts import COLUMNS

    for name, meaning in COLUMNS.items():
        console.print(f"{name:<13} {meaning}", highlight=False, soft_wrap=True)


def _one_or_all(work_id: str | None, *, every: bool) -> str | None:
    if (work_id is None) != every:
        raise InputError("WORK_ID", expected="a work, or --all", found="both" if every else "neither")
    return work_id


def _told(rows: list[dict[str, object]], of: int | None = None) -> Shown:
    said = "Nothing was recorded: all of it stands there already."
    if rows:
        said = f"{len(rows)}{f' of {of}' if of is not None else ''} recorded, from {rows[0]['effective_on']} on."
    yield rows, [said]
