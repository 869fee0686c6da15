"""Writes bank files from a period's payments, and compares them with the ledger.

Only this module and the register of payees read bank details. Details go into files below `bank/`, never into logs, XComs or
exports.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from provenance.core.errors import InputError
from provenance.core.published import MANIFEST
from provenance.core.settings import PayerSettings, Settings
from provenance.core.store import Store, sha256
from provenance.core.text import visible
from provenance.settlement.bank import iso20022, nacha, paypal
from provenance.settlement.bank.batches import Batch, Instruction, Payer
from provenance.settlement.books import Booking
from provenance.settlement.months.periods import bank_folder
from provenance.settlement.months.settling import LEFT_OUT, WAITING, Payment
from provenance.settlement.payees import vault as payee_vault
from provenance.settlement.payees.details import Details, Method, explain
from provenance.settlement.payees.register import register_of

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.settle")

SUFFIX = {Method.iso20022: "xml", Method.paypal: "csv", Method.nacha: "ach"}
LETTERS_OF_ID = (None, paypal.LETTERS_OF_ID, nacha.LETTERS_OF_ID)
READ_BACK = {"xml": iso20022.read_back, "csv": paypal.read_back, "ach": nacha.read_back}


def payer(settings: PayerSettings) -> Payer:
    """The payer of the settings; raises InputError naming the setting."""
    try:
        return Payer.model_validate(settings.model_dump())
    except ValidationError as error:
        raise explain(error, "settings: payer") from None


def details_of(where: Where, payments: Iterable[Payment]) -> dict[str, Details]:
    """Bank details by payment, in the versions that were in force at the close; removed versions are left out."""
    lines = {payment.payment_id: payment.line for payment in payments}
    if not lines:
        return {}
    wanted = {(line.owner_id, line.payee_version) for line in lines.values()}
    versions = payee_vault.versions(*register_of(where), wanted)
    return {
        payment_id: versions[line.owner_id, line.payee_version]
        for payment_id, line in lines.items()
        if (line.owner_id, line.payee_version) in versions
    }


def instructions(where: Where, payments: Sequence[Payment]) -> list[Instruction]:
    """Instructions for payments; raises InputError if bank details were removed."""
    details = details_of(where, payments)
    for payment in payments:
        if payment.payment_id not in details:
            place = f"payment {payment.payment_id}: payee {payment.line.owner_id}, version {payment.line.payee_version}"
            raise InputError(place, expected="its details", found="none: they were removed")
    return [Instruction(p.payment_id, p.line.paid, p.line.pay_currency, details[p.payment_id]) for p in payments]


def smallest(details: Mapping[str, tuple[int, Details]]) -> list[Instruction]:
    """One minor unit to every registered payee: a trial for `try_to_write`."""
    return [Instruction(f"of{n}", 1, payee.currency, payee) for n, (_, payee) in enumerate(details.values())]


def try_to_write(settings: Settings, period: str, instructions: Sequence[Instruction]) -> None:
    """Write bank files without keeping them: raises InputError for payments that could not be sent, before any booking."""
    now = datetime.now(UTC)
    for method in sorted({instruction.payee.method for instruction in instructions}):
        group = tuple(instruction for instruction in instructions if instruction.payee.method == method)
        source = payer(settings.payer)
        if missing := source.needs(method):
            expected = f"{', '.join(missing)}: {len(group)} payees are paid by {method}"
            raise InputError("settings: payer", expected=expected, found="nothing")
        try:
            bank_files(settings, Batch("check", now, now.date(), source, f"Royalties {period}", group))
        except InputError as error:
            owner = next((i.payee.owner_id for i in group if error.where.split(":")[0] == i.where), "")
            place = f"payee {owner}" if owner else error.where
            raise InputError(place, expected=error.expected, found=error.found, hint=error.hint) from None


def batches(where: Where, booking: Booking, period: str, paid: Sequence[Payment]) -> list[Batch]:
    """The payments of a booking, one batch for each method."""
    by_method: dict[Method, list[Instruction]] = defaultdict(list)
    for instruction in instructions(where, paid):
        by_method[instruction.payee.method].append(instruction)
    prefix = str(where.store.read_json("store.json")["store_id"])[:8]
    return [
        Batch(
            message_id=f"{prefix}-{booking.booking_id}-{method}",
            created_at=booking.booked_at,
            on=booking.day,
            payer=payer(where.settings.payer),
            reference=f"Royalties {period}",
            instructions=tuple(group),
        )
        for method, group in sorted(by_method.items())
    ]


def bank_files(settings: Settings, batch: Batch) -> list[tuple[str, bytes]]:
    """The files of a batch, by name."""
    method = batch.instructions[0].payee.method
    if method == Method.iso20022:
        written = [iso20022.credit_transfer(batch, settings.settlement.bank_format)]
        for owner in iso20022.without_agent(batch):
            log.warning("payee %s: paid outside SEPA without a bic, which banks may ask for", visible(owner))
    elif method == Method.nacha:
        written = [nacha.clearing_file(batch)]
    else:
        written = paypal.payouts(batch)
    numbers = [""] if len(written) == 1 else [f"-{number}" for number in range(1, len(written) + 1)]
    names = [f"{batch.message_id}{number}.{SUFFIX[method]}" for number in numbers]
    return list(zip(names, written, strict=True))


def messages(batches: Iterable[Batch]) -> dict[str, list[tuple[str, str]]]:
    """Payments with currencies, by message: the answer to a message may name only these."""
    return {batch.message_id: [(i.payment_id, i.currency) for i in batch.sorted] for batch in batches}


def sent_messages(store: Store, period: str | None = None) -> dict[str, list[tuple[str, str]]]:
    """Payments with currencies, by message, from the manifests of a period's bank files, or of all."""
    keys = [f"{bank_folder(period)}/{MANIFEST}"] if period else store.list("bank")
    sent: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        if key.endswith(f"/{MANIFEST}") and store.exists(key):
            named = store.read_json(key)["messages"]
            sent |= {name: [(payment_id, currency) for payment_id, currency in payments] for name, payments in named.items()}
    return sent


def sent(payments: Iterable[Payment]) -> dict[str, tuple[int, str]]:
    """Minor units and currency by payment, of those sent to banks."""
    return {p.payment_id: (p.line.paid, p.line.pay_currency) for p in payments if p.status not in {WAITING, LEFT_OUT}}


def differences(store: Store, period: str, payments: Sequence[Payment], details: Mapping[str, Details]) -> Iterator[str]:
    """Differences between bank files, ledger and bank details, one sentence each; details may be missing."""
    folder, booked = bank_folder(period), sent(payments)
    # Some formats cut ids.
    full_ids = {payment_id[:length]: payment_id for payment_id in booked for length in LETTERS_OF_ID}
    ordered: dict[str, tuple[int, str]] = {}
    if not store.exists(f"{folder}/{MANIFEST}"):
        if booked:
            yield f"{len(booked)} payments are in the ledger, but there is no {folder}/{MANIFEST}"
        return
    for name, stated in store.read_json(f"{folder}/{MANIFEST}")["files"].items():
        try:
            data = store.read(f"{folder}/{name}")
            rows = READ_BACK[name.rsplit(".", 1)[-1]](data)
        except InputError as error:
            yield f"{name}: {error.found}"
            continue
        if sha256(data) != stated["sha256"]:
            yield f"{name}: SHA-256 is {sha256(data)}, the manifest says {stated['sha256']}"
        for read_id, amount, currency, account in rows:
            payment_id = full_ids.get(read_id, read_id)
            if payment_id in ordered:
                yield f"payment {payment_id} is in two files"
            ordered[payment_id] = (amount, currency)
            if payment_id in details and details[payment_id].account_of != account:
                yield f"payment {payment_id}: goes to another account than that of its payee when the period was closed"
    for payment_id in sorted({*booked, *ordered}):
        if booked.get(payment_id) != ordered.get(payment_id):
            ordered_amount, booked_amount = ordered.get(payment_id, "nothing"), booked.get(payment_id, "nothing")
            yield f"payment {payment_id}: the bank files say {ordered_amount}, the ledger {booked_amount}"
