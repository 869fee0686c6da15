"""Stages of a settlement: a period is closed, two people approve, and what they approved goes to banks.

Bank and tax details are read here and nowhere else. They go into the files below `bank/`; never into a log, an XCom or an
export.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice, zip_longest
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from provenance.core.contracts import ESCROW
from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import Store, sha256, to_csv
from provenance.core.text import visible
from provenance.settlement import ledger
from provenance.settlement.bank import iso20022, nacha, paypal
from provenance.settlement.bank.batches import Batch, Instruction, Payer
from provenance.settlement.books import CLOSE, NIGHT, Booking
from provenance.settlement.exports.export import MANIFEST, described, write_folder
from provenance.settlement.exports.keys import signing_key, trusted_keys
from provenance.settlement.exports.verification import Check, verify
from provenance.settlement.months import settling
from provenance.settlement.months.closings import closing_table, escrow_ages, payments_table, request
from provenance.settlement.months.periods import (
    PAY,
    Payee,
    Terms,
    bank_folder,
    closing_folder,
    payments_folder,
    statements_folder,
)  # fmt: skip
from provenance.settlement.months.settling import LEFT_OUT, SETTLEMENT, WAITING, Payment
from provenance.settlement.months.withholding import rate_for, read_withholding
from provenance.settlement.payees import vault as payee_vault
from provenance.settlement.payees.details import Details, Method, explain
from provenance.settlement.payees.register import payees_in_force, register_of
from provenance.settlement.publish import code_version
from tasks.dag_parameters import approval
from tasks.database import open_books, open_ledger
from tasks.settings import PayerSettings, Settings, load, with_store

log = logging.getLogger("provenance.settle")


SUFFIX = {Method.iso20022: "xml", Method.paypal: "csv", Method.nacha: "ach"}
LETTERS_OF_ID = (None, paypal.LETTERS_OF_ID, nacha.LETTERS_OF_ID)
READ_BACK = {"xml": iso20022.read_back, "csv": paypal.read_back, "ach": nacha.read_back}


def settled_period(interval_start: datetime | None, asked: str | None = None) -> str:
    """The period that a run settles: the one asked for, or the month in which its data interval starts (UTC)."""
    if asked:
        return settling.parse_period("run of settle_period: period", asked)
    if interval_start is None:
        hint = "Trigger it with a period, such as 2026-11."
        raise InputError(
            "run of settle_period", expected="a period, or a data interval that starts in it", found="none", hint=hint
        )
    return f"{interval_start.astimezone(UTC):%Y-%m}"


def close(period: str) -> dict[str, str]:
    """Close a period and publish what that found; returns what people are asked to approve."""
    settings = load()
    store, engine = open_books(settings)
    today = datetime.now(UTC).date()
    details = payees_in_force(settings)
    payees = _payees(settings, details)
    if period not in {closed.period for closed in ledger.bookings(engine, kind=CLOSE)}:
        _try_to_write(settings, period, _smallest(details))
    booking, lines = settling.close(engine, period, payees, Terms(settings.settlement.minimum), day=today, by=SETTLEMENT)
    escrow = escrow_ages(ledger.by_day(engine, ESCROW, through=booking.booking_id), settling.last_day(period))
    files = {"closing.csv": to_csv(closing_table(period, lines, booking.facts["rates"])), "escrow.csv": to_csv(escrow)}
    _publish(store, closing_folder(period), files, {"booking_id": booking.booking_id}, signing_key(settings.settlement))
    rates = {f"{s} to {t}": f"{rate} ({evidence})" for (s, t), (rate, evidence) in settling.rates(engine, period).items()}
    digest = sha256(files["closing.csv"])
    where = store.locate(f"{closing_folder(period)}/closing.csv")
    paid = sum(line.outcome == PAY for line in lines)
    log.info("period %s is closed as booking %d: %d balances, %d to be paid", period, booking.booking_id, len(lines), paid)
    return {
        "period": period,
        "subject": f"Payments of {period}: {paid}",
        "body": request(
            period,
            lines,
            rates,
            holds=ledger.standing(engine, through=booking.booking_id).held,
            missing=_days_without_a_night(engine, period),
            digest=digest,
            where=where,
        ),
    }


def preview(settings: Settings, period: str) -> dict[str, Any]:
    """What closing a period now would find; nothing is booked or written. The period may be one that is not over.

    Returns:
        `period`; `over`: whether it is; `lines`; `holds`: why owners would be on hold; `missing`: days that no night has paid.

    Raises:
        InputError: it is closed; or what would stop the close, a rate alone excepted.
    """
    engine = open_ledger(settings.database, settings.store.open())
    today = datetime.now(UTC).date()
    details = payees_in_force(settings)
    payees = _payees(settings, details)
    lines, holds = settling.preview(engine, period, payees, Terms(settings.settlement.minimum), day=today)
    _try_to_write(settings, period, _smallest(details))
    return {
        "period": period,
        "over": period < f"{today:%Y-%m}",
        "lines": lines,
        "holds": holds,
        "missing": [day for day in _days_without_a_night(engine, period) if day < today],
    }


def _payees(settings: Settings, details: Mapping[str, tuple[int, Details]]) -> dict[str, Payee]:
    """What a close has to know of everybody who is registered."""
    path = settings.settlement.withholding
    table = read_withholding(path)
    return {
        owner: Payee(owner, payee.currency, rate_for(table, payee, str(path)), version)
        for owner, (version, payee) in details.items()
    }


def _smallest(details: Mapping[str, tuple[int, Details]]) -> list[Instruction]:
    """A payment to everybody who is registered, to see whether it could be sent."""
    return [Instruction(f"of{n}", 1, payee.currency, payee) for n, (_, payee) in enumerate(details.values())]


def pay(period: str, prepared: Mapping[str, Any], approved: Mapping[str, Any]) -> list[str]:
    """Book the payments that two people have approved, as Airflow says, and write bank files; returns their keys."""
    settings = load()
    store, engine = open_books(settings)
    today = datetime.now(UTC).date()
    waiting = [payment for payment in settling.payments(engine, period) if payment.status == WAITING]
    _try_to_write(settings, period, _instructions(settings, waiting) if waiting else [])
    booking, paid, left_out = settling.pay(engine, period, prepared=approval(prepared), approved=approval(approved), day=today)
    batches = _batches(settings, store, booking, period, paid) if paid else []
    messages = {i.payment_id: batch.message_id for batch in batches for i in batch.instructions}
    files = dict(file for batch in batches for file in _bank_files(settings, batch))
    facts, key = {"booking_id": booking.booking_id}, signing_key(settings.settlement)
    if files:
        _publish(store, bank_folder(period), files, {**facts, "messages": _messages(batches)}, key)
    table = payments_table(
        period, settling.payments(engine, period), messages, settling.lines(engine, period)[0].facts["rates"]
    )
    _publish(store, payments_folder(period), {"payments.csv": to_csv(table)}, facts, key)
    for payment_id, reason in sorted(left_out.items()):
        log.warning("payment %s is left out: %s", payment_id, visible(reason))
    log.info("booking %d: %d payments of %s, %d left out", booking.booking_id, len(paid), period, len(left_out))
    return [f"{bank_folder(period)}/{name}" for name in files]


def reconcile(period: str) -> int:
    """Hold the files for banks against the ledger; returns how many payments there are. CheckFailed names what differs."""
    settings, store = with_store()
    payments = settling.payments(open_ledger(settings.database, store), period)
    if problems := list(_in_bank_files(store, period, payments, _details(settings, payments))):
        raise CheckFailed(f"{bank_folder(period)} does not hold: {'; '.join(problems)}")
    log.info("%d payments of %s stand in the bank files as in the ledger, or nowhere", len(payments), period)
    return len(_sent(payments))


def check_period(settings: Settings, period: str) -> tuple[str, list[Check]]:
    """Where a closed period is published, and what was checked: files, signatures, the ledger, the files for banks."""
    store, engine = open_books(settings)
    booking, lines = settling.lines(engine, period)
    payments, keys = settling.payments(engine, period), trusted_keys(settings.settlement)
    tables = {closing_folder(period): ("closing.csv", closing_table(period, lines, booking.facts["rates"]))}
    bank = f"{bank_folder(period)}/{MANIFEST}"
    if any(payment.status != WAITING for payment in payments):
        sent = store.read_json(bank)["messages"].items() if store.exists(bank) else ()
        messages = {payment_id: message for message, ids in sent for payment_id, _ in ids}
        tables[payments_folder(period)] = ("payments.csv", payments_table(period, payments, messages, booking.facts["rates"]))
    checks = []
    for folder, (name, table) in tables.items():
        what = folder.rsplit("/", 1)[-1]
        if not store.exists(f"{folder}/{MANIFEST}"):
            checks.append(Check(what, (f"{what} of {period} are in the ledger, but there is no {folder}/{MANIFEST}",)))
            continue
        checks += [Check(f"{what}: {check.name}", check.problems) for check in verify(store, folder, keys=keys)]
        checks.append(Check(f"{what}: ledger", tuple(_lines_that_differ(store, f"{folder}/{name}", to_csv(table).decode()))))
    if store.exists(bank):
        checks += [Check(f"bank: {check.name}", check.problems) for check in verify(store, bank_folder(period), keys=keys)]
    # Whose account is whose can be told by who has the key alone.
    details = _details(settings, payments) if settings.payees.keys else {}
    checks.append(Check("files for banks", tuple(_in_bank_files(store, period, payments, details))))
    if store.exists(f"{statements_folder(period)}/{MANIFEST}"):
        found = verify(store, statements_folder(period), keys=keys)
        checks += [Check(f"statements: {check.name}", check.problems) for check in found]
    return closing_folder(period).rsplit("/", 1)[0], checks


def _sent(payments: Iterable[Payment]) -> dict[str, tuple[int, str]]:
    """What the bank was told to pay, by payment."""
    return {p.payment_id: (p.line.paid, p.line.pay_currency) for p in payments if p.status not in {WAITING, LEFT_OUT}}


def _in_bank_files(store: Store, period: str, payments: Sequence[Payment], details: Mapping[str, Details]) -> Iterator[str]:
    """What differs between the files for banks and the ledger, and the details of payees, as far as they are known."""
    folder, booked = bank_folder(period), _sent(payments)
    # Some formats have room for the beginning of an identifier alone.
    whole = {payment_id[:length]: payment_id for payment_id in booked for length in LETTERS_OF_ID}
    found: dict[str, tuple[int, str]] = {}
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
        for short, amount, currency, account in rows:
            payment_id = whole.get(short, short)
            if payment_id in found:
                yield f"payment {payment_id} is in two files"
            found[payment_id] = (amount, currency)
            if payment_id in details and details[payment_id].account_of != account:
                yield f"payment {payment_id}: goes to another account than that of its payee when the period was closed"
    for payment_id in sorted({*booked, *found}):
        if booked.get(payment_id) != found.get(payment_id):
            sent, known = found.get(payment_id, "nothing"), booked.get(payment_id, "nothing")
            yield f"payment {payment_id}: the bank files say {sent}, the ledger {known}"


def _lines_that_differ(store: Store, key: str, wanted: str) -> Iterator[str]:
    """The first lines of a table that are not what the ledger says."""
    name, found = key.rsplit("/", 1)[-1], store.read(key).decode(errors="replace")
    pairs = zip_longest(found.splitlines(), wanted.splitlines(), fillvalue="nothing")
    differ = ((number, has, says) for number, (has, says) in enumerate(pairs, start=1) if has != says)
    yield from (f"{name} line {number}: {has!r}, the ledger says {says!r}" for number, has, says in islice(differ, 3))


def payer(settings: PayerSettings) -> Payer:
    """Who pays; an error names the setting."""
    try:
        return Payer.model_validate(settings.model_dump())
    except ValidationError as error:
        raise explain(error, "settings: payer") from None


def _details(settings: Settings, payments: Iterable[Payment]) -> dict[str, Details]:
    """To whom payments go: the versions of payees that were in force when the period was closed; none that is removed."""
    lines = {payment.payment_id: payment.line for payment in payments}
    if not lines:
        return {}
    found = payee_vault.versions(*register_of(settings), {(line.owner_id, line.payee_version) for line in lines.values()})
    return {
        payment_id: found[line.owner_id, line.payee_version]
        for payment_id, line in lines.items()
        if (line.owner_id, line.payee_version) in found
    }


def _instructions(settings: Settings, payments: Sequence[Payment]) -> list[Instruction]:
    """What banks are told to pay; raises InputError where somebody's details were removed."""
    details = _details(settings, payments)
    for payment in payments:
        if payment.payment_id not in details:
            where = f"payment {payment.payment_id}: payee {payment.line.owner_id}, version {payment.line.payee_version}"
            raise InputError(where, expected="its details", found="none: they were removed")
    return [Instruction(p.payment_id, p.line.paid, p.line.pay_currency, details[p.payment_id]) for p in payments]


def _try_to_write(settings: Settings, period: str, instructions: Sequence[Instruction]) -> None:
    """Write files for banks and throw them away: raises InputError before anything moves that could not be sent."""
    now = datetime.now(UTC)
    for method in sorted({instruction.payee.method for instruction in instructions}):
        these = tuple(instruction for instruction in instructions if instruction.payee.method == method)
        who = payer(settings.payer)
        if missing := who.needs(method):
            expected = f"{', '.join(missing)}: {len(these)} payees are paid by {method}"
            raise InputError("settings: payer", expected=expected, found="nothing")
        try:
            _bank_files(settings, Batch("check", now, now.date(), who, f"Royalties {period}", these))
        except InputError as error:
            owner = next((i.payee.owner_id for i in these if error.where.split(":")[0] == i.where), "")
            where = f"payee {owner}" if owner else error.where
            raise InputError(where, expected=error.expected, found=error.found, hint=error.hint) from None


def _batches(settings: Settings, store: Store, booking: Booking, period: str, paid: Sequence[Payment]) -> list[Batch]:
    """The payments by method."""
    by_method: dict[Method, list[Instruction]] = defaultdict(list)
    for instruction in _instructions(settings, paid):
        by_method[instruction.payee.method].append(instruction)
    whose = str(store.read_json("store.json")["store_id"])[:8]
    return [
        Batch(
            message_id=f"{whose}-{booking.booking_id}-{method}",
            created_at=booking.booked_at,
            on=booking.day,
            payer=payer(settings.payer),
            reference=f"Royalties {period}",
            instructions=tuple(instructions),
        )
        for method, instructions in sorted(by_method.items())
    ]


def _bank_files(settings: Settings, batch: Batch) -> list[tuple[str, bytes]]:
    """The files of a batch, by name."""
    method = batch.instructions[0].payee.method
    if method == Method.iso20022:
        written = [iso20022.credit_transfer(batch, settings.settlement.bank_format)]
    elif method == Method.nacha:
        written = [nacha.clearing_file(batch)]
    else:
        written = paypal.payouts(batch)
    numbers = [""] if len(written) == 1 else [f"-{number}" for number in range(1, len(written) + 1)]
    names = [f"{batch.message_id}{number}.{SUFFIX[method]}" for number in numbers]
    return list(zip(names, written, strict=True))


def _messages(batches: Iterable[Batch]) -> dict[str, list[tuple[str, str]]]:
    """Payments and their currencies by message, so that a bank's answer to one cannot speak of another's."""
    return {batch.message_id: [(i.payment_id, i.currency) for i in batch.sorted] for batch in batches}


def _publish(store: Store, folder: str, files: Mapping[str, bytes], facts: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    manifest = {**facts, "code_version": code_version(), "files": described(files)}
    if write_folder(store, folder, files, manifest, key):
        log.info("published %s", store.locate(folder))


def _days_without_a_night(engine: sa.Engine, period: str) -> list[date]:
    """Days of a period that no night has paid."""
    last = settling.last_day(period)
    paid = {booking.day for booking in ledger.bookings(engine, kind=NIGHT)}
    days = [last.replace(day=number) for number in range(1, last.day + 1)]
    return [day for day in days if day not in paid]
