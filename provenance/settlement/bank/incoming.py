"""Reads answers of banks, finds the payments of ours that they concern, and books what holds.

Whatever carries the id of a payment, message or group of ours, in any letter case, is booked or stops by name; the rest are
strangers' entries. Each part of a file is checked by itself: what holds is booked, and the others stay open until the file can
be read, or somebody settles them by hand (`by_hand`).
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from provenance.core.errors import CheckFailed, InputError, InputErrors
from provenance.core.store import digest, sha256
from provenance.core.text import visible
from provenance.settlement import ledger
from provenance.settlement.bank import nacha, paypal
from provenance.settlement.bank.status_reports import (
    NOBODY,
    PAID,
    PENDING,
    REJECTED,
    RETURNED,
    BankAnswer,
    Outcome,
    Part,
    read_answers,
)
from provenance.settlement.months import settling
from provenance.settlement.months.bank_files import sent_messages
from provenance.settlement.months.settling import BY_HAND, LEFT_OUT, WAITING, Payment

if TYPE_CHECKING:
    from provenance.core.where import Where
    from provenance.settlement.books import Booking

log = logging.getLogger("provenance.answers")

# The store folder for answers of banks.
FOLDER = "bank/answers"
# Ids of our payments; an account statement may have other payments, too. Strangers' ids often are UUIDs (RFC 9562) without
# hyphens, whose versions 1, 4 and 7 have these digits.
OURS = re.compile("(?!.{12}[147].{3}[89ab])[0-9a-f]{32}")
# An id that some formats cut has at least so many letters; a text that is shorter names no payment.
LETTERS, SHORTEST = 32, 12
_HEX = re.compile(f"[0-9a-f]{{{SHORTEST},}}")
# Of an archive: most files and most bytes of each, opened.
MOST_FILES, MOST_BYTES = 1_000, 256 * 1024 * 1024
LETTERS_OF_KEY = 12
# Ends of names of files that stand beside another of the same name in an archive, and say the same or sign it.
BESIDE = (".pdf", ".sha256", ".sha512", ".sha1", ".md5", ".sig", ".asc", ".p7s")
# The place of an error that concerns a file as a whole.
WHOLE = "the whole file"
# Beginnings of archives that are not opened.
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP",
    b"\x1f\x8b": "a file compressed by gzip",
    b"BZh": "a file compressed by bzip2",
    b"\xfd7zXZ": "a file compressed by xz",
    b"7z\xbc\xaf": "an archive of 7-Zip",
    b"Rar!": "an archive of RAR",
}
# The errors of broken archives, as they come from their library.
BROKEN = (OSError, EOFError, zlib.error, struct.error, ValueError, IndexError, RuntimeError)
# The command that `BY_HAND` names, with what it needs.
BY_HAND_COMMAND = "provenance answer-by-hand"
READS = "a status report (pain.002), a statement (camt.053), PayPal's report of payouts (CSV) or a NACHA file of returns"


def read_new(where: Where) -> int:
    """Book all answers in the folder, each once; returns their number. Raises CheckFailed naming what stays open."""
    keys, problems = where.store.list(FOLDER), []
    for key in keys:
        try:
            read = book_answer(where, where.store.read(key), where.store.locate(key))
        except InputErrors as errors:
            problems += [str(error) for error in errors.errors]
        except InputError as error:
            problems.append(str(error))
        else:
            problems += [problem["problem"] for problem in read["problems"]]
    if problems:
        raise CheckFailed("; ".join(problems))
    return len(keys)


def book_answer(where: Where, data: bytes, name: str) -> dict[str, Any]:
    """Book what holds of a bank's file, once; a file of several is opened.

    Args:
        name: of the file, for errors.

    Returns:
        `kind`, `message_id`, `booking_id`, `again` (nothing new), numbers of outcomes by status, `others` (strangers' entries),
        `stands` (rejections of a second copy, which change nothing), `left_out` (files beside one that is read in an archive,
        such as its PDF) and `problems`: `key` and `problem` of each part that is left.

    Raises:
        InputError: it cannot be read, or nothing of it can be booked.
    """
    settled = settling.settled_by_hand(where.ledger)
    results: list[dict[str, Any]] = []
    unread: list[tuple[str, str, InputError]] = []
    refused: list[InputError] = []
    read: set[str] = set()
    for member, content in _all_opened(data, name):
        key = digest([sha256(content if isinstance(content, bytes) else data + member.encode()), WHOLE])[:LETTERS_OF_KEY]
        try:
            if isinstance(content, InputError):
                raise content
            answer = read_any(content, member)
        except InputError as error:
            unread.append((key, member, error))
            continue
        read |= {member, member.rpartition(".")[0]}
        try:
            results.append(_book_one(where, answer, sha256(content), member, key))
        except InputError as error:
            refused.append(error)
    copies = [member for _, member, _ in unread if member.casefold().endswith(BESIDE) and member.rpartition(".")[0] in read]
    for member in copies:
        log.warning("%s: left out, a copy of a file that is read", visible(member))
    errors = [_with_key(key, error) for key, member, error in unread if key not in settled and member not in copies]
    errors += refused
    if errors and not results:
        raise errors[0] if len(errors) == 1 else InputErrors(errors)
    if not results:
        results.append(_nothing(ledger.newest(where.ledger)))
    if len(results) == 1 and not errors:
        return {**results[0], "left_out": copies}
    merged: dict[str, Any] = {
        field: ", ".join(dict.fromkeys(row[field] for row in results)) for field in ("kind", "message_id")
    }
    merged |= {"booking_id": max(row["booking_id"] for row in results), "again": all(row["again"] for row in results)}
    merged |= {name: sum(row[name] for row in results) for name in (PAID, REJECTED, RETURNED, PENDING, "others", "stands")}
    left = [problem for row in results for problem in row["problems"]]
    each = [one for error in errors for one in (error.errors if isinstance(error, InputErrors) else [error])]
    listed = [{"key": _key_of(error), "problem": str(error)} for error in each]
    return {**merged, "left_out": copies, "problems": left + listed}


def _nothing(booking_id: int) -> dict[str, Any]:
    """The result of a file that was settled by hand as a whole."""
    counts = dict.fromkeys((PAID, REJECTED, RETURNED, PENDING, "others", "stands"), 0)
    return {"kind": "settled by hand", "message_id": "", "booking_id": booking_id, "again": True, **counts, "problems": []}


def _all_opened(data: bytes, name: str) -> Iterator[tuple[str, bytes | InputError]]:
    """As `opened`; with an error in place of an archive that cannot be opened."""
    try:
        yield from opened(data, name)
    except InputError as error:
        yield name, error


def _key_of(error: InputError) -> str:
    found = re.search(f"--entry ([0-9a-f]{{{LETTERS_OF_KEY}}})", error.hint)
    return found[1] if found else ""


def by_hand(
    where: Where, payment_ids: Sequence[str], status: str, *, entry: str = "", evidence: str, by: str, second: str
) -> Booking:
    """Book by hand what became of payments, or that an entry of a bank's file concerns none; as `settling.answer_by_hand`."""
    if status and status not in (PAID, REJECTED, RETURNED):
        raise InputError("--status", expected=f"{PAID}, {REJECTED} or {RETURNED}", found=repr(status))
    entry = entry.strip().casefold()
    if entry and not re.fullmatch(f"[0-9a-f]{{{LETTERS_OF_KEY}}}", entry):
        raise InputError(
            "--entry", expected="the key that `provenance answer` names, of 12 letters and digits", found=repr(entry)
        )
    today = datetime.now(UTC).date()
    ids = [payment_id.strip().casefold() for payment_id in payment_ids]
    facts = {"entry": entry, "evidence": evidence, "by": by, "second": second}
    return settling.answer_by_hand(where.ledger, ids, status, day=today, **facts)


def read_any(data: bytes, name: str) -> BankAnswer:
    """Read a file of any kind that is read; raises InputError naming what it seems to be."""
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:256]
    if start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")) and not (paypal.is_report(data) or paypal.is_foreign(data)):
        return read_answers(data, name)
    if nacha.is_clearing_file(data):
        return nacha.read_returns(data, name)
    if paypal.is_report(data):
        return paypal.read_report(data, name)
    found, hint = "something else", ""
    if not start:
        found = "an empty file"
    elif re.match(rb"\{1:|:20:", start) or b"\n:61:" in data:
        found, hint = "a statement as MT940", "Ask the bank for camt.053, which names payments in full."
    elif start.startswith(b"%PDF"):
        found, hint = "a PDF", "Ask the bank for camt.053."
    elif archive := _archive(data):
        found, hint = archive, "Unpack it."
    elif paypal.is_foreign(data):
        found, hint = "a report of PayPal's in another language", "Set PayPal's language to English, and download it again."
    raise InputError(name, expected=READS, found=found, hint=hint)


def _archive(data: bytes) -> str:
    """What kind of archive data is; empty if it is none that is known."""
    if data[257:262] == b"ustar":
        return "an archive of tar"
    return next((kind for beginning, kind in _ARCHIVES.items() if data.startswith(beginning)), "")


def opened(data: bytes, name: str) -> Iterator[tuple[str, bytes | InputError]]:
    """The files of an archive (ZIP or gzip), or the file itself; an error in place of one that cannot be opened.

    Raises:
        InputError: the archive itself cannot be opened.
    """
    if data.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unzipped:
                content = _limited(unzipped.read(MOST_BYTES + 1), name)
        except BROKEN as error:
            raise InputError(name, expected="a file compressed by gzip", found=f"a broken one ({error})") from None
        inside = _archive(content)
        if inside:
            raise InputError(name, expected="a file of a bank, compressed by gzip", found=inside, hint="Unpack it.")
        yield name, content
        return
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield name, data
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [file for file in archive.infolist() if not file.is_dir() and not _is_litter(file.filename)]
            if not files or len(files) > MOST_FILES:
                raise InputError(name, expected=f"a ZIP of 1 to {MOST_FILES} files of a bank", found=f"{len(files)}")
            for file in files:
                place = f"{name}: {file.filename}"
                try:
                    yield place, _member(archive, file, place)
                except InputError as error:
                    yield place, error
    except (zipfile.BadZipFile, *BROKEN) as error:
        raise InputError(name, expected="a ZIP", found=f"a broken one ({error})") from None


def _member(archive: zipfile.ZipFile, file: zipfile.ZipInfo, place: str) -> bytes:
    if file.flag_bits & 1:
        raise InputError(place, expected="a file without a password", found="an encrypted one")
    try:
        with archive.open(file) as packed:
            content = _limited(packed.read(MOST_BYTES + 1), place)
    except (zipfile.BadZipFile, *BROKEN) as error:
        raise InputError(place, expected="a file in a ZIP", found=f"a broken one ({error})") from None
    if _archive(content):
        raise InputError(place, expected="a file of a bank", found="an archive in an archive", hint="Unpack it.")
    return content


def _limited(data: bytes, name: str) -> bytes:
    if len(data) > MOST_BYTES:
        raise InputError(name, expected=f"at most {MOST_BYTES} bytes", found="more")
    return data


def _is_litter(name: str) -> bool:
    """Files that archivers of desktops add."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1] in (".DS_Store", "Thumbs.db")


def _book_one(where: Where, answer: BankAnswer, source: str, name: str, key_of_all: str) -> dict[str, Any]:
    sent = Sent(where, answer)
    settled = settling.settled_by_hand(where.ledger)
    outcomes: list[Outcome] = []
    left: list[tuple[str, InputError]] = []
    keys: dict[int, str] = {}
    others = 0
    for part, found in _all_found(answer, sent, name):
        if part.place == WHOLE and isinstance(found, InputError):
            left += [(key_of_all, _with_key(key_of_all, found))] if key_of_all not in settled else []
            continue
        key = digest([source, part.place])[:LETTERS_OF_KEY]
        if key in settled:
            continue
        if isinstance(found, InputError):
            left.append((key, _with_key(key, found)))
            continue
        others += sum(not outcome.payment_id for outcome in found)
        for outcome in found:
            # Each payment of a part is settled by itself.
            own = digest([source, part.place, outcome.payment_id])[:LETTERS_OF_KEY]
            if outcome.payment_id and own not in settled:
                keys[id(outcome)] = own
                outcomes.append(outcome)
    final = [outcome for outcome in outcomes if outcome.status != PENDING]
    before = ledger.newest(where.ledger)
    booking: Booking | None = None
    wrong: list[tuple[Outcome, InputError]] = []
    if final or not left:
        today, message = datetime.now(UTC).date(), f"{answer.kind} {answer.message_id}"
        booking, wrong = settling.answer_in_parts(where.ledger, final, day=today, message=message, source=source)
    now = {p.payment_id: p.status for p in settling.payments_named(where.ledger, [o.payment_id for o, _ in wrong])}
    for outcome, error in wrong:
        at = InputError(f"{name}: {error.where}", expected=error.expected, found=error.found, hint=error.hint)
        new = outcome if now.get(outcome.payment_id) != outcome.status else None
        left.append((keys[id(outcome)], _with_key(keys[id(outcome)], at, new)))
    problems = [error for _, error in left]
    if booking is None:
        raise problems[0] if len(problems) == 1 else InputErrors(problems)
    again = booking.booking_id <= before
    counts: dict[str, int] = {status: int(booking.facts[status]) for status in (PAID, REJECTED, RETURNED)}
    counts[PENDING] = len(outcomes) - len(final)
    counts["stands"] = sum(outcome.duplicate and outcome.status == REJECTED for outcome in final)
    log.info("%s: booking %d, %s, %d others, %d left", visible(name), booking.booking_id, counts, others, len(problems))
    for error in problems:
        log.warning("%s", error)
    listed = [{"key": key, "problem": str(error)} for key, error in left]
    result = {"kind": answer.kind, "message_id": answer.message_id, "booking_id": booking.booking_id, "again": again}
    return {**result, **counts, "others": others, "problems": listed}


def _with_key(key: str, error: InputError, outcome: Outcome | None = None) -> InputError:
    """An error with the command that settles it; and with the one that books it, if it is an outcome that may be booked."""
    hint, rest = error.hint.replace(BY_HAND, "").strip(), "--evidence TEXT --by PERSON --second PERSON"
    command = f"To settle it by hand: `{BY_HAND_COMMAND} --entry {key} {rest}`."
    if outcome is not None:
        command += f" If it holds: `{BY_HAND_COMMAND} {outcome.payment_id} --status {outcome.status} --entry {key} {rest}`."
    return InputError(error.where, expected=error.expected, found=error.found, hint=" ".join(filter(None, (hint, command))))


@dataclass(frozen=True)
class Sent:
    """What was sent, as far as an answer may concern it."""

    where: Where
    answer: BankAnswer

    @cached_property
    def messages(self) -> dict[str, list[tuple[str, str]]]:
        """Payments with their currencies, by message."""
        return sent_messages(self.where.store)

    @cached_property
    def spelt(self) -> dict[str, tuple[str, str]]:
        """Messages and groups, as (message, currency or empty), by their ids in small letters; the longest first."""
        names: dict[str, tuple[str, str]] = {}
        for message, payments in self.messages.items():
            names[message.casefold()] = (message, "")
            names |= {f"{message}-{currency}".casefold(): (message, currency) for _, currency in payments}
        return dict(sorted(names.items(), key=lambda pair: (-len(pair[0]), pair[0])))

    @cached_property
    def payments(self) -> dict[str, Payment]:
        """Payments that the answer's texts name, and those of messages that they name."""
        texts = [text for part in self.answer.parts for text in (*part.texts, *(t for o in part.outcomes for t in o.texts))]
        named = {token[:SHORTEST] for text in texts for token in _tokens(text)}
        found = settling.payments_like(self.where.ledger, named, SHORTEST)
        groups = {group for text in texts if (group := self.group([text])) is not None}
        groups |= {group} if (group := self.group([self.answer.answers_to])) is not None else set()
        wanted = {payment_id[:SHORTEST] for message, _ in groups for payment_id, _ in self.messages[message]}
        found += settling.payments_like(self.where.ledger, wanted - named, SHORTEST)
        return {payment.payment_id: payment for payment in found}

    @cached_property
    def _by_beginning(self) -> dict[str, list[str]]:
        beginnings: dict[str, list[str]] = defaultdict(list)
        for payment_id in self.payments:
            beginnings[payment_id[:SHORTEST]].append(payment_id)
        return beginnings

    def exactly(self, text: str) -> str:
        """The payment whose id a text is, in any letter case; or empty."""
        squeezed = "".join(text.split()).casefold()
        return squeezed if squeezed in self.payments else ""

    def named(self, texts: Iterable[str]) -> list[str]:
        """The payments that texts name, in full or by the beginning that a format left."""
        found: dict[str, None] = {}
        for text in texts:
            for token in _tokens(text):
                near = [p for p in self._by_beginning.get(token[:SHORTEST], ()) if p.startswith(token) or token.startswith(p)]
                found |= dict.fromkeys(near if len(near) == 1 else [])
        return list(found)

    def group(self, texts: Sequence[str]) -> tuple[str, str] | None:
        """The first message or group that texts name, as (message, currency or empty)."""
        folded = ["".join(text.split()).casefold() for text in texts]
        # Ids of messages begin with that of their store: most texts have none.
        near = [text for text in folded if any(beginning in text for beginning in self._beginnings)]
        if not near:
            return None
        raw = [text.casefold() for text, squeezed in zip(texts, folded, strict=True) if squeezed in near]
        return next((group for name, group in self.spelt.items() if any(_ends_there(name, text) for text in raw)), None)

    def resembles(self, texts: Iterable[str]) -> bool:
        """Whether texts have the id of a message of ours with more digits: that of no message."""
        folded = ["".join(text.split()).casefold() for text in texts]
        return any(name in text for text in folded for name in self.spelt)

    @cached_property
    def _beginnings(self) -> set[str]:
        return {name.split("-")[0] for name in self.spelt}


def _ends_there(name: str, text: str) -> bool:
    """Whether a text has a name, perhaps broken by blanks, that no digit continues."""
    return name in "".join(text.split()) and bool(re.search(r"\s*".join(map(re.escape, name)) + r"(?!\d)", text))


def _tokens(text: str) -> Iterator[str]:
    """Pieces of a text that may be the id of a payment, in small letters; also where a bank has broken it by blanks."""
    folded = text.casefold()
    yield from _HEX.findall(folded)
    for run in _HEX.findall("".join(folded.split())):
        yield from (run[at : at + LETTERS] for at in range(max(1, len(run) - LETTERS + 1)))


def _all_found(answer: BankAnswer, sent: Sent, name: str) -> Iterator[tuple[Part, list[Outcome] | InputError]]:
    """As `_found`; why a file is left as a whole stands with it."""
    try:
        yield from _found(answer, sent, name)
    except InputError as error:
        yield Part(WHOLE, name), error


def _found(answer: BankAnswer, sent: Sent, name: str) -> Iterator[tuple[Part, list[Outcome] | InputError]]:
    """The outcomes of each part, with ids of our payments or with none; or why it is left."""
    if answer.answers_to or answer.kind.startswith("pain."):
        yield from _answered(answer, sent, name)
        return
    for part in answer.parts:
        try:
            yield part, _resolved(part, sent)
        except InputError as error:
            yield part, error


def _resolved(part: Part, sent: Sent) -> list[Outcome]:
    """The outcomes of an entry; raises InputError if it concerns us in a way that is not certain."""
    if part.problem is not None or part.unclear:
        return _unread(part, sent)
    pending = part.whole is not None and part.whole.status == PENDING
    if not part.outcomes and part.whole is not None:
        named = sent.named(part.texts)
        if len(named) == 1:
            return [_ours(part.whole, named[0], part, sent)]
        if named:
            return _shared(part, named, sent)
    outcomes = [_identified(outcome, part, sent) for outcome in part.outcomes]
    _require_each_once(outcomes, part)
    unnamed = [outcome for outcome in outcomes if not outcome.payment_id]
    group = sent.group(part.texts) if unnamed or not outcomes else None
    if group is None and (unnamed or not outcomes) and sent.resembles(part.texts):
        raise InputError(
            part.where, expected="a message that was sent", found="an id that goes on after that of one", hint=BY_HAND
        )
    if group is None:
        return (outcomes if pending else _with_charges(outcomes, part, sent)) or [Outcome("", PENDING)]
    if pending:  # moves nothing yet
        return [outcome if outcome.payment_id else replace(outcome, payment_id=group[0]) for outcome in outcomes]
    if len(unnamed) < len(outcomes):
        message = group[0]
        raise InputError(
            part.where, expected=f"the id of each payment of {message}", found=f"{len(unnamed)} of {len(outcomes)} without one"
        )
    message, currency = group
    ids = [name for name, its in sent.messages[message] if its == (currency or (part.whole.currency if part.whole else ""))]
    if not ids:
        raise InputError(part.where, expected=f"a sum in a currency of {message}", found="another currency", hint=BY_HAND)
    return _shared(part, ids, sent, of=message)


def _unread(part: Part, sent: Sent) -> list[Outcome]:
    """What an entry that is not read comes to if it is certainly nobody's of ours; else raises InputError."""
    ours = sent.named(part.texts) or sent.group(part.texts)
    if part.problem is not None and (ours or not part.told):
        raise _naming(part.problem, part, sent)
    if ours:
        expected, found = "an entry that is booked (BOOK) or pending (PDNG)", f"one that is {part.unclear}"
        raise _naming(InputError(part.where, expected=expected, found=found), part, sent)
    return [Outcome("", PENDING)] if part.problem is not None else []


def _identified(outcome: Outcome, part: Part, sent: Sent) -> Outcome:
    """An outcome with the id of our payment, or with none if it concerns none by itself."""
    exact = sent.exactly(outcome.payment_id)
    if not exact and OURS.fullmatch(outcome.payment_id.casefold()):
        expected, found = "a payment of this ledger", "none of that identifier"
        raise InputError(f"{part.where}: payment {outcome.payment_id}", expected=expected, found=found, hint=BY_HAND)
    named = [exact] if exact else sent.named((outcome.payment_id, *outcome.texts))
    if len(named) > 1:
        found = f"{len(named)}: {', '.join(named[:5])}"
        raise InputError(part.where, expected="one payment in a transaction", found=found, hint=BY_HAND)
    return _ours(outcome, named[0], part, sent) if named else replace(outcome, payment_id="")


def _require_each_once(outcomes: Sequence[Outcome], part: Part) -> None:
    """Raise InputError if an entry moves one payment twice in the same direction."""
    moving = (outcome for outcome in outcomes if outcome.payment_id and outcome.status != PENDING)
    counts = Counter((outcome.payment_id, outcome.status) for outcome in moving)
    for (payment_id, status), count in counts.items():
        if count > 1:
            found = f"{count} that are {status}"
            hint = f"It may have been moved twice: ask the bank. {BY_HAND}"
            raise InputError(f"{part.where}: payment {payment_id}", expected="one transaction of it", found=found, hint=hint)


def _ours(outcome: Outcome, payment_id: str, part: Part, sent: Sent) -> Outcome:
    """An outcome of a payment of ours; raises InputError if it is odd."""
    where = f"{part.where}: payment {payment_id}"
    if outcome.unusual:
        raise InputError(where, expected="a debit or a return", found=outcome.unusual, hint=BY_HAND)
    line = sent.payments[payment_id].line
    if not outcome.certain and (outcome.amount is None or outcome.currency != line.pay_currency):
        found = "a credit without the mark of a return, and in another amount"
        raise InputError(where, expected=f"{line.paid} minor units of {line.pay_currency}, as sent", found=found, hint=BY_HAND)
    if not outcome.certain and part.account and not _is_account(part.account, sent.where.settings.payer.iban):
        # A payee's own account is credited with every payment that arrives.
        expected = "the mark of a return, or a credit of the payer's account (payer.iban)"
        raise InputError(where, expected=expected, found="a credit of another account without one", hint=BY_HAND)
    return replace(outcome, payment_id=payment_id)


def _is_account(text: str, iban: str) -> bool:
    """Whether a text is an account's IBAN, or the national number at the end of it."""
    written, ours = (re.sub("[^0-9A-Z]", "", each.upper()) for each in (text, iban))
    return not ours or bool(written and ours.endswith(written))


def _shared(part: Part, ids: Sequence[str], sent: Sent, of: str = "") -> list[Outcome]:
    """Outcomes of all payments that one amount covers; raises InputError unless the sum fits what was sent."""
    whole = part.whole
    place = f"{part.where}: {of or ', '.join(ids[:3])}"
    assert whole is not None
    if whole.unusual:
        raise InputError(place, expected="a debit or a return", found=whole.unusual, hint=BY_HAND)
    payments = [sent.payments[payment_id] for payment_id in sorted({*ids})]
    gone = [payment for payment in payments if payment.status not in {WAITING, LEFT_OUT}]
    stands = [payment for payment in gone if payment.status != REJECTED]
    for some in (gone, stands):
        total = sum(payment.line.paid for payment in some)
        difference = (whole.amount or 0) - total if whole.status == PAID else total - (whole.amount or 0)
        fits = difference == 0 or (difference > 0 and difference == whole.charge)
        if not some or not fits or {payment.line.pay_currency for payment in some} != {whole.currency}:
            continue
        if part.count not in (None, len(some)):
            continue
        # The charge of all stands beside the first.
        extra = [difference, *(0 for _ in some[1:])]
        signed = 1 if whole.status == PAID else -1
        return [
            replace(whole, payment_id=p.payment_id, amount=p.line.paid + signed * more, charge=more, certain=True)
            for p, more in zip(some, extra, strict=True)
        ]
    sums = Counter[str]()
    for payment in gone:
        sums[payment.line.pay_currency] += payment.line.paid
    expected = " and ".join(f"{total} minor units of {currency}" for currency, total in sorted(sums.items())) or "a sum"
    found = f"{whole.amount} of {whole.currency}" + (f" for {part.count}" if part.count is not None else "")
    raise InputError(place, expected=f"{expected} for {len(gone)} payments, as sent", found=found, hint=BY_HAND)


def _with_charges(outcomes: list[Outcome], part: Part, sent: Sent) -> list[Outcome]:
    """Outcomes of an entry of several transactions, with charges that the entry alone moved.

    Each gets its own charge; one that is stated for all stands beside the first of ours.

    Raises:
        InputError: the entry moved another amount than its transactions with their charges.
    """
    whole, ours = part.whole, [number for number, outcome in enumerate(outcomes) if outcome.payment_id]
    if len(outcomes) < 2 or not ours or whole is None or whole.amount is None:
        return outcomes
    if any(outcome.amount is None for outcome in outcomes):
        if any(outcome.status != whole.status for outcome in outcomes):
            place = f"{part.where}: {', '.join(f'payment {outcomes[number].payment_id}' for number in ours[:5])}"
            found = "both, without the amount of each"
            raise InputError(place, expected="transactions in the direction of their entry", found=found, hint=BY_HAND)
        if len(ours) == len(outcomes) and whole.charge:
            return _shared(part, [outcome.payment_id for outcome in outcomes], sent)
        return outcomes
    if {outcome.currency for outcome in outcomes} != {whole.currency}:
        return outcomes
    sign = 1 if whole.status == PAID else -1
    total = sum((outcome.amount or 0) * (1 if outcome.status == whole.status else -1) for outcome in outcomes)
    difference = sign * (whole.amount - total)
    charges = [outcome.charge for outcome in outcomes]
    if difference and difference != sum(charges):
        if difference != whole.charge:
            found = f"{whole.amount} of {whole.currency}" + (f", with charges of {whole.charge}" if whole.charge else "")
            place = f"{part.where}: {', '.join(f'payment {outcomes[number].payment_id}' for number in ours[:5])}"
            raise InputError(place, expected=f"transactions that add up to {total}", found=found, hint=BY_HAND)
        charges = [difference if number == ours[0] else 0 for number in range(len(outcomes))]
    if not difference:
        return outcomes
    return [
        replace(outcome, amount=(outcome.amount or 0) + (charge if outcome.status == PAID else -charge), charge=charge)
        for outcome, charge in zip(outcomes, charges, strict=True)
    ]


def _naming(problem: InputError, part: Part, sent: Sent) -> InputError:
    """An error of a part, with the payments of ours that it names."""
    ours = sent.named(part.texts)
    group = sent.group(part.texts)
    names = [f"payment {payment_id}" for payment_id in ours[:5]] or ([f"message {group[0]}"] if group else [])
    exact = problem.where if problem.where.startswith(part.where) else part.where
    place = f"{exact}: {', '.join(names)}" if names else exact
    return InputError(place, expected=problem.expected, found=problem.found, hint=problem.hint or BY_HAND)


def _answered(answer: BankAnswer, sent: Sent, name: str) -> Iterator[tuple[Part, list[Outcome] | InputError]]:
    """Outcomes of a report, also of payments that it rejects with their message or group without listing them."""
    named = answer.answers_to.upper() not in NOBODY
    groups = (*answer.rejected_groups, *(text for part in answer.parts for text in part.texts))
    group = sent.group([answer.answers_to] if named else groups)
    by_payments = None if named or group else _message_of(answer, sent)
    if by_payments is None and (group is None or (named and answer.answers_to.casefold() != group[0].casefold())):
        hint = "It answers another file, or another ledger's."
        raise InputError(name, expected="an answer to a message that was sent", found=repr(answer.answers_to), hint=hint)
    message = by_payments or (group[0] if group else "")
    payments = sent.messages[message]
    spelt = {f"{message}-{currency}".casefold(): currency for _, currency in payments}
    for unknown in sorted(group for group in {*answer.rejected_groups} if group.casefold() not in spelt):
        if unknown.upper() in NOBODY and (answer.parts or answer.all_rejected):
            continue  # its transactions, or the message, say all
        ours = sorted({f"{message}-{currency}" for _, currency in payments})
        part = Part(f"group {unknown}", f"{name}: group {unknown}")
        yield part, InputError(name, expected=f"groups of the message: {', '.join(ours)}", found=repr(unknown), hint=BY_HAND)
    ids = {payment_id for payment_id, _ in payments}
    listed: set[str] = set()
    for part in answer.parts:
        try:
            found = [_of_message(outcome, part, sent, message, name) for outcome in _readable(part, sent)]
        except InputError as error:
            # Its payment is not rejected with its group: what the part says of it is not known.
            listed |= {*sent.named(part.texts)} & ids
            yield part, error
            continue
        listed |= {outcome.payment_id for outcome in found}
        yield part, found
    if by_payments:  # it says nothing of the others
        return
    whole = Part("the whole message", f"{name}: message {message}")
    rejected, twice, perhaps = (
        {spelt[group.casefold()] for group in groups if group.casefold() in spelt}
        for groups in (answer.rejected_groups, answer.duplicate_groups, answer.perhaps_groups)
    )
    yield (
        whole,
        [
            Outcome(
                payment_id,
                REJECTED,
                reason=answer.reason,
                duplicate=answer.duplicate or currency in twice,
                perhaps=answer.perhaps or currency in perhaps,
            )
            for payment_id, currency in payments
            if payment_id not in listed and (answer.all_rejected or currency in rejected)
        ],
    )


def _message_of(answer: BankAnswer, sent: Sent) -> str | None:
    """The one message that has all payments that a report names; None if there is none, or several."""
    named = {payment_id for part in answer.parts for payment_id in sent.named(part.texts)}
    found = [message for message, payments in sent.messages.items() if named and named <= {name for name, _ in payments}]
    return found[0] if len(found) == 1 else None


def _readable(part: Part, sent: Sent) -> tuple[Outcome, ...]:
    if part.problem is not None:
        raise _naming(part.problem, part, sent)
    return part.outcomes


def _of_message(outcome: Outcome, part: Part, sent: Sent, message: str, name: str) -> Outcome:
    """A transaction's outcome with the id of its payment; one without an id is found by what else it says."""
    payments: Mapping[str, str] = dict(sent.messages[message])
    exact = sent.exactly(outcome.payment_id)
    if exact in payments:
        return replace(outcome, payment_id=exact)
    if exact or OURS.fullmatch(outcome.payment_id.casefold()):
        expected = f"payments of the message {message}"
        raise InputError(
            f"{name}: payment {outcome.payment_id}", expected=expected, found="one that is not in it", hint=BY_HAND
        )
    near = [payment_id for payment_id in sent.named((outcome.payment_id, *outcome.texts)) if payment_id in payments]
    if outcome.named and not near:
        expected = f"payments of the message {message}"
        raise InputError(
            f"{name}: payment {outcome.payment_id}", expected=expected, found="one that is not in it", hint=BY_HAND
        )
    if not near:
        group = sent.group(part.texts)
        currency = group[1] if group and group[0] == message else ""
        near = [p for p, its in payments.items() if currency in ("", its)]
        if outcome.amount is not None and len(near) > 1:
            lines = {p: sent.payments[p].line for p in near}
            near = [p for p in near if (lines[p].paid, lines[p].pay_currency) == (outcome.amount, outcome.currency)]
    if len(near) == 1:
        return replace(outcome, payment_id=near[0])
    if outcome.status == PENDING:  # moves nothing
        return replace(outcome, payment_id=message)
    found = f"a transaction without one, that may be of {len(near)}"
    raise InputError(part.where, expected=f"the id of a payment of {message}", found=found, hint=BY_HAND)
