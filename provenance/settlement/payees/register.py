"""Payees: taken in from a file, looked up for a settlement, and never shown."""

from __future__ import annotations

import codecs
import logging
from pathlib import Path

import sqlalchemy as sa
from cryptography.fernet import MultiFernet

from provenance.core.errors import InputError
from provenance.core.lines import read_lines
from provenance.settlement.account_actions import check_owners
from provenance.settlement.payees import vault as payee_vault
from provenance.settlement.payees.details import COLUMNS, NEEDED, Details, read_details, sealing
from tasks.database import open_ledger, open_register
from tasks.settings import KEY_VARIABLE, Settings

log = logging.getLogger("provenance.payees")


def register_of(settings: Settings) -> tuple[sa.Engine, MultiFernet]:
    """The register of payees, and what opens it; the ledger's schema has to be there."""
    return open_register(settings.database), sealing(settings.payees.keys, f"environment: {KEY_VARIABLE}")


def payees_in_force(settings: Settings) -> dict[str, tuple[int, Details]]:
    """Every payee and its version, by owner; none at all where nobody has registered any, key or not."""
    engine = open_register(settings.database)
    return payee_vault.in_force(*register_of(settings)) if payee_vault.any_there(engine) else {}


def import_payees(settings: Settings, path: Path, *, by: str) -> dict[str, int]:
    """Take in a CSV file of payees, all or none; returns the version in force of each. Errors repeat nothing of it."""
    payees = read_payees(path)
    store = settings.store.open()
    check_owners(store, open_ledger(settings.database, store), [payee.owner_id for payee in payees])
    engine, box = register_of(settings)
    found = payee_vault.register(engine, box, payees, by=by)
    log.info("%d payees are in force as delivered", len(found))
    return found


def remove_payee(settings: Settings, owner_id: str) -> int:
    """Remove all that is known of a payee; returns how many versions that was. InputError: there was none."""
    open_ledger(settings.database, settings.store.open())
    gone = payee_vault.remove(open_register(settings.database), owner_id)
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
            "changed_by": (last := payee_vault.history(engine, owner)[-1])[1],
            "changed_at": last[2].isoformat(timespec="seconds"),
        }
        for owner, (version, details) in payees_in_force(settings).items()
    ]


def read_payees(path: Path) -> list[Details]:
    """The payees of a CSV file, whose columns are the fields of `Details`; all that is wrong is told at once."""
    if not path.is_file():
        raise InputError(str(path), expected="a CSV file", found="no such file")
    known: set[str] = set()

    def read(row: dict[str, str], where: str) -> Details:
        details = read_details({name: text for name, text in row.items() if text.strip()}, where)
        if details.owner_id in known:
            raise InputError(where, expected="one line for each owner", found=f"a second one of {details.owner_id}")
        known.add(details.owner_id)
        return details

    told = {"each": "payee", "otherwise": "nothing was changed", "hint": "`provenance payee columns` explains them."}
    return read_lines(_text(path), str(path), read, columns=COLUMNS, needed=NEEDED, **told)


def _text(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        found, hint = "UTF-16" if utf16 else "another encoding", "In a spreadsheet, save it as CSV UTF-8."
        raise InputError(str(path), expected="a CSV file in UTF-8", found=found, hint=hint) from None
