"""Writes names and addresses in the Latin letters of SEPA, which every bank takes."""

# ruff: noqa: RUF001 - the tables need letters that look like Latin ones.
from __future__ import annotations

import re
import unicodedata

from provenance.core.errors import InputError

_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-?:().,'+ ")
# Letters that Unicode does not decompose to Latin ones, in pairs: letter and replacement.
_LATIN = "ä ae ö oe ü ue ß ss æ ae ø oe œ oe ł l đ d ð d þ th ħ h ı i ŋ ng ŧ t ƒ f ə a"
_GREEK = "α a β v γ g δ d ε e ζ z η i θ th ι i κ k λ l μ m ν n ξ x ο o π p ρ r σ s ς s τ t υ y φ f χ ch ψ ps ω o"
_CYRILLIC = (
    "а a б b в v г g д d е e ж zh з z и i й y к k л l м m н n о o п p р r с s т t у u ф f х h ц ts ч ch ш sh щ sht ъ a ы y "
    "ь y э e ю yu я ya є ie і i ґ g ђ dj ј j љ lj њ nj ћ c џ dz"
)
_MARKS = "& + ; , _ - ’ ' ‘ ' ‚ ' ʼ ' ` ' ´ ' “ ' ” ' „ ' « ' » ' ‐ - ‑ - – - — - − - ⁄ /"
_OTHER_MARKS = '!"#$%*<=>@[\\]^{|}~·•°'


def _table() -> dict[str, str]:
    words = f"{_LATIN} {_GREEK} {_CYRILLIC}".split()
    small = dict(zip(words[::2], words[1::2], strict=True))
    marks = _MARKS.split()
    return {
        **small,
        **{letter.upper(): text.capitalize() for letter, text in small.items() if len(letter.upper()) == 1},
        "ẞ": "SS",
        **dict(zip(marks[::2], marks[1::2], strict=True)),
        **dict.fromkeys(_OTHER_MARKS, "."),
    }


_TABLE = _table()


def latin(text: str, where: str, limit: int) -> str:
    """A text in SEPA's Latin set, no longer than `limit`, with no `/` at its ends and no two together.

    Raises:
        InputError: a letter has no Latin form, or nothing is left; the text itself is never shown.
    """
    # Two Greek letters for one sound.
    composed = re.sub("([Οο])[υύ]", r"\1u", unicodedata.normalize("NFC", text))
    written = "".join(_written(letter, where) for letter in composed)
    clean = re.sub("//+", "/", " ".join(written.split())).strip(" /")[:limit].strip(" /")
    if not clean:
        raise InputError(where, expected="some letters", found="none that a bank takes (not shown)")
    return clean


def _written(letter: str, where: str) -> str:
    if letter in _ALLOWED:
        return letter
    if letter in _TABLE:
        return _TABLE[letter]
    if letter.isspace():
        return " "
    parts = [part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)]
    text = "".join(part if part in _ALLOWED else _TABLE.get(part, "\0") for part in parts)
    # Combining marks are dropped.
    if "\0" in text or (not text and not unicodedata.combining(letter)):
        hint = "Have it given as its owner writes it in Latin letters."
        raise InputError(where, expected="letters that have a Latin form", found="others (not shown)", hint=hint)
    return text
