"""Commands for payees: `provenance payee`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.text import Text
from typer import Argument

from provenance.core.where import Where
from tasks.cli.help import Command, noun
from tasks.cli.shared import By, OwnerId, Shown, command
from tasks.cli.tables import Grid

app = noun("Register the accounts of owners; they are sealed, and shown masked.")


@app.command("key", cls=Command)
def payee_key() -> None:
    """Make a key that seals payees' details; keep it with your secrets, and set PROVENANCE_PAYEES__KEY to it.

    To replace a key set the variable to the new key, a comma and the old key, and run `provenance payee reseal`.

    Example: `export PROVENANCE_PAYEES__KEY=$(provenance payee key)`
    """
    from cryptography.fernet import Fernet

    sys.stdout.write(f"{Fernet.generate_key().decode()}\n")


@command(app, "import")
def payee_import(
    where: Where,
    file: Annotated[Path, Argument(help="A CSV file; `provenance payee columns` explains its columns.")],
    by: By,
) -> Shown:
    """Register the accounts of owners, all lines of a file or none; earlier records stay as earlier versions.

    Checked: IBAN, BIC, routing and tax numbers, countries, currencies. Errors name line and column, and never repeat the value.
    Delete the file afterwards.

    Example: `provenance payee import payees.csv --by "J. Doe"`
    """
    from provenance.settlement.payees.register import import_payees

    payees = import_payees(where, file, by=by)
    yield payees, [f"{len(payees)} payees are in force as {file} has them."]


@command(app, "list")
def payee_list(where: Where) -> Shown:
    """List registered owners: how each is paid (masked), the last change, and missing tax data.

    Example: `provenance payee list`
    """
    from provenance.settlement.payees.register import masked

    payees = masked(where)
    yield payees, [payees_table(payees)]


def payees_table(payees: Sequence[Mapping[str, Any]]) -> Grid:
    """Registered payees, masked."""
    table = Grid("", "owner", "version", "currency", "paid by", "tax data", "changed", "by")
    for row in payees:
        tax = "there" if row["tax_data"] else Text("missing: held", "red")
        payee = (row[name] for name in ("owner_id", "version", "currency", "paid_by"))
        table.add_row(*payee, tax, row["changed_at"], row["changed_by"])
    return table


@command(app, "remove")
def payee_remove(where: Where, owner_id: OwnerId) -> Shown:
    """Delete the account of an owner, every version of it; payments stay in the ledger.

    A payment to it that waits for approval can then not be made.

    Example: `provenance payee remove tom-christie`
    """
    from provenance.settlement.payees.register import remove_payee

    versions = remove_payee(where, owner_id)
    yield {"versions": versions}, [f"{versions} versions are deleted."]


@command(app, "columns")
def payee_columns() -> Shown:
    """List the columns of the file that `provenance payee import` reads.

    Example: `provenance payee columns`
    """
    from provenance.settlement.payees.details import COLUMNS

    yield COLUMNS, (f"{name:<14} {meaning}" for name, meaning in COLUMNS.items())


@command(app, "reseal")
def payee_reseal(where: Where) -> Shown:
    """Seal every record again with the first key of PROVENANCE_PAYEES__KEY; the other keys can then be deleted.

    Example: `PROVENANCE_PAYEES__KEY=NEW,OLD provenance payee reseal`
    """
    from provenance.settlement.payees.register import register_of
    from provenance.settlement.payees.vault import reseal

    records = reseal(*register_of(where))
    yield {"records": records}, [f"{records} records are sealed with the first key."]
