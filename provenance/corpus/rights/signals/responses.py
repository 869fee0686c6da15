"""Answers of servers, and the rows of the signals table made from them."""

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
# Words of signals for the uses of verdicts; other words stay unchanged.
USES = {
    **dict.fromkeys(("train-ai", "ai-train", "train-genai", "ai", "genai"), "train"),  # the latter two in drafts of 2025
    "ai-input": "ai-use",
}
LONGEST_SAYS = 500


@dataclass(frozen=True)
class Answer:
    """The result of one request.

    Attributes:
        about: the origin or page for which the URL was requested.
        fetched_at: start of the collection; the same for all its answers.
        status: status of HTTP; 0 without an answer.
        headers: names in lower case and values, in order.
        problem: why there is no answer, or only part of one.
        asked: whether a request was sent; private addresses and pages closed by robots.txt get none.
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
        """Whether the status means success."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str:
        """All values of a header, joined by commas as in HTTP; empty if there is none."""
        return ", ".join(value for key, value in self.headers if key == name)

    def text(self, encoding: str = "utf-8") -> tuple[str, str]:
        """The body as text, and the problem if it could be read only in part.

        A byte order mark takes precedence over the headers, and these over `encoding`. A body in another encoding than declared
        is read as `encoding`, with replacement characters. NULs are left out: so a text in UTF-16 without a mark is read, too.
        """
        encoding_of_mark, mark = read_bom(self.body)
        declared = http_content_type_encoding(self.header("content-type") or None)
        codec = encoding_of_mark or declared or encoding
        body = self.body[len(mark) :] if mark else self.body
        try:
            text = body.decode(codec)
            return text.replace("\0", ""), "has NULs, which no text has" if "\0" in text else ""
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
    terms: str | None = "",
    agents: str | None = "",
) -> Row:
    """One row of the signals table.

    Args:
        scope: by default the answer's origin or page.
    """
    problems = "; ".join(part for part in (answer.problem, problem) if part)
    return {
        "scope": plain(scope or answer.about),
        "about": answer.about,
        "kind": kind,
        "use": plain(USES.get(use, use)),
        "allowed": allowed,
        "terms": plain(terms or "")[:LONGEST_SAYS] or None,
        "agents": plain(agents or "") or None,
        "says": plain(says)[:LONGEST_SAYS],
        "url": answer.url,
        "fetched_at": answer.fetched_at,
        "status": answer.status,
        "body_sha256": sha256(answer.body) if answer.body else None,
        "problem": plain(problems)[:LONGEST_SAYS] or None,
    }


def silence(answer: Answer, kind: str, use: str = "train", problem: str = "") -> Row:
    """The row of an answer without a signal; it replaces earlier signals of the same file."""
    says = "nothing" if answer.good else str(answer.status or ("no answer" if answer.asked else "not asked"))
    return row(answer, kind, use, says=says, problem=problem)


def origin_of(uri: str) -> str | None:
    """Scheme, host and port of an address on the web, in canonical spelling; None for other texts."""
    url = _web(uri)
    return None if url is None else f"{url.scheme}://{url.netloc.decode('ascii')}"


def page_of(uri: str) -> str | None:
    """An address on the web in canonical spelling, without fragment and credentials; None for other texts."""
    url = _web(uri)
    return None if url is None else f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii')}"


def pattern_of(text: str, origin: str) -> str | None:
    """The pattern of paths (RFC 9309: `*` and `$`) in a file of an origin, beginning with `/`.

    None for an address of another site: a file covers only its own site, by HTTP and HTTPS.
    """
    if "://" in text and not text.startswith("/"):
        page = page_of(text)
        if page is None or (origin_of(text) or "").partition("://")[2] != origin.partition("://")[2]:
            return None
        # `page_of` would encode the signs of patterns.
        text = "/" + text.split("//", 1)[1].partition("/")[2]
    return text if text.startswith("/") else f"/{text}"


@lru_cache(maxsize=4096)
def _web(uri: str) -> httpx.URL | None:
    scheme, colon, rest = uri.strip().partition(":")
    try:
        urlsplit(uri)  # rejects brackets that httpx accepts
        url = httpx.URL(f"{scheme.lower()}{colon}{rest}")
    except (httpx.InvalidURL, ValueError):
        return None
    return url if url.scheme in {"http", "https"} and url.host else None
