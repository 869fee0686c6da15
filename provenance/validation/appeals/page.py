"""Writes the report on an appeal as a page: the contested shares, the experiment, and its results beside the paid shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provenance.core.money import NANO, PPB, format_minor
from provenance.core.text import plain
from provenance.royalty.shares import SRS
from provenance.settlement.months.pages import chapter, page, percent, rendered, table
from provenance.validation.appeals.pairs import AGREES, LESS, MORE

# Outputs on the page and in the figure, largest pools first; report.json has all.
LISTED, DRAWN = 100, 24
# The most steps of the figure's scale.
TICKS = 5
POINT = PPB // 100

SAYS = {
    AGREES: "The experiment agrees with what was paid.",
    LESS: "{owner} was paid less than the experiment shows.",
    MORE: "{owner} was paid more than the experiment shows.",
}
TRAINED = (
    "{pairs} pairs of models were trained like the model served: each pair on the works of some of the {others} others "
    "(owners, and names in escrow), drawn at random, once without the works of {owner} and once with them."
)
COUNTED = (
    "The works ({works} in {pieces}) made each output more likely by some amount, on average over pairs. The owner's share is "
    "that amount as a part of the effect of the whole training: its Shapley value."
)
SURE = (
    "The interval beside a number should contain the true value in nine cases of ten; more pairs make it narrower. A wide one "
    "agrees with nearly everything: then the pairs were too few."
)
OTHER_RULE = (
    "The experiment measures what all works of an owner add at once, on average over the others that are there: the rule "
    "{srs}. {outputs} paid by {rules}. Another rule measures another effect. Its shares differ from the experiment's although "
    "it paid as the contract says, most for owners with a large part of an output. `provenance explain OUTPUT --rules` shows "
    "what {srs} would have paid."
)
NEXT = (
    "This report books nothing. A person decides about it; a change is booked by difference, as a new entry that names this "
    "report's folder as evidence."
)
CHECK = (
    "report.json has every number of this page, the SHA-256 of the page, and the digests of all inputs. "
    "report.sig is the Ed25519 signature of its bytes, in base64, by the key that signs the nights' manifests (exports/keys). "
    "With the folder and the key, check both by:"
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
    """The result in a sentence for each currency, or in one sentence if all have the same result."""
    sentences = {row["currency"]: SAYS[row["verdict"]].format(owner=owner) for row in currencies}
    if len(set(sentences.values())) == 1:
        return [*sentences.values()][:1]
    return [f"{currency}: {sentence}" for currency, sentence in sentences.items()]


def largest_first(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The outputs, sorted by pool, the largest first."""
    return sorted(report["outputs"], key=lambda row: (-row["pool_nanominor"], row["output_id"]))


def as_html(report: Mapping[str, Any]) -> bytes:
    """The page of a report, the same for the same report.

    Args:
        report: the content of report.json, without the page's own digest.
    """
    owner, experiment = plain(report["owner_name"]) or plain(report["owner_id"]), report["experiment"]
    works, pieces = count(experiment["works"], "work"), count(experiment["examples"], "piece")
    inputs = [(name.replace("_", " "), str(value)) for name, value in report["inputs"].items()]
    contested = [
        f"For {report['day']}, {owner} was paid {format_minor(row['paid_minor'], row['currency'])} of "
        f"{format_minor(row['pool_minor'], row['currency'])} that {count(row['outputs'], 'output')} had to share."
        for row in report["currencies"]
    ]
    trained = TRAINED.format(pairs=experiment["pairs"], others=experiment["others"], owner=owner)
    method = (trained, COUNTED.format(works=works, pieces=pieces), SURE)
    inputs_table = table("inputs", "Inputs of the report", (("Input", "short"), ("Digest or name", "digest")), inputs)
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
                ("Pairs of trainings", str(experiment["pairs"])),
            ],
            "chapters": [
                chapter("contested", "The contested shares", contested),
                chapter("experiment", "The experiment", method),
                chapter("outputs", "Output by output", report["limits"], tables=[_outputs(report)], picture=_picture(report)),
                chapter("next", "Next steps", (NEXT,)),
                chapter("check", "How to check this report", (CHECK,), items=COMMANDS, tables=[inputs_table]),
            ],
        }
    )


def _numbers(row: Mapping[str, Any], *, several: bool) -> dict[str, Any]:
    """The first numbers of a currency: both shares, and their difference in money."""
    amounts = {end: format_minor(amount, row["currency"]) for end, amount in row["difference_minor"].items()}
    between = f"the experiment's share minus the paid share, from {amounts['low']} to {amounts['high']}"
    numbers = (
        ("", "Paid share", *in_words(row["paid"])),
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


def limits(outputs: Sequence[Mapping[str, Any]], experiment: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the shares must know: limits of the experiment."""
    shared, elsewhere = (experiment[name] for name in ("shared", "elsewhere"))
    if others := [row["paid_by"] for row in outputs if row["paid_by"] != SRS]:
        were = f"{count(len(others), 'output')} {'was' if len(others) == 1 else 'were'}"
        yield OTHER_RULE.format(srs=SRS, outputs=were, rules=" and by ".join(sorted({*others})))
    if shared:
        yield (
            f"{count(shared, 'piece')} of these works {'belongs' if shared == 1 else 'belong'} in part to others; here they "
            "count for the owner with the largest part, since a training includes a whole piece or none of it."
        )
    if elsewhere:
        yield (
            f"{count(elsewhere, 'piece')} in which the owner has a smaller part stayed with the owner of the largest part; "
            "their earnings are in the paid share and not in the experiment."
        )
    if without_share := sum(row["found"] is None for row in outputs):
        yield f"{count(without_share, 'output')} did not become more likely by training and so has no share."
    if less := sum(row["found"] is not None and row["effect_nats"]["value"] < 0 for row in outputs):
        yield (
            f"{count(less, 'output')} became less likely with these works, on average over pairs. No share is below zero, so "
            "it stands as 0; report.json has the effect."
        )


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
    caption = "Paid shares and the experiment's shares, with intervals of 90 %"
    return table("shares", caption, OUTPUTS, rows, note=rest if every > LISTED else "")


def _picture(report: Mapping[str, Any]) -> dict[str, str]:
    """Dots and intervals, each paid share above the experiment's, and a description in words."""
    rows = [(f"all outputs, {row['currency']}", row["paid"], row["found"]) for row in report["currencies"]]
    with_share = [row for row in largest_first(report) if row["found"]]
    rows += [(plain(row["output_id"]), row["paid"], row["found"]) for row in with_share[:DRAWN]]
    highest: int = max(share["high_ppb"] for _, *shares in rows for share in shares)
    steps = (times * 10**power for power in range(10) for times in (1, 2, 5))
    step: int = next(step for step in steps if step * TICKS >= highest)
    most = step * max(1, -(-highest // step))
    words = "; ".join(f"{name}: {percent(paid['ppb'])} paid, {percent(found['ppb'])} found" for name, paid, found in rows)
    caption = (
        "Above, in blue: the paid share. Below, in brown: the experiment's. A dot is a share, a line its interval of 90 %."
    )
    return {"svg": rendered("intervals.svg", {"rows": rows, "step": step, "most": most, "words": words}), "caption": caption}


def count(number: int, what: str) -> str:
    """A number and a noun, such as `1 work` or `2 works`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
