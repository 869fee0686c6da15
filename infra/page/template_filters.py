"""Formats amounts, shares, spans of time, days, months and sizes for templates."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from provenance.core.money import NANO, PPB, format_minor, minor_digits
from provenance.settlement.exports.shown import melody
from provenance.settlement.exports.trust import in_words
from provenance.settlement.months.closings import ranges

if TYPE_CHECKING:
    from collections.abc import Callable

# Predictors of counterfactual models, in the order of the page.
PREDICTORS = {"estimate": "the estimate", "influence": "influence alone", "tfidf": "TF-IDF", "size": "size alone"}
STATES = {
    "published": "good",
    "booked": "odd",
    "not booked": "odd",
    "waiting": "odd",
    "queued": "busy",
    "running": "busy",
    "failed": "bad",
}


def fine_money(nanominor: int, currency: str) -> str:
    """An amount in nanominor, cut to a thousandth of a minor unit."""
    minor, rest = divmod(nanominor, NANO)
    point = "" if minor_digits(currency) else "."
    return f"{format_minor(minor, currency)}{point}{rest // 1_000_000:03d}"


def percent(part: float | None, digits: int = 1) -> str:
    """`.1234` as `12.3 %`."""
    return "-" if part is None else f"{100 * part:.{digits}f} %"


def ppb(share: int) -> str:
    """A share in parts per billion as percent."""
    return percent(share / PPB, 2)


def span(seconds: float) -> str:
    """`3905` as `1 h 5 min`."""
    if 0 < seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s"


def day(when: str | date) -> str:
    """`2026-11-20` as `Fri 20 Nov 2026`."""
    when = date.fromisoformat(when) if isinstance(when, str) else when
    return f"{when:%a} {when.day} {when:%b %Y}"


def month(period: str) -> str:
    """`2026-11` as `November 2026`."""
    return f"{date.fromisoformat(f'{period}-01'):%B %Y}"


def change(part: float | None) -> str:
    """A change of a share, in points of a percent: `.0123` as `+1.23`; nothing for one that cannot be seen."""
    points = f"{100 * part:+.2f}" if part is not None else "-"
    return "0.00" if points in {"+0.00", "-0.00"} else points


def moment(when: datetime | str | None) -> str:
    """A time to the minute, in UTC."""
    when = datetime.fromisoformat(when) if isinstance(when, str) else when
    return f"{day(when.date())}, {when:%H:%M} UTC" if when else "-"


def size(count: int) -> str:
    """`2048` as `2.0 kB`."""
    for unit, worth in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= worth:
            return f"{count / worth:.1f} {unit}"
    return f"{count} B"


FILTERS: dict[str, Callable[..., Any]] = {
    "money": format_minor,
    "fine_money": fine_money,
    "percent": percent,
    "ppb": ppb,
    "span": span,
    "day": day,
    "moment": moment,
    "size": size,
    "month": month,
    "days": ranges,
    "change": change,
    "place": lambda key: quote(key, safe="/="),
    "path": lambda text: quote(text, safe=""),
    "in_words": in_words,
    "melody": melody,
    "zip_with": lambda these, others: zip(these, others, strict=True),
    "look": lambda state: STATES.get(state, "odd"),
    "count": lambda number: f"{number:,}",
}
