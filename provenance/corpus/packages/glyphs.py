"""A corpus of images: the letters of the typefaces that installed packages carry.

Owner and licence are those of a font's own name table: its designer, else its manufacturer. A work is one font file, an
example one letter of it, drawn as a small grey image.
"""

from __future__ import annotations

import hashlib
import io
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from provenance.core.errors import ContractError
from provenance.corpus.examples import Corpus, claimed, collected
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

    Fonts and letters are taken in the order of a digest of their names. An owner with fewer than `LEAST` for
    training is left out.

    Args:
        owners: how many designers, at most.
        examples_each: letters of each that the model is trained on, at most.
        held_out_each: letters of each that it never sees.
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
    chosen = sorted(enough, key=lambda name: hashlib.sha256(name.encode()).digest())[:owners]
    rows: list[dict[str, object]] = []
    claims = []
    for name in chosen:
        order = sorted(enough[name], key=lambda at: hashlib.sha256(f"{at['work_id']}/{at['letter']}".encode()).digest())
        drawn = order[: held_out_each + examples_each]
        for number, at in enumerate(drawn):
            rows.append(
                {
                    "work_id": at["work_id"],
                    "content": _draw(at["path"], at["letter"], size),
                    "position": ord(at["letter"]),
                    "modality": "image",
                    "source_uri": f"pkg:pypi/{at['work_id']}#{at['letter']}",
                    "licence_spdx": at["licence_spdx"],
                    "split": "held_out" if number < held_out_each else "train",
                }
            )
        claims += claimed(drawn, [owner_id(name)], f"name table: {name}")
    return collected(rows, claims, {owner_id(name): name for name in chosen})


def _fonts(packages: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for package in packages:
        if (distribution := installed(package)) is None:
            continue
        for file in sorted(distribution.files or [], key=str):
            if file.suffix in {".ttf", ".otf"} and "LastResort" not in file.name:  # which draws the same box for all
                yield f"{package}@{distribution.version}", Path(str(distribution.locate_file(file)))


def _read(path: Path) -> tuple[str, str | None, list[str]]:
    """Designer (else manufacturer), licence, and those of the `LETTERS` that a font draws."""
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        names, drawn = font["name"], font.getBestCmap()
        designer, manufacturer, licence = (names.getDebugName(at) or "" for at in (DESIGNER, MANUFACTURER, LICENCE))
        # A font of symbols has a few letters at most, and what it draws in their place is not always one.
        letters = [letter for letter in LETTERS if ord(letter) in drawn]
    spdx = "OFL-1.1" if "Open Font License" in licence else "Apache-2.0" if "Apache" in licence else None
    # "Multiple Designers" says no more than nothing.
    who = (designer if designer and "Multiple" not in designer else manufacturer).strip()
    return who, spdx, letters if len(letters) == len(LETTERS) else []


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
    ImageOps.autocontrast(small).save(file, format="PNG")  # a thin stroke would be no more than a shade of grey
    return file.getvalue()
