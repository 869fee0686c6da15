"""Writes statements as web pages and PDFs with the same chapters.

Templates only lay them out. Text of owners and corpora is never markup: it is escaped in pages and passed as data to PDFs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, date
from pathlib import Path
from typing import Any

import typst

from provenance.core.errors import InputError, parse_day
from provenance.core.figures import draw_svg, embed_svg
from provenance.core.money import NANO, PPB, currency_name, format_minor, minor_digits
from provenance.core.text import address, plain
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED
from provenance.settlement.exports.trust import how_sure
from provenance.settlement.months.excerpts import Excerpt
from provenance.settlement.months.pages import TEMPLATES, chapter, page, percent, table
from provenance.settlement.months.periods import BELOW, NEGATIVE, NOTHING, ON_HOLD, closes_on, following
from provenance.settlement.months.settling import LEFT_OUT, SENT
from provenance.settlement.months.statements import Output, Section, Statement, Work, check

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
FORMS = ("html", "pdf")
# Most months in the figure, outputs that are shown whole, and letters of one in a table.
PERIODS, PIECES, LETTERS = 24, 5, 80
# Why a closed period has no payment, by the outcome of its close.
WHY_NOT = {
    BELOW: "Below the smallest payment: it stays owed, and is paid with a later month.",
    ON_HOLD: "Held: the reason is below.",
    NEGATIVE: "A debt of earlier months is set off first.",
    NOTHING: "Nothing was due.",
}
# Fewest places for bars in a panel, so that a single bar is not as wide as the panel.
FEWEST = 12

HOW = (
    "The revenue of an output is shared among owners by how much their works contributed to it. Contributions are estimated "
    "from the model and, where there are any, from counterfactual models: these are trained in the same way, but only on the "
    "works of some of the owners. Estimates are not exact: in nine of ten cases, the true value is expected to lie in the 90 % "
    "interval beside a number. The estimates are checked every night. If they fail, the contract says which simpler rule pays."
)
SURE = (
    "A share is an estimate. The true value is expected to lie in the interval beside it in nine of ten cases: see the outputs "
    "below."
)
CONTEST = (
    "Write to {contact}, with your owner's id, {month} and what is wrong. Where evidence does not settle it, an experiment "
    "does: models are trained with your works and without them, and you get a signed report."
)
OPT_OUT = (
    "Write to {contact}, and name the works, or all of them. From the day that you choose, not before your letter, no new "
    "model is trained on them. Say whether what today's models earn with them is to be paid to you as before, credited to you "
    "by name without money, or kept for you."
)
CREDIT = "{outputs} of {models} in {month} {rest} in part on {works} by {name}."
THEN = "Two people then approve its payments, and you get your next statement."
HELD = "Held amounts are yours and keep growing, but they are not paid until the reason is settled."
IDLE_HOLD = "Your account is on hold: nothing is owed to you now, and your next earnings will be held."
FRACTIONS = (
    "Amounts here have fractions of the smallest unit: only the sum of a night is rounded. The intervals do not add up to the "
    "interval of a night, which is wider: on another night the model would have been asked other things."
)
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


def documents(statement: Statement) -> dict[str, bytes]:
    """Write a statement, by form: a web page in one file, and PDF/A-2a.

    The PDF is tagged for screen readers, and made without the machine's fonts, so bytes are equal everywhere. Characters that
    DejaVu lacks show as placeholders.

    Raises:
        AssertionError: it does not add up.
    """
    import matplotlib as mpl

    view = _view(statement)  # once, because its figures take most of the time
    pdf = typst.compile(
        str(TEMPLATES / "statement.typ"),
        font_paths=[str(Path(mpl.get_data_path()) / "fonts" / "ttf")],
        ignore_system_fonts=True,
        format="pdf",
        sys_inputs={"data": json.dumps(view)},
        pdf_standards="a-2a",
    )
    return dict(zip(FORMS, (page(view, "statement.html"), pdf), strict=True))


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
        "accounts": [_account(section, statement, MONTHS[first.month - 1]) for section in statement.sections],
        "summary": _summary(statement, month),
        "steps": _steps(statement, month, name),
        "contact": plain(statement.contact),
        "cards": True,
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
    owed = f"Owed at the end of {month}" if statement.closed else "Owed to you so far"
    return {
        "name": currency_name(section.currency) if len(statement.sections) > 1 else "",
        "numbers": [
            {"kind": "owed", "label": owed, "amount": money(section.closing), "note": note},
            {"kind": "earned", "label": f"Earned in {month}", "amount": money(section.earned), "note": ""},
            _sent(section, statement, month),
        ],
    }


def _sent(section: Section, statement: Statement, month: str) -> dict[str, Any]:
    """What became of the amount that was owed: its payment, or the reason why there is none."""
    mine = (p for p in statement.payments if p.period == statement.period)
    payment = next((p for p in mine if (p.owed_currency or p.currency) == section.currency), None)
    if payment is None:
        if not statement.closed:
            due = closes_on(statement.period)
            return {"kind": "paid", "label": "Sent", "amount": "not yet", "note": f"{month} is closed on {_short_day(due)}."}
        note = WHY_NOT.get(section.outcome, "")
        if section.outcome == ON_HOLD and statement.holds:
            note = f"Held: {', '.join(plain(reason) for reason in statement.holds)}. Write to {plain(statement.contact)}."
        return {"kind": "paid", "label": "Sent", "amount": format_minor(0, section.currency), "note": note}
    on = f" on {_short_day(payment.on)}" if payment.on else ""
    status, _, reason = payment.status.partition(": ")
    label, note = {
        SENT: (f"Sent{on}", ""),
        PAID: (f"Paid{on}", ""),
        REJECTED: (f"Rejected by the bank{on}", "It is owed to you again."),
        RETURNED: (f"Came back{on}", "It is owed to you again."),
        LEFT_OUT: ("Not sent", reason),
    }.get(status, ("To be sent", "Two people have yet to approve it."))
    details = []
    if payment.currency != section.currency:
        at = f" at {payment.rate}" if payment.rate else ""
        details += [f"for {format_minor(payment.owed, payment.owed_currency)}{at}, rounded down"]
    details += [f"after tax of {format_minor(payment.withheld, section.currency)}"] if payment.withheld else []
    about = f"{', '.join(details)}." if details else ""
    note = f"{about[:1].upper()}{about[1:]} {note}"
    return {"kind": "paid", "label": label, "amount": format_minor(payment.amount, payment.currency), "note": plain(note)}


def _summary(statement: Statement, month: str) -> list[str]:
    if not statement.sections:
        return [f"You earned nothing in {month}, and nothing is owed to you."]
    sentences = []
    models = _models(statement)
    for section in statement.sections:
        earned = format_minor(section.earned, section.currency)
        outputs, works = section.outputs_in_all, section.works_in_all
        if not section.earnings:
            reason = f"no output paid in {section.currency} was found to rest on your works"
            sentences.append(f"You earned nothing in {month}: {reason}.")
        elif outputs and works:
            basis = f"{_count(outputs, 'output')} of {models} {_rest(outputs)} on {_count(works, 'work')} of yours"
            most = [_title(work) for work in section.works[:3]]
            named = f", most on {_listed(most)}" if works > len(most) else f": {_listed(most)}"
            sentences.append(f"In {month} you earned {earned}: {basis}{named}.")
        else:
            sentences.append(f"In {month} you earned {earned}.")
    return sentences


def _steps(statement: Statement, month: str, name: str) -> list[dict[str, Any]]:
    """What an owner may want to do next, for the first screen; each with a sentence or a line to quote."""
    contact = plain(statement.contact)
    steps = []
    if any(section.earnings for section in statement.sections):
        steps.append(_step("sure", "How sure is this?", [SURE, *([plain(statement.trust)] if statement.trust else [])]))
    steps.append(_step("wrong", "Is it wrong?", [CONTEST.format(contact=contact, month=month)]))
    steps.append(_step("opt-out", "Opt out", [OPT_OUT.format(contact=contact)]))
    if statement.outputs and statement.works:
        line = CREDIT.format(
            outputs=_count(statement.outputs, "output"),
            models=_models(statement),
            month=month,
            rest=_rest(statement.outputs),
            works=_count(statement.works, "work"),
            name=name.removesuffix("."),
        )
        steps.append(_step("quote", "You may quote this", [], line))
    if statement.next_on:
        later = following(statement.period) if statement.closed else statement.period
        sentence = f"{_month(later)} is closed on {_day(statement.next_on)}. {THEN}"
        steps.append(_step("next", "What comes next", [sentence]))
    return steps


def _step(step_id: str, title: str, sentences: list[str], quote: str = "") -> dict[str, Any]:
    return {"id": step_id, "title": title, "sentences": sentences, "quote": quote}


def _chapters(statement: Statement, month: str) -> Iterator[dict[str, Any]]:
    sections = statement.sections
    shown: set[str] = set()  # a work that is behind earnings in two currencies is shown once
    for section in sections:
        of = f", {currency_name(section.currency)}" if len(sections) > 1 else ""
        code = section.currency.lower()
        if section.works:
            pieces = _work_pieces(section, shown)
            yield chapter(f"works-{code}", f"Your works{of}", tables=[_works(section)], pieces=pieces)
            shown |= {work.work_id for work in section.works}
        if section.outputs:
            yield chapter(f"outputs-{code}", f"The outputs{of}", tables=[_outputs(section)], pieces=_output_pieces(section))
    if sections:
        tables = [_sums_up(section, month, closed=statement.closed) for section in sections]
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


def _sums_up(section: Section, month: str, *, closed: bool) -> dict[str, Any]:
    money, end = _money(section), f"Owed at the end of {month}" if closed else "Owed to you so far"
    rows = [
        ("Owed to you before", money(section.opening)),
        (f"Earned in {month}", money(section.earned)),
        ("Adjustments: corrections of earlier nights, and works found to be yours", money(section.adjusted)),
        ("Set off against your advances", money(-section.recouped)),
        ("Tax withheld", money(-section.withheld)),
        (f"Paid to you in {month}, for the months before", money(-section.paid)),
    ]
    note = f"Of this {money(section.held)} is held." if section.held else ""
    return table(
        f"sum-{section.currency.lower()}",
        f"From the balance before {month} to the balance at its end, {currency_name(section.currency)}",
        (("What", "long"), ("Amount", "number")),
        rows,
        total=(end, money(section.closing)),
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
        f"Your earnings by night, with 90 % intervals ({section.currency})",
        columns,
        rows,
        total=("All", f"{outputs:,}", money(section.earned), "", ""),
    )


def _work_pieces(section: Section, shown: Collection[str]) -> list[dict[str, Any]]:
    """The first works that were not shown yet, each with the passage that counts most."""
    amounts = _small(section.currency, [work.amount_nanominor for work in section.works])
    return [
        {
            "title": _title(work),
            "href": address(work.link),
            "about": ", ".join(filter(None, (_count(work.outputs, "output"), amount, plain(work.licence)))),
            "excerpts": [("", _excerpt(work.passage))],
        }
        for work, amount in zip(section.works, amounts, strict=True)
        if work.passage and work.work_id not in shown
    ]


def _works(section: Section) -> dict[str, Any]:
    amounts = _small(section.currency, [work.amount_nanominor for work in section.works])
    rest = _first(len(section.works), section.works_in_all, "works")
    return table(
        f"by-work-{section.currency.lower()}",
        f"Works among the most influential for an output, and your earnings from those outputs ({section.currency})",
        (("Work", "long"), ("Outputs", "number"), ("Earned", "number")),
        [(_title(work), f"{work.outputs:,}", amount) for work, amount in zip(section.works, amounts, strict=True)],
        links={(row, 0): work.link for row, work in enumerate(section.works)},
        below={(row, 0): work.licence for row, work in enumerate(section.works)},
        note=f"{rest} An output may rest on several of your works, so this column does not add up to what you earned.".strip(),
    )


def _output_pieces(section: Section) -> list[dict[str, Any]]:
    """The first outputs, with what was asked and answered."""
    amounts = _small(section.currency, [output.amount_nanominor for output in section.outputs])
    return [
        {
            "title": f"{_rounded(o.share_ppb)} of an output of {o.day}",
            "href": "",
            "about": f"{plain(o.output_id)}: {amount} of {_shared(o, section.currency)} for its owners{_between(o)}",
            "excerpts": [
                *([("The model was asked:", _excerpt(Excerpt(text=o.prompt)))] if o.prompt else []),
                *([("It answered:", _excerpt(o.excerpt))] if o.excerpt else []),
            ],
        }
        for o, amount in list(zip(section.outputs, amounts, strict=True))[:PIECES]
        if o.prompt or o.excerpt
    ]


def _shared(output: Output, currency: str) -> str:
    """The part of an output's revenue that was for owners, of which the amount is the share."""
    return format_minor((output.amount_nanominor * PPB // output.share_ppb + NANO // 2) // NANO, currency)


def _between(output: Output) -> str:
    """How sure a share is, and its interval; nothing where that has no width, since the share follows from sizes alone."""
    if output.low_ppb == output.high_ppb:
        return ""
    sure = how_sure(output.share_ppb, output.low_ppb, output.high_ppb)
    return f"; {sure}: in nine of ten cases your share is from {_rounded(output.low_ppb)} to {_rounded(output.high_ppb)}"


def _outputs(section: Section) -> dict[str, Any]:
    amounts = _small(section.currency, [output.amount_nanominor for output in section.outputs])
    rest = _first(len(section.outputs), section.outputs_in_all, "outputs")
    return table(
        f"by-output-{section.currency.lower()}",
        f"Your share of each output, with 90 % intervals ({section.currency})",
        (
            ("Output", "long"),
            ("Night", "short"),
            ("Your share", "number"),
            ("At least", "number"),
            ("At most", "number"),
            ("Earned", "number"),
            ("Works", "long"),
        ),
        [
            (_called(o), o.day, *(percent(n) for n in (o.share_ppb, o.low_ppb, o.high_ppb)), amount, ", ".join(o.works))
            for o, amount in zip(section.outputs, amounts, strict=True)
        ],
        below={(row, 0): o.output_id for row, o in enumerate(section.outputs) if _called(o) != plain(o.output_id)},
        note=f"{rest} {FRACTIONS}".strip(),
    )


def _called(output: Output) -> str:
    """An output in a table: the beginning of its text, of its prompt, or its id."""
    text = plain(output.excerpt.text if output.excerpt else "") or plain(output.prompt) or plain(output.output_id)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1].rstrip()}…"


def _excerpt(excerpt: Excerpt) -> dict[str, str]:
    """An excerpt as templates show it; a text is clean already, but keeps its lines."""
    return {"text": "\n".join(_line(line) for line in excerpt.text.splitlines()), "svg": excerpt.svg, "words": excerpt.words}


def _line(text: str) -> str:
    """A line without invisible characters, and with its indentation."""
    return " " * (len(text) - len(text.lstrip(" "))) + plain(text)


def _entries(section: Section) -> dict[str, Any]:
    money = _money(section)
    rows, balance = [], section.opening
    for m in section.movements:
        balance += m.amount
        at = f"{m.booked_at.astimezone(UTC):%Y-%m-%d %H:%M}"
        rows.append((str(m.booking_id), at, str(m.day), m.what, money(m.amount), money(balance)))
    return table(
        f"entries-of-{section.currency.lower()}",
        f"Entries, starting from a balance of {money(section.opening)}",
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
    if len(history) > 1:
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


def _title(work: Work) -> str:
    return plain(work.title) or plain(work.work_id)


def _models(statement: Statement) -> str:
    models = [plain(model) for model in statement.models]
    return f"the {'model' if len(models) == 1 else 'models'} {_listed(models)}" if models else "the model"


def _listed(names: Sequence[str]) -> str:
    """Names in a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _rest(outputs: int) -> str:
    return "rests" if outputs == 1 else "rest"


def _rounded(ppb: int) -> str:
    """Parts per billion as a percentage with one decimal."""
    tenths = (ppb + 500_000) // 1_000_000
    if ppb and not tenths:
        return "< 0.1 %"
    return f"{tenths // 10}.{tenths % 10} %"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _first(shown: int, in_all: int, what: str) -> str:
    return f"The table shows the {what} that earned most: {shown:,} of {in_all:,}." if shown < in_all else ""


def _day(day: date) -> str:
    return f"{_short_day(day)} {day.year}"


def _short_day(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]}"


def _month(period: str) -> str:
    year, month = period.split("-")
    return f"{MONTHS[int(month) - 1]} {year}"
