"""Collect a corpus of music: melodies from the scores in the package music21.

The owner is the composer, or the collection for songs without a composer. A work is a score, an example a stretch of one of its
parts, coded one byte per event: 0 to 127 a pitch (MIDI), 128 a rest, 192 and up a duration (`DURATIONS`, in quarter notes),
which follows its pitch or rest. A chord is its highest note.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from provenance.core.errors import ContractError
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus
from provenance.corpus.packages.distributions import owner_id

REST, FIRST_DURATION = 128, 192
DURATIONS = tuple(
    Fraction(text)
    for text in "1/8 1/6 1/4 1/3 3/8 1/2 2/3 3/4 1 4/3 3/2 7/4 2 5/2 3 7/2 4 5 6 8 12 16".split()  # noqa: SIM905
)
NOTES = 32
LEAST = 8


@dataclass(frozen=True)
class Source:
    """A folder of music21's corpus and the owner of its scores."""

    folder: str
    owner: str
    tunes: int = 1  # tunes read from each file; a book of songs has many


SOURCES = (
    Source("palestrina", "Giovanni Pierluigi da Palestrina"), Source("bach", "Johann Sebastian Bach"),
    Source("monteverdi", "Claudio Monteverdi"), Source("beethoven", "Ludwig van Beethoven"),
    Source("mozart", "Wolfgang Amadeus Mozart"), Source("haydn", "Joseph Haydn"), Source("josquin", "Josquin des Prez", 6),
    Source("schumann_robert", "Robert Schumann"), Source("schumann_clara", "Clara Schumann"),
    Source("schoenberg", "Arnold Schoenberg"), Source("chopin", "Frédéric Chopin"), Source("corelli", "Arcangelo Corelli"),
    Source("handel", "George Frideric Handel"), Source("joplin", "Scott Joplin"), Source("beach", "Amy Beach"),
    Source("verdi", "Giuseppe Verdi"), Source("weber", "Carl Maria von Weber"), Source("cpebach", "Carl Philipp Emanuel Bach"),
    Source("ryansMammoth", "Ryan's Mammoth Collection"), Source("oneills1850", "O'Neill's Music of Ireland", 4),
    Source("essenFolksong", "Essen Folksong Collection", 12), Source("airdsAirs", "Aird's Airs", 24),
    Source("trecento", "Trecento Manuscripts"),
)  # fmt: skip


def collect(*, owners: int, examples_each: int, held_out_each: int) -> Corpus:
    """Collect melodies from music21's corpus.

    Scores are ordered by a digest of their names. An owner with fewer than `LEAST` stretches for training is left out.

    Args:
        owners: how many composers and collections, at most.
        examples_each: stretches of each for training, at most.
        held_out_each: stretches of each that are held out.

    Raises:
        ContractError: music21 is not installed.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise ContractError("music corpus", expected="the package music21", found="none", hint="Run make workloads.")
    root = Path(spec.origin).parent / "corpus"
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    names: dict[str, str] = {}
    count = examples_each + held_out_each
    for source in SOURCES:
        if len(names) == owners:
            break
        pieces = _pieces(root, source, count)
        if len(pieces) < LEAST + held_out_each:
            continue
        order = sorted(pieces, key=lambda piece: hashlib.sha256(repr(sorted(piece.items())).encode()).digest())
        common = {"modality": "music", "licence_spdx": None}
        rows += [p | common | {"split": "held_out" if n < held_out_each else "train"} for n, p in enumerate(order[:count])]
        owner = owner_id(source.owner)
        names[owner] = source.owner
        claims += equal_claims(order[:count], [owner], f"music21 corpus folder {source.folder}")
    return make_corpus(rows, claims, names)


def encode(notes: list[tuple[int | None, Fraction]]) -> bytes:
    """Pitches (None for a rest) and durations in quarter notes as events."""
    events = bytearray()
    for pitch, length in notes:
        nearest = min(range(len(DURATIONS)), key=lambda at: abs(DURATIONS[at] - length))
        events += bytes((REST if pitch is None else pitch, FIRST_DURATION + nearest))
    return bytes(events)


def _pieces(root: Path, source: Source, count: int) -> list[dict[str, object]]:
    """About twice `count` stretches, if there are so many."""
    endings = {".mxl", ".xml", ".krn", ".abc", ".musicxml"}
    files = [file for file in (root / source.folder).rglob("*") if file.suffix in endings]
    pieces: list[dict[str, object]] = []
    name_of = {file: str(file.relative_to(root)) for file in files}
    for file in sorted(files, key=lambda file: hashlib.sha256(name_of[file].encode()).digest()):
        for tune in range(1, source.tunes + 1):
            if len(pieces) >= 2 * count:
                return pieces
            name = name_of[file] + (f"#{tune}" if source.tunes > 1 else "")
            for part, notes in enumerate(_parts(file, tune if source.tunes > 1 else None)):
                if part == 4:
                    break
                for at in range(0, len(notes) - NOTES // 2, NOTES):
                    stretch = notes[at : at + NOTES]
                    pieces.append(
                        {
                            "work_id": f"music21/{name}",
                            "content": encode(stretch),
                            "position": 1000 * part + at,
                            "source_uri": f"pkg:pypi/music21#{name}",
                        }
                    )
    return pieces


def _parts(file: Path, tune: int | None) -> Iterator[list[tuple[int | None, Fraction]]]:
    """Yield the notes of each part of a score; nothing if music21 cannot read it."""
    from music21 import converter
    from music21.exceptions21 import Music21Exception

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # music21 would read a book of tunes again for each tune, and leave the file open.
            book = file.read_text(encoding="utf-8", errors="replace") if file.suffix == ".abc" else None
            score: Any = converter.parse(book or file, number=tune, format=None if book is None else "abc")
    except (Music21Exception, ValueError, KeyError, AttributeError):
        return
    for part in getattr(score, "parts", ()):
        notes: list[tuple[int | None, Fraction]] = []
        for note in part.flatten().notesAndRests:
            length = Fraction(note.quarterLength).limit_denominator(48)
            if length > 0:  # grace notes have none
                pitch = None if note.isRest else max((p.midi for p in getattr(note, "pitches", ())), default=None)
                notes.append((pitch, length))
        if sum(pitch is not None for pitch, _ in notes) >= NOTES // 2:
            yield notes
