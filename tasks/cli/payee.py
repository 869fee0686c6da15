"""`provenance payee`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tasks.cli.shared import By, OwnerId, Shown, command, console, settings_in_force
from tasks.terminal import line

app = typer.Typer(no_args_is_help=True, help="Where owners are paid: registered, sealed, never shown.")


@app.command("key")
def payee_key() -> None:
    """Make a key that seals payees' details; keep it where secrets are kept, and set PROVENANCE_PAYEES__KEY to it.

    To replace a key set the variable to the new one, a comma and the old one, and run `provenance payee reseal`.

    Example: `export PROVENANCE_PAYEES__KEY=$(provenance payee key)`
    """
    from cryptography.fernet import Fernet

    sys.stdout.write(f"{Fernet.generate_key().decode()}\n")


@command(app, "import")
def payee_import(
    file: Annotated[Path, typer.Argument(help="A CSV file; `provenance payee columns` explains its columns.")],
    by: By,
) -> Shown:
    """Register where owners are paid, all lines of a file or none; what was registered before stays as an earlier version.

    Checked: IBAN, BIC, routing and tax numbers, countries, currencies. What is wrong is named by line and column, never
    repeated. Delete the file afterwards.

    Example: `provenance payee import payees.csv --by "J. Doe"`
    """
    from provenance.settlement.payees.register import import_payees

    found = import_payees(settings_in_force(), file, by=by)
    yield found, [line(f"{len(found)} payees are in force as {file} has them.")]


@command(app, "list")
def payee_list() -> Shown:
    """Who is registered, how each is paid (masked), who changed it last, and whether tax data is missing.

    Example: `provenance payee list`
    """
    from provenance.settlement.payees.register import masked
    from tasks.cli.tables import payees_screen

    found = masked(settings_in_force())
    yield found, [payees_screen(found)]


@app.command("remove")
def payee_remove(owner_id: OwnerId) -> None:
    """Forget where an owner is paid, every version of it; what was paid stays in the ledger.

    A payment that waits for approval and was to go there can then not be made.

    Example: `provenance payee remove tom-christie`
    """
    from provenance.settlement.payees.register import remove_payee

    console.print(f"{remove_payee(settings_in_force(), owner_id)} versions are gone.")


@app.command("columns")
def payee_columns() -> None:
    """The columns of the file that `provenance payee import` takes.

    Example: `provenance payee columns`
    """
    from provenance.settlement.payees.details import COLUMNS

    for name, meaning in COLUMNS.items():
        console.print(f"{name:<14} {meaning}", highlight=False, soft_wrap=True)


@app.command("reseal")
def payee_reseal() -> None:
    """Seal every record again with the first key of PROVENANCE_PAYEES__KEY; after that the others can go.

    Example: `PROVENANCE_PAYEES__KEY=NEW,OLD provenance payee reseal`
    """
    from provenance.settlement.payees.register import register_of
    from provenance.settlement.payees.vault import reseal

    console.print(f"{reseal(*register_of(settings_in_force()))} records are sealed with the first key.")
