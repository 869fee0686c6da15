"""The chart of accounts, and how they hang together.

    receivable = developer + unattributed + escrow + (payable + held + carried) + recouped + withheld + exchange + paid

per currency. What an owner is owed lies in `payable`, or in `held` while a hold is in force, less what is `carried` over below
zero from an earlier period; what it had of that already lies in `recouped` (set off against advances), `withheld` (tax) and
`paid`, with `exchange` between the currencies of one payment. What was advanced is no part of the revenue: `advance` less
`funding` is nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provenance.core.contracts import ESCROW, PAYABLE, UNATTRIBUTED

RECEIVABLE, DEVELOPER = "receivable", "developer"
HELD, CARRIED, RECOUPED, WITHHELD, EXCHANGE, PAID = "held", "carried", "recouped", "withheld", "exchange", "paid"
ADVANCE, FUNDING = "advance", "funding"
# What an owner is owed; the ledger keeps it as a credit, below zero.
OWED = (PAYABLE, HELD, CARRIED)
CHART = (RECEIVABLE, DEVELOPER, UNATTRIBUTED, ESCROW, PAYABLE, HELD, CARRIED, RECOUPED, WITHHELD, EXCHANGE, PAID)
# Control totals of a day by the account that they sum up: the first is the sum of the others.
TOTALS = {
    RECEIVABLE: "revenue_minor",
    DEVELOPER: "developer_minor",
    PAYABLE: "earned_minor",
    ESCROW: "escrowed_minor",
    UNATTRIBUTED: "unattributed_minor",
}


@dataclass(frozen=True, order=True)
class Account:
    """Whom an amount is for, in one currency; the ledger keeps a balance for each.

    Attributes:
        account: one of the chart.
        party_id: an owner, or a name in escrow; empty where there is but one.
    """

    account: str
    party_id: str
    currency: str


@dataclass(frozen=True)
class Standing:
    """What decides where an owner's amounts lie, at a point of the ledger.

    Attributes:
        held: why, by owner on hold, first reason first.
        claimed: who has claimed what lay in escrow, by the name that it lay under.
    """

    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    claimed: Mapping[str, str] = field(default_factory=dict)

    def earned(self, amounts: Mapping[Account, int]) -> dict[Account, int]:
        """Amounts by whom they are for: what was claimed is its owner's, and what is held is owed like the rest."""
        found: dict[Account, int] = {}
        for account, amount in amounts.items():
            name, party = account.account, account.party_id
            if name == ESCROW and party in self.claimed:
                name, party = PAYABLE, self.claimed[party]
            whose = Account(PAYABLE if name == HELD else name, party, account.currency)
            found[whose] = found.get(whose, 0) + amount
        return {account: amount for account, amount in found.items() if amount}

    def difference(self, wanted: Mapping[Account, int], booked: Mapping[Account, int]) -> dict[Account, int]:
        """The entries that turn what is booked into what is wanted; what owners on hold get or lose is held."""
        wanted, booked = self.earned(wanted), self.earned(booked)
        changes = {account: wanted.get(account, 0) - booked.get(account, 0) for account in sorted({*wanted, *booked})}
        return {self.lies(account): change for account, change in changes.items() if change}

    def lies(self, account: Account) -> Account:
        """Where what is owed to an owner lies now."""
        on_hold = account.account == PAYABLE and account.party_id in self.held
        return Account(HELD, account.party_id, account.currency) if on_hold else account


def totals(amounts: Mapping[Account, int]) -> dict[str, dict[str, int]]:
    """A day's control totals per currency, whoever has them: `revenue = developer + earned + escrowed + unattributed`."""
    return {c: {name: row[account] for account, name in TOTALS.items()} for c, row in trial_balance(amounts).items()}


def trial_balance(balances: Mapping[Account, int]) -> dict[str, dict[str, int]]:
    """Per currency what lies in each account of the chart, all parties together; what is owed or gone, above zero.

    Advances are no part of it.
    """
    result: dict[str, dict[str, int]] = {}
    for account, amount in sorted(balances.items()):
        if account.account in CHART:
            row = result.setdefault(account.currency, dict.fromkeys(CHART, 0))
            row[account.account] += amount if account.account == RECEIVABLE else -amount
    return result


def imbalances(balances: Mapping[Account, int], standing: Standing) -> Iterator[str]:
    """What is wrong with a ledger's balances, if anything: one sentence for each."""
    for currency, row in trial_balance(balances).items():
        rest = row[RECEIVABLE] - sum(amount for name, amount in row.items() if name != RECEIVABLE)
        if rest:
            yield f"{currency}: receivable is {row[RECEIVABLE]}, the other accounts add up to {row[RECEIVABLE] - rest}"
    for account, amount in sorted(balances.items()):
        name, party = account.account, account.party_id
        if name not in {*CHART, ADVANCE, FUNDING}:
            yield f"{account.currency}: account {name!r} is not in the chart"
        elif name == PAYABLE and amount and party in standing.held:
            yield f"{party}: {-amount} {account.currency} are payable, yet there is a hold: {standing.held[party][0]}"
        elif name == HELD and amount and party not in standing.held:
            yield f"{party}: {-amount} {account.currency} are held, yet no hold is in force"
        elif name == ESCROW and amount and party in standing.claimed:
            yield f"{party}: {-amount} {account.currency} are in escrow, yet {standing.claimed[party]} has claimed them"
