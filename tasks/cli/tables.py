"""Builds tables for a terminal, and formats shares and sums for them. Cells and lines are shown literally, never as markup."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from provenance.core.money import format_minor
from tasks.terminal import line

# The most letters of an owner's name in a table.
NAME = 20


class Grid(Table):
    """A table that fits a terminal of 80 columns; long text breaks and is never cut, since people match ids.

    A cell is a string, a list of strings (one a line), or a `Text` with a style.
    """

    def __init__(self, title: str, *columns: str | Column, rows: Iterable[Iterable[Any]] = ()) -> None:
        headings = (Column(line(column), overflow="fold") if isinstance(column, str) else column for column in columns)
        super().__init__(
            *headings,
            title=line(title, "bold") if title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for row in rows:
            self.add_row(*row)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of cells."""
        super().add_row(*map(_cell, cells), **options)


def _cell(cell: Any) -> RenderableType:
    if isinstance(cell, list):
        return lines(cell)
    return cell if isinstance(cell, Text) else line(str(cell))


def lines(texts: Iterable[str], style: str = "") -> Text:
    """Texts on a line each."""
    return Text("\n").join(line(text, style) for text in texts)


def number(heading: str, *, no_wrap: bool = False) -> Column:
    """A right-aligned column of numbers."""
    return Column(lines(heading.split("\n")), justify="right", no_wrap=no_wrap)


def whole(heading: str) -> Column:
    """A column that is never wrapped."""
    return Column(line(heading), no_wrap=True)


def short(name: str, most: int = NAME) -> str:
    """A name, shortened for a table."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def range_of(low: float, high: float) -> str:
    """An interval of shares, such as `1.5-2.0%`."""
    return f"{low * 100:.1f}-{high:.1%}"


def add_up(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums of amounts by currency."""
    sums: dict[str, int] = defaultdict(int)
    for currency, amount in amounts:
        sums[currency] += amount
    return dict(sorted(sums.items()))


def money(sums: dict[str, int]) -> list[str]:
    """Amounts in minor units as people write them, by currency."""
    return [format_minor(amount, currency) for currency, amount in sums.items()]


def more(count: int, hint: str = "") -> Text:
    """The line below a table for rows that it omits."""
    return line(f"and {count:,} more{hint}", "dim")
