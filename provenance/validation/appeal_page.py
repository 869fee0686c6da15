"""The report on an appeal as a page: what was contested, what the experiment was, what it found beside what was paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lxml import etree

from provenance.core.money import NANO, PPB, format_minor
from provenance.core.text import plain
from provenance.settlement.pages import chapter, page, percent, table
from provenance.validation.appeals import AGREES, LESS, MORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Outputs on the page, those with the largest pools first; report.json has all.
LISTED, DRAWN = 100, 24
PAID, FOUND, GREY = "#3f7fbf", "#c07a2c", "#7a7a7a"
POINT = PPB // 100
SVG = "http://www.w3.org/2000/svg"
# Places of the figure: names to the left, a row for each share, the scale below.
LEFT, WIDTH, ROW, MARGIN, TICKS = 190, 640, 26, 30, 5

SAYS = {
    AGREES: "The experiment agrees with what was paid.",
    LESS: "{owner} was paid less than the experiment shows.",
    MORE: "{owner} was paid more than the experiment shows.",
}
NEXT = (
    "This report books nothing. What follows from it is a person's decision; whatever that changes is booked by difference, as "
    "a new entry, with this report's folder named as evidence."
)
CHECK = (
    "report.json has every number of this page, the SHA-256 of the page itself, and the digests of all that it was made from. "
    "report.sig is the Ed25519 signature of its bytes, in base64, by the key that signs the nights' manifests (exports/keys). "
    "Whoever has the folder and the key checks both with:"
)
COMMANDS = (
    "provenance verify FOLDER --key KEY.pem",
    "base64 -d report.sig > signature",
    "openssl pkeyutl -verify -pubin -inkey KEY.pem -rawin -in report.json -sigfile signature",
)


def verdicts(currencies: Sequence[Mapping[str, Any]], owner: str) -> list[str]:
    """What was found, in a sentence for each currency; one for all where they have one answer."""
    kinds = {row["verdict"] for row in currencies}
    if len(kinds) == 1:
        return [SAYS[kinds.pop()].format(owner=owner)]
    return [f"{row['currency']}: {SAYS[row['verdict']].format(owner=owner)}" for row in currencies]


def as_html(report: Mapping[str, Any]) -> bytes:
    """The page of a report, the same for the same report.

    Args:
        report: what report.json says, without the page's own digest.
    """
    owner = plain(report["owner_name"]) or plain(report["owner_id"])
    return page(
        {
            "title": f"Appeal about {report['day']}",
            "name": owner,
            "notice": plain(report["notice"]),
            "accounts": [_numbers(row, several=len(report["currencies"]) > 1) for row in report["currencies"]],
            "summary": [plain(sentence) for sentence in report["verdict"]],
            "facts": [
                ("Owner", owner),
                ("Owner's id", plain(report["owner_id"])),
                ("Day", f"{report['day']}, revision {report['revision']}"),
                ("Outputs", f"{len(report['outputs']):,}"),
                ("Pairs of trainings", str(report["experiment"]["pairs"])),
            ],
            "chapters": _chapters(report, owner),
        }
    )


def _numbers(row: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    """What comes first of a currency: the shares side by side, and what lies between them."""
    paid, found, change = row["paid"], row["found"], row["difference_minor"]
    amounts = {end: format_minor(change[end], row["currency"]) for end in change}
    return {
        "name": row["currency"] if several else "",
        "numbers": [
            {"kind": "", "label": "Share that was paid", "amount": percent(paid["ppb"]), "note": _interval(paid)},
            {"kind": "", "label": "Share by the experiment", "amount": percent(found["ppb"]), "note": _interval(found)},
            {
                "kind": "owed",
                "label": "Difference for the day",
                "amount": amounts["value"],
                "note": f"the experiment's share less what was paid, from {amounts['low']} to {amounts['high']}",
            },
        ],
    }


def _interval(share: Mapping[str, int]) -> str:
    return f"{share['low_ppb'] / POINT:.1f} to {share['high_ppb'] / POINT:.1f} %"


def _chapters(report: Mapping[str, Any], owner: str) -> list[dict[str, Any]]:
    made = report["experiment"]
    contested = [
        f"For {report['day']}, {owner} was paid {format_minor(row['paid_minor'], row['currency'])} of "
        f"{format_minor(row['pool_minor'], row['currency'])} that {_count(row['outputs'], 'output')} had to share."
        for row in report["currencies"]
    ]
    works = f"{_count(made['works'], 'work')} in {_count(made['examples'], 'piece')}"
    trained = (
        f"{made['pairs']} pairs of models were trained as the model served was: each pair on the works of some of the "
        f"{made['others']} other owners, drawn at random, once without the works of {owner} and once with them."
    )
    counted = (
        f"How much more likely the works ({works}) made each output, on average over pairs, is the owner's part of what all "
        "training brought to it."
    )
    sure = "The interval beside a number is meant to hold the truth in nine cases of ten; more pairs make it narrower."
    return [
        chapter("contested", "What was contested", contested),
        chapter("experiment", "What the experiment was", (trained, counted, sure)),
        chapter("outputs", "Output by output", _limits(report), tables=[_outputs(report)], picture=_picture(report)),
        chapter("next", "What follows", (NEXT,)),
        chapter("check", "How to check this", (CHECK,), items=COMMANDS, tables=[_inputs(report)]),
    ]


def _limits(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the shares has to know."""
    made, said = report["experiment"], []
    if made["shared"]:
        said.append(
            f"{_count(made['shared'], 'piece')} of these works {'belongs' if made['shared'] == 1 else 'belong'} in part to "
            "others; here they count for the owner with the largest part, since a piece is in a training or is not."
        )
    if made["elsewhere"]:
        said.append(
            f"{_count(made['elsewhere'], 'piece')} in which the owner has a smaller part stayed with whoever has the largest; "
            "what they earn for the owner is in what was paid and not in the experiment."
        )
    untold = sum(row["found"] is None for row in report["outputs"])
    if untold:
        said.append(f"{_count(untold, 'output')} did not become more likely by training: there is no share to tell.")
    return said


def _outputs(report: Mapping[str, Any]) -> dict[str, Any]:
    rows = _largest(report)[:LISTED]
    rest = f"Shown are the outputs with the largest pools: {len(rows):,} of {len(report['outputs']):,}; report.json has all."
    return table(
        "shares",
        "The share that was paid beside the experiment's, with intervals of 90 %",
        (
            ("Output", "code"),
            ("To share", "number"),
            ("Paid by", "short"),
            ("Paid", "number"),
            ("Interval", "number"),
            ("Experiment", "number"),
            ("Interval", "number"),
        ),
        [
            (
                row["output_id"],
                format_minor(row["pool_nanominor"] // NANO, row["currency"]),
                row["paid_by"],
                percent(row["paid"]["ppb"]),
                _interval(row["paid"]),
                *((percent(row["found"]["ppb"]), _interval(row["found"])) if row["found"] else ("not known", "")),
            )
            for row in rows
        ],
        note=rest if len(rows) < len(report["outputs"]) else "",
    )


def _largest(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(report["outputs"], key=lambda row: (-row["pool_nanominor"], row["output_id"]))


def _inputs(report: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(name.replace("_", " "), str(value)) for name, value in report["inputs"].items()]
    return table("inputs", "What it was made from", (("What", "short"), ("Digest or name", "digest")), rows)


def _picture(report: Mapping[str, Any]) -> dict[str, str]:
    """Dots and intervals, what was paid above the experiment's, and the same in words."""
    rows = [(f"all outputs, {row['currency']}", row["paid"], row["found"]) for row in report["currencies"]]
    told = [row for row in _largest(report) if row["found"]]
    rows += [(plain(row["output_id"]), row["paid"], row["found"]) for row in told[:DRAWN]]
    highest: int = max(share["high_ppb"] for _, *shares in rows for share in shares)
    step = _step(highest)
    most = step * max(1, -(-highest // step))
    height = MARGIN + ROW * len(rows)
    words = "; ".join(f"{name}: {percent(paid['ppb'])} paid, {percent(found['ppb'])} found" for name, paid, found in rows)
    root = etree.Element(
        f"{{{SVG}}}svg", {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": words}, nsmap={None: SVG}
    )

    def draw(kind: str, text: str = "", **values: object) -> None:
        made = etree.SubElement(root, f"{{{SVG}}}{kind}", {name.replace("_", "-"): str(v) for name, v in values.items()})
        made.text = text or None

    def at(ppb: int) -> int:
        return LEFT + (WIDTH - LEFT - MARGIN) * ppb // most

    for tick in range(0, most + 1, step):
        draw("line", x1=at(tick), x2=at(tick), y1=0, y2=height - MARGIN, stroke=GREY, stroke_opacity=0.25)
        draw("text", f"{tick / POINT:g} %", x=at(tick), y=height - 8, font_size=11, text_anchor="middle", fill=GREY)
    for number, (name, *shares) in enumerate(rows):
        middle = ROW * number + ROW // 2
        short = name if len(name) <= 28 else f"{name[:27]}…"
        draw("text", short, x=LEFT - 10, y=middle + 4, font_size=11, text_anchor="end", fill=GREY)
        for share, colour, y in zip(shares, (PAID, FOUND), (middle - 4, middle + 4), strict=True):
            draw("line", x1=at(share["low_ppb"]), x2=at(share["high_ppb"]), y1=y, y2=y, stroke=colour, stroke_width=2)
            draw("circle", cx=at(share["ppb"]), cy=y, r=3.5, fill=colour)
    said = "Above, in blue: what was paid. Below, in brown: the experiment. A dot is a share, a line its interval of 90 %."
    return {"svg": etree.tostring(root, encoding="unicode"), "said": said}


def _step(most: int) -> int:
    """A round number of which `TICKS` reach so far: one, two or five of a power of ten."""
    unit = 1
    while unit * 10 * TICKS < most:
        unit *= 10
    return next(unit * times for times in (1, 2, 5, 10) if unit * times * TICKS >= most)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
