"""Opt-outs of owners and their withdrawals: check wishes, turn them into records, find those in force.

An opt-out excludes a work from training from its day on, and chooses the treatment of the owner's part in models that were
trained on it: `paid` as before, `credited` without money, or `held` in escrow. It takes effect on the day of its record or
later, so paid nights never change. The last row recorded for a work and an owner counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from provenance.core.checks import conform
from provenance.core.errors import InputError, InputErrors, did_you_mean, parse_day
from provenance.core.lines import read_lines
from provenance.core.tables import OPTOUTS
from provenance.core.text import plain
from provenance.corpus.ownership import CREDITED, HELD, PAID

OPTOUT, WITHDRAW = "optout", "withdraw"
CHOICES = (PAID, CREDITED, HELD)
NO_CHOICES = pl.DataFrame(schema={"work_id": pl.String, "owner_id": pl.String, "choice": pl.String})
PAIR = ["work_id", "owner_id"]
# The columns of the imported file.
COLUMNS = {
    "work_id": "the work, as the corpus names it",
    "owner_id": "an owner with a present or past stake in it",
    "choice": "paid, credited or held; empty for a withdrawal",
    "evidence": "proof of the owner's will",
    "action": "optout (also if empty or left out) or withdraw",
    "effective_on": "first day (UTC) of its effect, as YYYY-MM-DD; empty or left out: the day of the import",
}
NEEDED = ("work_id", "owner_id", "choice", "evidence")


@dataclass(frozen=True)
class Wish:
    """An owner's wish about one work.

    Attributes:
        where: its place for errors: a line of a file, or an argument.
        effective_on: None for the day on which it is recorded.
    """

    work_id: str
    owner_id: str
    action: str
    choice: str
    evidence: str
    effective_on: date | None = None
    where: str = "opt-out"


def in_force(optouts: pl.DataFrame, day: date, known: datetime | None = None) -> pl.DataFrame:
    """The choices of owners in force on a day.

    Args:
        optouts: the table, in the order of its records.
        known: ignore records after this time.

    Returns:
        `work_id, owner_id, choice`, sorted.
    """
    last = latest(optouts.filter(pl.col("effective_on") <= day), known)
    return last.filter(pl.col("action") == OPTOUT).select("work_id", "owner_id", "choice").sort(PAIR)


def latest(optouts: pl.DataFrame, known: datetime | None = None) -> pl.DataFrame:
    """The last recorded row of each work and owner, sorted by these."""
    rows = optouts if known is None else optouts.filter(pl.col("recorded_at") <= known)
    ordered = rows.sort("recorded_at", maintain_order=True)
    return ordered.unique(PAIR, keep="last", maintain_order=True).sort(PAIR)


def new_rows(
    wishes: Sequence[Wish],
    recorded: pl.DataFrame,
    stakes: pl.DataFrame,
    *,
    now: datetime,
    by: str,
    works: Collection[str] = (),
    keep_unknown: bool = False,
    file_sha256: str | None = None,
) -> pl.DataFrame:
    """The rows to record for wishes, without those that repeat the last record. InputErrors: any wish is wrong.

    Args:
        recorded: the opt-outs table.
        stakes: `work_id, owner_id` of all present and past stakes.
        works: the works of the corpus in force, with or without owners.
        keep_unknown: record wishes about works or owners that are not known yet, too.
        file_sha256: digest of the file of the wishes; a file is recorded once.
    """
    if file_sha256 and file_sha256 in recorded["file_sha256"]:
        return pl.DataFrame(schema=OPTOUTS.schema)
    if not plain(by):
        raise InputError("--by", expected="the name of the person who records it", found="nothing")
    last = {(row["work_id"], row["owner_id"]): row for row in latest(recorded).iter_rows(named=True)}
    errors = list(_errors(wishes, stakes, last, now.date(), works=works, keep_unknown=keep_unknown))
    if errors:
        raise InputErrors(errors)
    rows = [
        {
            "recorded_at": now,
            "action": wish.action,
            "work_id": wish.work_id,
            "owner_id": wish.owner_id,
            "choice": wish.choice,
            "effective_on": wish.effective_on or now.date(),
            "recorded_by": by.strip(),
            "evidence": wish.evidence.strip(),
            "file_sha256": file_sha256,
        }
        for wish in wishes
        if not _is_recorded(wish, last.get((wish.work_id, wish.owner_id)), now.date())
    ]
    return conform(OPTOUTS, pl.DataFrame(rows, schema=OPTOUTS.schema), "opt-outs")


def _is_recorded(wish: Wish, row: Mapping[str, object] | None, today: date) -> bool:
    """Whether the last recorded row has the same content and takes effect no later."""
    if row is None:
        return False
    same = all(row[name] == getattr(wish, name) for name in ("action", "choice")) and row["evidence"] == wish.evidence.strip()
    return same and row["effective_on"] <= (wish.effective_on or today)  # type: ignore[operator]


def _errors(
    wishes: Sequence[Wish],
    stakes: pl.DataFrame,
    last: Mapping[tuple[str, str], Mapping[str, object]],
    today: date,
    *,
    works: Collection[str],
    keep_unknown: bool,
) -> Iterator[InputError]:
    owners_of: dict[str, set[str]] = defaultdict(set)
    for work, owner in stakes.select(PAIR).iter_rows():
        owners_of[work].add(owner)
    first: dict[tuple[str, str], str] = {}
    hinted: list[str] = []

    def near(name: str, names: Iterable[str], otherwise: str) -> str:
        # Only the first of these errors gets a hint: the search is slow among a million works.
        hint = "" if hinted else did_you_mean(name, names) or otherwise
        hinted.append(hint)
        return hint

    for wish in wishes:
        pair = (wish.work_id, wish.owner_id)
        if earlier := first.get(pair):
            yield InputError(wish.where, expected="one line for each work and owner", found=f"the pair of {earlier} again")
        first.setdefault(pair, wish.where)
        if wish.action not in (OPTOUT, WITHDRAW):
            hint = did_you_mean(wish.action, (OPTOUT, WITHDRAW))
            yield InputError(f"{wish.where}: action", expected=f"{OPTOUT} or {WITHDRAW}", found=repr(wish.action), hint=hint)
        if wish.choice not in CHOICES:
            hint = did_you_mean(wish.choice, CHOICES)
            yield InputError(f"{wish.where}: choice", expected=", ".join(CHOICES), found=repr(wish.choice), hint=hint)
        if not plain(wish.evidence):
            yield InputError(f"{wish.where}: evidence", expected="proof of the owner's will", found="nothing")
        if wish.effective_on and wish.effective_on < today:
            hint = "Paid nights never change: an opt-out takes effect on the day of its record, or later."
            found = str(wish.effective_on)
            yield InputError(f"{wish.where}: effective_on", expected=f"{today} (today, UTC) or later", found=found, hint=hint)
        if wish.work_id not in owners_of:
            if not keep_unknown and wish.work_id in works:
                hint = (
                    "It is in the corpus, and its money stays in escrow. --keep-unknown records the wish: no future model is "
                    "trained on it, and the choice takes effect once the owner's claim is delivered."
                )
                expected, found = "a work whose owner is known", f"{wish.work_id!r}, whose owner is not"
                yield InputError(f"{wish.where}: work_id", expected=expected, found=found, hint=hint)
            elif not keep_unknown:
                hint = near(wish.work_id, owners_of, "--keep-unknown records it for future works.")
                expected = "a work that has owners in a corpus that is or was in force"
                yield InputError(f"{wish.where}: work_id", expected=expected, found=repr(wish.work_id), hint=hint)
        elif wish.owner_id not in owners_of[wish.work_id]:
            owners = sorted(owners_of[wish.work_id])
            hint = near(wish.owner_id, owners, f"Owners of {wish.work_id!r}: {', '.join(owners)}.")
            expected = f"an owner with a present or past stake in {wish.work_id!r}"
            yield InputError(f"{wish.where}: owner_id", expected=expected, found=repr(wish.owner_id), hint=hint)
        if wish.action == WITHDRAW and last.get(pair, {}).get("action") != OPTOUT:
            opted_out = (work for work, owner in last if owner == wish.owner_id and last[work, owner]["action"] == OPTOUT)
            hint = near(wish.work_id, opted_out, "`provenance optout list` lists all opt-outs.")
            found = f"none of {wish.work_id!r}" if pair not in last else f"one of {wish.work_id!r} that was withdrawn"
            expected = f"an opt-out of {wish.owner_id!r} to withdraw"
            yield InputError(f"{wish.where}: work_id", expected=expected, found=found, hint=hint)


def read_file(data: bytes, file: str) -> list[Wish]:
    """Read the wishes of a CSV file; the error names the first wrong line and column, and the places of others."""
    hint = "Save it as CSV in UTF-8."
    if b"\0" in data:
        raise InputError(file, expected="text in UTF-8", found="null bytes, as UTF-16 has them", hint=hint)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"byte 0x{data[error.start]:02x}, which is none"
        raise InputError(f"{file}: line {line}", expected="text in UTF-8", found=found, hint=hint) from None
    texts = {"each": "opt-out", "otherwise": "nothing was recorded", "hint": "`provenance optout columns` explains them."}
    return read_lines(text, file, _read_line, columns=COLUMNS, needed=NEEDED, **texts)


def _read_line(row: Mapping[str, str], where: str) -> Wish:
    fields = {name: text.strip() for name, text in row.items()}
    for name in ("work_id", "owner_id"):
        if not fields[name]:
            raise InputError(f"{where}: {name}", expected="a value", found="none")
    action = fields.get("action") or OPTOUT
    day = fields.get("effective_on")
    return Wish(
        work_id=fields["work_id"],
        owner_id=fields["owner_id"],
        action=action,
        choice=fields["choice"] or (PAID if action == WITHDRAW else ""),
        evidence=fields["evidence"],
        effective_on=parse_day(f"{where}: effective_on", day) if day else None,
        where=where,
    )
