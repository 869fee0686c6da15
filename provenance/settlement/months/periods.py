"""The close of a period: what becomes of each owner's balance, before anybody is asked to approve it.

    owed -> repays what was carried over below zero -> repays advances -> tax is withheld -> converted -> to be paid
         or is carried forward: nothing, too little, or on hold

Nothing here moves money. Amounts are minor units; what is rounded is rounded down, once, and what is left stays owed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction

from provenance.core.contracts import PAYABLE
from provenance.core.errors import InputError
from provenance.core.money import PPB, minor_digits
from provenance.settlement.accounts import ADVANCE, CARRIED, EXCHANGE, HELD, PAID, RECOUPED, WITHHELD, Account

PAY, NEGATIVE, BELOW, ON_HOLD, NOTHING = "pay", "carried: below zero", "carried: below the minimum", "held", "nothing owed"
# A preview alone finds it: a period whose rates are missing is not closed.
NO_RATE = "no rate"
# Why an owner is put on hold by itself, until its data is there.
LACKING = NO_PAYEE, NO_TAX = "no payee data", "no tax data"


def closing_folder(period: str) -> str:
    """Where the lines of a close are published."""
    return f"exports/periods/period={period}/closing"


def payments_folder(period: str) -> str:
    """Where it is published what was paid; without anybody's account."""
    return f"exports/periods/period={period}/payments"


def bank_folder(period: str) -> str:
    """Where the files for banks lie; accountants who read exports do not read these."""
    return f"bank/period={period}"


def statements_folder(period: str) -> str:
    """Where everybody's statements lie."""
    return f"exports/statements/period={period}"


class RateMissing(InputError):
    """No rate is recorded for two currencies."""


@dataclass(frozen=True)
class Payee:
    """What a settlement has to know of whom it pays; where the money goes is none of its business.

    Attributes:
        currency: that the payee is paid in.
        withholding_ppb: tax withheld, by the rate table of the payee's residence; None as long as that is not known.
        version: of its details, to which the money goes.
    """

    owner_id: str
    currency: str
    withholding_ppb: int | None = 0
    version: int = 0


@dataclass(frozen=True)
class Terms:
    """How a period is closed.

    Attributes:
        minimum: the smallest payout by currency, in its minor units; one that is not listed has none.
        rates: units of the second currency for one of the first, as recorded.
    """

    minimum: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)

    def convert(self, amount: int, source: str, target: str) -> int:
        """Minor units of the one currency as the other's, rounded down; raises RateMissing where none is recorded."""
        if source == target:
            return amount
        if (source, target) not in self.rates:
            hint = "Record it before the period is closed."
            raise RateMissing(f"rate {source} to {target}", expected="one recorded for the period", found="none", hint=hint)
        rate = Fraction(self.rates[source, target])
        return int(amount * rate * Fraction(10) ** (minor_digits(target) - minor_digits(source)))


@dataclass(frozen=True, order=True)
class Line:
    """What becomes of one owner's balance in one currency.

    Attributes:
        owed: payable or held, before; carried_over: what was below zero before, above zero here.
        repaid: of that; recouped: set off against advances; withheld: tax; net: to be paid, in this currency.
        paid: the same in the payee's.
        outcome: `pay`, or why nothing is paid.
        withholding_ppb: the rate of `withheld`; payee_version: whose details the money goes to.
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
        """What stays owed in this currency, what is carried over below zero taken off."""
        return self.owed - self.carried_over - self.recouped - self.withheld - self.net


def incomplete(owners: Iterable[str], payees: Mapping[str, Payee]) -> dict[str, str]:
    """Why owners cannot be paid, by owner: of whom nothing is known, or not what tax to withhold."""
    found = {}
    for owner in owners:
        if owner not in payees:
            found[owner] = NO_PAYEE
        elif payees[owner].withholding_ppb is None:
            found[owner] = NO_TAX
    return found


def close(balances: Mapping[Account, int], payees: Mapping[str, Payee], terms: Terms) -> list[Line]:
    """What becomes of every owner's balance at the close of a period, by owner and currency.

    Args:
        balances: of the ledger, under its signs: what is owed is below zero.
        payees: by owner; who has none must be on hold.

    Raises:
        InputError: a rate is missing, or an owner that is owed something has no complete payee and is not on hold.
    """
    return [_line(balances, owner, currency, payees.get(owner), terms) for owner, currency in _whose(balances)]


def preview(balances: Mapping[Account, int], payees: Mapping[str, Payee], terms: Terms) -> list[Line]:
    """The same while rates may still be missing: a balance that waits for one has the outcome `NO_RATE`."""

    def line(owner: str, currency: str) -> Line:
        try:
            return _line(balances, owner, currency, payees.get(owner), terms)
        except RateMissing:
            owed = -balances[Account(PAYABLE, owner, currency)]
            return Line(owner, currency, owed, pay_currency=payees[owner].currency, outcome=NO_RATE)

    return [line(owner, currency) for owner, currency in _whose(balances)]


def _whose(balances: Mapping[Account, int]) -> list[tuple[str, str]]:
    """Owners and currencies of which there is something to say."""
    accounts = (PAYABLE, HELD, CARRIED, ADVANCE)
    return sorted({(a.party_id, a.currency) for a, amount in balances.items() if amount and a.account in accounts})


def _line(balances: Mapping[Account, int], owner: str, currency: str, payee: Payee | None, terms: Terms) -> Line:
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
    if paid < max(1, terms.minimum.get(payee.currency, 0)):
        return replace(line, outcome=BELOW)
    net = before_tax - withheld
    line = replace(line, withheld=withheld, net=net, pay_currency=payee.currency, paid=paid, outcome=PAY)
    return replace(line, withholding_ppb=rate, payee_version=payee.version)


def closing_entries(lines: Iterable[Line]) -> dict[Account, int]:
    """What the close itself books: what is repaid, recouped and carried over. Payments and tax are booked when approved."""
    found: dict[Account, int] = {}
    for line in lines:
        below = max(0, -line.owed) if line.outcome == NEGATIVE else 0
        moves = {CARRIED: below - line.repaid, RECOUPED: -line.recouped, PAYABLE: line.repaid + line.recouped - below}
        found |= {Account(name, line.owner_id, line.currency): amount for name, amount in moves.items() if amount}
    return found


def payment_entries(lines: Iterable[Line]) -> dict[Account, int]:
    """What approved payments book: payable becomes paid and withheld; what is converted goes through `exchange`."""
    found: dict[Account, int] = {}

    def add(name: str, owner: str, currency: str, amount: int) -> None:
        account = Account(name, owner, currency)
        found[account] = found.get(account, 0) + amount

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
    return {account: amount for account, amount in found.items() if amount}
