"""Commands for opt-outs: `provenance optout`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import InputError, parse_day
from provenance.core.money import PPB
from provenance.core.where import Where
from tasks.cli.help import noun
from tasks.cli.shared import Known, Shown, command, known_time
from tasks.terminal import line

if TYPE_CHECKING:
    import polars as pl

app = noun("Record the opt-outs of owners, and show their effect.")

WorkId = Annotated[str | None, Argument(help="The work, as the corpus names it; or --all.")]
Owner = Annotated[
    str, Option("--owner", metavar="OWNER_ID", help="The owner; it must hold a stake in the work, or have held one.")
]
Evidence = Annotated[str, Option("--evidence", help="Evidence of the owner's will; it is kept for good.")]
By = Annotated[str, Option("--by", help="The person who records it; the name is kept for good.")]
From = Annotated[str | None, Option("--from", metavar="DAY", help="Its first day (UTC), YYYY-MM-DD; by default today.")]
KeepUnknown = Annotated[bool, Option("--keep-unknown", help="Also for works that the corpus lacks, or without a known owner.")]


@command(app, "add")
def optout_add(
    where: Where,
    owner: Owner,
    choice: Annotated[
        str, Option("--choice", metavar="paid|credited|held", help="In models that hold the work: paid, credited or held.")
    ],
    by: By,
    evidence: Evidence,
    work_id: WorkId = None,
    every: Annotated[bool, Option("--all", help="All works of the owner in the corpus in force.")] = False,
    day: From = None,
    keep_unknown: KeepUnknown = False,
) -> Shown:
    """Record an owner's opt-out of a work: no model to come is trained on it; `--choice` decides its part in present models.

    *paid*: nothing changes; *credited*: named, without money; *held*: its part waits in escrow as `held-OWNER`, until
    `provenance claim` gives it to somebody. Nights of days before stay as they are.

    Example: `provenance optout add httpx==0.28.1/httpx/_client.py --owner tom-christie --choice held --by Ann --evidence mail`
    """
    from provenance.corpus.rights.optout_records import opt_out

    work, first = _work(work_id, every=every), _first_day(day)
    rows = opt_out(where.store, owner, work, choice=choice, evidence=evidence, by=by, day=first, keep_unknown=keep_unknown)
    yield from _recorded(rows)


@command(app, "withdraw")
def optout_withdraw(
    where: Where,
    owner: Owner,
    by: By,
    evidence: Evidence,
    work_id: WorkId = None,
    every: Annotated[bool, Option("--all", help="All works that the owner opted out of.")] = False,
    day: From = None,
) -> Shown:
    """Record that an owner withdraws an opt-out; the opt-out stays in the records.

    Example: `provenance optout withdraw httpx==0.28.1/httpx/_client.py --owner tom-christie --by "J. Doe" --evidence "mail"`
    """
    from provenance.corpus.rights.optout_records import withdraw

    work = _work(work_id, every=every)
    yield from _recorded(withdraw(where.store, owner, work, evidence=evidence, by=by, day=_first_day(day)))


@command(app, "import")
def optout_import(
    where: Where,
    file: Annotated[Path, Argument(help="A CSV file; `provenance optout columns` explains its columns.")],
    by: By,
    keep_unknown: KeepUnknown = False,
) -> Shown:
    """Record opt-outs and withdrawals, all lines of a file or none. The same file again adds nothing.

    Example: `provenance optout import optouts.csv --by "J. Doe"`
    """
    from provenance.corpus.rights.optout_records import import_file

    lines, rows = import_file(where.store, file, by=by, keep_unknown=keep_unknown)
    yield from _recorded(rows, f" of {lines}")


def _work(work_id: str | None, *, every: bool) -> str | None:
    """The work, or None for all; raises InputError for both or neither."""
    if (work_id is None) != every:
        raise InputError("WORK_ID", expected="a work, or --all", found="both" if every else "neither")
    return work_id


def _first_day(text: str | None) -> date | None:
    return parse_day("--from", text) if text else None


def _recorded(rows: pl.DataFrame, of_all: str = "") -> Shown:
    """Show how many rows were recorded."""
    text = "Nothing was recorded: all of it is in the records already."
    if rows.height:
        text = f"{rows.height}{of_all} recorded, from {rows['effective_on'][0]} on."
    yield rows.to_dicts(), [text]


@command(app, "list")
def optout_list(where: Where, known: Known = None) -> Shown:
    """List the last record of each work and owner: in force, for a later day, or withdrawn.

    Example: `provenance optout list --known 2026-11-20T12:00`
    """
    from provenance.corpus.rights.optout_records import list_optouts

    rows = list_optouts(where.store, known=known_time(known))
    yield rows.to_dicts(), optouts_screen(rows)


def optouts_screen(rows: pl.DataFrame) -> Iterator[RenderableType]:
    """The last record of each work and owner; without a table, so that ids are not broken."""
    from provenance.corpus.rights.optouts import OPTOUT

    yield line(f"Opt-outs: {rows.filter(rows['state'] == 'in force').height} in force", "bold")
    for row in rows.iter_rows(named=True):
        state = row["state"] if row["in_corpus"] else f"{row['state']}, not in the corpus"
        choice = f"{row['choice']}, " if row["action"] == OPTOUT else ""
        yield row["work_id"]
        yield f"  {row['owner_id']}: {choice}from {row['effective_on']}, {state}"
        yield line(f"  recorded by {row['recorded_by']}: {row['evidence']}", "dim")


@command(app, "report")
def optout_report(
    where: Where,
    last: Annotated[int, Option("--last", min=1, help="Number of latest published nights to report on.")] = 30,
) -> Shown:
    """Show, for each opt-out in force, the models that hold the work, and its part in each night's pools.

    Example: `provenance optout report --last 7`
    """
    from provenance.validation.optout_report import report

    optouts = report(where.store, last=last)
    yield optouts, optout_report_screen(optouts)


def optout_report_screen(optouts: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Opt-outs in force, with models that hold the work, and its part in the last night."""
    yield line(f"Opt-outs in force: {len(optouts)}; with their parts in the pools of the last night that has them", "bold")
    for row in optouts:
        yield row["work_id"]
        yield f"  {row['owner_id']}: {row['choice']}, since {row['since']}"
        for model in row["models"]:
            nights = f"{model['nights']} night{'' if model['nights'] == 1 else 's'}"
            yield f"  in model {model['model_id']} ({model['model'][:8]}, by {model['by']}, {nights})"
        if not row["models"]:
            yield line("  in no model of these nights", "dim")
        if not row["nights"]:
            yield line("  in no night yet", "dim")
            continue
        day = row["nights"][-1]["day"]
        parts = ", ".join(
            f"{night['currency']} {night['share_ppb'] / PPB:.2%} ({night['influence_ppb'] / PPB:.2%} by influence)"
            for night in row["nights"]
            if night["day"] == day
        )
        yield f"  its part on {day}: {parts}"


@command(app, "columns")
def optout_columns() -> Shown:
    """List the columns of the file that `provenance optout import` reads.

    Example: `provenance optout columns`
    """
    from provenance.corpus.rights.optouts import COLUMNS

    yield COLUMNS, (f"{name:<13} {meaning}" for name, meaning in COLUMNS.items())
