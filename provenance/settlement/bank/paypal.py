"""Writes payouts by PayPal: files for its web form, each with one currency and at most 5,000 rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import chain

from provenance.core.errors import InputError
from provenance.core.money import format_minor, minor_digits
from provenance.settlement.bank.batches import Batch, Instruction, check, compare, unique
from provenance.settlement.bank.character_set import latin
from provenance.settlement.payees.details import Method

ROWS, LETTERS_OF_ID, LETTERS_OF_NOTE = 5_000, 30, 400
WALLET = "PAYPAL"
CURRENCIES = frozenset(
    "AUD BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF ILS JPY MXN MYR NOK NZD PHP PLN SEK SGD THB TWD USD".split(),  # noqa: SIM905
)
# PayPal takes whole units only of these, though ISO 4217 may give them decimals.
WHOLE = frozenset({"HUF", "JPY", "TWD"})


def payouts(batch: Batch) -> list[bytes]:
    """Write the files that order a batch, and read them back.

    Rows have recipient, amount, currency, id, note and wallet; there is no header.

    Raises:
        InputError: PayPal would refuse the files; the error names the payment.
        AssertionError: the files differ from the batch.
    """
    check(batch, Method.paypal)
    note = latin(batch.reference, "reference", LETTERS_OF_NOTE)
    # In a spreadsheet, a cell that begins otherwise could be a formula.
    if not note[0].isalnum():
        raise InputError("reference", expected="a letter or digit first", found=repr(note[0]))
    unique(
        [i.payment_id[:LETTERS_OF_ID] for i in batch.instructions], f"ids that differ in their first {LETTERS_OF_ID} letters"
    )
    files = []
    for instructions in batch.by_currency.values():
        rows = [_row(instruction, note) for instruction in instructions]
        files += [_file(rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]
    verify(batch, files)
    return files


def _row(instruction: Instruction, note: str) -> tuple[str, ...]:
    where, currency = instruction.where, instruction.currency
    if currency not in CURRENCIES:
        raise InputError(where, expected=f"a currency of PayPal's: {', '.join(sorted(CURRENCIES))}", found=currency)
    amount = Decimal(format_minor(instruction.amount, currency, symbol=False))
    if currency in WHOLE and amount != int(amount):
        raise InputError(where, expected=f"whole {currency}, which PayPal alone pays", found=f"{amount}")
    if not re.fullmatch("[A-Za-z0-9_][!-~]*", instruction.payee.paypal):
        found = "something else (not shown)"
        raise InputError(f"{where}: paypal", expected="a mail address in ASCII that begins with a letter or digit", found=found)
    text = str(int(amount)) if currency in WHOLE else str(amount)
    return instruction.payee.paypal, text, currency, instruction.payment_id[:LETTERS_OF_ID], note, WALLET


def _file(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("ascii")


def read_back(data: bytes) -> list[tuple[str, int, str, str]]:
    """The rows of a file: id, minor units, currency and recipient."""
    rows = csv.reader(io.StringIO(data.decode("ascii"), newline=""))
    return [
        (name, int(Decimal(text).scaleb(minor_digits(currency))), currency, mail) for mail, text, currency, name, *_ in rows
    ]


def verify(batch: Batch, files: Sequence[bytes]) -> None:
    """Check files against their batch; AssertionError names the payment."""
    read = [read_back(data) for data in files]
    compare(batch, chain.from_iterable(read), LETTERS_OF_ID, "the files")
    for rows in read:
        if len(rows) > ROWS or len({currency for _, _, currency, _ in rows}) != 1:
            raise AssertionError(f"payouts {batch.message_id}: a file of {len(rows)} rows, or of several currencies")
