"""Stages of a settlement: close a period, pay it after two approvals, reconcile bank files with the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from provenance.core.errors import CheckFailed, InputError
from provenance.core.published import MANIFEST
from provenance.core.settings import NO_CONTACT, SettlementSettings
from provenance.core.store import digest, sha256, to_csv
from provenance.core.tables import ESCROW
from provenance.core.text import visible
from provenance.settlement import ledger
from provenance.settlement.account_actions import owner_names
from provenance.settlement.approvals import Approval
from provenance.settlement.books import CLOSE, Booking
from provenance.settlement.exports.keys import trusted_keys
from provenance.settlement.exports.verification import Check, lines_that_differ, verify
from provenance.settlement.months import bank_files, settling
from provenance.settlement.months.closings import closing_table, escrow_ages, payments_table, publish, request
from provenance.settlement.months.periods import (
    PAY,
    ClosingTerms,
    bank_folder,
    closing_folder,
    last_day,
    payments_folder,
    statements_folder,
)
from provenance.settlement.months.settling import SETTLEMENT, WAITING
from provenance.settlement.months.withholding import payees_to_settle
from provenance.settlement.payees.register import payees_in_force
from provenance.settlement.tax.numbering import check_payees

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.settle")


def close(where: Where, period: str, files_url: str = "") -> dict[str, str]:
    """Close a period and publish its lines; returns the request to approve its payments.

    Its `cause` is the digest of the close, so that approvals count for nothing else.

    Args:
        files_url: address below which people read the store's files; empty: the request names the place in the store.

    Raises:
        InputError: the settings have no contact for owners; or as `settling.close`.
    """
    store, engine, settings = where.store, where.ledger, where.settings
    check_contact(settings.settlement)
    details = payees_in_force(where)
    payees, terms = payees_to_settle(settings.settlement, details), ClosingTerms(settings.settlement.minimum)
    if period not in {closed.period for closed in ledger.bookings(engine, kind=CLOSE)}:
        bank_files.try_to_write(settings, period, bank_files.smallest(details))
        check_payees(where, (payee for _, payee in details.values()), period)
    booking, lines = settling.close(engine, period, payees, terms, day=datetime.now(UTC).date(), by=SETTLEMENT)
    escrow = escrow_ages(ledger.by_day(engine, ESCROW, through=booking.booking_id), last_day(period))
    files = {"closing.csv": to_csv(closing_table(period, lines, booking.facts["rates"])), "escrow.csv": to_csv(escrow)}
    publish(where, closing_folder(period), files, {"booking_id": booking.booking_id})
    rates = {f"{s} to {t}": f"{rate} ({evidence})" for (s, t), (rate, evidence) in settling.rates(engine, period).items()}
    paid = sum(line.outcome == PAY for line in lines)
    key = f"{closing_folder(period)}/closing.csv"
    log.info("period %s is closed as booking %d: %d balances, %d to be paid", period, booking.booking_id, len(lines), paid)
    return {
        "period": period,
        "cause": closed_as(booking),
        "subject": f"Payments of {period}: {paid}",
        "body": request(
            period,
            lines,
            rates,
            names=owner_names(where),
            holds=ledger.standing(engine, through=booking.booking_id).holds,
            missing=settling.days_without_a_night(engine, period),
            digest=sha256(files["closing.csv"]),
            place=store.locate(key),
            link=f"{files_url}/{quote(key)}" if files_url else "",
        ),
    }


def check_contact(settings: SettlementSettings) -> None:
    """Raise InputError unless owners have somebody to write to: every statement says how to contest it."""
    if settings.contact.strip() in ("", NO_CONTACT):
        raise InputError(
            "settings: settlement.contact",
            expected="an address that owners can write to, such as royalties@example.org",
            found=repr(settings.contact),
            hint="Set it in the settings file, or as PROVENANCE_SETTLEMENT__CONTACT, then clear the task.",
        )


def preview(where: Where, period: str) -> dict[str, Any]:
    """Show a close without booking or writing anything; the period need not be over.

    Returns:
        `period`; `over`: whether it has ended; `lines`; `holds`: reasons by owner; `missing`: past days without a paid night.

    Raises:
        InputError: it is closed; or as the close would raise, except for missing rates.
    """
    engine, settings, today = where.ledger, where.settings, datetime.now(UTC).date()
    check_contact(settings.settlement)
    details = payees_in_force(where)
    payees, terms = payees_to_settle(settings.settlement, details), ClosingTerms(settings.settlement.minimum)
    lines, holds = settling.preview(engine, period, payees, terms, day=today)
    bank_files.try_to_write(settings, period, bank_files.smallest(details))
    check_payees(where, (payee for _, payee in details.values()))
    return {
        "period": period,
        "over": period < f"{today:%Y-%m}",
        "lines": lines,
        "holds": holds,
        "missing": [day for day in settling.days_without_a_night(engine, period) if day < today],
    }


def closed_as(booking: Booking) -> str:
    """The digest of a close: its booking and its lines."""
    return digest([CLOSE, booking.period, str(booking.booking_id), booking.facts["lines"]])


def pay(
    where: Where,
    period: str,
    prepared: Approval | None,
    approved: Approval | None,
    request: Mapping[str, Any] | None = None,
) -> list[str]:
    """Book approved payments and write bank files; returns the keys of the files.

    Args:
        prepared: a person's answer to the request; approved: another person's.
        request: the result of `close`, which they answered.

    Raises:
        CheckFailed: somebody has not answered, or has rejected, or was asked about another close.
    """
    engine, settings = where.ledger, where.settings
    for approval, task in ((prepared, "settlement.prepare"), (approved, "settlement.approve")):
        if approval is None:
            raise CheckFailed(f"nobody has approved the payments of {period}: clear {task}, and have somebody answer it")
        if not approval.granted:
            raise CheckFailed(f"{approval.by} did not approve the payments of {period}")
    assert prepared is not None
    assert approved is not None
    if request is not None and (request["period"], request["cause"]) != (period, closed_as(settling.lines(engine, period)[0])):
        raise CheckFailed(f"the answers are to another close than that of {period}: clear settlement.close, and ask again")
    waiting = [payment for payment in settling.payments(engine, period) if payment.status == WAITING]
    bank_files.try_to_write(settings, period, bank_files.instructions(where, waiting) if waiting else [])
    today = datetime.now(UTC).date()
    booking, paid, left_out = settling.pay(engine, period, prepared=prepared, approved=approved, day=today)
    manifest, facts = f"{bank_folder(period)}/{MANIFEST}", {"booking_id": booking.booking_id}
    # Files that are published stay, also where this version would write the same payments otherwise.
    if paid and not where.store.exists(manifest):
        batches = bank_files.batches(where, booking, period, paid)
        files = dict(file for batch in batches for file in bank_files.bank_files(settings, batch))
        publish(where, bank_folder(period), files, {**facts, "messages": bank_files.messages(batches)})
    names = sorted(where.store.read_json(manifest)["files"]) if paid else []
    messages = {i: message for message, ids in bank_files.sent_messages(where.store, period).items() for i, _ in ids}
    rates = settling.lines(engine, period)[0].facts["rates"]
    table = payments_table(period, settling.payments(engine, period), messages, rates)
    publish(where, payments_folder(period), {"payments.csv": to_csv(table)}, facts)
    for payment_id, reason in sorted(left_out.items()):
        log.warning("payment %s is left out: %s", payment_id, visible(reason))
    log.info("booking %d: %d payments of %s, %d left out", booking.booking_id, len(paid), period, len(left_out))
    return [f"{bank_folder(period)}/{name}" for name in names]


def reconcile(where: Where, period: str) -> int:
    """Compare bank files with the ledger; returns the number of payments sent, or raises CheckFailed with differences."""
    payments = settling.payments(where.ledger, period)
    details = bank_files.details_of(where, payments)
    if problems := list(bank_files.differences(where.store, period, payments, details)):
        raise CheckFailed(f"{bank_folder(period)} does not hold: {'; '.join(problems)}")
    log.info("%d payments of %s: bank files and ledger agree", len(payments), period)
    return len(bank_files.sent(payments))


def check_period(where: Where, period: str) -> tuple[str, list[Check]]:
    """The folder of a closed period, and the results of its checks: files, signatures, ledger, bank files, statements."""
    store, engine = where.store, where.ledger
    booking, lines = settling.lines(engine, period)
    payments, keys = settling.payments(engine, period), trusted_keys(where.settings.settlement)
    tables = {closing_folder(period): ("closing.csv", closing_table(period, lines, booking.facts["rates"]))}
    if any(payment.status != WAITING for payment in payments):
        messages = {i: message for message, ids in bank_files.sent_messages(store, period).items() for i, _ in ids}
        tables[payments_folder(period)] = ("payments.csv", payments_table(period, payments, messages, booking.facts["rates"]))
    checks = []
    for folder, (file, table) in tables.items():
        name = folder.rsplit("/", 1)[-1]
        if not store.exists(f"{folder}/{MANIFEST}"):
            checks.append(Check(name, (f"{name} of {period} are in the ledger, but there is no {folder}/{MANIFEST}",)))
            continue
        checks += [Check(f"{name}: {check.name}", check.problems) for check in verify(store, folder, keys=keys)]
        checks.append(Check(f"{name}: ledger", tuple(lines_that_differ(store, f"{folder}/{file}", to_csv(table).decode()))))
    if store.exists(f"{bank_folder(period)}/{MANIFEST}"):
        checks += [Check(f"bank: {check.name}", check.problems) for check in verify(store, bank_folder(period), keys=keys)]
    # Without the key of payees, accounts are not compared.
    details = bank_files.details_of(where, payments) if where.settings.payees.keys else {}
    checks.append(Check("files for banks", tuple(bank_files.differences(store, period, payments, details))))
    if store.exists(f"{statements_folder(period)}/{MANIFEST}"):
        of_statements = verify(store, statements_folder(period), keys=keys)
        checks += [Check(f"statements: {check.name}", check.problems) for check in of_statements]
    return closing_folder(period).rsplit("/", 1)[0], checks
