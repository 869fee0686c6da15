"""Render disclosures as pages: chapters of text and tables, laid out by one template.

`_shown` renders every value as text on one line without invisible characters, so texts of strangers never become markup. A page
loads nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from provenance.core.figures import draw_svg, embed_svg
from provenance.core.text import address, plain
from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.forms import ANSWERED, NO_MATTER, NOT_GIVEN, TEMPLATES, TO_COMPLETE, WAITS, Table
from provenance.corpus.disclosures.inventory import Inventory

if TYPE_CHECKING:
    from provenance.corpus.quality import Report

# What a page says where there is no answer, and of whoever gave one.
WITHOUT = {
    TO_COMPLETE: "To be completed by the provider.",
    NOT_GIVEN: "No additional information.",
    NO_MATTER: "Not applicable.",
    WAITS: "Depends on a question above that is to be completed by the provider.",
}
SAID_BY = {"tables": "counted from the corpus", "provider": "stated by the provider"}
# Rows shown of a table; the machine-readable file has all.
MOST_ROWS = 100


@dataclass(frozen=True)
class Chapter:
    """A part of a page: sentences, questions of a form, links, a figure and tables (`Table`, or as JSON)."""

    title: str
    sentences: Sequence[str] = ()
    questions: Sequence[dict[str, Any]] = ()
    links: Sequence[dict[str, str]] = ()
    tables: Sequence[Table | dict[str, Any]] = ()
    picture: dict[str, str] | None = None


def form_page(document: dict[str, Any], file: str, inventory: Inventory) -> bytes:
    """The page of a form's document."""
    chapters = [Chapter(f"{part['number']}. {part['title']}", questions=part["questions"]) for part in document["sections"]]
    chapters.append(Chapter("Supporting tables", tables=document["tables"], picture=figure(inventory)))
    missing = len(document["missing"])
    return _render(
        title=document["form"],
        name=document["basis"],
        notice=f"Not complete: {missing} answers are to be completed by the provider." if missing else "",
        facts=_facts(document["version"], document["last_update"], document["corpus"], file),
        missing=document["missing"],
        chapters=chapters,
    )


def croissant_page(document: dict[str, Any], inventory: Inventory, on: str) -> bytes:
    """The page of a Croissant description."""
    names = [name for name in sorted(document) if name not in {"@context", "distribution", "recordSet"}]
    properties = Table("The data set", ("Property", "Value"), tuple((name, _flat(document[name])) for name in names))
    files = tuple((file["@id"], file.get("contentUrl"), file.get("sha256")) for file in document["distribution"])
    fields = tuple(
        (field["name"], field["dataType"], field["description"])
        for records in document["recordSet"]
        for field in records["field"]
    )
    tables = (
        properties,
        Table("Files", ("Name", "Path below the store", "SHA-256"), files),
        Table("Fields of an example", ("Field", "Type", "Meaning"), fields),
    )
    return _render(
        title="The corpus as a data set",
        name="Croissant 1.1 with fields on responsible AI; validated by mlcroissant",
        facts=_facts("1.1", on, inventory.corpus, "croissant.json"),
        chapters=[Chapter("Description", tables=tables)],
    )


def spdx_page(document: dict[str, Any], inventory: Inventory, on: str) -> bytes:
    """The page of a bill of materials."""
    rows = tuple(
        (package["name"], package.get("licenseConcluded"), package.get("licenseDeclared"), package.get("sourceInfo"))
        for package in document["packages"][1:]
    )
    tables = (Table("Packages", ("Package", "Terms in force", "Terms declared", "Place of collection"), rows),)
    return _render(
        title="Bill of materials of the training data",
        name="SPDX 2.3; validated by spdx-tools",
        facts=_facts("2.3", on, inventory.corpus, "spdx.json"),
        chapters=[
            Chapter("Grouping", sentences=[document["comment"]], picture=figure(inventory)),
            Chapter("Packages", tables=tables),
        ],
    )


def quality_page(report: Report, day: str) -> bytes:
    """The page of a report on a delivery."""
    rows = tuple((item.meaning, item.level, item.count, item.total, f"{item.part:.1%}", item.rule) for item in report.findings)
    classes = tuple((counts.CLASS_WORDS.get(name, name), *rest) for name, *rest in report.classes.iter_rows())
    examples = tuple((item.meaning, "; ".join(item.names)) for item in report.findings if item.names)
    tables = (
        Table("Findings", ("Finding", "Level", "Count", "Of", "Part", "Rule"), rows),
        Table("Works by what their terms allow", ("Allowed", "Asserted by", "Works", "Examples"), classes),
        Table("First names of each finding", ("Finding", "Names"), examples),
    )
    blocked = "; ".join(item.meaning for item in report.blocking)
    size = f"{report.works:,} works, {report.examples:,} examples, {report.owners:,} owners"
    return _render(
        title="Quality of a delivery",
        name=size,
        notice=f"Not put in force: {blocked}." if blocked else "",
        facts=_facts("", day, "", ""),
        chapters=[Chapter("Report", tables=[table for table in tables if table.rows])],
    )


def index_page(files: Sequence[tuple[str, str]], inventory: Inventory, on: str) -> bytes:
    """The index page: links to all files with their descriptions, and the corpus in numbers."""
    tables = (
        counts.by_class(inventory.works),
        counts.by_modality(inventory),
        counts.by_licence(inventory),
        counts.by_place(inventory),
        counts.by_holder(inventory),
        *counts.measures(inventory),
    )
    links = [{"text": f"{name}: {description}", "href": name} for name, description in files]
    return _render(
        title="Disclosures of a training corpus",
        name="The training data of a model, as laws and catalogues require",
        facts=_facts("", on, inventory.corpus, ""),
        chapters=[
            Chapter("Documents", links=links),
            Chapter("The corpus in numbers", tables=tables, picture=figure(inventory)),
        ],
    )


def figure(inventory: Inventory) -> dict[str, str]:
    """A figure of works and words by class of terms, as SVG with a caption."""
    rows = counts.by_class(inventory.works).rows

    def draw(sheet: Any) -> None:
        for place, (axis, title) in enumerate(zip(sheet.subplots(1, 2, sharey=True), ("Works", "Words"), strict=True)):
            axis.barh([str(row[0]) for row in rows], [int(row[1 + 2 * place] or 0) for row in rows], color="#4a83bd")
            axis.set_title(title, fontsize=9, color="#808080")
            axis.tick_params(length=0, colors="#808080")
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.locator_params(axis="x", nbins=3)
            axis.spines[:].set_visible(False)
        axis.invert_yaxis()  # shared by both

    most = max(rows, key=lambda row: int(row[1] or 0))
    caption = f"Works and words by what their terms allow; most works: {most[0]} ({most[1]:,})."
    return embed_svg(draw_svg(draw, (6.4, 2.2), {"svg.hashsalt": "licences", "font.size": 9}), caption)


def _shown(value: object) -> str:
    """A value as text of a page."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return f"{value:,}" if isinstance(value, int) else plain(str("" if value is None else value))


def _numbers(rows: Sequence[Sequence[object]]) -> list[bool]:
    """Whether each column of a table has only numbers."""
    return [all(isinstance(cell, int) for cell in cells) for cells in zip(*rows, strict=True)]


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flat(part)}" for key, part in sorted(value.items()) if not key.startswith("@"))
    return "; ".join(map(_flat, value)) if isinstance(value, list) else str(value)


def _facts(version: str, on: str, corpus: str, file: str) -> list[tuple[str, str]]:
    facts = (("Version", version), ("Last update", on), ("Corpus (SHA-256)", corpus), ("For machines", file))
    return [(kind, text) for kind, text in facts if text]


def _render(
    *,
    title: str,
    name: str,
    facts: Sequence[tuple[str, str]],
    chapters: Sequence[Chapter],
    notice: str = "",
    missing: Sequence[str] = (),
) -> bytes:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_shown
    )
    environment.filters |= {"address": lambda cell: address(cell) if isinstance(cell, str) else "", "numbers": _numbers}
    environment.globals |= {"MOST_ROWS": MOST_ROWS, "ANSWERED": ANSWERED, "OPEN": (TO_COMPLETE, WAITS)}
    environment.globals |= {"WITHOUT": WITHOUT, "SAID_BY": SAID_BY}
    view = {"title": title, "name": name, "notice": notice, "facts": facts, "missing": missing, "chapters": chapters}
    return environment.get_template("disclosure.html").render(view).encode()
