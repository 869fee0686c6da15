"""Finds owners by a part of a name or id: what each is owed, whether it is on hold, and how many works it has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import polars as pl

from provenance.core.errors import did_you_mean
from provenance.corpus.ownership import valid_on
from provenance.corpus.shards import CURRENT, corpus_in_force
from provenance.settlement import ledger
from provenance.settlement.account_actions import owners_in_force
from provenance.settlement.accounts import OWED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa

    from provenance.core.store import Store


@dataclass(frozen=True)
class OwnerLine:
    """One owner.

    Attributes:
        owed: by currency, in minor units: payable, held and carried over together; below zero if the owner owes it.
        holds: reasons of the holds in force.
        works: number of works of the corpus in force with a claim of the owner's today.
    """

    owner_id: str
    name: str
    works: int = 0
    owed: Mapping[str, int] = field(default_factory=dict)
    holds: tuple[str, ...] = ()


def find_owners(
    store: Store, engine: sa.Engine, text: str = "", names: Mapping[str, str] = MappingProxyType({})
) -> list[OwnerLine]:
    """All owners of the ledger and of the corpus in force, or those with a text in the name or id; most owed first.

    Args:
        names: of owners who left the corpus, by id.
    """
    through = ledger.newest(engine)
    owed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for account, amount in ledger.balances(engine, through=through).items():
        if account.account in OWED:
            owed[account.party_id][account.currency] -= amount
    holds = ledger.standing(engine, through=through).holds
    named = dict.fromkeys(ledger.owners(engine)) | dict(names) | _names(store)
    works, sought = _works(store), text.casefold().strip()
    lines = [
        OwnerLine(
            owner_id=owner,
            name=name or owner,
            works=works.get(owner, 0),
            owed={currency: amount for currency, amount in sorted(owed[owner].items()) if amount},
            holds=holds.get(owner, ()),
        )
        for owner, name in named.items()
        if sought in owner.casefold() or sought in (name or "").casefold()
    ]
    return sorted(lines, key=lambda owner: (-sum(owner.owed.values()), owner.name.casefold(), owner.owner_id))


def nearest_owner(store: Store, engine: sa.Engine, text: str) -> str:
    """A hint with the name or id nearest to a text, or nothing."""
    return did_you_mean(text, [*filter(None, _names(store).values()), *ledger.owners(engine), *_names(store)])


def _names(store: Store) -> dict[str, str | None]:
    return dict(owners_in_force(store).select("owner_id", "name").iter_rows())


def _works(store: Store) -> dict[str, int]:
    """The number of works that each owner has a claim on today."""
    if not store.exists(CURRENT):
        return {}
    claims = valid_on(store.read_table(corpus_in_force(store).claims.key), datetime.now(UTC).date())
    return dict(claims.group_by("owner_id").agg(pl.col("work_id").n_unique()).iter_rows())
