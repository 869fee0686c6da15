"""What is usual: the figures of a night beside those of the nights before it.

Bounds are learnt from history by medians and median absolute deviations (Leys et al. 2013), which one odd night does not
move. Revenue varies by factors, so it is compared in logarithms; shares vary by sums.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, median

from provenance.core.contracts import ESCROW, PAYABLE
from provenance.core.money import format_minor
from provenance.settlement.accounts import RECEIVABLE, TOTALS, Account, totals

# What turns a median absolute deviation into a standard deviation, where things are normal.
NORMAL = 1.4826
# However alike nights are, differences of so much are none: of a share, and of the logarithm of a total.
SLACK = 0.01
SLACK_OF_TOTALS = 0.05


@dataclass(frozen=True)
class Figures:
    """What a day amounts to, in minor units.

    Attributes:
        revenue, escrowed: by currency.
        earned: by owner and currency.
    """

    day: date
    revenue: Mapping[str, int]
    escrowed: Mapping[str, int]
    earned: Mapping[tuple[str, str], int]

    def shares(self) -> dict[tuple[str, str], float]:
        """By owner and currency, the part of all that owners earned in that currency."""
        total: dict[str, int] = defaultdict(int)
        for (_, currency), amount in self.earned.items():
            total[currency] += amount
        return {whose: amount / total[whose[1]] for whose, amount in self.earned.items() if total[whose[1]]}


@dataclass(frozen=True)
class Bounds:
    """What is still usual.

    Attributes:
        nights: of history that are looked at, at most.
        least: nights that it takes to learn from; fewer teach nothing, and nothing is unusual.
        deviations: from the median that are usual.
        newcomer: the largest share that is usual of somebody who has never earned anything.
        moved: the largest part of a day's earnings that a correction moves between owners.
    """

    nights: int
    least: int
    deviations: float
    newcomer: float
    moved: float


def figures(day: date, amounts: Mapping[Account, int]) -> Figures:
    """The figures of a day, from its amounts by whom they are for (`Standing.earned`)."""
    of_day = totals(amounts)
    revenue, escrowed = ({c: row[TOTALS[account]] for c, row in of_day.items()} for account in (RECEIVABLE, ESCROW))
    earned = {(a.party_id, a.currency): -amount for a, amount in amounts.items() if a.account == PAYABLE}
    return Figures(day, revenue, escrowed, earned)


def changes(now: Figures, booked: Figures) -> list[tuple[str, str, int, int]]:
    """Owner, currency, booked and new amount of everybody whose amount a booking would change; the largest change first."""
    rows = [(*whose, booked.earned.get(whose, 0), now.earned.get(whose, 0)) for whose in {*now.earned, *booked.earned}]
    return sorted((row for row in rows if row[2] != row[3]), key=lambda row: (-abs(row[3] - row[2]), row))


def drift(now: Figures, before: Sequence[Figures]) -> float | None:
    """How far shares have moved from the mean of the nights before: 0 the same, 1 nothing in common (total variation).

    Of several currencies the one that has moved furthest counts; None where no currency is on both sides.
    """
    mean, shares = _mean(before), now.shares()
    apart: dict[str, float] = defaultdict(float)
    for owner, currency in {*mean, *shares}:
        apart[currency] += abs(shares.get((owner, currency), 0.0) - mean.get((owner, currency), 0.0)) / 2
    known = {currency for _, currency in mean} & {currency for _, currency in shares}
    return max((apart[currency] for currency in known), default=None)


def unusual(now: Figures, before: Sequence[Figures], bounds: Bounds, *, booked: Figures | None = None) -> list[str]:
    """Why a person should look at a night before it is booked: one sentence for each reason, none for a usual night.

    Args:
        before: the nights before, in any order.
        booked: what is booked for the day already.
    """
    reasons = list(_moved(now, booked, bounds)) if booked and booked.revenue else []
    if len(before) < bounds.least:
        return reasons
    for name, sums, of in (
        ("revenue", now.revenue, [b.revenue for b in before]),
        ("escrow", now.escrowed, [b.escrowed for b in before]),
    ):
        for currency in sorted({*sums, *(c for b in of for c in b)}):
            usual = [math.log1p(max(b.get(currency, 0), 0)) for b in of]
            low, high = _usual(usual, bounds.deviations, SLACK_OF_TOTALS)
            if not low <= math.log1p(max(sums.get(currency, 0), 0)) <= high:
                span = " to ".join(format_minor(round(math.expm1(max(end, 0.0))), currency) for end in (low, high))
                reasons.append(f"{name}: {format_minor(sums.get(currency, 0), currency)}, usually {span}")
    return reasons + list(_shares(now, before, bounds))


def _shares(now: Figures, before: Sequence[Figures], bounds: Bounds) -> list[str]:
    """Owners whose share is not what it was, the furthest first."""
    shares, past = now.shares(), [b.shares() for b in before]
    known = {owner for b in before for owner, _ in b.earned}
    found = []
    for owner, currency in sorted({*shares, *(whose for b in past for whose in b)}):
        share = shares.get((owner, currency), 0.0)
        if owner not in known:
            if share > bounds.newcomer:
                found.append((share, f"new owner {owner}: {share:.1%} of what owners earn in {currency}"))
            continue
        usual = [b.get((owner, currency), 0.0) for b in past]
        low, high = _usual(usual, bounds.deviations, SLACK)
        if not low <= share <= high:
            away = abs(share - median(usual))
            said = (
                f"owner {owner}: {share:.1%} of what owners earn in {currency}, usually {max(low, 0):.1%} to {min(high, 1):.1%}"
            )
            found.append((away, said))
    return [said for _, said in sorted(found, key=lambda row: (-row[0], row[1]))]


def _moved(now: Figures, booked: Figures, bounds: Bounds) -> list[str]:
    """Whether a correction moves much."""
    found = []
    for currency in sorted({*now.revenue, *booked.revenue}):
        moved = sum(abs(will - was) for _, c, was, will in changes(now, booked) if c == currency)
        total = sum(amount for (_, c), amount in booked.earned.items() if c == currency)
        if moved > 2 * bounds.moved * max(total, 1):
            said = format_minor(moved, currency)
            found.append(f"correction: owners' amounts change by {said} together, of {format_minor(total, currency)} booked")
    return found


def _usual(values: Sequence[float], deviations: float, slack: float) -> tuple[float, float]:
    """From where to where values are usual."""
    middle = median(values)
    spread = max(NORMAL * median(abs(value - middle) for value in values), slack)
    return middle - deviations * spread, middle + deviations * spread


def _mean(before: Sequence[Figures]) -> dict[tuple[str, str], float]:
    """Mean shares, over the nights on which a currency earned anything."""
    rows: dict[str, list[dict[tuple[str, str], float]]] = defaultdict(list)
    for b in before:
        shares = b.shares()
        for currency in {c for _, c in shares}:
            rows[currency].append({whose: share for whose, share in shares.items() if whose[1] == currency})
    return {
        whose: fmean(row.get(whose, 0.0) for row in nights)
        for nights in rows.values()
        for whose in {whose for row in nights for whose in row}
    }
