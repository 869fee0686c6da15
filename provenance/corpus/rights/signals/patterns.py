"""Match paths with patterns of robots.txt (RFC 9309: `*` and `$`); by Protego."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from protego import Protego


def matches(pattern: str, url: str) -> bool:
    """Whether a pattern matches the path of a URL; percent-encoding makes no difference."""
    if "%" not in url and not url.startswith(_beginning(pattern), url.find("/", url.find("://") + 3)):
        return False  # rejects most URLs in a tenth of the time
    return not _matcher(pattern).can_fetch(url, "*")


def octets(pattern: str) -> int:
    """The specificity of a pattern: its number of fixed characters."""
    return len(pattern.replace("*", "").removesuffix("$"))


@lru_cache(maxsize=65_536)
def _beginning(pattern: str) -> str:
    """The common beginning of all matching paths, as far as it has only one spelling."""
    plain = re.match(r"[A-Za-z0-9_.~/-]*", pattern)
    return plain.group() if plain else ""


@lru_cache(maxsize=65_536)
def _matcher(pattern: str) -> Protego:
    # Encode characters that would end the line or begin a comment.
    encoded = "".join(quote(c) if c == "#" or c.isspace() else c for c in pattern)
    return Protego.parse(f"User-agent: *\nDisallow: {encoded}\n")
