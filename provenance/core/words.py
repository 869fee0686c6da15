"""Cut contents into words, for comparisons that use no model.

Text and code give words and signs; music its events; images small patches in four grades of grey, with their places.
Contents of any other modality are opaque: only the model's adapter reads them, and they have no words.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from provenance.core.images import open_image

MODALITIES = ("text", "code", "image", "music")
SIGNS = re.compile(r"\w+|[^\w\s]")
# The same for Polars, in texts of ASCII alone: of other letters and blanks Python and Rust have different classes.
SIGNS_IN_ASCII = r"[A-Za-z0-9_]+|[^A-Za-z0-9_\t-\r\x1c-\x20]"
PATCH, STRIDE, GRADES, GRID = 4, 2, 4, 4


def words(content: bytes, modality: str, row: int) -> list[bytes]:
    """The words of a content, in order; errors name its row in the batch."""
    if modality == "image":
        return _patches(content, row)
    if modality == "music":
        return [content[at : at + 1] for at in range(len(content))]
    if modality not in MODALITIES:
        return []
    return [word.encode() for word in SIGNS.findall(content.decode(errors="replace").lower())]


def count_words(content: bytes, modality: str, row: int) -> int:
    """The number of words of a content."""
    if modality in ("text", "code"):
        return len(SIGNS.findall(content.decode(errors="replace").lower()))
    return len(words(content, modality, row))


def texts_in_ascii(contents: pl.Series, modalities: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """The texts and code among contents that are ASCII alone: their rows, and they as text."""
    is_text = modalities.is_in(["text", "code"]).to_numpy()
    rows = np.flatnonzero(is_text & np.fromiter((content.isascii() for content in contents), dtype=bool, count=len(contents)))
    return rows, contents.gather(rows).cast(pl.String)


def whole_runs(lengths: np.ndarray, size: int) -> np.ndarray:
    """Of the runs of `size` pieces that begin at each piece of contents laid end to end, those that end in their content.

    Args:
        lengths: pieces of each content.

    Returns:
        (sum of lengths - size + 1,) bool; empty if there are fewer pieces.
    """
    ends = np.cumsum(lengths)
    whole = np.ones(int(lengths.sum()), dtype=bool)
    for at in range(1, size):
        whole[np.maximum(ends - at, ends - lengths)[lengths > 0]] = False
    return whole[: max(0, len(whole) - size + 1)]


def _patches(content: bytes, row: int) -> list[bytes]:
    """Patches of 4 x 4 pixels every 2 pixels: their cell of a 4 x 4 grid, and four grades of grey for each quarter."""
    grey = np.asarray(open_image(row, content).convert("L"), dtype=np.float32) / 256
    height, width = grey.shape
    patches = []
    for top in range(0, height - PATCH + 1, STRIDE):
        for left in range(0, width - PATCH + 1, STRIDE):
            patch = grey[top : top + PATCH, left : left + PATCH]
            quarters = patch.reshape(2, PATCH // 2, 2, PATCH // 2).mean(axis=(1, 3))
            place = (top * GRID // height, left * GRID // width)
            patches.append(bytes((*place, *(quarters * GRADES).astype(np.uint8).ravel())))
    return patches
