"""Reads answers of banks, checks them against sent messages, and books each file whole or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import sha256
from provenance.core.text import visible
from provenance.settlement import ledger
from provenance.settlement.bank.status_reports import PAID, PENDING, REJECTED, RETURNED, BankAnswer, Outcome, read_answers
from provenance.settlement.months import settling
from provenance.settlement.months.bank_files import sent_messages

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.answers")

# The store folder for answers of banks.
FOLDER = "bank/answers"
# Ids of our payments; an account statement may have other payments, too.
OURS = re.compile("[0-9a-f]{32}")


def read_new(where: Where) -> int:
    """Book all answers in the folder, each once; returns their number. Raises CheckFailed naming those that fail."""
    keys, problems = where.store.list(FOLDER), []
    for key in keys:
        try:
            book_answer(where, where.store.read(key), where.store.locate(key))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise CheckFailed("; ".join(problems))
    return len(keys)


def book_answer(where: Where, data: bytes, name: str) -> dict[str, Any]:
    """Book a bank's answer, once; it may name only payments and messages that were sent.

    Args:
        name: of the file, for errors.
    """
    answer = read_answers(data, name)
    outcomes = [outcome for outcome in answer.outcomes if OURS.fullmatch(outcome.payment_id)]
    others = answer.others + len(answer.outcomes) - len(outcomes)
    if answer.answers_to:
        outcomes = _answered(answer, sent_messages(where.store), name)
        others = answer.others
    final = [outcome for outcome in outcomes if outcome.status != PENDING]
    before, today = ledger.newest(where.ledger), datetime.now(UTC).date()
    message = f"{answer.kind} {answer.message_id}"
    try:
        booking = settling.answer(where.ledger, final, day=today, message=message, source=sha256(data))
    except InputError as error:
        raise InputError(f"{name}: {error.where}", expected=error.expected, found=error.found, hint=error.hint) from error
    counts = {status: int(booking.facts[status]) for status in (PAID, REJECTED, RETURNED)}
    counts[PENDING] = len(outcomes) - len(final)
    log.info("%s: booking %d, %s, %d others", visible(name), booking.booking_id, counts, others)
    again = booking.booking_id <= before
    facts = {"kind": answer.kind, "message_id": answer.message_id, "booking_id": booking.booking_id, "again": again}
    return {**facts, **counts, "others": others}


def _answered(answer: BankAnswer, messages: Mapping[str, Sequence[tuple[str, str]]], name: str) -> list[Outcome]:
    """Outcomes of a report, also of payments that it rejects with their message or group without listing them."""
    if answer.answers_to not in messages:
        hint = "It answers another file, or another ledger's."
        raise InputError(name, expected="an answer to a message that was sent", found=repr(answer.answers_to), hint=hint)
    sent = messages[answer.answers_to]
    ids = {payment_id for payment_id, _ in sent}
    for outcome in answer.outcomes:
        if outcome.payment_id not in ids:
            expected = f"payments of the message {answer.answers_to}"
            raise InputError(f"{name}: payment {outcome.payment_id}", expected=expected, found="one that is not in it")
    listed = {outcome.payment_id for outcome in answer.outcomes}
    groups = {f"{answer.answers_to}-{currency}" for _, currency in sent}
    if unknown := sorted({*answer.rejected_groups} - groups):
        raise InputError(name, expected=f"groups of the message: {', '.join(sorted(groups))}", found=repr(unknown[0]))
    implied = [
        Outcome(payment_id, REJECTED, reason=answer.reason)
        for payment_id, currency in sent
        if payment_id not in listed and (answer.all_rejected or f"{answer.answers_to}-{currency}" in answer.rejected_groups)
    ]
    return [*answer.outcomes, *implied]
