"""Collect a corpus of images: letters of the typefaces in installed packages.

Owner (designer, else manufacturer) and licence come from the font's name table. A work is a font file, an example one of its
letters, drawn as a small grey image.
"""

from __future__ import annotations

import hashlib
import io
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from provenance.core.errors import ContractError
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus
from provenance.corpus.packages.distributions import installed, owner_id

PACKAGES = (
    "font-amatic-sc", "font-caladea", "font-fjallaone", "font-fredoka-one", "font-hanken-grotesk", "font-intuitive",
    "font-lato", "font-manrope", "font-roboto", "font-source-sans-pro", "font-source-serif-pro", "matplotlib",
)  # fmt: skip
LETTERS = string.ascii_letters + string.digits
LEAST = 8
DESIGNER, MANUFACTURER, LICENCE = 9, 8, 13


def collect(*, owners: int, examples_each: int, held_out_each: int, size: int) -> Corpus:
    """Collect letters from the typefaces of the packages in `PACKAGES`.

    Designers and letters are ordered by a digest of their names. A designer with fewer than `LEAST` letters for training is
    left out.

    Args:
        owners: how many designers, at most.
        examples_each: letters of each for training, at most.
        held_out_each: letters of each that are held out.
        size: height and width of the images in pixels.

    Raises:
        ContractError: none of the packages is installed.
    """
    by_owner: dict[str, list[dict[str, Any]]] = {}
    for package, path in _fonts(PACKAGES):
        name, licence, letters = _read(path)
        work = f"{package}/{path.name}"
        by_owner.setdefault(name, []).extend(
            {"work_id": work, "letter": letter, "path": path, "licence_spdx": licence} for letter in letters
        )
    by_owner.pop("", None)
    enough = {name: letters for name, letters in by_owner.items() if len(letters) >= LEAST + held_out_each}
    if not enough:
        raise ContractError(
            "glyph corpus", expected=f"one of the packages {', '.join(PACKAGES)}", found="none", hint="Run make workloads."
        )
    designers = sorted(enough, key=lambda name: hashlib.sha256(name.encode()).digest())[:owners]
    rows: list[dict[str, object]] = []
    claims = []
    for name in designers:
        order = sorted(
            enough[name], key=lambda glyph: hashlib.sha256(f"{glyph['work_id']}/{glyph['letter']}".encode()).digest()
        )
        sample = order[: held_out_each + examples_each]
        for number, glyph in enumerate(sample):
            rows.append(
                {
                    "work_id": glyph["work_id"],
                    "content": _draw(glyph["path"], glyph["letter"], size),
                    "position": ord(glyph["letter"]),
                    "modality": "image",
                    "source_uri": f"pkg:pypi/{glyph['work_id']}#{glyph['letter']}",
                    "licence_spdx": glyph["licence_spdx"],
                    "split": "held_out" if number < held_out_each else "train",
                }
            )
        claims += equal_claims(sample, [owner_id(name)], f"name table: {name}")
    return make_corpus(rows, claims, {owner_id(name): name for name in designers})


def _fonts(packages: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for package in packages:
        if (distribution := installed(package)) is None:
            continue
        for file in sorted(distribution.files or [], key=str):
            if file.suffix in {".ttf", ".otf"} and "LastResort" not in file.name:  # draws the same box for all letters
                yield f"{package}@{distribution.version}", Path(str(distribution.locate_file(file)))


def _read(path: Path) -> tuple[str, str | None, list[str]]:
    """Designer (else manufacturer), licence, and `LETTERS` if the font draws all of them."""
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        names, drawn = font["name"], font.getBestCmap()
        designer, manufacturer, licence = (names.getDebugName(at) or "" for at in (DESIGNER, MANUFACTURER, LICENCE))
        # A font of symbols has few letters, and may draw other things in their place.
        letters = [letter for letter in LETTERS if ord(letter) in drawn]
    spdx = "OFL-1.1" if "Open Font License" in licence else "Apache-2.0" if "Apache" in licence else None
    # "Multiple Designers" names nobody.
    name = (designer if designer and "Multiple" not in designer else manufacturer).strip()
    return name, spdx, letters if len(letters) == len(LETTERS) else []


def _draw(path: Path, letter: str, size: int) -> bytes:
    """The letter in white on black, as large as the image allows, in the middle; a PNG file."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    large = 8 * size
    font = ImageFont.truetype(str(path), 6 * size)
    left, top, right, bottom = font.getbbox(letter)
    canvas = Image.new("L", (large, large))
    at = ((large - (right - left)) // 2 - left, (large - (bottom - top)) // 2 - top)
    ImageDraw.Draw(canvas).text(at, letter, fill=255, font=font)
    file = io.BytesIO()
    small = canvas.resize((size, size), Image.Resampling.BOX)
    ImageOps.autocontrast(small).save(file, format="PNG")  # else a thin stroke is only a shade of grey
    return file.getvalue()
