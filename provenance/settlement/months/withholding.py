"""Reads the table of withholding tax: percentages by the payee's tax residence."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from provenance.core.errors import InputError
from provenance.core.money import PPB
from provenance.core.settings import SettlementSettings
from provenance.core.toml import read_toml
from provenance.settlement.months.periods import Payee
from provenance.settlement.payees.details import Details

PERCENT = Decimal(PPB) / 100


def read_withholding(path: Path) -> dict[str, int]:
    """Rates of withheld tax by country, in parts per billion; the file has percentages in quotes."""
    table = read_toml(path, "a table of withholding tax").get("percent")
    if not isinstance(table, dict):
        raise InputError(str(path), expected="a table [percent]", found="none")
    return {country: _ppb(text, f"{path}: percent.{country}") for country, text in table.items()}


def rate_for(table: Mapping[str, int], details: Details, where: str) -> int | None:
    """A payee's rate; None while its tax data is missing. Raises InputError if its residence has no rate."""
    if not details.taxed:
        return None
    if details.tax_residence not in table:
        hint = "Add the residence to the table, or hold the owner."
        raise InputError(f"{where}: owner {details.owner_id}", expected="a rate for its residence", found="none", hint=hint)
    return table[details.tax_residence]


def payees_to_settle(settings: SettlementSettings, details: Mapping[str, tuple[int, Details]]) -> dict[str, Payee]:
    """All registered payees by owner, as a close needs them; `details` has versions and details by owner."""
    table = read_withholding(settings.withholding)
    return {
        owner: Payee(owner, payee.currency, rate_for(table, payee, str(settings.withholding)), version)
        for owner, (version, payee) in details.items()
    }


def _ppb(text: object, where: str) -> int:
    expected = "a percentage in quotes from 0 to 100, of at most seven decimals"
    try:
        # A TOML float would already be rounded.
        ppb = Decimal(text) * PERCENT if isinstance(text, str) else None
    except InvalidOperation:
        ppb = None
    if ppb is None or not ppb.is_finite() or not 0 <= ppb <= PPB or ppb != ppb.to_integral_value():
        raise InputError(where, expected=expected, found=repr(text))
    return int(ppb)
