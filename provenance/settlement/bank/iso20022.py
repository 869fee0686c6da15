"""Writes credit transfers for banks: pain.001, for SEPA and for other currencies.

Charges: in SEPA each side bears its own (`SLEV`, the only one that the rulebook knows); elsewhere they are shared (`SHAR`,
which CBPR+ takes and the EU's payment services directive demands). Addresses are structured, with town and country, as the EPC
and CBPR+ demand since November 2026. Debits are asked to be booked one by one, so that statements name every payment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date
from decimal import Decimal
from typing import Any

from lxml import etree

from provenance.core.errors import InputError
from provenance.core.money import format_minor, minor_digits
from provenance.settlement.bank.batches import Batch, Instruction, check, compare
from provenance.settlement.bank.character_set import latin
from provenance.settlement.bank.days import bank_day, calendar_of
from provenance.settlement.bank.documents import NAMESPACE, amount, parse, violation
from provenance.settlement.bank.sepa import OUTSIDE, in_scope
from provenance.settlement.payees.details import BankPlace, Method

VERSIONS = ("pain.001.001.09", "pain.001.001.11")
# Most digits of a control sum (ISO 20022); the largest amount in cents (SEPA rulebook).
DIGITS, SEPA_LIMIT = 18, 99_999_999_999
LETTERS_OF_ID = 12
_PLACE = (("StrtNm", "street", 70), ("BldgNb", "building", 16), ("PstCd", "post_code", 16), ("TwnNm", "town", 35))


def credit_transfer(batch: Batch, version: str = VERSIONS[0]) -> bytes:
    """Write the file that orders a batch, validate it and read it back; equal batches make equal bytes.

    Raises:
        InputError: banks would refuse the file; the error names the payment.
        AssertionError: the file differs from the batch.
    """
    if version not in VERSIONS:
        raise InputError("version", expected=f"one of {', '.join(VERSIONS)}", found=repr(version))
    check(batch, Method.iso20022)
    total = _sum(batch.instructions)
    if len(total.replace(".", "")) > DIGITS:
        raise InputError(f"batch {batch.message_id}", expected=f"a sum of at most {DIGITS} digits", found="a larger one")
    root = etree.Element(f"{{{NAMESPACE}{version}}}Document", nsmap={None: NAMESPACE + version})
    message = _add(root, "CstmrCdtTrfInitn")
    header = _add(message, "GrpHdr")
    _add(header, "MsgId", batch.message_id)
    _add(header, "CreDtTm", batch.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    _add(header, "NbOfTxs", str(len(batch.instructions)))
    _add(header, "CtrlSum", total)
    _add(header, "InitgPty/Nm", latin(batch.payer.name, "payer: name", 70))
    for currency, instructions in batch.by_currency.items():
        _add_group(_add(message, "PmtInf"), batch, currency, instructions)
    data: bytes = b'<?xml version="1.0" encoding="UTF-8"?>\n' + etree.tostring(root, encoding="UTF-8", pretty_print=True)
    verify(batch, data)
    return data


def _add(parent: Any, path: str, text: str | None = None) -> Any:
    for name in path.split("/"):
        parent = etree.SubElement(parent, f"{{{etree.QName(parent).namespace}}}{name}")
    parent.text = text
    return parent


def _sum(instructions: Sequence[Instruction]) -> str:
    """The control sum: decimal amounts of all currencies, added as plain numbers."""
    digits = max(minor_digits(i.currency) for i in instructions)
    units = sum(i.amount * 10 ** (digits - minor_digits(i.currency)) for i in instructions)
    whole, part = divmod(units, 10**digits)
    return f"{whole}.{part:0{digits}d}" if digits else str(whole)


def _add_group(group: Any, batch: Batch, currency: str, instructions: Sequence[Instruction]) -> None:
    _add(group, "PmtInfId", f"{batch.message_id}-{currency}")
    on = bank_day(batch.on, calendar_of(currency))
    _add(group, "PmtMtd", "TRF")
    _add(group, "BtchBookg", "false")
    _add(group, "NbOfTxs", str(len(instructions)))
    _add(group, "CtrlSum", _sum(instructions))
    _add(group, "ReqdExctnDt/Dt", on.isoformat())
    _add_party(_add(group, "Dbtr"), batch.payer, "payer")
    _add(group, "DbtrAcct/Id/IBAN", batch.payer.iban)
    agent = _add(group, "DbtrAgt/FinInstnId")
    _add(agent, *(("BICFI", batch.payer.bic) if batch.payer.bic else ("Othr/Id", "NOTPROVIDED")))
    for instruction in instructions:
        _add_transfer(_add(group, "CdtTrfTxInf"), batch, instruction, on)


def is_sepa(instruction: Instruction, payer: BankPlace, on: date) -> bool:
    """Whether a payment is a SEPA credit transfer on a day: in euros, between accounts of countries in scope."""
    ibans = (instruction.payee.iban, payer.iban)
    inside = all(in_scope(iban[:2], on) for iban in ibans)
    return instruction.currency == "EUR" and inside and instruction.payee.country not in OUTSIDE


def without_agent(batch: Batch) -> list[str]:
    """Payees of a batch that are paid abroad and outside SEPA without the BIC of their bank, which CBPR+ asks for."""
    abroad = [i.payee for i in batch.instructions if i.payee.iban[:2] != batch.payer.iban[:2] and not i.payee.bic]
    outside = {
        i.payee.owner_id for i in batch.instructions if not is_sepa(i, batch.payer, bank_day(batch.on, calendar_of(i.currency)))
    }
    return sorted({payee.owner_id for payee in abroad} & outside)


def _add_transfer(transfer: Any, batch: Batch, instruction: Instruction, on: date) -> None:
    payee, where = instruction.payee, instruction.where
    sepa = is_sepa(instruction, batch.payer, on)
    if sepa and instruction.amount > SEPA_LIMIT:
        limit = format_minor(SEPA_LIMIT, "EUR")
        raise InputError(where, expected=f"at most {limit} in SEPA", found=format_minor(instruction.amount, "EUR"))
    _add(transfer, "PmtId/EndToEndId", instruction.payment_id)
    if sepa:
        _add(transfer, "PmtTpInf/SvcLvl/Cd", "SEPA")
    node = _add(transfer, "Amt/InstdAmt", format_minor(instruction.amount, instruction.currency, symbol=False))
    node.set("Ccy", instruction.currency)
    _add(transfer, "ChrgBr", "SLEV" if sepa else "SHAR")
    if payee.bic:
        _add(transfer, "CdtrAgt/FinInstnId/BICFI", payee.bic)
    _add_party(_add(transfer, "Cdtr"), payee, where)
    _add(transfer, "CdtrAcct/Id/IBAN", payee.iban)
    mark = instruction.payment_id[:LETTERS_OF_ID]
    _add(transfer, "RmtInf/Ustrd", f"{latin(batch.reference, 'reference', 139 - len(mark))} {mark}")


def _add_party(node: Any, party: BankPlace, where: str) -> None:
    _add(node, "Nm", latin(party.name, f"{where}: name", 70))
    address = _add(node, "PstlAdr")
    for tag, name, limit in _PLACE:
        if text := getattr(party, name):
            _add(address, tag, latin(text, f"{where}: {name}", limit))
    _add(address, "Ctry", party.country)


def read_back(data: bytes) -> list[tuple[str, int, str, str]]:
    """The transfers in a file: end-to-end id, minor units, currency and IBAN."""
    return [
        (
            transfer.findtext("{*}PmtId/{*}EndToEndId"),
            *amount(transfer.find("{*}Amt/{*}InstdAmt"), "credit transfer"),
            transfer.findtext("{*}CdtrAcct/{*}Id/{*}IBAN"),
        )
        for transfer in parse(data, "credit transfer").iter("{*}CdtTrfTxInf")
    ]


def verify(batch: Batch, data: bytes) -> None:
    """Check a file against its schema, its own sums and its batch; AssertionError names the payment or sum."""
    root = parse(data, "credit transfer")
    if broken := violation(root, etree.QName(root).namespace.removeprefix(NAMESPACE)):
        raise AssertionError(f"credit transfer {batch.message_id}, line {broken[0]}: {broken[1]}")
    compare(batch, read_back(data))
    for group in (root[0], *root[0].iterfind("{*}PmtInf")):
        amounts = [Decimal(node.text) for node in group.iter("{*}InstdAmt")]
        head = group.find("{*}GrpHdr") if group is root[0] else group
        if (int(head.findtext("{*}NbOfTxs")), Decimal(head.findtext("{*}CtrlSum"))) != (len(amounts), sum(amounts)):
            raise AssertionError(f"credit transfer {batch.message_id}: a count or control sum is not that of its payments")
