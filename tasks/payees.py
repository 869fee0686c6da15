"""Payees: taken in from a file, looked up for a settlement, and never shown."""

from __future__ import annotations

import codecs
import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.fernet import MultiFernet

from provenance.core.errors import InputError, InputErrors, did_you_mean
from provenance.settlement import register
from provenance.settlement.payees import COLUMNS, NEEDED, Details, read_details, sealing
from tasks.accounts import check_owners
from tasks.database import open_ledger, open_register
from tasks.settings import KEY_VARIABLE, Settings

log = logging.getLogger("provenance.payees")


def register_of(settings: Settings) -> tuple[sa.Engine, MultiFernet]:
    """The register of payees, and what opens it; the ledger's schema has to be there."""
    return open_register(settings.database), sealing(settings.payees.keys, f"environment: {KEY_VARIABLE}")


def payees_in_force(settings: Settings) -> dict[str, tuple[int, Details]]:
    """Every payee and its version, by owner; none at all where nobody has registered any, key or not."""
    engine = open_register(settings.database)
    return register.in_force(*register_of(settings)) if register.any_there(engine) else {}


def import_payees(settings: Settings, path: Path, *, by: str) -> dict[str, int]:
    """Take in a CSV file of payees, all or none; returns the version in force of each. Errors repeat nothing of it."""
    payees = read_payees(path)
    store = settings.store.open()
    check_owners(store, open_ledger(settings.database, store), [payee.owner_id for payee in payees])
    engine, box = register_of(settings)
    found = register.register(engine, box, payees, by=by)
    log.info("%d payees are in force as delivered", len(found))
    return found


def remove_payee(settings: Settings, owner_id: str) -> int:
    """Remove all that is known of a payee; returns how many versions that was. InputError: there was none."""
    open_ledger(settings.database, settings.store.open())
    gone = register.remove(open_register(settings.database), owner_id)
    if not gone:
        raise InputError(f"payee {owner_id}", expected="a registered payee", found="none", hint="`provenance payee list`")
    return gone


def masked(settings: Settings) -> list[dict[str, str | int | bool]]:
    """Who is registered, without anybody's details."""
    open_ledger(settings.database, settings.store.open())
    engine, _ = register_of(settings)
    return [
        {
            "owner_id": owner,
            "version": version,
            "currency": details.currency,
            "paid_by": details.masked,
            "tax_data": details.taxed,
            "changed_by": (last := register.history(engine, owner)[-1])[1],
            "changed_at": last[2].isoformat(timespec="seconds"),
        }
        for owner, (version, details) in payees_in_force(settings).items()
    ]


def read_payees(path: Path) -> list[Details]:
    """The payees of a CSV file, whose columns are the fields of `Details`; all that is wrong is told at once."""
    if not path.is_file():
        raise InputError(str(path), expected="a CSV file", found="no such file")
    reader = csv.DictReader(io.StringIO(_text(path)), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:  # speaks of commas and quotes, and of no text between them
        raise InputError(f"{path}: line {reader.reader.line_num}", expected="CSV", found=str(error)) from None
    _check_header(path, reader.fieldnames or [])
    if not rows:
        raise InputError(str(path), expected="a line for each payee", found="none; nothing was changed")
    found: dict[str, Details] = {}
    errors: list[InputError] = []
    for line, row in enumerate(rows, start=2):
        try:
            details = _read_row(row, f"{path}: line {line}", found)
            found[details.owner_id] = details
        except InputError as error:
            errors += error.errors if isinstance(error, InputErrors) else [error]
    if errors:
        raise InputErrors(errors)
    return list(found.values())


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        found, hint = "UTF-16" if utf16 else "another encoding", "In a spreadsheet, save it as CSV UTF-8."
        raise InputError(str(path), expected="a CSV file in UTF-8", found=found, hint=hint) from None


def _read_row(row: Mapping[str, Any], where: str, others: Mapping[str, Details]) -> Details:
    if None in row or None in row.values():
        raise InputError(where, expected="as many fields as the header has", found="more or fewer")
    details = read_details({name: text for name, text in row.items() if text.strip()}, where)
    if details.owner_id in others:
        raise InputError(where, expected="one line for each owner", found=f"a second one of {details.owner_id}")
    return details


def _check_header(path: Path, names: Sequence[str]) -> None:
    hint = "`provenance payee columns` explains them."
    for sign, signs in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and sign in names[0]:
            raise InputError(f"{path}: line 1", expected="commas between columns", found=signs, hint=hint)
    if names and not {*names} & {*COLUMNS}:  # a line of somebody's details, perhaps
        raise InputError(f"{path}: line 1", expected="the names of columns", found="none of them", hint=hint)
    if unknown := [name for name in names if name not in COLUMNS]:
        hint = did_you_mean(unknown[0], COLUMNS) or hint
        raise InputError(f"{path}: line 1", expected=f"some of {', '.join(COLUMNS)}", found=repr(unknown[0]), hint=hint)
    if missing := [name for name in NEEDED if name not in names]:
        raise InputError(f"{path}: line 1", expected=f"the columns {', '.join(NEEDED)}", found=f"no {missing[0]}", hint=hint)
