"""The report on an appeal as a page: what was contested, what the experiment was, what it found beside what was paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provenance.core.money import NANO, PPB, format_minor
from provenance.core.text import plain
from provenance.settlement.months.pages import chapter, page, percent, rendered, table
from provenance.validation.appeals.effect import AGREES, LESS, MORE

# Outputs on the page, those with the largest pools first; report.json has all.
LISTED, DRAWN = 100, 24
# Steps of the figure's scale, at most.
TICKS = 5
POINT = PPB // 100

SAYS = {
    AGREES: "The experiment agrees with what was paid.",
    LESS: "{owner} was paid less than the experiment shows.",
    MORE: "{owner} was paid more than the experiment shows.",
}
TRAINED = (
    "{pairs} pairs of models were trained as the model served was: each pair on the works of some of the {others} other "
    "owners, drawn at random, once without the works of {owner} and once with them."
)
COUNTED = (
    "How much more likely the works ({works} in {pieces}) made each output, on average over pairs, is the owner's part of what "
    "all training brought to it."
)
SURE = "The interval beside a number is meant to hold the truth in nine cases of ten; more pairs make it narrower."
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
OUTPUTS = (
    ("Output", "code"),
    ("To share", "number"),
    ("Paid by", "short"),
    ("Paid", "number"),
    ("Interval", "number"),
    ("Experiment", "number"),
    ("Interval", "number"),
)


def verdicts(currencies: Sequence[Mapping[str, Any]], owner: str) -> list[str]:
    """What was found, in a sentence for each currency; one for all where they have one answer."""
    said = {row["currency"]: SAYS[row["verdict"]].format(owner=owner) for row in currencies}
    if len(set(said.values())) == 1:
        return [*said.values()][:1]
    return [f"{currency}: {sentence}" for currency, sentence in said.items()]


def largest_first(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The outputs, those with the largest pools first."""
    return sorted(report["outputs"], key=lambda row: (-row["pool_nanominor"], row["output_id"]))


def as_html(report: Mapping[str, Any]) -> bytes:
    """The page of a report, the same for the same report.

    Args:
        report: what report.json says, without the page's own digest.
    """
    owner, made = plain(report["owner_name"]) or plain(report["owner_id"]), report["experiment"]
    works, pieces = count(made["works"], "work"), count(made["examples"], "piece")
    inputs = [(name.replace("_", " "), str(value)) for name, value in report["inputs"].items()]
    contested = [
        f"For {report['day']}, {owner} was paid {format_minor(row['paid_minor'], row['currency'])} of "
        f"{format_minor(row['pool_minor'], row['currency'])} that {count(row['outputs'], 'output')} had to share."
        for row in report["currencies"]
    ]
    trained = TRAINED.format(pairs=made["pairs"], others=made["others"], owner=owner)
    told = (trained, COUNTED.format(works=works, pieces=pieces), SURE)
    made_from = table("inputs", "What it was made from", (("What", "short"), ("Digest or name", "digest")), inputs)
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
                ("Pairs of trainings", str(made["pairs"])),
            ],
            "chapters": [
                chapter("contested", "What was contested", contested),
                chapter("experiment", "What the experiment was", told),
                chapter(
                    "outputs", "Output by output", list(_limits(report)), tables=[_outputs(report)], picture=_picture(report)
                ),
                chapter("next", "What follows", (NEXT,)),
                chapter("check", "How to check this", (CHECK,), items=COMMANDS, tables=[made_from]),
            ],
        }
    )


def _numbers(row: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    """What comes first of a currency: the shares side by side, and what lies between them."""
    amounts = {end: format_minor(amount, row["currency"]) for end, amount in row["difference_minor"].items()}
    between = f"the experiment's share less what was paid, from {amounts['low']} to {amounts['high']}"
    numbers = (
        ("", "Share that was paid", *in_words(row["paid"])),
        ("", "Share by the experiment", *in_words(row["found"])),
        ("owed", "Difference for the day", amounts["value"], between),
    )
    names = ("kind", "label", "amount", "note")
    return {
        "name": row["currency"] if several else "",
        "numbers": [dict(zip(names, number, strict=True)) for number in numbers],
    }


def in_words(share: Mapping[str, int] | None) -> tuple[str, str]:
    """A share, and its interval."""
    if share is None:
        return "not known", ""
    return percent(share["ppb"]), f"{share['low_ppb'] / POINT:.1f} to {share['high_ppb'] / POINT:.1f} %"


def _limits(report: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the shares has to know."""
    made = report["experiment"]
    if made["shared"]:
        yield (
            f"{count(made['shared'], 'piece')} of these works {'belongs' if made['shared'] == 1 else 'belong'} in part to "
            "others; here they count for the owner with the largest part, since a piece is in a training or is not."
        )
    if made["elsewhere"]:
        yield (
            f"{count(made['elsewhere'], 'piece')} in which the owner has a smaller part stayed with whoever has the largest; "
            "what they earn for the owner is in what was paid and not in the experiment."
        )
    if untold := sum(row["found"] is None for row in report["outputs"]):
        yield f"{count(untold, 'output')} did not become more likely by training: there is no share to tell."


def _outputs(report: Mapping[str, Any]) -> dict[str, Any]:
    shown, every = largest_first(report)[:LISTED], len(report["outputs"])
    rows = [
        (
            row["output_id"],
            format_minor(row["pool_nanominor"] // NANO, row["currency"]),
            row["paid_by"],
            *in_words(row["paid"]),
            *in_words(row["found"]),
        )
        for row in shown
    ]
    rest = f"Shown are the outputs with the largest pools: {LISTED:,} of {every:,}; report.json has all."
    caption = "The share that was paid beside the experiment's, with intervals of 90 %"
    return table("shares", caption, OUTPUTS, rows, note=rest if every > LISTED else "")


def _picture(report: Mapping[str, Any]) -> dict[str, str]:
    """Dots and intervals, what was paid above the experiment's, and the same in words."""
    rows = [(f"all outputs, {row['currency']}", row["paid"], row["found"]) for row in report["currencies"]]
    told = [row for row in largest_first(report) if row["found"]]
    rows += [(plain(row["output_id"]), row["paid"], row["found"]) for row in told[:DRAWN]]
    highest: int = max(share["high_ppb"] for _, *shares in rows for share in shares)
    steps = (times * 10**power for power in range(10) for times in (1, 2, 5))
    step: int = next(step for step in steps if step * TICKS >= highest)
    most = step * max(1, -(-highest // step))
    words = "; ".join(f"{name}: {percent(paid['ppb'])} paid, {percent(found['ppb'])} found" for name, paid, found in rows)
    said = "Above, in blue: what was paid. Below, in brown: the experiment. A dot is a share, a line its interval of 90 %."
    return {"svg": rendered("intervals.svg", {"rows": rows, "step": step, "most": most, "words": words}), "said": said}


def count(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
