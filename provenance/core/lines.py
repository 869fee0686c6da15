"""Read CSV files that people deliver: columns by name, and all mistakes reported at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from provenance.core.errors import InputError, InputErrors, did_you_mean

Line = TypeVar("Line")


def read_lines(
    text: str,
    file: str,
    read: Callable[[dict[str, str], str], Line],
    *,
    columns: Collection[str],
    needed: Sequence[str],
    each: str,
    otherwise: str,
    hint: str,
) -> list[Line]:
    """Read each line of a file with a function that takes the line's fields and its place.

    Args:
        each: what a line describes, for errors.
        otherwise: the result of a file without lines, for errors.
        hint: where columns are explained.

    Raises:
        InputErrors: all lines that cannot be read.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(f"{file}: line {reader.line_num}", row) for row in reader]
    except csv.Error as error:  # its message quotes no content
        raise InputError(f"{file}: line {reader.reader.line_num}", expected="CSV", found=str(error)) from None
    _check_header(f"{file}: line 1", list(reader.fieldnames or []), columns, needed, hint)
    if not rows:
        raise InputError(file, expected=f"a line for each {each}", found=f"none; {otherwise}")
    lines: list[Line] = []
    errors: list[InputError] = []
    for where, row in rows:
        if None in row or None in row.values():
            errors.append(InputError(where, expected="as many fields as the header has", found="more or fewer"))
            continue
        try:
            lines.append(read(row, where))
        except InputError as error:
            errors += error.errors if isinstance(error, InputErrors) else [error]
    if errors:
        raise InputErrors(errors)
    return lines


def _check_header(where: str, names: list[str], columns: Collection[str], needed: Sequence[str], hint: str) -> None:
    for sign, signs in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and sign in names[0]:
            raise InputError(where, expected="commas between columns", found=signs, hint=hint)
    if names and not {*names} & {*columns}:  # the error quotes none: the line may be personal data
        raise InputError(where, expected="the names of columns", found="none of them", hint=hint)
    if unknown := [name for name in names if name not in columns]:
        hint = did_you_mean(unknown[0], columns) or hint
        raise InputError(where, expected=f"some of {', '.join(columns)}", found=repr(unknown[0]), hint=hint)
    if missing := [name for name in needed if name not in names]:
        raise InputError(where, expected=f"the columns {', '.join(needed)}", found=f"no {missing[0]}", hint=hint)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(where, expected="every column once", found=f"{repeated[0]} twice", hint=hint)
