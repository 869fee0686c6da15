"""Writes payouts by PayPal: files for its web form, each with one currency and at most 5,000 rows; reads its reports on them.

Reports are those that PayPal's pages offer as CSV: of a batch of payouts, and of activity. Columns are found by their names,
in any order and case; statuses are those of a payout item (https://developer.paypal.com/api/payments.payouts-batch/v1/).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from itertools import chain

from provenance.core.errors import InputError
from provenance.core.money import format_minor, minor_digits
from provenance.settlement.bank.batches import Batch, Instruction, check, compare, unique
from provenance.settlement.bank.character_set import latin
from provenance.settlement.bank.status_reports import PAID, PENDING, REJECTED, RETURNED, BankAnswer, Outcome, Part
from provenance.settlement.payees.details import Method

# The names of columns stand within so many lines.
LINES_ABOVE = 30
ROWS, LETTERS_OF_ID, LETTERS_OF_NOTE = 5_000, 30, 400
WALLET = "PAYPAL"
CURRENCIES = frozenset(
    "AUD BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF ILS JPY MXN MYR NOK NZD PHP PLN SEK SGD THB TWD USD".split(),  # noqa: SIM905
)
# PayPal takes whole units only of these, though ISO 4217 may give them decimals.
WHOLE = frozenset({"HUF", "JPY", "TWD"})
# Names of columns, in small letters without signs.
_STATUS = ("status", "transaction status", "item status", "payout item status", "payment status")
_AMOUNT = ("amount", "gross", "gross amount", "payout amount", "payment amount", "transaction amount")
_CURRENCY = ("currency", "currency code", "amount currency", "payout currency")
_REASON = ("reason", "error", "error message", "error code", "reason code", "errors", "failure reason")
_TYPE = ("type", "transaction type")
_DATE = ("date", "transaction date")
_BATCH = ("batch id", "payout batch id", "sender batch id")
_STATUSES = {
    **dict.fromkeys(("success", "completed", "processed", "claimed", "paid"), PAID),
    **dict.fromkeys(("failed", "denied", "blocked", "canceled", "cancelled", "rejected"), REJECTED),
    **dict.fromkeys(("returned", "refunded", "reversed"), RETURNED),
    **dict.fromkeys(("pending", "unclaimed", "onhold", "on hold", "held", "processing", "new", "pending external"), PENDING),
}
# Signs of an amount below zero, as spreadsheets have them too.
_BELOW = re.compile(r"[-\u2212(]")
# Words of a row's type: money that came back, payouts, and what is neither, though it may be taken back, too ("Reversal of
# General Account Hold").
_BACK, _PAYOUT = re.compile("revers|refund|return|cancel"), re.compile(r"\bpay(outs?|ments?)?\b|\bmasspay|\bsen[dt]\b")
_NO_PAYOUT = re.compile(r"\bfees?\b|\bholds?\b|reserve|review|conver|authori|dispute|chargeback|withdraw")
# Of reports in other languages than English, names of the columns of currency and amount.
_FOREIGN = frozenset({"währung", "waehrung", "devise", "divisa", "valuta", "moeda", "brutto", "brut", "bruto", "lordo"})


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


def is_report(data: bytes) -> bool:
    """Whether data is a table with the columns of a report on payouts."""
    try:
        return next(_header(_rows(data)), None) is not None
    except (UnicodeDecodeError, csv.Error):
        return False


def read_report(data: bytes, where: str) -> BankAnswer:
    """Read a report on payouts; ids of payments are found in any column."""
    rows = _rows(data)
    at, columns = next(_header(rows))
    parts, batch = [], ""
    for number, row in enumerate(rows[at + 1 :], at + 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = {name: row[column].strip() if column < len(row) else "" for name, column in columns.items()}
        batch = batch or cells.get("batch", "")
        texts = tuple(dict.fromkeys(cell.strip() for cell in row if cell.strip()))
        part = Part(f"line {number}", f"{where} line {number}", texts=texts)
        try:
            outcomes = tuple(_outcomes(cells, texts, part.where))
        except InputError as error:
            parts.append(replace(part, problem=error, told=True))
        else:
            parts.append(replace(part, outcomes=outcomes))
    return BankAnswer("paypal payouts", batch, "", tuple(_of_one_sign(parts)))


def _of_one_sign(parts: Sequence[Part]) -> Iterator[Part]:
    """Parts; where a report has money that went out as amounts below zero, one above zero is no payout that was paid."""
    signed = any(outcome.status == PAID and outcome.sign < 0 for part in parts for outcome in part.outcomes)
    for part in parts:
        outcomes = part.outcomes
        if signed:
            came = "money that came in, of a type that does not say so"
            outcomes = tuple(replace(o, unusual=came) if o.status == PAID and o.sign > 0 else o for o in outcomes)
        yield replace(part, outcomes=outcomes)


def _rows(data: bytes) -> list[list[str]]:
    """The rows of a table in any of the encodings and separators that PayPal's pages give."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("cp1252")
    # Notes may have more of one sign than there are columns: the row of names decides.
    beginning = "\n".join(text.splitlines()[:LINES_ABOVE])
    found = (s for s in ",;\t" if next(_header(list(csv.reader(io.StringIO(beginning, newline=""), delimiter=s))), None))
    separator = next(found, None) or max(",;\t", key=beginning.count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def is_foreign(data: bytes) -> bool:
    """Whether data looks like a report of PayPal's in another language than English."""
    try:
        rows = _rows(data[:65536])
    except (UnicodeDecodeError, csv.Error):
        return False
    return any(len({cell.strip().casefold() for cell in row} & _FOREIGN) > 1 for row in rows[:LINES_ABOVE])


def _header(rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, dict[str, int]]]:
    """The row of names of columns, which may stand below a summary, and the columns that are read."""
    wanted = {"status": _STATUS, "amount": _AMOUNT, "currency": _CURRENCY, "reason": _REASON, "type": _TYPE, "batch": _BATCH}
    wanted["date"] = _DATE
    for at, row in enumerate(rows[:LINES_ABOVE]):
        names = [" ".join(re.sub("[_./()-]", " ", cell.casefold()).split()) for cell in row]
        columns = {
            key: names.index(found) for key, known in wanted.items() if (found := next((n for n in known if n in names), None))
        }
        if {"status", "amount", "currency"} <= columns.keys():
            yield at, columns


def _outcomes(cells: dict[str, str], texts: tuple[str, ...], where: str) -> Iterator[Outcome]:
    kind, status = cells.get("type", "").casefold(), cells["status"].casefold()
    if kind and (_NO_PAYOUT.search(kind) or not (_PAYOUT.search(kind) or _BACK.search(kind))):
        # Strangers' rows of other types are left; one with an id of ours is not.
        pending = _STATUSES.get(status) == PENDING
        unusual = "" if pending else f"a row of the type {cells['type']!r}"
        sign = 0 if _NO_PAYOUT.search(kind) else -1 if _BELOW.search(cells["amount"]) else 1
        yield Outcome("", PENDING if pending else PAID, unusual=unusual, sign=sign, texts=texts)
        return
    if status not in _STATUSES:
        raise InputError(f"{where}: status", expected=f"one of {', '.join(_STATUSES)}", found=repr(cells["status"]))
    outcome = RETURNED if _BACK.search(kind) and _STATUSES[status] == PAID else _STATUSES[status]
    currency = cells["currency"].upper()
    if currency not in CURRENCIES:
        raise InputError(
            f"{where}: currency", expected=f"one of {', '.join(sorted(CURRENCIES))}", found=repr(cells["currency"])
        )
    reason = cells.get("reason", "")
    duplicate = outcome != PAID and "duplicate" in reason.casefold()
    units, sign = _units(cells["amount"], currency, where), -1 if _BELOW.search(cells["amount"]) else 1
    # A payout that was uploaded twice stands there on two days.
    day = "".join(cells.get("date", "").split())
    yield Outcome("", outcome, units, currency, reason[:140], duplicate=duplicate, sign=sign, reference=day, texts=texts)


def _units(text: str, currency: str, where: str) -> int:
    """Minor units of an amount as people's settings spell it: `-1,234.50`, `1.234,50`, `EUR 12.50`."""
    number = re.sub(r"[^0-9.,]", "", text)
    last = max(number.rfind("."), number.rfind(","))
    if last >= 0 and re.fullmatch("0{1,2}", number[last + 1 :]):  # as reports write currencies without decimals, too
        number, last = number[:last], -1
    decimals = len(number) - last - 1 if last >= 0 else 0
    digits = 0 if currency in WHOLE else minor_digits(currency)
    # Three digits after a separator are thousands in every currency of PayPal's.
    parts = (number[:last], number[last + 1 :]) if last >= 0 and decimals <= digits else (number, "")
    try:
        units = Decimal(f"{re.sub('[.,]', '', parts[0]) or '0'}.{parts[1] or '0'}").scaleb(minor_digits(currency))
    except InvalidOperation:
        units = Decimal("0.5")
    if not number or units != int(units) or (last >= 0 and decimals > digits and decimals != 3):
        raise InputError(f"{where}: amount", expected=f"an amount in {currency}", found=repr(text))
    return int(units)
