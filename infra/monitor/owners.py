"""Collects owners for the page: balances, history, works and opt-outs, from the ledger, exports and the corpus in force."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
import sqlalchemy as sa

from infra.monitor.earned import owner_names
from infra.monitor.frozen import manifest_of
from provenance.core.errors import ContractError, did_you_mean
from provenance.core.money import PPB
from provenance.core.published import revision_folder
from provenance.core.store import Store
from provenance.core.tables import CREDITS, PAYABLE
from provenance.corpus.ownership import valid_on
from provenance.corpus.rights.optout_records import WITHDRAWN, list_optouts
from provenance.corpus.shards import CURRENT, corpus_in_force, read_examples
from provenance.corpus.works import link_of, read_titles, title_of
from provenance.settlement import ledger
from provenance.settlement.account_actions import owners_in_force
from provenance.settlement.accounts import ADVANCE, CARRIED, OWED, PAID, RECOUPED, WITHHELD, Account
from provenance.settlement.accounts import HELD as KEPT
from provenance.settlement.books import ANSWER, CLAIM, CLOSE, HOLD, NIGHT, PAYMENTS, RELEASE, Booking
from provenance.settlement.exports.export import read_credits
from provenance.settlement.exports.shown import passage_data
from provenance.settlement.exports.works import CreditedWork, works_behind
from provenance.settlement.months import settling
from provenance.settlement.months.periods import statements_folder
from provenance.settlement.months.settling import Payment
from provenance.settlement.months.write_statements import file_name
from provenance.settlement.owner_list import OwnerLine, find_owners

# Published nights that are searched for outputs and works of an owner, most of each that are listed, and works with passages.
NIGHTS, LISTED, SHOWN = 14, 100, 6
# Owners on one page, and movements of an account that are listed.
PAGE, MOVEMENTS = 50, 60


@dataclass(frozen=True)
class Found:
    """Owners that were searched for, those with most owed first: a page of them, and their number."""

    rows: tuple[OwnerLine, ...]
    count: int
    start: int = 0


@dataclass(frozen=True)
class Balance:
    """An owner's account in one currency, in minor units: owed now, of it held, the debt carried over; paid and kept so far."""

    currency: str
    owed: int
    held: int = 0
    carried: int = 0
    paid: int = 0
    withheld: int = 0
    recouped: int = 0
    advance: int = 0


@dataclass(frozen=True)
class OwnedWork:
    """A work in which an owner has a stake, or that the last nights credited.

    Attributes:
        link: a safe address of where it was collected, or empty.
        stake: the owner's part of it; None if the corpus in force does not give the owner any.
        outputs: of the last nights, those for which it is among the most influential.
        optout: the choice, if the owner opted out, and the state of that opt-out.
    """

    work_id: str
    title: str
    link: str = ""
    licence: str = ""
    stake: float | None = None
    outputs: int = 0
    optout: str = ""


@dataclass(frozen=True)
class CreditedOutput:
    """An output of the last nights that credits the owner; `amount_nanominor` before rounding."""

    day: str
    output_id: str
    currency: str
    share_ppb: int
    low_ppb: int
    high_ppb: int
    amount_nanominor: int


@dataclass(frozen=True)
class Owner:
    """One owner.

    Attributes:
        history: by currency, months and what they earned, oldest first.
        movements: the last bookings that changed what is owed: booking, what it was, and by currency the change.
        payments: month, payment and the day of its last status, newest first.
        nights: number of the last published nights that outputs and works are from.
        leading: by currency, the works behind the largest amounts of those nights, with passages, as data.
        works_in_all: number of works; the first are listed, those with most outputs first.
        statements: closed months with a statement.
    """

    owner_id: str
    name: str
    identifiers: Mapping[str, str]
    balances: tuple[Balance, ...]
    holds: tuple[str, ...]
    history: Mapping[str, tuple[tuple[str, int], ...]]
    movements: tuple[tuple[Booking, str, Mapping[str, int]], ...]
    payments: tuple[tuple[str, Payment, date | None], ...]
    nights: int
    outputs: tuple[CreditedOutput, ...]
    outputs_in_all: int
    leading: Mapping[str, tuple[Mapping[str, Any], ...]]
    works: tuple[OwnedWork, ...]
    works_in_all: int
    optouts: tuple[Mapping[str, Any], ...]
    statements: tuple[str, ...]


def names(store: Store, engine: sa.Engine) -> dict[str, str]:
    """Names of owners by id: of those with a balance, as last published, and of the corpus in force."""
    published = next((b for b in reversed(ledger.bookings(engine, kind=NIGHT)) if manifest_of(store, b)), None)
    known = owner_names(store, published) if published else {}
    return known | dict(owners_in_force(store).select("owner_id", "name").iter_rows())


def find(store: Store, engine: sa.Engine, text: str = "", start: int = 0) -> Found:
    """Owners whose id or name contains a text, in any case; all of them without one."""
    found = find_owners(store, engine, text, names(store, engine))
    return Found(tuple(found[start : start + PAGE]), len(found), start)


def owner(store: Store, engine: sa.Engine, owner_id: str, today: date) -> Owner:
    """One owner; raises ContractError if neither the ledger nor the corpus in force knows it."""
    named = dict.fromkeys(ledger.owners(engine), "") | names(store, engine)
    if owner_id not in named:
        hint = did_you_mean(owner_id, named)
        expected = "an owner in the ledger or in the corpus in force"
        raise ContractError(f"owner {owner_id!r}", expected=expected, found="none of that id", hint=hint)
    through = ledger.newest(engine)
    bookings = ledger.bookings(engine)
    days = {booking.booking_id: booking.day for booking in bookings}
    closed = [booking.period for booking in bookings if booking.kind == CLOSE][::-1]
    paid = [(period, payment) for period in closed for payment in settling.payments(engine, period, owner_id)]
    credits, read = _credits(store, bookings, owner_id)
    optouts = list_optouts(store).filter(pl.col("owner_id") == owner_id)
    works = _works(store, owner_id, credits, optouts, today)
    identifiers = owners_in_force(store).filter(pl.col("owner_id") == owner_id).drop("owner_id", "name", "payee_reference")
    return Owner(
        owner_id,
        named[owner_id] or owner_id,
        {kind.upper(): number for row in identifiers.iter_rows(named=True) for kind, number in row.items() if number},
        _balances(ledger.balances(engine, through=through), owner_id),
        ledger.standing(engine, through=through).holds.get(owner_id, ()),
        {
            currency: tuple(months)
            for (party, currency), months in sorted(ledger.earned_by_period(engine, f"{today:%Y-%m}").items())
            if party == owner_id
        },
        tuple(_movements(engine, owner_id)),
        tuple((period, payment, days.get(payment.booking_id or 0)) for period, payment in paid),
        read,
        tuple(CreditedOutput(**row) for row in credits.drop("top_works").head(LISTED).iter_rows(named=True)),
        credits.height,
        {
            str(currency): tuple(_shown(work) for work in works_behind(store, rows, most=SHOWN))
            for (currency,), rows in credits.group_by("currency", maintain_order=True)
        },
        tuple(works[:LISTED]),
        len(works),
        tuple(optouts.iter_rows(named=True)),
        tuple(period for period in closed if store.exists(statement_key(period, owner_id, "pdf"))),
    )


def statement_key(period: str, owner_id: str, form: str) -> str:
    """The store key of an owner's statement as `pdf` or `html`."""
    return f"{statements_folder(period)}/owner={file_name(owner_id)}/statement.{form}"


def _balances(balances: Mapping[Account, int], owner_id: str) -> tuple[Balance, ...]:
    by_currency: dict[str, dict[str, int]] = defaultdict(dict)
    for account, amount in balances.items():
        if account.party_id == owner_id:
            by_currency[account.currency][account.account] = -amount
    return tuple(
        Balance(
            currency,
            owed=sum(own.get(name, 0) for name in OWED),
            held=own.get(KEPT, 0),
            carried=-own.get(CARRIED, 0),
            paid=own.get(PAID, 0),
            withheld=own.get(WITHHELD, 0),
            recouped=own.get(RECOUPED, 0),
            advance=-own.get(ADVANCE, 0),
        )
        for currency, own in sorted(by_currency.items())
    )


def _movements(engine: sa.Engine, owner_id: str) -> list[tuple[Booking, str, Mapping[str, int]]]:
    """The last bookings that concern an owner, newest first."""
    rows: list[tuple[Booking, str, Mapping[str, int]]] = []
    for booking, entries in reversed(ledger.party_bookings(engine, owner_id)):
        changes: Counter[str] = Counter()
        for account, amount in entries:
            if account.account in OWED:
                changes[account.currency] -= amount
        rows.append((booking, _words(booking), {currency: change for currency, change in changes.items() if change}))
    return rows[:MOVEMENTS]


def _words(booking: Booking) -> str:
    """What a booking was for, as the page says it."""
    if booking.kind == NIGHT:
        again = f", revision {booking.revision}" if booking.revision > 1 else ""
        return f"outputs of {booking.day}{again}"
    words = {
        CLAIM: f"claimed from escrow: {booking.facts.get('escrow_id', '')}",
        HOLD: f"put on hold: {booking.facts.get('reason', '')}",
        RELEASE: f"hold ended: {booking.facts.get('reason', '')}",
        CLOSE: f"close of {booking.period}: set off",
        PAYMENTS: f"paid for {booking.facts.get('closed_period', '')}, with the tax withheld",
        ANSWER: "answer of a bank",
    }
    return words.get(booking.kind, booking.kind)


def _credits(store: Store, bookings: list[Booking], owner_id: str) -> tuple[pl.DataFrame, int]:
    """Credits of an owner in the last published nights, largest amounts first, and the number of those nights."""
    in_force = {booking.day: booking for booking in bookings if booking.kind == NIGHT}
    nights = [in_force[day] for day in sorted(in_force, reverse=True) if manifest_of(store, in_force[day])][:NIGHTS]
    numbers = ("share_ppb", "low_ppb", "high_ppb", "amount_nanominor")
    columns = ["day", "output_id", "account", "owner_id", "currency", *numbers, "top_works"]
    wanted = (pl.col("owner_id") == owner_id) & (pl.col("account") == PAYABLE)
    folders = [revision_folder(booking.day, booking.revision) for booking in nights]
    tables = [read_credits(store, folder, *columns, wanted=wanted) for folder in folders]
    own = pl.concat(tables) if tables else pl.DataFrame(schema={name: CREDITS.schema[name] for name in columns})
    own = own.sort("amount_nanominor", "day", "output_id", descending=[True, True, False])
    return own.drop("account", "owner_id"), len(nights)


def _shown(work: CreditedWork) -> dict[str, Any]:
    """A work with its passages, as data that the page lays out."""
    modality = work.passages[0].modality if work.passages else ""
    return {**vars(work), "modality": modality, "passages": [passage_data(passage) for passage in work.passages]}


def _works(store: Store, owner_id: str, credits: pl.DataFrame, optouts: pl.DataFrame, today: date) -> list[OwnedWork]:
    """Works in which an owner has a stake today, and works that nights credited; those behind most outputs first."""
    counts: Counter[str] = Counter(
        work for (pieces,) in credits.select("top_works").iter_rows() for work in {piece["work_id"] for piece in pieces or ()}
    )
    choices = {
        row["work_id"]: f"{row['choice']}, {row['state']}" if row["state"] != WITHDRAWN else WITHDRAWN
        for row in optouts.iter_rows(named=True)
    }
    stakes: dict[str, int] = {}
    origins: dict[str, tuple[str, str]] = {}
    if store.exists(CURRENT):
        corpus = corpus_in_force(store)
        claims = valid_on(store.read_table(corpus.claims.key), today).filter(pl.col("owner_id") == owner_id)
        stakes = dict(claims.select("work_id", "stake_ppb").iter_rows())
        wanted = [*stakes, *counts]
        facts = read_examples(store, corpus, "work_id", "source_uri", "licence_spdx").filter(pl.col("work_id").is_in(wanted))
        origins = {
            work: (source or "", licence or "")
            for work, source, licence in facts.unique("work_id", keep="first", maintain_order=True).iter_rows()
        }
    titles = read_titles(store, [source for source, _ in origins.values()])
    works = [
        OwnedWork(
            work,
            titles.get(origins.get(work, ("", ""))[0]) or title_of(work),
            link_of(origins.get(work, ("", ""))[0]),
            origins.get(work, ("", ""))[1],
            stakes[work] / PPB if work in stakes else None,
            counts[work],
            choices.get(work, ""),
        )
        for work in {*stakes, *counts}
    ]
    return sorted(works, key=lambda work: (-work.outputs, work.work_id))
