"""Short pieces of works and outputs for papers that owners read: lines of text, a small picture, or some bars of music."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from provenance.core.text import plain
from provenance.corpus.works import Note, notes_of, picture_of, text_of

# Most lines and letters of a text.
LINES, LETTERS = 6, 320
# Bars of music, their quarter notes, and the size of the drawing.
BARS, QUARTERS, WIDTH, HEIGHT = 4, 4, 480, 96


@dataclass(frozen=True)
class Excerpt:
    """A piece of a content: a `text`, or a drawing (`svg`) with `words` for those who do not see it."""

    text: str = ""
    svg: str = ""
    words: str = ""


def excerpt(content: bytes, modality: str) -> Excerpt | None:
    """A piece of a content; None where it cannot be shown."""
    if picture := picture_of(content, modality):
        return Excerpt(svg=_picture(picture), words="a picture")
    if notes := notes_of(content, modality):
        shown = [note for note in notes if note.start < BARS * QUARTERS]
        return Excerpt(svg=_bars(shown), words=f"{len([n for n in shown if n.pitch is not None])} notes, drawn")
    text = shortened(text_of(content, modality))
    return Excerpt(text=text) if text else None


def shortened(text: str) -> str:
    """The first lines of a text, with their indentation and without empty or invisible ones."""
    lines = []
    for line in text.expandtabs(4).splitlines():
        shown, indent = plain(line), len(line) - len(line.lstrip(" "))
        if shown:
            lines.append(" " * indent + shown)
    margin = min((len(line) - len(line.lstrip(" ")) for line in lines), default=0)
    cut = "\n".join(line[margin:] for line in lines[:LINES])
    if len(cut) > LETTERS:
        return f"{cut[: LETTERS - 1].rstrip()}…"
    return f"{cut}…" if len(lines) > LINES else cut


def _picture(png: bytes) -> str:
    """A PNG file within an SVG, so that web pages and PDFs show it in the same way."""
    width, height = (int.from_bytes(png[start : start + 4]) for start in (16, 20))  # of its header
    data = base64.b64encode(png).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"/></svg>'
    )


def _bars(notes: Sequence[Note]) -> str:
    """Notes as bars over time, high ones above, with a line at the end of each bar."""
    pitches = [note.pitch for note in notes if note.pitch is not None] or [60]
    low, high = min(pitches) - 1, max(pitches) + 1
    bars = min(BARS, max(1, math.ceil(max((note.start + note.length for note in notes), default=0) / QUARTERS)))
    quarter, step = WIDTH / (BARS * QUARTERS), HEIGHT / (high - low + 1)
    parts = [
        f'<line x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="{HEIGHT}" stroke="#7a7a7a" stroke-opacity="0.5"/>'
        for x in (WIDTH * bar / BARS for bar in range(bars + 1))
    ]
    for note in notes:
        if note.pitch is not None:
            length = min(note.length, BARS * QUARTERS - note.start) * quarter
            parts.append(
                f'<rect x="{note.start * quarter:.1f}" y="{(high - note.pitch) * step:.1f}" width="{max(length - 1.5, 1):.1f}" '
                f'height="{step:.1f}" rx="1" fill="#3f7fbf"/>'
            )
    width = WIDTH * bars // BARS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )
