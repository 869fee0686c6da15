"""Patterns of paths as robots.txt has them (RFC 9309: `*` and `$`), matched by Protego."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from protego import Protego


def matches(pattern: str, url: str) -> bool:
    """Whether a pattern matches the path of a URL; percent-encoding makes no difference."""
    if "%" not in url and not url.startswith(_beginning(pattern), url.find("/", url.find("://") + 3)):
        return False  # most do not, and this takes a tenth of the time
    return not _matcher(pattern).can_fetch(url, "*")


def octets(pattern: str) -> int:
    """How specific a pattern is: the characters that it fixes."""
    return len(pattern.replace("*", "").removesuffix("$"))


@lru_cache(maxsize=65_536)
def _beginning(pattern: str) -> str:
    """What every path that matches begins with, as far as there is only one spelling of it."""
    plain = re.match(r"[A-Za-z0-9_.~/-]*", pattern)
    return plain.group() if plain else ""


@lru_cache(maxsize=65_536)
def _matcher(pattern: str) -> Protego:
    # What would end the line, or be a comment, is encoded.
    encoded = "".join(quote(c) if c == "#" or c.isspace() else c for c in pattern)
    return Protego.parse(f"User-agent: *\nDisallow: {encoded}\n")
