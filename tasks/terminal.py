"""A terminal that strangers' text is shown on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from provenance.core.errors import CheckFailed, InputError, InputErrors, NotNow
from provenance.core.text import on_screen, visible

# What a person reads of a file with mistakes in every line.
MOST_MISTAKES = 50


class Terminal(Console):
    """A console on which no text moves the cursor, sets a colour or turns the direction of writing; it is written out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is shown, piece by piece."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(on_screen(segment.text), segment.style)


def cell(text: str) -> str:
    """Strangers' text for a cell of a table, on one line: a table is laid out before its text is written out."""
    return escape(visible(text))


def line(text: str, style: str = "") -> Text:
    """A line with strangers' text in it, which cannot look like another line."""
    return Text(visible(text), style=style)


@contextmanager
def exit_codes(*failures: type[Exception]) -> Iterator[None]:
    """Turn errors, and other failures, into one message and an exit code: 2 for bad input, 1 for what failed."""
    told = ((InputError, "Bad input", 2), (CheckFailed, "Check failed", 1), (NotNow, "Not now", 1))
    caught: tuple[type[Exception], ...] = (*(kind for kind, _, _ in told), *failures)
    try:
        yield
    except caught as error:
        what, code = next(((what, code) for kind, what, code in told if isinstance(error, kind)), ("Failed", 1))
        terminal = Terminal(stderr=True)
        mistakes = error.errors if isinstance(error, InputErrors) else (error,)
        for mistake in mistakes[:MOST_MISTAKES]:
            terminal.print(f"[bold red]{what}:[/] {escape(str(mistake))}", soft_wrap=True)
        if len(mistakes) > MOST_MISTAKES:
            terminal.print(f"[bold red]{what}:[/] and {len(mistakes) - MOST_MISTAKES:,} more mistakes", soft_wrap=True)
        raise SystemExit(code) from error
