"""What owners do not want: opt-outs and their withdrawals, as records that are added and never edited.

An opt-out keeps a work out of what is trained from its day on, and says what becomes of the owner's part of it in models that
hold it already: `paid` as before, `credited` without money, or `held` in escrow. It counts from a day that is not over when it
is recorded, so nights that are paid stay as they are. The last row recorded for a work and an owner is the one that counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from provenance.core.contracts import OPTOUTS, conform
from provenance.core.errors import InputError, InputErrors, did_you_mean, parse_day
from provenance.core.lines import read_lines
from provenance.core.text import plain
from provenance.corpus.examples import CREDITED, HELD, PAID

OPTOUT, WITHDRAW = "optout", "withdraw"
CHOICES = (PAID, CREDITED, HELD)
NO_CHOICES = pl.DataFrame(schema={"work_id": pl.String, "owner_id": pl.String, "choice": pl.String})
PAIR = ["work_id", "owner_id"]
# The columns of the file that is imported, and whether a line may leave one empty.
COLUMNS = {
    "work_id": "the work, as the corpus names it",
    "owner_id": "who holds a stake in it, or has held one",
    "choice": "paid, credited or held; empty for a withdrawal",
    "evidence": "what says that it is the owner's will",
    "action": "optout (also if empty or left out) or withdraw",
    "effective_on": "first day (UTC) on which it counts, as YYYY-MM-DD; empty or left out: the day of the import",
}
NEEDED = ("work_id", "owner_id", "choice", "evidence")


@dataclass(frozen=True)
class Wish:
    """What an owner wants of one work.

    Attributes:
        where: what to name in an error: a line of a file, or an argument.
        effective_on: empty for the day on which it is recorded.
    """

    work_id: str
    owner_id: str
    action: str
    choice: str
    evidence: str
    effective_on: date | None = None
    where: str = "opt-out"


def in_force(optouts: pl.DataFrame, day: date, known: datetime | None = None) -> pl.DataFrame:
    """What owners who opted out have chosen, as it is in force on a day.

    Args:
        optouts: the table, in the order in which it was recorded.
        known: look no further than what had been recorded by then.

    Returns:
        `work_id, owner_id, choice`, sorted.
    """
    last = latest(optouts.filter(pl.col("effective_on") <= day), known)
    return last.filter(pl.col("action") == OPTOUT).select("work_id", "owner_id", "choice").sort(PAIR)


def latest(optouts: pl.DataFrame, known: datetime | None = None) -> pl.DataFrame:
    """The last row that was recorded for each work and owner, sorted by these."""
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
    """The rows that wishes add to what is recorded: all of them, or an error; what is recorded already adds nothing.

    Args:
        recorded: the opt-outs table.
        stakes: `work_id, owner_id` of all that anybody holds or has held.
        works: of the corpus in force, such as have no owners, too.
        keep_unknown: record wishes about works that nobody is known to own, for works and owners that may come.
        file_sha256: of the file that the wishes are from; the same file is taken once.
    """
    if file_sha256 and file_sha256 in recorded["file_sha256"]:
        return pl.DataFrame(schema=OPTOUTS.schema)
    if not plain(by):
        raise InputError("--by", expected="who records it: it stands there for good", found="nothing")
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
        if not _is_said(wish, last.get((wish.work_id, wish.owner_id)), now.date())
    ]
    return conform(OPTOUTS, pl.DataFrame(rows, schema=OPTOUTS.schema), "opt-outs")


def _is_said(wish: Wish, row: Mapping[str, object] | None, today: date) -> bool:
    """Whether the last row recorded says just this, and counts no later."""
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
    held: dict[str, set[str]] = defaultdict(set)
    for work, owner in stakes.select(PAIR).iter_rows():
        held[work].add(owner)
    first: dict[tuple[str, str], str] = {}
    hinted: list[str] = []

    def near(name: str, known: Iterable[str], otherwise: str) -> str:
        # Only the first of these errors has a hint, and among a million works the search takes its time.
        hint = "" if hinted else did_you_mean(name, known) or otherwise
        hinted.append(hint)
        return hint

    for wish in wishes:
        pair = (wish.work_id, wish.owner_id)
        if other := first.get(pair):
            yield InputError(wish.where, expected="one line for each work and owner", found=f"the pair of {other} again")
        first.setdefault(pair, wish.where)
        if wish.action not in (OPTOUT, WITHDRAW):
            hint = did_you_mean(wish.action, (OPTOUT, WITHDRAW))
            yield InputError(f"{wish.where}: action", expected=f"{OPTOUT} or {WITHDRAW}", found=repr(wish.action), hint=hint)
        if wish.choice not in CHOICES:
            hint = did_you_mean(wish.choice, CHOICES)
            yield InputError(f"{wish.where}: choice", expected=", ".join(CHOICES), found=repr(wish.choice), hint=hint)
        if not plain(wish.evidence):
            yield InputError(f"{wish.where}: evidence", expected="what says that it is the owner's will", found="nothing")
        if wish.effective_on and wish.effective_on < today:
            hint = "Nights that are paid stay as they are: an opt-out counts from the day on which it is recorded, or later."
            found = str(wish.effective_on)
            yield InputError(f"{wish.where}: effective_on", expected=f"{today} (today, UTC) or later", found=found, hint=hint)
        if wish.work_id not in held:
            if not keep_unknown and wish.work_id in works:
                hint = (
                    "It is in the corpus, and its money stays in escrow. --keep-unknown records the wish: no model to come is "
                    "trained on it from then on; what is chosen counts once the owner's claim is delivered."
                )
                expected, found = "a work whose owner is known", f"{wish.work_id!r}, whose owner is not"
                yield InputError(f"{wish.where}: work_id", expected=expected, found=found, hint=hint)
            elif not keep_unknown:
                hint = near(wish.work_id, held, "--keep-unknown records it for works that may come.")
                expected = "a work that has owners in a corpus that is or was in force"
                yield InputError(f"{wish.where}: work_id", expected=expected, found=repr(wish.work_id), hint=hint)
        elif wish.owner_id not in held[wish.work_id]:
            owners = sorted(held[wish.work_id])
            hint = near(wish.owner_id, owners, f"Owners of {wish.work_id!r}: {', '.join(owners)}.")
            expected = f"somebody who holds or held a stake in {wish.work_id!r}"
            yield InputError(f"{wish.where}: owner_id", expected=expected, found=repr(wish.owner_id), hint=hint)
        if wish.action == WITHDRAW and last.get(pair, {}).get("action") != OPTOUT:
            theirs = (work for work, owner in last if owner == wish.owner_id and last[work, owner]["action"] == OPTOUT)
            hint = near(wish.work_id, theirs, "`provenance optout list` lists what there is.")
            found = f"none of {wish.work_id!r}" if pair not in last else f"one of {wish.work_id!r} that was withdrawn"
            expected = f"an opt-out of {wish.owner_id!r} to withdraw"
            yield InputError(f"{wish.where}: work_id", expected=expected, found=found, hint=hint)


def read_file(data: bytes, file: str) -> list[Wish]:
    """The wishes of a CSV file; an error names the first line and column that are wrong, and how many more are."""
    hint = "Save it as CSV in UTF-8."
    if b"\0" in data:
        raise InputError(file, expected="text in UTF-8", found="null bytes, as UTF-16 has them", hint=hint)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"byte 0x{data[error.start]:02x}, which is none"
        raise InputError(f"{file}: line {line}", expected="text in UTF-8", found=found, hint=hint) from None
    told = {"each": "opt-out", "otherwise": "nothing was recorded", "hint": "`provenance optout columns` explains them."}
    return read_lines(text, file, _read_line, columns=COLUMNS, needed=NEEDED, **told)


def _read_line(row: Mapping[str, str], where: str) -> Wish:
    said = {name: text.strip() for name, text in row.items()}
    for name in ("work_id", "owner_id"):
        if not said[name]:
            raise InputError(f"{where}: {name}", expected="a value", found="none")
    action = said.get("action") or OPTOUT
    day = said.get("effective_on")
    return Wish(
        work_id=said["work_id"],
        owner_id=said["owner_id"],
        action=action,
        choice=said["choice"] or (PAID if action == WITHDRAW else ""),
        evidence=said["evidence"],
        effective_on=parse_day(f"{where}: effective_on", day) if day else None,
        where=where,
    )
