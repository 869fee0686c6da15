"""Says in one line how things stand: the latest night, how far its shares can be trusted, and who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from infra.monitor.nights import BOOKED, NOT_BOOKED, PUBLISHED, WAITING
from infra.monitor.runs import FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from infra.monitor.nights import WatchedNight
    from infra.monitor.runs import OpenQuestions

# The hour (UTC) until which a night's publication needs no day: it can only be the next.
EARLY = 6
GOOD, ODD, BAD, BUSY = "good", "odd", "bad", "busy"
LOOKS = {PUBLISHED: GOOD, FAILED: BAD, "queued": BUSY, "running": BUSY}


@dataclass(frozen=True)
class Part:
    """A part of the line: its text, and whether it is good, odd, bad, or going on (busy).

    Attributes:
        day: the night that it is about, if any; asks: whether people are asked something.
    """

    text: str
    look: str
    day: str = ""
    asks: bool = False


def headline(
    nights: Sequence[WatchedNight],
    asked: Mapping[str, OpenQuestions],
    *,
    paused: bool,
    today: date,
    unsettled: Sequence[str] = (),
) -> tuple[Part, ...]:
    """How things stand.

    Args:
        nights: the last ones, oldest first.
        asked: open questions by DAG.
        paused: whether nights do not run by themselves.
        today: in UTC; yesterday is paid in the night to today.
        unsettled: what closed months left open, in a few words each.
    """
    rest = (*(Part(text, ODD) for text in unsettled), *_asked(asked, others=bool(unsettled)))
    if not nights:
        return (Part("no night has run yet", ODD), *rest)
    latest = nights[-1]
    published = next((night for night in reversed(nights) if night.published), None)
    parts = [_state(latest)]
    if published and published is not latest:
        parts.append(Part(f"{short_day(published.day)} published {_time(published)}", GOOD, published.day))
    parts += [_state(night) for night in nights[:-1] if night.state in {FAILED, BOOKED}]
    if (behind := today.toordinal() - 1 - day_number(latest.day)) > 0 and not paused:
        parts.append(Part(f"{behind} {'day' if behind == 1 else 'days'} behind", ODD))
    parts += _fidelity(published)
    if paused:
        parts.append(Part("nights are paused", ODD))
    return (*parts, *rest)


def short_day(day: str) -> str:
    """`2026-11-27` as `27 Nov`."""
    when = date.fromisoformat(day)
    return f"{when.day} {when:%b}"


def day_number(day: str) -> int:
    """A day's number in the calendar, to count with."""
    return date.fromisoformat(day).toordinal()


def _state(night: WatchedNight) -> Part:
    day, look = short_day(night.day), LOOKS.get(night.state, ODD)
    latest = night.runs[-1] if night.runs else None
    if night.state == PUBLISHED:
        return Part(f"{day} published {_time(night)}", look, night.day)
    if night.state == WAITING:
        return Part(f"{day} waits for a person", look, night.day)
    if night.state == FAILED and latest and latest.failed:
        return Part(f"{day} failed in {', '.join(latest.failed)}", look, night.day)
    if night.state == BOOKED:
        return Part(f"{day} booked, not published", BAD, night.day)
    if night.state == NOT_BOOKED:
        return Part(f"{day} ended, not booked", look, night.day)
    since = f" since {latest.started:%H:%M}" if latest and latest.started else ""
    return Part(f"{day} {night.state}{since}", look, night.day)


def _time(night: WatchedNight) -> str:
    """The time of publishing, with its day unless that was early in the night after."""
    at: datetime | None = night.published_at
    if at is None:
        return ""
    night_after = at.date().toordinal() == day_number(night.day) + 1 and at.hour < EARLY
    return f"{at:%H:%M}" if night_after else f"on {at.day} {at:%b} at {at:%H:%M}"


def _fidelity(night: WatchedNight | None) -> Iterator[Part]:
    """By contract, the score of the estimate, or that the check failed or was not made."""
    for name, measured in sorted(night.fidelity.items()) if night else ():
        of = f" of {name}" if night and len(night.fidelity) > 1 else ""
        if measured["failed"]:
            yield Part(f"fidelity{of} fails its check", BAD)
        elif score := measured["lds"].get("estimate"):
            yield Part(f"fidelity{of} {score['value']:.2f}", GOOD)
        else:
            yield Part(f"fidelity{of} not measured", ODD)


def _asked(asked: Mapping[str, OpenQuestions], *, others: bool) -> Iterator[Part]:
    """Questions to people; that nothing waits is said only where nothing else does."""
    if count := sum(questions.count for questions in asked.values()):
        yield Part("1 question waits for a person" if count == 1 else f"{count} questions wait for people", ODD, asks=True)
    elif not others:
        yield Part("nothing waiting", GOOD)
