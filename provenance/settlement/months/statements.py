"""Holds an owner's statement of a period as plain data, and checks that it adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from provenance.settlement.months.excerpts import Excerpt


@dataclass(frozen=True)
class Movement:
    """A line of the account; its amount is added to the balance."""

    booking_id: int
    day: date
    booked_at: datetime
    what: str
    amount: int


@dataclass(frozen=True)
class Earning:
    """One night's earnings in this period.

    Attributes:
        low, high: ends of the 90 % interval, if known.
        manifest_sha256: of the night's export.
    """

    day: str
    revision: int
    outputs: int
    earned: int
    low: int | None
    high: int | None
    manifest_sha256: str


@dataclass(frozen=True)
class Output:
    """An output that rests on the owner's works, and the titles of the works, most influential first.

    Attributes:
        prompt, excerpt: what the model was asked and a piece of what it answered; empty where they are not kept or not shown.
    """

    day: str
    output_id: str
    share_ppb: int
    low_ppb: int
    high_ppb: int
    amount_nanominor: int
    works: tuple[str, ...]
    prompt: str = ""
    excerpt: Excerpt | None = None


@dataclass(frozen=True)
class Work:
    """A work, the number of outputs for which it is among the most influential, and their amounts; works may share outputs.

    Attributes:
        title: as the collector recorded it, or the work's id in words.
        link: a safe address on the web for where it was found, or empty; licence: SPDX, or empty.
        passage: the piece of it that counts most; None below the first works, and where it is no longer kept.
    """

    work_id: str
    source_uri: str
    outputs: int
    amount_nanominor: int
    title: str = ""
    link: str = ""
    licence: str = ""
    passage: Excerpt | None = None


@dataclass(frozen=True)
class Section:
    """An owner's account in one currency; amounts are in minor units.

    Attributes:
        opening, closing: owed before and after the period; held: the part of `closing` that is on hold.
        movements: every entry, in the order of booking.
        earnings: by night, oldest first; they add up to `earned`.
        outputs, works: the largest of `outputs_in_all` and `works_in_all`, largest first.
        adjusted: corrections and claims; recouped: set off against advances; withheld: tax. All but `adjusted` above zero.
        history: earnings by period, oldest first, this one last.
        outcome: of the close, such as `pay` or `held`; empty while the period is open.
    """

    currency: str
    opening: int = 0
    movements: tuple[Movement, ...] = ()
    closing: int = 0
    held: int = 0
    earnings: tuple[Earning, ...] = ()
    outputs: tuple[Output, ...] = ()
    outputs_in_all: int = 0
    works: tuple[Work, ...] = ()
    works_in_all: int = 0
    earned: int = 0
    adjusted: int = 0
    recouped: int = 0
    withheld: int = 0
    paid: int = 0
    history: tuple[tuple[str, int], ...] = ()
    outcome: str = ""

    @property
    def moved(self) -> int:
        """The sum of all entries."""
        return sum(movement.amount for movement in self.movements)

    @property
    def kinds(self) -> int:
        """The same sum, from the amounts of each kind."""
        return self.earned + self.adjusted - self.recouped - self.withheld - self.paid


@dataclass(frozen=True)
class PaymentLine:
    """A payment in its own currency, and the amount `owed` that it settles, after tax; `on` is the day of its last status.

    Attributes:
        rate: by which `owed` was converted; empty if it was not.
    """

    payment_id: str
    period: str
    currency: str
    amount: int
    status: str
    on: date | None = None
    owed: int = 0
    owed_currency: str = ""
    withheld: int = 0
    rate: str = ""


@dataclass(frozen=True)
class Statement:
    """An owner's statement of a period.

    Attributes:
        identifiers: by kind, such as ISNI and IPI.
        period: YYYY-MM; through: the last booking in it; made_on: its date.
        holds: reasons why amounts are held.
        notice: shown first, such as that revenue is invented; contact: address for contesting it.
        trust: how far the shares of the period can be trusted (`provenance.settlement.exports.trust.in_words`).
        models: ids of the models whose outputs are paid.
        outputs, works: numbers of outputs and works behind the earnings of the period, in all currencies.
        closed: whether the period is closed; next_on: the day on which the next statement is due.
        revision: number among statements of its owner and period, from 1.
    """

    owner_id: str
    owner_name: str
    period: str
    through: int
    made_on: date
    contact: str
    identifiers: Mapping[str, str] = field(default_factory=dict)
    holds: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    payments: tuple[PaymentLine, ...] = ()
    notice: str = ""
    trust: str = ""
    models: tuple[str, ...] = ()
    outputs: int = 0
    works: int = 0
    closed: bool = True
    next_on: date | None = None
    revision: int = 1


def check(statement: Statement) -> None:
    """Raise AssertionError with all problems if a statement does not add up."""
    problems = list(_problems(statement))
    if problems:
        raise AssertionError(f"{statement.owner_id} {statement.period}: {'; '.join(problems)}")


def _problems(statement: Statement) -> Iterator[str]:
    codes = [section.currency for section in statement.sections]
    if len(set(codes)) < len(codes):
        yield f"a currency has two sections: {', '.join(codes)}"
    for s in statement.sections:
        if s.opening + s.moved != s.closing:
            yield f"{s.currency}: opening {s.opening} and entries {s.moved} make {s.opening + s.moved}, closing is {s.closing}"
        if s.opening + s.kinds != s.closing:
            yield f"{s.currency}: opening {s.opening} and kinds {s.kinds} make {s.opening + s.kinds}, closing is {s.closing}"
        nights = sum(earning.earned for earning in s.earnings)
        if nights != s.earned:
            yield f"{s.currency}: nights earned {nights}, the period {s.earned}"
        if dict(s.history).get(statement.period, s.earned) != s.earned:
            yield f"{s.currency}: {statement.period} earned {s.earned}, its history says {dict(s.history)[statement.period]}"
        if any((earning.low is None) != (earning.high is None) for earning in s.earnings):
            yield f"{s.currency}: a night has half an interval"
        if any(later.booking_id > statement.through for later in s.movements):
            yield f"{s.currency}: there are entries after booking {statement.through}"
        if any(movement.booked_at.tzinfo is None for movement in s.movements):
            yield f"{s.currency}: the time of an entry has no time zone"
        for name, rows, all_of_them in (("outputs", s.outputs, s.outputs_in_all), ("works", s.works, s.works_in_all)):
            amounts = [row.amount_nanominor for row in rows]
            if amounts != sorted(amounts, reverse=True):
                yield f"{s.currency}: {name} are not largest first"
            if len(amounts) > all_of_them:
                yield f"{s.currency}: {len(amounts)} {name} of {all_of_them}"
