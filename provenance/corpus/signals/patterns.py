"""Patterns of paths as robots.txt has them (RFC 9309: `*` and `$`), matched by Protego."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote

from protego import Protego


def matches(pattern: str, url: str) -> bool:
    """Whether a pattern matches the path of a URL; percent-encoding makes no difference."""
    return not _matcher(pattern).can_fetch(url, "*")


def octets(pattern: str) -> int:
    """How specific a pattern is: the characters that it fixes."""
    return len(pattern.replace("*", "").removesuffix("$"))


@lru_cache(maxsize=65_536)
def _matcher(pattern: str) -> Protego:
    # What would end the line, or be a comment, is encoded.
    encoded = "".join(quote(c) if c == "#" or c.isspace() else c for c in pattern)
    return Protego.parse(f"User-agent: *\nDisallow: {encoded}\n")
