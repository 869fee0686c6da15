"""Text that strangers supplied, where it is read: in a line, in a terminal, in a cell of a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

# Invisible characters that scripts and emoji need; others could make a text read as what it is not.
JOINERS = "\u200c\u200d"
UNSEEN = frozenset({"Cc", "Cf", "Cs"})
# What an identifier may not have, as Rust's regular expressions have it, too: controls, and marks that turn the direction.
NOT_IN_IDS = "[\\p{Cc}\\p{Zl}\\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
# A cell that begins so is a formula to spreadsheets, whatever the blanks before it (OWASP, CSV injection); full-width signs
# are read as their plain forms by some. Leading apostrophes are what the cell has already, or what it was given here.
SIGNS = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
FORMULA, ESCAPED = f"^'*\\s*{SIGNS}", f"^'+\\s*{SIGNS}"
_ESCAPED = re.compile(ESCAPED)
_CONTROLS = {**dict.fromkeys([*range(32), *range(127, 160)]), **dict.fromkeys(map(ord, "\u2028\u2029\u202a\u202b\u202c\u202d"))}
_CONTROLS |= dict.fromkeys(map(ord, "\u061c\u200e\u200f\u202e\u2066\u2067\u2068\u2069"))
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}
_ON_SCREEN = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """A text on one line, without what cannot be seen: controls, marks that change the direction, halves of characters."""
    line = " ".join(text.split())
    seen = (c for c in line if c in JOINERS or not (unicodedata.category(c) in UNSEEN or ord(c) & 0xFFFE == 0xFFFE))
    return " ".join("".join(seen).split())


def address(text: str) -> str:
    """Where a link of a page may lead: an address on the web, or nowhere."""
    found = plain(text)
    try:
        parts = urlsplit(found)
    except ValueError:
        return ""
    return found if parts.scheme in {"http", "https"} and parts.hostname and " " not in found else ""


def visible(text: str) -> str:
    r"""A text on one line, what cannot be seen written out: `\n`, `\x1b`, `\u202e`; for messages and logs."""
    return text.translate(_ESCAPES)


def on_screen(text: str) -> str:
    """The same with line breaks and tabs as they are: nothing that moves a cursor or sets a colour."""
    return text.translate(_ON_SCREEN)


def uncelled(cell: str) -> str:
    """What was written into a cell of a CSV file (`provenance.core.store.to_csv`)."""
    return cell[1:] if _ESCAPED.match(cell) else cell
