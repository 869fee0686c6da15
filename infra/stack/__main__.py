"""Runs the production shape on this machine: PostgreSQL, S3, Dask and Airflow, as processes under supervisord.

make up        start everything, and wait until it is healthy
make night     the demo's model serves a day; the scheduler pays for it (DAY=YYYY-MM-DD)
make backfill  pay days again (FROM=YYYY-MM-DD TO=YYYY-MM-DD DRY_RUN=1)
make down      stop everything

Other commands of this program: `status`, `restart airflow-scheduler`, and `run COMMAND`, which runs a command with the settings
and secrets of the stack, such as `run provenance verify 2026-11-20` or `run airflow dags list`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Annotated

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.stack import supervise
from infra.stack.layout import BIN, BUCKET, DATABASE_LOGINS, PEOPLE, environment, load, parts, secrets_of
from provenance.core.errors import InputError, SettingsError, parse_day
from provenance.core.settings import CHECKOUT
from tasks.cli.help import Command, Group
from tasks.terminal import exit_codes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.stack.layout import Part, Stack

app = typer.Typer(
    name="python -m infra.stack",
    cls=Group,
    help=(__doc__ or "").replace("\n\nmake up", "\n\n\b\nmake up"),  # which keeps its lines
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command(cls=Command)
def up() -> None:
    """Start everything and wait until it is healthy; running processes stay as they are."""
    stack, start = load(), time.monotonic()
    if not supervise.is_up(stack):
        supervise.check_ports(stack)
        with console.status("Preparing"):
            supervise.prepare(stack)
        supervise.begin(stack)
    all_parts = parts(stack, supervise.postgres_user())
    _start(stack, [part for part in all_parts if part.phase == 0])
    with console.status("Databases, bucket, people"):
        _set_up(stack)
    _start(stack, [part for part in all_parts if part.phase == 1])
    console.print(
        f"\nUp after {time.monotonic() - start:.0f} s.\n"
        f"[bold]Airflow[/]    {stack.airflow_url}  as {', '.join(PEOPLE)}; passwords: {stack.path / 'secrets.json'}\n"
        f"[bold]Metrics[/]    http://127.0.0.1:{stack.ports.metrics}/metrics\n"
        f"[bold]Store[/]      s3://{BUCKET} at {stack.s3_url}\n"
        f"[bold]Logs[/]       {stack.logs}\n"
        f"[bold]Next[/]       make night; commands of the pipeline: .venv/bin/python -m infra.stack run provenance --help\n"
        f"[bold]Paused[/]     every DAG, until somebody unpauses it: docs/operators.md says who and when\n"
        f"[bold]Stop[/]       make down",
        soft_wrap=True,
        highlight=False,
    )


@app.command(cls=Command)
def down() -> None:
    """Stop everything; databases and store keep their contents."""
    stack = load()
    with console.status("Stopping"):
        killed = supervise.end(stack)
    for command in killed:
        console.print(f"[dim]killed: {escape(command[:120])}[/]")
    console.print("Down.")


@app.command(cls=Command)
def status() -> None:
    """Show each process and whether it is healthy; exit code 1 unless all are."""
    stack = load()
    _must_be_up(stack)
    table = Table(box=None)
    for heading in ("process", "state", "healthy", "since"):
        table.add_column(heading)
    good = True
    for name, state in supervise.states(stack).items():
        healthy = state["statename"] == "RUNNING" and supervise.is_healthy(stack, name)
        good &= healthy
        table.add_row(name, state["statename"].lower(), "yes" if healthy else "[red]no[/]", state["description"])
    console.print(table)
    raise typer.Exit(0 if good else 1)


@app.command(cls=Command)
def restart(names: Annotated[list[str], typer.Argument(help="processes, as `status` names them")]) -> None:
    """Stop processes and start them again."""
    stack = load()
    _must_be_up(stack)
    running = list(supervise.states(stack))
    for name in names:
        if name not in running:
            raise InputError(f"process {name!r}", expected=f"one of {', '.join(running)}", found="none such")
    supervise.stop(stack, names)
    _start(stack, [part for part in parts(stack, supervise.postgres_user()) if part.name in names])


@app.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(command: Annotated[list[str], typer.Argument(help="the command, such as: provenance verify 2026-11-20")]) -> None:
    """Run a command with the settings and secrets of the stack in its environment."""
    raise typer.Exit(_run(load(), command))


@app.command(cls=Command)
def night(day: Annotated[str, typer.Option(help="the day to pay; by default yesterday (UTC)")] = "") -> None:
    """Have the demo's model serve a day, and the stack's scheduler pay for it."""
    stack = load()
    _must_be_up(stack)
    os.environ.update(environment(stack))
    from infra.stack.night import pay

    pay(stack, day, console)


@app.command(cls=Command)
def backfill(
    first: Annotated[str, typer.Argument(help="the first day, YYYY-MM-DD")],
    last: Annotated[str, typer.Argument(help="the last day; by default the first")] = "",
    dry_run: Annotated[bool, typer.Option(help="show changes by owner, and book nothing")] = False,
) -> None:
    """Pay days again, or for the first time, through the scheduler; paid days are corrected by difference."""
    if not first:
        raise InputError("make backfill", expected="FROM=YYYY-MM-DD, and TO=YYYY-MM-DD", found="no FROM")
    last = last or first
    days = parse_day("FROM", first), parse_day("TO", last)
    if days[1] < days[0]:
        raise InputError("TO", expected=f"a day not before {first}", found=last)
    stack = load()
    _must_be_up(stack)
    if dry_run:
        raise typer.Exit(_run(stack, ["provenance", "preview", first, last]))
    os.environ.update(environment(stack))
    from infra.stack.backfill import backfill

    backfill(stack, *days, console)


def _run(stack: Stack, command: list[str]) -> int:
    return subprocess.call(command, env={**os.environ, **environment(stack)})


def _start(stack: Stack, wanted: Sequence[Part]) -> None:
    names = [part.name for part in wanted]
    supervise.start(stack, names)
    with console.status("Waiting for") as status:
        waiting = list(names)
        status.update(f"Waiting for {', '.join(waiting)}")
        for name, seconds in supervise.wait_healthy(stack, names):
            waiting.remove(name)
            console.print(f"  {name:24} healthy after {seconds:3.0f} s")
            status.update(f"Waiting for {', '.join(waiting)}")


def _set_up(stack: Stack) -> None:
    """Make databases, people, bucket and tables before Airflow starts, unless they exist."""
    from infra.postgres.setup import set_up

    stack_secrets = secrets_of(stack)
    passwords = {login: stack_secrets["databases"][login] for login in DATABASE_LOGINS}
    admin = stack.database_url("postgres", "postgres", stack_secrets["postgres"])
    set_up(admin, passwords)
    people = {name: {"role": role, "password": stack_secrets["people"][name]} for name, role in PEOPLE.items()}
    access, secret = stack_secrets["s3"]["administrator"]
    administrator = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    with (stack.logs / "set-up.log").open("w") as log:
        for arguments, standard_input, variables in (
            (["infra.airflow.access"], json.dumps(people), {}),
            (["infra.s3.setup", "bucket"], "", administrator),
            (["infra.stack.tables"], "", {}),
        ):
            process = subprocess.run(
                [str(BIN / "python"), "-m", *arguments], env={**os.environ, **environment(stack), **variables}, cwd=CHECKOUT,
                input=standard_input.encode(), stdout=log, stderr=log, check=False,
            )  # fmt: skip
            if process.returncode:
                raise RuntimeError(f"{arguments[0]} failed:\n{supervise.tail(stack, 'set-up')}")
    set_up(admin, passwords)  # again, to take rights away from tables made since


def _must_be_up(stack: Stack) -> None:
    if not supervise.is_up(stack):
        raise SettingsError(
            f"stack in {stack.path}", expected="to be up", found="nothing that answers", hint="Start it with: make up"
        )


def main() -> None:
    """Run from the command line; exit codes: 0 good, 1 not healthy, failed or no answer, 2 bad input."""
    with exit_codes(RuntimeError, httpx.TransportError):
        app()


if __name__ == "__main__":
    main()
