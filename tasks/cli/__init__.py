"""Defines the command line `provenance`. Exit codes: 0 good, 1 a check failed, 2 bad input."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer import Argument, Option

from provenance.core.errors import InputError, did_you_mean
from tasks.cli import (
    accounts,
    appeal,
    attribution,
    audit,
    counterfactuals,
    escrow,
    model,
    nights,
    optout,
    payee,
    rights,
    standing,
)
from tasks.cli.help import ATTRIBUTION, DECIDE, GROUPS, PAY, RIGHTS, Command, Overview, list_of
from tasks.cli.shared import console
from tasks.terminal import as_text, exit_codes

app = typer.Typer(
    cls=Overview,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find the works that a generative model's outputs rest on, and pay their owners.\n\n"
    "Settings: infra/settings/local.toml, or PROVENANCE_SETTINGS. Exit codes: 0 good, 1 a check failed, 2 bad input.",
)
app.add_typer(standing.app)
app.add_typer(nights.app)
app.add_typer(attribution.app)
app.add_typer(accounts.app)
app.add_typer(payee.app, name="payee", rich_help_panel=PAY)
app.add_typer(escrow.app, name="escrow", rich_help_panel=DECIDE)
app.add_typer(appeal.app)
app.add_typer(rights.app, name="rights", rich_help_panel=RIGHTS)
app.add_typer(optout.app, name="optout", rich_help_panel=RIGHTS)
app.add_typer(rights.root)
app.add_typer(model.root)
app.add_typer(model.app, name="model", rich_help_panel=ATTRIBUTION)
app.add_typer(counterfactuals.app, name="counterfactuals", rich_help_panel=ATTRIBUTION)
app.add_typer(audit.app, name="audit", rich_help_panel=ATTRIBUTION)


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from provenance.core.version import code_version

        sys.stdout.write(f"provenance {code_version()}\n")
        raise typer.Exit


@app.callback()
def options(
    *, version: Annotated[bool, Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False
) -> None:
    """Take the options before the command."""


@app.command("help", cls=Command)
def help_of(
    context: typer.Context,
    topic: Annotated[list[str] | None, Argument(help="A group (look, pay, decide, ...), or a command.")] = None,
) -> None:
    """List every command in a line, those of a group, or show the help of a command.

    Example: `provenance help pay`
    """
    top = context.find_root()
    groups = {name.lower(): name for name in GROUPS}
    words = list(topic or ())
    if not words or (len(words) == 1 and words[0].lower() in groups):
        chosen = [groups[word.lower()] for word in words] or list(GROUPS)
        console.print(*as_text(list_of(top.command, chosen)), sep="\n")
        return
    command: Any = top.command
    inner: Any = top
    for word in words:
        known = getattr(command, "commands", {})
        if word not in known:
            names = [*known, *(groups if command is top.command else ())]
            place = f"command {' '.join(words)!r}"
            raise InputError(place, expected="a command or a group", found=repr(word), hint=did_you_mean(word, names))
        command = known[word]
        inner = type(top)(command, info_name=word, parent=inner)
    command.get_help(inner)


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    with exit_codes():
        app()
