"""Really Simple Licensing 1.0: XML that permits, prohibits or sells uses of content.

Only an unconditional permission counts as one. A use that needs payment, a licence from a server, or certain users or countries
is reserved, and `terms` has the conditions. A licence that lists permissions permits nothing else; one without permissions
permits all uses that it does not prohibit. Several licences of the same content are alternative offers, so a use that one does
not list may be in another.

A use that RSL does not define is read as its nearest one where a licence prohibits it (`ai-training`, `training`), and as none
where it permits it; the row's `problem` says so. A licence with a prohibition that cannot be read permits only what it lists.

The linking file sets the scope of a licence: robots.txt its site, a page itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lxml import etree

from provenance.corpus.rights.signals import robots
from provenance.corpus.rights.signals.html import RSL_TYPE, absolute
from provenance.corpus.rights.signals.patterns import matches
from provenance.corpus.rights.signals.responses import USES, Answer, Row, origin_of, pattern_of, row, silence

KIND = "rsl"
USUAL = ("train", "ai-use", "ai-index", "search")
WHOLE = {"all": USUAL, "ai-all": ("train", "ai-use", "ai-index")}
# The words of RSL 1.0 and of its drafts; other words are told.
WORDS = ("all", "ai-all", "ai-train", "train-ai", "train-genai", "train", "ai-input", "ai-use", "ai-index", "search")
TYPES = ("usage", "user", "geo")
# Parts of words that speak of a use.
PARTS = {"train": "train", "learn": "train", "tuning": "train", "input": "ai-use", "ground": "ai-use", "search": "search"}
# Names that are meant for the elements, and for the line of a robots.txt.
_CONTENT, _LICENSE = re.compile(r"contents?"), re.compile(r"licen[cs](es?|ing)")
# Conditions that we meet: credits name the owners.
FREE = {"free", "attribution"}


@dataclass(frozen=True)
class Offer:
    """One licence's terms for one use.

    Attributes:
        listed: whether the licence lists the use, or a wider one.
        allowed: whether the use is allowed without conditions; None: it cannot be told.
    """

    use: str
    listed: bool
    allowed: bool | None
    terms: str
    problem: str = ""


def linked(answer: Answer) -> list[str]:
    """The addresses of licences in a robots.txt (`License:`), in order."""
    if not answer.good:
        return []
    references = (rule.value for rule in robots.rules(answer.text()[0]) if _LICENSE.fullmatch(rule.name) and rule.value)
    plain = (part.strip("<>" + robots.QUOTES) for value in references for part in re.split(r",?\s+|,(?=/|https?:)", value))
    return list(dict.fromkeys(absolute(answer.url, value) for value in plain if value))


def linked_by_header(answer: Answer) -> list[str]:
    """The addresses of licences in a page's `Link` headers (RFC 8288)."""
    links = []
    for target, attributes in re.findall(r"<([^<>]*)>([^<>]*)", answer.header("link")):
        parameters = {name.strip().lower(): value.strip(' ",').lower() for name, _, value in _pairs(attributes)}
        if "license" in parameters.get("rel", "").split() and parameters.get("type") == RSL_TYPE:
            links.append(absolute(answer.url, target))
    return list(dict.fromkeys(links))


def parse(answer: Answer, body: bytes | None = None) -> list[Row]:
    """Rows of a licence: for the site if the answer is about an origin, else for its page.

    Args:
        body: the licence, if it is embedded in a page; by default the whole answer.
    """
    if not answer.good:
        return [silence(answer, KIND)]
    try:
        root = _root(answer.body if body is None else body)
    except (etree.LxmlError, ValueError) as error:
        return [silence(answer, KIND, problem=f"not XML that is read here: {error}")]
    problem = "" if _name(root) == "rsl" else f"not RSL: <{_name(root)}>"
    rows: list[Row] = []
    for content, misspelt in _nearly(root, "content", _CONTENT):
        rows += _content(answer, content, misspelt)
    if not rows and not problem and any(_LICENSE.fullmatch(_name(e).lower()) for e in root.iter("*")):
        problem = "has a licence, and no content that it covers"
    return rows or [silence(answer, KIND, problem=problem)]


def _root(body: bytes) -> Any:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("it has a document type, and entities are not read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False)
    root = etree.fromstring(body.strip(), parser)
    if root.getroottree().docinfo.doctype:
        raise ValueError("it has a document type, and entities are not read")
    return root


def _content(answer: Answer, content: Any, misspelt: str) -> Iterator[Row]:
    """Yield the rows of one content element: one for each licence and use.

    Args:
        misspelt: the problem of an element that is only nearly one; it permits nothing.
    """
    place = next((value for name, value in content.attrib.items() if name.lower() == "url"), "").strip()
    if not place:
        yield from _at(answer, content, "/", "", doubt=misspelt, note="no url: read as the whole site")
    for path, doubt in robots.values_of(place) if place else ():
        yield from _at(answer, content, path, place, doubt="; ".join(filter(None, (misspelt, doubt))))


def _at(answer: Answer, content: Any, path: str, place: str, *, doubt: str, note: str = "") -> Iterator[Row]:
    origin = origin_of(answer.about) or answer.about
    pattern = pattern_of(path, origin)
    problem = "; ".join(filter(None, (doubt, note)))
    whole_site = answer.about == origin
    if pattern is None:
        says, problem = f'<content url="{place}">', "speaks of another site, which does not count"
        yield row(answer, KIND, "train", says=says, problem=problem)
        return
    if not whole_site and not matches(pattern, answer.about):
        return
    scope = origin + pattern if whole_site else answer.about
    licences = list(_nearly(content, "license", _LICENSE))
    offers = [(licence, odd, list(_offers(licence, content.get("server") or ""))) for licence, odd in licences]
    explicit = {offer.use for _, _, offers_of_licence in offers for offer in offers_of_licence if offer.listed}
    for licence, odd, offers_of_licence in offers:
        says = " ".join(etree.tostring(licence, encoding="unicode", with_tail=False).split())
        for offer in offers_of_licence:
            if offer.listed or offer.use not in explicit:
                yield row(
                    answer, KIND, offer.use, says=f'<content url="{place}"> {says}', scope=scope,
                    allowed=None if offer.allowed and (odd or doubt) else offer.allowed, terms=offer.terms,
                    problem="; ".join(filter(None, (problem, odd, offer.problem))),
                )  # fmt: skip


def _offers(licence: Any, server: str) -> Iterator[Offer]:
    permitted, prohibited = _uses(licence, "permits", "usage"), _uses(licence, "prohibits", "usage")
    conditions, terms = list(_conditions(licence, server)), "; ".join(_conditions(licence, server))
    refused = {word for word in _words(licence, "prohibits", "usage") or () if word not in WORDS}
    odd = refused | {word for word in _words(licence, "permits", "usage") or () if word not in WORDS}
    unread = sorted(_unread(licence))
    problems = ([f"no use of RSL: {', '.join(sorted(odd))}"] if odd else []) + [f"not of RSL: {name}" for name in unread]
    problem = "; ".join(problems)
    meant = {_meant(word) for word in refused} | ({None} if unread else set())
    for use in sorted({*USUAL, *(permitted or ()), *(prohibited or ()), *filter(None, meant)} - odd):
        if use in meant or (prohibited is not None and use in prohibited):
            yield Offer(use, listed=True, allowed=False, terms="", problem=problem)
        elif permitted is None:
            # Nobody knows what a prohibition that cannot be read takes away.
            allowed = None if None in meant and not conditions else not conditions
            yield Offer(use, listed=False, allowed=allowed, terms=terms, problem=problem)
        elif use in permitted:
            allowed = None if unread and not conditions else not conditions
            yield Offer(use, listed=True, allowed=allowed, terms=terms, problem=problem)
        else:
            yield Offer(use, listed=False, allowed=False, terms="", problem=problem)


def _unread(licence: Any) -> Iterator[str]:
    """Yield the elements of a licence that may permit or prohibit something and that RSL does not define."""
    for element in licence:
        name, kind = _name(element) if isinstance(element.tag, str) else "", (element.get("type") or "usage").strip().lower()
        if name in {"permits", "prohibits"} and kind not in TYPES:
            yield f'<{name} type="{kind}">'
        elif name not in {"permits", "prohibits"} and re.match(
            "permit|prohibit|allow|disallow|forbid|den[iy]|reserv", name.lower()
        ):
            yield f"<{name}>"


def _meant(word: str) -> str | None:
    """The use that a word which RSL does not define means; None if it cannot be told."""
    letters = {re.sub("[^a-z]", "", known): known for known in WORDS if known not in WHOLE}
    squeezed = re.sub("[^a-z]", "", word)
    near = get_close_matches(squeezed, letters, n=1, cutoff=0.8)
    part = next((use for part, use in PARTS.items() if part in squeezed), None)
    return part or (USES.get(letters[near[0]], letters[near[0]]) if near else None)


def _conditions(licence: Any, server: str) -> Iterator[str]:
    """Yield the conditions of a licence's permissions."""
    if server:
        yield f"licence from {server}"
    for payment in _children(licence, "payment"):
        kind = (payment.get("type") or "free").strip().lower()
        if kind not in FREE:
            where = " ".join(" ".join(part.itertext()).strip() for part in payment if isinstance(part.tag, str))
            yield f"payment: {kind} {' '.join(where.split())}".strip()
    for element in ("permits", "prohibits"):
        for kind in ("user", "geo"):
            names = _words(licence, element, kind)
            if names is not None:
                yield f"{element} {kind}: {' '.join(sorted(names))}"


def _uses(licence: Any, element: str, kind: str) -> set[str] | None:
    names = _words(licence, element, kind)
    if names is None:
        return None
    return {use for word in names for use in WHOLE.get(word, (USES.get(word, word),))}


def _words(licence: Any, element: str, kind: str) -> set[str] | None:
    """The words of a licence's elements of a type (separated by blanks; in drafts by commas); None without such elements."""
    elements = [e for e in _children(licence, element) if (e.get("type") or "usage").strip().lower() == kind]
    return {w for e in elements for w in re.split(r"[\s,]+", " ".join(e.itertext()).lower()) if w} if elements else None


def _children(parent: Any, name: str) -> Iterator[Any]:
    return (child for child in parent if isinstance(child.tag, str) and _name(child) == name)


def _nearly(parent: Any, name: str, spellings: re.Pattern[str]) -> Iterator[tuple[Any, str]]:
    """Yield the children of a name, and those of nearly that name with the problem."""
    for child in parent:
        stated = _name(child) if isinstance(child.tag, str) else ""
        if stated == name or spellings.fullmatch(stated.lower()):
            yield child, "" if stated == name else f"<{stated}> should be <{name}>"


def _name(element: Any) -> str:
    return str(etree.QName(element).localname)


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    return (part.partition("=") for part in text.split(";"))
