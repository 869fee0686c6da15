"""Finds what a month left open: payments that came back, payments without an answer of the bank, owners on hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from provenance.settlement import ledger
from provenance.settlement.bank.status_reports import REJECTED, RETURNED
from provenance.settlement.books import CLOSE
from provenance.settlement.months.settling import SENT, payments

# Closed months whose payments are looked at.
LAST = 12


@dataclass(frozen=True)
class Unsettled:
    """What waits for a person or a bank.

    Attributes:
        period: the last closed month, if any; statuses: number of its payments by status.
        unanswered: number of payments that were sent and have no answer, by period.
        back: of the last closed month, number of payments that were rejected or returned; the next month pays them again.
        held: owners on hold now.
    """

    period: str = ""
    statuses: Mapping[str, int] = field(default_factory=dict)
    unanswered: Mapping[str, int] = field(default_factory=dict)
    back: Mapping[str, int] = field(default_factory=dict)
    held: tuple[str, ...] = ()

    def in_words(self) -> Iterator[str]:
        """What waits, in a few words each."""
        if count := sum(self.unanswered.values()):
            yield f"{_payments(count)} without an answer"
        for status, count in self.back.items():
            yield f"{_payments(count)} {status}"
        if self.held:
            yield f"{len(self.held):,} {'owner' if len(self.held) == 1 else 'owners'} on hold"


def unsettled(engine: sa.Engine) -> Unsettled:
    """What is open after the last months that were closed."""
    through = ledger.newest(engine)
    closed = [booking.period for booking in ledger.bookings(engine, kind=CLOSE)][-LAST:]
    by_period = {period: Counter(payment.status for payment in payments(engine, period)) for period in closed}
    last = by_period[closed[-1]] if closed else Counter[str]()
    return Unsettled(
        period=closed[-1] if closed else "",
        statuses=dict(sorted(last.items())),
        unanswered={period: statuses[SENT] for period, statuses in by_period.items() if statuses[SENT]},
        back={status: last[status] for status in (REJECTED, RETURNED) if last[status]},
        held=tuple(sorted(ledger.standing(engine, through=through).holds)),
    )


def _payments(count: int) -> str:
    return f"{count:,} {'payment' if count == 1 else 'payments'}"
