"""Read the declarations and linked licences in the head of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from lxml import etree

from provenance.corpus.rights.signals.responses import Answer

RSL_TYPE = "application/rsl+xml"


@dataclass(frozen=True)
class Declarations:
    """Declarations of a page: meta elements, linked licences, and embedded licences.

    Attributes:
        elements: all meta elements, `(name, content)`; `property` and `http-equiv` stand for a name that is missing,
            and `value`, else any other attribute, for a content that is.
    """

    linked: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()
    problem: str = ""
    elements: tuple[tuple[str, str], ...] = ()


def is_html(answer: Answer) -> bool:
    """Whether an answer is a page, by its headers."""
    kind = answer.header("content-type").split(";")[0].strip().lower()
    return answer.good and kind in {"text/html", "application/xhtml+xml"}


def read_declarations(answer: Answer) -> Declarations:
    """The declarations of a page; empty if the answer is no page."""
    if not is_html(answer) or not answer.body.strip():
        return Declarations()
    text, problem = answer.text()
    try:
        # Parsed as UTF-8, so that an encoding stated in the page cannot contradict the header.
        parser = etree.HTMLParser(no_network=True, huge_tree=False, encoding="utf-8")
        tree = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.LxmlError, ValueError) as error:
        return Declarations(problem=f"not HTML: {error}")
    if tree is None:
        return Declarations(problem="not HTML")
    elements = tuple((_name(element), _content(element)) for element in tree.iter("meta"))
    links = (link for link in tree.iter("link") if "license" in (link.get("rel") or "").lower().split())
    linked = (link.get("href") for link in links if (link.get("type") or "").strip().lower() == RSL_TYPE)
    embedded = (s.text or "" for s in tree.iter("script") if (s.get("type") or "").strip().lower() == RSL_TYPE)
    return Declarations(tuple(absolute(answer.url, href) for href in linked if href), tuple(embedded), problem, elements)


def _name(element: Any) -> str:
    stated = (element.get(attribute) for attribute in ("name", "property", "http-equiv"))
    return next((name.strip().lower() for name in stated if name and name.strip()), "")


def _content(element: Any) -> str:
    """The content of a meta element; without one `value`, else what misspelt attributes say (`contents`, `data-content`)."""
    if stated := element.get("content") or element.get("value"):
        return str(stated)
    return ", ".join(
        value for name, value in element.items() if name not in {"name", "property", "http-equiv", "charset", "content"}
    )


def absolute(base: str, reference: str) -> str:
    """Resolve a reference; an invalid one stays unchanged."""
    try:
        return urljoin(base, reference.strip())
    except ValueError:
        return reference
