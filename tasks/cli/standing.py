"""Commands for a first look: how things stand, and who the owners are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import InputError
from provenance.core.money import format_minor
from provenance.core.where import Where
from tasks.cli.help import LOOK
from tasks.cli.shared import Shown, command
from tasks.cli.tables import Grid, money, more, number
from tasks.terminal import line

if TYPE_CHECKING:
    from provenance.settlement.owner_list import OwnerLine
    from provenance.validation.status import Status

app = typer.Typer()
# Things that wait, listed on the one screen; letters of a row after its heading.
LISTED, ROW = 6, 66
# So many things that wait are each listed with what to do; that of the first is the next step.
WITH_STEPS = 3


@command(app, group=LOOK)
def status(where: Where) -> Shown:
    """Show how things stand: the last night, what is owed, what waits, and the next step.

    Reads the store, the ledger, lineage events of this machine, and whether nights are paused where Airflow's database is at
    hand; tasks that run or wait in Airflow are on its page.

    Example: `provenance status`
    """
    from provenance.validation.status import status as how_things_stand
    from tasks.lineage.durations import NIGHTLY, seconds_of_nights

    def paused() -> bool | None:
        from tasks.database import is_paused

        return is_paused(where.settings.database, NIGHTLY)

    times = seconds_of_nights(where.settings.lineage.path, where.store.url)
    found = how_things_stand(where, seconds=times, paused=paused)
    yield {**asdict(found), "next_step": found.next_step}, status_screen(found)


def status_screen(found: Status) -> Iterator[RenderableType]:
    """How things stand, on one screen."""

    def said(heading: str, text: str, style: str = "") -> RenderableType:
        return line(f"{heading:<14}{text}", style)

    if night := found.last_night:
        yield said(
            "Last night", f"{night.day}, revision {night.revision}: {night.outputs:,} outputs of {night.model_id}", "bold"
        )
        earned, kept = (", ".join(money(dict(sums))) or "nothing" for sums in (night.earned, night.escrowed))
        yield said("", f"{night.owners:,} owners earned {earned}; {kept} went to escrow")
        if night.booked_at:
            took = f"; it took {_span(night.seconds)}" if night.seconds else ""
            paused = "; nights are paused" if found.paused else ""
            yield said("", f"published {moment(night.booked_at)}{took}{paused}")
        yield from (said("" if number else "Fidelity", row) for number, row in enumerate(wrap(night.trust, ROW)))
        if len(night.fidelity) > 1:
            scores = (f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in night.fidelity.items())
            yield said("", f"by contract: {', '.join(scores)}", "dim")
    else:
        yield said("Last night", "none: no day is published yet", "bold")
    corpus = found.corpus
    if corpus:
        counts = f"{corpus['examples']:,} examples of {corpus['owners']:,} owners, and {corpus['held_out']:,} held out"
        yield said("Corpus", f"{counts} ({corpus['digest'][:12]})")
    if found.days:
        models = f"{found.counterfactuals:,} counterfactual models behind the last"
        yield said("Nights", f"{found.days:,} published; {models}")
    if found.owed:
        kept = f"; {', '.join(money(dict(found.escrow)))} in escrow" if found.escrow else ""
        held = f"; {found.holds:,} owners on hold" if found.holds else ""
        yield said("Owed", f"{', '.join(money(dict(found.owed)))} to owners{kept}{held}")
    if found.closed:
        states = ", ".join(f"{count:,} {state}" for state, count in found.payments.items()) or "no payment"
        yield said("Last month", f"{found.closed} is closed: {states}")
    yield said("Store", found.store, "dim")
    if found.waits:
        yield line(f"Waits ({len(found.waits)})", "bold yellow")
        for number, each in enumerate(found.waits[:LISTED]):
            yield line(f"  {each.what}", "yellow")
            if number and len(found.waits) <= WITH_STEPS:
                yield line(f"    {each.next_step}", "dim")
        if len(found.waits) > LISTED:
            yield more(len(found.waits) - LISTED, " (--json lists them)")
    else:
        yield line("Nothing waits.", "green")
    yield said("Next", found.next_step, "bold")
    if found.last_night and found.last_night.notice:
        yield line(found.last_night.notice, "bold yellow")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def moment(at: str) -> str:
    """`2026-11-29T18:36:59+00:00` as `29 Nov 18:36 UTC`."""
    when = datetime.fromisoformat(at).astimezone(UTC)
    return f"{when.day} {when:%b %H:%M} UTC"


@command(app, group=LOOK)
def owners(
    where: Where,
    text: Annotated[str, Argument(help="A part of a name or id; by default everybody.")] = "",
    most: Annotated[int, Option(min=1, help="Owners listed.")] = 20,
) -> Shown:
    """Find owners by a part of a name or id: what each is owed, holds, and number of works.

    Example: `provenance owners christie`
    """
    from provenance.settlement.owner_list import find_owners, nearest_owner

    found = find_owners(where.store, where.ledger, text)
    if text and not found:
        hint = nearest_owner(where.store, where.ledger, text)
        raise InputError(f"owners {text!r}", expected="a part of an owner's name or id", found="no owner with it", hint=hint)
    yield [asdict(owner) for owner in found], owners_found_screen(found, most=most)


def owners_found_screen(found: Sequence[OwnerLine], *, most: int) -> Iterator[RenderableType]:
    """Owners with what they are owed."""
    if not found:
        yield "There is no owner yet: no corpus is in force, and nothing is booked."
        return
    currencies = sorted({currency for owner in found for currency in owner.owed})
    owed = (number(f"owed {currency}", no_wrap=True) for currency in currencies)
    rows = (
        (
            owner.name,
            owner.owner_id,
            f"{owner.works:,}",
            *(format_minor(owner.owed.get(currency, 0), currency, symbol=False) for currency in currencies),
            "; ".join(owner.holds),
        )
        for owner in found[:most]
    )
    title = f"{len(found):,} owner{'' if len(found) == 1 else 's'}, most owed first"
    yield Grid(title, "owner", "id", number("works"), *owed, "on hold", rows=rows)
    if len(found) > most:
        yield more(len(found) - most, f" (--most {len(found)} lists them)")
    if len(found) == 1:
        yield f"Next: provenance balance {found[0].owner_id}, or provenance statement {found[0].owner_id}"
