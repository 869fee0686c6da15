"""Holds what commands share: options, the terminal, JSON."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from provenance.core.errors import InputError, parse_day
from tasks.cli.help import Command
from tasks.terminal import Terminal, as_text, watch
from tasks.where import opened

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

# Columns of output to a file or another program.
WIDTH_OF_FILES = 160
console = Terminal(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES)
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of tables.")]
Duplicates = Literal["cluster", "off"]
CorpusFolder = Annotated[Path, Option("--corpus", help="Folder with examples.parquet, and claims and owners.")]
ModelFolder = Annotated[Path, Option("--model", help="Folder with model.toml and its checkpoints.")]
OutputFile = Annotated[Path, Option("--outputs", help="Parquet file with `output_id` and `content`.")]
OutFolder = Annotated[Path, Option("--out", help="Folder to write to; results in it are replaced.")]
Counterfactuals = Annotated[Path | None, Option("--counterfactuals", help="Folder of counterfactual models.")]
OnDevice = Annotated[Literal["auto", "cpu", "cuda"], Option("--device", help="auto uses a GPU if there is one.")]
Workers = Annotated[int | None, Option("--workers", min=1, help="Dask workers; by default one a core or GPU.")]
OwnerId = Annotated[str, Argument(help="The owner, as owners.parquet names it.")]
Reason = Annotated[str, Option("--reason", help="The reason; owners and accountants read it.")]
By = Annotated[str, Option("--by", help="The person who decided; kept in the ledger.")]
ClaimsDay = Annotated[str | None, Option("--day", metavar="DAY", help="Day of the claims, YYYY-MM-DD; by default today (UTC).")]
PaidDay = Annotated[str, Argument(help="The paid day, YYYY-MM-DD.")]
Known = Annotated[str | None, Option("--known", metavar="TIME", help="As known then, such as 2026-11-20T12:00 (UTC).")]


def known_time(text: str | None) -> datetime | None:
    """The time that `--known` names, in UTC unless it names a zone."""
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


def words(text: str) -> tuple[str, ...]:
    """The words of an option, with commas between."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of an option, with commas between."""
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


def watched() -> AbstractContextManager[None]:
    """Show the stages' log on standard error while they run."""
    return watch(Terminal(stderr=True))


def print_json(data: object) -> None:
    """Print JSON, for other programs."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


# A command's data, for programs, and its screen, which is built only when it is shown.
Shown = Iterator[tuple[object, Iterable["RenderableType"]]]


def command(
    app: typer.Typer, name: str | None = None, *, group: str | None = None
) -> Callable[[Callable[..., Shown]], Callable[..., Shown]]:
    """Make a command of a function that yields its data and its screen; with `--json` it prints the data.

    A parameter `where` is no option: it gets the opened doors of the settings in force.

    Args:
        group: of `help.GROUPS`, for a command without a noun before it.
    """

    def register(function: Callable[..., Shown]) -> Callable[..., Shown]:
        signature = inspect.signature(function, eval_str=True)
        options = [each for each in signature.parameters.values() if each.name != "where"]

        @wraps(function)
        def run(*, as_json: bool, **values: Any) -> None:
            with ExitStack() as doors:
                if len(options) < len(signature.parameters):
                    values["where"] = doors.enter_context(opened())
                for data, screen in function(**values):
                    show(data, screen, as_json=as_json)

        json_option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
        run.__signature__ = signature.replace(parameters=[*options, json_option])  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in options} | {"as_json": AsJson, "return": None}
        app.command(name, cls=Command, rich_help_panel=group)(run)
        return function

    return register


def show(data: object, screen: Iterable[RenderableType], *, as_json: bool) -> None:
    """Print data as JSON, or a screen."""
    if as_json:
        print_json(data)
    else:
        console.print(*as_text(screen), sep="\n", soft_wrap=True)
