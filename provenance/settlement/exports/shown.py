"""Prepares one output for people: its spans with the parties that they rest on, passages word for word, works side by side."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from provenance.core.store import Store
from provenance.core.text import on_screen
from provenance.corpus.shards import corpus_key, load_frozen
from provenance.corpus.works import Note, Passage, notes_of, picture_of, read_passages, text_of
from provenance.royalty.credits import read_credits
from provenance.settlement.exports.works import CreditedWork, works_behind

# Parties whose works are shown: those with the largest shares, and more that lead a span of the output.
LARGEST, LEADING = 5, 8
# Works of a party, and passages of a work.
WORKS, PASSAGES = 2, 1
# Longest passage, in characters.
EXCERPT = 420
# A span rests on its leading party firmly, or a good deal, from these parts on. It rests on nobody's works more than on others'
# below this multiple of equal parts, or below the least part, whichever is less.
STRENGTHS = (0.5, 0.25)
TIMES_EQUAL, LEAST_PART = 2.0, 0.4
PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

Party = tuple[str, str]


def shown(store: Store, night: str, corpus: str, output: Mapping[str, Any], credits: pl.DataFrame) -> dict[str, Any]:
    """What `explain` adds to an output's credits.

    Args:
        night: the night's folder; corpus: digest of its corpus.
        output: `output_id, content, prompt, modality`.
        credits: the output's rows of the credits table, the largest share first.

    Returns:
        `text`, `picture` (base64 of a PNG file) and `notes` of the output, as far as it is such a thing, and `prompt_notes`.
        `spans`: pieces of the text, in order: `text`; `party`, the number of the party that it rests on most, from 1, or None;
        `part`, that party's part of the positive influence, and its `strength`, 1 to 3; `word_for_word`, the number of a
        passage or None.
        `without_colour`: why no span has a party, in words; empty if one has.
        `word_for_word`: passages of the output that stand in works: `number, text, works_in_all` and `works`.
        `shown`: by number of a party, its `works` with passages.
    """
    content, modality, name = output["content"], output["modality"], output["output_id"]
    tables_of_night = read_credits(store, night)
    tables = {key: table.filter(pl.col("output_id") == name) for key, table in tables_of_night.items()}
    numbers = {_party(row): at for at, row in enumerate(credits.iter_rows(named=True), 1)}
    spans = _spans(tables["spans"], numbers)
    matches, passages = _matches(store, corpus, tables["matches"], content, modality)
    leading = _leading(spans, credits.height)
    return {
        "modality": modality,
        "prompt_notes": _notes(notes_of(output.get("prompt") or b"", modality), output.get("prompt") or b""),
        "text": text_of(content, modality),
        "picture": _base64(picture_of(content, modality)),
        "notes": _notes(notes_of(content, modality), content, spans),
        "spans": _pieces(content, modality, spans, matches),
        "without_colour": _without_colour(spans, tables_of_night["spans"], picture=bool(picture_of(content, modality))),
        "word_for_word": matches,
        "shown": {number: _works(store, credits[number - 1], passages) for number in leading},
    }


def _without_colour(spans: Sequence[Mapping[str, Any]], of_night: pl.DataFrame, *, picture: bool) -> str:
    """Why no span of an output has a party; empty if one has."""
    if any(span["party"] for span in spans):
        return ""
    if spans:
        return "No owner's works stand out in any part of it."
    if picture:
        return "Pictures are not cut into spans."
    if of_night.is_empty():
        return "No output of this night was cut into spans."
    count = of_night["output_id"].n_unique()
    return f"Not cut into spans: of this night only the {count} outputs with the most revenue are (setting credits.outputs)."


def _party(row: Mapping[str, Any]) -> Party:
    return row["account"], row["owner_id"] or row["escrow_id"] or ""


def _spans(table: pl.DataFrame, numbers: Mapping[Party, int]) -> list[dict[str, Any]]:
    """The spans in order, each with the number of its leading party: None if it has no share, or no more part than others."""
    spans, least = list[dict[str, Any]](), min(TIMES_EQUAL / max(1, len(numbers)), LEAST_PART)
    for row in table.unique(["start", "end"], keep="first", maintain_order=True).sort("start").iter_rows(named=True):
        part = row["part"]
        number = numbers.get((row["account"], row["party_id"])) if part >= least else None
        strength = 1 + sum(part >= least for least in STRENGTHS)
        spans.append({"start": row["start"], "end": row["end"], "party": number, "part": part, "strength": strength})
    return spans


def _leading(spans: Iterable[Mapping[str, Any]], parties: int) -> list[int]:
    """Numbers of the parties whose works are shown."""
    largest = list(range(1, min(LARGEST, parties) + 1))
    counts = Counter(span["party"] for span in spans if span["party"])
    more = [number for number, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if number not in largest]
    return sorted(largest + more[: LEADING - len(largest)])


def _matches(
    store: Store, corpus: str, table: pl.DataFrame, content: bytes, modality: str
) -> tuple[list[dict[str, Any]], dict[str, list[tuple[int, int, int]]]]:
    """Passages that stand word for word in works; and by example their first bytes, ends and numbers in it."""
    if table.is_empty() or not store.exists(corpus_key(corpus)):
        return [], {}
    read = read_passages(store, load_frozen(store, corpus), dict(table.select("example_id", "work_id").iter_rows()))
    passages: dict[str, list[tuple[int, int, int]]] = {}
    matches: list[dict[str, Any]] = []
    for number, ((start, end), rows) in enumerate(table.group_by("start", "end", maintain_order=True), 1):
        works = []
        for row in rows.iter_rows(named=True):
            if (passage := read.get(row["example_id"])) is None:
                continue
            # Blanks may differ, so the passage may end elsewhere in the example.
            stop = _end_of(passage.content, row["at"], content[start:end])
            passages.setdefault(row["example_id"], []).append((row["at"], stop, number))
            works.append(_named(passage) | {"example_id": passage.example_id})
        notes = _notes(notes_of(content[start:end], modality), content[start:end])
        text = melody(notes) if modality == "music" else on_screen(content[start:end].decode(errors="replace"))
        in_all = int(rows["works"].max() or 0)  # type: ignore[arg-type]
        matches.append({"number": number, "start": start, "end": end, "text": text, "works_in_all": in_all, "works": works})
    return matches, passages


def _end_of(example: bytes, start: int, passage: bytes) -> int:
    """The end of a passage in an example, whatever blanks it has there."""
    at, left = start, len(b"".join(passage.split()))
    while at < len(example) and left:
        left -= not example[at : at + 1].isspace()
        at += 1
    return at


def _pieces(
    content: bytes, modality: str, spans: Sequence[Mapping[str, Any]], matches: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The text in pieces that have one party and one passage each; nothing of what is no text."""
    if not text_of(content, modality):
        return []
    cuts = sorted({0, len(content), *(end for span in (*spans, *matches) for end in (span["start"], span["end"]))})
    pieces = []
    for start, end in pairwise(cuts):
        span = next((s for s in spans if s["start"] <= start and end <= s["end"]), None)
        match = next((m for m in matches if m["start"] <= start and end <= m["end"]), None)
        pieces.append(
            {
                "text": on_screen(content[start:end].decode(errors="replace")),
                "party": span and span["party"],
                "part": span["part"] if span else None,
                "strength": span["strength"] if span else 0,
                "word_for_word": match and match["number"],
            }
        )
    return pieces


def _notes(notes: Sequence[Note], content: bytes, spans: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Notes as data, each with the number of the party that its stretch of the content rests on."""
    pitches = [at for at in range(len(content)) if content[at] <= 128] if notes else []
    placed = []
    for note, at in zip(notes, pitches, strict=True):
        span = next((span for span in spans if span["start"] <= at < span["end"]), None)
        placed.append({"start": note.start, "length": note.length, "pitch": note.pitch, "party": span and span["party"]})
    return placed


def melody(notes: Iterable[Mapping[str, Any]]) -> str:
    """Notes in words: `E4 G4 A4 -`."""
    return " ".join("-" if n["pitch"] is None else f"{PITCHES[n['pitch'] % 12]}{n['pitch'] // 12 - 1}" for n in notes)


def _works(
    store: Store, credit: pl.DataFrame, word_for_word: Mapping[str, Sequence[tuple[int, int, int]]]
) -> list[dict[str, Any]]:
    """A party's works behind the output, as data."""
    return [_work(work, word_for_word) for work in works_behind(store, credit, most=WORKS, passages=PASSAGES)]


def _work(work: CreditedWork, word_for_word: Mapping[str, Sequence[tuple[int, int, int]]]) -> dict[str, Any]:
    passages = [passage_data(passage, word_for_word.get(passage.example_id, ())) for passage in work.passages]
    names = {"work_id": work.work_id, "title": work.title, "link": work.link, "source_uri": work.source_uri}
    return names | {"licence": work.licence, "influence": work.influence, "passages": passages}


def _named(passage: Passage) -> dict[str, Any]:
    names = {"work_id": passage.work_id, "title": passage.title, "link": passage.link, "source_uri": passage.source_uri}
    return names | {"licence": passage.licence}


def passage_data(passage: Passage, word_for_word: Sequence[tuple[int, int, int]] = ()) -> dict[str, Any]:
    """A passage as data: `example_id`, and as far as it is such a thing `pieces` of text, `picture` and `notes`.

    Args:
        word_for_word: first bytes, ends and numbers of what stands in the output, too; it is marked, and an excerpt has it.
    """
    return {
        "example_id": passage.example_id,
        "pieces": _excerpt(passage, word_for_word) if passage.text else [],
        "picture": _base64(passage.picture),
        "notes": _notes(passage.notes, passage.content),
    }


def _excerpt(passage: Passage, marks: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """A passage's text, cut to what is shown of it, in pieces with the number of what stands in the output."""
    content, marks = passage.content, sorted(marks)
    first, last = 0, len(content)
    if last > EXCERPT:
        first = max(0, min(marks[0][0] - EXCERPT // 4, last - EXCERPT)) if marks else 0
        last = first + EXCERPT
    # Not within a character.
    while first < len(content) and content[first] & 0xC0 == 0x80:
        first += 1
    while last < len(content) and content[last] & 0xC0 == 0x80:
        last += 1
    pieces, at = list[tuple[bytes, int | None]](), first
    for marked, stop, number in marks:
        start, end = max(marked, at), min(stop, last)
        if start < end:
            pieces += [(content[at:start], None), (content[start:end], number)]
            at = end
    pieces.append((content[at:last], None))
    texts = [(on_screen(text.decode(errors="replace")), number) for text, number in pieces if text]
    ends = ("… " if first else "", " …" if last < len(content) else "")
    data: list[dict[str, Any]] = [{"text": text, "word_for_word": number} for text, number in texts]
    data[0]["text"], data[-1]["text"] = ends[0] + data[0]["text"], data[-1]["text"] + ends[1]
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
