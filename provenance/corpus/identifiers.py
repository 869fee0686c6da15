"""Check digits of identifiers of owners and works; by python-stdnum where it has the kind."""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl
from stdnum import isni, isrc, lei

from provenance.core.checks import reject


def is_ipi(text: str) -> bool:
    """Whether an IPI name number is valid: eleven digits, of which the last two are check digits.

    CISAC's rule: the nine digits weighted 10 down to 2, plus the last two as a number, are a multiple of 101; 100 is written
    as 00. No maintained library has it.
    """
    digits = re.sub(r"[\s.-]", "", text)
    if not re.fullmatch(r"\d{11}", digits):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), digits, strict=False))
    return int(digits[9:]) == (-total) % 101 % 100


def is_iswc(text: str) -> bool:
    """Whether an international musical work code (ISO 15707) is valid: T, nine digits, and a check digit.

    1, the digits weighted 1 to 9, and the check digit sum to a multiple of 10. No maintained library has it.
    """
    plain = re.sub(r"[\s.-]", "", text.upper())
    if not re.fullmatch(r"T\d{10}", plain):
        return False
    total = 1 + sum(weight * int(digit) for weight, digit in enumerate(plain[1:10], 1))
    return (total + int(plain[10])) % 10 == 0


OF_OWNERS: dict[str, Callable[[str], bool]] = {"isni": isni.is_valid, "ipi": is_ipi, "lei": lei.is_valid}
OF_WORKS: dict[str, Callable[[str], bool]] = {"iswc": is_iswc, "isrc": isrc.is_valid}


def check_identifiers(frame: pl.DataFrame, file: str, kinds: dict[str, Callable[[str], bool]]) -> None:
    """Raise ContractError with the first invalid identifier; all columns are optional."""
    for name, is_valid in kinds.items():
        if name in frame.columns and frame.schema[name] != pl.Null:
            valid = pl.Series([text is None or is_valid(text) for text in frame[name].cast(pl.String)], dtype=pl.Boolean)
            reject(frame, pl.lit(~valid), file, name, expected=f"an {name.upper()} whose check digits hold")
