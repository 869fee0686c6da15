"""Shows works to people: title, source, licence, and passages as text, pictures or notes."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import polars as pl
from packageurl.contrib import purl2url

from provenance.core.errors import ExampleError
from provenance.core.images import open_image, write_preview
from provenance.core.store import Store
from provenance.core.tables import SOURCES
from provenance.core.text import address, on_screen, plain
from provenance.corpus import records
from provenance.corpus.packages.music import DURATIONS, FIRST_DURATION, REST
from provenance.corpus.shards import FrozenCorpus, read_part

# A package and its version in a work's id, such as `attrs==26.1.0/attr/_make.py` or `font-lato@1.0/Lato-Bold.ttf`.
IN_PACKAGE = re.compile(r"(?P<package>[\w.-]+)(==|@)(?P<version>[\w.+!-]+)/(?P<file>.+)", re.DOTALL)
# What follows a version where a file is named without the sign that would make it a part of the package.
FILE_IN_PACKAGE = re.compile(r"(?<=\d)/.*", re.DOTALL)
# Longest side of a picture that is shown, in pixels.
LARGEST_PICTURE = 256


@dataclass(frozen=True)
class Note:
    """A note or, with `pitch` None, a rest: start and length in quarter notes, pitch in MIDI's numbers."""

    start: float
    length: float
    pitch: int | None


@dataclass(frozen=True)
class Passage:
    """A piece of a work, as the model was trained on it.

    Attributes:
        title: the title in the records of sources, or the work's id in words.
        source_uri: where the work was collected; link: a safe address on the web of that, or empty.
        licence: SPDX expression of the terms it came under; empty if none is known.
        modality: as in the examples table; content: the bytes.
    """

    example_id: str
    work_id: str
    title: str
    source_uri: str
    link: str
    licence: str
    modality: str
    content: bytes

    @cached_property
    def text(self) -> str:
        """The passage as text, controls escaped; empty for pictures, music and bytes that are no text."""
        return text_of(self.content, self.modality)

    @cached_property
    def picture(self) -> bytes:
        """The passage as a PNG file of at most 256 pixels a side; empty if it is no image."""
        return picture_of(self.content, self.modality)

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """The passage as notes; empty if it is no music."""
        return notes_of(self.content, self.modality)


def read_passages(store: Store, corpus: FrozenCorpus, examples: Mapping[str, str]) -> dict[str, Passage]:
    """Passages of a corpus by example id; examples that it does not have are left out.

    Args:
        examples: the work of each example; only shards with these works are read.
    """
    chosen = _shards_of(store, corpus, set(examples.values()))
    columns = ("example_id", "work_id", "source_uri", "licence_spdx", "modality", "content")
    wanted = pl.col("example_id").is_in(list(examples))
    frames = [read_part(store, corpus.shards[at].sha256, *columns).filter(wanted) for at in chosen]
    if not frames:
        return {}
    rows = pl.concat(frames)
    titles = read_titles(store, rows["source_uri"].drop_nulls())
    return {
        row["example_id"]: Passage(
            example_id=row["example_id"],
            work_id=row["work_id"],
            title=titles.get(row["source_uri"] or "") or title_of(row["work_id"]),
            source_uri=row["source_uri"] or "",
            link=link_of(row["source_uri"] or ""),
            licence=row["licence_spdx"] or "",
            modality=row["modality"],
            content=row["content"],
        )
        for row in rows.iter_rows(named=True)
    }


def _shards_of(store: Store, corpus: FrozenCorpus, works: Collection[str]) -> list[int]:
    """The numbers of the shards that may have some works."""
    if corpus.places is not None:
        places = store.read_table(corpus.places.key)
        return places.filter(pl.col("work_id").is_in(list(works)))["shard"].unique().sort().to_list()
    return sorted({at for work in works for at in _in_order(store, corpus, work)})


def _in_order(store: Store, corpus: FrozenCorpus, work: str) -> Iterator[int]:
    """The numbers of the shards that may have a work, where shards follow one another in the order of works."""
    places = range(len(corpus.shards))
    at = bisect_left(places, work, key=lambda place: _works_in(store, corpus.shards[place].sha256)[1])
    while at < len(places) and _works_in(store, corpus.shards[at].sha256)[0] <= work:
        yield at
        at += 1


@lru_cache(maxsize=4096)
def _works_in(store: Store, part: str) -> tuple[str, str]:
    """The first and the last work of a shard."""
    works = read_part(store, part, "work_id")["work_id"]
    return works[0], works[-1]


def read_titles(store: Store, uris: Iterable[str]) -> dict[str, str]:
    """Titles of sources in the collectors' records, by URI as the collector wrote it; the first of several counts."""
    recorded = records.read(store, SOURCES).select("source_uri", "title").drop_nulls()
    titled = recorded.filter(pl.col("source_uri").is_in(list(set(uris)))).unique(
        "source_uri", keep="first", maintain_order=True
    )
    return {uri: plain(title) for uri, title in titled.iter_rows()}


def title_of(work_id: str) -> str:
    """A work's id in words: `attrs==26.1.0/attr/_make.py` is `attr/_make.py (attrs 26.1.0)`."""
    if match := IN_PACKAGE.fullmatch(work_id):
        return plain("{file} ({package} {version})".format(**match.groupdict()))
    return plain(work_id.removeprefix("https://").removeprefix("http://")) or work_id


def link_of(source_uri: str) -> str:
    """A safe address on the web for where a work was collected: its own, its package's or its DOI's; empty if there is none."""
    if source_uri.lower().startswith("doi:"):
        return address(f"https://doi.org/{source_uri[4:]}")
    if source_uri.startswith("pkg:"):
        package = FILE_IN_PACKAGE.sub("", source_uri)
        return address(str(purl2url.get_repo_url(package) or ""))  # type: ignore[no-untyped-call]
    return address(source_uri)


def text_of(content: bytes, modality: str) -> str:
    """A content as text, controls escaped; empty for images, music and bytes that are no text."""
    if modality in ("image", "music"):
        return ""
    try:
        return on_screen(content.decode())
    except UnicodeDecodeError:
        # A piece of a longer text may be cut within a character.
        return on_screen(content.decode(errors="replace")) if modality in ("text", "code") else ""


def picture_of(content: bytes, modality: str) -> bytes:
    """A content as a PNG file of at most 256 pixels a side; empty if it is no image."""
    if modality != "image":
        return b""
    try:
        return write_preview(open_image(0, content), LARGEST_PICTURE)
    except ExampleError:
        return b""


def notes_of(content: bytes, modality: str) -> tuple[Note, ...]:
    """A content as notes (coding: `corpus.packages.music`); empty if it is no music, or of another coding.

    A model's output may break the coding: a pitch without a duration is a quarter note, a duration without a pitch nothing.
    Where most pitches have no duration, the coding is another one.
    """
    if modality != "music":
        return ()
    notes: list[Note] = []
    at, start, timed = 0, 0.0, 0
    while at < len(content):
        event, following = content[at], content[at + 1 : at + 2]
        at += 1
        if event > REST:
            continue
        length = 1.0
        if following and 0 <= following[0] - FIRST_DURATION < len(DURATIONS):
            length, at = float(DURATIONS[following[0] - FIRST_DURATION]), at + 1
            timed += 1
        notes.append(Note(start, length, None if event == REST else event))
        start += length
    return tuple(notes) if timed * 2 > len(notes) else ()
