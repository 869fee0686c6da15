"""Payees: taken in from a file, looked up for a settlement, and never shown."""

from __future__ import annotations

import csv
import io
import logging
from typing import TYPE_CHECKING

from provenance.core.errors import InputError
from provenance.settlement import register
from provenance.settlement.payees import Details, read_details, sealing
from tasks.database import open_ledger, open_register
from tasks.settings import KEY_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa
    from cryptography.fernet import MultiFernet

    from tasks.settings import Settings

log = logging.getLogger("provenance.payees")


def register_of(settings: Settings) -> tuple[sa.Engine, MultiFernet]:
    """The register of payees, and what opens it; the ledger's schema has to be there."""
    return open_register(settings.database), sealing(settings.payees.keys, f"environment: {KEY_VARIABLE}")


def payees_in_force(settings: Settings) -> dict[str, tuple[int, Details]]:
    """Every payee and its version, by owner; none at all where nobody has registered any, key or not."""
    engine = open_register(settings.database)
    return register.in_force(*register_of(settings)) if register.any_there(engine) else {}


def import_payees(settings: Settings, path: Path, *, by: str) -> dict[str, int]:
    """Take in a CSV file of payees, all or none; returns the version in force of each.

    Raises:
        InputError: naming the line and the column, and repeating nothing of what stands there.
    """
    payees = read_payees(path)
    open_ledger(settings.database, settings.store.open())
    engine, box = register_of(settings)
    found = register.register(engine, box, payees, by=by)
    log.info("%d payees are in force as delivered", len(found))
    return found


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
    """The payees of a CSV file, whose columns are the fields of `Details`."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(str(path), expected="a CSV file in UTF-8", found=type(error).__name__) from None
    found: dict[str, Details] = {}
    for line, row in enumerate(rows, start=2):
        where = f"{path}: line {line}"
        if None in row or None in row.values():
            raise InputError(where, expected="as many fields as the header has", found="more or fewer")
        details = read_details({name: text for name, text in row.items() if text.strip()}, where)
        if details.owner_id in found:
            raise InputError(where, expected="one line for each owner", found=f"a second one of {details.owner_id}")
        found[details.owner_id] = details
    return list(found.values())
