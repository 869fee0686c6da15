"""The chart of accounts and its identities.

    receivable = developer + unattributed + escrow + (payable + held + carried) + recouped + withheld + exchange + paid

in each currency. An owner's debt is in `payable`, or in `held` while a hold is in force; `carried` is a debt of the owner from
an earlier period. Settled amounts are in `recouped` (set off against advances), `withheld` (tax) and `paid`; `exchange` links
the two currencies of one payment. Advances and charges of banks are no part of the revenue: `advance`, `charges` and `funding`
sum to zero by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from provenance.core.tables import ESCROW, PAYABLE, UNATTRIBUTED

RECEIVABLE, DEVELOPER = "receivable", "developer"
HELD, CARRIED, RECOUPED, WITHHELD, EXCHANGE, PAID = "held", "carried", "recouped", "withheld", "exchange", "paid"
ADVANCE, CHARGES, FUNDING = "advance", "charges", "funding"
# Accounts of amounts owed to owners; the ledger keeps these as credits, below zero.
OWED = (PAYABLE, HELD, CARRIED)
CHART = (RECEIVABLE, DEVELOPER, UNATTRIBUTED, ESCROW, PAYABLE, HELD, CARRIED, RECOUPED, WITHHELD, EXCHANGE, PAID)
# Control totals of a day by account: the first is the sum of the others.
TOTALS = {
    RECEIVABLE: "revenue_minor",
    DEVELOPER: "developer_minor",
    PAYABLE: "earned_minor",
    ESCROW: "escrowed_minor",
    UNATTRIBUTED: "unattributed_minor",
}


@dataclass(frozen=True, order=True)
class Account:
    """An account of one party in one currency, with a balance in the ledger.

    Attributes:
        account: a name of the chart.
        party_id: an owner, or a name in escrow; empty for accounts without parties.
    """

    account: str
    party_id: str
    currency: str


@dataclass(frozen=True)
class Standing:
    """Holds and claims in force at a point of the ledger; they decide the accounts of an owner's amounts.

    Attributes:
        holds: reasons by owner, the oldest first.
        claimed: owner that claimed an escrow, by the name of the escrow.
    """

    holds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    claimed: Mapping[str, str] = field(default_factory=dict)

    def earned(self, amounts: Mapping[Account, int]) -> dict[Account, int]:
        """Amounts by beneficiary: claimed escrow counts as the owner's, held amounts count as payable."""
        sums: dict[Account, int] = {}
        for account, amount in amounts.items():
            name, party = account.account, account.party_id
            if name == ESCROW and party in self.claimed:
                name, party = PAYABLE, self.claimed[party]
            target = Account(PAYABLE if name == HELD else name, party, account.currency)
            sums[target] = sums.get(target, 0) + amount
        return {account: amount for account, amount in sums.items() if amount}

    def difference(self, wanted: Mapping[Account, int], booked: Mapping[Account, int]) -> dict[Account, int]:
        """The entries that turn booked amounts into wanted ones; changes for owners on hold go to `held`."""
        wanted, booked = self.earned(wanted), self.earned(booked)
        changes = {account: wanted.get(account, 0) - booked.get(account, 0) for account in sorted({*wanted, *booked})}
        return {self.current_account(account): change for account, change in changes.items() if change}

    def current_account(self, account: Account) -> Account:
        """`held` instead of `payable` where the owner is on hold; else the account itself."""
        on_hold = account.account == PAYABLE and account.party_id in self.holds
        return Account(HELD, account.party_id, account.currency) if on_hold else account


def totals(amounts: Mapping[Account, int]) -> dict[str, dict[str, int]]:
    """A day's control totals by currency, over all parties: `revenue = developer + earned + escrowed + unattributed`."""
    return {c: {name: row[account] for account, name in TOTALS.items()} for c, row in trial_balance(amounts).items()}


def trial_balance(balances: Mapping[Account, int]) -> dict[str, dict[str, int]]:
    """Balances by currency and account of the chart, over all parties; credits count above zero.

    Advances and charges of banks are left out.
    """
    result: dict[str, dict[str, int]] = {}
    for account, amount in sorted(balances.items()):
        if account.account in CHART:
            row = result.setdefault(account.currency, dict.fromkeys(CHART, 0))
            row[account.account] += amount if account.account == RECEIVABLE else -amount
    return result


def imbalances(balances: Mapping[Account, int], standing: Standing) -> Iterator[str]:
    """Errors in a ledger's balances, one sentence each."""
    for currency, row in trial_balance(balances).items():
        rest = row[RECEIVABLE] - sum(amount for name, amount in row.items() if name != RECEIVABLE)
        if rest:
            yield f"{currency}: receivable is {row[RECEIVABLE]}, the other accounts add up to {row[RECEIVABLE] - rest}"
    for account, amount in sorted(balances.items()):
        name, party = account.account, account.party_id
        if name not in {*CHART, ADVANCE, CHARGES, FUNDING}:
            yield f"{account.currency}: account {name!r} is not in the chart"
        elif name == PAYABLE and amount and party in standing.holds:
            yield f"{party}: {-amount} {account.currency} are payable, yet there is a hold: {standing.holds[party][0]}"
        elif name == HELD and amount and party not in standing.holds:
            yield f"{party}: {-amount} {account.currency} are held, yet no hold is in force"
        elif name == ESCROW and amount and party in standing.claimed:
            yield f"{party}: {-amount} {account.currency} are in escrow, yet {standing.claimed[party]} has claimed them"
