"""Holds the payments of one file, for any method of payment, and checks them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated

from pydantic import Field

from provenance.core.errors import InputError
from provenance.settlement.payees.details import BankPlace, Details, Method, RoutingNumber, spelt


class Payer(BankPlace):
    """The payer.

    Attributes:
        nacha_origin: routing number of the originating bank; nacha_bank: its name.
        nacha_company: the payer's identification at this bank.
    """

    nacha_origin: RoutingNumber = Field("", repr=False)
    nacha_company: Annotated[str, spelt("[A-Za-z0-9]*", "letters and digits")] = Field("", max_length=10, repr=False)
    nacha_bank: str = Field("", max_length=23, repr=False)

    def needs(self, method: Method) -> list[str]:
        """Fields that a method needs and the payer lacks."""
        needed = {Method.iso20022: ("iban",), Method.nacha: ("nacha_origin", "nacha_company", "nacha_bank")}
        return [name for name in needed.get(method, ()) if not getattr(self, name)]


@dataclass(frozen=True)
class Instruction:
    """One payment: an amount in minor units, and its payee."""

    payment_id: str
    amount: int
    currency: str
    payee: Details = field(repr=False)

    @property
    def where(self) -> str:
        """The payment's name in errors."""
        return f"payment {self.payment_id}"


@dataclass(frozen=True)
class Batch:
    """The payments of one file.

    Attributes:
        created_at: in UTC; on: the day of payment.
        reference: the text that payees read: `Royalties 2026-11`.
    """

    message_id: str
    created_at: datetime
    on: date
    payer: Payer
    reference: str
    instructions: tuple[Instruction, ...]

    @property
    def sorted(self) -> list[Instruction]:
        """Instructions in the order of ids, so that equal batches make equal files."""
        return sorted(self.instructions, key=lambda instruction: instruction.payment_id)

    @property
    def by_currency(self) -> dict[str, list[Instruction]]:
        """Sorted instructions by currency."""
        groups: dict[str, list[Instruction]] = {currency: [] for currency in sorted({i.currency for i in self.instructions})}
        for instruction in self.sorted:
            groups[instruction.currency].append(instruction)
        return groups


def check(batch: Batch, method: Method) -> None:
    """Check a batch beyond its schema; raises InputError, never with a payee's details."""
    place = f"batch {batch.message_id}"
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]{0,30}", batch.message_id):
        raise InputError("batch", expected="a message id of 1 to 31 letters, digits and -", found=repr(batch.message_id))
    if batch.created_at.utcoffset() is None:
        raise InputError(f"{place}: created_at", expected="a time with its zone", found="one without")
    if not batch.instructions:
        raise InputError(place, expected="at least one payment", found="none")
    if missing := batch.payer.needs(method):
        raise InputError(f"{place}: payer", expected=f"{', '.join(missing)}, which the method {method} needs", found="nothing")
    for instruction in batch.instructions:
        _check(instruction, method)
    unique([instruction.payment_id for instruction in batch.instructions], "payment ids that differ")


def _check(instruction: Instruction, method: Method) -> None:
    place, payee = instruction.where, instruction.payee
    if not re.fullmatch("[A-Za-z0-9]{1,35}", instruction.payment_id):
        raise InputError("payment", expected="an id of 1 to 35 letters and digits", found=repr(instruction.payment_id))
    if instruction.amount <= 0:
        raise InputError(place, expected="an amount above zero", found=f"{instruction.amount}")
    if instruction.currency != payee.currency:
        raise InputError(place, expected=f"{payee.currency}, the currency of its payee", found=instruction.currency)
    if payee.method != method:
        raise InputError(place, expected=f"a payee that is paid by {method}", found=f"one by {payee.method}")


def compare(
    batch: Batch, rows: Iterable[tuple[str, int, str, str]], letters: int | None = None, what: str = "the file"
) -> None:
    """Compare a file that was read back (id, minor units, currency, account) with its batch.

    Args:
        letters: longest id in the format.

    Raises:
        AssertionError: a payment is missing or differs; the error names it.
    """
    wanted = {i.payment_id[:letters]: (i.amount, i.currency, i.payee.account_of) for i in batch.instructions}
    for name, *order in rows:
        if wanted.pop(name, None) != tuple(order):
            raise AssertionError(f"payment {name}: the file does not order what the batch does")
    if wanted:
        raise AssertionError(f"payment {min(wanted)}: not in {what}")


def unique(ids: list[str], expected: str) -> None:
    """Raise InputError naming the first id that occurs twice."""
    if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
        raise InputError(f"payment {twice[0]}", expected=expected, found="one twice")
