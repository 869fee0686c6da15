"""Defines the command line `provenance`. Exit codes: 0 good, 1 a check failed, 2 bad input."""

import typer

from tasks.cli import accounts, appeal, attribution, audit, counterfactuals, model, nights, optout, payee, rights
from tasks.terminal import exit_codes

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find the works that a generative model's outputs rest on, and pay their owners.\n\n"
    "Settings come from `infra/settings/local.toml`, or the file that PROVENANCE_SETTINGS names; "
    "PROVENANCE_&lt;SECTION&gt;__&lt;KEY&gt; overrides one key. Exit codes: 0 good, 1 a check failed, 2 bad input.",
)
app.add_typer(attribution.app)
app.add_typer(nights.app)
app.add_typer(accounts.app)
app.add_typer(rights.root)
app.add_typer(appeal.app)
app.add_typer(audit.app, name="audit")
app.add_typer(counterfactuals.app, name="counterfactuals")
app.add_typer(model.app, name="model")
app.add_typer(model.root)
app.add_typer(payee.app, name="payee")
app.add_typer(rights.app, name="rights")
app.add_typer(optout.app, name="optout")


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    with exit_codes():
        app()
