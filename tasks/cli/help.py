"""Shows help in one style: groups of commands on one screen, and values named by words in capitals."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from tasks.terminal import line

# Groups of commands, in the order of the first screen, and what each is for.
LOOK, PAY, DECIDE, RIGHTS, ATTRIBUTION, UPKEEP = "Look", "Pay", "Decide", "Rights", "Attribution", "Upkeep"
GROUPS = {
    LOOK: "what stands, who earned what, from which works, what changed",
    PAY: "months: payments, rates, answers of banks, statements, payees",
    DECIDE: "terms, what would change, holds, claims, contested shares",
    RIGHTS: "sources, terms, signals, opt-outs, copies, disclosures",
    ATTRIBUTION: "models, influence, shares, and how true they are",
    UPKEEP: "compute again, remove old results, replace the key",
}
# Width of the first screen, and of the names of its groups.
WIDTH, INDENT = 80, 13
NUMBER = {int: "N", float: "X"}
# What the values of options are, where the option's own name does not say it.
VALUES = {
    "by": "PERSON",
    "reason": "TEXT",
    "evidence": "TEXT",
    "like": "TEXT",
    "collector": "NAME",
    "methods": "NAMES",
    "only": "NAMES",
    "parts": "NAMES",
    "trainings": "NUMBERS",
    "content": "COLUMN",
    "prompt": "COLUMN",
    "owner": "COLUMN",
    "work": "COLUMN",
    "begin": "TOKEN",
    "end": "TOKEN",
    "attacker": "OWNER_ID",
    "outputs": "IDS",
    "corpus": "DIGEST",
}


class _Argument(TyperArgument):
    """An argument that help shows as its name in capitals, without a type."""

    def display_type_rich(self, ctx: Any) -> str | None:  # noqa: ARG002 (typer's)
        return None

    def _usage_display_name(self) -> str:
        name = self.display_name_raw + ("..." if self.nargs != 1 else "")
        return name if self.required else f"[{name}]"


class _Option(TyperOption):
    """An option whose value help names by a word in capitals, or by its choices; a flag has none."""

    def display_type_rich(self, ctx: Any) -> str | None:
        if self.is_flag:
            return None
        return self.metavar or self.display_type(ctx).strip("<>")


def _named(param: Any) -> Any:
    """A parameter with its value named in the one style."""
    if isinstance(param, TyperArgument):
        param.__class__ = _Argument
        if param.metavar is None:
            param.metavar = param.name.upper()
    elif isinstance(param, TyperOption):
        param.__class__ = _Option
        described = param.type_descriptor
        if param.metavar is None and not param.is_flag and not described.is_choice:
            param.metavar = _value(param.name, described.annotation, param.help or "")
    return param


def _value(name: str, kind: Any, text: str) -> str:
    if kind in NUMBER:
        return NUMBER[kind]
    if isinstance(kind, type) and issubclass(kind, Path):
        return "FOLDER" if "folder" in text.lower() else "FILE"
    return VALUES.get(name) or name.rsplit("_", 1)[-1].upper()


class Command(TyperCommand):
    """A command with help in the one style."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, named in the one style."""
        return [_named(param) for param in super().get_params(ctx)]


class Group(TyperGroup):
    """A group of commands with help in the one style."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, named in the one style."""
        return [_named(param) for param in super().get_params(ctx)]


class Overview(Group):
    """The whole command line: its help is one screen, and `provenance help` has a line for each command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (typer's)
        """Print the first screen: 80 columns, 24 lines."""
        console = Console(width=min(WIDTH, Console().width), highlight=False)
        console.print(*first_screen(self), sep="\n")


def noun(text: str) -> typer.Typer:
    """A group of commands about one thing."""
    return typer.Typer(no_args_is_help=True, help=text, cls=Group)


def first_screen(group: TyperGroup) -> Iterator[RenderableType]:
    """The commands by group, and where to read more."""
    sentence, _, settings = (group.help or "").partition("\n\n")
    yield line(sentence, "bold")
    yield ""
    for name, meaning in GROUPS.items():
        names = textwrap.wrap("  ".join(commands_of(group, name)), WIDTH - INDENT - 1)
        for number, row in enumerate(names):
            yield line(f"{'' if number else name:<{INDENT}}{row}", "bold")
        yield from (line(f"{'':<{INDENT}}{row}", "dim") for row in textwrap.wrap(meaning, WIDTH - INDENT - 1))
    yield ""
    yield line(f"{'provenance status':<27}begin here: what stands, what waits, what is next")
    yield line(f"{'provenance COMMAND --help':<27}what a command does, its options and an example")
    yield line(f"{'provenance help [GROUP]':<27}every command in a line; --version")
    yield from (line(row, "dim") for row in textwrap.wrap(settings, WIDTH - 1))


def commands_of(group: TyperGroup, name: str) -> list[str]:
    """Names of the commands of a group, in the order in which they were made."""
    return [key for key, command in group.commands.items() if getattr(command, "rich_help_panel", None) == name]


def list_of(group: Any, chosen: Sequence[str]) -> Iterator[RenderableType]:
    """The commands of some groups, a line or more each: what it does."""
    for name in chosen:
        yield line(f"{name}: {GROUPS[name]}", "bold")
        grid = Table.grid(padding=(0, 2))
        for command in commands_of(group, name):
            grid.add_row(line(f"  {command}"), line(first_sentence(group.commands[command].help or "")))
        yield grid


def first_sentence(text: str) -> str:
    """What a command does, without markup."""
    return " ".join(text.split("\n\n", maxsplit=1)[0].split()).replace("`", "").replace("*", "")
