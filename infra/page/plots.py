"""Makes plots as shapes that a template writes as SVG; the style sheet colours them for light and dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.monitor.nights import in_order
from infra.page.template_filters import PREDICTORS, day, month, percent, span
from provenance.core.money import format_minor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from infra.monitor.nights import WatchedNight
    from provenance.influence.audits import Audit

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 74, 8, 10, 24
# Colour classes of the style sheet; most currencies and contracts with a plot.
COLOURS = 14
CURRENCIES = CONTRACTS = 4
CEILING = "ceiling"
# Ends of time axes in seconds; their halves are round, too.
SPANS = (1, 2, 4, 10, 20, 40, 60, 120, 240, 600, 1200, 2400, 3600, 7200, 4 * 3600, 8 * 3600, 12 * 3600, 24 * 3600)


@dataclass(frozen=True)
class Bar:
    """A rectangle; the browser shows `tooltip` under the pointer."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    tooltip: str


@dataclass(frozen=True)
class Dot:
    """A value at `x, y`, with the ends of its interval, if any."""

    x: float
    y: float
    tooltip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Joined dots."""

    dots: tuple[Dot, ...]
    colour: str

    @property
    def points(self) -> str:
        """The dots as SVG points."""
        return " ".join(f"{dot.x:.1f},{dot.y:.1f}" for dot in self.dots)


@dataclass(frozen=True)
class Plot:
    """Shapes on a canvas of WIDTH x HEIGHT, ticks of both axes, and a legend.

    Attributes:
        days: position and text of ticks of the horizontal axis; ups: of the vertical one.
        legend: colours and their meanings.
    """

    title: str
    days: tuple[tuple[float, str], ...]
    ups: tuple[tuple[float, str], ...]
    legend: tuple[tuple[str, str], ...]
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()


def of_nights(nights: Sequence[WatchedNight], audits: Sequence[Audit]) -> list[Plot]:
    """Plots of revenue and escrow, times, drift, fidelity and audits."""
    booked = [night for night in nights if night.totals]
    currencies = sorted({currency for night in booked for currency in night.totals})[:CURRENCIES]
    plots = [_money(booked, currency) for currency in currencies]
    if any(night.seconds for night in nights):
        plots.append(_times(nights))
    if drifts := [(night, night.drift) for night in booked if night.drift is not None]:
        plots.append(_drift(drifts))
    contracts = sorted({name for night in booked for name, fidelity in night.fidelity.items() if fidelity["lds"]})[:CONTRACTS]
    plots += [_fidelity(booked, name) for name in contracts]
    return plots + [_audits(audits, family) for family in sorted({f.family for audit in audits for f in audit.figures})]


def of_earnings(history: Mapping[str, Sequence[tuple[str, int]]], last: int = 24) -> list[Plot]:
    """Plots of what an owner's works earned, by currency: a bar for each of the last months."""
    return [_earnings(months[-last:], currency) for currency, months in history.items()]


def _earnings(months: Sequence[tuple[str, int]], currency: str) -> Plot:
    highest = _nice(max(1, *(amount for _, amount in months)))
    bars = []
    for index, (period, amount) in enumerate(months):
        left, width = _column(index, len(months))
        y = _y(amount, highest)
        bars.append(Bar(left, y, width, _y(0, highest) - y, "c3", f"{month(period)}: {format_minor(amount, currency)}"))
    indices = sorted({0, len(months) // 2, len(months) - 1})
    return Plot(
        f"Earned by month, {currency}",
        days=tuple((_middle(index, len(months)), month(months[index][0])) for index in indices),
        ups=_ups(highest, lambda amount: _whole(amount, currency)),
        legend=(),
        bars=tuple(bars),
    )


def _money(nights: Sequence[WatchedNight], currency: str) -> Plot:
    revenue = [night.totals.get(currency, {}).get("revenue_minor", 0) for night in nights]
    escrowed = [night.escrow.get(currency) for night in nights]
    highest = _nice(max(*revenue, *(amount or 0 for amount in escrowed), 1))
    bars, dots = [], []
    for index, night in enumerate(nights):
        left, width = _column(index, len(nights))
        y = _y(revenue[index], highest)
        tooltip = f"{day(night.day)}: revenue {format_minor(revenue[index], currency)}"
        bars.append(Bar(left, y, width, _y(0, highest) - y, "c0", tooltip))
        if (amount := escrowed[index]) is not None:
            tooltip = f"{day(night.day)}, booking {night.booking_id}: {format_minor(amount, currency)} in escrow after it"
            dots.append(Dot(left + width / 2, _y(amount, highest), tooltip))
    return Plot(
        f"Revenue and escrow, {currency}",
        days=_days([night.day for night in nights]),
        ups=_ups(highest, lambda amount: _whole(amount, currency)),
        legend=(("c0", "revenue of the day"), ("c1", "in escrow after its booking, in whatever order days were booked")),
        bars=tuple(bars),
        lines=(Line(tuple(dots), "c1"),),
    )


def _times(nights: Sequence[WatchedNight]) -> Plot:
    stages = in_order({stage for night in nights for stage in night.seconds})
    longest = max(sum(night.seconds.values()) for night in nights)
    highest = next((step for step in SPANS if step >= longest), longest)
    bars = []
    for index, night in enumerate(nights):
        left, width = _column(index, len(nights))
        below = 0.0
        for number, stage in enumerate(stages):
            if seconds := night.seconds.get(stage, 0.0):
                y_top, y_bottom = _y(below + seconds, highest), _y(below, highest)
                tooltip = f"{day(night.day)}: {stage} {span(seconds)}"
                bars.append(Bar(left, y_top, width, y_bottom - y_top, _colour(number), tooltip))
                below += seconds
    return Plot(
        "Time of each night's latest run",
        days=_days([night.day for night in nights]),
        ups=_ups(highest, span),
        legend=tuple((_colour(number), stage) for number, stage in enumerate(stages)),
        bars=tuple(bars),
    )


def _drift(moved: Sequence[tuple[WatchedNight, float]]) -> Plot:
    highest = _nice(max(0.01, *(drift for _, drift in moved)))
    dots = (
        Dot(_middle(index, len(moved)), _y(drift, highest), f"{day(night.day)}: {percent(drift)}")
        for index, (night, drift) in enumerate(moved)
    )
    return Plot(
        "Drift of shares",
        days=_days([night.day for night, _ in moved]),
        ups=_ups(highest, percent),
        legend=(("c2", "part of owners' shares that moved to other owners, compared with the nights before"),),
        lines=(Line(tuple(dots), "c2"),),
    )


def _fidelity(nights: Sequence[WatchedNight], contract: str) -> Plot:
    """How well one contract's counterfactual models were predicted, by the estimate and by simpler predictors."""
    measured = [(night, night.fidelity[contract]["lds"]) for night in nights if night.fidelity.get(contract, {}).get("lds")]
    others = {name: label for name, label in PREDICTORS.items() if name != "influence"}
    predictors = [(name, label) for name, label in others.items() if any(name in lds for _, lds in measured)]
    lines = [
        Line(
            tuple(
                Dot(
                    _middle(index, len(measured)),
                    _y(lds[predictor]["value"], 1),
                    _scored(night.day, label, *(lds[predictor][end] for end in ("value", "low", "high"))),
                )
                for index, (night, lds) in enumerate(measured)
                if predictor in lds
            ),
            _colour(number + 3),
        )
        for number, (predictor, label) in enumerate(predictors)
    ]
    return Plot(
        f"Fidelity of shares: {contract}",
        days=_days([night.day for night, _ in measured]),
        ups=_ups(1, lambda score: f"{score:.2f}"),
        legend=tuple((_colour(number + 3), label) for number, (_, label) in enumerate(predictors)),
        lines=tuple(lines),
    )


def _audits(audits: Sequence[Audit], family: str) -> Plot:
    of_audits = ((index, audit, figure) for index, audit in enumerate(audits) for figure in audit.figures)
    figures = [row for row in of_audits if row[2].family == family]
    methods = sorted({figure.method for _, _, figure in figures})
    lines = []
    for number, method in enumerate(methods):
        shift = 6 * (number - (len(methods) - 1) / 2)  # so that intervals do not hide each other
        dots = tuple(
            Dot(
                _middle(index, len(audits)) + shift,
                _y(max(figure.score, 0), 1),
                _scored(audit.day, method, figure.score, figure.low, figure.high),
                low=_y(max(figure.low, 0), 1),
                high=_y(max(figure.high, 0), 1),
            )
            for index, audit, figure in figures
            if figure.method == method
        )
        lines.append(Line(dots, _colour(number + 3)))
    ceilings = {
        index: Dot(_middle(index, len(audits)), _y(figure.ceiling, 1), f"{day(audit.day)}: ceiling {figure.ceiling:.2f}")
        for index, audit, figure in figures
    }
    return Plot(
        f"Audits: halves of {family}",
        days=_days([audit.day for audit in audits]),
        ups=_ups(1, lambda score: f"{score:.2f}"),
        legend=(*((_colour(number + 3), method) for number, method in enumerate(methods)), (CEILING, "what noise allows")),
        lines=(*lines, Line(tuple(ceilings.values()), CEILING)),
    )


def _scored(when: str, predictor: str, value: float, low: float, high: float) -> str:
    """The tooltip of a score with its interval."""
    return f"{day(when)}: {predictor} {value:.2f}, {low:.2f} to {high:.2f}"


def _colour(number: int) -> str:
    return f"c{number % COLOURS}"


def _whole(amount: float, currency: str) -> str:
    """An amount on an axis, without currency, and without decimals that are zero."""
    return format_minor(round(amount), currency, symbol=False).removesuffix(".00")


def _nice(value: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= value * 0.9999)


def _y(value: float, highest: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(value, 0) / highest)


def _column(index: int, count: int) -> tuple[float, float]:
    """Left end and width of one of `count` columns."""
    slot = (WIDTH - LEFT - RIGHT) / max(count, 1)
    width = min(slot * 0.8, 40.0)
    return LEFT + slot * index + (slot - width) / 2, width


def _middle(index: int, count: int) -> float:
    left, width = _column(index, count)
    return left + width / 2


def _ups(highest: float, text: Callable[[float], str]) -> tuple[tuple[float, str], ...]:
    return tuple((_y(highest * part, highest), text(highest * part)) for part in (0.0, 0.5, 1.0))


def _days(days: Sequence[str]) -> tuple[tuple[float, str], ...]:
    """The first day, the last, and one between."""
    indices = sorted({0, len(days) // 2, len(days) - 1} if len(days) > 2 else set(range(len(days))))
    return tuple((_middle(index, len(days)), day(days[index])[4:-5]) for index in indices)
