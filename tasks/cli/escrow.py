"""Commands for amounts that nobody has claimed yet: `provenance escrow`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.money import format_minor
from provenance.core.where import Where
from tasks.cli.help import noun
from tasks.cli.shared import By, OwnerId, Shown, command
from tasks.cli.tables import Grid, number

app = noun("See what ages in escrow; record reminders and claimants, and apply what the contract says.")
Name = Annotated[str, Argument(metavar="ESCROW_ID", help="The name in escrow: see `provenance escrow list`.")]
Evidence = Annotated[str, Option("--evidence", help="What it rests on, such as a letter and its date; kept in the ledger.")]


@command(app, "list")
def escrow_list(where: Where) -> Shown:
    """List what is in escrow: amounts, age, claimants, reminders, and the next step by the policy (`settlement.escrow`).

    Example: `provenance escrow list`
    """
    from provenance.settlement.account_actions import escrow_steps

    rows = escrow_steps(where)
    yield rows, escrow_screen(rows)


def escrow_screen(rows: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Names in escrow, each with the next step."""
    table = (
        (
            row["escrow_id"],
            row["since"],
            format_minor(row["amount_minor"], row["currency"]),
            list(row["claimants"]),
            row["next"],
        )
        for row in rows
    )
    yield Grid("", "kept for", "since", number("amount"), "claimed by", "next", rows=table) if rows else "Nothing is in escrow."


@command(app, "remind")
def escrow_remind(where: Where, escrow_id: Name, evidence: Evidence, by: By) -> Shown:
    """Record that you looked for the owner of a name again.

    Example: `provenance escrow remind unmatched-libcst --evidence "mail of 2026-11-20" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    booking = accounts.remind(where, escrow_id, evidence=evidence, by=by)
    yield {"booking_id": booking.booking_id}, [f"Booking {booking.booking_id}: {booking.facts_text}"]


@command(app, "claimant")
def escrow_claimant(
    where: Where,
    escrow_id: Name,
    owner_id: OwnerId,
    evidence: Evidence,
    by: By,
    withdrawn: Annotated[bool, Option("--withdrawn", help="The claim is withdrawn, or was decided against.")] = False,
) -> Shown:
    """Record that an owner claims a name; while several do, `provenance claim` gives it to none of them.

    Example: `provenance escrow claimant unmatched-libcst tom-christie --evidence "letter of 2026-11-20" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    booking = accounts.claimant(where, escrow_id, owner_id, evidence=evidence, by=by, withdrawn=withdrawn)
    yield {"booking_id": booking.booking_id}, [f"Booking {booking.booking_id}: {booking.facts_text}"]


@command(app, "apply")
def escrow_apply(
    where: Where,
    escrow_id: Name,
    evidence: Evidence,
    by: By,
    approved_by: Annotated[str, Option("--approved-by", metavar="PERSON", help="Another person, who agrees.")] = "",
    back: Annotated[bool, Option("--back", help="Bring back what was given away: its owner has come after all.")] = False,
) -> Shown:
    """Give what is old enough under a name to whom the policy names, after all reminders; or bring it back.

    Example: `provenance escrow apply unmatched-libcst --evidence "contract, 7.2" --by "J. Doe" --approved-by "A. Smith"`
    """
    from provenance.settlement import account_actions as accounts

    booking = accounts.apply_policy(where, escrow_id, evidence=evidence, by=by, approved_by=approved_by, back=back)
    yield {"booking_id": booking.booking_id}, [f"Booking {booking.booking_id}: {booking.facts_text}"]
