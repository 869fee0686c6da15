"""What files say of their own terms: headers (`SPDX-License-Identifier`), and the licence files beside them.

The nearest word counts: a header in the file itself, else the licence files of the folder that it lies in, or of the nearest
above. Texts are known by `identify`, exactly or up to a twentieth of their letters; of one that it does not
know nothing is said.
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
# At the beginning of a line, behind what begins a comment.
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
        licence: as it was found, an SPDX expression where the text is a licence.
        evidence: the file, and how it was read.
        sha256: of the file.
    """

    licence: str
    evidence: str
    sha256: str


@dataclass(frozen=True)
class LicenceFile:
    """A licence file: the folder of sources that it stands in, and what it says, if that is known."""

    folder: PurePosixPath
    notice: Notice | None


def licence_files(files: Mapping[str, Path]) -> list[LicenceFile]:
    """The licence files among those of a distribution, which lie in its `.dist-info`, by path.

    Those in `licenses/` keep the place that they had among the sources (PEP 639).
    """
    found = []
    for name, file in sorted(files.items()):
        path = PurePosixPath(name)
        inside = path.parts[0].endswith(".dist-info") and NAME.fullmatch(path.name) and path.suffix not in CODE
        if inside and file.is_file():
            below = path.parts[1:-1]
            folder = [part for part in (below[1:] if below[:1] == ("licenses",) else below) if part != "src"]
            found.append(LicenceFile(PurePosixPath(*folder), read_licence(file.read_bytes(), name)))
    return found


def notices(path: str, content: bytes, licences: Sequence[LicenceFile]) -> list[Notice]:
    """What is said of a file's terms as near to it as possible; nothing where that is not known.

    Of licence files beside one another all have to be known: the one that is not may take back what the others give.

    Args:
        path: of the file, in its distribution.
    """
    if said := header(content, path):
        return [said]
    for folder in PurePosixPath(path).parents:
        if nearest := [licence for licence in licences if licence.folder == folder]:
            known = [licence.notice for licence in nearest if licence.notice]
            return known if len(known) == len(nearest) else []
    return []


def header(content: bytes, name: str) -> Notice | None:
    """The terms that a file's header states."""
    found = HEADER.search(content[:HEAD_BYTES])
    if not found:
        return None
    words = found[1].decode("utf-8", errors="replace")
    return Notice(words, f"header of {name}", hashlib.sha256(content).hexdigest())


def read_licence(data: bytes, name: str) -> Notice | None:
    """The licence whose text a file holds, or that its header states; None where it is not known.

    A file in no encoding that can be told is read as Latin-1, in which all bytes are letters, and the evidence says so.
    """
    if said := header(data, name):
        return said
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text, how = data.decode(encoding), "" if encoding == "utf-8" else f", read as {encoding}"
    except UnicodeDecodeError:
        text, how = data.decode("latin-1"), f", no {encoding}, read as Latin-1"
    with tempfile.TemporaryDirectory() as folder:  # identify reads files alone, and only UTF-8
        aside = Path(folder) / "licence"
        aside.write_text(text, encoding="utf-8")
        known = license_id(str(aside))
    return Notice(known, f"text of {name}{how}", hashlib.sha256(data).hexdigest()) if known else None
