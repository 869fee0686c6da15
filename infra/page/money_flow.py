"""Lays out pictures of where revenue goes, as nodes and ribbons that a template writes as SVG (a Sankey diagram).

revenue -> owners (the leading ones, and the others together), escrow, nobody, developer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.page.template_filters import percent
from provenance.core.money import format_minor
from provenance.core.tables import ESCROW, PAYABLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from infra.monitor.earned import PartyOfNight

# Owners with a node of their own.
LEADING = 7
# Height of the revenue, of the two lines of a label, and the gap between nodes; width of a node.
TALL, LABEL, GAP, NODE = 190.0, 32.0, 6.0, 12.0
TOP = 40.0
# Columns of the wide picture and of the narrow one, which leaves out single owners, and the width of each.
WIDE, NARROW = (0.0, 165.0, 360.0), (0.0, 130.0)
WIDTHS = {WIDE: 560, NARROW: 340}
# Most letters of a name.
LONGEST = {WIDE: 24, NARROW: 26}
COLOURS = {"developer": "c11", "owners": "c3", "escrow": "c1", "nobody": "c8"}


@dataclass(frozen=True)
class Node:
    """A bar with a label of two lines, beside it or (`above`) over it."""

    x: float
    y: float
    height: float
    colour: str
    name: str
    amount: str
    above: bool = False


@dataclass(frozen=True)
class Ribbon:
    """A band of one height between two bars."""

    path: str
    colour: str
    tooltip: str


@dataclass(frozen=True)
class Picture:
    """One picture of one currency; `words` say the same."""

    words: str
    width: int
    height: float
    nodes: tuple[Node, ...]
    ribbons: tuple[Ribbon, ...]


def of_totals(
    totals: Mapping[str, Mapping[str, int]], parties: Sequence[PartyOfNight] = ()
) -> list[tuple[str, Picture | None, Picture]]:
    """Pictures of control totals by currency: one with single owners, if any, and a narrow one without them.

    Args:
        parties: who got what, largest first.

    Returns:
        One triple for each currency with revenue.
    """
    pictures = []
    for currency, row in sorted(totals.items()):
        if row["revenue_minor"] <= 0:
            continue
        # A correction may take back more than a day gave; such parts are no band.
        own = [p for p in parties if p.currency == currency and p.account == PAYABLE and (p.amount_minor or 0) > 0]
        escrow = sum(p.currency == currency and p.account == ESCROW for p in parties)
        wide = _picture(currency, row, own, escrow, WIDE) if own else None
        pictures.append((currency, wide, _picture(currency, row, own, escrow, NARROW)))
    return pictures


def _picture(
    currency: str, totals: Mapping[str, int], owners: Sequence[PartyOfNight], escrow: int, columns: tuple[float, ...]
) -> Picture:
    revenue = totals["revenue_minor"]
    parts = {
        "owners": totals["earned_minor"],
        "escrow": totals["escrowed_minor"],
        "nobody": totals["unattributed_minor"],
        "developer": totals["developer_minor"],
    }
    parts = {name: amount for name, amount in parts.items() if amount > 0}
    single = _single(owners, parts.get("owners", 0)) if len(columns) > 2 else []

    def high(amount: float) -> float:
        return TALL * amount / revenue

    def said(amount: int) -> str:
        return f"{format_minor(amount, currency)}, {percent(amount / revenue)}"

    nodes: list[Node] = []
    ribbons: list[Ribbon] = []
    y, bottom = TOP, TOP
    if single:
        for name, amount in single:
            nodes.append(Node(columns[2], y, max(high(amount), 1.0), COLOURS["owners"], _cut(name, columns), said(amount)))
            y += max(high(amount), LABEL) + GAP
        bottom = y + GAP
    # Single owners stand beside all owners, and the other parts below them, so that no label lies on a ribbon.
    y = TOP
    middle: dict[str, float] = {}
    for name, amount in parts.items():
        above = name == "owners" and bool(single)
        middle[name] = y
        count = {"owners": len(owners), "escrow": escrow}.get(name, 0)
        nodes.append(Node(columns[1], y, max(high(amount), 1.0), COLOURS[name], _many(name, count), said(amount), above=above))
        y = max(y + max(high(amount), LABEL) + GAP, bottom if above else 0.0)
    height = max(y, bottom)
    nodes.insert(0, Node(columns[0], TOP, TALL, "c0", "revenue", format_minor(revenue, currency), above=True))
    at = TOP
    for name, amount in parts.items():
        start, end = (columns[0] + NODE, at), (columns[1], middle[name])
        ribbons.append(_ribbon(start, end, high(amount), COLOURS[name], f"{name} {said(amount)}"))
        at += high(amount)
    at = middle.get("owners", TOP)
    for (name, amount), node in zip(single, nodes[1:], strict=False):
        start, end = (columns[1] + NODE, at), (columns[2], node.y)
        ribbons.append(_ribbon(start, end, high(amount), COLOURS["owners"], f"{name} {said(amount)}"))
        at += high(amount)
    words = f"Of {format_minor(revenue, currency)}: " + "; ".join(f"{name} {said(amount)}" for name, amount in parts.items())
    return Picture(words, WIDTHS[columns], max(height, TOP + TALL) + 4, tuple(nodes), tuple(ribbons))


def _single(owners: Sequence[PartyOfNight], earned: int) -> list[tuple[str, int]]:
    """Owners with a node of their own, and the others together."""
    leading = [(party.name, party.amount_minor or 0) for party in owners[:LEADING]]
    others = earned - sum(amount for _, amount in leading)
    count = len(owners) - len(leading)
    return [*leading, *([(f"{count} {'other' if count == 1 else 'others'}", others)] if others > 0 and count else [])]


def _many(name: str, count: int) -> str:
    """The name of a part, with the number of its parties."""
    if name == "owners" and count:
        return f"{count} owner" if count == 1 else f"{count} owners"
    return f"{name} ({count})" if count else name


def _cut(name: str, columns: tuple[float, ...]) -> str:
    longest = LONGEST[columns]
    return name if len(name) <= longest else f"{name[: longest - 1].rstrip()}\u2026"


def _ribbon(start: tuple[float, float], end: tuple[float, float], height: float, colour: str, tooltip: str) -> Ribbon:
    """A ribbon between the upper right corner of one bar and the upper left corner of another."""
    (left, top), (right, to) = start, end
    middle = (left + right) / 2
    there = f"M{left:.1f},{top:.1f} C{middle:.1f},{top:.1f} {middle:.1f},{to:.1f} {right:.1f},{to:.1f}"
    below, to_below = top + height, to + height
    back = f"V{to_below:.1f} C{middle:.1f},{to_below:.1f} {middle:.1f},{below:.1f} {left:.1f},{below:.1f} Z"
    return Ribbon(f"{there} {back}", colour, tooltip)
