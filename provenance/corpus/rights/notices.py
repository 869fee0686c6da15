"""Read the terms that files state: headers (`SPDX-License-Identifier`), and licence files beside them.

The nearest notice counts: a header in the file itself, else the licence files in its folder or in the nearest folder above.
`identify` recognises texts of licences with up to a twentieth of different letters; unrecognised texts give no terms.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from identify.identify import license_id

NAME = re.compile(r"(licen[cs]e|copying|unlicense)([-._].*)?", re.IGNORECASE)
CODE = {".py", ".pyi", ".pyc"}
# At the beginning of a line, after the sign of a comment.
HEADER = re.compile(
    rb"^[ \t]*(?:#+|//+|/?\*+|--|;+|<!--|%+)?[ \t]*SPDX-License-Identifier:[ \t]*([^\r\n]+?)[ \t]*(?:\*/|-->)?[ \t]*\r?$",
    re.MULTILINE,
)
HEAD_BYTES = 4096
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


@dataclass(frozen=True)
class Notice:
    """Terms that a file states.

    Attributes:
        licence: the words of a header, or the SPDX id of a licence's text.
        evidence: the file, and the way in which it was read.
        sha256: digest of the file.
    """

    licence: str
    evidence: str
    sha256: str


@dataclass(frozen=True)
class LicenceFile:
    """A licence file: its folder among the sources, and its notice, if recognised."""

    folder: PurePosixPath
    notice: Notice | None


def licence_files(files: Mapping[str, Path]) -> list[LicenceFile]:
    """The licence files in the `.dist-info` of a distribution's files, by path.

    Files in `licenses/` keep their place among the sources (PEP 639).
    """
    licences = []
    for name, file in sorted(files.items()):
        path = PurePosixPath(name)
        inside = path.parts[0].endswith(".dist-info") and NAME.fullmatch(path.name) and path.suffix not in CODE
        if inside and file.is_file():
            below = path.parts[1:-1]
            folder = [part for part in (below[1:] if below[:1] == ("licenses",) else below) if part != "src"]
            licences.append(LicenceFile(PurePosixPath(*folder), read_licence(file.read_bytes(), name)))
    return licences


def notices(path: str, content: bytes, licences: Sequence[LicenceFile]) -> list[Notice]:
    """The nearest notices of a file's terms; empty if none is recognised.

    All licence files of a folder must be recognised: an unrecognised one may restrict the others.

    Args:
        path: path of the file in its distribution.
    """
    if notice := header(content, path):
        return [notice]
    for folder in PurePosixPath(path).parents:
        if nearest := [licence for licence in licences if licence.folder == folder]:
            recognised = [licence.notice for licence in nearest if licence.notice]
            return recognised if len(recognised) == len(nearest) else []
    return []


def header(content: bytes, name: str) -> Notice | None:
    """The terms in a file's header, if there is one."""
    match = HEADER.search(content[:HEAD_BYTES])
    if not match:
        return None
    words = match[1].decode("utf-8", errors="replace")
    return Notice(words, f"header of {name}", hashlib.sha256(content).hexdigest())


def read_licence(data: bytes, name: str) -> Notice | None:
    """The licence of a file, by its header or its text; None if it is not recognised.

    A file in an unknown encoding is read as Latin-1, which accepts all bytes, and the evidence says so.
    """
    if notice := header(data, name):
        return notice
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text, reading = data.decode(encoding), "" if encoding == "utf-8" else f", read as {encoding}"
    except UnicodeDecodeError:
        text, reading = data.decode("latin-1"), f", no {encoding}, read as Latin-1"
    with tempfile.TemporaryDirectory() as folder:  # identify reads only files in UTF-8
        file = Path(folder) / "licence"
        file.write_text(text, encoding="utf-8")
        licence = license_id(str(file))
    return Notice(licence, f"text of {name}{reading}", hashlib.sha256(data).hexdigest()) if licence else None
