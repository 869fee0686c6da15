"""What banks answer: files are read, held against what was sent to them, and booked whole or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from provenance.core.errors import CheckFailed, InputError
from provenance.core.store import Store, sha256
from provenance.core.text import visible
from provenance.settlement import ledger
from provenance.settlement.bank.status_reports import PAID, PENDING, REJECTED, RETURNED, Answers, Outcome, read_answers
from provenance.settlement.exports.export import MANIFEST
from provenance.settlement.months import settling
from tasks.database import open_books
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.answers")

# Where whoever fetches banks' answers lays them.
FOLDER = "bank/answers"
# As our payments are named; a statement of the account may have anybody's.
OURS = re.compile("[0-9a-f]{32}")


def read_new() -> int:
    """Book every answer in the folder that is not booked yet, and tell of those that cannot be; returns how many there are."""
    settings, store = with_store()
    keys, problems = store.list(FOLDER), []
    for key in keys:
        try:
            book_answer(settings, store.read(key), store.locate(key))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise CheckFailed("; ".join(problems))
    return len(keys)


def book_answer(settings: Settings, data: bytes, where: str) -> dict[str, Any]:
    """Book what a bank answered, once; it may speak of nothing but payments and messages that were sent."""
    said = read_answers(data, where)
    store, engine = open_books(settings)
    outcomes = [outcome for outcome in said.outcomes if OURS.fullmatch(outcome.payment_id)]
    others = said.others + len(said.outcomes) - len(outcomes)
    if said.answers_to:
        outcomes = _answered(said, _messages(store), where)
        others = said.others
    final = [outcome for outcome in outcomes if outcome.status != PENDING]
    before = ledger.newest(engine)
    try:
        booking = settling.answer(
            engine, final, day=datetime.now(UTC).date(), message=f"{said.kind} {said.message_id}", source=sha256(data)
        )
    except InputError as error:
        raise InputError(f"{where}: {error.where}", expected=error.expected, found=error.found, hint=error.hint) from error
    counts = {status: int(booking.facts[status]) for status in (PAID, REJECTED, RETURNED)}
    counts[PENDING] = len(outcomes) - len(final)
    log.info("%s: booking %d, %s, %d others", visible(where), booking.booking_id, counts, others)
    again = booking.booking_id <= before
    told = {"kind": said.kind, "message_id": said.message_id, "booking_id": booking.booking_id, "again": again}
    return {**told, **counts, "others": others}


def _answered(said: Answers, messages: Mapping[str, Sequence[tuple[str, str]]], where: str) -> list[Outcome]:
    """What a report says of each payment of the message that it is on; of those that it does not list, what it says of all."""
    if said.answers_to not in messages:
        hint = "It answers another file, or another ledger's."
        raise InputError(where, expected="an answer to a message that was sent", found=repr(said.answers_to), hint=hint)
    sent = messages[said.answers_to]
    ids = {payment_id for payment_id, _ in sent}
    for outcome in said.outcomes:
        if outcome.payment_id not in ids:
            expected = f"payments of the message {said.answers_to}"
            raise InputError(f"{where}: payment {outcome.payment_id}", expected=expected, found="one that is not in it")
    listed = {outcome.payment_id for outcome in said.outcomes}
    groups = {f"{said.answers_to}-{currency}" for _, currency in sent}
    if unknown := sorted({*said.rejected_groups} - groups):
        raise InputError(where, expected=f"groups of the message: {', '.join(sorted(groups))}", found=repr(unknown[0]))
    implied = [
        Outcome(payment_id, REJECTED, reason=said.reason)
        for payment_id, currency in sent
        if payment_id not in listed and (said.all_rejected or f"{said.answers_to}-{currency}" in said.rejected_groups)
    ]
    return [*said.outcomes, *implied]


def _messages(store: Store) -> dict[str, list[tuple[str, str]]]:
    """Every message that was sent, and its payments with their currencies."""
    found: dict[str, list[tuple[str, str]]] = {}
    for key in store.list("bank"):
        if key.endswith(f"/{MANIFEST}"):
            messages = store.read_json(key)["messages"]
            found |= {
                name: [(payment_id, currency) for payment_id, currency in payments] for name, payments in messages.items()
            }
    return found
