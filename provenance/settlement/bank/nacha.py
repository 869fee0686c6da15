"""Writes credits for the American clearing house: a NACHA file with one batch of prearranged payments (PPD); reads returns.

A file of returns has the original entries, each with an addenda record of type 99 that says why it came back (Nacha Operating
Rules, appendix three and four); one of type 98 only asks for other bank details, and the payment stands.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC

from provenance.core.errors import InputError
from provenance.settlement.bank.batches import Batch, Instruction, check, compare, unique
from provenance.settlement.bank.character_set import latin
from provenance.settlement.bank.days import FEDERAL_RESERVE, bank_day
from provenance.settlement.bank.status_reports import PENDING, RETURNED, BankAnswer, Outcome, Part
from provenance.settlement.payees.details import Method

COLUMNS, BLOCK = 94, 10
LETTERS_OF_ID = 15
AMOUNTS, SUMS, ENTRIES, HASHES = 10**10, 10**12, 10**6, 10**10
CURRENCY = "USD"
CREDITS, CHECKING, SAVINGS = "220", "22", "32"
RETURN, CHANGE = "99", "98"
# What may stand behind the last record: blanks, and what old systems end a file with.
END_OF_FILE = " \t\r\n\x1a\x00"
# The returns that are most frequent for credits, in words.
REASONS = {
    "R02": "account closed",
    "R03": "no account, or unable to locate it",
    "R04": "invalid account number",
    "R06": "returned at the originating bank's request",
    "R12": "branch sold to another bank",
    "R13": "invalid routing number",
    "R14": "payee or account holder is deceased",
    "R15": "payee or account holder is deceased",
    "R16": "account frozen",
    "R17": "the receiving bank's edit criteria",
    "R20": "no account for transfers",
    "R23": "refused by the receiver",
    "R24": "duplicate entry",
    "R31": "permissible return",
}
DUPLICATE = "R24"


def clearing_file(batch: Batch) -> bytes:
    """Write the file that orders a batch, and read it back; equal batches make equal bytes.

    Raises:
        InputError: the clearing house would refuse the file; the error names the payment.
        AssertionError: the file differs from the batch.
    """
    check(batch, Method.nacha)
    instructions, payer = batch.sorted, batch.payer
    for instruction in instructions:
        if instruction.amount >= AMOUNTS:
            raise InputError(instruction.where, expected=f"less than {AMOUNTS} cents", found=f"{instruction.amount}")
    total = sum(instruction.amount for instruction in instructions)
    if total >= SUMS or len(instructions) >= ENTRIES:
        expected = f"less than {SUMS} cents and {ENTRIES} payments"
        raise InputError(f"batch {batch.message_id}", expected=expected, found=f"{total} and {len(instructions)}")
    unique([i.payment_id[:LETTERS_OF_ID] for i in instructions], f"ids that differ in their first {LETTERS_OF_ID} letters")
    created, odfi, company = batch.created_at.astimezone(UTC), payer.nacha_origin[:8], payer.nacha_company.upper()
    bank, name = _text(payer.nacha_bank, "payer: nacha_bank", 23), _text(payer.name, "payer: name", 23)
    described, on = _text(batch.reference, "reference", 10), bank_day(batch.on, FEDERAL_RESERVE)
    hashed = sum(int(instruction.payee.routing[:8]) for instruction in instructions) % HASHES
    sums = f"{hashed:010d}{0:012d}{total:012d}"
    lines = [
        f"101 {payer.nacha_origin}{company:>10}{created:%y%m%d%H%M}A094101{bank:<23}{name:<23}{'':8}",
        f"5{CREDITS}{name[:16]:<16}{'':20}{company:<10}PPD{described:<10}{'':6}{on:%y%m%d}{'':3}1{odfi}{1:07d}",
        *(_entry(instruction, f"{odfi}{number:07d}") for number, instruction in enumerate(instructions, 1)),
        f"8{CREDITS}{len(instructions):06d}{sums}{company:<10}{'':19}{'':6}{odfi}{1:07d}",
    ]
    blocks = -(-(len(lines) + 1) // BLOCK)
    lines.append(f"9{1:06d}{blocks:06d}{len(instructions):08d}{sums}{'':39}")
    lines += ["9" * COLUMNS] * (blocks * BLOCK - len(lines))
    data = "".join(f"{line}\n" for line in lines).encode("ascii")
    verify(batch, data)
    return data


def _text(text: str, where: str, limit: int) -> str:
    return latin(text, where, limit).upper()


def _entry(instruction: Instruction, trace: str) -> str:
    payee = instruction.payee
    code = SAVINGS if payee.savings else CHECKING
    name = _text(payee.name, f"{instruction.where}: name", 22)
    number = instruction.payment_id[:LETTERS_OF_ID]
    return f"6{code}{payee.routing}{payee.account:<17}{instruction.amount:010d}{number:<15}{name:<22}{'':2}0{trace}"


def read_back(data: bytes) -> list[tuple[str, int, str, str]]:
    """The entries in a file: beginning of the id, cents, currency, and routing number with account."""
    return [(name, cents, CURRENCY, f"{routing} {account}") for name, cents, routing, account in _entries(data)]


def _entries(data: bytes) -> list[tuple[str, int, str, str]]:
    """Id, cents, routing number and account of every entry."""
    lines = [line for line in data.decode("ascii").splitlines() if line[0] == "6"]
    return [(line[39:54].rstrip(), int(line[29:39]), line[3:12], line[12:29].rstrip()) for line in lines]


def verify(batch: Batch, data: bytes) -> None:
    """Check a file against its own sums and its batch; AssertionError names the payment or the sum."""
    lines, rows = data.decode("ascii").splitlines(), _entries(data)
    compare(batch, read_back(data), LETTERS_OF_ID)
    if len(lines) % BLOCK or any(len(line) != COLUMNS for line in lines):
        raise AssertionError(f"clearing file {batch.message_id}: not in blocks of {BLOCK} lines of {COLUMNS} columns")
    hashed = sum(int(routing[:8]) for _, _, routing, _ in rows) % HASHES
    sums = (len(rows), hashed, 0, sum(cents for _, cents, _, _ in rows))
    controls = {"8": ((4, 10), (10, 20), (20, 32), (32, 44)), "9": ((13, 21), (21, 31), (31, 43), (43, 55))}
    for line in lines[len(rows) + 2 : len(rows) + 4]:
        if tuple(int(line[first:last]) for first, last in controls.get(line[0], ())) != sums:
            raise AssertionError(f"clearing file {batch.message_id}: a control record is not that of its entries")


def is_clearing_file(data: bytes) -> bool:
    """Whether data begins as a file of the clearing house does."""
    line = data.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    return line.startswith(b"101") and b"094101" in line[:COLUMNS] and line.isascii()


def read_returns(data: bytes, where: str) -> BankAnswer:
    """Read a file of returns; raises InputError naming the line if its records do not fit together."""
    text = data.decode("ascii", errors="replace").rstrip(END_OF_FILE)
    lines = [line for line in text.splitlines() if line.strip(END_OF_FILE)]
    if len(lines) == 1 and len(text) > COLUMNS:  # records that nothing separates
        lines = [text[first : first + COLUMNS] for first in range(0, len(text), COLUMNS)]
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS or not line[0].isdigit():
            raise InputError(f"{where} line {number}", expected=f"a record of {COLUMNS} columns", found=f"one of {len(line)}")
    parts: list[Part] = []
    entries = 0
    for number, line in enumerate((line.ljust(COLUMNS) for line in lines), 1):
        if line[0] == "6":
            entries += 1
            parts.append(_returned(line, lines[number] if number < len(lines) else "", entries, f"{where} line {number}"))
    sums = sum(
        int(line[13:21]) for line in lines if line[0] == "9" and line[:COLUMNS] != "9" * COLUMNS and line[13:21].isdigit()
    )
    counted = entries + sum(line[0] == "7" for line in lines)
    if sums != counted:
        raise InputError(where, expected=f"{sums} entries and addenda, as its control record says", found=f"{counted}")
    return BankAnswer("nacha returns", lines[0][23:33].strip(), "", tuple(parts))


def _returned(line: str, addenda: str, number: int, where: str) -> Part:
    """An entry with its addenda record."""
    place, kind, code = f"entry {number}", addenda[1:3] if addenda.startswith("7") else "", addenda[3:6].strip()
    texts = tuple(filter(None, (line[39:54].strip(), line[54:76].strip(), addenda[35:79].strip())))
    part = Part(place, f"{where}: {place}", texts=texts)
    if not line[29:39].isdigit():
        return replace(part, problem=InputError(part.where, expected="an amount in cents", found=repr(line[29:39])))
    reason = " ".join(filter(None, (code, REASONS.get(code, ""), addenda[35:79].strip())))
    outcome = Outcome(line[39:54].strip(), PENDING, int(line[29:39]), CURRENCY, reason, texts=texts)
    if kind == RETURN:
        outcome = replace(outcome, status=RETURNED, duplicate=code == DUPLICATE)
    elif kind != CHANGE:
        found = f"type {kind}" if kind else "none"
        return replace(part, problem=InputError(part.where, expected="an addenda record of type 99 or 98", found=found))
    return replace(part, outcomes=(outcome,))
