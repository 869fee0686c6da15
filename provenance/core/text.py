"""Make text from strangers safe to show: in one line, in a terminal, in a link, in a cell of a spreadsheet."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

# Invisible characters that scripts and emoji need; other invisible ones could disguise a text.
JOINERS = "\u200c\u200d"
UNSEEN = frozenset({"Cc", "Cf", "Cs"})
# Characters that identifiers may not have: controls and marks of writing direction. The syntax is valid for Rust, too.
NOT_IN_IDS = "[\\p{Cc}\\p{Zl}\\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
# Spreadsheets take cells that begin with these signs, after any blanks, for formulas (OWASP, CSV injection); some read
# full-width signs as plain ones. Leading apostrophes may be the cell's own or come from `to_csv`.
SIGNS = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
FORMULA, ESCAPED = f"^'*\\s*{SIGNS}", f"^'+\\s*{SIGNS}"
_ESCAPED = re.compile(ESCAPED)
_CONTROLS = {**dict.fromkeys([*range(32), *range(127, 160)]), **dict.fromkeys(map(ord, "\u2028\u2029\u202a\u202b\u202c\u202d"))}
_CONTROLS |= dict.fromkeys(map(ord, "\u061c\u200e\u200f\u202e\u2066\u2067\u2068\u2069"))
_ESCAPES = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}
_ON_SCREEN = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """A text on one line without invisible characters: controls, marks of direction, halves of characters."""
    line = " ".join(text.split())
    visible_only = (c for c in line if c in JOINERS or not (unicodedata.category(c) in UNSEEN or ord(c) & 0xFFFE == 0xFFFE))
    return " ".join("".join(visible_only).split())


def address(text: str) -> str:
    """A safe target for a link: an address on the web, or empty."""
    link = plain(text)
    try:
        parts = urlsplit(link)
    except ValueError:
        return ""
    return link if parts.scheme in {"http", "https"} and parts.hostname and " " not in link else ""


def visible(text: str) -> str:
    r"""A text on one line, with invisible characters escaped: `\n`, `\x1b`, `\u202e`; for messages and logs."""
    return text.translate(_ESCAPES)


def on_screen(text: str) -> str:
    """As `visible`, but keep line breaks and tabs; nothing moves a cursor or sets a colour."""
    return text.translate(_ON_SCREEN)


def uncelled(cell: str) -> str:
    """The original text of a cell that `provenance.core.store.to_csv` wrote."""
    return cell[1:] if _ESCAPED.match(cell) else cell
