"""What the head of a page links to and declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urljoin

from lxml import etree

from provenance.corpus.rights.signals.responses import Answer

RSL_TYPE = "application/rsl+xml"


@dataclass(frozen=True)
class Declared:
    """What a page declares: meta elements by name (the first of each), linked licences, licences inside of it."""

    meta: dict[str, str] = field(default_factory=dict)
    linked: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()
    problem: str = ""


def is_html(answer: Answer) -> bool:
    """Whether an answer says that it is a page."""
    kind = answer.header("content-type").split(";")[0].strip().lower()
    return answer.good and kind in {"text/html", "application/xhtml+xml"}


def declared(answer: Answer) -> Declared:
    """What a page declares; nothing where it is none."""
    if not is_html(answer) or not answer.body.strip():
        return Declared()
    text, problem = answer.text()
    try:
        # As bytes of one encoding, so that what the page says of its own cannot contradict the header's.
        parser = etree.HTMLParser(no_network=True, huge_tree=False, encoding="utf-8")
        tree = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.LxmlError, ValueError) as error:
        return Declared(problem=f"not HTML: {error}")
    if tree is None:
        return Declared(problem="not HTML")
    meta: dict[str, str] = {}
    for element in tree.iter("meta"):
        meta.setdefault((element.get("name") or "").strip().lower(), element.get("content") or "")
    links = (link for link in tree.iter("link") if "license" in (link.get("rel") or "").lower().split())
    linked = (link.get("href") for link in links if (link.get("type") or "").strip().lower() == RSL_TYPE)
    embedded = (s.text or "" for s in tree.iter("script") if (s.get("type") or "").strip().lower() == RSL_TYPE)
    return Declared(meta, tuple(absolute(answer.url, href) for href in linked if href), tuple(embedded), problem)


def absolute(base: str, reference: str) -> str:
    """A reference as an address; as it is where it cannot be one."""
    try:
        return urljoin(base, reference.strip())
    except ValueError:
        return reference
