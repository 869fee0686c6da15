"""Money as integers: minor units of a currency, shares in parts per billion, amounts of one output in nanominor.

A nanominor is a billionth of a minor unit: 12 cents split by parts per billion are whole nanominor. Floats never reach
this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cache

from iso4217 import Currency

from provenance.core.errors import InputError

PPB = 1_000_000_000
NANO = 1_000_000_000
# What tables hold: an output's amounts in nanominor are 64-bit integers, and a cell of a workbook is a double.
MOST_OF_AN_OUTPUT = (2**63 - 1) // NANO
MOST_MINOR = 2**53


@cache
def currencies() -> frozenset[str]:
    """Active ISO 4217 codes of currencies with a minor unit; without gold, test codes and withdrawn codes."""
    return frozenset(currency.code for currency in Currency if currency.exponent is not None)


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights`, exactly (largest remainder, Hamilton's method).

    Every part is within one unit of its exact quota, and parts sum to `total`. Of two equal remainders the earlier index
    wins, so callers order their weights by key.

    Raises:
        ValueError: a negative total or weight, or weights that sum to 0 while the total is not 0.
    """
    whole = sum(weights)
    if total < 0 or any(w < 0 for w in weights):
        raise ValueError("amounts and weights must not be negative")
    if whole == 0:
        if total == 0:
            return [0] * len(weights)
        raise ValueError("nobody to give the total to: weights sum to 0")
    parts, remainders = [], []
    for index, weight in enumerate(weights):
        quotient, remainder = divmod(total * weight, whole)
        parts.append(quotient)
        remainders.append((-remainder, index))
    for _, index in sorted(remainders)[: total - sum(parts)]:
        parts[index] += 1
    return parts


def minor_digits(currency: str) -> int:
    """Decimal places of a currency: 2 for EUR, 0 for JPY."""
    exponent = Currency(currency).exponent
    if exponent is None:
        raise ValueError(f"{currency} has no minor unit")
    return int(exponent)


def check_currency(where: str, currency: str) -> None:
    """Raise InputError unless the currency is an active one of ISO 4217."""
    if currency not in currencies():
        raise InputError(where, expected="a currency of ISO 4217", found=repr(currency))


def parse_minor(where: str, text: str, currency: str) -> int:
    """Parse `1234.56` EUR as 123456, without floats; more decimals than the currency has are an error."""
    check_currency(where, currency)
    try:
        units = Decimal(text).scaleb(minor_digits(currency))
    except InvalidOperation:
        units = Decimal("NaN")
    if not units.is_finite() or units != units.to_integral_value():
        raise InputError(where, expected=f"an amount in {currency}, of {minor_digits(currency)} decimals", found=repr(text))
    if abs(units) > MOST_MINOR:
        raise InputError(where, expected=f"at most {format_minor(MOST_MINOR, currency)}", found=repr(text))
    return int(units)


def format_minor(amount: int, currency: str, *, symbol: bool = True) -> str:
    """`123456, "EUR"` as `EUR 1,234.56`; without symbol as the plain decimal `1234.56`. No float on the way."""
    digits = minor_digits(currency)
    whole, part = divmod(abs(amount), 10**digits)
    sign = "-" if amount < 0 else ""
    fraction = f".{part:0{digits}d}" if digits else ""
    if not symbol:
        return f"{sign}{whole}{fraction}"
    return f"{currency} {sign}{whole:,}{fraction}"


def currency_name(currency: str) -> str:
    """`EUR` as `Euro`."""
    return str(Currency(currency).currency_name)
