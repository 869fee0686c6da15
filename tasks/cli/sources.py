"""Commands for sources of works and their signals: `provenance rights sources`, `provenance rights signals`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import RenderableType
from rich.progress import track
from rich.text import Text
from typer import Argument, Option

from provenance.core.where import Where
from tasks.cli.help import noun
from tasks.cli.shared import Known, Shown, command, known_time, watched
from tasks.cli.tables import Grid
from tasks.terminal import Terminal, line

if TYPE_CHECKING:
    import polars as pl

    from provenance.corpus.rights.sources.lists import Imported

signals = noun("Ask the servers of sources for signals on use (robots.txt, Content-Usage, ...), and show them.")
app = noun("Register the collected sources, once each, under all their names.")


@command(signals, "collect")
def signals_collect(
    where: Where,
    source: Annotated[list[str] | None, Option("--source", metavar="URI", help="Only this source; by default all.")] = None,
    pages: Annotated[bool, Option("--pages", help="Ask every page, too: its headers and the head of its HTML.")] = False,
    allow_private: Annotated[bool, Option("--allow-private", help="Also ask addresses that are not public.")] = False,
) -> Shown:
    """Ask the origins of the corpus in force for their signals on use, and keep these with the time.

    robots.txt, /.well-known/tdmrep.json, /ai.txt and linked RSL licences are asked for once for each origin. Earlier signals
    stay as history.

    Example: `provenance rights signals collect --pages`
    """
    from provenance.corpus.rights.signals.collect import collect

    with watched():
        report = collect(where, source, pages=pages, private=allow_private)
    places = f"{report['origins']} origins" + (f" and {report['pages']} pages" if pages else "")
    summary = f"{report['signals']} signals of {places}; {report['not_http']} sources are not on the web and have none."
    yield report, [summary, *(line(problem, "yellow") for problem in report["problems"])]


@command(signals, "show")
def signals_show(
    where: Where,
    uri: Annotated[str, Argument(metavar="URI", help="The address from which a work was collected.")],
    use: Annotated[str, Option("--use", help="train, search, ai-use or crawl.")] = "train",
    known: Known = None,
) -> Shown:
    """Show all signals on a source, those that count and why, and the verdict.

    Example: `provenance rights signals show https://example.org/story`
    """
    from provenance.corpus.rights.signals import collect

    report = collect.show(where, uri, use=use, known=known_time(known))
    yield report, signals_screen(report)


def signals_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Signals on a source, and the verdict."""
    verdicts = {True: ("allowed", "green"), False: ("reserved", "red"), None: ("no signal", "")}
    yield Text.assemble(line(f"{report['use']} on {report['source_uri']}: "), verdicts[report["allowed"]])
    if report["because"]:
        yield report["because"]
    for signal in report["signals"]:
        mark = ("counts        ", "bold") if signal["counts"] else ("does not count", "dim")
        yield Text.assemble("  ", mark, " ", line(signal["line"]), " ", line(signal["problem"] or "", "yellow"))


@command(app, "import")
def sources_import(
    where: Where,
    files: Annotated[list[Path], Argument(help="Lists: .parquet, .csv or .jsonl, in UTF-8.")],
    collector: Annotated[str, Option(help="The collector of rows that name none.")] = "",
) -> Shown:
    """Add lists of collected sources; the same list twice adds nothing, and order does not matter.

    Columns: `source_uri`, `acquired_at`, `evidence`, and `collector` unless the option names it; optional `identifiers` (other
    names of the same source; in CSV separated by blanks), `content_sha256`, `title`. A file that is no such list is refused
    whole; a row that cannot be read is kept in `rights/rejected/` with the reason.

    Example: `provenance rights sources import crawl-2026-11.parquet --collector "crawler 3"`
    """
    from provenance.corpus.rights.sources.lists import import_sources

    each = partial(track, description="Reading lists", console=Terminal(stderr=True), transient=True)
    lists = import_sources(where, files, collector=collector, each=each)
    yield [asdict(row) for row in lists], imported_screen(lists)


def imported_screen(lists: Sequence[Imported]) -> Iterator[RenderableType]:
    """Counts of new, known and rejected rows, by list."""
    for row in lists:
        yield f"{row.file}: {row.new:,} new, {row.known:,} known, {row.rejected:,} rejected"
        yield from (f"  {problem}" for problem in row.problems)
        if row.kept:
            yield f"  The rejected rows, with reasons: {row.kept}"


@command(app, "list")
def sources_list(
    where: Where,
    like: Annotated[str, Option(help="Only sources with this text in a name or title.")] = "",
    conflicts: Annotated[bool, Option("--conflicts", help="Only those whose records contradict each other.")] = False,
    known: Known = None,
    most: Annotated[int, Option(min=1, help="Sources listed.")] = 50,
) -> Shown:
    """List the registry of sources: every source once, with its names, copies and contradictions.

    Example: `provenance rights sources list --like arxiv --conflicts`
    """
    from provenance.corpus.rights.sources.lists import find_sources, registry_in_force

    time = known_time(known)
    with Terminal(stderr=True).status("Merging the records of sources"):
        rows = find_sources(registry_in_force(where.store, time), like=like, conflicts=conflicts)
    yield rows.head(most).to_dicts(), sources_screen(rows, most=most)


def sources_screen(rows: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Sources with their other names, contradictions and copies."""
    if rows.is_empty():
        yield "There are none. `provenance rights sources import LIST` adds a list of collected sources."
        return
    table = Grid("Sources", "source", "also", "records", "first collected", "title")
    for row in rows.head(most).iter_rows(named=True):
        names = [name for name in row["identifiers"] if name != row["source_id"]]
        names += [f"contradicts: {name}" for name in row["conflicts"]]
        names += [f"same content: {name}" for name in row["same_content_as"]]
        day = row["first_acquired_at"].date().isoformat()
        table.add_row(row["source_id"], names, f"{row['records']:,}", day, row["title"] or "")
    yield table
    conflicts = rows.filter(rows["conflicts"].list.len() > 0).height
    yield f"{min(most, rows.height):,} of {rows.height:,} sources; {conflicts:,} whose records contradict each other"


@command(app, "rejected")
def sources_rejected(
    where: Where,
    like: Annotated[str, Option(help="Only rows with this text in file, row or reason.")] = "",
    most: Annotated[int, Option(min=1, help="Rows listed.")] = 50,
) -> Shown:
    """List the rows of imported lists that could not be read, whole and with the reason.

    Mend them in the list and import it again: rows that are known already add nothing.

    Example: `provenance rights sources rejected --like crawl-2026-11`
    """
    from provenance.corpus.rights.sources.lists import list_rejected

    rows = list_rejected(where.store, like=like)
    yield rows.head(most).to_dicts(), rejected_screen(rows, most=most)


def rejected_screen(rows: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Rows that could not be read, with the reason."""
    if rows.is_empty():
        yield "There are none."
        return
    yield Grid("Rejected rows", "row", "why", "as written", rows=rows.head(most).select("row", "why", "written").iter_rows())
    yield f"{min(most, rows.height):,} of {rows.height:,} rows"


@command(app, "show")
def sources_show(
    where: Where,
    name: Annotated[str, Argument(metavar="SOURCE", help="Any of its names, in any spelling.")],
    known: Known = None,
) -> Shown:
    """Show one source: its names, contradictions, copies, and every record of it.

    Example: `provenance rights sources show https://arxiv.org/abs/2308.03296`
    """
    from provenance.corpus.rights.sources.lists import show_source

    with Terminal(stderr=True).status("Merging the records of sources"):
        source, records = show_source(where.store, name, known_time(known))
    yield source | {"of_records": records.to_dicts()}, source_screen(source, records)


def source_screen(source: Mapping[str, Any], records: pl.DataFrame) -> Iterator[RenderableType]:
    """One source, and the records of it."""
    yield line(source["source_id"] + (f": {source['title']}" if source["title"] else ""), "bold")
    lists = {
        "also": [name for name in source["identifiers"] if name != source["source_id"]],
        "related": source["related"],
        "same content": source["same_content_as"],
    }
    yield from (f"{kind}: {', '.join(names)}" for kind, names in lists.items() if names)
    for name in source["conflicts"]:
        yield line(f"contradicts: {name}, which its records list and which is kept apart as another work's", "yellow")
    rows = records.select(records["acquired_at"].dt.strftime("%Y-%m-%d"), "collector", "source_uri", "evidence").rows()
    yield Grid("Records", "collected", "by", "at", "evidence", rows=rows)
