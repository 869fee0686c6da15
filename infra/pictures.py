"""Makes the pictures of the README and of the documents: screenshots of a demo's pages and papers, and figures.

    python -m infra.pictures            the demo and its month first, where they are missing; then all pictures
    python -m infra.pictures --check    writes nothing; exit code 1 if a picture is older than what it shows

`make pictures` runs it. A screenshot is as old as the templates and style sheets that it shows: `made_of.json` beside the
pictures keeps their digest from when it was made. A figure is drawn again and compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from infra import local_airflow, month
from provenance.core.errors import InputError
from provenance.core.figures import draw_file
from provenance.core.settings import CHECKOUT
from tasks.terminal import Terminal, exit_codes

if TYPE_CHECKING:
    from rich.console import Console

    from provenance.core.store import Store

FOLDER = CHECKOUT / "infra/figures"
MADE_OF = FOLDER / "made_of.json"
CHROMIUM = Path("/usr/bin/chromium")
PAGE = ("infra/page/templates/frame.html", "infra/page/templates/parts.html", "infra/page/static/page.css")
CREDITS = ("infra/page/templates/credits.html", "infra/page/static/credits.css")
EVIDENCE = CHECKOUT / "docs/evidence.md"
ATTACKS = "| attack on `languages` |"
# Of the figures: rules and retraining; boxes and arrows.
RULES = {"faithful": "#2f6fed", "srs": "#8fb8ff", "banzhaf": "#5a9e6f", "proportional": "#c98a2b", "flat": "#9aa2ae"}
RETRAINED, GRID, BOX, ARROW = "#d1242f", "#858d99", "#2f6fed", "#858d99"


@dataclass(frozen=True)
class Shot:
    """A screenshot.

    Attributes:
        path: of the page below Airflow's address, or `statement`; with the `day` and the `output` of the demo in braces.
        shows: the files of the checkout by which it looks as it does.
        size: width and height in pixels; scheme: `light` or `dark`.
    """

    path: str
    shows: tuple[str, ...]
    size: tuple[int, int]
    scheme: str = "light"


SHOTS = {
    "night.png": Shot("payouts/nights/{day}", ("infra/page/templates/night.html", *PAGE), (1280, 900)),
    "output.png": Shot(
        "payouts/outputs/{output}?day={day}", ("infra/page/templates/output.html", *PAGE, *CREDITS), (1280, 900)
    ),
    "phone.png": Shot("payouts/", ("infra/page/templates/nights.html", *PAGE), (390, 844), "dark"),
    "statement.png": Shot(
        "statement",
        ("provenance/settlement/templates/statement.html", "provenance/settlement/templates/page.html"),
        (900, 1000),
    ),
}


def main() -> None:
    """Make the pictures, or check them."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README and of the documents from a demo.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if one is older than what it shows")
    parser.add_argument("--figures", action="store_true", help="only figures, which need no demo")
    asked = parser.parse_args()
    with exit_codes():
        if asked.check:
            if late := outdated():
                raise SystemExit(f"older than what they show: {', '.join(late)}; run make pictures")
            return
        for name, draw in FIGURES.items():
            (FOLDER / name).write_bytes(draw())
        if not asked.figures:
            take(Terminal(file=os.fdopen(os.dup(1), "w")))


def outdated() -> list[str]:
    """The pictures that are missing, or older than what they show."""
    made = json.loads(MADE_OF.read_text()) if MADE_OF.exists() else {}
    late = [name for name, shot in SHOTS.items() if not (FOLDER / name).exists() or made.get(name) != digest(shot.shows)]
    drawn = [name for name, draw in FIGURES.items() if not (FOLDER / name).exists() or (FOLDER / name).read_bytes() != draw()]
    return late + drawn


def digest(files: Sequence[str]) -> str:
    """One digest of the files of the checkout."""
    return hashlib.sha256(b"".join((CHECKOUT / file).read_bytes() for file in files)).hexdigest()


def take(console: Console) -> None:
    """Take the screenshots of the demo, which runs before if it has not."""
    from tasks.settings import load

    store = load().store.open()
    if not store.list("exports/payouts"):
        _run("infra.demo")
    if not store.list("exports/statements"):
        _run("infra.month")
    local_airflow.configure()
    day, output, statement = subjects(store)
    FOLDER.mkdir(exist_ok=True)
    with month.api_server(CHECKOUT / "var/logs/pictures.log", console) as url:
        for name, data in _shots(url, day, output, statement):
            (FOLDER / name).write_bytes(data)
            console.print(f"{FOLDER / name}: {len(data) // 1024} KB")
    MADE_OF.write_text(json.dumps({name: digest(shot.shows) for name, shot in SHOTS.items()}, indent=2) + "\n")


def _run(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why


def subjects(store: Store) -> tuple[str, str, bytes]:
    """The demo's last day, its output that owes most to a second owner, and the statement of who earned most."""
    from provenance.core.tables import PAYABLE
    from provenance.settlement.exports.export import read_credits, read_export

    day = month.demo_days(store)[-1]
    manifest, payouts = read_export(store, day)
    credits = read_credits(store, manifest["folder"])
    of_owners = credits.filter(pl.col("account") == PAYABLE).sort("share_ppb", "output_id", descending=[True, False])
    second = of_owners.group_by("output_id", maintain_order=True).agg(pl.col("share_ppb").slice(1, 1).first())
    output = str(second.sort("share_ppb", "output_id", descending=[True, False], nulls_last=True)["output_id"][0])
    pages = [key for key in store.list("exports/statements") if key.endswith("/statement.html")]
    if not pages:
        where = store.locate("exports/statements")
        raise InputError(where, expected="a statement of the demo's month", found="none", hint="Run `make month` first.")
    earned = payouts.group_by("owner_id").agg(pl.col("earned_minor").sum()).sort("earned_minor", "owner_id", descending=True)
    order = {owner: place for place, owner in enumerate(earned["owner_id"].to_list())}
    first = min(pages, key=lambda key: (order.get(key.split("owner=")[1].split("/")[0], len(order)), key))
    return day, output, store.read(first)


def _shots(url: str, day: str, output: str, statement: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and PNG files."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM) if CHROMIUM.exists() else None, args=flags)
        for name, shot in SHOTS.items():
            width, height = shot.size
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=shot.scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(60_000)
            if shot.path == "statement":
                page.set_content(statement.decode())
            else:
                page.goto(f"{url}/payouts/")
                page.fill("input[name=username]", local_airflow.USER)
                page.fill("input[name=password]", local_airflow.PASSWORD)
                page.keyboard.press("Enter")
                page.wait_for_selector("#nights")
                page.goto(f"{url}/{shot.path.format(day=day, output=output)}")
            page.wait_for_load_state("networkidle")
            yield name, page.screenshot()
            context.close()
        browser.close()


def attacks() -> bytes:
    """What attacks gain under each rule, on one scale, from the table of `docs/evidence.md`."""
    rules, rows = attack_table(EVIDENCE.read_text())

    def draw(sheet: Any) -> None:
        plot = sheet.subplots()
        for place, (_, gains, taught) in enumerate(rows):
            plot.axhline(place, color=GRID, linewidth=0.3, zorder=0)
            for name, gain in zip(rules, gains, strict=True):
                plot.scatter(gain, place, s=34, color=RULES[name], label=None if place else name, zorder=2)
            if taught is not None:
                plot.scatter(taught, place, s=90, marker="|", linewidth=2, color=RETRAINED, zorder=3)
        plot.scatter([], [], s=90, marker="|", linewidth=2, color=RETRAINED, label="what retraining says that the works teach")
        plot.axvline(0, color=GRID, linewidth=0.8)
        plot.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=8)
        plot.invert_yaxis()
        plot.tick_params(length=0, labelsize=8)
        for side in plot.spines.values():
            side.set_visible(False)
        sheet.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        plot.set_xlabel('what "Owner A" gains by the attack, in percentage points of everything', fontsize=8, loc="right")

    return draw_file(draw, (7.6, 4.6), "What attacks gain under each royalty rule, beside what retraining says")


def attack_table(text: str) -> tuple[list[str], list[tuple[str, list[float], float | None]]]:
    """The rules, and by attack its gains under each, in points, and what retraining says, from the document's table."""
    lines = text[text.index(ATTACKS) :].partition("\n\n")[0].splitlines()
    heading, _, *body = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    rows, before = [], ""
    for name, *cells in body:
        if name.startswith("("):
            continue  # no attack
        if name.startswith("the same"):
            label = name.replace("the same", before, 1)
        else:
            label, before = name, name.split(",")[0]
        *gains, taught = (_number(cell) for cell in cells)
        rows.append((label, [float(gain or 0) for gain in gains], taught))
    return heading[1:-1], rows


def _number(cell: str) -> float | None:
    found = re.match(r"[+-]?[\d.]+", cell)
    return float(found[0]) if found else None


# Boxes of the figure of the stages: place, size, text; arrows between places, with a text.
STAGES = (
    ((0.0, 2.0), "works, owners,\nlicences"),
    ((0.0, 1.0), "model with its\ncheckpoints"),
    ((2.6, 0.0), "outputs of a day,\nwith revenue"),
    ((1.3, 2.0), "shards,\ncopies, rights"),
    ((1.3, 1.0), "counterfactual\nmodels"),
    ((2.6, 2.0), "gradient\nfeatures"),
    ((2.6, 1.0), "log-likelihoods\nof outputs"),
    ((3.9, 2.0), "influence of works\non outputs"),
    ((3.9, 1.0), "shares of owners,\nintervals, fidelity"),
    ((3.9, 0.0), "ledger: revenue\nin whole cents"),
    ((5.2, 1.0), "credits: the works\nbehind an output"),
    ((5.2, 0.0), "payout files,\nstatements, bank"),
)
ARROWS = (
    (0, 3, ""), (3, 5, "Dask"), (5, 7, "CuPy"), (7, 8, "prior"), (1, 4, "retrained without\nsome owners"), (4, 6, ""),
    (6, 8, "experiments"), (8, 9, "contract"), (2, 9, ""), (9, 11, "signed"), (8, 10, ""), (3, 4, ""), (2, 6, ""),
)  # fmt: skip


def stages() -> bytes:
    """The stages of a night, from what is delivered to what is published."""

    def draw(sheet: Any) -> None:
        plot = sheet.subplots()
        for (x, y), text in STAGES:
            plot.text(
                x, y, text, ha="center", va="center", fontsize=8,
                bbox={"boxstyle": "round,pad=0.5", "facecolor": BOX, "alpha": 0.14, "edgecolor": BOX},
            )  # fmt: skip
        for start, end, text in ARROWS:
            (x, y), (to_x, to_y) = STAGES[start][0], STAGES[end][0]
            level = y == to_y
            gap = 0.26 if to_y > y else -0.26
            begin = (x + 0.47, y) if level else (x, y + gap)
            stop = (to_x - 0.47, to_y) if level else (to_x, to_y - gap)
            plot.annotate("", stop, begin, arrowprops={"arrowstyle": "->", "color": ARROW})
            if text:
                at = ((begin[0] + stop[0]) / 2 + (0 if level else 0.05), (begin[1] + stop[1]) / 2 + (0.08 if level else 0))
                plot.text(*at, text, fontsize=7, ha="center" if level else "left", va="bottom" if level else "center")
        plot.set_xlim(-0.6, 5.8)
        plot.set_ylim(-0.4, 2.4)
        plot.set_axis_off()

    return draw_file(draw, (9.6, 3.6), "The stages of a night, from works, model and outputs to credits and payout files")


FIGURES: dict[str, Callable[[], bytes]] = {"attacks.svg": attacks, "stages.svg": stages}


if __name__ == "__main__":
    main()
