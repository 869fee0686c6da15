"""Statements: what an owner gets for a period, as a web page and as a PDF.

From plain data to bytes: both forms show the same chapters, made here, and templates only lay them out. What owners and
corpora supplied is text and never markup: autoescaped in the page, passed as data to the PDF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import typst

from provenance.core.errors import InputError, parse_day
from provenance.core.figures import drawn, embedded
from provenance.core.money import NANO, currency_name, format_minor, minor_digits
from provenance.core.text import plain
from provenance.settlement.months.pages import TEMPLATES, chapter, page, percent, table

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
# Bars of the figure.
PERIODS = 24
# Places that a panel has at least, so that one bar is not a wall.
FEWEST = 12

HOW = (
    "An output's revenue is shared among owners by how much their works added to it. That is estimated from the model itself "
    "and, where there are any, from counterfactual models: trained in the same way, on the works of some of the owners. Such "
    "estimates are not exact: the interval of 90 % beside a number is where it is expected to lie in nine cases of ten. Where "
    "a night's own check finds that they predict nothing, the contract says what counts instead."
)
HELD = "What is held is yours on the books and keeps growing, yet it is not paid until the reason is settled."
IDLE_HOLD = "Your account is on hold: nothing is owed to you now, and what you earn next is held."
SEND = (
    "Send the name of this statement (owner, period and revision), the night, output or work that you think is wrong, and "
    "whatever shows it: a contract, a registration, the work itself and where it first appeared."
)
CORRECTIONS = (
    "If you are right, the correction is booked openly, as a new entry that your next statement shows. Nothing is "
    "overwritten: earlier entries, files and statements stay as they are, so that anybody can see what was changed, and when."
)
VERIFY = (
    "Every night's payout files are proven by a manifest. Its SHA-256 digest stands below: ask for the manifest of a night, "
    "compute its digest, and compare. With another digest it is not the manifest that this statement was made from."
)


@dataclass(frozen=True)
class Movement:
    """A line of the account; by its amount what is owed changed, and below zero less is owed."""

    booking_id: int
    day: date
    booked_at: datetime
    what: str
    amount: int


@dataclass(frozen=True)
class Earning:
    """What one night brought, as it counts in this period.

    Attributes:
        low, high: the interval of 90 %, where it is known.
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
    """An output that rests on the owner's works, and the works, most influential first."""

    day: str
    output_id: str
    share_ppb: int
    low_ppb: int
    high_ppb: int
    amount_nanominor: int
    works: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """A work, the outputs for which it counts among the most influential, and what those brought; several may share one."""

    work_id: str
    source_uri: str
    outputs: int
    amount_nanominor: int


@dataclass(frozen=True)
class Section:
    """An owner's account in one currency; amounts are in minor units.

    Attributes:
        opening, closing: what is owed before and after the period; held: the part of `closing` that a hold keeps back.
        movements: every entry, in the order of booking.
        earnings: nights, oldest first; what they earned adds up to `earned`.
        outputs, works: largest first, the first of `outputs_in_all` and `works_in_all`.
        adjusted: corrections and claims; recouped: set off against advances; withheld: tax. All but `adjusted` above zero.
        history: what was earned by period, oldest first, this one last.
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

    @property
    def moved(self) -> int:
        """What the entries change, all together."""
        return sum(movement.amount for movement in self.movements)

    @property
    def kinds(self) -> int:
        """The same, by kind."""
        return self.earned + self.adjusted - self.recouped - self.withheld - self.paid


@dataclass(frozen=True)
class PaymentLine:
    """A payment in its own currency, and what it pays of what was `owed`; `on` is when it was last heard of."""

    payment_id: str
    period: str
    currency: str
    amount: int
    status: str
    on: date | None = None
    owed: int = 0
    owed_currency: str = ""


@dataclass(frozen=True)
class Statement:
    """What an owner gets for a period.

    Attributes:
        identifiers: by kind: ISNI, IPI and the like.
        period: YYYY-MM; through: the last booking that this statement knows; made_on: the date that it bears.
        holds: why payments are held.
        notice: what a reader must know first: that it is a demo, say; contact: where to contest.
        trust: how far the shares of the period can be trusted (`provenance.settlement.exports.trust.in_words`).
        revision: the how manieth of its owner and period.
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
    revision: int = 1


def check(statement: Statement) -> None:
    """Raise AssertionError where a statement does not add up; says where."""
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
            yield f"{s.currency}: an entry was booked at no known time: it has no time zone"
        for name, rows, all_of_them in (("outputs", s.outputs, s.outputs_in_all), ("works", s.works, s.works_in_all)):
            amounts = [row.amount_nanominor for row in rows]
            if amounts != sorted(amounts, reverse=True):
                yield f"{s.currency}: {name} are not largest first"
            if len(amounts) > all_of_them:
                yield f"{s.currency}: {len(amounts)} {name} of {all_of_them}"


def as_html(statement: Statement) -> bytes:
    """A statement that adds up as one file that needs no other: a web page, well-formed as XML, too."""
    return page(_view(statement))


def as_pdf(statement: Statement, *, fonts: Sequence[Path] = ()) -> bytes:
    """A statement as PDF/A-2a, tagged for screen readers. No font of the machine is used, so bytes are the same everywhere.

    Args:
        fonts: folders of more fonts, for scripts that DejaVu lacks; without one, their characters show as placeholders.

    Raises:
        AssertionError: it does not add up.
    """
    import matplotlib as mpl

    folders = [Path(mpl.get_data_path()) / "fonts" / "ttf", *fonts]
    return typst.compile(
        str(TEMPLATES / "statement.typ"),
        font_paths=[str(folder) for folder in folders],
        ignore_system_fonts=True,
        format="pdf",
        sys_inputs={"data": json.dumps(_view(statement))},
        pdf_standards="a-2a",
    )


def figure(section: Section) -> bytes:
    """What was earned by period and, if there is any, by night with its interval; an SVG file, legible on dark and light."""
    history, nights = section.history[-PERIODS:], section.earnings
    panels = max(1, bool(history) + bool(nights))
    unit = 10 ** minor_digits(section.currency)  # floats from here on are places on paper, and no money

    def draw(sheet: Any) -> None:
        axes = sheet.subplots(panels, 1, squeeze=False)[:, 0]
        if history:
            colours = ["#8a9bb0"] * (len(history) - 1) + ["#3f7fbf"]
            axes[0].bar(range(len(history)), [earned / unit for _, earned in history], color=colours, width=0.7)
            axes[0].set_title("Earned by month")
            named = range(len(history) - 1, -1, -(1 + (len(history) - 1) // 6))  # the last one has a name
            axes[0].set_xticks(named, [history[place][0] for place in named])
        if nights:
            axes[-1].bar(range(len(nights)), [night.earned / unit for night in nights], color="#3f7fbf", width=0.7)
            for place, night in enumerate(nights):
                if night.low is not None and night.high is not None:
                    ends = [night.low / unit, night.high / unit]
                    axes[-1].plot([place, place], ends, color="#c07a2c", marker="_", markersize=4, linewidth=1.2)
            axes[-1].set_title("Earned by night, with the interval of 90 %")
            named = range(0, len(nights), 1 + (len(nights) - 1) // 16)
            axes[-1].set_xticks(named, [nights[place].day[-2:] for place in named])
        if history:
            axes[0].set_xlim(len(history) - max(len(history), FEWEST) - 0.6, len(history) - 0.4)
        if nights:
            axes[-1].set_xlim(-0.6, max(len(nights), FEWEST) - 0.4)
        for axis in axes:
            _style(axis, section.currency)

    return drawn(
        draw, (5.2, 1.9 * panels), {"svg.hashsalt": section.currency, "font.size": 8.5, "font.family": ["DejaVu Sans"]}
    )


def _style(axis: Any, currency: str) -> None:
    grey = "#7a7a7a"
    axis.title.set_color(grey)
    axis.set_ylabel(currency, color=grey)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=grey, alpha=0.25, linewidth=0.6)
    axis.axhline(0, color=grey, linewidth=0.8)
    axis.tick_params(colors=grey, length=0)
    axis.locator_params(axis="y", nbins=5)
    axis.yaxis.set_major_formatter("{x:,.10g}")
    axis.spines[:].set_visible(False)


def _view(statement: Statement) -> dict[str, Any]:
    """All that both forms show, as clean text, chapter by chapter.

    Raises:
        AssertionError: it does not add up.
        InputError: the period is not a month.
    """
    check(statement)
    if not re.fullmatch(r"\d{4}-\d{2}", statement.period):
        raise InputError(f"statement for {statement.owner_id}", expected="a month as YYYY-MM", found=repr(statement.period))
    first = parse_day(f"statement for {statement.owner_id}", f"{statement.period}-01")
    month = f"{MONTHS[first.month - 1]} {first.year}"
    name = plain(statement.owner_name) or plain(statement.owner_id)
    facts = [("Owner", name), ("Owner's id", plain(statement.owner_id))]
    facts += [(plain(kind), plain(number)) for kind, number in sorted(statement.identifiers.items())]
    facts += [("Period", month), ("Made on", f"{_day(statement.made_on)}, after booking {statement.through}")]
    facts += [("Revision", str(statement.revision))]
    return {
        "title": f"Statement for {month}",
        "name": name,
        "made": {"year": statement.made_on.year, "month": statement.made_on.month, "day": statement.made_on.day},
        "notice": plain(statement.notice),
        "facts": facts,
        "accounts": [_account(section, statement, month) for section in statement.sections],
        "summary": _summary(statement, month),
        "chapters": list(_chapters(statement, month)),
    }


def _account(section: Section, statement: Statement, month: str) -> dict[str, Any]:
    """The numbers that come first."""
    money = _money(section)
    note = ""
    if section.closing < 0:
        note = "Below zero: a correction is set off against what you earn next."
    elif section.held:
        note = f"{money(section.held)} of this is held."
    return {
        "name": currency_name(section.currency) if len(statement.sections) > 1 else "",
        "numbers": [
            {"kind": "owed", "label": "Owed to you now", "amount": money(section.closing), "note": note},
            {"kind": "earned", "label": f"Earned in {month}", "amount": money(section.earned), "note": ""},
            {"kind": "paid", "label": f"Paid in {month}", "amount": money(section.paid), "note": ""},
        ],
    }


def _summary(statement: Statement, month: str) -> list[str]:
    if not statement.sections:
        return [f"You earned nothing in {month}, and nothing is owed to you."]
    found = []
    for section in statement.sections:
        earned = format_minor(section.earned, section.currency)
        outputs, works = section.outputs_in_all, section.works_in_all
        if not section.earnings:
            said = f"no output that was paid for in {section.currency} was found to rest on your works"
            found.append(f"You earned nothing in {month}: {said}.")
        elif outputs and works:
            rest = f"{_count(outputs, 'output')} of the model {'rests' if outputs == 1 else 'rest'} on {_count(works, 'work')}"
            found.append(f"In {month} you earned {earned}: {rest} of yours.")
        else:
            found.append(f"In {month} you earned {earned}.")
    return found


def _chapters(statement: Statement, month: str) -> Iterator[dict[str, Any]]:
    sections = statement.sections
    if sections:
        tables = [_sums_up(section, month) for section in sections]
        yield chapter("sum", "How it adds up", tables=tables)
    yield _payments(statement)
    for section in sections:
        of = f", {currency_name(section.currency)}" if len(sections) > 1 else ""
        known = section.currency.lower()
        if section.earnings:
            picture = _picture(section, statement.period)
            yield chapter(f"nights-{known}", f"Night by night{of}", tables=[_nights(section)], picture=picture)
        elif any(earned for _, earned in section.history):
            said = (f"There are no earnings in {month}.",)
            yield chapter(f"nights-{known}", f"Month by month{of}", said, picture=_picture(section, statement.period))
        if section.works:
            yield chapter(f"works-{known}", f"Your works{of}", tables=[_works(section)])
        if section.outputs:
            yield chapter(f"outputs-{known}", f"The outputs{of}", tables=[_outputs(section)])
        if section.movements:
            yield chapter(f"entries-{known}", f"Every entry of your account{of}", tables=[_entries(section)])
    holds = [plain(reason) for reason in statement.holds]
    amounts = [format_minor(section.held, section.currency) for section in sections if section.held]
    if holds or amounts:
        now = f"Held now: {' and '.join(amounts)}." if amounts else IDLE_HOLD
        yield chapter("held", "What is held, and why", (now, HELD), items=holds)
    else:
        yield chapter("held", "What is held, and why", ("Nothing is held.",))
    yield chapter("how", "How this was found out", (HOW, *([plain(statement.trust)] if statement.trust else [])))
    contact = [plain(statement.contact)]
    yield chapter("contest", "If you think that this is wrong", (SEND, CORRECTIONS, "Write to:"), items=contact)
    proofs = sorted({(e.day, e.revision, e.manifest_sha256) for section in sections for e in section.earnings})
    if proofs:
        columns = (("Night", "short"), ("Revision", "number"), ("SHA-256 of the manifest", "digest"))
        rows = [(day, str(revision), digest) for day, revision, digest in proofs]
        yield chapter("check", "How to check this", (VERIFY,), tables=[table("manifests", "Manifests", columns, rows)])


def _sums_up(section: Section, month: str) -> dict[str, Any]:
    money = _money(section)
    rows = [
        ("Owed to you before", money(section.opening)),
        (f"Earned in {month}", money(section.earned)),
        ("Adjustments: corrections of earlier nights, and works found to be yours", money(section.adjusted)),
        ("Set off against advances that you have had", money(-section.recouped)),
        ("Tax withheld", money(-section.withheld)),
        ("Paid to you", money(-section.paid)),
    ]
    note = f"Of this {money(section.held)} is held." if section.held else ""
    return table(
        f"sum-{section.currency.lower()}",
        f"From what was owed before to what is owed now, {currency_name(section.currency)}",
        (("What", "long"), ("Amount", "number")),
        rows,
        total=("Owed to you now", money(section.closing)),
        note=note,
    )


def _payments(statement: Statement) -> dict[str, Any]:
    if not statement.payments:
        return chapter("payments", "Payments", ("There are no payments.",))
    columns = (
        ("Payment", "digest"),
        ("For", "short"),
        ("On", "short"),
        ("Status", "long"),
        ("Of what was owed", "number"),
        ("Paid", "number"),
    )
    rows = [
        (
            p.payment_id,
            p.period,
            str(p.on) if p.on else "not yet",
            p.status,
            format_minor(p.owed, p.owed_currency) if p.owed_currency else "",
            format_minor(p.amount, p.currency),
        )
        for p in statement.payments
    ]
    return chapter("payments", "Payments", tables=[table("paid", "Payments to you", columns, rows)])


def _nights(section: Section) -> dict[str, Any]:
    money = _money(section)
    columns = (("Night", "short"), ("Outputs", "number"), ("Earned", "number"), ("At least", "number"), ("At most", "number"))
    rows = [
        (e.day, f"{e.outputs:,}", money(e.earned), *("not known" if end is None else money(end) for end in (e.low, e.high)))
        for e in section.earnings
    ]
    outputs = sum(earning.outputs for earning in section.earnings)
    return table(
        f"earned-{section.currency.lower()}",
        "What each night brought, and the interval of 90 %",
        columns,
        rows,
        total=("All", f"{outputs:,}", money(section.earned), "", ""),
    )


def _works(section: Section) -> dict[str, Any]:
    amounts = _small(section.currency, [work.amount_nanominor for work in section.works])
    rest = _first(len(section.works), section.works_in_all, "works")
    return table(
        f"by-work-{section.currency.lower()}",
        "Works that count among the most influential for an output, and what those outputs brought",
        (("Work", "code"), ("Where it was found", "code"), ("Outputs", "number"), ("They brought", "number")),
        [
            (work.work_id, work.source_uri, f"{work.outputs:,}", amount)
            for work, amount in zip(section.works, amounts, strict=True)
        ],
        links=1,
        note=f"{rest} An output may rest on several of your works, so this column does not add up to what you earned.".strip(),
    )


def _outputs(section: Section) -> dict[str, Any]:
    amounts = _small(section.currency, [output.amount_nanominor for output in section.outputs])
    rest = _first(len(section.outputs), section.outputs_in_all, "outputs")
    return table(
        f"by-output-{section.currency.lower()}",
        "Your share of each output, and the interval of 90 %",
        (
            ("Night", "short"),
            ("Output", "code"),
            ("Your share", "number"),
            ("At least", "number"),
            ("At most", "number"),
            ("Earned", "number"),
            ("Through", "code"),
        ),
        [
            (o.day, o.output_id, *(percent(n) for n in (o.share_ppb, o.low_ppb, o.high_ppb)), amount, ", ".join(o.works))
            for o, amount in zip(section.outputs, amounts, strict=True)
        ],
        note=f"{rest} Parts of the smallest unit of money count: only a night's sum is rounded.".strip(),
    )


def _entries(section: Section) -> dict[str, Any]:
    money = _money(section)
    rows, balance = [], section.opening
    for m in section.movements:
        balance += m.amount
        at = f"{m.booked_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        rows.append((str(m.booking_id), at, str(m.day), m.what, money(m.amount), money(balance)))
    return table(
        f"entries-of-{section.currency.lower()}",
        f"Entries, from {money(section.opening)} on",
        (
            ("Entry", "number"),
            ("Booked (UTC)", "short"),
            ("For", "short"),
            ("What", "long"),
            ("Amount", "number"),
            ("Owed then", "number"),
        ),
        rows,
    )


def _picture(section: Section, period: str) -> dict[str, str]:
    """The figure, to stand inside a page, and what it shows in words."""
    history = section.history[-PERIODS:]
    money, words = _money(section), []
    if history:
        top, most = max(history, key=lambda row: row[1])
        words += [f"What was earned from {history[0][0]} to {history[-1][0]}; most in {top}: {money(most)}."]
    if section.earnings:
        best = max(section.earnings, key=lambda earning: earning.earned)
        words += [f"In {period} the best night was {best.day}: {money(best.earned)}. The table has every night."]
    return embedded(figure(section), " ".join(words), section.currency.lower())


def _money(section: Section) -> Callable[[int], str]:
    return lambda amount: format_minor(amount, section.currency)


def _small(currency: str, amounts: Sequence[int]) -> list[str]:
    """Amounts in nanominor with as many decimals as the smallest needs, and at most four more than the currency has."""
    digits = minor_digits(currency)
    least = min((abs(amount) for amount in amounts if amount), default=NANO)
    most = digits + len(str(NANO)) - 1
    places = min(max(digits, most - len(str(least)) + 3), digits + 4)
    step, found = 10 ** (most - places), []
    for amount in amounts:
        whole, part = divmod((abs(amount) + step // 2) // step, 10**places)
        sign = "-" if amount < 0 else ""
        if amount and not whole and not part:
            found.append(f"{currency} < {sign}0.{1:0{places}d}")
        else:
            found.append(f"{currency} {sign}{whole:,}" + (f".{part:0{places}d}" if places else ""))
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _first(shown: int, in_all: int, what: str) -> str:
    return f"Shown are the {what} that brought most: {shown:,} of {in_all:,}." if shown < in_all else ""


def _day(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
