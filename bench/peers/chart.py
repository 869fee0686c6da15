"""Makes the tables and the figure of our influence beside its peers from one file of scores.

    python bench/peers/chart.py            writes docs/evidence.md (between its marks) and infra/figures/peers.svg
    python bench/peers/chart.py --check    writes nothing; exit code 1 if either is not made of bench/peers/scores.toml

`make peers-chart` runs it.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provenance.core.figures import draw_file

CHECKOUT = Path(__file__).parents[2]
SCORES = Path(__file__).with_name("scores.toml")
EVIDENCE, FIGURE = CHECKOUT / "docs/evidence.md", CHECKOUT / "infra/figures/peers.svg"
FAMILIES = ("examples", "owners")
HEADINGS = {
    "lds": "LDS examples / owners",
    "same_steps": "LDS, the same steps again",
    "loss": "loss without the first 1, 5, 10 % of examples, against random ones",
    "lead": "fitted is ahead by, examples / owners",
    "cost": "processor time / forward and backward pass",
}
# Of the bars: ours and the others' by family.
COLOURS = {True: ("#8fb8ff", "#2f6fed"), False: ("#c9ced6", "#9aa2ae")}
WHISKER, CEILING = "#858d99", "#d1242f"
ROW = 0.225  # inches of the figure's height


def read_scores() -> dict[str, Any]:
    """The file of scores."""
    return tomllib.loads(SCORES.read_text())


def tables(scores: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the document, in Markdown, by the name in their marks."""
    return {workload["name"]: "\n".join(_table(workload)) for workload in scores["workload"]}


def _table(workload: Mapping[str, Any]) -> Iterator[str]:
    columns = workload["columns"]
    yield f"| `{workload['name']}` | {' | '.join(HEADINGS[column] for column in columns)} |"
    yield f"|{'---|' * (1 + len(columns))}"
    for method in workload["method"]:
        yield f"| {method['name']} | {' | '.join(_cell(method, column) for column in columns)} |"
    yield f"| noise ceiling | {_pair(workload['ceiling'].values())} |{' |' * (len(columns) - 1)}"


def _cell(method: Mapping[str, Any], column: str) -> str:
    if column == "lds":
        return _pair(method[family] for family in FAMILIES)
    if column not in method:
        return ""
    if column == "lead":
        return " / ".join(f"{_short(lead)} ({_short(low)} to {_short(high)})" for lead, low, high in method["lead"])
    if column == "loss":
        return f"{', '.join(f'{value:+.1f}' if value else '0' for value in method['loss'])} %"
    return _short(method[column]) if column == "same_steps" else f"{method[column]:.1f}"


def _pair(scores: Any) -> str:
    return " / ".join(map(_short, scores))


def _short(score: float) -> str:
    """A score as the document writes it, without the zero before the point."""
    return f"{score:.2f}".replace("0.", ".", 1)


def document(text: str, made: Mapping[str, str]) -> str:
    """A document with the tables put between their marks; ValueError if a pair of marks is missing."""
    for name, table in made.items():
        begin, end = f"<!-- peers: {name} -->\n", "\n<!-- peers: end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"docs/evidence.md: expected one {begin.strip()} before <!-- peers: end -->")
        text = pattern.sub(f"{begin}{table}{end}".replace("\\", r"\\"), text)
    return text


def figure(scores: Mapping[str, Any]) -> bytes:
    """Bars of every method on each workload, with the noise ceiling, as SVG."""
    workloads = scores["workload"]
    charted = [[method for method in workload["method"] if method.get("charted", True)] for workload in workloads]

    def draw(sheet: Any) -> None:
        axes = sheet.subplots(len(workloads), 1, sharex=True, height_ratios=[len(methods) + 1 for methods in charted])
        for plot, workload, methods in zip(axes, workloads, charted, strict=True):
            for place, method in enumerate(methods):
                colours = COLOURS[method.get("ours", False)]
                for offset, family, colour in zip((-0.2, 0.2), FAMILIES, colours, strict=True):
                    error = workload["interval"]
                    whisker = {"ecolor": WHISKER, "elinewidth": 0.8}
                    plot.barh(place + offset, method[family], height=0.36, color=colour, xerr=error, error_kw=whisker)
                    plot.text(1.14, place + offset, _short(method[family]), va="center", ha="right", fontsize=7)
            for (family, ceiling), side in zip(workload["ceiling"].items(), ("right", "left"), strict=True):
                plot.axvline(ceiling, color=CEILING, linewidth=1, linestyle=(0, (4, 2)))
                at = ceiling + (0.01 if side == "left" else -0.01)
                plot.text(at, -0.75, f"ceiling, {family} {_short(ceiling)}", fontsize=7, ha=side, va="center")
            plot.set_yticks(range(len(methods)), [_label(method["name"]) for method in methods], fontsize=8)
            plot.set_ylim(len(methods) - 0.4, -1.3)
            plot.set_xlim(-0.2, 1.15)
            plot.axvline(0, color=WHISKER, linewidth=0.8)
            plot.set_title(f"{workload['name']}: {workload['kind']}", fontsize=9, loc="left")
            plot.tick_params(length=0)
            plot.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"], fontsize=7)
            for side in plot.spines.values():
                side.set_visible(False)
        sheet.supxlabel(
            "Linear datamodelling score: rank correlation with retraining. Light: halves of examples; dark: halves of owners.\n"
            "Whiskers: intervals of the scores. Dashed: the ceiling that the noise of training leaves.",
            fontsize=8,
        )

    height = ROW * sum(len(methods) + 1 for methods in charted)
    return draw_file(draw, (7.2, height), "Linear datamodelling scores of our influence and of its peers, with noise ceilings")


def _label(name: str) -> str:
    return name.replace("with conjugate gradients", "+ CG").replace(", no model at all", "")


def main() -> None:
    """Write the tables and the figure, or check that they are made of the scores."""
    parser = argparse.ArgumentParser(description="Tables and figure of our influence beside its peers.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would change")
    check = parser.parse_args().check
    scores = read_scores()
    wanted = {EVIDENCE: document(EVIDENCE.read_text(), tables(scores)).encode(), FIGURE: figure(scores)}
    changed = [path for path, data in wanted.items() if not path.exists() or path.read_bytes() != data]
    for path in changed:
        if not check:
            path.write_bytes(wanted[path])
    if check and changed:
        raise SystemExit(f"not made of {SCORES.name}: {', '.join(path.name for path in changed)}; run make peers-chart")


if __name__ == "__main__":
    main()
