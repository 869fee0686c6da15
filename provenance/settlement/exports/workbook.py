"""Writes payouts as a workbook: it opens on the totals; amounts are in units of each currency, with its decimals.

`payouts.csv` has the same amounts in minor units. A cell is a double, which shows amounts below 2^53 minor units exactly.
Sums are formulas over the sheet of payouts, so that the two agree.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import xlsxwriter
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from provenance.core.money import currency_name, format_minor, minor_digits
from provenance.settlement.accounts import TOTALS

NIL = "Nil: no output of this day earned anything."
UNITS = "Amounts are in units of each currency. payouts.csv has the same amounts in minor units (cents)."
MINOR = "_minor"
# Columns of payouts between opening and closing balance, and the held part of the closing balance.
MOVEMENTS = (
    "opening_balance_minor",
    "earned_minor",
    "adjustment_minor",
    "recouped_minor",
    "withheld_minor",
    "paid_minor",
    "closing_balance_minor",
    "held_minor",
)
HELD_COLUMNS = ["owner_id", "owner_name", "currency", "held_minor", "hold_reason"]
A4 = 9
# Rows of a sheet below its heading, at most (Excel's limit); xlsxwriter would drop the others.
ROWS = 1_048_575
# Letters in a column of amounts, of names, and at most.
NARROW, WIDE, WIDEST = 13, 24, 40


def workbook(
    day: date,
    revision: int,
    *,
    payouts: pl.DataFrame,
    totals: Mapping[str, Mapping[str, int]],
    balances: Mapping[str, Mapping[str, int]],
    notice: str,
) -> bytes:
    """A workbook of totals, payouts, and held amounts with reasons; each sheet prints one page wide.

    Equal arguments give equal bytes.

    Args:
        totals: control totals of the day by currency; balances: of all accounts after the booking; both in minor units.
    """
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(buffer, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False})
    title = f"Payouts of {day}, revision {revision}"
    book.set_properties({"title": title, "created": datetime(day.year, day.month, day.day, tzinfo=UTC)})
    used = sorted({*payouts["currency"], *totals, *balances})
    looks = {currency: book.add_format({"num_format": number_format(currency)}) for currency in used}
    held = payouts.filter(pl.col("held_minor") != 0).select(HELD_COLUMNS)
    tables = {**_split("Payouts", payouts), **_split("Held", held)}
    sheets = [book.add_worksheet(name) for name in ("Totals", *tables)]
    for sheet in sheets:
        sheet.set_landscape()
        sheet.set_paper(A4)
        sheet.fit_to_pages(1, 0)
        sheet.set_footer(f"&L{title}&R&P of &N")
    lines = [*([notice] if notice else []), *([] if totals else [NIL]), UNITS]
    if payouts.height > ROWS:
        lines.append(f"{payouts.height:,} rows are more than a sheet holds: they go on in the next sheet, {ROWS:,} in each.")
    lines += [
        f"{currency_name(currency)}: owners earned {format_minor(amounts['earned_minor'], currency)} on this day"
        for currency, amounts in totals.items()
    ]
    _write_totals(book, sheets[0], [title, *lines], payouts=payouts, totals=totals, balances=balances, looks=looks)
    for sheet, (name, frame) in zip(sheets[1:], tables.items(), strict=True):
        _write_table(sheet, _table(name), frame, looks)
    book.close()
    return buffer.getvalue()


def _split(name: str, frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Rows by sheet: as many as a sheet holds, then `NAME 2` and so on; at least one sheet."""
    parts = {f"{name} {at // ROWS + 1}": frame[at : at + ROWS] for at in range(ROWS, frame.height, ROWS)}
    return {name: frame[:ROWS], **parts}


def _table(sheet: str) -> str:
    """The name of a sheet's table, as formulas have it."""
    return sheet.lower().replace(" ", "_")


def number_format(currency: str) -> str:
    """`#,##0.00` for EUR, `#,##0` for JPY."""
    digits = minor_digits(currency)
    return "#,##0" + (f".{'0' * digits}" if digits else "")


def _units(amount: int, currency: str) -> float:
    """Minor units as a number for a cell; the nearest double."""
    unit: int = 10 ** minor_digits(currency)
    return amount / unit


def _write_totals(
    book: xlsxwriter.Workbook,
    sheet: Worksheet,
    lines: Sequence[str],
    *,
    payouts: pl.DataFrame,
    totals: Mapping[str, Mapping[str, int]],
    balances: Mapping[str, Mapping[str, int]],
    looks: Mapping[str, Format],
) -> None:
    bold, heading = book.add_format({"bold": True}), book.add_format({"bold": True, "bottom": 1, "align": "right"})
    first = book.add_format({"bold": True, "bottom": 1})
    sheets = list(_split("Payouts", payouts))
    sheet.set_column(0, 0, NARROW)
    sheet.set_column(1, len(MOVEMENTS) + 2, NARROW + 2)
    for number, line in enumerate(lines):
        sheet.write_string(number, 0, line, bold if number == 0 else None)
    row = len(lines) + 1

    def write(title: str, names: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> None:
        """Write a table by currency; a cell is an amount, or a formula with `{n}` for its row and its value."""
        nonlocal row
        sheet.write_string(row, 0, title, bold)
        sheet.write_string(row + 1, 0, "currency", first)
        for column, name in enumerate(names, start=1):
            sheet.write_string(row + 1, column, _heading(name), heading)
        row += 2
        for currency, cells in rows:
            sheet.write_string(row, 0, currency)
            for column, cell in enumerate(cells, start=1):
                if isinstance(cell, tuple):
                    formula = f"=ROUND({cell[0].format(n=row + 1)},{minor_digits(currency)})"
                    sheet.write_formula(row, column, formula, looks[currency], _units(cell[1], currency))
                else:
                    sheet.write_number(row, column, _units(cell, currency), looks[currency])
            row += 1
        row += 1

    sums = list(TOTALS.values())
    check = "B{n}-SUM(C{n}:" + chr(ord("A") + len(sums)) + "{n})"
    if totals:
        # Earnings are summed from the other sheet, so the two agree.
        days = [
            (
                c,
                [
                    *((_sum_of(name, sheets), values[name]) if name == "earned_minor" else values[name] for name in sums),
                    (check, 0),
                ],
            )
            for c, values in totals.items()
        ]
        write("The day: revenue = developer + earned + escrowed + unattributed", [*sums, "difference"], days)
    check = "B{n}+C{n}+D{n}-E{n}-F{n}-G{n}-H{n}"
    owners = []
    for currency in payouts["currency"].unique().sort():
        rows = payouts.filter(pl.col("currency") == currency)
        owners.append((currency, [*((_sum_of(name, sheets), rows[name].sum()) for name in MOVEMENTS), (check, 0)]))
    if owners:
        title = "Owners: closing = opening + earned + adjustment - recouped - withheld - paid; held is a part of closing"
        write(title, [*MOVEMENTS, "difference"], owners)
    if balances:
        title = "All accounts after this booking: receivable is the sum of the others"
        write(title, list(next(iter(balances.values()))), [(c, list(row.values())) for c, row in balances.items()])
    sheet.activate()


def _write_table(sheet: Worksheet, name: str, frame: pl.DataFrame, looks: Mapping[str, Format]) -> None:
    """Write a table with amounts in units, and a heading that stays in sight and is printed on each page."""
    columns = [_heading(column) for column in frame.columns]
    headers = [{"header": column} for column in columns]
    sheet.add_table(0, 0, max(1, frame.height), len(columns) - 1, {"name": name, "columns": headers})
    for row, cells in enumerate(frame.iter_rows(named=True), start=1):
        for column, (key, cell) in enumerate(cells.items()):
            if isinstance(cell, str):
                sheet.write_string(row, column, cell)
            elif key.endswith(MINOR):
                sheet.write_number(row, column, _units(cell, cells["currency"]), looks[cells["currency"]])
            else:
                sheet.write_number(row, column, cell)
    for column, key in enumerate(frame.columns):
        longest = max([len(columns[column]) + 3, *(len(str(cell)) for cell in frame[key].head(1000))])
        most = NARROW if key.endswith(MINOR) else WIDEST if "reason" in key else WIDE
        sheet.set_column(column, column, min(longest + 1, most))
    sheet.freeze_panes(1, 0)
    sheet.repeat_rows(0)


def _heading(name: str) -> str:
    return name.removesuffix(MINOR)


def _sum_of(name: str, sheets: Sequence[str]) -> str:
    """A formula that sums a column of the payouts' sheets over the currency in the row's first cell."""
    tables = [_table(sheet) for sheet in sheets]
    return "+".join(f"SUMIFS({table}[{_heading(name)}],{table}[currency],A{{n}})" for table in tables)
