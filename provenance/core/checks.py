"""Check tables against their schema; deliveries pass these checks on their way in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from typing import Any

import polars as pl

from provenance.core.errors import ContractError
from provenance.core.tables import LONGEST_ID, TableSchema
from provenance.core.text import NOT_IN_IDS

_FIRST_ROW: ContextVar[int] = ContextVar("first row", default=0)


@contextmanager
def rows_from(first: int) -> Iterator[None]:
    """Have errors name rows of the file when a frame is a piece of it, which begins at a row."""
    token = _FIRST_ROW.set(first)
    try:
        yield
    finally:
        _FIRST_ROW.reset(token)


def conform(table: TableSchema, frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """Check a frame against a table: its columns come first, with defaults filled in; extra columns follow.

    Narrower types of the same kind (`Int32` for `Int64`, a naive or nanosecond time for UTC microseconds) are widened.

    Args:
        file: names the frame in errors.

    Raises:
        ContractError: a required column is missing or spelt otherwise, a type is wrong, or a value is empty that must not be.
    """
    frame = typed(table, frame, file)
    columns = []
    for name, column in table.columns.items():
        if name in frame.columns:
            columns.append(pl.col(name) if column.default is None else pl.col(name).fill_null(column.default))
            continue
        if column.required:
            raise ContractError(
                f"{file}: column {name!r}",
                expected=f"a required column of {table.name}",
                found=f"only {', '.join(frame.columns) or 'no columns'}",
            )
        columns.append(pl.lit(column.default, dtype=column.dtype).alias(name))
    extra = [name for name in frame.columns if name not in table.columns]
    result = frame.select(*columns, *extra)
    for name, column in table.columns.items():
        if not column.nullable:
            reject(result, pl.col(name).is_null(), file, name, expected="a value", found="none")
        if name.endswith("_id"):
            _check_ids(result, file, name)
    return result


def typed(table: TableSchema, frame: pl.DataFrame, file: str) -> pl.DataFrame:
    """A frame whose columns of a table have its types; columns may be missing, and others stay as they are.

    Raises:
        ContractError: a type is wrong, or a column has the name of one of the table's in another spelling.
    """
    columns = []
    for name, dtype in frame.schema.items():
        if name not in table.columns:
            spelt_rightly(table, name, f"{file}: column {name!r}")
            continue
        expected = table.columns[name].dtype
        if not _widens(dtype, expected):
            hint = f"Text is bytes once it is cast: pl.col({name!r}).cast(pl.Binary)." if expected == pl.Binary else ""
            raise ContractError(f"{file}: column {name!r}", expected=f"type {expected}", found=f"type {dtype}", hint=hint)
        if dtype != expected:
            columns.append(pl.col(name).cast(expected))
    return frame.with_columns(columns)


def spelt_rightly(table: TableSchema, name: str, where: str) -> None:
    """Raise ContractError for a name that is a column's but for the case of letters, signs between words and American spelling.

    It would be passed over as an extra column, and the column would get its default.
    """
    if name in table.columns:
        return
    for known in table.columns:
        if _letters(name) == _letters(known):
            raise ContractError(where, expected=f"the column as {known!r}", found=repr(name))


def _letters(name: str) -> str:
    letters = re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", name)).casefold()
    return letters.replace("license", "licence")  # as Americans spell it


def _check_ids(frame: pl.DataFrame, file: str, name: str) -> None:
    """Reject ids that are blank, too long, or have invisible characters: ids name accounts, folders and lines."""
    column = pl.col(name)
    reject(frame, column.str.strip_chars() == "", file, name, expected="a value", found="an empty one")
    expected = "an id without controls, line breaks and marks that turn the direction of writing"
    reject(frame, column.str.contains(NOT_IN_IDS), file, name, expected=expected)
    too_long = column.str.len_bytes() > LONGEST_ID
    reject(frame, too_long, file, name, expected=f"an id of at most {LONGEST_ID:,} bytes", found="a longer one")


def unique(table: TableSchema, frame: pl.DataFrame, file: str) -> None:
    """Raise ContractError with the first two rows that share the table's key."""
    unique_across(table, {file: frame})


def unique_across(table: TableSchema, frames: Mapping[str, pl.DataFrame]) -> None:
    """As `unique`, for a table in several files."""
    keys = pl.concat(
        frame.select(*table.key).with_row_index("_row").with_columns(_file=pl.lit(file)) for file, frame in frames.items()
    )
    repeated = keys.filter(pl.struct(table.key).is_duplicated())
    if repeated.is_empty():
        return
    first = repeated.row(0, named=True)
    rows = repeated.filter(pl.all_horizontal([pl.col(k).eq_missing(pl.lit(first[k])) for k in table.key]))
    second = rows.row(1, named=True)
    suffix = "" if first["_file"] == second["_file"] else f" of {first['_file'].rsplit('/', 1)[-1]}"
    raise ContractError(
        f"{second['_file']}: row {second['_row']}: {', '.join(table.key)}",
        expected="a key that no other row has",
        found=f"{', '.join(repr(first[k]) for k in table.key)}, which row {first['_row']}{suffix} has too",
    )


def stack(table: TableSchema, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of a table in several files, which conform; an extra column may be missing in some, and has one kind of type.

    Args:
        frames: by file, which names them in errors.

    Raises:
        ContractError: an extra column has types that no type holds without changing values.
    """
    first: dict[str, tuple[str, pl.DataType]] = {}
    for file, frame in frames.items():
        for name, dtype in frame.schema.items():
            if name in table.columns:
                continue
            known_file, known = first.get(name, (file, dtype))
            if not _one_kind(known, dtype):
                raise ContractError(
                    f"{file}: column {name!r}",
                    expected=f"type {known}, as in {known_file.rsplit('/', 1)[-1]}",
                    found=f"type {dtype}",
                    hint="An extra column has one type in all files: cast it, or leave it out.",
                )
            if name not in first or known == pl.Null:
                first[name] = (file, dtype)
    return pl.concat(frames.values(), how="diagonal_relaxed")


def _one_kind(a: pl.DataType, b: pl.DataType) -> bool:
    """Whether polars unites two types without changing a value."""
    if a == b or pl.Null in (a, b):
        return True
    wide = {pl.UInt64, pl.Int128, pl.UInt128}
    return (a.is_integer() and b.is_integer() and not {type(a), type(b)} & wide) or (a.is_float() and b.is_float())


def reject(frame: pl.DataFrame, bad: pl.Expr, file: str, column: str, *, expected: str, found: str | None = None) -> None:
    """Raise ContractError with the first row where `bad` is true, if any; rows count from 0 (`rows_from`)."""
    rows = frame.with_row_index("_row", offset=_FIRST_ROW.get()).filter(bad.fill_null(value=False))
    if rows.is_empty():
        return
    row = rows.row(0, named=True)
    key = next((f" ({k} {row[k]!r})" for k in ("output_id", "example_id", "work_id", "owner_id") if row.get(k)), "")
    more = f" (and {rows.height - 1} more rows)" if rows.height > 1 else ""
    raise ContractError(
        f"{file}: row {row['_row']}{key}: column {column!r}",
        expected=expected, found=(found if found is not None else _quoted(row[column])) + more,
    )  # fmt: skip


def _quoted(value: object) -> str:
    """A value for an error message; text is quoted, since it may be empty."""
    return value.isoformat() if isinstance(value, date) else repr(value)


def _widens(dtype: pl.DataType, expected: Any) -> bool:
    if dtype in (expected, pl.Null):
        return True
    if expected == pl.Int64:
        return dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128)
    if isinstance(expected, pl.Datetime):
        return isinstance(dtype, pl.Datetime)
    if expected == pl.String:
        return dtype == pl.Categorical or isinstance(dtype, pl.Enum)
    return False
