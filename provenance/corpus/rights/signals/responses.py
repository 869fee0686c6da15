"""What a server answered, and the rows that are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from w3lib.encoding import http_content_type_encoding, read_bom

from provenance.core.store import sha256
from provenance.core.text import plain

Row = dict[str, Any]
# The words of signals for the uses that a verdict is asked for; other words stay as they are.
USES = {"train-ai": "train", "ai-train": "train", "train-genai": "train", "ai-input": "ai-use"}
LONGEST_SAYS = 500


@dataclass(frozen=True)
class Answer:
    """What came of asking for a URL once.

    Attributes:
        about: the origin, or the page, on whose behalf it was asked for.
        fetched_at: when the collection that asked began; the same for all its answers.
        status: of HTTP; 0 where there was no answer.
        headers: names in lower case and values, in order.
        problem: why there is no answer, or only a part of it.
        asked: whether the server was asked at all; we ask no address that is not public.
    """

    url: str
    about: str
    fetched_at: datetime
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    problem: str = ""
    asked: bool = True

    @property
    def good(self) -> bool:
        """Whether it is what was asked for."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        """All values of a header, joined as HTTP has it; empty if there is none."""
        return ", ".join(value for key, value in self.headers if key == name)

    def text(self, encoding: str = "utf-8") -> tuple[str, str]:
        """The body as text, and why it could be read only in part.

        A byte order mark counts before what the headers declare, and that before `encoding`; what is declared wrongly is read
        as UTF-8 or, if it is none, with signs of replacement.
        """
        named, mark = read_bom(self.body)
        declared = http_content_type_encoding(self.header("content-type") or None)
        codec = named or declared or encoding
        body = self.body[len(mark) :] if mark else self.body
        try:
            return body.decode(codec), ""
        except (UnicodeError, LookupError) as error:
            return body.decode(encoding, errors="replace"), f"not {codec}: {error}"


def row(
    answer: Answer,
    kind: str,
    use: str,
    *,
    says: str,
    scope: str = "",
    allowed: bool | None = None,
    problem: str = "",
    **other: Any,
) -> Row:
    """One row of the signals table.

    Args:
        scope: by default what the answer is about.
        other: `terms` or `agents`.
    """
    problems = "; ".join(part for part in (answer.problem, problem) if part)
    return {
        "scope": plain(scope or answer.about),
        "about": answer.about,
        "kind": kind,
        "use": plain(USES.get(use, use)),
        "allowed": allowed,
        "terms": plain(other.get("terms") or "")[:LONGEST_SAYS] or None,
        "agents": plain(other.get("agents") or "") or None,
        "says": plain(says)[:LONGEST_SAYS],
        "url": answer.url,
        "fetched_at": answer.fetched_at,
        "status": answer.status,
        "body_sha256": sha256(answer.body) if answer.body else None,
        "problem": plain(problems)[:LONGEST_SAYS] or None,
    }


def silence(answer: Answer, kind: str, use: str = "train", problem: str = "") -> Row:
    """The row of an answer that says nothing, which it has so that what was said before is known to be over."""
    says = "nothing" if answer.good else str(answer.status or ("no answer" if answer.asked else "not asked"))
    return row(answer, kind, use, says=says, problem=problem)


def origin_of(uri: str) -> str | None:
    """Scheme, host and port of an address on the web, in one spelling; None where it is none."""
    url = _web(uri)
    return None if url is None else f"{url.scheme}://{url.netloc.decode('ascii')}"


def page_of(uri: str) -> str | None:
    """An address on the web in one spelling, without fragment and credentials; None where it is none."""
    url = _web(uri)
    return None if url is None else f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii')}"


def pattern_of(text: str, origin: str) -> str | None:
    """The pattern of paths (RFC 9309: `*` and `$`) that a file of an origin names, beginning with `/`.

    None where it is an address of another site: nobody speaks for somebody else's.
    """
    if "://" in text and not text.startswith("/"):
        own = page_of(text)
        if own is None or origin_of(text) != origin:
            return None
        # Not `page_of`'s spelling, which would encode what has a meaning here.
        text = "/" + text.split("//", 1)[1].partition("/")[2]
    return text if text.startswith("/") else f"/{text}"


@lru_cache(maxsize=4096)
def _web(uri: str) -> httpx.URL | None:
    scheme, colon, rest = uri.strip().partition(":")
    try:
        urlsplit(uri)  # refuses brackets that httpx lets pass
        url = httpx.URL(f"{scheme.lower()}{colon}{rest}")
    except (httpx.InvalidURL, ValueError):
        return None
    return url if url.scheme in {"http", "https"} and url.host else None
