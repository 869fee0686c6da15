"""What commands share: options, the terminal, JSON."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from provenance.core.errors import InputError, parse_day
from tasks.terminal import Terminal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from tasks.settings import Settings

# What is written to a file or another program has no terminal's edge to stop at.
WIDTH_OF_FILES = 160
console = Terminal(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Duplicates = Literal["cluster", "off"]
CorpusFolder = Annotated[
    Path, typer.Option("--corpus", help="Folder with examples.parquet and, optionally, claims and owners.")
]
ModelFolder = Annotated[Path, typer.Option("--model", help="Folder with model.toml and its checkpoints.")]
OutputFile = Annotated[Path, typer.Option("--outputs", help="Parquet file with `output_id` and `content`.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder to write to; results that it has are replaced.")]
Counterfactuals = Annotated[
    Path | None, typer.Option("--counterfactuals", help="Folder that `provenance counterfactuals train` wrote.")
]
OnDevice = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto takes a GPU where there is one.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Dask workers; by default one for each core or GPU.")]
OwnerId = Annotated[str, typer.Argument(help="The owner, as owners.parquet names it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; owners and accountants read it.")]
By = Annotated[str, typer.Option("--by", help="Who decided; kept in the ledger.")]
ClaimsDay = Annotated[
    str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="Day on which claims must be valid; by default today (UTC).")
]
Known = Annotated[
    str | None,
    typer.Option(
        "--known",
        metavar="TIME",
        help="As it was known then, such as 2026-11-20T12:00 (UTC; a day is its first moment); by default now.",
    ),
]


def known_time(text: str | None) -> datetime | None:
    """The time that `--known` names, of UTC where it names no zone."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        expected = "a time as 2026-11-20T12:00, with or without a zone"
        raise InputError("--known", expected=expected, found=repr(text)) from None
    if time > datetime.now(UTC):
        raise InputError("--known", expected="a time that is over", found=text)
    return time


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers that an option lists, with commas between."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(option, expected="whole numbers with commas between, such as 4,8,16", found=repr(text)) from None


def claims_day(text: str | None) -> date:
    """The day that `--day` names; by default today (UTC)."""
    return datetime.now(UTC).date() if text is None else parse_day("--day", text)


def day_argument(text: str) -> str:
    """The day that the argument DAY names."""
    return parse_day("argument DAY", text).isoformat()


def settings_in_force() -> Settings:
    """The settings in force, whose module only a command that runs imports."""
    from tasks.settings import load

    return load()


def watched() -> AbstractContextManager[None]:
    """Show on standard error what stages log while they run."""
    from tasks.watch import watch

    return watch(Terminal(stderr=True))


def print_json(data: object) -> None:
    """Print JSON, for other programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


# What a command has found, for programs, and the screen of it, which is not made where it is not shown.
Shown = Iterator[tuple[object, Iterable["RenderableType"]]]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Shown]], Callable[..., Shown]]:
    """Make a command of a function that yields what it has found; with `--json` it prints JSON, and else the screen."""

    def register(function: Callable[..., Shown]) -> Callable[..., Shown]:
        @wraps(function)
        def run(*, as_json: bool, **given: Any) -> None:
            for found, screen in function(**given):
                show(found, screen, as_json=as_json)

        signature = inspect.signature(function, eval_str=True)
        option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, "as_json": AsJson, "return": None}
        app.command(name)(run)
        return function

    return register


def show(found: object, screen: Iterable[RenderableType], *, as_json: bool) -> None:
    """Print what was found: as JSON, or as a screen, which is not made where it is not shown."""
    if as_json:
        print_json(found)
    else:
        console.print(*screen, sep="\n", soft_wrap=True)
