"""Computes the close of a period: the outcome of each owner's balance, before people approve payments.

    owed -> repays balances carried over below zero -> repays advances -> tax is withheld -> converted -> to be paid
         or is carried forward: nothing owed, too little, or on hold

Pure functions; nothing is booked here. Amounts are minor units, rounded down once; the rest stays owed.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from provenance.core.errors import InputError
from provenance.core.money import MOST_MINOR, PPB, format_minor, minor_digits
from provenance.core.tables import PAYABLE
from provenance.settlement.accounts import ADVANCE, CARRIED, EXCHANGE, HELD, PAID, RECOUPED, WITHHELD, Account

PAY, NEGATIVE, BELOW, ON_HOLD, NOTHING = "pay", "carried: below zero", "carried: below the minimum", "held", "nothing owed"
# An outcome of previews only: a period with missing rates is not closed.
NO_RATE = "no rate"
# Day of the next month on which a month is closed by itself (the DAG settle_period), and statements are written.
CLOSES_ON = 3
# Reasons of holds that a close places and ends by itself.
LACKING = NO_PAYEE, NO_TAX = "no payee data", "no tax data"


def parse_period(where: str, text: str) -> str:
    """Check that a text is a period as YYYY-MM, and return it; `where` names it in the error."""
    try:
        period = f"{date.fromisoformat(f'{text}-01'):%Y-%m}"
    except ValueError:
        period = ""
    if not period or period != text:
        raise InputError(where, expected="a period as YYYY-MM", found=repr(text))
    return text


def last_day(period: str) -> date:
    """The last day of a period."""
    year, month = map(int, period.split("-"))
    return date(year, month, calendar.monthrange(year, month)[1])


def closes_on(period: str) -> date:
    """The day on which a period is closed by itself."""
    return (last_day(period) + timedelta(days=CLOSES_ON)).replace(day=CLOSES_ON)


def following(period: str) -> str:
    """The period after another."""
    return f"{last_day(period) + timedelta(days=1):%Y-%m}"


def closing_folder(period: str) -> str:
    """The store folder of a period's closing tables."""
    return f"exports/periods/period={period}/closing"


def payments_folder(period: str) -> str:
    """The store folder of a period's payments table, which has no bank details."""
    return f"exports/periods/period={period}/payments"


def bank_folder(period: str) -> str:
    """The store folder of a period's bank files, outside the exports that accountants read."""
    return f"bank/period={period}"


def statements_folder(period: str) -> str:
    """The store folder of a period's statements."""
    return f"exports/statements/period={period}"


class RateMissing(InputError):
    """No rate is recorded for two currencies."""


@dataclass(frozen=True)
class Payee:
    """A payee as a close needs it, without bank details.

    Attributes:
        currency: of its payments.
        withholding_ppb: rate of tax to withhold; None while tax data is missing.
        version: of the bank details that payments go to.
    """

    owner_id: str
    currency: str
    withholding_ppb: int | None = 0
    version: int = 0


@dataclass(frozen=True)
class ClosingTerms:
    """The terms of a close.

    Attributes:
        minimum: smallest payout by currency, in minor units; unlisted currencies have none.
        rates: recorded rates, by pair: units of the second currency for one of the first.
    """

    minimum: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)

    def convert(self, amount: int, source: str, target: str) -> int:
        """Convert minor units, rounding down; raises RateMissing if no rate is recorded."""
        if source == target:
            return amount
        if (source, target) not in self.rates:
            hint = "Record it before the period is closed."
            raise RateMissing(f"rate {source} to {target}", expected="one recorded for the period", found="none", hint=hint)
        rate = Fraction(self.rates[source, target])
        return int(amount * rate * Fraction(10) ** (minor_digits(target) - minor_digits(source)))


@dataclass(frozen=True, order=True)
class Line:
    """The outcome of one owner's balance in one currency; amounts are in minor units.

    Attributes:
        owed: payable or held before the close.
        carried_over: the owner's debt from earlier periods, above zero here; repaid: the part of it that is repaid now.
        recouped: set off against advances; withheld: tax; net: to be paid.
        paid: `net` in `pay_currency`, the payee's currency.
        outcome: `pay`, or the reason why nothing is paid.
        withholding_ppb: rate of `withheld`; payee_version: version of the bank details for the payment.
    """

    owner_id: str
    currency: str
    owed: int
    carried_over: int = 0
    repaid: int = 0
    recouped: int = 0
    withheld: int = 0
    net: int = 0
    pay_currency: str = ""
    paid: int = 0
    outcome: str = NOTHING
    withholding_ppb: int = 0
    payee_version: int = 0

    @property
    def left(self) -> int:
        """The amount that stays owed, less the debt that is carried over."""
        return self.owed - self.carried_over - self.recouped - self.withheld - self.net


def incomplete(owners: Iterable[str], payees: Mapping[str, Payee]) -> dict[str, str]:
    """Owners that cannot be paid, with the reason: no payee, or no tax data."""
    reasons = {}
    for owner in owners:
        if owner not in payees:
            reasons[owner] = NO_PAYEE
        elif payees[owner].withholding_ppb is None:
            reasons[owner] = NO_TAX
    return reasons


def close(balances: Mapping[Account, int], payees: Mapping[str, Payee], terms: ClosingTerms) -> list[Line]:
    """The lines of a close, by owner and currency.

    Args:
        balances: of the ledger, with its signs: owed amounts are below zero.
        payees: by owner; owners without one must be on hold.

    Raises:
        InputError: a rate is missing, or an owner with a payable amount has no complete payee and no hold.
    """
    return [_line(balances, owner, currency, payees.get(owner), terms) for owner, currency in _owner_currencies(balances)]


def preview(balances: Mapping[Account, int], payees: Mapping[str, Payee], terms: ClosingTerms) -> list[Line]:
    """Like `close`, but a balance without a rate gets the outcome `NO_RATE`."""

    def line(owner: str, currency: str) -> Line:
        try:
            return _line(balances, owner, currency, payees.get(owner), terms)
        except RateMissing:
            owed = -balances[Account(PAYABLE, owner, currency)]
            return Line(owner, currency, owed, pay_currency=payees[owner].currency, outcome=NO_RATE)

    return [line(owner, currency) for owner, currency in _owner_currencies(balances)]


def _owner_currencies(balances: Mapping[Account, int]) -> list[tuple[str, str]]:
    """Owners and currencies with a balance to close."""
    accounts = (PAYABLE, HELD, CARRIED, ADVANCE)
    return sorted({(a.party_id, a.currency) for a, amount in balances.items() if amount and a.account in accounts})


def _line(balances: Mapping[Account, int], owner: str, currency: str, payee: Payee | None, terms: ClosingTerms) -> Line:
    def of(name: str) -> int:
        return balances.get(Account(name, owner, currency), 0)

    payable, held, carried = -of(PAYABLE), -of(HELD), of(CARRIED)
    outstanding = max(0, of(ADVANCE) + of(RECOUPED))
    line = Line(owner, currency, payable + held, carried)
    if held or (not payable and not carried):
        return replace(line, outcome=ON_HOLD if held else NOTHING)
    if payable <= 0:
        return replace(line, outcome=NEGATIVE)
    repaid = min(payable, carried)
    recouped = min(payable - repaid, outstanding)
    before_tax = payable - repaid - recouped
    line = replace(line, repaid=repaid, recouped=recouped)
    if not before_tax:
        return replace(line, outcome=NEGATIVE if carried > repaid else NOTHING)
    if payee is None or payee.withholding_ppb is None:
        raise InputError(
            f"owner {owner}",
            expected="a payee whose tax is known, or a hold",
            found=f"{before_tax} minor units of {currency} to be paid, and {NO_PAYEE if payee is None else NO_TAX}",
        )
    rate = payee.withholding_ppb
    withheld = before_tax * rate // PPB
    paid = terms.convert(before_tax - withheld, currency, payee.currency)
    if paid > MOST_MINOR:
        raise InputError(
            f"owner {owner}: rate {currency} to {payee.currency}",
            expected=f"a payment of at most {format_minor(MOST_MINOR, payee.currency)}",
            found=format_minor(paid, payee.currency),
            hint="Is the rate right? `provenance rate` corrects it.",
        )
    if paid < max(1, terms.minimum.get(payee.currency, 0)):
        return replace(line, outcome=BELOW)
    net = before_tax - withheld
    line = replace(line, withheld=withheld, net=net, pay_currency=payee.currency, paid=paid, outcome=PAY)
    return replace(line, withholding_ppb=rate, payee_version=payee.version)


def closing_entries(lines: Iterable[Line]) -> dict[Account, int]:
    """Entries of the close itself: repaid, recouped and carried over. Payments and tax are booked after approval."""
    entries: dict[Account, int] = {}
    for line in lines:
        below = max(0, -line.owed) if line.outcome == NEGATIVE else 0
        moves = {CARRIED: below - line.repaid, RECOUPED: -line.recouped, PAYABLE: line.repaid + line.recouped - below}
        entries |= {Account(name, line.owner_id, line.currency): amount for name, amount in moves.items() if amount}
    return entries


def payment_entries(lines: Iterable[Line]) -> dict[Account, int]:
    """Entries of approved payments: payable becomes paid and withheld; conversions go through `exchange`."""
    entries: dict[Account, int] = {}

    def add(name: str, owner: str, currency: str, amount: int) -> None:
        account = Account(name, owner, currency)
        entries[account] = entries.get(account, 0) + amount

    for line in lines:
        if line.outcome != PAY:
            continue
        add(PAYABLE, line.owner_id, line.currency, line.net + line.withheld)
        add(WITHHELD, line.owner_id, line.currency, -line.withheld)
        if line.currency == line.pay_currency:
            add(PAID, line.owner_id, line.currency, -line.net)
        else:
            add(EXCHANGE, line.owner_id, line.currency, -line.net)
            add(EXCHANGE, line.owner_id, line.pay_currency, line.paid)
            add(PAID, line.owner_id, line.pay_currency, -line.paid)
    return {account: amount for account, amount in entries.items() if amount}
