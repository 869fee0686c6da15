"""Pages that owners read: chapters of sentences, tables and figures, laid out by one template.

What owners and corpora supplied is text and never markup: it is autoescaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from provenance.core.text import address, plain

TEMPLATES = Path(__file__).parent / "templates"


def page(view: Mapping[str, Any]) -> bytes:
    """One file that needs no other: a web page, well-formed as XML, too.

    Args:
        view: `title, name, notice, accounts, summary, facts, chapters`, as `statement.html` lays them out.
    """
    return rendered("statement.html", view).encode()


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """A template filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(view)


def chapter(
    known: str,
    title: str,
    said: Sequence[str] = (),
    *,
    items: Sequence[str] = (),
    tables: Sequence[dict[str, Any]] = (),
    picture: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A chapter.

    Args:
        known: its id on the page.
        said: sentences; items: a list below them.
        picture: `svg`, markup of our own making, and what it shows in words (`said`).
    """
    linked = [{"text": item, "href": address(item)} for item in items]
    return {"id": known, "title": title, "said": list(said), "items": linked, "tables": list(tables), "picture": picture}


def table(
    known: str,
    caption: str,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[Sequence[str]],
    *,
    total: Sequence[str] = (),
    note: str = "",
    links: int | None = None,
) -> dict[str, Any]:
    """A table.

    Args:
        columns: names, and kinds: `number` to the right, `short` on one line, `digest` too where there is room,
            `long` and `code` broken where needed.
        links: the column that holds addresses.
    """
    cells = [
        [{"text": plain(text), "href": address(text) if column == links else ""} for column, text in enumerate(row)]
        for row in rows
    ]
    named = [{"name": name, "kind": kind} for name, kind in columns]
    return {"id": known, "caption": caption, "columns": named, "rows": cells, "total": list(total), "note": note}


def percent(ppb: int) -> str:
    """Parts per billion as a percentage."""
    thousandths = (abs(ppb) + 5_000) // 10_000
    if ppb and not thousandths:
        return "< 0.001 %"
    return f"{'-' if ppb < 0 else ''}{thousandths // 1_000}.{thousandths % 1_000:03d} %"
