"""Identifiers of owners and works: their check digits, by python-stdnum where it knows the kind."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl
from stdnum import isni, isrc, lei

from provenance.core.contracts import reject


def is_ipi(text: str) -> bool:
    """Whether an interested party's name number holds: eleven digits, the last two of which check the others.

    CISAC's rule: the nine digits weighted 10 down to 2 and the number of the last two sum to a multiple of 101, of which 100
    is written as 00. No library that is kept knows it.
    """
    digits = re.sub(r"[\s.-]", "", text)
    if not re.fullmatch(r"\d{11}", digits):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), digits, strict=False))
    return int(digits[9:]) == (-total) % 101 % 100


def is_iswc(text: str) -> bool:
    """Whether an international musical work code holds (ISO 15707): T, nine digits, and a check digit.

    1 and the digits weighted 1 to 9 and the check digit sum to a multiple of 10. No library that is kept knows it.
    """
    plain = re.sub(r"[\s.-]", "", text.upper())
    if not re.fullmatch(r"T\d{10}", plain):
        return False
    total = 1 + sum(weight * int(digit) for weight, digit in enumerate(plain[1:10], 1))
    return (total + int(plain[10])) % 10 == 0


OF_OWNERS: dict[str, Callable[[str], bool]] = {"isni": isni.is_valid, "ipi": is_ipi, "lei": lei.is_valid}
OF_WORKS: dict[str, Callable[[str], bool]] = {"iswc": is_iswc, "isrc": isrc.is_valid}


def check_identifiers(frame: pl.DataFrame, file: str, kinds: dict[str, Callable[[str], bool]]) -> None:
    """Raise ContractError naming the first row with an identifier that does not hold; no column has to be there."""
    for name, holds in kinds.items():
        if name in frame.columns and frame.schema[name] != pl.Null:
            held = pl.Series([text is None or holds(text) for text in frame[name].cast(pl.String)], dtype=pl.Boolean)
            reject(frame, pl.lit(~held), file, name, expected=f"an {name.upper()} whose check digits hold")
