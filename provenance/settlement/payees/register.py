"""Imports payees from files, and looks them up for a settlement; details are never shown."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from cryptography.fernet import MultiFernet

from provenance.core.errors import InputError
from provenance.core.lines import read_lines
from provenance.core.settings import KEY_VARIABLE
from provenance.settlement.account_actions import check_owners
from provenance.settlement.payees import vault as payee_vault
from provenance.settlement.payees.details import COLUMNS, NEEDED, Details, read_details, sealing

if TYPE_CHECKING:
    from provenance.core.where import Where

log = logging.getLogger("provenance.payees")


def register_of(where: Where) -> tuple[sa.Engine, MultiFernet]:
    """The register's database, and the box that opens its records."""
    return where.databases.payees, sealing(where.settings.payees.keys, f"environment: {KEY_VARIABLE}")


def payees_in_force(where: Where) -> dict[str, tuple[int, Details]]:
    """All payees with their versions, by owner; an empty register needs no key."""
    return payee_vault.in_force(*register_of(where)) if payee_vault.any_there(where.databases.payees) else {}


def import_payees(where: Where, path: Path, *, by: str) -> dict[str, int]:
    """Import a CSV file of payees, all or none; returns the version in force of each. Errors show no details."""
    payees = read_payees(path)
    check_owners(where, [payee.owner_id for payee in payees])
    versions = payee_vault.register(*register_of(where), payees, by=by)
    log.info("%d payees are in force as delivered", len(versions))
    return versions


def remove_payee(where: Where, owner_id: str) -> int:
    """Remove all versions of a payee's details; returns their number, or raises InputError if there is none."""
    where.ledger  # noqa: B018 (creates the register)
    count = payee_vault.remove(where.databases.payees, owner_id)
    if not count:
        raise InputError(f"payee {owner_id}", expected="a registered payee", found="none", hint="`provenance payee list`")
    return count


def masked(where: Where) -> list[dict[str, str | int | bool]]:
    """Registered payees, with masked details."""
    where.ledger  # noqa: B018 (creates the register)
    engine, _ = register_of(where)
    return [
        {
            "owner_id": owner,
            "version": version,
            "currency": details.currency,
            "paid_by": details.masked,
            "tax_data": details.taxed,
            "changed_by": (last := payee_vault.history(engine, owner)[-1])[1],
            "changed_at": last[2].isoformat(timespec="seconds"),
        }
        for owner, (version, details) in payees_in_force(where).items()
    ]


def read_payees(path: Path) -> list[Details]:
    """Read payees from a CSV file with the fields of `Details` as columns; all errors are reported at once."""
    if not path.is_file():
        raise InputError(str(path), expected="a CSV file", found="no such file")
    seen: set[str] = set()

    def read(row: dict[str, str], where: str) -> Details:
        details = read_details({name: text for name, text in row.items() if text.strip()}, where)
        if details.owner_id in seen:
            raise InputError(where, expected="one line for each owner", found=f"a second one of {details.owner_id}")
        seen.add(details.owner_id)
        return details

    words = {"each": "payee", "otherwise": "nothing was changed", "hint": "`provenance payee columns` explains them."}
    return read_lines(_text(path), str(path), read, columns=COLUMNS, needed=NEEDED, **words)


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        found, hint = "UTF-16" if utf16 else "another encoding", "In a spreadsheet, save it as CSV UTF-8."
        raise InputError(str(path), expected="a CSV file in UTF-8", found=found, hint=hint) from None
