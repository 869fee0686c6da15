"""What is to be paid by one file: who pays, whom, how much; whichever way the money then goes."""

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
    """The one who pays.

    Attributes:
        nacha_origin: the routing number of the bank that originates; nacha_bank: its name.
        nacha_company: the identification that this bank gave to the payer.
    """

    nacha_origin: RoutingNumber = Field("", repr=False)
    nacha_company: Annotated[str, spelt("[A-Za-z0-9]*", "letters and digits")] = Field("", max_length=10, repr=False)
    nacha_bank: str = Field("", max_length=23, repr=False)

    def needs(self, method: Method) -> list[str]:
        """Fields that a method needs and that are not given."""
        needed = {Method.iso20022: ("iban",), Method.nacha: ("nacha_origin", "nacha_company", "nacha_bank")}
        return [name for name in needed.get(method, ()) if not getattr(self, name)]


@dataclass(frozen=True)
class Instruction:
    """One payment: an amount in minor units, and to whom."""

    payment_id: str
    amount: int
    currency: str
    payee: Details = field(repr=False)

    @property
    def where(self) -> str:
        """How errors name it."""
        return f"payment {self.payment_id}"


@dataclass(frozen=True)
class Batch:
    """What one file pays.

    Attributes:
        created_at: in UTC; on: the day it is to be carried out.
        reference: what is paid, as the payee reads it: `Royalties 2026-11`.
    """

    message_id: str
    created_at: datetime
    on: date
    payer: Payer
    reference: str
    instructions: tuple[Instruction, ...]

    @property
    def sorted(self) -> list[Instruction]:
        """Instructions by payment, so that equal batches are equal files."""
        return sorted(self.instructions, key=lambda instruction: instruction.payment_id)

    @property
    def by_currency(self) -> dict[str, list[Instruction]]:
        """The same for each currency."""
        found: dict[str, list[Instruction]] = {currency: [] for currency in sorted({i.currency for i in self.instructions})}
        for instruction in self.sorted:
            found[instruction.currency].append(instruction)
        return found


def check(batch: Batch, method: Method) -> None:
    """Raise InputError for what no schema finds of a batch, all paid by one method; it never has a payee's details."""
    where = f"batch {batch.message_id}"
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9-]{0,30}", batch.message_id):
        raise InputError("batch", expected="a message id of 1 to 31 letters, digits and -", found=repr(batch.message_id))
    if batch.created_at.utcoffset() is None:
        raise InputError(f"{where}: created_at", expected="a time with its zone", found="one without")
    if not batch.instructions:
        raise InputError(where, expected="at least one payment", found="none")
    if missing := batch.payer.needs(method):
        raise InputError(f"{where}: payer", expected=f"{', '.join(missing)}, which the method {method} needs", found="nothing")
    for instruction in batch.instructions:
        _check(instruction, method)
    unique([instruction.payment_id for instruction in batch.instructions], "payment ids that differ")


def _check(instruction: Instruction, method: Method) -> None:
    where, payee = instruction.where, instruction.payee
    if not re.fullmatch("[A-Za-z0-9]{1,35}", instruction.payment_id):
        raise InputError("payment", expected="an id of 1 to 35 letters and digits", found=repr(instruction.payment_id))
    if instruction.amount <= 0:
        raise InputError(where, expected="an amount above zero", found=f"{instruction.amount}")
    if instruction.currency != payee.currency:
        raise InputError(where, expected=f"{payee.currency}, that its payee is paid in", found=instruction.currency)
    if payee.method != method:
        raise InputError(where, expected=f"a payee that is paid by {method}", found=f"one by {payee.method}")


def compare(
    batch: Batch, rows: Iterable[tuple[str, int, str, str]], letters: int | None = None, what: str = "the file"
) -> None:
    """Hold what was read back (id, minor units, currency, account) against the batch that was to be ordered.

    Args:
        letters: of an id that the format has room for.

    Raises:
        AssertionError: naming the payment that is missing, or another.
    """
    wanted = {i.payment_id[:letters]: (i.amount, i.currency, i.payee.account_of) for i in batch.instructions}
    for name, *found in rows:
        if wanted.pop(name, None) != tuple(found):
            raise AssertionError(f"payment {name}: the file does not order what the batch does")
    if wanted:
        raise AssertionError(f"payment {min(wanted)}: not in {what}")


def unique(ids: list[str], expected: str) -> None:
    """Raise InputError naming the first id that is there twice."""
    if twice := sorted(name for name, count in Counter(ids).items() if count > 1):
        raise InputError(f"payment {twice[0]}", expected=expected, found="one twice")
