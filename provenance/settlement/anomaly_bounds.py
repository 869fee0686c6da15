"""Compares the figures of a night with those of the nights before, and reports unusual ones.

Bounds are medians and median absolute deviations of the history (Leys et al. 2013), so one odd night does not move them.
Revenue varies by factors and is compared in logarithms; shares are compared as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, median

from provenance.core.money import format_minor
from provenance.core.tables import ESCROW, PAYABLE
from provenance.settlement.accounts import RECEIVABLE, TOTALS, Account, totals

# Ratio of the standard deviation to the median absolute deviation in a normal distribution.
NORMAL = 1.4826
# The least spread that is assumed, however alike nights are: of a share, and of the logarithm of a total.
SLACK = 0.01
SLACK_OF_TOTALS = 0.05


@dataclass(frozen=True)
class Figures:
    """A day's amounts in minor units: `revenue` and `escrowed` by currency, `earned` by owner and currency."""

    day: date
    revenue: Mapping[str, int]
    escrowed: Mapping[str, int]
    earned: Mapping[tuple[str, str], int]

    def shares(self) -> dict[tuple[str, str], float]:
        """Shares of all earnings in a currency, by owner and currency."""
        total: dict[str, int] = defaultdict(int)
        for (_, currency), amount in self.earned.items():
            total[currency] += amount
        return {key: amount / total[key[1]] for key, amount in self.earned.items() if total[key[1]]}


@dataclass(frozen=True)
class Bounds:
    """Bounds of usual nights.

    Attributes:
        nights: most nights of history that are compared.
        least: fewest nights of history; with fewer, nothing is unusual.
        deviations: usual distance from the median, in standard deviations.
        newcomer: largest usual share of an owner that has never earned anything.
        moved: largest usual part of a day's earnings that a correction moves between owners.
    """

    nights: int
    least: int
    deviations: float
    newcomer: float
    moved: float


def figures(day: date, amounts: Mapping[Account, int]) -> Figures:
    """The figures of a day, from its amounts by beneficiary (`Standing.earned`)."""
    of_day = totals(amounts)
    revenue, escrowed = ({c: row[TOTALS[account]] for c, row in of_day.items()} for account in (RECEIVABLE, ESCROW))
    earned = {(a.party_id, a.currency): -amount for a, amount in amounts.items() if a.account == PAYABLE}
    return Figures(day, revenue, escrowed, earned)


def changes(now: Figures, booked: Figures) -> list[tuple[str, str, int, int]]:
    """Owner, currency, booked and new amount of each owner that a booking would change; the largest change first."""
    rows = [(*key, booked.earned.get(key, 0), now.earned.get(key, 0)) for key in {*now.earned, *booked.earned}]
    return sorted((row for row in rows if row[2] != row[3]), key=lambda row: (-abs(row[3] - row[2]), row))


def drift(now: Figures, before: Sequence[Figures]) -> float | None:
    """Distance of shares from the mean of the nights before, from 0 (equal) to 1 (disjoint): total variation.

    The largest of all currencies counts; None where no currency is on both sides.
    """
    mean, shares = _mean(before), now.shares()
    distance: dict[str, float] = defaultdict(float)
    for owner, currency in {*mean, *shares}:
        distance[currency] += abs(shares.get((owner, currency), 0.0) - mean.get((owner, currency), 0.0)) / 2
    compared = {currency for _, currency in mean} & {currency for _, currency in shares}
    return max((distance[currency] for currency in compared), default=None)


def unusual(now: Figures, before: Sequence[Figures], bounds: Bounds, *, booked: Figures | None = None) -> list[str]:
    """Reasons why a person should look at a night before it is booked, one sentence each; none for a usual night.

    Args:
        before: the nights before, in any order.
        booked: figures that are booked for the day already.
    """
    reasons = list(_moved(now, booked, bounds)) if booked and booked.revenue else []
    if len(before) < bounds.least:
        return reasons
    for name, sums, history in (
        ("revenue", now.revenue, [b.revenue for b in before]),
        ("escrow", now.escrowed, [b.escrowed for b in before]),
    ):
        for currency in sorted({*sums, *(c for b in history for c in b)}):
            logs = [math.log1p(max(b.get(currency, 0), 0)) for b in history]
            low, high = _usual_range(logs, bounds.deviations, SLACK_OF_TOTALS)
            if not low <= math.log1p(max(sums.get(currency, 0), 0)) <= high:
                span = " to ".join(format_minor(round(math.expm1(max(end, 0.0))), currency) for end in (low, high))
                reasons.append(f"{name}: {format_minor(sums.get(currency, 0), currency)}, usually {span}")
    return reasons + list(_shares(now, before, bounds))


def _shares(now: Figures, before: Sequence[Figures], bounds: Bounds) -> list[str]:
    """Owners with an unusual share, the furthest from usual first."""
    shares, past = now.shares(), [b.shares() for b in before]
    earned_before = {owner for b in before for owner, _ in b.earned}
    reasons = []
    for owner, currency in sorted({*shares, *(key for b in past for key in b)}):
        share = shares.get((owner, currency), 0.0)
        if owner not in earned_before:
            if share > bounds.newcomer:
                reasons.append((share, f"new owner {owner}: {share:.1%} of what owners earn in {currency}"))
            continue
        history = [b.get((owner, currency), 0.0) for b in past]
        low, high = _usual_range(history, bounds.deviations, SLACK)
        if not low <= share <= high:
            distance = abs(share - median(history))
            sentence = (
                f"owner {owner}: {share:.1%} of what owners earn in {currency}, usually {max(low, 0):.1%} to {min(high, 1):.1%}"
            )
            reasons.append((distance, sentence))
    return [sentence for _, sentence in sorted(reasons, key=lambda row: (-row[0], row[1]))]


def _moved(now: Figures, booked: Figures, bounds: Bounds) -> list[str]:
    """Corrections that move much money between owners, by currency."""
    reasons = []
    for currency in sorted({*now.revenue, *booked.revenue}):
        moved = sum(abs(will - was) for _, c, was, will in changes(now, booked) if c == currency)
        total = sum(amount for (_, c), amount in booked.earned.items() if c == currency)
        if moved > 2 * bounds.moved * max(total, 1):
            change, before = format_minor(moved, currency), format_minor(total, currency)
            reasons.append(f"correction: owners' amounts change by {change} together, of {before} booked")
    return reasons


def _usual_range(values: Sequence[float], deviations: float, slack: float) -> tuple[float, float]:
    """The lower and the upper end of usual values."""
    middle = median(values)
    spread = max(NORMAL * median(abs(value - middle) for value in values), slack)
    return middle - deviations * spread, middle + deviations * spread


def _mean(before: Sequence[Figures]) -> dict[tuple[str, str], float]:
    """Mean shares by owner and currency, over the nights with earnings in that currency."""
    by_currency: dict[str, list[dict[tuple[str, str], float]]] = defaultdict(list)
    for b in before:
        shares = b.shares()
        for currency in {c for _, c in shares}:
            by_currency[currency].append({key: share for key, share in shares.items() if key[1] == currency})
    return {
        key: fmean(row.get(key, 0.0) for row in nights)
        for nights in by_currency.values()
        for key in {key for row in nights for key in row}
    }
