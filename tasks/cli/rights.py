"""`provenance rights`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from provenance.core.errors import InputError, parse_day
from tasks.cli.shared import ClaimsDay, Known, Shown, claims_day, command, known_time, settings_in_force, watched
from tasks.terminal import Terminal, line

app = typer.Typer(no_args_is_help=True, help="Where works come from, under which terms, and what their owners wish.")


signals = typer.Typer(no_args_is_help=True, help="What the servers of sources say of their use: robots.txt, Content-Usage, ...")
app.add_typer(signals, name="signals")


@command(signals, "collect")
def signals_collect(
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="URI", help="Only of this source; by default of all of the corpus.")
    ] = None,
    pages: Annotated[bool, typer.Option("--pages", help="Ask every page, too: its headers and the head of its HTML.")] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Ask addresses that are not public, such as those of a test.")
    ] = False,
) -> Shown:
    """Ask the origins of the corpus in force what they say of their use, and keep it with its time.

    robots.txt, /.well-known/tdmrep.json, /ai.txt and linked RSL licences are asked for once for each origin. What was collected
    before stays as history.

    Example: `provenance rights signals collect --pages`
    """
    from provenance.corpus.rights.signals.collect import collect

    with watched():
        found = collect(settings_in_force(), source, pages=pages, private=allow_private)
    asked = f"{found['origins']} origins" + (f" and {found['pages']} pages" if pages else "")
    said = f"{found['signals']} signals of {asked}; {found['not_http']} sources are not on the web and have none."
    yield found, [said, *(line(problem, style="yellow") for problem in found["problems"])]


@command(signals, "show")
def signals_show(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Where a work was collected.")],
    use: Annotated[str, typer.Option("--use", help="train, search, ai-use or crawl.")] = "train",
    known: Known = None,
) -> Shown:
    """All signals on a source, which of them count and why, and what follows.

    Example: `provenance rights signals show https://example.org/story`
    """
    from provenance.corpus.rights.signals.collect import show
    from tasks.cli.rights_tables import signals_screen

    found = show(settings_in_force(), uri, use=use, known=known_time(known))
    yield found, signals_screen(found)


OnDay = Annotated[str | None, typer.Option("--day", metavar="YYYY-MM-DD", help="By default today (UTC).")]


@command(app, "claims")
def rights_claims(
    work_id: Annotated[str, typer.Argument(help="The work, as the corpus names it.")],
    day: OnDay = None,
    known: Known = None,
    night: Annotated[
        str | None, typer.Option("--night", metavar="YYYY-MM-DD", help="As that published night had it, from its own corpus.")
    ] = None,
) -> Shown:
    """Who owns a work on a day, in which stakes and on what evidence, as it was believed at a time.

    Example: `provenance rights claims httpx==0.28.1/httpx/_client.py --day 2026-11-20 --known 2026-11-22`
    """
    from provenance.corpus.ownership import claims_of
    from tasks.cli.rights_tables import claims_screen

    if night and known:
        raise InputError("--night", expected="no --known beside it: a night has its own corpus", found="both")
    if night and day:
        raise InputError("--night", expected="no --day beside it: a night is paid by the claims of its own day", found="both")
    found = claims_of(
        settings_in_force().store.open(), work_id, day=_day("--day", day), known=known_time(known), night=_day("--night", night)
    )
    yield found, claims_screen(found)


@command(app, "manifest")
def rights_manifest(
    use: Annotated[str, typer.Option("--use", help="What the works would be used for.")] = "train",
    day: OnDay = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a copy of it to this file.")] = None,
    left_out: Annotated[
        Path | None, typer.Option("--left-out", help="Write what is left out, and why, to this CSV file.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Check a manifest against its corpus and what is known now; write none.")
    ] = None,
) -> Shown:
    """Write the training manifest: exactly the works of the corpus in force that a model to come may be trained on.

    Left out is what is in quarantine, what an owner has opted out of, what is disputed and what a signal forbids. The same
    inputs give the same bytes, below `rights/manifests/`.

    Example: `provenance rights manifest --out manifest.json --left-out left-out.csv`
    """
    from provenance.core.store import to_csv
    from provenance.corpus.ownership import later_than
    from provenance.corpus.rights.training_clearance import check_manifest, write_manifest
    from provenance.corpus.rights.training_clearance import left_out as those_left_out
    from tasks.cli.rights_tables import manifest_screen

    settings = settings_in_force()
    if check is not None:
        if out or left_out:
            raise InputError("--check", expected="no --out or --left-out beside it: it writes nothing", found="both")
        if not check.is_file():
            raise InputError(f"--check {check}", expected="a training manifest", found="no such file")
        manifest = check_manifest(settings, check.read_bytes(), str(check))
        where = str(check)
    else:
        for option, file in (("--out", out), ("--left-out", left_out)):
            if file is not None and not file.parent.is_dir():
                raise InputError(f"{option} {file}", expected="a file in a folder that is there", found="no such folder")
            if file is not None and file.is_dir():
                raise InputError(f"{option} {file}", expected="a file", found="a folder")
        on = claims_day(day)
        key, manifest, clearance = write_manifest(settings, use=use, day=on)
        where = settings.store.open().locate(key)
        if out is not None:
            out.write_bytes(manifest.as_bytes())
        if left_out is not None:
            left_out.write_bytes(to_csv(those_left_out(clearance)))
    facts = {"manifest": where, **manifest.facts}
    first = line(f"{where} holds: it lists just what is cleared for {facts['use']} on {facts['day']}.")
    if check is None:
        early = later_than(settings.store.open(), facts["corpus"], date.fromisoformat(facts["day"]))
        first = line(early, style="yellow")
    yield facts, [first, *manifest_screen(facts)] if first else manifest_screen(facts)


def _day(option: str, text: str | None) -> date | None:
    return parse_day(option, text) if text else None


sources = typer.Typer(no_args_is_help=True, help="What was collected, once each, by all its names.")
app.add_typer(sources, name="sources")


@command(sources, "import")
def sources_import(
    files: Annotated[list[Path], typer.Argument(help="Lists: .parquet, .csv or .jsonl, in UTF-8.")],
    collector: Annotated[str, typer.Option(help="Who collected the rows that do not say it.")] = "",
) -> Shown:
    """Add lists of what was collected; the same list twice adds nothing, and order does not matter.

    Columns: `source_uri`, `acquired_at`, `evidence`, and `collector` unless the option says it; optional `identifiers` (other
    names of the same thing; in CSV parted by blanks), `content_sha256`, `title`. A file that is no such list is refused, and
    nothing is added; a row that cannot be read is kept in `rights/rejected/` with the reason.

    Example: `provenance rights sources import crawl-2026-11.parquet --collector "crawler 3"`
    """
    from provenance.corpus.rights.registry import import_sources
    from tasks.cli.rights_tables import imported_screen

    each = partial(track, description="Reading lists", console=Terminal(stderr=True), transient=True)
    found = import_sources(settings_in_force(), files, collector=collector, each=each)
    yield [asdict(one) for one in found], imported_screen(found)


@command(sources, "list")
def sources_list(
    like: Annotated[str, typer.Option(help="Only sources with this text in a name or title.")] = "",
    conflicts: Annotated[bool, typer.Option("--conflicts", help="Only those whose records contradict each other.")] = False,
    known: Known = None,
    most: Annotated[int, typer.Option(min=1, help="Sources listed.")] = 50,
) -> Shown:
    """The registry of sources: every source once, with its names, its copies and what contradicts.

    Example: `provenance rights sources list --like arxiv --conflicts`
    """
    from provenance.corpus.rights.registry import find_sources, registry_in_force
    from tasks.cli.rights_tables import sources_screen

    moment = known_time(known)
    with Terminal(stderr=True).status("Merging the records of sources"):
        found = find_sources(registry_in_force(settings_in_force().store.open(), moment), like=like, conflicts=conflicts)
    yield found.head(most).to_dicts(), sources_screen(found, most=most)


@command(sources, "show")
def sources_show(
    name: Annotated[str, typer.Argument(metavar="SOURCE", help="Any of its names, in any spelling.")],
    known: Known = None,
) -> Shown:
    """One source: its names, what contradicts, its copies, and every record of it.

    Example: `provenance rights sources show https://arxiv.org/abs/2308.03296`
    """
    from provenance.corpus.rights.registry import show_source
    from tasks.cli.rights_tables import source_screen

    with Terminal(stderr=True).status("Merging the records of sources"):
        row, of_it = show_source(settings_in_force().store.open(), name, known_time(known))
    yield row | {"of_records": of_it.to_dicts()}, source_screen(row, of_it)


@command(app, "explain")
def rights_explain(
    work_id: Annotated[str, typer.Argument(help="The work, as the corpus names it.")],
    day: ClaimsDay = None,
) -> Shown:
    """All that is known of the rights in one work of the corpus in force, and what follows.

    Its source; every assertion of its terms with who, when and evidence, which counts and why; what it may be used for;
    whose it is; what sites signal and owners have asked for.

    Example: `provenance rights explain attrs==26.1.0/attr/_make.py`
    """
    from provenance.corpus.rights.explain import explain
    from tasks.cli.rights_tables import explain_screen

    found = explain(settings_in_force(), work_id, claims_day(day))
    yield found, explain_screen(found)


@command(app, "summary")
def rights_summary(most: Annotated[int, typer.Option(min=1, help="Reasons listed of each kind.")] = 20) -> Shown:
    """How many works of the corpus in force have terms of which class, whose words differ, and what is in quarantine.

    A work in quarantine is kept out of models to come. Models that hold it owe for it as before.

    Example: `provenance rights summary`
    """
    from provenance.corpus.rights.explain import summary
    from tasks.cli.rights_tables import summary_screen

    found = summary(settings_in_force())
    yield found, summary_screen(found, most=most)


@command(app, "quality")
def rights_quality() -> Shown:
    """The report on the last delivery: what was counted, what warns and what blocks, by infra/settings/quality.toml.

    It is made whenever a corpus is ingested, as a page, too; exit code 1 where something blocked.

    Example: `provenance rights quality`
    """
    from provenance.corpus.quality_report import last_report
    from tasks.cli.rights_tables import quality_screen

    found = last_report(settings_in_force().store.open())
    yield found, quality_screen(found)
    if any(one["level"] == "block" for one in found["findings"]):
        raise typer.Exit(1)
