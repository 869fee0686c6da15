"""Numbers invoices without gaps, and publishes them: one for each payment that left, a credit note for each that came back.

    tax/invoices/batch=0007/{SB-000041.xml, ..., invoices.csv, manifest.json, manifest.sig}

Numbers are taken in the transaction that registers the documents, after all of them were written and checked. A document that
cannot be written takes no number: it is named, and stays due. The folder is apart from the exports, since it has addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import sqlalchemy as sa

from provenance.core.errors import CheckFailed, InputError, StoreError
from provenance.core.locks import Lock, lock
from provenance.core.money import format_minor
from provenance.core.published import MANIFEST
from provenance.core.store import sha256, to_csv
from provenance.core.tables import INVOICES
from provenance.settlement import ledger
from provenance.settlement.accounts import OWED
from provenance.settlement.bank.status_reports import PAID, REJECTED, RETURNED
from provenance.settlement.books import CLOSE, CLOSED, INVOICED, OUTCOME
from provenance.settlement.books import INVOICE as REGISTER
from provenance.settlement.months import settling
from provenance.settlement.months.bank_files import payer
from provenance.settlement.months.closings import publish
from provenance.settlement.months.periods import last_day
from provenance.settlement.months.settling import SENT, Payment, payments_named
from provenance.settlement.payees import vault as payee_vault
from provenance.settlement.payees.details import BankPlace, Details
from provenance.settlement.payees.register import payees_in_force, register_of
from provenance.settlement.tax.documents import (
    CREDIT_NOTE,
    INVOICE,
    STANDARD,
    Amounts,
    Document,
    amounts,
    applied,
    as_ubl,
    check_buyer,
    national_vat,
    treatment,
)

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.tax")

DIGITS = 6


@dataclass(frozen=True)
class Issued:
    """What a run has issued.

    Attributes:
        folders: published by this run.
        issued: numbers of invoices and credit notes; refused: errors of the documents that stay due.
    """

    folders: tuple[str, ...] = ()
    issued: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Due:
    """A document that is due: for a payment, or against an invoice."""

    payment: Payment
    period: str
    against: sa.Row[Any] | None = None

    @property
    def kind(self) -> str:
        return CREDIT_NOTE if self.against else INVOICE


def folder_of(batch: int) -> str:
    """The store folder of a batch of invoices."""
    return f"tax/invoices/batch={batch:04d}"


def check_payees(where: Where, details: Iterable[Details], period: str = "") -> None:
    """Raise InputError if an owner who agreed to self-billing lacks what invoices need; nothing without the setting.

    Args:
        period: that is about to be closed: then also if a rate is missing, in which VAT is to be stated.
    """
    tax = where.settings.tax
    agreed = [payee for payee in details if tax.invoices and payee.self_billed_since]
    if not agreed:
        return
    buyer = payer(where.settings.payer)
    taxed = {payee.owner_id for payee in agreed if treatment(payee, buyer, tax.vat_id).category == STANDARD}
    if period and taxed:
        rates = _rates(where, period)
        for account, amount in ledger.balances(where.ledger, through=ledger.newest(where.ledger)).items():
            if account.party_id in taxed and account.account in OWED and amount < 0:
                national_vat(-amount, account.currency, buyer.country, rates, f"invoices of payee {account.party_id}")


def _rates(where: Where, period: str) -> dict[tuple[str, str], Decimal]:
    return {pair: rate for pair, (rate, _) in settling.rates(where.ledger, period).items()}


def issue(where: Where) -> Issued:
    """Issue what is due, and publish it; nothing without the setting `tax.invoices`.

    Due is an invoice for each payment of a period that ends within the owner's agreement, once it was sent, and a credit note
    for each invoice whose payment was rejected or returned; if it turns out to be paid after all, an invoice again. What a
    killed run has registered, the next one publishes.

    Raises:
        InputError: the settings lack the payer or its VAT number.
    """
    if not where.settings.tax.invoices:
        log.info("no invoices: the setting tax.invoices is empty")
        return Issued()
    finished = tuple(_publish(where, batch) for batch in _unpublished(where))
    details, buyer, today = payees_in_force(where), payer(where.settings.payer), datetime.now(UTC).date()
    check_buyer(buyer, where.settings.tax.vat_id)
    with where.ledger.begin() as connection:
        lock(connection, Lock.INVOICING)
        number, batch = (
            int(connection.execute(sa.select(sa.func.max(column))).scalar_one() or 0)
            for column in (REGISTER.c.number, REGISTER.c.batch)
        )
        rows: list[dict[str, Any]] = []
        refused: list[str] = []
        for due in _all_due(where, connection, details):
            following = number + len(rows) + 1
            try:
                row, data = _write(where, due, details, buyer=buyer, number=following, today=today)
            except InputError as error:
                refused.append(str(error))
                continue
            # Not published until the manifest is: a run that is killed before its transaction ends is written over.
            where.store.write(f"{folder_of(batch + 1)}/{row['invoice_id']}.xml", data)
            rows.append({**row, "number": following, "batch": batch + 1})
        if rows:
            connection.execute(sa.insert(REGISTER), rows)
    for reason in refused:
        log.warning("no number is given, and it stays due: %s", reason)
    folders = (_publish(where, batch + 1),) if rows else ()
    log.info("%d invoices and credit notes are issued, %d stay due", len(rows), len(refused))
    return Issued(finished + folders, tuple(row["invoice_id"] for row in rows), tuple(refused))


def issue_for(where: Where, period: str) -> int:
    """The stage: issue what is due after a period was paid; returns the number of documents.

    Raises:
        CheckFailed: some stay due; the others are issued.
    """
    run = issue(where)
    if run.refused:
        raise CheckFailed(f"{len(run.refused)} invoices stay due after the payments of {period}: {'; '.join(run.refused)}")
    return len(run.issued)


def register(engine: sa.Engine, *, batch: int | None = None) -> pl.DataFrame:
    """All invoices and credit notes in the order of their numbers, or those of a batch."""
    query = sa.select(REGISTER).order_by(REGISTER.c.number)
    if batch is not None:
        query = query.where(REGISTER.c.batch == batch)
    with engine.connect() as connection:
        found = [row._asdict() for row in connection.execute(query)]
    return INVOICES.frame([{name: "" if row[name] is None else row[name] for name in INVOICES.columns} for row in found])


def _unpublished(where: Where) -> list[int]:
    """Batches that are registered, and have no manifest."""
    with where.ledger.connect() as connection:
        batches = list(connection.execute(sa.select(REGISTER.c.batch).distinct().order_by(REGISTER.c.batch)).scalars())
    return [batch for batch in batches if not where.store.exists(f"{folder_of(batch)}/{MANIFEST}")]


def _publish(where: Where, batch: int) -> str:
    """Publish a registered batch; raises StoreError if a document is not the registered one."""
    folder, table = folder_of(batch), register(where.ledger, batch=batch)
    files = {f"{number}.xml": where.store.read(f"{folder}/{number}.xml") for number in table["invoice_id"]}
    for number, expected in table.select("invoice_id", "document_sha256").iter_rows():
        if sha256(files[f"{number}.xml"]) != expected:
            place = where.store.locate(f"{folder}/{number}.xml")
            raise StoreError(place, expected="the document that is registered", found="another")
    files["invoices.csv"] = to_csv(table)
    publish(where, folder, files, {"batch": batch, "notice": "Self-billed by EN 16931; nothing was sent or filed."})
    return folder


def _all_due(where: Where, connection: sa.Connection, details: dict[str, tuple[int, Details]]) -> Sequence[_Due]:
    """What is due: credit notes first, then invoices, by period and payment."""
    periods = {closed.booking_id: closed.period for closed in ledger.bookings(where.ledger, kind=CLOSE)}
    last = {row.payment_id: row for row in connection.execute(sa.select(REGISTER).order_by(REGISTER.c.number))}
    invoices = {payment_id: row for payment_id, row in last.items() if row.kind == INVOICE}
    came_back = sa.select(OUTCOME.c.payment_id).where(OUTCOME.c.status.in_([REJECTED, RETURNED]))
    back = sorted(set(connection.execute(came_back).scalars()) & invoices.keys())
    agreed = {owner: payee.self_billed_since for owner, (_, payee) in details.items() if payee.self_billed_since}
    candidates = sa.select(CLOSED.c.payment_id).where(CLOSED.c.payment_id.is_not(None) & CLOSED.c.owner_id.in_(agreed))
    open_yet = sorted(set(connection.execute(candidates).scalars()) - invoices.keys())
    credit_notes = [
        _Due(p, periods[p.close_id], invoices[p.payment_id])
        for p in payments_named(where.ledger, back)
        if p.status in {REJECTED, RETURNED}
    ]
    left = [p for p in payments_named(where.ledger, open_yet) if p.status in {SENT, PAID}]
    first = [_Due(p, periods[p.close_id]) for p in left]
    invoiced = [due for due in first if last_day(due.period) >= date.fromisoformat(agreed[due.payment.line.owner_id])]
    return [due for group in (credit_notes, invoiced) for due in sorted(group, key=lambda d: (d.period, d.payment.payment_id))]


def _write(
    where: Where, due: _Due, details: dict[str, tuple[int, Details]], *, buyer: BankPlace, number: int, today: date
) -> tuple[dict[str, Any], bytes]:
    """A document that is due, and its row in the register."""
    line, owner, tax = due.payment.line, due.payment.line.owner_id, where.settings.tax
    if due.against is None:
        version, payee = details[owner]
        how = treatment(payee, buyer, tax.vat_id)
        stated = amounts(line.net + line.withheld, line.withheld, how.rate)
    else:  # as the invoice has it, whatever changed since
        version = due.against.payee_version
        found = payee_vault.versions(*register_of(where), {(owner, version)})
        if not found:
            place = f"credit note for {due.against.invoice_id}: payee {owner}, version {version}"
            raise InputError(place, expected="its details", found="none: they were removed", hint="Write it by hand.")
        payee = found[owner, version]
        how = applied(due.against.vat_category, Decimal(due.against.vat_rate), payee)
        stated = Amounts(*(getattr(due.against, f"{name}_minor") for name in INVOICED))
    place = f"invoice for payment {due.payment.payment_id} of payee {owner}"
    vat_currency, vat_in_it = national_vat(stated.vat, line.currency, buyer.country, _rates(where, due.period), place)
    document = Document(
        invoice_id=f"{tax.invoices}{number:0{DIGITS}d}",
        kind=due.kind,
        issued_on=today,
        period=due.period,
        payment_id=due.payment.payment_id,
        paid=format_minor(line.paid, line.pay_currency),
        currency=line.currency,
        amounts=stated,
        treatment=how,
        seller=payee,
        buyer=buyer,
        buyer_vat_id=tax.vat_id,
        corrects=(due.against.invoice_id, due.against.issued_on) if due.against else None,
        vat_currency=vat_currency,
        vat_in_it=vat_in_it,
    )
    data = as_ubl(document)
    row = {
        **{name: getattr(document, name) for name in ("invoice_id", "kind", "issued_on", "period", "payment_id", "currency")},
        **{f"{name}_minor": amount for name, amount in asdict(stated).items()},
        "corrects": document.corrects[0] if document.corrects else None,
        "owner_id": owner,
        "payee_version": version,
        "vat_category": how.category,
        "vat_rate": format(how.rate.normalize(), "f"),
        "document_sha256": sha256(data),
    }
    return row, data
