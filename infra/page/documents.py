"""Serves the documents of the checkout: Markdown as HTML, in which every link leads somewhere.

Links between documents lead to their pages, and pictures that documents name are served; other files of the checkout are named
and not linked, because settings are among them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from provenance.core.errors import InputError, did_you_mean
from provenance.core.settings import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from markdown_it.token import Token

INDEX = "index.md"
ELSEWHERE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)
PICTURES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".webp": "image/webp"}
# Set into the HTML where the path of the page goes, which only a request knows.
BASE = "\ue000"


@dataclass(frozen=True)
class Document:
    """A document as HTML.

    Attributes:
        headings: anchors and texts of its second level, in order, each with those of the third level below it.
        anchors: all of them, as GitHub names them.
        links: targets within the page, as `operators.md#late-night`; pictures: files that it shows, by their name in links.
    """

    name: str
    title: str
    html: str
    headings: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    anchors: frozenset[str]
    links: tuple[str, ...]
    pictures: dict[str, Path]

    def at(self, base: str) -> str:
        """The HTML for a page that is served below a path."""
        return self.html.replace(BASE, escape(base))


@cache
def names() -> dict[str, Path]:
    """Documents by name: those of `docs/`, and those at the top of the checkout."""
    return {path.name: path for folder in (CHECKOUT, CHECKOUT / "docs") for path in sorted(folder.glob("*.md"))}


@cache
def document(name: str) -> Document:
    """Read a document; raises InputError if there is none of that name."""
    if name not in names():
        hint = did_you_mean(name, names())
        raise InputError(f"document {name!r}", expected="one that docs/index.md lists", found="none", hint=hint)
    path = names()[name]
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(path.read_text(encoding="utf-8"))
    anchors: dict[str, str] = {}
    headings: list[tuple[str, str, list[tuple[str, str]]]] = []
    links: list[str] = []
    pictures: dict[str, Path] = {}
    for token, inside in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and inside is not None:
            text = "".join(child.content for child in inside.children or ())
            anchor = _anchor(text, anchors)
            anchors[anchor] = text
            token.attrSet("id", anchor)
            if token.tag == "h2":
                headings.append((anchor, text, []))
            elif token.tag == "h3" and headings:
                headings[-1][2].append((anchor, text))
        links += _links(path, token.children or ())
        pictures |= _pictures(path, token.children or ())
    _label_cells(tokens)
    html = parser.renderer.render(tokens, parser.options, {})
    html = html.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<div class="scroll"><table class="cards">')
    html = html.replace("</table>", "</table></div>")
    title = next(iter(anchors.values()), name)
    contents = tuple((anchor, text, tuple(below)) for anchor, text, below in headings)
    return Document(name, title, html, contents, frozenset(anchors), tuple(links), pictures)


@cache
def pictures() -> dict[str, Path]:
    """Every picture that a document shows, by its path in the checkout."""
    return {shown: file for name in names() for shown, file in document(name).pictures.items()}


def _anchor(text: str, others: dict[str, str]) -> str:
    """The anchor of a heading, as GitHub names it."""
    anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
    number = sum(other == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", other) is not None for other in others)
    return f"{anchor}-{number}" if number else anchor


def _links(path: Path, tokens: Sequence[Token]) -> Iterator[str]:
    """Turn links to documents into links of the page, and those to other files into their names; yields the former."""
    closes_file = False
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrGet("href") or "")
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            closes_file = False
            if ELSEWHERE.match(target):
                token.attrs["rel"] = "noreferrer"
            elif place == names().get(place.name):
                link = f"{place.name}#{anchor}" if anchor else place.name
                token.attrs = {"href": f"{BASE}/docs/{link}"}
                yield link
            else:
                token.tag, token.attrs, closes_file = "span", {"class": "file", "title": target}, True
        elif token.type == "link_close" and closes_file:
            token.tag, closes_file = "span", False


def _pictures(path: Path, tokens: Sequence[Token]) -> Iterator[tuple[str, Path]]:
    """Turn pictures of the checkout into those of the page; one that is missing leaves its description."""
    for token in tokens:
        if token.type != "image":
            continue
        file = (path.parent / str(token.attrGet("src") or "")).resolve()
        if file.suffix in PICTURES and file.is_relative_to(CHECKOUT) and file.is_file():
            shown = file.relative_to(CHECKOUT).as_posix()
            token.attrs = {**token.attrs, "src": f"{BASE}/pictures/{shown}"}
            yield shown, file
        else:
            token.type, token.content = "text", f"[{token.content}]"


def _label_cells(tokens: Sequence[Token]) -> None:
    """Give the cells of tables the names of their columns, which a narrow screen shows beside them."""
    columns: list[str] = []
    column = 0
    for token, inside in pairwise(tokens):
        if token.type == "table_open":
            columns = []
        elif token.type == "th_open":
            columns.append("".join(child.content for child in inside.children or ()))
        elif token.type == "tr_open":
            column = 0
        elif token.type == "td_open":
            token.attrSet("data-label", columns[column])
            column += 1
