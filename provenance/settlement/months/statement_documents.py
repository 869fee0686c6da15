"""Writes statements as web pages and PDFs with the same chapters.

Templates only lay them out. Text of owners and corpora is never markup: it is escaped in pages and passed as data to PDFs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date
from pathlib import Path
from typing import Any

import typst

from provenance.core.errors import InputError, parse_day
from provenance.core.figures import draw_svg, embed_svg
from provenance.core.money import NANO, currency_name, format_minor, minor_digits
from provenance.core.text import plain
from provenance.settlement.months.pages import TEMPLATES, chapter, page, percent, table
from provenance.settlement.months.statements import Section, Statement, check

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
# Most months in the figure.
PERIODS = 24
# Fewest places for bars in a panel, so that a single bar is not as wide as the panel.
FEWEST = 12

HOW = (
    "The revenue of an output is shared among owners by how much their works contributed to it. Contributions are estimated "
    "from the model and, where there are any, from counterfactual models: these are trained in the same way, but only on the "
    "works of some of the owners. Estimates are not exact: in nine of ten cases, the true value is expected to lie in the 90 % "
    "interval beside a number. The estimates are checked every night. If they fail, the contract says which simpler rule pays."
)
HELD = "Held amounts are yours and keep growing, but they are not paid until the reason is settled."
IDLE_HOLD = "Your account is on hold: nothing is owed to you now, and your next earnings will be held."
SEND = (
    "Send the owner, the period and the revision of this statement; the night, output or work that you think is wrong; and "
    "your evidence: a contract, a registration, or the work itself and where it first appeared."
)
CORRECTIONS = (
    "If you are right, the correction is booked as a new entry, and your next statement shows it. Nothing is overwritten: "
    "earlier entries, files and statements stay as they are, so that anybody can see what was changed, and when."
)
VERIFY = (
    "A manifest proves the payout files of a night. The SHA-256 digests of the manifests are below: ask for the manifest of a "
    "night, compute its digest, and compare. If they differ, this statement was not made from that manifest."
)


def as_html(statement: Statement) -> bytes:
    """Write a statement as a web page in one file; raises AssertionError if it does not add up."""
    return page(_view(statement))


def as_pdf(statement: Statement) -> bytes:
    """Write a statement as PDF/A-2a, tagged for screen readers; without the machine's fonts, so bytes are equal everywhere.

    Characters that DejaVu lacks show as placeholders.

    Raises:
        AssertionError: it does not add up.
    """
    import matplotlib as mpl

    return typst.compile(
        str(TEMPLATES / "statement.typ"),
        font_paths=[str(Path(mpl.get_data_path()) / "fonts" / "ttf")],
        ignore_system_fonts=True,
        format="pdf",
        sys_inputs={"data": json.dumps(_view(statement))},
        pdf_standards="a-2a",
    )


def figure(section: Section) -> bytes:
    """A figure of earnings by month, and by night with intervals; an SVG file, legible on dark and light pages."""
    history, nights = section.history[-PERIODS:], section.earnings
    panels = max(1, bool(history) + bool(nights))
    unit = 10 ** minor_digits(section.currency)  # floats below are positions in the figure, not money

    def draw(sheet: Any) -> None:
        axes = sheet.subplots(panels, 1, squeeze=False)[:, 0]
        if history:
            colours = ["#8a9bb0"] * (len(history) - 1) + ["#3f7fbf"]
            axes[0].bar(range(len(history)), [earned / unit for _, earned in history], color=colours, width=0.7)
            axes[0].set_title("Earned by month")
            labels = range(len(history) - 1, -1, -(1 + (len(history) - 1) // 6))  # the last month has a label
            axes[0].set_xticks(labels, [history[place][0] for place in labels])
        if nights:
            axes[-1].bar(range(len(nights)), [night.earned / unit for night in nights], color="#3f7fbf", width=0.7)
            for place, night in enumerate(nights):
                if night.low is not None and night.high is not None:
                    ends = [night.low / unit, night.high / unit]
                    axes[-1].plot([place, place], ends, color="#c07a2c", marker="_", markersize=4, linewidth=1.2)
            axes[-1].set_title("Earned by night, with 90 % intervals")
            labels = range(0, len(nights), 1 + (len(nights) - 1) // 16)
            axes[-1].set_xticks(labels, [nights[place].day[-2:] for place in labels])
        if history:
            axes[0].set_xlim(len(history) - max(len(history), FEWEST) - 0.6, len(history) - 0.4)
        if nights:
            axes[-1].set_xlim(-0.6, max(len(nights), FEWEST) - 0.4)
        for axis in axes:
            _style(axis, section.currency)

    return draw_svg(
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
    """The content of both documents, as clean text in chapters.

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
    """The numbers at the top of a statement."""
    money = _money(section)
    note = ""
    if section.closing < 0:
        note = "Below zero: a correction is set off against your next earnings."
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
    sentences = []
    for section in statement.sections:
        earned = format_minor(section.earned, section.currency)
        outputs, works = section.outputs_in_all, section.works_in_all
        if not section.earnings:
            reason = f"no output paid in {section.currency} was found to rest on your works"
            sentences.append(f"You earned nothing in {month}: {reason}.")
        elif outputs and works:
            basis = f"{_count(outputs, 'output')} of the model {'rests' if outputs == 1 else 'rest'} on {_count(works, 'work')}"
            sentences.append(f"In {month} you earned {earned}: {basis} of yours.")
        else:
            sentences.append(f"In {month} you earned {earned}.")
    return sentences


def _chapters(statement: Statement, month: str) -> Iterator[dict[str, Any]]:
    sections = statement.sections
    if sections:
        tables = [_sums_up(section, month) for section in sections]
        yield chapter("sum", "How it adds up", tables=tables)
    yield _payments(statement)
    for section in sections:
        of = f", {currency_name(section.currency)}" if len(sections) > 1 else ""
        code = section.currency.lower()
        if section.earnings:
            picture = _picture(section, statement.period)
            yield chapter(f"nights-{code}", f"Night by night{of}", tables=[_nights(section)], picture=picture)
        elif any(earned for _, earned in section.history):
            sentences = (f"There are no earnings in {month}.",)
            yield chapter(f"nights-{code}", f"Month by month{of}", sentences, picture=_picture(section, statement.period))
        if section.works:
            yield chapter(f"works-{code}", f"Your works{of}", tables=[_works(section)])
        if section.outputs:
            yield chapter(f"outputs-{code}", f"The outputs{of}", tables=[_outputs(section)])
        if section.movements:
            yield chapter(f"entries-{code}", f"Every entry of your account{of}", tables=[_entries(section)])
    holds = [plain(reason) for reason in statement.holds]
    amounts = [format_minor(section.held, section.currency) for section in sections if section.held]
    if holds or amounts:
        state = f"Held now: {' and '.join(amounts)}." if amounts else IDLE_HOLD
        yield chapter("held", "What is held, and why", (state, HELD), items=holds)
    else:
        yield chapter("held", "What is held, and why", ("Nothing is held.",))
    yield chapter("how", "How this was calculated", (HOW, *([plain(statement.trust)] if statement.trust else [])))
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
        ("Set off against your advances", money(-section.recouped)),
        ("Tax withheld", money(-section.withheld)),
        ("Paid to you", money(-section.paid)),
    ]
    note = f"Of this {money(section.held)} is held." if section.held else ""
    return table(
        f"sum-{section.currency.lower()}",
        f"From the balance before to the balance now, {currency_name(section.currency)}",
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
        ("Amount owed", "number"),
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
        "Your earnings by night, with 90 % intervals",
        columns,
        rows,
        total=("All", f"{outputs:,}", money(section.earned), "", ""),
    )


def _works(section: Section) -> dict[str, Any]:
    amounts = _small(section.currency, [work.amount_nanominor for work in section.works])
    rest = _first(len(section.works), section.works_in_all, "works")
    return table(
        f"by-work-{section.currency.lower()}",
        "Works among the most influential for an output, and your earnings from those outputs",
        (("Work", "code"), ("Where it was found", "code"), ("Outputs", "number"), ("Earned", "number")),
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
        "Your share of each output, with 90 % intervals",
        (
            ("Night", "short"),
            ("Output", "code"),
            ("Your share", "number"),
            ("At least", "number"),
            ("At most", "number"),
            ("Earned", "number"),
            ("Works", "code"),
        ),
        [
            (o.day, o.output_id, *(percent(n) for n in (o.share_ppb, o.low_ppb, o.high_ppb)), amount, ", ".join(o.works))
            for o, amount in zip(section.outputs, amounts, strict=True)
        ],
        note=f"{rest} Amounts here have fractions of the smallest unit: only the sum of a night is rounded.".strip(),
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
        f"Entries, from a balance of {money(section.opening)} on",
        (
            ("Entry", "number"),
            ("Booked (UTC)", "short"),
            ("For", "short"),
            ("What", "long"),
            ("Amount", "number"),
            ("Balance", "number"),
        ),
        rows,
    )


def _picture(section: Section, period: str) -> dict[str, str]:
    """The figure for a page, with a caption."""
    history = section.history[-PERIODS:]
    money, words = _money(section), []
    if history:
        best_month, best_amount = max(history, key=lambda row: row[1])
        words += [f"Earnings from {history[0][0]} to {history[-1][0]}; the most in {best_month}: {money(best_amount)}."]
    if section.earnings:
        best = max(section.earnings, key=lambda earning: earning.earned)
        words += [f"In {period} the best night was {best.day}: {money(best.earned)}. The table has every night."]
    return embed_svg(figure(section), " ".join(words), section.currency.lower())


def _money(section: Section) -> Callable[[int], str]:
    return lambda amount: format_minor(amount, section.currency)


def _small(currency: str, amounts: Sequence[int]) -> list[str]:
    """Amounts in nanominor as text, with the decimals that the smallest needs, at most four more than the currency has."""
    digits = minor_digits(currency)
    smallest = min((abs(amount) for amount in amounts if amount), default=NANO)
    digits_in_all = digits + len(str(NANO)) - 1
    places = min(max(digits, digits_in_all - len(str(smallest)) + 3), digits + 4)
    step, texts = 10 ** (digits_in_all - places), []
    for amount in amounts:
        whole, part = divmod((abs(amount) + step // 2) // step, 10**places)
        sign = "-" if amount < 0 else ""
        if amount and not whole and not part:
            texts.append(f"{currency} < {sign}0.{1:0{places}d}")
        else:
            texts.append(f"{currency} {sign}{whole:,}" + (f".{part:0{places}d}" if places else ""))
    return texts


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _first(shown: int, in_all: int, what: str) -> str:
    return f"The table shows the {what} that earned most: {shown:,} of {in_all:,}." if shown < in_all else ""


def _day(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
