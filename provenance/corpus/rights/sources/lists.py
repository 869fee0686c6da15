"""Import lists of sources: read files, check each row, add new rows to the records; and query the registry."""

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

from provenance.core.checks import conform
from provenance.core.errors import InputError, did_you_mean
from provenance.core.store import Store, sha256, to_parquet
from provenance.core.tables import SOURCES
from provenance.core.text import NOT_IN_IDS
from provenance.core.where import Where
from provenance.corpus import records
from provenance.corpus.delivery import read_delivered
from provenance.corpus.rights.sources.canonical import canonical, says_where
from provenance.corpus.rights.sources.registry import distinct, registry, source_ids

log = logging.getLogger("provenance.sources")

REJECTED = f"{records.ROOT}/rejected/{SOURCES.name}"
# Characters of names and cells, and names in a cell; a larger cell is a whole work by mistake.
LARGEST_NAME, LARGEST_CELL, MOST_NAMES = 8_192, 1_000_000, 1_000
LONGEST_SHOWN = 80
# Tolerance for times in the future: clocks differ, and times without a zone count as UTC.
EARLY = timedelta(days=1)


def _time(value: Any) -> datetime:
    """Parse a time of ISO 8601; a day means its first moment, and a time without a zone is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError("not a time")  # noqa: TRY004, pydantic reports no other
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:  # the last hours of the year 9999, west of UTC
        raise ValueError("not a time") from None


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _names(value: Any) -> Any:
    """Split a cell of CSV at blanks, which names do not have."""
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
    """Check that a text is an address, number or package, so that the source can be found again."""
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
    """The result of importing a list: counts of new, known and rejected rows.

    Attributes:
        problems: for each kind of problem the count of rows, and the first of them.
        kept: place of the rejected rows.
    """

    file: str
    new: int
    known: int
    rejected: int
    problems: tuple[str, ...] = ()
    kept: str = ""


def import_sources(
    where: Where,
    paths: Sequence[Path],
    *,
    collector: str = "",
    now: datetime | None = None,
    each: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> list[Imported]:
    """Add new rows of lists of sources to the records.

    All files are read before anything is added. Rejected rows are stored below `rights/rejected/sources/`, whole and with the
    reason.

    Args:
        collector: collector of rows without one.
        each: iterates over the files, to show progress.

    Raises:
        InputError: a file is no list (missing, not UTF-8, unknown or missing columns, no readable row); nothing is added.
    """
    moment, store = now or datetime.now(UTC), where.store
    lists = [_read_list(path, collector, moment) for path in each(paths)]
    recorded, imported = distinct(records.read(store, SOURCES)), []
    for path, (good, bad) in zip(paths, lists, strict=True):
        rejected_key = ""
        if not bad.is_empty():
            data = to_parquet(bad.drop("expected"))
            rejected_key = f"{REJECTED}/{sha256(data)}.parquet"
            store.create(rejected_key, data)
        fresh = _add(store, good, recorded, moment)
        recorded = pl.concat([recorded, fresh])
        kinds = bad.group_by("expected", maintain_order=True).agg(pl.len(), pl.col("why").first())
        problems = tuple(f"{count:,} such as {why}" for _, count, why in kinds.iter_rows())
        imported.append(
            Imported(
                str(path),
                fresh.height,
                good.height - fresh.height,
                bad.height,
                problems,
                rejected_key and store.locate(rejected_key),
            )
        )
        log.info("sources of %s: %d new, %d known, %d rejected", path, fresh.height, good.height - fresh.height, bad.height)
    return imported


def register_delivered(where: Where) -> int:
    """Stage `rights.sources`: add the delivery's `sources.parquet`, if there is one; returns the count of new records."""
    store = where.store
    table, file = read_delivered(store, where.settings.corpus.folder, "sources")
    if table is None:
        log.info("sources: the delivery has no %s", file)
        return 0
    sources = conform(SOURCES, table, file).with_columns(pl.col("identifiers").fill_null([])).select(SOURCES.schema.names())
    fresh = _add(store, sources, distinct(records.read(store, SOURCES)))
    log.info("sources of %s: %d new, %d known", file, fresh.height, table.height - fresh.height)
    return fresh.height


def registry_in_force(store: Store, known: datetime | None = None) -> pl.DataFrame:
    """The registry of all records; with `known`, only of records added by that time."""
    return registry(records.read(store, SOURCES, known=known))


def find_sources(registry: pl.DataFrame, *, like: str = "", conflicts: bool = False) -> pl.DataFrame:
    """The sources with a text in a name or title, in any case; optionally only those with contradictory records."""
    names = pl.col("identifiers").list.join("\n") + "\n" + pl.col("title").fill_null("")
    matches = registry.filter(names.str.to_lowercase().str.contains(like.lower(), literal=True))
    return matches.filter(pl.col("conflicts").list.len() > 0) if conflicts else matches


def list_rejected(store: Store, *, like: str = "") -> pl.DataFrame:
    """The rows of imported lists that could not be read, `file, row, why, written`, by file.

    Args:
        like: a text in any of these, in any case.
    """
    columns = ("file", "row", "why", "written")
    tables = [store.read_table(key, columns=columns) for key in store.list(REJECTED)]
    rows = pl.concat([pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), *tables]).unique(maintain_order=True)
    found = pl.concat_str(columns, separator="\n").str.to_lowercase().str.contains(like.lower(), literal=True)
    return rows.filter(found).sort("file", maintain_order=True)


def show_source(store: Store, name: str, known: datetime | None = None) -> tuple[dict[str, Any], pl.DataFrame]:
    """The source with a name in any spelling: its row of the registry, and its records. InputError: there is none."""
    recorded = records.read(store, SOURCES, known=known)
    sources, identifier = registry(recorded), canonical(name)
    matches = sources.filter(pl.col("identifiers").list.contains(identifier))
    if matches.is_empty():
        clashing = sources.filter(pl.col("conflicts").list.contains(identifier))["source_id"].to_list()
        hint = (
            f"Records of {clashing[0]!r} list it, though it belongs to another work, which has no record."
            if clashing
            else did_you_mean(identifier, sources["identifiers"].explode())
            or "`provenance rights sources list --like TEXT` searches for a text."
        )
        raise InputError(f"source {name!r}", expected="a source of the registry, by any of its names", found="none", hint=hint)
    row = matches.row(0, named=True)
    is_source = source_ids(sources, recorded["source_uri"]) == row["source_id"]
    return row, recorded.filter(is_source.fill_null(value=False)).sort("acquired_at", maintain_order=True)


def _add(store: Store, good: pl.DataFrame, recorded: pl.DataFrame, now: datetime | None = None) -> pl.DataFrame:
    """Add rows that are not recorded yet, each once; returns them."""
    marked = pl.concat([recorded.with_columns(_new=pl.lit(value=False)), distinct(good).with_columns(_new=pl.lit(value=True))])
    comparable = marked.with_columns(_listed=pl.col("identifiers").list.join("\x00"))
    columns = [name for name in comparable.columns if name not in {"identifiers", "_new"}]
    fresh = comparable.unique(columns, keep="first", maintain_order=True).filter("_new").select(SOURCES.schema.names())
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
            good.append(_check_row(f"{path}: {where}", row, collector, now))
        except InputError as error:
            first = first or error
            original = row if isinstance(row, str) else json.dumps(row, default=str)
            bad.append({"file": str(path), "row": where, "why": str(error), "written": original, "expected": error.expected})
    if first and not good:
        raise first
    if not good:
        raise InputError(str(path), expected="a row for each source", found="none")
    rejected = pl.DataFrame(bad, schema=dict.fromkeys(("file", "row", "why", "written", "expected"), pl.String))
    return pl.DataFrame(good, schema=SOURCES.schema), rejected


def _check_row(where: str, row: Any, collector: str, now: datetime) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(where, expected="a row with the columns of sources", found=_quoted(row))
    values = row if row.get("collector") else row | {"collector": collector}
    try:
        record = _Record.model_validate(values).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        column = str(first["loc"][0])
        raise InputError(f"{where}: column {column!r}", expected=EXPECTED[column], found=_quoted(values.get(column))) from None
    if record["acquired_at"] > now + EARLY:
        raise InputError(f"{where}: column 'acquired_at'", expected=EXPECTED["acquired_at"], found=str(record["acquired_at"]))
    return record


def _quoted(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else repr(value)
    return f"{len(text):,} characters" if len(text) > LONGEST_SHOWN else repr(value)


def _check_columns(where: str, names: Iterable[str], *, whole: bool) -> None:
    """Raise InputError for unknown or repeated columns and, for a whole table, for missing ones."""
    allowed, columns = list(_Record.model_fields), list(names)
    if unknown := [name for name in columns if name not in allowed]:
        hint = did_you_mean(unknown[0], allowed) if unknown[0] else "Is the list parted by commas?"
        raise InputError(f"{where}: columns", expected=f"some of {', '.join(allowed)}", found=repr(unknown[0]), hint=hint)
    if repeated := [name for at, name in enumerate(columns) if name in columns[:at]]:
        raise InputError(f"{where}: column {repeated[0]!r}", expected="every column once", found="two of that name")
    needed = [name for name, field in _Record.model_fields.items() if field.is_required() and name != "collector"]
    if whole and (missing := [name for name in needed if name not in columns]):
        raise InputError(f"{where}: column {missing[0]!r}", expected="a column that is needed", found="none of that name")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"the byte {data[error.start]:#04x}"
        raise InputError(
            f"{path}: line {line}", expected="text in UTF-8", found=byte, hint="Write the list in UTF-8."
        ) from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(str(path), expected="a Parquet file", found=str(error).splitlines()[0]) from None
    _check_columns(str(path), frame.columns, whole=True)
    return ((f"row {number}", row) for number, row in enumerate(frame.iter_rows(named=True)))


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    before = csv.field_size_limit(2**31 - 1)  # large cells are rejected by row, with the column
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
