"""Shows text, errors and progress on a terminal; text from outside can neither move the cursor nor look like markup."""

from __future__ import annotations

import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from provenance.core.errors import CheckFailed, InputError, InputErrors, NotNow
from provenance.core.progress import PROGRESS
from provenance.core.text import on_screen, visible

# Errors shown for a file with errors in every line.
MOST_ERRORS = 50
# Errors of one kind that are all shown; of more of them so many are.
ALIKE = 2
LINE, QUOTED = re.compile(r"\bline (\d+)"), re.compile(r"'[^']*'")
EXIT_CODES: dict[type[Exception], tuple[str, int]] = {
    InputError: ("Bad input", 2),
    CheckFailed: ("Check failed", 1),
    NotNow: ("Not now", 1),
}


class Terminal(Console):
    """A console that writes out control characters, so text cannot move the cursor, colour or reverse what is shown."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments to show."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(on_screen(segment.text), segment.style)


def line(text: str, style: str = "") -> Text:
    """Text on one line, without markup; it cannot look like another line."""
    return Text(visible(text), style=style)


def as_text(screen: Iterable[RenderableType]) -> Iterator[RenderableType]:
    """The parts of a screen; plain strings are shown as they are, on one line each."""
    return (line(part) if isinstance(part, str) else part for part in screen)


@contextmanager
def exit_codes(*failures: type[Exception]) -> Iterator[None]:
    """Turn errors into messages and an exit code: 2 for bad input, 1 for failed checks and other `failures`."""
    kinds: dict[type[Exception], tuple[str, int]] = EXIT_CODES | dict.fromkeys(failures, ("Failed", 1))
    try:
        yield
    except tuple(kinds) as error:
        label, code = next(kinds[kind] for kind in kinds if isinstance(error, kind))
        terminal = Terminal(stderr=True)
        errors = error.errors if isinstance(error, InputErrors) else (error,)
        shown = [text for alike in _alike(errors) for text in _few(alike)]
        for text in shown[:MOST_ERRORS]:
            terminal.print(f"[bold red]{label}:[/] {escape(text)}", soft_wrap=True)
        if len(shown) > MOST_ERRORS:
            terminal.print(f"[bold red]{label}:[/] and {len(shown) - MOST_ERRORS:,} more mistakes", soft_wrap=True)
        raise SystemExit(code) from error


def _alike(errors: Sequence[Exception]) -> list[list[Exception]]:
    """Errors of one kind together, such as the same column missing in every line of a file, in the order of their first."""
    groups: dict[tuple[str, str], list[Exception]] = defaultdict(list)
    for error in errors:
        if isinstance(error, InputError):
            key = (LINE.sub("line", error.where), QUOTED.sub("", error.expected))
        else:
            key = (str(error), "")
        groups[key].append(error)
    return list(groups.values())


def _few(alike: Sequence[Exception]) -> Iterator[str]:
    """The messages of errors of one kind: each if they are few, else one for each of a few things that were found."""
    found = {error.found if isinstance(error, InputError) else "": error for error in reversed(alike)}
    examples = list(alike) if len(alike) <= ALIKE else list(found.values())[::-1][:ALIKE]
    yield from map(str, examples[:-1])
    rest = [error for error in alike if error not in examples]
    lines = [int(line[1]) for error in rest if isinstance(error, InputError) and (line := LINE.search(error.where))]
    where = f" (lines {min(lines)} to {max(lines)})" if len(lines) == len(rest) > 1 else ""
    more = f" The same mistake {len(rest):,} more time{'' if len(rest) == 1 else 's'}{where}." if rest else ""
    yield f"{str(examples[-1]).removesuffix('.')}.{more}" if more else str(examples[-1])


@contextmanager
def watch(console: Console) -> Iterator[None]:
    """Show what the stages log: a bar for each piece of work, and warnings."""
    columns = (
        *(bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn()),
        *(bars.TimeElapsedColumn(), bars.TimeRemainingColumn(), bars.TextColumn("left")),
    )
    logger = logging.getLogger("provenance")
    before = logger.level, logger.propagate
    with bars.Progress(*columns, console=console, transient=True) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; ours are raised or logged
        handler = Bars(progress)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for noisy in ("distributed", "distributed.nanny", "distributed.worker"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        try:
            yield
        except KeyboardInterrupt:
            progress.console.print("Stopped. Finished work is kept: the same command goes on from there.")
            raise
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before


class Bars(logging.Handler):
    """Turns progress records into bars, and prints warnings."""

    def __init__(self, progress: bars.Progress) -> None:
        super().__init__()
        self.progress = progress
        self.bars: dict[str, bars.TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if record.levelno >= logging.WARNING:
            self.progress.console.print(f"[yellow]{escape(record.getMessage())}[/]")
        if record.msg != PROGRESS or not isinstance(record.args, tuple):
            return
        work, done, total = map(str, record.args)
        if work not in self.bars:
            self.bars[work] = self.progress.add_task(escape(work))
        self.progress.update(self.bars[work], completed=int(done), total=int(total))
