"""Reads answers of banks: status reports on a file (pain.002), and statements of the paying account (camt.053)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from lxml import etree

from provenance.core.errors import InputError, did_you_mean
from provenance.settlement.bank.documents import NAMESPACE, amount, known, parse, violation

PAID, REJECTED, RETURNED, PENDING = "paid", "rejected", "returned", "pending"
REPORT, STATEMENT = "pain.002", "camt.053"
_STATUS = {"ACSC": PAID, "ACCC": PAID, "RJCT": REJECTED, "CANC": REJECTED}
# Reversals after a return and after a recall, and returns of a clearing house.
_RETURNS = frozenset({"RRTN", "RPCR", "ARET"})
_NOBODY = "NOTPROVIDED"
LETTERS_OF_REASON = 140


@dataclass(frozen=True)
class Outcome:
    """The outcome of one payment: `amount` in minor units if the bank states it, `reason` in the bank's words."""

    payment_id: str
    status: str
    amount: int | None = None
    currency: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class BankAnswer:
    """The content of one file.

    Attributes:
        kind: from its namespace: `camt.053.001.08`.
        answers_to: id of the message that a report answers; empty for statements.
        outcomes: of payments, in the file's order; a payment that was paid and returned has two.
        others: number of entries without a payment of ours.
        all_rejected: whether the whole message is rejected; rejected_groups: ids of wholly rejected groups.
        reason: of these rejections.
    """

    kind: str
    message_id: str
    answers_to: str
    outcomes: tuple[Outcome, ...]
    others: int = 0
    all_rejected: bool = False
    rejected_groups: tuple[str, ...] = ()
    reason: str = ""


def read_answers(data: bytes, where: str) -> BankAnswer:
    """Read a bank's file; raises InputError with line or entry for other files and files that contradict themselves."""
    root = parse(data, where)
    name = etree.QName(root)
    kind = (name.namespace or "").removeprefix(NAMESPACE)
    kinds = [*known(REPORT), *known(STATEMENT)]
    if kind not in kinds:
        expected = f"a Document of {', '.join(kinds)}"
        raise InputError(f"{where} line {root.sourceline}", expected=expected, found=repr(kind), hint=did_you_mean(kind, kinds))
    if broken := violation(root, kind):
        raise InputError(f"{where} line {broken[0]}", expected=f"what {kind} allows", found=broken[1])
    return _report(root[0], kind, where) if kind.startswith(REPORT) else _statement(root[0], kind, where)


def _path(path: str) -> str:
    return "/".join(f"{{*}}{name}" for name in path.split("/"))


def _text(node: Any, *paths: str) -> str:
    """The text at the first path that has any."""
    return next((text.strip() for path in paths if (text := node.findtext(_path(path)))), "")


def _first(node: Any, *paths: str) -> Any:
    return next((child for path in paths if (child := node.find(_path(path))) is not None), None)


def _reason(nodes: Iterable[Any]) -> str:
    parts = []
    for node in nodes:
        words = [_text(node, "Rsn/Cd", "Rsn/Prtry"), *(more.text or "" for more in node.iterfind(_path("AddtlInf")))]
        parts.append(" ".join(word.strip() for word in words if word.strip()))
    return _cut("; ".join(part for part in parts if part))


def _cut(text: str) -> str:
    return " ".join(text.split())[:LETTERS_OF_REASON].rstrip()


def _report(message: Any, kind: str, where: str) -> BankAnswer:
    group = _first(message, "OrgnlGrpInfAndSts")
    whole = _text(group, "GrpSts")
    reasons = [_reason(group.iterfind(_path("StsRsnInf")))]
    outcomes, rejected, others = [], [], 0
    for part in message.iterfind(_path("OrgnlPmtInfAndSts")):
        status = _text(part, "PmtInfSts")
        reason = _reason(part.iterfind(_path("StsRsnInf")))
        if status == "RJCT":
            rejected.append(_text(part, "OrgnlPmtInfId"))
            reasons.append(reason)
        for transaction in part.iterfind(_path("TxInfAndSts")):
            outcome = _transaction(transaction, status or whole, reason or reasons[0], where)
            if outcome is None:
                others += 1
                continue
            if "RJCT" in (whole, status) and outcome.status != REJECTED:
                place = f"{where} line {transaction.sourceline}: payment {outcome.payment_id}"
                raise InputError(place, expected="rejected, as all that it is part of", found=outcome.status)
            outcomes.append(outcome)
    return BankAnswer(
        kind=kind,
        message_id=_text(message, "GrpHdr/MsgId"),
        answers_to=_text(group, "OrgnlMsgId"),
        outcomes=tuple(outcomes),
        others=others,
        all_rejected=whole == "RJCT",
        rejected_groups=tuple(rejected),
        reason=_cut("; ".join(dict.fromkeys(reason for reason in reasons if reason))),
    )


def _transaction(transaction: Any, above: str, reason: str, where: str) -> Outcome | None:
    payment_id = _text(transaction, "OrgnlEndToEndId")
    if payment_id in ("", _NOBODY):
        return None
    node = _first(transaction, "OrgnlTxRef/Amt/InstdAmt")
    units, currency = amount(node, where) if node is not None else (None, None)
    status = _STATUS.get(_text(transaction, "TxSts") or above, PENDING)
    own = _reason(transaction.iterfind(_path("StsRsnInf")))
    return Outcome(payment_id, status, units, currency, own or (reason if status == REJECTED else ""))


def _statement(message: Any, kind: str, where: str) -> BankAnswer:
    outcomes, others = [], 0
    for statement in message.iterfind(_path("Stmt")):
        for number, entry in enumerate(statement.iterfind(_path("Ntry")), 1):
            place = f"{where} line {entry.sourceline}: entry {number} of statement {_text(statement, 'Id')}"
            match _text(entry, "Sts/Cd", "Sts"):
                case "BOOK":
                    _check_sum(entry, place)
                    answers = _entry(entry, where)
                    outcomes += [outcome for outcome in answers if outcome is not None]
                    others += answers.count(None)
                case "PDNG":
                    paid = [outcome for outcome in _entry(entry, where) if outcome is not None and outcome.status == PAID]
                    outcomes += [replace(outcome, status=PENDING) for outcome in paid]
    return BankAnswer(kind, _text(message, "GrpHdr/MsgId"), "", tuple(outcomes), others)


def _transactions(entry: Any) -> list[Any]:
    return list(entry.iterfind(_path("NtryDtls/TxDtls")))


def _entry(entry: Any, where: str) -> list[Outcome | None]:
    """Outcomes of an entry's transactions; None for a transaction without a payment of ours."""
    transactions = _transactions(entry)
    alone = len(transactions) == 1
    return [_booked(transaction, entry, where, alone=alone) for transaction in transactions] or [None]


def _own_amount(transaction: Any) -> Any:
    return _first(transaction, "Amt", "AmtDtls/TxAmt/Amt", "AmtDtls/InstdAmt/Amt")


def _check_sum(entry: Any, place: str) -> None:
    """Raise InputError if a batch debit differs from the sum of its transactions, where all amounts can be compared."""
    booked, transactions = _first(entry, "Amt"), _transactions(entry)
    amounts = [_own_amount(transaction) for transaction in transactions]
    batched = len(transactions) > 1 or (transactions and _first(entry, "NtryDtls/Btch") is not None)
    if not batched or _text(entry, "CdtDbtInd") != "DBIT":
        return
    if any(node is None or node.get("Ccy") != booked.get("Ccy") for node in amounts):
        return
    signs = [-1 if _text(transaction, "CdtDbtInd") == "CRDT" else 1 for transaction in transactions]
    total = sum(sign * Decimal(node.text) for sign, node in zip(signs, amounts, strict=True))
    if total != Decimal(booked.text):
        expected = f"transactions that add up to {booked.text} {booked.get('Ccy')}"
        raise InputError(place, expected=expected, found=f"{total}")


def _booked(transaction: Any, entry: Any, where: str, *, alone: bool) -> Outcome | None:
    payment_id = _text(transaction, "Refs/EndToEndId")
    credit = (_text(transaction, "CdtDbtInd") or _text(entry, "CdtDbtInd")) == "CRDT"
    if payment_id in ("", _NOBODY) or (credit and not _is_return(transaction, entry)):
        return None
    node = _own_amount(transaction)
    if node is None and alone:
        node = _first(entry, "Amt")
    ordered = _first(transaction, "AmtDtls/InstdAmt/Amt")
    # Paid from an account in another currency: compare the ordered amount, not the debited one.
    if not credit and ordered is not None and node is not None and ordered.get("Ccy") != node.get("Ccy"):
        node = ordered
    units, currency = amount(node, where) if node is not None else (None, None)
    if not credit:
        return Outcome(payment_id, PAID, units, currency)
    reason = _reason(transaction.iterfind(_path("RtrInf"))) or _text(transaction, "AddtlTxInf") or _text(entry, "AddtlNtryInf")
    return Outcome(payment_id, RETURNED, units, currency, _cut(reason))


def _is_return(transaction: Any, entry: Any) -> bool:
    codes = {_text(node, "BkTxCd/Domn/Fmly/SubFmlyCd") for node in (transaction, entry)}
    return _text(entry, "RvslInd") in ("true", "1") or _first(transaction, "RtrInf") is not None or bool(codes & _RETURNS)
