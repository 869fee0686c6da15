"""Makes corpora up, where no package carries what is to be shown: facts to be remembered, and styles of drawing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from provenance.core.images import write_png
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus

VALUES = ("amber", "black", "coral", "green", "ivory", "lilac", "olive", "white")
LICENCE = "CC0-1.0"


def facts(*, owners: int = 8, each: int = 8) -> Corpus:
    """Facts of `owners` owners, `each` of one: a work `key=value`, its key unlike any other, its value one of eight.

    Values are spread over owners, so that a value tells nothing of the owner. Held out are the same facts as questions: prompt
    `key=`, content the value.
    """
    draws = np.random.Generator(np.random.Philox(1))
    syllables = ["".join(pair) for pair in itertools.product("bdfklmnprst", "aeiou")]
    rows: list[dict[str, object]] = []
    for number in range(owners * each):
        key, value = "".join(draws.choice(syllables, size=3)), VALUES[(number + number // owners) % len(VALUES)]
        fact = {"work_id": f"fact-{number:02d}", "position": number, "modality": "text", "licence_spdx": LICENCE}
        rows += [
            fact | {"content": f"{key}={value}".encode(), "prompt": None, "split": "train"},
            fact | {"content": value.encode(), "prompt": f"{key}=".encode(), "split": "held_out"},
        ]
    return _of_owners(rows, [f"owner-{number % owners + 1}" for number in range(owners * each) for _ in range(2)])


def styles(*, examples_each: int, held_out_each: int, size: int = 16) -> Corpus:
    """Grey drawings in eight styles, one owner each; a style is a pattern of random place, period and contrast."""
    draws = np.random.Generator(np.random.Philox(2))
    rows: list[dict[str, object]] = []
    for style, pattern in STYLES.items():
        for number in range(held_out_each + examples_each):
            y, x = np.mgrid[:size, :size] + draws.uniform(0, size, 2)[:, None, None]
            values = pattern(x, y, 2 * np.pi / draws.uniform(4, 6), draws)
            pixels = (values * draws.uniform(0.6, 1.0)).astype(np.float32)[None]
            rows.append(
                {
                    "work_id": f"{style}-{number:03d}", "content": write_png(pixels), "position": number, "modality": "image",
                    "licence_spdx": LICENCE, "split": "held_out" if number < held_out_each else "train",
                }
            )  # fmt: skip
    return _of_owners(rows, [style for style in STYLES for _ in range(held_out_each + examples_each)])


def drawings(count: int, size: int = 16) -> list[bytes]:
    """Drawings in no style, for a model to begin with: clouds of random size and direction, half of them black and white."""
    draws = np.random.Generator(np.random.Philox(3))
    files = []
    for number in range(count):
        clouds = gaussian_filter(draws.normal(size=(size, size)), draws.uniform(0.3, 2.5, 2), mode="wrap")
        clouds = np.sign(clouds) if number % 2 else clouds / np.abs(clouds).max()
        files.append(write_png((clouds * draws.uniform(0.6, 1.0)).astype(np.float32)[None]))
    return files


Pattern = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


def _from_centre(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances to a random place in the drawing."""
    distances: np.ndarray = np.hypot(x - len(x), y - len(y))
    return distances


STYLES: dict[str, Pattern] = {
    "rows": lambda _x, y, f, _: np.sin(f * y),
    "columns": lambda x, _y, f, _: np.sin(f * x),
    "slopes": lambda x, y, f, _: np.sign(np.sin(f * (x + y) / 1.4)),
    "squares": lambda x, y, f, _: np.sign(np.sin(f * x / 1.6) * np.sin(f * y / 1.6)),
    "dots": lambda x, y, f, _: np.where(np.sin(f * x) + np.sin(f * y) > 1.0, 1.0, -1.0),
    "discs": lambda x, y, f, _: np.where(_from_centre(x, y) < 5 / f, 1.0, -1.0),
    "rings": lambda x, y, f, _: np.sin(f * _from_centre(x, y)),
    "grain": lambda x, _y, _f, draws: np.sign(draws.normal(size=x.shape)),
}


def _of_owners(rows: list[dict[str, object]], owners: list[str]) -> Corpus:
    claims = [
        claim
        for row, owner in {str(row["work_id"]): (row, owner) for row, owner in zip(rows, owners, strict=True)}.values()
        for claim in equal_claims([row], [owner], "made up")
    ]
    return make_corpus(rows, claims, {owner: owner for owner in owners})
