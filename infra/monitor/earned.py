"""Collects who gets which part of a night, beside the night before, from exports; before they are made, from shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from infra.monitor.frozen import manifest_of
from provenance.core.money import PPB
from provenance.core.published import revision_folder
from provenance.core.store import Store, from_csv
from provenance.core.tables import ESCROW, INTERVALS, PAYABLE, UNATTRIBUTED
from provenance.settlement.books import Booking
from provenance.settlement.exports.export import read_credits


@dataclass(frozen=True)
class PartyOfNight:
    """One party's part of a night in one currency; `share` is of the money for owners.

    Attributes:
        account: payable (an owner), escrow, or unattributed (nobody).
        party_id, name: of the owner; in escrow its name and the reason; empty for nobody.
        low, high: ends of the 90 % interval of `share`; None if not known.
        amount_minor: None before the night is booked.
        before: the share of the night before; None without one in this currency.
    """

    account: str
    party_id: str
    name: str
    currency: str
    share: float
    low: float | None = None
    high: float | None = None
    amount_minor: int | None = None
    before: float | None = None

    @property
    def change(self) -> float | None:
        """The change of the share since the night before."""
        return None if self.before is None else self.share - self.before


def of_export(store: Store, booking: Booking, previous: Booking | None = None) -> tuple[PartyOfNight, ...]:
    """The parties of a published night, largest first in each currency; empty if it is not published.

    Args:
        previous: the booking in force of the night before it.
    """
    manifest = manifest_of(store, booking)
    if manifest is None:
        return ()
    folder = revision_folder(booking.day, booking.revision)
    pools = _pools(manifest)
    before = _shares(store, previous)
    ends: dict[tuple[str, str], tuple[int, int]] = {}
    if "intervals.csv" in manifest["files"]:  # exports of version 0.1 have none
        table = from_csv(store.read(f"{folder}/intervals.csv"), INTERVALS.schema)
        for owner, currency, low, high in table.select("owner_id", "currency", "low_minor", "high_minor").iter_rows():
            ends[owner, currency] = (low, high)
    names = owner_names(store, booking)
    reasons = {row["escrow_id"]: row["reason"] for row in manifest["escrow"]}
    parties = []
    for (account, party, currency), amount in _amounts(store, booking, manifest).items():
        pool = pools.get(currency, 0)
        if not pool:
            continue
        low, high = ends.get((party, currency), (None, None)) if account == PAYABLE else (None, None)
        parties.append(
            PartyOfNight(
                account,
                party,
                names.get(party, party) if account == PAYABLE else reasons.get(party, ""),
                currency,
                amount / pool,
                None if low is None else low / pool,
                None if high is None else high / pool,
                amount,
                before[currency].get((account, party), 0.0) if currency in before else None,
            )
        )
    return _sorted(parties)


def of_shares(store: Store, folder: str, names: Mapping[str, str], previous: Booking | None = None) -> tuple[PartyOfNight, ...]:
    """The parties of a night that is not published, from its shares, without amounts; `previous` as in `of_export`."""
    before = _shares(store, previous)
    table = store.read_table(f"{folder}/night_shares.parquet")
    return _sorted(
        [
            PartyOfNight(
                account,
                party,
                names.get(party, party),
                currency,
                share / PPB,
                low / PPB,
                high / PPB,
                before=before[currency].get((account, party), 0.0) if currency in before else None,
            )
            for currency, account, party, share, low, high in table.select(
                "currency", "account", "party_id", "share_ppb", "low_ppb", "high_ppb"
            ).iter_rows()
        ]
    )


def owner_names(store: Store, booking: Booking) -> dict[str, str]:
    """Names of owners in a published export; they are those of all that are owed anything."""
    table = store.read_table(
        f"{revision_folder(booking.day, booking.revision)}/payouts.parquet", columns=["owner_id", "owner_name"]
    )
    return dict(table.iter_rows())


def _pools(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The money for owners, by currency."""
    return {c: row["revenue_minor"] - row["developer_minor"] for c, row in manifest["totals"].items()}


def _shares(store: Store, booking: Booking | None) -> dict[str, dict[tuple[str, str], float]]:
    """Shares of a published night: by currency, of each account and party; empty if there is none."""
    manifest = manifest_of(store, booking) if booking else None
    if booking is None or manifest is None:
        return {}
    pools = {currency: pool for currency, pool in _pools(manifest).items() if pool}
    shares: dict[str, dict[tuple[str, str], float]] = {currency: {} for currency in pools}
    for (account, party, currency), amount in _amounts(store, booking, manifest).items():
        if currency in pools:
            shares[currency][account, party] = amount / pools[currency]
    return shares


def _amounts(store: Store, booking: Booking, manifest: Mapping[str, Any]) -> dict[tuple[str, str, str], int]:
    """What each party of a published night got, by account, party and currency."""
    folder = revision_folder(booking.day, booking.revision)
    payouts = store.read_table(f"{folder}/payouts.parquet", columns=["owner_id", "currency", "earned_minor"])
    amounts = {(PAYABLE, owner, currency): amount for owner, currency, amount in payouts.iter_rows() if amount}
    for row in manifest["escrow"]:
        amounts[ESCROW, row["escrow_id"], row["currency"]] = row["amount_minor"]
    for currency, totals in manifest["totals"].items():
        if totals["unattributed_minor"]:
            amounts[UNATTRIBUTED, "", currency] = totals["unattributed_minor"]
    return amounts


def _sorted(parties: Sequence[PartyOfNight]) -> tuple[PartyOfNight, ...]:
    return tuple(sorted(parties, key=lambda party: (party.currency, -party.share, party.account, party.party_id)))


@dataclass(frozen=True)
class ListedOutput:
    """An output of a night: what it was asked, how it begins, and who made it possible most.

    Attributes:
        excerpt: the beginning of a text, on one line; empty for pictures and music.
        size: of the output in bytes.
        leader, leader_share: the leading owner's name and its share; empty before the night is published.
    """

    output_id: str
    revenue_minor: int
    currency: str
    modality: str = ""
    prompt: str = ""
    excerpt: str = ""
    size: int = 0
    leader: str = ""
    leader_share: float = 0.0


def leaders(store: Store, booking: Booking, output_ids: Sequence[str]) -> dict[str, tuple[str, float]]:
    """By output, the party with the largest share and that share; empty if the night is not published."""
    if manifest_of(store, booking) is None:
        return {}
    columns = ["output_id", "account", "owner_id", "escrow_id", "share_ppb"]
    wanted = pl.col("output_id").is_in(list(output_ids))
    credits = read_credits(store, revision_folder(booking.day, booking.revision), *columns, wanted=wanted)
    first = credits.sort("share_ppb", descending=True).unique("output_id", keep="first", maintain_order=True)
    names = owner_names(store, booking)
    return {
        row["output_id"]: (
            names.get(row["owner_id"], row["owner_id"]) if row["owner_id"] else row["escrow_id"] or "nobody",
            row["share_ppb"] / PPB,
        )
        for row in first.iter_rows(named=True)
    }


def earlier_booking(bookings: Sequence[Booking], day: date) -> Booking | None:
    """The booking in force of the last booked day before a day; `bookings` are of nights, in the order of booking."""
    before = {booking.day: booking for booking in bookings if booking.day < day}
    return before[max(before)] if before else None
