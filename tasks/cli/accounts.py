"""Commands for accounts and months: balances, holds, escrow, payments, answers of banks, statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import CheckFailed, InputError
from provenance.core.money import format_minor
from provenance.core.where import Where
from tasks.cli.help import DECIDE, LOOK, PAY
from tasks.cli.shared import By, OwnerId, Reason, Shown, command
from tasks.cli.tables import Grid, add_up, money, more, number, whole
from tasks.terminal import line

if TYPE_CHECKING:
    from provenance.settlement.books import Booking
    from provenance.settlement.tax.years import YearTables

app = typer.Typer()


@command(app, group=LOOK)
def balance(
    where: Where,
    owner_id: Annotated[str | None, Argument(help="An owner; by default all accounts together.")] = None,
) -> Shown:
    """Show an owner's accounts and every booking behind them, or the trial balance, holds and escrow.

    Example: `provenance balance tom-christie`
    """
    from provenance.settlement import account_actions as accounts

    report = accounts.balance(where, owner_id)
    yield report, balance_screen(report)


def balance_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Accounts and bookings of an owner, or the trial balance, holds and escrow."""
    from provenance.settlement.accounts import CHART

    if "owner_id" in report:
        yield from _account_tables(report)
        return
    by_currency = report["trial_balance"]
    rows = [(name, *(format_minor(row[name], c, symbol=False) for c, row in by_currency.items())) for name in CHART]
    yield Grid(f"Trial balance after booking {report['through']}", "account", *map(number, by_currency), rows=rows)
    yield line("receivable = the sum of all others", "dim")
    holds = [(owner, "; ".join(reasons)) for owner, reasons in report["holds"].items()]
    yield Grid("Holds in force", "owner", "because", rows=holds) if holds else "No hold is in force."
    escrow = [(row["escrow_id"], row["since"], format_minor(row["amount_minor"], row["currency"])) for row in report["escrow"]]
    columns = ("kept for", "since", number("amount"))
    yield Grid("In escrow, until somebody claims it", *columns, rows=escrow) if escrow else "Nothing is in escrow."


def _account_tables(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    accounts = [(row["account"], format_minor(row["amount_minor"], row["currency"])) for row in report["accounts"]]
    yield Grid(f"Accounts of {report['owner_id']}", "account", number("amount"), rows=accounts)
    for reason in report["holds"]:
        yield line(f"On hold: {reason}", "bold yellow")
    bookings = Grid("Bookings", "number", "for", "booked", "kind", number("entries"), "facts")
    for booking in report["bookings"]:
        entries = [f"{row['account']} {format_minor(row['amount_minor'], row['currency'])}" for row in booking["entries"]]
        facts = ", ".join(f"{name} {_fact(value)}" for name, value in booking["facts"].items() if name != "owner_id")
        time = booking["booked_at"][:16].replace("T", " ")
        bookings.add_row(booking["booking_id"], booking["day"], time, booking["kind"], entries, facts)
    yield bookings


def _fact(value: object) -> str:
    """A fact of a booking; of a list the count, since it names other owners."""
    return f"of {len(value)}" if isinstance(value, list) else str(value)


@command(app, group=DECIDE)
def hold(where: Where, owner_id: OwnerId, reason: Reason, by: By) -> Shown:
    """Hold the amounts of an owner, owed and to come: because of a dispute, missing data, or an opt-out under review.

    Nothing is paid until `provenance release`. The same hold is placed only once.

    Example: `provenance hold tom-christie --reason "disputed by A. Smith" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(where, partial(accounts.hold, where, owner_id, reason=reason, by=by), owner_id)


@command(app, group=DECIDE)
def release(where: Where, owner_id: OwnerId, reason: Reason, by: By) -> Shown:
    """End the hold that was placed for a reason; after an owner's last hold its amounts are payable again.

    Example: `provenance release tom-christie --reason "disputed by A. Smith" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(where, partial(accounts.release, where, owner_id, reason=reason, by=by), owner_id)


@command(app, group=DECIDE)
def claim(
    where: Where,
    escrow_id: Annotated[str, Argument(help="The name in escrow: see `provenance balance`.")],
    owner_id: OwnerId,
    evidence: Annotated[str, Option(help="The evidence for the claim; kept in the ledger.")],
    by: By,
) -> Shown:
    """Give an owner the amounts in escrow under a name, and those to come; a name is claimed once.

    Example: `provenance claim unmatched-libcst tom-christie --evidence "letter of 2026-11-20" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(where, partial(accounts.claim, where, escrow_id, owner_id, evidence=evidence, by=by), owner_id)


@command(app, group=PAY)
def advance(
    where: Where,
    owner_id: OwnerId,
    amount: Annotated[str, Argument(help="The amount paid in advance, such as 250.00.")],
    currency: Annotated[str, Argument(help="ISO 4217, such as EUR.")],
    reason: Reason,
    by: By,
) -> Shown:
    """Record an advance paid to an owner; the owner's earnings repay it before anything is paid.

    Example: `provenance advance tom-christie 250.00 EUR --reason "contract of 2026-11-01" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    yield from _book(where, partial(accounts.advance, where, owner_id, currency, amount, reason=reason, by=by), owner_id)


@command(app, group=PAY)
def rate(
    where: Where,
    period: Annotated[str, Argument(help="The period of the rate, YYYY-MM; it must not be closed.")],
    source: Annotated[str, Argument(help="The currency that is owed, such as USD.")],
    target: Annotated[str, Argument(help="The currency that payees are paid in, such as EUR.")],
    value: Annotated[str, Argument(metavar="RATE", help="Units of TARGET for one unit of SOURCE, such as 0.8642.")],
    evidence: Annotated[str, Option(help="The source of the rate; kept in the ledger.")],
    by: By,
    unusual: Annotated[bool, Option("--unusual", help="Accept a rate that is refused as unusual.")] = False,
) -> Shown:
    """Record the rate at which a period converts one currency into another; the last recorded one counts.

    A rate is refused if it is more than twice the last recorded rate of the two currencies in any period, or less than half.

    Example: `provenance rate 2026-11 USD EUR 0.8642 --evidence "ECB, 2026-11-30" --by "J. Doe"`
    """
    from provenance.settlement import account_actions as accounts

    pair, record = (source, target), {"evidence": evidence, "by": by}
    yield from _book(where, partial(accounts.record_rate, where, period, pair, value, unusual=unusual, **record))


def _book(where: Where, book: Callable[[], Booking], owner_id: str = "") -> Shown:
    """Make a booking, and show it with the amounts that it moved for an owner; an earlier equal booking is shown as such."""
    from provenance.settlement import account_actions as accounts

    before = accounts.newest(where)
    booking = book()
    again = booking.booking_id <= before
    data = {"booking_id": booking.booking_id, "kind": booking.kind, "day": str(booking.day), "facts": booking.facts}
    heading = f"{'Booked before: booking' if again else 'Booking'} {booking.booking_id} of {booking.day}, {booking.kind}"
    moved = (f"  {amount}" for amount in accounts.booked_amounts(where, owner_id, booking)) if owner_id else ()
    yield {**data, "again": again}, (f"{heading}: {booking.facts_text}", *moved)


@command(app, group=PAY)
def payments(
    where: Where,
    period: Annotated[str | None, Argument(help="A closed period, YYYY-MM; by default the last.")] = None,
    preview: Annotated[bool, Option("--preview", help="Show an open period as if closed now.")] = False,
) -> Shown:
    """Show the payments of a closed period, and their state: waiting, sent, paid, rejected, returned, or left out.

    With `--preview`, for an open period: the payments, the owners on hold with reasons, the missing rates. An error that would
    stop the close stops the preview, too.

    Example: `provenance payments 2026-11`
    """
    if preview:
        from dataclasses import asdict

        from provenance.settlement.months import stage as months
        from provenance.settlement.months.periods import parse_period

        if period is None:
            raise InputError("PERIOD", expected="a period beside --preview, such as 2026-11", found="none")
        close = months.preview(where, parse_period("PERIOD", period))
        yield {**close, "lines": [asdict(row) for row in close["lines"]]}, closing_screen(close)
    else:
        from provenance.settlement.account_actions import payments_of

        report = payments_of(where, period)
        yield report, payments_screen(report)


def payments_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The payments of a closed period: sums by status, then every payment."""
    from provenance.settlement.months.settling import WAITING

    payments = report["payments"]
    yield line(f"{report['period']} closed as booking {report['closed_as']}", "bold")
    if approvals := report["approvals"]:
        for what in ("prepared", "approved"):
            at = datetime.fromisoformat(approvals[f"{what}_at"]).astimezone(UTC)
            yield line(f"{what.capitalize()} by {approvals[f'{what}_by']}, {at:%Y-%m-%d %H:%M} UTC")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report["outcomes"].items()))
    yield f"Balances: {outcomes or 'none'}"
    for status, currency in sorted({(row["status"], row["currency"]) for row in payments}):
        amounts = [row["paid_minor"] for row in payments if (row["status"], row["currency"]) == (status, currency)]
        yield f"{status}: {len(amounts)} payments, {format_minor(sum(amounts), currency)}"
    if any(row["status"] == WAITING for row in payments):
        yield line("Closed; nothing is booked until two people have approved (Required Actions in Airflow).", "yellow")
        yield line("If one of them rejects, nothing is paid: it stays owed, and the next month pays it.", "dim")
    rows = (
        (
            list(dict.fromkeys([row["owner_name"], row["owner_id"]])),
            row["payment_id"],
            row["status"],
            format_minor(row["paid_minor"], row["currency"]),
            row["reason"],
        )
        for row in payments
    )
    if payments:
        yield Grid("", "owner", "payment", "status", number("amount"), "reason", rows=rows)


def closing_screen(close: Mapping[str, Any], *, most: int = 20) -> Iterator[RenderableType]:
    """A close if it were made now: outcomes, owners who are not paid and why, missing rates and nights."""
    from provenance.settlement.months.closings import ranges, unpaid
    from provenance.settlement.months.periods import LACKING, NO_RATE, ON_HOLD

    lines, holds = close["lines"], close["holds"]
    yield line(f"{close['period']}, if it were closed now; nothing is booked", "bold")
    if not close["over"]:
        yield line("The month is not over: nights to come count, too.", "yellow")
    balances = Grid("Balances", "outcome", *map(number, ("balances", "owed", "to be paid")))
    for outcome in sorted({row.outcome for row in lines}):
        rows = [row for row in lines if row.outcome == outcome]
        owed = _sums((row.currency, row.owed) for row in rows)
        balances.add_row(outcome, len(rows), owed, _sums((row.pay_currency, row.paid) for row in rows if row.paid))
    yield balances if lines else "Nothing is owed."
    on_hold = [(reason, count, _sums(owed.items())) for reason, (count, owed) in unpaid(lines, holds).items()]
    if on_hold:
        yield Grid("Not paid, since on hold", "because", number("owners"), number("owed"), rows=on_hold)
    lacking = [(row, reason) for row in lines if row.outcome == ON_HOLD for reason in holds[row.owner_id] if reason in LACKING]
    if lacking:
        lacking.sort(key=lambda pair: (-pair[0].owed, pair[0].owner_id))
        owners = ((row.owner_id, reason, format_minor(row.owed, row.currency)) for row, reason in lacking[:most])
        yield Grid("To be added with `provenance payee import`", "owner", number("has"), number("owed"), rows=owners)
    if len(lacking) > most:
        yield more(len(lacking) - most, " (--json lists them)")
    for source, target in sorted({(row.currency, row.pay_currency) for row in lines if row.outcome == NO_RATE}):
        amount = sum(row.owed for row in lines if (row.outcome, row.currency, row.pay_currency) == (NO_RATE, source, target))
        missing = f"No rate is noted for {source} to {target}, and {format_minor(amount, source)} waits for it"
        yield line(f"{missing}: the month cannot be closed before `provenance rate`.", "red")
    if close["missing"]:
        yield line(f"No night has paid {ranges(close['missing'])}.", "yellow")


def _sums(amounts: Any) -> str:
    return ", ".join(money(add_up(amounts)))


@command(app, group=PAY)
def answer(
    where: Where,
    files: Annotated[list[Path], Argument(help="Files: pain.002, camt.053, PayPal's CSV, NACHA returns; also zipped.")],
) -> Shown:
    """Book answers of banks: payments made, rejected or returned; what holds of each file, and once.

    What cannot be booked is named, and the exit code is 1; `provenance answer-by-hand` settles it. The DAG `bank_answers` does
    the same with all files below `bank/answers/` in the store.

    Example: `provenance answer status.xml statement.xml`
    """
    from provenance.settlement.bank.incoming import book_answer

    answers = []
    for file in files:
        if not file.is_file():
            raise InputError(str(file), expected="a file that a bank sent", found="no such file")
        answers.append({"file": str(file), **book_answer(where, file.read_bytes(), str(file))})
    yield answers, answers_screen(answers)
    if left := [problem["problem"] for row in answers for problem in row["problems"]]:
        raise CheckFailed("; ".join(left))


def answers_screen(answers: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """A line for each answer of a bank."""
    for row in answers:
        counts = ", ".join(f"{row[name]} {name}" for name in ("paid", "rejected", "returned", "pending", "others"))
        stands = f", {row['stands']} second copies rejected (the first stands)" if row["stands"] else ""
        left = f", {len(row['problems'])} left" if row["problems"] else ""
        left += f"; left out: {', '.join(row['left_out'])}" if row["left_out"] else ""
        booked = f"{'booked before' if row['again'] else 'booked'} as {row['booking_id']}"
        yield f"{row['file']}: {row['kind']} {row['message_id']}, {booked}: {counts}{stands}{left}"


@command(app, "answer-by-hand", group=PAY)
def answer_by_hand(
    where: Where,
    evidence: Annotated[str, Option("--evidence", help="What shows it, such as the bank's letter; kept in the ledger.")],
    by: By,
    second: Annotated[str, Option("--second", help="The other person who has seen the evidence; kept in the ledger.")],
    payments: Annotated[list[str] | None, Argument(help="Ids of payments; none if the entry is nobody's of ours.")] = None,
    status: Annotated[str, Option("--status", help="What became of them: paid, rejected or returned.")] = "",
    entry: Annotated[str, Option("--entry", help="Key of a bank's entry that this settles, as `answer` names it.")] = "",
) -> Shown:
    """Book by hand what became of payments, where a bank's file cannot tell: on evidence, by two persons.

    A payment that is rejected or returned is owed again; one that is paid after all counts as paid. The ledger keeps the
    evidence and both names. With `--entry` alone an entry that concerns no payment of ours is settled, and nothing is booked.

    Example: `provenance answer-by-hand ID --status paid --entry 0123456789ab --evidence "letter" --by ann --second bob`
    """
    from provenance.settlement.bank.incoming import by_hand

    decided = {"evidence": evidence, "by": by, "second": second}
    yield from _book(where, partial(by_hand, where, payments or [], status, entry=entry, **decided))


@command(app, group=PAY)
def statement(
    where: Where,
    owner_id: OwnerId,
    period: Annotated[str | None, Option(help="YYYY-MM, open or closed; by default the last closed one.")] = None,
    out: Annotated[Path, Option("--out", help="Folder to write the web page and the PDF to.")] = Path(),
    link: Annotated[
        int, Option(min=0, max=7, metavar="DAYS", help="Print a signed link to the page instead, good for DAYS.")
    ] = 0,
) -> Shown:
    """State an owner's earnings of a period: by outputs and works, with intervals, and how they were paid.

    Writes `statement-PERIOD-OWNER.html` and `.pdf`; each is one file to send. The DAG `settle_period` writes all owners' below
    `exports/statements/`. Whoever has the address of `--link` can read that page and nothing else (stores on S3 only).

    Example: `provenance statement tom-christie --period 2026-11 --out statements`
    """
    from dataclasses import asdict

    from provenance.settlement.account_actions import last_closed
    from provenance.settlement.months import write_statements
    from provenance.settlement.months.periods import parse_period
    from provenance.settlement.months.statement_documents import documents

    period = parse_period("--period", period) if period else last_closed(where)
    if link:
        signed = write_statements.signed_link(where, owner_id, period, days=link)
        yield {"owner_id": owner_id, "period": period, "link": signed, "days": link}, [signed]
        return
    found = write_statements.statement(where, owner_id, period)

    def write() -> Iterator[str]:
        out.mkdir(parents=True, exist_ok=True)
        for form, content in documents(found).items():
            path = out / f"statement-{found.period}-{write_statements.file_name(owner_id)}.{form}"
            path.write_bytes(content)
            yield str(path)

    yield asdict(found), write()


@command(app, group=PAY)
def invoices(
    where: Where,
    period: Annotated[str | None, Argument(help="Those of one settled period, YYYY-MM; by default all.")] = None,
    issue: Annotated[bool, Option("--issue", help="Issue what is due first.")] = False,
) -> Shown:
    """List self-billed invoices and credit notes: numbers, owners, VAT, totals; `--issue` writes those that are due.

    An invoice is due for each payment that left to an owner who agreed to it (`self_billed_since` of the payees), a credit note
    for each that was rejected or returned. The DAG `settle_period` issues them after a payment, too. None is written without
    the setting `tax.invoices`; nothing is sent to anybody.

    Example: `provenance invoices 2026-11`
    """
    import polars as pl

    from provenance.settlement.months.periods import parse_period
    from provenance.settlement.tax import numbering

    chosen = parse_period("PERIOD", period) if period else None
    run = numbering.issue(where) if issue else numbering.Issued()
    table = numbering.register(where.ledger)
    rows = (table.filter(pl.col("period") == chosen) if chosen else table).rows(named=True)
    yield {"issued": list(run.issued), "refused": list(run.refused), "invoices": rows}, invoices_screen(rows, run.refused)


def invoices_screen(rows: Sequence[Mapping[str, Any]], refused: Sequence[str]) -> Iterator[RenderableType]:
    """Invoices and credit notes by number, and the errors of those that stay due."""
    for error in refused:
        yield line(f"Stays due, without a number: {error}", "bold red")
    table = (
        (
            row["invoice_id"],
            [row["kind"], f"of {row['corrects']}"] if row["corrects"] else row["kind"],
            str(row["issued_on"]),
            row["owner_id"],
            f"{row['vat_category']} {row['vat_rate']} %",
            *(format_minor(row[f"{name}_minor"], row["currency"]) for name in ("vat", "total")),
        )
        for row in rows
    )
    columns = (whole("number"), "kind", whole("issued"), "owner", "category", number("VAT"), number("total"))
    yield Grid("", *columns, rows=table) if rows else "No invoice was written."


@command(app, group=PAY)
def year(
    where: Where, year: Annotated[str, Argument(help="A calendar year, YYYY; tables of this year are made again.")]
) -> Shown:
    """Write what each payee was paid in a year, in the shape of forms 1099-MISC and 1042-S and of DAC7: no filing.

    The tables lie below `tax/year=YYYY/` in the store, by country and by owner. They have tax numbers and, for DAC7, accounts.

    Example: `provenance year 2026`
    """
    from provenance.settlement.tax import years

    tables = years.write_year(where, years.parse_year(year))
    data = {"folder": tables.folder, "rows": tables.rows, "problems": tables.problems, "notice": years.NOTICE}
    yield data, year_screen(tables, where.store.locate(tables.folder), years.NOTICE)


def year_screen(tables: YearTables, place: str, notice: str) -> Iterator[RenderableType]:
    """The tables of a year, and the payees of whom something is missing."""
    yield line(f"{place}: {notice}", "bold")
    yield Grid("", "file", number("rows"), rows=tables.rows.items())
    if tables.problems:
        yield Grid("To be completed with `provenance payee import`", "owner", "missing", rows=tables.problems.items())
