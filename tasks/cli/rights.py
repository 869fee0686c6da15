"""`provenance rights`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from provenance.core.errors import InputError
from tasks.cli.shared import AsJson, console, print_json
from tasks.terminal import Terminal

app = typer.Typer(no_args_is_help=True, help="Where works come from, under which terms, and what their owners wish.")
signals = typer.Typer(no_args_is_help=True, help="What the servers of sources say of their use: robots.txt, Content-Usage, ...")
app.add_typer(signals, name="signals")


@signals.command("collect")
def signals_collect(
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="URI", help="Only of this source; by default of all of the corpus.")
    ] = None,
    pages: Annotated[bool, typer.Option("--pages", help="Ask every page, too: its headers and the head of its HTML.")] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Ask addresses that are not public, such as those of a test.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the origins of the corpus in force what they say of their use, and keep it with its time.

    robots.txt, /.well-known/tdmrep.json, /ai.txt and linked RSL licences are asked for once for each origin. What was collected
    before stays as history.

    Example: `provenance rights signals collect --pages`
    """
    from tasks.settings import load
    from tasks.signals import collect
    from tasks.watch import watch

    with watch(Terminal(stderr=True)):
        found = collect(load(), source, pages=pages, private=allow_private)
    if as_json:
        print_json(found)
        return
    asked = f"{found['origins']} origins" + (f" and {found['pages']} pages" if pages else "")
    console.print(f"{found['signals']} signals of {asked}; {found['not_http']} sources are not on the web and have none.")
    for problem in found["problems"]:
        console.print(f"[yellow]{escape(problem)}[/]", soft_wrap=True)


@signals.command("show")
def signals_show(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Where a work was collected.")],
    use: Annotated[str, typer.Option("--use", help="train, search, ai-use or crawl.")] = "train",
    known: Annotated[
        str | None, typer.Option("--known", metavar="TIME", help="As it was known then, such as 2026-11-20T12:00; UTC.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """All signals on a source, which of them count and why, and what follows.

    Example: `provenance rights signals show https://example.org/story`
    """
    from tasks.settings import load
    from tasks.signals import show

    found = show(load(), uri, use=use, known=known_at(known))
    if as_json:
        print_json(found)
        return
    verdict = {True: "[green]allowed[/]", False: "[red]reserved[/]", None: "nothing is said"}[found["allowed"]]
    console.print(f"{escape(use)} on {escape(uri)}: {verdict}", soft_wrap=True)
    if found["because"]:
        console.print(escape(found["because"]), soft_wrap=True)
    for signal in found["signals"]:
        mark = "[bold]counts[/]        " if signal["counts"] else "[dim]does not count[/]"
        problem = f" [yellow]{escape(signal['problem'])}[/]" if signal["problem"] else ""
        console.print(f"  {mark} {escape(signal['line'])}{problem}", soft_wrap=True)


def known_at(text: str | None) -> datetime | None:
    """The time that `--known` names, in UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError("--known", expected="a time such as 2026-11-20T12:00", found=repr(text)) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
