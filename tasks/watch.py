"""Progress in a terminal, read off the stages' own log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from tasks.cluster import PROGRESS


@contextmanager
def watch(console: Console) -> Iterator[None]:
    """Show what the stages log: a bar for each piece of work, and warnings as they are."""
    done = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    columns = (*done, bars.TimeElapsedColumn(), bars.TimeRemainingColumn(), bars.TextColumn("left"))
    logger = logging.getLogger("provenance")
    before = logger.level, logger.propagate
    with bars.Progress(*columns, console=console, transient=True) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; ours are raised or logged
        handler = _Bars(progress)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for noisy in ("distributed", "distributed.nanny", "distributed.worker"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        try:
            yield
        except KeyboardInterrupt:
            progress.console.print("Stopped. What was finished is kept: the same command goes on from there.")
            raise
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before


class _Bars(logging.Handler):
    """One bar for each `what: done of all`."""

    def __init__(self, progress: bars.Progress) -> None:
        super().__init__()
        self.progress = progress
        self.bars: dict[str, bars.TaskID] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.progress.console.print(f"[yellow]{escape(record.getMessage())}[/]")
        if record.msg != PROGRESS or not isinstance(record.args, tuple):
            return
        what, done, total = record.args
        if what not in self.bars:
            self.bars[str(what)] = self.progress.add_task(escape(str(what)))
        self.progress.update(self.bars[str(what)], completed=int(str(done)), total=int(str(total)))
