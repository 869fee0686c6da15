"""Writes what each payee was paid in a calendar year, as tables in the shape of the reports that countries ask for.

    tax/year=2026/through=000123/payees.csv              every payee
    tax/year=2026/through=000123/country=US/1099-misc.csv, country=FR/dac7.csv, country=FR/1042-s.csv
    tax/year=2026/through=000123/owner=.../paid.csv      one payee's, to send to it

The tables are no filing, and say so: thresholds, forms that payees have filed, and codes of treaties are for the person who
files. A payment counts on the day on which it was booked, unless it came back before the tables were made. An advance counts
when it was paid; what later earnings set off against it is not counted again. After any booking the tables get a new folder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from provenance.core.errors import InputError
from provenance.core.money import PPB
from provenance.core.store import to_csv
from provenance.core.tables import DAC7, FORM_1042_S, FORM_1099_MISC, PAID_IN_A_YEAR, TableSchema
from provenance.settlement import ledger
from provenance.settlement.bank.status_reports import PAID
from provenance.settlement.books import ADVANCED, CLOSE, PAYMENTS
from provenance.settlement.months import settling
from provenance.settlement.months.closings import publish
from provenance.settlement.months.settling import SENT
from provenance.settlement.months.write_statements import file_name
from provenance.settlement.payees.details import EUROPEAN_UNION, Details
from provenance.settlement.payees.register import payees_in_force

if TYPE_CHECKING:
    from provenance.core.where import Where

NOTICE = "No filing, and no advice: made from the ledger for the person who files."
ROYALTIES = "12"  # income code of form 1042-S
AMERICA = "US"
PERCENT = Decimal(PPB) / 100


@dataclass(frozen=True)
class Paid:
    """One payment or advance of a year, in minor units of the currency owed.

    Attributes:
        gross: before tax; withheld: tax; rate_ppb: its rate.
    """

    owner_id: str
    currency: str
    day: date
    gross: int
    withheld: int = 0
    rate_ppb: int = 0
    is_advance: bool = False


@dataclass(frozen=True)
class YearTables:
    """Where the tables of a year lie, and what they hold: rows by file, and the payees of whom something is missing."""

    folder: str
    rows: Mapping[str, int]
    problems: Mapping[str, str]


def folder_of(year: int, through: int) -> str:
    """The store folder of a year's tables after a booking."""
    return f"tax/year={year}/through={through:06d}"


def parse_year(text: str) -> int:
    """Check that a text is a year that has begun, and return it."""
    this_year = datetime.now(UTC).year
    if not re.fullmatch("[0-9]{4}", text) or int(text) > this_year:
        raise InputError("YEAR", expected=f"a year as YYYY, at most {this_year}", found=repr(text))
    return int(text)


def write_year(where: Where, year: int) -> YearTables:
    """Write the tables of a year, as the ledger stands; the same ledger and payees give the same tables.

    Raises:
        InputError: nothing was paid in that year.
        StoreError: tables after the same booking are published, and details of a payee have changed since.
    """
    through = ledger.newest(where.ledger)
    paid = paid_in(where.ledger, year)
    if not paid:
        raise InputError(f"year {year}", expected="one with payments or advances", found="none", hint="`provenance payments`")
    details = {owner: payee for owner, (_, payee) in payees_in_force(where).items()}
    payer = where.settings.payer
    tables = tables_of(year, paid, details, payer=(payer.name, payer.country, where.settings.tax.tax_id))
    folder = folder_of(year, through)
    files = {name: to_csv(schema.frame(rows).sort(*schema.key)) for name, (schema, rows) in tables.items()}
    facts = {"year": year, "over": datetime.now(UTC).year > year, "booking_id": through, "notice": NOTICE}
    publish(where, folder, files, facts)
    problems = {row["owner_id"]: row["problem"] for row in tables["payees.csv"][1] if row["problem"]}
    rows = {name: len(of) for name, (_, of) in tables.items() if not name.startswith("owner=")}
    return YearTables(folder, rows, problems)


def paid_in(engine: sa.Engine, year: int) -> list[Paid]:
    """Payments that left in a year and did not come back, and its advances, in the order of owner, currency and day."""
    booked_on = {int(booking.facts["close"]): booking.day for booking in ledger.bookings(engine, kind=PAYMENTS)}
    paid = []
    for closed in ledger.bookings(engine, kind=CLOSE):
        day = booked_on.get(closed.booking_id)
        if day and day.year == year:
            for payment in settling.payments(engine, closed.period):
                line = payment.line
                if payment.status in {SENT, PAID}:
                    gross = line.net + line.withheld
                    paid.append(Paid(line.owner_id, line.currency, day, gross, line.withheld, line.withholding_ppb))
    for booking in ledger.bookings(engine, kind=ADVANCED):
        if booking.day.year == year:
            facts = booking.facts
            paid.append(Paid(facts["owner_id"], facts["currency"], booking.day, int(facts["amount_minor"]), is_advance=True))
    return sorted(paid, key=lambda one: (one.owner_id, one.currency, one.day, one.is_advance))


def tables_of(
    year: int, paid: Iterable[Paid], details: Mapping[str, Details], *, payer: tuple[str, str, str]
) -> dict[str, tuple[TableSchema, list[dict[str, Any]]]]:
    """The tables of a year by file, each with its schema and rows.

    Args:
        details: of payees by owner; an owner without any keeps its amounts, with a problem.
        payer: name, country and tax number.
    """
    groups: dict[tuple[str, str], list[Paid]] = defaultdict(list)
    for one in paid:
        groups[one.owner_id, one.currency].append(one)
    tables: dict[str, tuple[TableSchema, list[dict[str, Any]]]] = {"payees.csv": (PAID_IN_A_YEAR, [])}

    def add(file: str, schema: TableSchema, rows: Iterable[dict[str, Any]]) -> None:
        tables.setdefault(file, (schema, []))[1].extend(rows)

    name, country, number = payer
    for (owner, currency), group in sorted(groups.items()):
        payee = details.get(owner)
        who = _who(year, owner, currency, payee)
        summary = who | _summary(group, payee)
        add("payees.csv", PAID_IN_A_YEAR, [summary])
        add(f"owner={file_name(owner)}/paid.csv", PAID_IN_A_YEAR, [summary])
        residence = who["tax_residence"]
        if residence == AMERICA:
            row = {"payer_name": name, "payer_tin": number, "box_2_royalties_minor": _gross(group)}
            withheld = {"box_4_tax_withheld_minor": sum(one.withheld for one in group)}
            add(f"country={AMERICA}/1099-misc.csv", FORM_1099_MISC, [who | row | withheld])
        elif residence and country == AMERICA:
            add(f"country={residence}/1042-s.csv", FORM_1042_S, _by_rate(who, group, name, number))
        if payee and residence in EUROPEAN_UNION:
            add(f"country={residence}/dac7.csv", DAC7, [who | _by_quarter(group, payee)])
    return tables


def _who(year: int, owner: str, currency: str, payee: Details | None) -> dict[str, Any]:
    """The columns that name a payee."""
    street = " ".join(filter(None, (payee.street, payee.building))) if payee else ""
    fields = ("name", "post_code", "town", "country", "tax_residence", "tax_id")
    named = {field: getattr(payee, field) if payee else "" for field in fields}
    return {"year": year, "owner_id": owner, "currency": currency, "street": street, **named}


def _summary(group: Sequence[Paid], payee: Details | None) -> dict[str, Any]:
    payments = [one for one in group if not one.is_advance]
    gross, withheld = _gross(payments), sum(one.withheld for one in payments)
    problem = "" if payee and payee.taxed else "no tax data" if payee else "no details: they were removed, or never imported"
    return {
        "payments": len(payments),
        "gross_minor": gross,
        "withheld_minor": withheld,
        "net_minor": gross - withheld,
        "advances_minor": _gross(one for one in group if one.is_advance),
        "problem": problem,
    }


def _by_rate(who: Mapping[str, Any], group: Sequence[Paid], name: str, number: str) -> Iterable[dict[str, Any]]:
    """One row for each rate of tax: a form 1042-S has one."""
    for rate in sorted({one.rate_ppb for one in group}):
        rows = [one for one in group if one.rate_ppb == rate]
        yield {
            **who,
            "agent_name": name,
            "agent_ein": number,
            "box_1_income_code": ROYALTIES,
            "box_2_gross_income_minor": _gross(rows),
            "box_3b_tax_rate": format((rate / PERCENT).normalize(), "f"),
            "box_7a_tax_withheld_minor": sum(one.withheld for one in rows),
        }


def _by_quarter(group: Sequence[Paid], payee: Details) -> dict[str, Any]:
    row: dict[str, Any] = {"vat_id": payee.vat_id, "account": payee.account_of}
    for quarter in range(1, 5):
        rows = [one for one in group if (one.day.month + 2) // 3 == quarter]
        row |= {
            f"consideration_q{quarter}_minor": sum(one.gross - one.withheld for one in rows),
            f"taxes_q{quarter}_minor": sum(one.withheld for one in rows),
            f"activities_q{quarter}": len(rows),
        }
    return row


def _gross(group: Iterable[Paid]) -> int:
    return sum(one.gross for one in group)
