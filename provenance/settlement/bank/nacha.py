"""Writes credits for the American clearing house: a NACHA file with one batch of prearranged payments (PPD)."""

from __future__ import annotations

from datetime import UTC

from provenance.core.errors import InputError
from provenance.settlement.bank.batches import Batch, Instruction, check, compare, unique
from provenance.settlement.bank.character_set import latin
from provenance.settlement.payees.details import Method

COLUMNS, BLOCK = 94, 10
LETTERS_OF_ID = 15
AMOUNTS, SUMS, ENTRIES, HASHES = 10**10, 10**12, 10**6, 10**10
CURRENCY = "USD"
CREDITS, CHECKING, SAVINGS = "220", "22", "32"


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
    described = _text(batch.reference, "reference", 10)
    hashed = sum(int(instruction.payee.routing[:8]) for instruction in instructions) % HASHES
    sums = f"{hashed:010d}{0:012d}{total:012d}"
    lines = [
        f"101 {payer.nacha_origin}{company:>10}{created:%y%m%d%H%M}A094101{bank:<23}{name:<23}{'':8}",
        f"5{CREDITS}{name[:16]:<16}{'':20}{company:<10}PPD{described:<10}{'':6}{batch.on:%y%m%d}{'':3}1{odfi}{1:07d}",
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
