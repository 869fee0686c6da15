"""Lays out pages that owners read, from chapters of sentences, tables and figures, by one template.

Text of owners and corpora is escaped, so it is never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from provenance.core.text import address, plain

TEMPLATES = Path(__file__).parents[1] / "templates"


def page(view: Mapping[str, Any], template: str = "page.html") -> bytes:
    """A web page in one file, without links to other files; it is well-formed XML, too.

    Args:
        view: `title, name, notice, accounts, summary, facts, chapters`, as `page.html` lays them out, and what another adds.
    """
    return rendered(template, view).encode()


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """Fill in a template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(view)


def chapter(
    chapter_id: str,
    title: str,
    sentences: Sequence[str] = (),
    *,
    items: Sequence[str] = (),
    tables: Sequence[dict[str, Any]] = (),
    picture: dict[str, str] | None = None,
    pieces: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A chapter of a page: a title, sentences, a list, a picture, pieces and tables, in this order.

    Args:
        pieces: of works or outputs, on statements: `title, href, about`, and `excerpts`, each with a name.
        items: lines of the list; addresses among them become links.
        picture: `svg`, markup that this project made, and its `caption`.
    """
    linked = [{"text": item, "href": address(item), "below": ""} for item in items]
    return {
        "id": chapter_id,
        "title": title,
        "sentences": list(sentences),
        "items": linked,
        "tables": list(tables),
        "picture": picture,
        "pieces": list(pieces),
    }


def table(
    table_id: str,
    caption: str,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] = (),
    note: str = "",
    links: Mapping[tuple[int, int], str] = MappingProxyType({}),
    below: Mapping[tuple[int, int], str] = MappingProxyType({}),
) -> dict[str, Any]:
    """A table of a page.

    Args:
        columns: names with kinds. `number` is aligned right, `short` stays on one line, `digest` does where there is room,
            `long` and `code` break.
        links: addresses of cells, and below: small texts below cells, by row and column.
    """
    cells = [
        [
            {"text": plain(text), "href": address(links.get(place, "")), "below": plain(below.get(place, ""))}
            for place, text in (((at, column), text) for column, text in enumerate(row))
        ]
        for at, row in enumerate(rows)
    ]
    headers = [{"name": name, "kind": kind} for name, kind in columns]
    return {"id": table_id, "caption": caption, "columns": headers, "rows": cells, "total": list(total), "note": note}


def percent(ppb: int) -> str:
    """Parts per billion as a percentage."""
    thousandths = (abs(ppb) + 5_000) // 10_000
    if ppb and not thousandths:
        return "< 0.001 %"
    return f"{'-' if ppb < 0 else ''}{thousandths // 1_000}.{thousandths % 1_000:03d} %"
