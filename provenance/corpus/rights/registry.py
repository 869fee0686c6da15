"""Lists of what was collected: read from files, checked row by row, added to the records, and looked at as one registry."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from provenance.core.contracts import SOURCES, conform
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store, sha256, to_parquet
from provenance.core.text import NOT_IN_IDS
from provenance.corpus import records
from provenance.corpus.examples import delivered
from provenance.corpus.rights.canonical import canonical, says_where
from provenance.corpus.rights.sources import distinct, registry, source_ids
from tasks.settings import Settings, with_store

log = logging.getLogger("provenance.sources")

REJECTED = f"{records.ROOT}/rejected/{SOURCES.name}"
# Characters of a cell; what is larger is a whole work by mistake.
LARGEST_NAME, LARGEST_CELL, MOST_NAMES = 8_192, 1_000_000, 1_000
LONGEST_SHOWN = 80
# Clocks differ, and a list without zones is taken for UTC.
EARLY = timedelta(days=1)


def _time(value: Any) -> datetime:
    """A time as ISO 8601 writes it; a day is its first moment, and without a zone it is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError("not a time")  # noqa: TRY004, pydantic reports no other
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:  # the last hours of the year 9999, elsewhere
        raise ValueError("not a time") from None


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _names(value: Any) -> Any:
    """CSV has one cell for all names, parted by blanks, which none of them has."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | None):
        raise ValueError("not a list")  # noqa: TRY004, pydantic reports no other
    return [name for name in value or [] if name is not None]


_Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Field(min_length=1, max_length=LARGEST_NAME, pattern=f"^{NOT_IN_IDS.replace('[', '[^', 1)}*$"),
]


def _with_scheme(name: str) -> str:
    """A text by which something could be found again."""
    if not says_where(name):
        raise ValueError("no address")
    return name


_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Title = Annotated[str, Field(max_length=LARGEST_CELL)]


class _Record(BaseModel):
    """One row of a list."""

    model_config = ConfigDict(extra="forbid")

    source_uri: Annotated[_Name, AfterValidator(_with_scheme)]
    acquired_at: Annotated[datetime, BeforeValidator(_time)]
    collector: Annotated[str, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=LARGEST_NAME)]
    evidence: Annotated[str, Field(min_length=1, max_length=LARGEST_CELL)]
    identifiers: Annotated[list[_Name], BeforeValidator(_names), Field(max_length=MOST_NAMES)] = []
    content_sha256: Annotated[_Digest | None, BeforeValidator(_none_if_blank)] = None
    title: Annotated[_Title | None, BeforeValidator(_none_if_blank)] = None


EXPECTED = {
    "source_uri": f"one line of 1 to {LARGEST_NAME:,} characters, an address or number with its scheme (https:, doi:, isbn:)",
    "acquired_at": "a time as 2026-11-20T10:15:00Z, not in the future",
    "collector": "a name",
    "evidence": f"1 to {LARGEST_CELL:,} characters",
    "identifiers": f"up to {MOST_NAMES:,} names of one line, each of 1 to {LARGEST_NAME:,} characters",
    "content_sha256": "64 hex digits, in small letters",
    "title": f"up to {LARGEST_CELL:,} characters",
}


@dataclass(frozen=True)
class Imported:
    """What became of a list's rows: new ones, such as were there already, and such as could not be read.

    Attributes:
        problems: of each kind how many rows have it, and the first of them.
        kept: where the rows are that could not be read.
    """

    file: str
    new: int
    known: int
    rejected: int
    problems: tuple[str, ...] = ()
    kept: str = ""


def import_sources(
    settings: Settings,
    paths: Sequence[Path],
    *,
    collector: str = "",
    now: datetime | None = None,
    each: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[Imported]:
    """Add lists of sources to the records; what is there already is not added again.

    All files are read before anything is added. Rows that cannot be read are kept below `rights/rejected/sources/`, whole and
    with the reason.

    Args:
        collector: who collected the rows that do not say it.
        each: goes through the files while they are read, to show how far that is.

    Raises:
        InputError: a file is not a list at all (no such file, not UTF-8, unknown or missing columns, no row that can be read);
            nothing of any file is added then.
    """
    moment, store = now or datetime.now(UTC), settings.store.open()
    read = [_read_list(path, collector, moment) for path in each(paths)]
    there, told = distinct(records.read(store, SOURCES)), []
    for path, (good, bad) in zip(paths, read, strict=True):
        kept = ""
        if not bad.is_empty():
            data = to_parquet(bad.drop("expected"))
            kept = f"{REJECTED}/{sha256(data)}.parquet"
            store.create(kept, data)
        fresh = _add(store, good, there, moment)
        there = pl.concat([there, fresh])
        kinds = bad.group_by("expected", maintain_order=True).agg(pl.len(), pl.col("why").first())
        problems = tuple(f"{count:,} such as {why}" for _, count, why in kinds.iter_rows())
        told.append(
            Imported(str(path), fresh.height, good.height - fresh.height, bad.height, problems, kept and store.locate(kept))
        )
        log.info("sources of %s: %d new, %d known, %d rejected", path, fresh.height, good.height - fresh.height, bad.height)
    return told


def register_delivered() -> int:
    """The stage `rights.sources`: add the delivery's `sources.parquet`, if it has one; returns how many records were new."""
    settings, store = with_store()
    found, file = delivered(store, settings.corpus.folder, "sources")
    if found is None:
        log.info("sources: the delivery has no %s", file)
        return 0
    named = conform(SOURCES, found, file).with_columns(pl.col("identifiers").fill_null([])).select(SOURCES.schema.names())
    fresh = _add(store, named, distinct(records.read(store, SOURCES)))
    log.info("sources of %s: %d new, %d known", file, fresh.height, found.height - fresh.height)
    return fresh.height


def registry_in_force(store: Store, known: datetime | None = None) -> pl.DataFrame:
    """The registry of all records; with `known`, of those that had been added by then."""
    return registry(records.read(store, SOURCES, known=known))


def find_sources(registry: pl.DataFrame, *, like: str = "", conflicts: bool = False) -> pl.DataFrame:
    """The sources with a text in a name or their title, in either case; or those alone whose records contradict each other."""
    names = pl.col("identifiers").list.join("\n") + "\n" + pl.col("title").fill_null("")
    found = registry.filter(names.str.to_lowercase().str.contains(like.lower(), literal=True))
    return found.filter(pl.col("conflicts").list.len() > 0) if conflicts else found


def show_source(store: Store, name: str, known: datetime | None = None) -> tuple[dict[str, Any], pl.DataFrame]:
    """The source that goes by a name, in any spelling, as a row of the registry, and its records; or an InputError."""
    said = records.read(store, SOURCES, known=known)
    found, asked = registry(said), canonical(name)
    mine = found.filter(pl.col("identifiers").list.contains(asked))
    if mine.is_empty():
        apart = found.filter(pl.col("conflicts").list.contains(asked))["source_id"].to_list()
        hint = (
            f"Records of {apart[0]!r} list it, though it is another work's; of that there is no record."
            if apart
            else did_you_mean(asked, found["identifiers"].explode())
            or "`provenance rights sources list --like TEXT` looks for a text."
        )
        raise InputError(f"source {name!r}", expected="a source of the registry, by any of its names", found="none", hint=hint)
    row = mine.row(0, named=True)
    of_it = source_ids(found, said["source_uri"]) == row["source_id"]
    return row, said.filter(of_it.fill_null(value=False)).sort("acquired_at", maintain_order=True)


def _add(store: Store, good: pl.DataFrame, there: pl.DataFrame, now: datetime | None = None) -> pl.DataFrame:
    """Add the different rows that are not there yet to the records; returns them."""
    marked = pl.concat([there.with_columns(_new=pl.lit(value=False)), distinct(good).with_columns(_new=pl.lit(value=True))])
    listed = marked.with_columns(_listed=pl.col("identifiers").list.join("\x00"))
    what = [name for name in listed.columns if name not in {"identifiers", "_new"}]
    fresh = listed.unique(what, keep="first", maintain_order=True).filter("_new").select(SOURCES.schema.names())
    if not fresh.is_empty():
        records.append(store, SOURCES, fresh, now=now)
    return fresh


def _read_list(path: Path, collector: str, now: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of a file as SOURCES, and `file, row, why, written, expected` of those that cannot be read."""
    if not path.is_file():
        raise InputError(str(path), expected="a list of sources", found="no such file")
    readers = {".parquet": _parquet_rows, ".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    if path.suffix.lower() not in readers:
        raise InputError(str(path), expected=f"a file that ends in {', '.join(readers)}", found=path.suffix or "no ending")
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    first: InputError | None = None
    for where, row in readers[path.suffix.lower()](path):
        try:
            good.append(_checked(f"{path}: {where}", row, collector, now))
        except InputError as error:
            first = first or error
            written = row if isinstance(row, str) else json.dumps(row, default=str)
            bad.append({"file": str(path), "row": where, "why": str(error), "written": written, "expected": error.expected})
    if first and not good:
        raise first
    if not good:
        raise InputError(str(path), expected="a row for each source", found="none")
    rejected = pl.DataFrame(bad, schema=dict.fromkeys(("file", "row", "why", "written", "expected"), pl.String))
    return pl.DataFrame(good, schema=SOURCES.schema), rejected


def _checked(where: str, row: Any, collector: str, now: datetime) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(where, expected="a row with the columns of sources", found=_shown(row))
    given = row if row.get("collector") else row | {"collector": collector}
    try:
        found = _Record.model_validate(given).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        column = str(first["loc"][0])
        raise InputError(f"{where}: column {column!r}", expected=EXPECTED[column], found=_shown(given.get(column))) from None
    if found["acquired_at"] > now + EARLY:
        raise InputError(f"{where}: column 'acquired_at'", expected=EXPECTED["acquired_at"], found=str(found["acquired_at"]))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else repr(value)
    return f"{len(text):,} characters" if len(text) > LONGEST_SHOWN else repr(value)


def _check_columns(where: str, names: Iterable[str], *, whole: bool) -> None:
    """Raise for columns that sources do not have and, of a whole table, for those that are not there."""
    known, there = list(_Record.model_fields), list(names)
    if unknown := [name for name in there if name not in known]:
        hint = did_you_mean(unknown[0], known) if unknown[0] else "Is the list parted by commas?"
        raise InputError(f"{where}: columns", expected=f"some of {', '.join(known)}", found=repr(unknown[0]), hint=hint)
    if repeated := [name for at, name in enumerate(there) if name in there[:at]]:
        raise InputError(f"{where}: column {repeated[0]!r}", expected="every column once", found="two of that name")
    needed = [name for name, field in _Record.model_fields.items() if field.is_required() and name != "collector"]
    if whole and (missing := [name for name in needed if name not in there]):
        raise InputError(f"{where}: column {missing[0]!r}", expected="a column that is needed", found="none of that name")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte {data[error.start]:#04x}"
        raise InputError(
            f"{path}: line {line}", expected="text in UTF-8", found=found, hint="Write the list in UTF-8."
        ) from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(str(path), expected="a Parquet file", found=str(error).splitlines()[0]) from None
    _check_columns(str(path), frame.columns, whole=True)
    return ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True)))


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    before = csv.field_size_limit(2**31 - 1)  # large cells are refused by row, with the column
    try:
        lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
        header = next(lines, [])
        _check_columns(f"{path}: line 1", header, whole=True)
        rows = [(f"line {lines.line_num}", row) for row in lines if row]
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num}", expected="a CSV file", found=str(error)) from None
    finally:
        csv.field_size_limit(before)
    for where, row in rows:
        as_wide = len(row) == len(header)
        yield where, dict(zip(header, row, strict=True)) if as_wide else ",".join(row)


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = line
        if isinstance(row, dict):
            _check_columns(f"{path}: line {number}", row, whole=False)
        yield f"line {number}", row
