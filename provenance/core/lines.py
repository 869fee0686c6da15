"""Files of CSV that people deliver: columns by name, every line read, and all mistakes told at once."""

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
    """What a function reads of each line of a file; it is given the line, and where that is.

    Args:
        each: what a line is of; otherwise: what comes of a file without any.
        hint: where columns are explained.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(f"{file}: line {reader.line_num}", row) for row in reader]
    except csv.Error as error:  # speaks of commas and quotes, and of no text between them
        raise InputError(f"{file}: line {reader.reader.line_num}", expected="CSV", found=str(error)) from None
    _check_header(f"{file}: line 1", list(reader.fieldnames or []), columns, needed, hint)
    if not rows:
        raise InputError(file, expected=f"a line for each {each}", found=f"none; {otherwise}")
    found: list[Line] = []
    errors: list[InputError] = []
    for where, row in rows:
        if None in row or None in row.values():
            errors.append(InputError(where, expected="as many fields as the header has", found="more or fewer"))
            continue
        try:
            found.append(read(row, where))
        except InputError as error:
            errors += error.errors if isinstance(error, InputErrors) else [error]
    if errors:
        raise InputErrors(errors)
    return found


def _check_header(where: str, names: list[str], columns: Collection[str], needed: Sequence[str], hint: str) -> None:
    for sign, signs in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and sign in names[0]:
            raise InputError(where, expected="commas between columns", found=signs, hint=hint)
    if names and not {*names} & {*columns}:  # a line of somebody's details, perhaps
        raise InputError(where, expected="the names of columns", found="none of them", hint=hint)
    if unknown := [name for name in names if name not in columns]:
        hint = did_you_mean(unknown[0], columns) or hint
        raise InputError(where, expected=f"some of {', '.join(columns)}", found=repr(unknown[0]), hint=hint)
    if missing := [name for name in needed if name not in names]:
        raise InputError(where, expected=f"the columns {', '.join(needed)}", found=f"no {missing[0]}", hint=hint)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(where, expected="every column once", found=f"{repeated[0]} twice", hint=hint)
