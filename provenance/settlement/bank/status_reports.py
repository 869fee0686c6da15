"""Reads answers of banks: status reports on a file (pain.002), and statements of the paying account (camt.053).

Each entry of a statement, and each transaction of a report, is a part that is checked by itself: one that cannot be read stops
no other. Which parts concern our payments is decided by `incoming`, which knows what was sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from lxml import etree

from provenance.core.errors import InputError, did_you_mean
from provenance.core.money import minor_digits
from provenance.settlement.bank.documents import NAMESPACE, amount, known, parse, violation

PAID, REJECTED, RETURNED, PENDING = "paid", "rejected", "returned", "pending"
REPORT, STATEMENT = "pain.002", "camt.053"
# Of a message or group: nothing of it was or will be executed.
_WHOLLY = frozenset({"RJCT", "CANC"})
_STATUS = {"ACSC": PAID, "ACCC": PAID, "RJCT": REJECTED, "CANC": REJECTED}
# Reversals after a return and after a recall, and returns of a clearing house.
_RETURNS = frozenset({"RRTN", "RPCR", "ARET"})
# What words of a bank may say of a second copy, in a text or a code of its own.
_TWICE = re.compile(
    r"\bAM05|\bDUPL|duplicat|doppel|\bdouble|doublon|dubbel"
    r"|already (been )?(processed|received|executed)|bereits (verarbeitet|ausgef)",
    re.IGNORECASE,
)
# Reasons of ISO 20022's external code set, and banks' own: a second copy of a message, group or payment; the first one stands.
DUPLICATES = frozenset({"AM05", "DUPL", "DU01", "DU02", "DU03", "DU04", "DU05"})
NOBODY = frozenset({"", "NOTPROVIDED"})
NO_REFERENCE = NOBODY | {"NONREF", "0"}
LETTERS_OF_REASON = 140
# What may be missing in a document of which a part is broken, so that the rest is read.
_PARTS = {REPORT: "TxInfAndSts", STATEMENT: "Ntry"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one payment, in the bank's words.

    Attributes:
        payment_id: as the bank has it; empty if it names none.
        amount: in minor units, if the bank states it: of a debit with what was added to it, of a return what came back.
        instructed: the ordered amount in the same currency, where it is stated beside another; charge: charges, where they are.
        duplicate: whether the reason is that a second copy was sent, by its code; perhaps: whether words alone say so.
        certain: whether a credit is marked as a return. An unmarked one is one only if it carries a payment of ours.
        unusual: what is odd about it: then it is never booked by itself.
        sign: -1 for an amount that a table states below zero, 1 for another that it states.
        reference: of an entry of a statement: the day of booking (or `-`) and the bank's own names of it, without blanks.
        texts: of all that the bank says of it.
    """

    payment_id: str
    status: str
    amount: int | None = None
    currency: str | None = None
    reason: str = ""
    instructed: int | None = None
    charge: int = 0
    duplicate: bool = False
    perhaps: bool = False
    certain: bool = True
    unusual: str = ""
    reference: str = ""
    sign: int = field(default=0, compare=False)
    texts: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def named(self) -> bool:
        """Whether it names a payment, of whomever."""
        return self.payment_id.upper() not in NOBODY


@dataclass(frozen=True)
class Part:
    """An entry of a statement, a transaction of a report, or a line of a table.

    Attributes:
        place: its name within the file, the same whenever the file is read: `entry 3 of statement s1`.
        where: the same with file and line, for errors.
        outcomes: of its transactions; whole: of the entry itself, if it states an amount.
        count: number of payments in it, if it says so.
        texts: of all that it says.
        account: of the statement, as the bank writes it.
        unclear: what its state is, if that says neither that it is booked nor pending: then it is nobody's, or stops.
        problem: why it cannot be read; told: whether its texts are known nevertheless, so that it may be nobody's.
    """

    place: str
    where: str
    outcomes: tuple[Outcome, ...] = ()
    whole: Outcome | None = None
    count: int | None = None
    texts: tuple[str, ...] = field(default=(), repr=False)
    account: str = ""
    unclear: str = ""
    problem: InputError | None = None
    told: bool = False


@dataclass(frozen=True)
class BankAnswer:
    """The content of one file.

    Attributes:
        kind: from its namespace: `camt.053.001.08`.
        answers_to: id of the message that a report answers; empty for statements.
        parts: in the file's order.
        all_rejected: whether the whole message is rejected; rejected_groups: ids of wholly rejected groups.
        reason: of these rejections; duplicate: whether it is that a second copy was sent; perhaps: whether words alone say so.
        duplicate_groups: of the rejected groups, those for that reason; perhaps_groups: those of which words alone say so.
    """

    kind: str
    message_id: str
    answers_to: str
    parts: tuple[Part, ...] = ()
    all_rejected: bool = False
    rejected_groups: tuple[str, ...] = ()
    reason: str = ""
    duplicate: bool = False
    duplicate_groups: tuple[str, ...] = ()
    perhaps: bool = False
    perhaps_groups: tuple[str, ...] = ()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Outcomes that name a payment, of ours or of others, and are certain."""
        return tuple(outcome for part in self.parts for outcome in part.outcomes if outcome.named and outcome.certain)

    @property
    def others(self) -> int:
        """Number of transactions, and of entries without any, that name no payment."""
        unnamed = sum(not (outcome.named and outcome.certain) for part in self.parts for outcome in part.outcomes)
        return unnamed + sum(not part.outcomes and not part.unclear and part.problem is None for part in self.parts)

    @property
    def problems(self) -> tuple[InputError, ...]:
        """Why parts cannot be read."""
        return tuple(part.problem for part in self.parts if part.problem is not None)


def read_answers(data: bytes, where: str) -> BankAnswer:
    """Read a bank's file; raises InputError for other files, and for what breaks its schema outside of its parts."""
    root = _document(parse(data, where), where)
    name = etree.QName(root)
    kind = (name.namespace or "").removeprefix(NAMESPACE)
    kinds = [*known(REPORT), *known(STATEMENT)]
    if kind not in kinds:
        expected = f"a Document of {', '.join(kinds)}"
        # Notifications and reports within a day say less, and are not final.
        hint = "Ask the bank for camt.053." if kind.startswith(("camt.052.", "camt.054.")) else did_you_mean(kind, kinds)
        raise InputError(f"{where} line {root.sourceline}", expected=expected, found=repr(kind), hint=hint)
    broken = _broken(root, kind, where) if violation(root, kind) else {}
    return _report(root[0], kind, where, broken) if kind.startswith(REPORT) else _statement(root[0], kind, where, broken)


def _document(root: Any, where: str) -> Any:
    """The document itself, also in an envelope with a business application header."""
    if etree.QName(root).localname == "Document":
        return root
    inside = [node for node in root.iter("{*}Document") if (etree.QName(node).namespace or "").startswith(NAMESPACE)]
    if len(inside) > 1:
        raise InputError(where, expected="one Document in an envelope", found=f"{len(inside)}", hint="Split it.")
    return inside[0] if inside else root


def _broken(root: Any, kind: str, where: str) -> dict[int, InputError]:
    """Errors of the parts that break the schema, by their position; raises InputError if more of the document does."""
    tag = next(tag for message, tag in _PARTS.items() if kind.startswith(message))
    parts = list(root.iter(f"{{{NAMESPACE}{kind}}}{tag}"))
    skeleton = deepcopy(root)
    # Where the parts of each parent begin.
    parents: list[Any] = []
    first: dict[Any, int] = {}
    for node in list(skeleton.iter(f"{{{NAMESPACE}{kind}}}{tag}")):
        parent = node.getparent()
        first.setdefault(parent, parent.index(node))
        parents.append(parent)
        parent.remove(node)
    _require(skeleton, kind, where)
    errors = {}
    for number, (part, parent) in enumerate(zip(parts, parents, strict=True)):
        alone = deepcopy(part)
        parent.insert(first[parent], alone)
        if broken := violation(skeleton, kind):
            errors[number] = InputError(f"{where} line {part.sourceline}", expected=f"what {kind} allows", found=broken[1])
        parent.remove(alone)
    if not errors:
        _require(root, kind, where)
    return errors


def _require(root: Any, kind: str, where: str) -> None:
    if broken := violation(root, kind):
        raise InputError(f"{where} line {broken[0]}", expected=f"what {kind} allows", found=broken[1])


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


def _texts(node: Any) -> tuple[str, ...]:
    """Texts below a node, each once, without those of amounts; and the lines of a text that a bank has broken, as one."""
    children = [child for child in node.iter() if isinstance(child.tag, str) and child.text and not child.get("Ccy")]
    lines: dict[tuple[Any, str], list[str]] = {}
    for child in children:
        lines.setdefault((child.getparent(), child.tag), []).append(child.text.strip())
    broken = ("".join(each) for each in lines.values() if len(each) > 1)
    return tuple(dict.fromkeys(text for text in (*(child.text.strip() for child in children), *broken) if text))


def _is_duplicate(nodes: Sequence[Any]) -> bool:
    codes = [_text(node, "Rsn/Cd", "Rsn/Prtry").upper() for node in nodes]
    return any(code in DUPLICATES or "DUPLICATE" in code for code in codes)


def _says_duplicate(nodes: Sequence[Any]) -> bool:
    """Whether words, and no code, say that a second copy was sent."""
    words = [
        text for node in nodes for text in (_text(node, "Rsn/Prtry"), *(more.text or "" for more in _all(node, "AddtlInf")))
    ]
    return not _is_duplicate(nodes) and any(_TWICE.search(text) for text in words)


def _all(node: Any, path: str) -> list[Any]:
    return list(node.iterfind(_path(path)))


def _report(message: Any, kind: str, where: str, broken: dict[int, InputError]) -> BankAnswer:
    group = _first(message, "OrgnlGrpInfAndSts")
    whole, above = _text(group, "GrpSts").upper(), _all(group, "StsRsnInf")
    reasons, duplicate, perhaps = [_reason(above)], _is_duplicate(above), _says_duplicate(above)
    parts: list[Part] = []
    rejected, twice, perhaps_twice, number = [], [], [], 0
    for of_group in message.iterfind(_path("OrgnlPmtInfAndSts")):
        name, status, nodes = (
            _text(of_group, "OrgnlPmtInfId"),
            _text(of_group, "PmtInfSts").upper(),
            _all(of_group, "StsRsnInf"),
        )
        reason = _reason(nodes)
        if status in _WHOLLY:
            rejected.append(name)
            reasons.append(reason)
            twice += [name] if _is_duplicate(nodes) else []
            perhaps_twice += [name] if _says_duplicate(nodes) else []
        for transaction in of_group.iterfind(_path("TxInfAndSts")):
            number += 1
            place = f"transaction {number}"
            part = Part(place, f"{where} line {transaction.sourceline}: {place}", texts=(name, *_texts(transaction)))
            if number - 1 in broken:
                parts.append(replace(part, problem=broken[number - 1]))
                continue
            try:
                outcome = _transaction(transaction, status or whole, reason or reasons[0], where)
            except InputError as error:
                parts.append(replace(part, problem=error))
                continue
            if not _WHOLLY.isdisjoint((whole, status)) and outcome.status != REJECTED:
                at = f"{where} line {transaction.sourceline}: payment {outcome.payment_id}"
                contradicts = InputError(at, expected="rejected, as all that it is part of", found=outcome.status)
                parts.append(replace(part, problem=contradicts))
                continue
            if outcome.status == REJECTED:
                second = (_is_duplicate(nodes), _says_duplicate(nodes)) if reason else (duplicate, perhaps)
                outcome = _as_above(outcome, transaction, *second, reason or reasons[0])
            parts.append(replace(part, outcomes=(outcome,)))
    return BankAnswer(
        kind=kind,
        message_id=_text(message, "GrpHdr/MsgId"),
        answers_to=_text(group, "OrgnlMsgId"),
        parts=tuple(parts),
        all_rejected=whole in _WHOLLY,
        rejected_groups=tuple(rejected),
        reason=_cut("; ".join(dict.fromkeys(reason for reason in reasons if reason))),
        duplicate=duplicate,
        duplicate_groups=tuple(twice),
        perhaps=perhaps,
        perhaps_groups=tuple(perhaps_twice),
    )


def _transaction(transaction: Any, above: str, reason: str, where: str) -> Outcome:
    node = _first(transaction, "OrgnlTxRef/Amt/InstdAmt")
    units, currency = amount(node, where) if node is not None else (None, None)
    status = _STATUS.get(_text(transaction, "TxSts").upper() or above, PENDING)
    nodes = _all(transaction, "StsRsnInf")
    return Outcome(
        _text(transaction, "OrgnlEndToEndId"),
        status,
        units,
        currency,
        _reason(nodes) or (reason if status == REJECTED else ""),
        duplicate=_is_duplicate(nodes) and status == REJECTED,
        perhaps=_says_duplicate(nodes) and status == REJECTED,
        texts=_texts(transaction),
    )


def _as_above(outcome: Outcome, transaction: Any, duplicate: bool, perhaps: bool, reason: str) -> Outcome:
    """A rejection beside that of all it is part of: one with a reason of its own is then no certain second copy."""
    if not _all(transaction, "StsRsnInf"):
        return replace(outcome, duplicate=duplicate, perhaps=perhaps)
    if outcome.duplicate or not (duplicate or perhaps):
        return outcome
    return replace(outcome, perhaps=True, reason=_cut(f"{outcome.reason}; of all: {reason}"))


def _statement(message: Any, kind: str, where: str, broken: dict[int, InputError]) -> BankAnswer:
    parts, count = [], -1
    names: Counter[str] = Counter()
    for statement in message.iterfind(_path("Stmt")):
        name = _text(statement, "Id")
        names[name] += 1
        if names[name] > 1:  # some banks number the statements of each account
            name = f"{name}, number {names[name]} of that name"
        account = _text(statement, "Acct/Id/IBAN", "Acct/Id/Othr/Id")
        for number, entry in enumerate(statement.iterfind(_path("Ntry")), 1):
            count += 1
            place = f"entry {number} of statement {name}"
            part = Part(place, f"{where} line {entry.sourceline}: {place}", texts=_texts(entry), account=account)
            if count in broken:
                parts.append(replace(part, problem=broken[count]))
                continue
            try:
                read = _entry(entry, part, where)
            except InputError as error:
                read = replace(part, problem=error)
            parts += [read] if read is not None else []
    return BankAnswer(kind, _text(message, "GrpHdr/MsgId"), "", tuple(parts))


def _transactions(entry: Any) -> list[Any]:
    return list(entry.iterfind(_path("NtryDtls/TxDtls")))


def _entry(entry: Any, part: Part, where: str) -> Part | None:
    """A booked entry, or the debits of a pending one; None for entries that say nothing of payments."""
    state = _text(entry, "Sts/Cd", "Sts/Prtry", "Sts")
    match state if _first(entry, "Sts/Prtry") is None else "":
        case "BOOK":
            _check_sum(entry, part.where)
            status = ""
        case "PDNG" | "FUTR" if _text(entry, "CdtDbtInd") == "DBIT":
            status = PENDING
        case "PDNG" | "FUTR":
            return None
        case _:
            return replace(part, unclear=state or "no state")
    transactions = _transactions(entry)
    outcomes = [_booked(transaction, entry, where, alone=len(transactions) == 1) for transaction in transactions]
    whole = _booked(entry, entry, where, alone=True)
    if status:
        outcomes = [replace(outcome, status=PENDING) for outcome in outcomes if outcome.status == PAID]
        whole = replace(whole, status=PENDING)
        if transactions and not outcomes:
            return None
        if not any(outcome.named for outcome in outcomes):
            return None
    counts = [_text(batch, "NbOfTxs") for batch in _all(entry, "NtryDtls/Btch")]
    count = sum(map(int, counts)) if counts and all(counts) else None
    return replace(part, outcomes=tuple(outcomes), whole=whole, count=count)


def _own_amount(transaction: Any) -> Any:
    return _first(transaction, "Amt", "AmtDtls/TxAmt/Amt", "AmtDtls/InstdAmt/Amt")


def _charges(node: Any, currency: str) -> Decimal:
    """Charges that a transaction or entry states in a currency."""
    total = Decimal(0)
    for charges in node.iterfind(_path("Chrgs")):
        stated = _first(charges, "TtlChrgsAndTaxAmt", "Amt")
        nodes = [stated] if stated is not None else _all(charges, "Rcrd/Amt")
        total += sum((Decimal(each.text) for each in nodes if each.get("Ccy") == currency), Decimal(0))
    return total


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
    added = sum((_charges(node, booked.get("Ccy")) for node in (entry, *transactions)), Decimal(0))
    if Decimal(booked.text) not in (total, total + added):
        expected = f"transactions that add up to {booked.text} {booked.get('Ccy')}"
        raise InputError(place, expected=expected, found=f"{total}")


def _booked(transaction: Any, entry: Any, where: str, *, alone: bool) -> Outcome:
    """The outcome of a transaction, or of an entry as a whole."""
    credit = (_text(transaction, "CdtDbtInd") or _text(entry, "CdtDbtInd")) == "CRDT"
    node = _own_amount(transaction)
    if node is None and alone:
        node = _first(entry, "Amt")
    ordered = _first(transaction, "AmtDtls/InstdAmt/Amt")
    # Paid from an account in another currency: compare the ordered amount, not the debited one.
    if not credit and ordered is not None and node is not None and ordered.get("Ccy") != node.get("Ccy"):
        node = ordered
    units, currency = amount(node, where) if node is not None else (None, None)
    instructed, charge = None, 0
    if units is not None and currency is not None:
        if ordered is not None and ordered.get("Ccy") == currency:
            instructed = amount(ordered, where)[0]
        stated = _charges(transaction, currency) or (_charges(entry, currency) if alone else Decimal(0))
        charge = int(stated.scaleb(minor_digits(currency)))
        # The transaction tells what was ordered, the entry what was moved.
        moved = _first(entry, "Amt")
        if alone and moved.get("Ccy") == currency and amount(moved, where)[0] != units:
            instructed = units if instructed is None else instructed
            units = amount(moved, where)[0]
    reasons = _all(transaction, "RtrInf") if transaction is not entry else _all(entry, "NtryDtls/TxDtls/RtrInf")
    reason = _reason(reasons) or _text(transaction, "AddtlTxInf") or _text(entry, "AddtlNtryInf")
    return Outcome(
        _text(transaction, "Refs/EndToEndId"),
        RETURNED if credit else PAID,
        units,
        currency,
        _cut(reason) if credit else "",
        instructed=instructed if instructed != units else None,
        charge=charge,
        duplicate=credit and (_is_duplicate(reasons) or _says_duplicate(reasons)),
        certain=not credit or _is_return(transaction, entry),
        unusual=_unusual(transaction, entry, credit=credit, alone=alone),
        reference=_reference(transaction, entry),
        texts=_texts(transaction),
    )


def _unusual(transaction: Any, entry: Any, *, credit: bool, alone: bool) -> str:
    """What is odd about the direction of a transaction; empty if nothing is."""
    if alone and _text(transaction, "CdtDbtInd") not in ("", _text(entry, "CdtDbtInd")):
        return "a transaction in the other direction than its entry"
    if credit:
        return ""
    if _text(entry, "RvslInd") in ("true", "1"):
        return "a debit that takes a credit back"
    return "a debit with the mark of a return" if _first(transaction, "RtrInf") is not None else ""


def _reference(transaction: Any, entry: Any) -> str:
    """The day of an entry and the bank's own names of it; empty if there is neither."""
    named = (_text(entry, "AcctSvcrRef"), _text(transaction, "Refs/AcctSvcrRef"))
    names = dict.fromkeys(squeezed for name in named if (squeezed := "".join(name.split())).upper() not in NO_REFERENCE)
    day = _text(entry, "BookgDt/Dt", "BookgDt/DtTm")[:10]
    return " ".join([day or "-", *names]) if day or names else ""


def _is_return(transaction: Any, entry: Any) -> bool:
    codes = {_text(node, "BkTxCd/Domn/Fmly/SubFmlyCd") for node in (transaction, entry)}
    return _text(entry, "RvslInd") in ("true", "1") or _first(transaction, "RtrInf") is not None or bool(codes & _RETURNS)
