"""Plots as a few shapes that a template writes as SVG; style sheets colour them, so that they follow light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.monitor.nights import in_order
from infra.page.template_filters import PREDICTORS, day, percent, span
from provenance.core.money import format_minor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infra.monitor.nights import Audit, Night

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 74, 8, 10, 24
# Classes of colours that the style sheet has; currencies and contracts that have a plot each.
COLOURS = 14
CURRENCIES = CONTRACTS = 4
CEILING = "ceiling"
# Spans of time that an axis ends with, in seconds: their halves are round, too.
SPANS = (1, 2, 4, 10, 20, 40, 60, 120, 240, 600, 1200, 2400, 3600, 7200, 4 * 3600, 8 * 3600, 12 * 3600, 24 * 3600)


@dataclass(frozen=True)
class Bar:
    """A rectangle; `said` is shown to whoever points at it."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    said: str


@dataclass(frozen=True)
class Dot:
    """A value at `x, y`, with the ends of its interval if it has one."""

    x: float
    y: float
    said: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Dots, joined."""

    dots: tuple[Dot, ...]
    colour: str

    @property
    def points(self) -> str:
        """The dots as SVG has them."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


@dataclass(frozen=True)
class Plot:
    """Shapes on a canvas of WIDTH x HEIGHT, ticks of both axes, and what colours mean.

    Attributes:
        ups: height and text of each tick of the vertical axis; days: place and text of those of the other.
        legend: colours and what they stand for.
    """

    title: str
    days: tuple[tuple[float, str], ...]
    ups: tuple[tuple[float, str], ...]
    legend: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()


def of_nights(nights: Sequence[Night], audits: Sequence[Audit]) -> list[Plot]:
    """What nights earned and kept, how long they took, how far shares moved and can be trusted, and what audits found."""
    booked = [night for night in nights if night.totals]
    currencies = sorted({currency for night in booked for currency in night.totals})[:CURRENCIES]
    plots = [_money(booked, currency) for currency in currencies]
    if any(night.seconds for night in nights):
        plots.append(_times(nights))
    if moved := [(night, night.drift) for night in booked if night.drift is not None]:
        plots.append(_drift(moved))
    contracts = sorted({name for night in booked for name, found in night.fidelity.items() if found["lds"]})[:CONTRACTS]
    plots += [_fidelity(booked, name) for name in contracts]
    return plots + [_audits(audits, family) for family in sorted({f.family for audit in audits for f in audit.figures})]


def _money(nights: Sequence[Night], currency: str) -> Plot:
    revenue = [night.totals.get(currency, {}).get("revenue_minor", 0) for night in nights]
    kept = [night.escrow.get(currency) for night in nights]
    top = _nice(max(*revenue, *(amount or 0 for amount in kept), 1))
    bars, dots = [], []
    for at, night in enumerate(nights):
        left, width = _column(at, len(nights))
        y = _y(revenue[at], top)
        told = f"{day(night.day)}: revenue {format_minor(revenue[at], currency)}"
        bars.append(Bar(left, y, width, _y(0, top) - y, "c0", told))
        if (amount := kept[at]) is not None:
            told = f"{day(night.day)}: {format_minor(amount, currency)} in escrow"
            dots.append(Dot(left + width / 2, _y(amount, top), told))
    return Plot(
        f"Revenue and escrow, {currency}",
        days=_days([night.day for night in nights]),
        ups=_ups(top, lambda amount: _whole(amount, currency)),
        legend=(("c0", "revenue of the day"), ("c1", "in escrow after it")),
        bars=tuple(bars),
        lines=(Line(tuple(dots), "c1"),),
    )


def _times(nights: Sequence[Night]) -> Plot:
    stages = in_order({stage for night in nights for stage in night.seconds})
    longest = max(sum(night.seconds.values()) for night in nights)
    top = next((step for step in SPANS if step >= longest), longest)
    bars = []
    for at, night in enumerate(nights):
        left, width = _column(at, len(nights))
        under = 0.0
        for number, stage in enumerate(stages):
            if seconds := night.seconds.get(stage, 0.0):
                upper, lower = _y(under + seconds, top), _y(under, top)
                said = f"{day(night.day)}: {stage} {span(seconds)}"
                bars.append(Bar(left, upper, width, lower - upper, _colour(number), said))
                under += seconds
    return Plot(
        "Time of each night's latest run",
        days=_days([night.day for night in nights]),
        ups=_ups(top, span),
        legend=tuple((_colour(number), stage) for number, stage in enumerate(stages)),
        bars=tuple(bars),
    )


def _drift(moved: Sequence[tuple[Night, float]]) -> Plot:
    top = _nice(max(0.01, *(drift for _, drift in moved)))
    dots = (
        Dot(_middle(at, len(moved)), _y(drift, top), f"{day(night.day)}: {percent(drift)}")
        for at, (night, drift) in enumerate(moved)
    )
    return Plot(
        "Drift of shares",
        days=_days([night.day for night, _ in moved]),
        ups=_ups(top, percent),
        legend=(("c2", "part of owners' shares that is not where it was in the nights before"),),
        lines=(Line(tuple(dots), "c2"),),
    )


def _fidelity(nights: Sequence[Night], contract: str) -> Plot:
    """How well counterfactual models were predicted for one contract, by the estimate and by what it has to beat."""
    measured = [(night, night.fidelity[contract]["lds"]) for night in nights if night.fidelity.get(contract, {}).get("lds")]
    shown = [(by, said) for by, said in PREDICTORS.items() if by != "influence" and any(by in lds for _, lds in measured)]
    lines = [
        Line(
            tuple(
                Dot(
                    _middle(at, len(measured)),
                    _y(lds[by]["value"], 1),
                    f"{day(night.day)}: {said} {lds[by]['value']:.2f}, {lds[by]['low']:.2f} to {lds[by]['high']:.2f}",
                )
                for at, (night, lds) in enumerate(measured)
                if by in lds
            ),
            _colour(number + 3),
        )
        for number, (by, said) in enumerate(shown)
    ]
    return Plot(
        f"Fidelity of shares: {contract}",
        days=_days([night.day for night, _ in measured]),
        ups=_ups(1, lambda score: f"{score:.2f}"),
        legend=tuple((_colour(number + 3), said) for number, (_, said) in enumerate(shown)),
        lines=tuple(lines),
    )


def _audits(audits: Sequence[Audit], family: str) -> Plot:
    mine = [(at, audit, figure) for at, audit in enumerate(audits) for figure in audit.figures if figure.family == family]
    methods = sorted({figure.method for _, _, figure in mine})
    lines = []
    for number, method in enumerate(methods):
        aside = 6 * (number - (len(methods) - 1) / 2)  # so that intervals do not hide each other
        dots = tuple(
            Dot(
                _middle(at, len(audits)) + aside,
                _y(max(figure.score, 0), 1),
                f"{day(audit.day)}: {method} {figure.score:.2f}, {figure.low:.2f} to {figure.high:.2f}",
                low=_y(max(figure.low, 0), 1),
                high=_y(max(figure.high, 0), 1),
            )
            for at, audit, figure in mine
            if figure.method == method
        )
        lines.append(Line(dots, _colour(number + 3)))
    ceilings = {
        at: Dot(_middle(at, len(audits)), _y(figure.ceiling, 1), f"{day(audit.day)}: ceiling {figure.ceiling:.2f}")
        for at, audit, figure in mine
    }
    return Plot(
        f"Audits: halves of {family}",
        days=_days([audit.day for audit in audits]),
        ups=_ups(1, lambda score: f"{score:.2f}"),
        legend=(*((_colour(number + 3), method) for number, method in enumerate(methods)), (CEILING, "what noise allows")),
        lines=(*lines, Line(tuple(ceilings.values()), CEILING)),
    )


def _colour(number: int) -> str:
    return f"c{number % COLOURS}"


def _whole(amount: float, currency: str) -> str:
    """An amount on an axis, whose title has the currency: without decimals where it has none to speak of."""
    return format_minor(round(amount), currency, symbol=False).removesuffix(".00")


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= value * 0.9999)


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(value, 0) / top)


def _column(at: int, count: int) -> tuple[float, float]:
    """Where the column of one of so many days begins, and how wide it is."""
    room = (WIDTH - LEFT - RIGHT) / max(count, 1)
    width = min(room * 0.8, 40.0)
    return LEFT + room * at + (room - width) / 2, width


def _middle(at: int, count: int) -> float:
    left, width = _column(at, count)
    return left + width / 2


def _ups(top: float, text: Callable[[float], str]) -> tuple[tuple[float, str], ...]:
    return tuple((_y(top * part, top), text(top * part)) for part in (0.0, 0.5, 1.0))


def _days(days: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """The first day, the last, and one between."""
    chosen = sorted({0, len(days) // 2, len(days) - 1} if len(days) > 2 else set(range(len(days))))
    return tuple((_middle(at, len(days)), day(days[at])[4:-5]) for at in chosen)
