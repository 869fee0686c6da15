"""Really Simple Licensing 1.0: XML that says which uses of which content are permitted, prohibited, or paid for.

A permission counts as one only where nothing has to be done for it: what asks for payment, for a licence from a server, or for
certain users or countries is reserved until that is met, and `terms` says where it stands. A licence that lists permissions
permits nothing else; one that lists none permits what it does not prohibit. Of several licences of the same content each is an
offer, so what one does not list may be in another.

Whoever links a licence decides what it speaks of: robots.txt links it for its own site, a page for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from provenance.corpus.rights.signals import robots
from provenance.corpus.rights.signals.html import RSL_TYPE, absolute
from provenance.corpus.rights.signals.patterns import matches
from provenance.corpus.rights.signals.responses import USES, Answer, Row, origin_of, pattern_of, row, silence

KIND = "rsl"
KNOWN = ("train", "ai-use", "ai-index", "search")
WHOLE = {"all": KNOWN, "ai-all": ("train", "ai-use", "ai-index")}
# Which we give: whose work it was is what this project says.
FREE = {"free", "attribution"}


@dataclass(frozen=True)
class Offer:
    """What one licence says of one use.

    Attributes:
        listed: whether it names the use, or a wider one.
        allowed: without conditions.
    """

    use: str
    listed: bool
    allowed: bool
    terms: str


def linked(answer: Answer) -> list[str]:
    """The licences that a robots.txt names (`License:`), as addresses, in order."""
    if not answer.good:
        return []
    named = (rule.value for rule in robots.rules(answer.text()[0]) if rule.name == "license" and rule.value)
    return list(dict.fromkeys(absolute(answer.url, value) for value in named))


def linked_by_header(answer: Answer) -> list[str]:
    """The licences that a page's `Link` headers name (RFC 8288)."""
    found = []
    for target, rest in re.findall(r"<([^<>]*)>([^<>]*)", answer.header("link")):
        given = {name.strip().lower(): value.strip(' ",').lower() for name, _, value in _pairs(rest)}
        if "license" in given.get("rel", "").split() and given.get("type") == RSL_TYPE:
            found.append(absolute(answer.url, target))
    return list(dict.fromkeys(found))


def parse(answer: Answer, body: bytes | None = None) -> list[Row]:
    """Rows of a licence: of the whole site where the answer is about an origin, else of the page that it is about.

    Args:
        body: the licence where it is not the whole answer, but stands in a page.
    """
    if not answer.good:
        return [silence(answer, KIND)]
    try:
        root = _root(answer.body if body is None else body)
    except (etree.LxmlError, ValueError) as error:
        return [silence(answer, KIND, problem=f"not XML that is read here: {error}")]
    found = [found for content in _children(root, "content") for found in _content(answer, content)]
    return found or [silence(answer, KIND, problem="" if _name(root) == "rsl" else f"not RSL: <{_name(root)}>")]


def _root(body: bytes) -> Any:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("it has a document type, and entities are not read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False)
    root = etree.fromstring(body.strip(), parser)
    if root.getroottree().docinfo.doctype:
        raise ValueError("it has a document type, and entities are not read")
    return root


def _content(answer: Answer, content: Any) -> Iterator[Row]:
    """Rows of one content: for each use what its licences say."""
    origin = origin_of(answer.about) or answer.about
    place = (content.get("url") or "").strip()
    pattern = pattern_of(place, origin) if place else "/"
    problem = "" if place else "no url: read as the whole site"
    whole_site = answer.about == origin
    if pattern is None:
        says, problem = f'<content url="{place}">', "speaks of another site, which does not count"
        yield row(answer, KIND, "train", says=says, problem=problem)
        return
    if not whole_site and not matches(pattern, answer.about):
        return
    scope = origin + pattern if whole_site else answer.about
    licences = list(_children(content, "license"))
    offers = [(licence, list(_offers(licence, content.get("server") or ""))) for licence in licences]
    explicit = {offer.use for _, made in offers for offer in made if offer.listed}
    for licence, made in offers:
        says = " ".join(etree.tostring(licence, encoding="unicode", with_tail=False).split())
        for offer in made:
            if offer.listed or offer.use not in explicit:
                yield row(
                    answer, KIND, offer.use, says=f'<content url="{place}"> {says}', scope=scope,
                    allowed=offer.allowed, terms=offer.terms, problem=problem,
                )  # fmt: skip


def _offers(licence: Any, server: str) -> Iterator[Offer]:
    permitted, prohibited = _listed(licence, "permits", "usage"), _listed(licence, "prohibits", "usage")
    conditions = list(_conditions(licence, server))
    uses = sorted({*KNOWN, *(permitted or ()), *(prohibited or ())})
    for use in uses:
        if prohibited is not None and use in prohibited:
            yield Offer(use, listed=True, allowed=False, terms="")
        elif permitted is None:
            yield Offer(use, listed=False, allowed=not conditions, terms="; ".join(conditions))
        elif use in permitted:
            yield Offer(use, listed=True, allowed=not conditions, terms="; ".join(conditions))
        else:
            yield Offer(use, listed=False, allowed=False, terms="")


def _conditions(licence: Any, server: str) -> Iterator[str]:
    """What a permission asks for, and where that stands."""
    if server:
        yield f"licence from {server}"
    for payment in _children(licence, "payment"):
        kind = (payment.get("type") or "free").strip().lower()
        if kind not in FREE:
            where = " ".join(" ".join(part.itertext()).strip() for part in payment if isinstance(part.tag, str))
            yield f"payment: {kind} {' '.join(where.split())}".strip()
    for element in ("permits", "prohibits"):
        for kind in ("user", "geo"):
            named = _words(licence, element, kind)
            if named is not None:
                yield f"{element} {kind}: {' '.join(sorted(named))}"


def _listed(licence: Any, element: str, kind: str) -> set[str] | None:
    named = _words(licence, element, kind)
    if named is None:
        return None
    return {use for word in named for use in WHOLE.get(word, (USES.get(word, word),))}


def _words(licence: Any, element: str, kind: str) -> set[str] | None:
    """What elements of a type list (by blanks; drafts had commas); None where there is no such element."""
    found = [e for e in _children(licence, element) if (e.get("type") or "usage").strip().lower() == kind]
    return {w for e in found for w in re.split(r"[\s,]+", " ".join(e.itertext()).lower()) if w} if found else None


def _children(parent: Any, name: str) -> Iterator[Any]:
    return (child for child in parent if isinstance(child.tag, str) and _name(child) == name)


def _name(element: Any) -> str:
    return str(etree.QName(element).localname)


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    return (part.partition("=") for part in text.split(";"))
