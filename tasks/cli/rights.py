"""Commands for rights in works: `provenance rights`, `provenance disclose`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from typer import Argument, Option

from provenance.core.errors import CheckFailed, InputError, parse_day
from provenance.core.money import PPB
from provenance.core.where import Where
from tasks.cli import sources
from tasks.cli.help import RIGHTS, noun
from tasks.cli.shared import ClaimsDay, Known, OutFolder, Shown, claims_day, command, known_time
from tasks.cli.tables import Grid, number
from tasks.terminal import line

if TYPE_CHECKING:
    import polars as pl

app = noun("Show the sources of works, their terms, and the wishes of owners; write training manifests.")
app.add_typer(sources.signals, name="signals")
app.add_typer(sources.app, name="sources")
root = typer.Typer()

OnDay = Annotated[str | None, Option("--day", metavar="DAY", help="YYYY-MM-DD; by default today (UTC).")]
WorkId = Annotated[str, Argument(help="The work, as the corpus names it.")]
Disclosure = Literal["eu", "california", "us", "croissant", "spdx", "csv", "all"]


@command(app, "claims")
def rights_claims(
    where: Where,
    work_id: WorkId,
    day: OnDay = None,
    known: Known = None,
    night: Annotated[str | None, Option("--night", metavar="DAY", help="As this published night had it, YYYY-MM-DD.")] = None,
) -> Shown:
    """List the owners of a work on a day, with stakes and evidence, as known at a time.

    Example: `provenance rights claims httpx==0.28.1/httpx/_client.py --day 2026-11-20 --known 2026-11-22`
    """
    from provenance.inputs.claims import claims_of

    if night and known:
        raise InputError("--night", expected="no --known beside it: a night has its own corpus", found="both")
    if night and day:
        raise InputError("--night", expected="no --day beside it: a night is paid by the claims of its own day", found="both")
    report = claims_of(where.store, work_id, day=_day("--day", day), known=known_time(known), night=_day("--night", night))
    yield report, claims_screen(report)


def _day(option: str, text: str | None) -> date | None:
    return parse_day(option, text) if text else None


def claims_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Owners of a work on a day, with evidence, and the parties for whom its money is booked."""
    basis = f"as known at {report['known']:%Y-%m-%d %H:%M:%S} UTC" if report["known"] else "as the night had it"
    yield line(f"{report['work_id']} on {report['day']}, {basis}, by the corpus {report['corpus'][:12]}", "bold")
    yield from _ownership(report)


def _ownership(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Claims with their evidence, disputes, and the parties for whom money is booked."""
    for title, claims in (("Claims in force", report["stakes"]), ("Claims of other days", report["others"])):
        rows = (
            (
                row["owner_name"], f"{row['stake_ppb'] / PPB:.4%}", row["valid_from"] or "always", row["valid_to"] or "open",
                row.get("choice") or "", row["evidence"] or "",
            )
            for row in claims
        )  # fmt: skip
        if claims:
            yield Grid(title, "owner", number("stake"), "from", "to", "choice", "evidence", rows=rows)
    if report["unmatched_reason"]:
        yield f"No owner is known; the delivery says: {report['unmatched_reason']}"
    for dispute in report["disputes"]:
        yield line(f"Disputed by {dispute['owner_id']} since {dispute['opened_on']}: {dispute['evidence']}", "yellow")
    if report["parties"]:
        parties = [(row["account"], row["party_id"], f"{row['stake_ppb'] / PPB:.4%}") for row in report["parties"]]
        yield Grid("For whom its money is booked", "account", "for", number("part"), rows=parties)
    else:
        yield line("All of it is held out: no model is trained on it, and nothing is booked for it.", "yellow")


@command(app, "explain")
def rights_explain(where: Where, work_id: WorkId, day: ClaimsDay = None) -> Shown:
    """Show all that is known of the rights in a work of the corpus in force, and the verdict.

    Its source; every assertion of its terms with author, time and evidence, and whether it counts; the allowed uses; its
    owners; signals of sites and opt-outs of owners.

    Example: `provenance rights explain attrs==26.1.0/attr/_make.py`
    """
    from provenance.corpus.rights.explain import explain

    report = explain(where, work_id, claims_day(day))
    yield report, explain_screen(report)


def explain_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Rights in a work: source, terms, owners, signals, opt-outs, and whether a model may be trained on it."""
    source, terms = report["source"], report["terms"]
    yield line(f"{report['work_id']}, on {report['day']}", "bold")
    place = source["source_id"] or ", ".join(source["uris"]) or "not known"
    time = f", collected on {source['acquired_at']:%Y-%m-%d}" if source["acquired_at"] else ""
    yield f"Source: {place}{time}; examples: {', '.join(f'{n} {split}' for split, n in source['examples'].items())}"
    for record in source["records"]:
        yield f"  recorded by {record['collector']}, {record['acquired_at']:%Y-%m-%d}: {record['evidence']}"
    yield _assertions_table(terms["assertions"]) if terms["assertions"] else "Nobody has asserted any terms."
    licence = f" ({terms['licence_spdx']})" if terms["licence_spdx"] else ""
    yield f"Terms: {terms['licence_class']}{licence}, on the word of {terms['asserted_by']}: {terms['because']}"
    for name in ("conflict", "expired"):
        if terms[name]:
            yield line(f"{name.capitalize()}: {terms[name]}", "yellow")
    ingested = terms["as_ingested"]
    if any(terms[key] != ingested[key] for key in ("licence_spdx", "licence_class", "asserted_by")):
        yield line(f"When it was ingested: {ingested['licence_class']}, on the word of {ingested['asserted_by']}", "yellow")
    for use, verdict in terms["uses"].items():
        yield line(f"  {use:<9} {verdict} by its terms", "green" if verdict == "allowed" else "red")
    yield from _ownership(report["claims"])
    for signal in report["signals"]:
        allowed = {True: "allows", False: "refuses", None: "does not mention"}[signal["allowed"]]
        text = f"Signal ({signal['kind']}, {signal['fetched_at']:%Y-%m-%d}): {allowed} {signal['use']}: {signal['says']}"
        yield text if signal["counts"] else line(f"{text} (does not count: {signal['why']})", "dim")
    for row in report["optouts"]:
        state = " (in force)" if row["counts"] else ""
        action = f"{row['action']} of {row['owner_id']} from {row['effective_on']}, {row['choice']}"
        yield f"{action}, recorded by {row['recorded_by']}: {row['evidence']}{state}"
    against = report["against_training"]
    verdict = f"No model may be trained on it: {'; '.join(against)}" if against else "A model may be trained on it."
    yield line(verdict, "red" if against else "green")


def _assertions_table(assertions: Sequence[Mapping[str, Any]]) -> Grid:
    table = Grid("Assertions of its terms", "by", "terms", "class", "at", "evidence", "counts?")
    for row in assertions:
        author = f"{row['asserted_by']} ({row['asserter']})" if row["asserter"] else row["asserted_by"]
        time = f"{row['asserted_at']:%Y-%m-%d}" if row["asserted_at"] else "-"
        evidence = row["evidence"] + (f" (SHA-256 {row['evidence_sha256'][:12]})" if row["evidence_sha256"] else "")
        table.add_row(author, row["licence"], row["licence_class"], time, evidence, row["standing"])
    return table


@command(app, "summary")
def rights_summary(where: Where, most: Annotated[int, Option(min=1, help="Reasons listed of each kind.")] = 20) -> Shown:
    """Count the works of the corpus in force by class of terms, with conflicts and quarantine.

    A work in quarantine is kept out of models to come. Models that hold it owe for it as before.

    Example: `provenance rights summary`
    """
    from provenance.corpus.rights.explain import summary

    report = summary(where)
    yield report, summary_screen(report, most=most)


def summary_screen(report: Mapping[str, Any], *, most: int) -> Iterator[RenderableType]:
    """Works by class of terms, and reasons for conflicts and quarantine."""
    classes = ", ".join(f"{count} {name}" for name, count in report["classes"].items())
    yield line(f"{report['works']} works: {classes}", "bold")
    if report["held_out"]:
        yield f"{report['held_out']} of them are held out whole, to measure models by: no training manifest lists them."
    yield "On the word of: " + ", ".join(f"{author} {count}" for author, count in report["asserted_by"].items())
    titles = {"conflicts": "Assertions conflict", "expired": "Assertions have expired", "quarantine": "Not for models to come"}
    for key, title in titles.items():
        if reasons := report[key]:
            rows = ((row["works"], row["because"], row["such_as"]) for row in reasons[:most])
            works = sum(row["works"] for row in reasons)
            yield Grid(f"{title}: {works} works", number("works"), "because", "such as", rows=rows)
            if len(reasons) > most:
                yield line(f"and {len(reasons) - most} more reasons (--most {len(reasons)} lists them)", "dim")


@command(app, "works")
def rights_works(
    where: Where,
    licence_class: Annotated[
        str, Option("--class", metavar="CLASS", help="commercial, non_commercial, academic_only, unspecified or forbidden.")
    ] = "",
    conflicts: Annotated[bool, Option("--conflicts", help="Only works whose assertions conflict or have expired.")] = False,
    quarantined: Annotated[bool, Option("--quarantine", help="Only works kept out of models to come.")] = False,
    like: Annotated[str, Option(help="Only works with this text in their name or source.")] = "",
    most: Annotated[int, Option(min=1, help="Works listed.")] = 50,
    csv: Annotated[Path | None, Option("--csv", help="Write all of them to this CSV file.")] = None,
) -> Shown:
    """List the works of the corpus in force by class of terms, conflict and quarantine, as they were judged by its ingest.

    Example: `provenance rights works --class unspecified --quarantine --csv quarantine.csv`
    """
    from provenance.core.store import to_csv
    from provenance.corpus.rights.explain import list_works

    if csv is not None and not csv.parent.is_dir():
        raise InputError(f"--csv {csv}", expected="a file in a folder that is there", found="no such folder")
    if csv is not None and csv.is_dir():
        raise InputError(f"--csv {csv}", expected="a file", found="a folder")
    rows = list_works(where.store, licence_class=licence_class, conflicts=conflicts, quarantined=quarantined, like=like)
    if csv is not None:
        csv.write_bytes(to_csv(rows))
    yield rows.head(most).to_dicts(), works_screen(rows, most=most)


def works_screen(rows: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Works with their terms, and why they conflict or are in quarantine."""
    if rows.is_empty():
        yield "There are none."
        return
    table = Grid("Works", "work", "class", "terms", "by", "conflict, quarantine")
    for row in rows.head(most).iter_rows(named=True):
        notes = [row[name] for name in ("conflict", "expired", "quarantine") if row[name]]
        table.add_row(row["work_id"], row["licence_class"], row["licence_spdx"] or "-", row["asserted_by"], notes)
    yield table
    yield f"{min(most, rows.height):,} of {rows.height:,} works"
    if rows.height > most:
        yield line(f"--most {rows.height} lists all of them, --csv FILE writes them", "dim")


@command(app, "quality")
def rights_quality(where: Where) -> Shown:
    """Show the report on the last delivery: counts, warnings and blocks, by infra/settings/quality.toml.

    Each ingest makes it, also as a page. Exit code 1: the delivery was blocked.

    Example: `provenance rights quality`
    """
    from provenance.corpus.quality import last_report

    report = last_report(where.store)
    yield report, quality_screen(report)
    if any(row["level"] == "block" for row in report["findings"]):
        raise typer.Exit(1)


def quality_screen(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The report on a delivery."""
    counts = f"{report['works']:,} works, {report['examples']:,} examples, {report['owners']:,} owners"
    yield line(f"The last delivery: {counts}", "bold")
    table = Grid("Findings", "level", "measure", number("count"), number("of"), "meaning")
    colours = {"block": "red", "warn": "yellow"}
    for row in report["findings"]:
        counted = (f"{row['count']:,}", f"{row['total']:,}") if row["total"] else ("-", "-")
        table.add_row(row["level"], row["measure"], *counted, row["meaning"], style=colours.get(row["level"]))
    yield table
    yield f"Rules and names are on the page: {report['page']}"


@command(app, "manifest")
def rights_manifest(
    where: Where,
    use: Annotated[str, Option("--use", help="The intended use of the works.")] = "train",
    day: OnDay = None,
    out: Annotated[Path | None, Option("--out", help="Write a copy of it to this file.")] = None,
    left_out: Annotated[Path | None, Option("--left-out", help="Write the works left out to this CSV file.")] = None,
    check: Annotated[Path | None, Option("--check", help="Check this manifest, and write none.")] = None,
) -> Shown:
    """Write the training manifest: exactly the works of the corpus in force that a model to come may be trained on.

    Leaves out works that are in quarantine or in dispute, that an owner has opted out of, or that a signal forbids. The same
    inputs give the same bytes, below `rights/manifests/`.

    Example: `provenance rights manifest --out manifest.json --left-out left-out.csv`
    """
    from provenance.core.store import to_csv
    from provenance.corpus.rights import clearance
    from provenance.corpus.shards import later_than

    if check is not None:
        if out or left_out:
            raise InputError("--check", expected="no --out or --left-out beside it: it writes nothing", found="both")
        if not check.is_file():
            raise InputError(f"--check {check}", expected="a training manifest", found="no such file")
        manifest = clearance.check_manifest(where, check.read_bytes(), str(check))
        facts = {"manifest": str(check), **manifest.facts}
        yield (
            facts,
            [
                f"{check} holds: it lists exactly the works cleared for {facts['use']} on {facts['day']}.",
                *manifest_screen(facts),
            ],
        )
        return
    for option, file in (("--out", out), ("--left-out", left_out)):
        if file is not None and not file.parent.is_dir():
            raise InputError(f"{option} {file}", expected="a file in a folder that is there", found="no such folder")
        if file is not None and file.is_dir():
            raise InputError(f"{option} {file}", expected="a file", found="a folder")
    key, manifest, cleared = clearance.write_manifest(where, use=use, day=claims_day(day))
    if out is not None:
        out.write_bytes(manifest.as_bytes())
    if left_out is not None:
        left_out.write_bytes(to_csv(clearance.left_out(cleared)))
    facts = {"manifest": where.store.locate(key), **manifest.facts}
    early = later_than(where.store, facts["corpus"], date.fromisoformat(facts["day"]))
    yield facts, [*([line(early, "yellow")] if early else []), *manifest_screen(facts)]


def manifest_screen(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Counts of a training manifest: works cleared, and works left out by reason."""
    cleared, left = facts["cleared"], facts["left_out"]
    yield f"{facts['manifest']}: {cleared['works']} works, {cleared['examples']} examples cleared for {facts['use']}"
    reasons = ", ".join(f"{count} {kind}" for kind, count in left["because"].items())
    several = "; some works have several reasons" if sum(left["because"].values()) > left["works"] else ""
    yield f"Left out: {left['works']} works, {left['examples']} examples" + (f" ({reasons}{several})" if reasons else "")


@command(root, group=RIGHTS)
def disclose(
    where: Where,
    out: OutFolder,
    what: Annotated[Disclosure, Argument(help="One of them, or all with a page that links them.")] = "all",
    corpus: Annotated[str, Option("--corpus", help="Digest of a frozen corpus.")] = "in force",
    facts: Annotated[Path | None, Option("--model-facts", help="TOML file as infra/settings/disclosure.toml.")] = None,
    on: Annotated[
        str | None, Option("--on", metavar="DAY", help="Date of the documents, YYYY-MM-DD; by default today (UTC).")
    ] = None,
    complete: Annotated[bool, Option("--complete", help="Exit with 1 if an answer is missing.")] = False,
) -> Shown:
    """Disclose a model's training data, as laws and catalogues ask for it, from the frozen corpus; the same for the same day.

    `eu`: the public summary of Article 53(1)(d) of the AI Act. `california`: the twelve points of Civil Code 3111 (AB 2013).
    `us`: copyrighted works, and transparency, by two bills.
    `croissant`: the corpus as a data set. `spdx`: a bill of materials. `csv`: every work. Each is checked by its schema or its
    standard's library before it is written. Answers that only the provider knows come from `--model-facts`; missing
    ones are marked, and listed.

    Example: `provenance disclose all --out disclosures --model-facts infra/settings/disclosure.toml --on 2026-11-20`
    """
    from provenance.corpus.disclosures.disclose import disclose as write

    report = write(where, what, out, on=_day("--on", on) or claims_day(None), corpus=corpus, facts=facts)
    yield report, disclosures_screen(report, out)
    if complete and (missing := sum(map(len, report["missing"].values()))):
        raise CheckFailed(f"{out}: {missing} answers are to be completed by the provider")


def disclosures_screen(report: Mapping[str, Any], out: Path) -> Iterator[RenderableType]:
    """The disclosures written, and the answers to be completed."""
    from provenance.corpus.disclosures.disclose import INDEX

    count = len(report["files"])
    first = f"; begin with {out / INDEX}" if INDEX in report["files"] else ""
    yield f"{count} file{'' if count == 1 else 's'} about corpus {report['corpus'][:12]} in {out}{first}."
    for form, questions in report["missing"].items():
        if questions:
            yield f"{form}.html: {len(questions)} answers to be completed by the provider (--model-facts):"
        places = report["facts"][form]
        yield from (f"  {question}: {places[question]}" if places[question] else f"  {question}" for question in questions)
