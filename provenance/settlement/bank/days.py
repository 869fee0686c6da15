"""Names the days on which banks work: by TARGET for euros, by the Federal Reserve for dollars, by country for the rest.

Holidays are those of the library `holidays` (https://pypi.org/project/holidays, MIT).
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import holidays

TARGET, FEDERAL_RESERVE = "XECB", "XFED"
_OF_CURRENCY = {"EUR": TARGET, "USD": FEDERAL_RESERVE}
# Longest row of days without a bank day that any calendar has, with room.
LONGEST = 30
_WEEKEND = 5


def calendar_of(currency: str) -> str:
    """The calendar of a currency: a market of `holidays`, a country, or empty where only weekends are known."""
    country = currency[:2]
    return _OF_CURRENCY.get(currency) or (country if country in holidays.list_supported_countries() else "")


def bank_day(day: date, calendar: str) -> date:
    """The first bank day of a calendar that is not before a day."""
    return next(later for n in range(LONGEST) if is_bank_day(later := day + timedelta(days=n), calendar))


def is_bank_day(day: date, calendar: str) -> bool:
    """Whether banks work on a day; weekends are Saturday and Sunday, as correspondent banks keep them."""
    return day.weekday() < _WEEKEND and (not calendar or day not in _holidays(calendar, day.year))


@cache
def _holidays(calendar: str, year: int) -> frozenset[date]:
    find = holidays.financial_holidays if calendar in (TARGET, FEDERAL_RESERVE) else holidays.country_holidays
    return frozenset(find(calendar, years=year))
