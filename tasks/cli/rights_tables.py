"""What a person looks at of rights: one work, a corpus's terms, sources, opt-outs, the quality of a delivery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from provenance.core.money import PPB
from provenance.corpus.rights.optouts import OPTOUT
from provenance.corpus.rights.registry import Imported
from tasks.cli.tables import number, titled
from tasks.terminal import cell, line


def explain_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What `explain` found, for a terminal."""
    source, terms, claims = found["source"], found["terms"], found["claims"]
    yield line(f"{found['work_id']}, on {found['day']}", style="bold")
    where = source["source_id"] or ", ".join(source["uris"]) or "not known"
    when = f", collected on {source['acquired_at']:%Y-%m-%d}" if source["acquired_at"] else ""
    yield line(f"Source: {where}{when}; examples: {', '.join(f'{n} {split}' for split, n in source['examples'].items())}")
    for record in source["records"]:
        yield line(f"  recorded by {record['collector']}, {record['acquired_at']:%Y-%m-%d}: {record['evidence']}")
    yield _assertions_table(terms["assertions"]) if terms["assertions"] else line("Nobody has asserted any terms.")
    said = f" ({terms['licence_spdx']})" if terms["licence_spdx"] else ""
    yield line(f"Terms: {terms['licence_class']}{said}, on the word of {terms['asserted_by']}: {terms['because']}")
    for name in ("conflict", "expired"):
        if terms[name]:
            yield line(f"{name.capitalize()}: {terms[name]}", style="yellow")
    if any(terms[key] != terms["as_ingested"][key] for key in ("licence_spdx", "licence_class", "asserted_by")):
        was = terms["as_ingested"]
        yield line(f"When it was ingested: {was['licence_class']}, on the word of {was['asserted_by']}", style="yellow")
    for use, verdict in terms["uses"].items():
        yield line(f"  {use:<9} {verdict} by its terms", style="green" if verdict == "allowed" else "red")
    yield from ownership_screen(claims)
    for signal in found["signals"]:
        allowed = {True: "allows", False: "refuses", None: "says nothing of"}[signal["allowed"]]
        what = f"Signal ({signal['kind']}, {signal['fetched_at']:%Y-%m-%d}): {allowed} {signal['use']}: {signal['says']}"
        yield line(what) if signal["counts"] else line(f"{what} (does not count: {signal['why']})", style="dim")
    for one in found["optouts"]:
        yield line(
            f"{one['action']} of {one['owner_id']} from {one['effective_on']}, {one['choice']}, recorded by "
            f"{one['recorded_by']}: {one['evidence']}{' (in force)' if one['counts'] else ''}"
        )
    against = found["against_training"]
    verdict = f"No model may be trained on it: {'; '.join(against)}" if against else "A model may be trained on it."
    yield line(verdict, style="red" if against else "green")


def claims_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Who owns a work on a day, on what evidence, and for whom its money is booked."""
    known = f"as known at {found['known']:%Y-%m-%d %H:%M:%S} UTC" if found["known"] else "as the night had it"
    yield line(f"{found['work_id']} on {found['day']}, {known}, by the corpus {found['corpus'][:12]}", style="bold")
    yield from ownership_screen(found)


def ownership_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Claims with their evidence, disputes, and for whom money is booked."""
    for title, rows in (("Claims in force", found["stakes"]), ("Claims of other days", found["others"])):
        if not rows:
            continue
        held = [
            (
                row["owner_name"], f"{row['stake_ppb'] / PPB:.4%}", str(row["valid_from"] or "always"),
                str(row["valid_to"] or "open"), row.get("choice") or "", row["evidence"] or "",
            )
            for row in rows
        ]  # fmt: skip
        yield _table(title, ("owner", "stake", "from", "to", "choice", "evidence"), held, right=("stake",))
    if found["unmatched_reason"]:
        yield line(f"No owner is known; the delivery says: {found['unmatched_reason']}")
    for dispute in found["disputes"]:
        yield line(f"Disputed by {dispute['owner_id']} since {dispute['opened_on']}: {dispute['evidence']}", style="yellow")
    if found["parties"]:
        booked = [(row["account"], row["party_id"], f"{row['stake_ppb'] / PPB:.4%}") for row in found["parties"]]
        yield _table("For whom its money is booked", ("account", "for", "part"), booked, right=("part",))
    else:
        yield line("All of it is held out: no model is trained on it, and nothing is booked for it.", style="yellow")


def summary_screen(found: Mapping[str, Any], *, most: int) -> Iterator[RenderableType]:
    """What `summary` found, for a terminal."""
    classes = ", ".join(f"{count} {name}" for name, count in found["classes"].items())
    yield line(f"{found['works']} works: {classes}", style="bold")
    if found["held_out"]:
        yield line(f"{found['held_out']} of them are held out whole, to measure models by: no training manifest lists them.")
    yield line("On the word of: " + ", ".join(f"{who} {count}" for who, count in found["asserted_by"].items()))
    titles = {"conflicts": "Words differ", "expired": "Words that are good no more", "quarantine": "Not for models to come"}
    for key, title in titles.items():
        if rows := found[key]:
            shown = [(str(row["works"]), row["because"], row["such_as"]) for row in rows[:most]]
            headings = ("works", "because", "such as")
            yield _table(f"{title}: {sum(row['works'] for row in rows)} works", headings, shown, right=("works",))
            if len(rows) > most:
                yield line(f"and {len(rows) - most} more reasons (--most {len(rows)} lists them)", style="dim")


def sources_screen(found: pl.DataFrame, *, most: int) -> Iterator[RenderableType]:
    """Sources with their other names, and below each what a person should look at."""
    if found.is_empty():
        yield "There are none. `provenance rights sources import LIST` adds a list of what was collected."
        return
    table = titled("Sources", "source", "also", "records", "first collected", "title")
    for row in found.head(most).iter_rows(named=True):
        also = [name for name in row["identifiers"] if name != row["source_id"]]
        also += [f"contradicts: {name}" for name in row["conflicts"]]
        also += [f"same content: {name}" for name in row["same_content_as"]]
        when = row["first_acquired_at"].date().isoformat()
        names = "\n".join(map(cell, also))
        table.add_row(cell(row["source_id"]), names, f"{row['records']:,}", when, cell(row["title"] or ""))
    yield table
    conflicts = found.filter(pl.col("conflicts").list.len() > 0).height
    yield f"{min(most, found.height):,} of {found.height:,} sources; {conflicts:,} whose records contradict each other"


def source_screen(source: Mapping[str, Any], of_it: pl.DataFrame) -> Iterator[RenderableType]:
    """One source, and the records of it."""
    yield line(source["source_id"] + (f": {source['title']}" if source["title"] else ""), style="bold")
    for what, names in (
        ("also", [name for name in source["identifiers"] if name != source["source_id"]]),
        ("related", source["related"]),
        ("same content", source["same_content_as"]),
    ):
        if names:
            yield line(f"{what}: {', '.join(names)}")
    for name in source["conflicts"]:
        yield line(f"contradicts: {name}, which its records list and which is kept apart as another work's", style="yellow")
    said = of_it.select(pl.col("acquired_at").dt.strftime("%Y-%m-%d"), "collector", "source_uri", "evidence")
    yield _table("Records", ("collected", "by", "at", "evidence"), said.rows())


def optouts_screen(rows: pl.DataFrame) -> Iterator[RenderableType]:
    """The last that is recorded for each work and owner; no table, so that ids stay whole."""
    yield line(f"Opt-outs: {rows.filter(pl.col('state') == 'in force').height} in force", style="bold")
    for row in rows.iter_rows(named=True):
        state = row["state"] if row["in_corpus"] else f"{row['state']}, not in the corpus"
        choice = f"{row['choice']}, " if row["action"] == OPTOUT else ""
        yield line(row["work_id"])
        yield line(f"  {row['owner_id']}: {choice}from {row['effective_on']}, {state}")
        yield line(f"  recorded by {row['recorded_by']}: {row['evidence']}", style="dim")


def optout_report_screen(found: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Of each opt-out in force, which models still hold the work, and what of the last night rests on it."""
    yield line(f"Opt-outs in force: {len(found)}; parts of the pools of the last night in which they counted", style="bold")
    for row in found:
        yield line(row["work_id"])
        yield line(f"  {row['owner_id']}: {row['choice']}, since {row['since']}")
        for m in row["models"]:
            yield line(f"  in model {m['model_id']} ({m['model'][:8]}, by {m['by']}, {_nights(m['nights'])})")
        if not row["models"]:
            yield line("  in no model of these nights", style="dim")
        last = [night for night in row["nights"] if night["day"] == row["nights"][-1]["day"]]
        rests = ", ".join(
            f"{night['currency']} {night['share_ppb'] / PPB:.2%} ({night['influence_ppb'] / PPB:.2%} by influence)"
            for night in last
        )
        counted = f"on {last[0]['day']} there rests on it {rests}" if last else "no night has counted it yet"
        yield line(f"  {counted}", style="" if last else "dim")


def signals_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """All signals on a source, which of them count, and what follows."""
    verdict = {True: "[green]allowed[/]", False: "[red]reserved[/]", None: "nothing is said"}[found["allowed"]]
    yield f"{escape(found['use'])} on {escape(found['source_uri'])}: {verdict}"
    if found["because"]:
        yield line(found["because"])
    for signal in found["signals"]:
        mark = "[bold]counts[/]        " if signal["counts"] else "[dim]does not count[/]"
        problem = f" [yellow]{escape(signal['problem'])}[/]" if signal["problem"] else ""
        yield f"  {mark} {escape(signal['line'])}{problem}"


def imported_screen(found: Sequence[Imported]) -> Iterator[RenderableType]:
    """What became of the rows of lists of sources."""
    for one in found:
        yield line(f"{one.file}: {one.new:,} new, {one.known:,} known, {one.rejected:,} rejected")
        yield from (line(f"  {problem}") for problem in one.problems)
        if one.kept:
            yield line(f"  The rejected rows, with reasons: {one.kept}")


def manifest_screen(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """How much a training manifest lists, and how much it leaves out, and why."""
    listed, left = facts["cleared"], facts["left_out"]
    yield line(f"{facts['manifest']}: {listed['works']} works, {listed['examples']} examples cleared for {facts['use']}")
    reasons = ", ".join(f"{count} {kind}" for kind, count in left["because"].items())
    several = "; some works have several reasons" if sum(left["because"].values()) > left["works"] else ""
    because = f" ({reasons}{several})" if reasons else ""
    yield line(f"Left out: {left['works']} works, {left['examples']} examples{because}")


def disclosures_screen(found: Mapping[str, Any], out: Path) -> Iterator[RenderableType]:
    """Which disclosures were written, and what is to be completed."""
    from provenance.corpus.disclosures.disclose import INDEX

    count = len(found["files"])
    first = f"; begin with {out / INDEX}" if INDEX in found["files"] else ""
    yield line(f"{count} file{'' if count == 1 else 's'} about corpus {found['corpus'][:12]} in {out}{first}.")
    for form, questions in found["missing"].items():
        if questions:
            yield f"{form}.html: {len(questions)} answers to be completed by the provider (--model-facts):"
        yield from (line(f"  {question}") for question in questions)


def _nights(count: int) -> str:
    return f"{count} night{'' if count == 1 else 's'}"


def quality_screen(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The report on a delivery."""
    counts = f"{found['works']:,} works, {found['examples']:,} examples, {found['owners']:,} owners"
    yield line(f"The last delivery: {counts}", style="bold")
    table = titled("What was found", "level", "measure", number("how many"), number("of"), "what")
    colour = {"block": "red", "warn": "yellow"}
    for row in found["findings"]:
        of = f"{row['total']:,}"
        many = (f"{row['count']:,}", of) if row["total"] else ("-", "-")
        table.add_row(row["level"], row["measure"], *many, row["meaning"], style=colour.get(row["level"]))
    yield table
    yield line(f"Rules and names are on the page: {found['page']}")


def _assertions_table(assertions: list[dict[str, Any]]) -> Table:
    rows = []
    for row in assertions:
        who = f"{row['asserted_by']} ({row['asserter']})" if row["asserter"] else row["asserted_by"]
        when = f"{row['asserted_at']:%Y-%m-%d}" if row["asserted_at"] else "-"
        evidence = row["evidence"] + (f" (SHA-256 {row['evidence_sha256'][:12]})" if row["evidence_sha256"] else "")
        rows.append((who, row["licence"], row["licence_class"], when, evidence, row["standing"]))
    return _table("Who says what of its terms", ("who", "terms", "class", "when", "evidence", "counts?"), rows)


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """Rows of strangers' texts, folded where a screen is narrow."""
    columns = (number(heading) if heading in right else heading for heading in headings)
    return titled(title, *columns, rows=(map(cell, row) for row in rows))
