"""Reservations in the files themselves: Content Credentials (C2PA, CAWG), and XMP with fields of PLUS and TDMRep.

They go with a file wherever it is copied, so their rows are about a content, `sha256:<digest>`, and not about an address.

- Content Credentials: the assertion `cawg.training-mining` (CAWG 1.1), before 2025 `c2pa.training-mining`: uses that are
  allowed, not allowed or constrained. A reservation counts whoever signed it, that of an ingredient, too. A permission counts
  only if the file is as it was signed, by somebody whom the reader trusts.
- PLUS, `plus:DataMining` (IPTC photo metadata 2023.1), with the values of PLUS's vocabulary.
- TDMRep, `tdm:reservation` and `tdm:policy`, as PDF files have them, and the package of an EPUB.

`c2pa` reads Content Credentials, without asking the network. XMP is found by Pillow in images, and in every file by its own
marks, as its standard (part 3) describes for readers that do not know a format; in UTF-16 and UTF-32, in the extension
segments of JPEG and in compressed streams of PDF, too. In a text, XMP may be quoted: there it is a row that says nothing but
its problem. So are fields that are nearly those above, and rights in words that speak of training.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import cache
from typing import Any

from lxml import etree

from provenance.corpus.rights.signals.responses import Answer, Row, row

C2PA, IPTC, TDM = "c2pa", "iptc", "tdmrep"
# Addresses of contents.
CONTENT = "sha256:"
ASSERTION = re.compile(r"(c2pa|cawg)\.training-mining(\.v\d+)?(__\d+)?")
# The uses of entries, without the prefix of the standard.
ENTRIES = {"ai_training": "train", "ai_generative_training": "train", "ai_inference": "ai-use", "data_mining": "tdm"}
ALLOWED, FORBIDDEN, CONSTRAINED = "allowed", "notallowed", "constrained"
# Values of PLUS's vocabulary (ns.useplus.org/ldf/vocab): the use, and whether it is allowed.
PLUS: Mapping[str, tuple[str, bool | None]] = {
    "DMI-UNSPECIFIED": ("tdm", None),
    "DMI-ALLOWED": ("tdm", True),
    "DMI-PROHIBITED-AIMLTRAINING": ("train", False),
    "DMI-PROHIBITED-GENAIMLTRAINING": ("train", False),
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING": ("tdm", False),
    "DMI-PROHIBITED": ("tdm", False),
    "DMI-PROHIBITED-SEECONSTRAINT": ("tdm", False),
    "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR": ("tdm", False),
    "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR": ("tdm", False),
}
_PLUS_NAMESPACE = "ns.useplus.org/ldf/xmp/"
_TDM_NAMESPACE = "w3.org/ns/tdmrep"
_PACKET = re.compile(rb"<((?:\w{1,32}:)?(?:xmpmeta|RDF))\b")
# Packets that are looked into: others have no field that is read. Rights in words that speak of training.
_SPEAKS = re.compile(rb"data.?mining|tdm|train|machine.?learning|\bai\b", re.IGNORECASE)
_OF_TRAINING = re.compile(
    r"(?-i:\bAI\b)|\bno[- ]?(gen[- ]?)?ai\b|\btrain(ing)?\b|data.?mining|machine.?learning|\btdm\b|\bllms?\b", re.IGNORECASE
)
_RIGHTS = frozenset({"rights", "usageterms", "otherconstraints", "instructions", "copyright", "copyrightnotice"})
# Bytes of a packet that are read, its begin if it does not end, and names of elements that may stay open.
LARGEST_PACKET, LARGEST_OPEN, MOST_OPEN = 2**24, 2**16, 20
# Streams of a PDF that are unpacked, and package files of an EPUB that are read.
MOST_STREAMS, MOST_PACKAGES = 200, 5
# An extension segment of JPEG: its length, then the digest and the length of the whole, and where the part begins.
_EXTENSION = re.compile(rb"\xff\xe1(..)http://ns\.adobe\.com/xmp/extension/\0(.{32})....(....)", re.DOTALL)
_METADATA = re.compile(rb"/Metadata\b[^\0]{0,400}?stream\r?\n")
_WIDE = tuple("RDF".encode(code) for code in ("utf-16-le", "utf-16-be"))
_IMAGES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
_OTHERS = {
    b"%PDF-": "application/pdf",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"\xff\xf3": "audio/mpeg",
    b"\xff\xf2": "audio/mpeg",
    b"\0\0\0\x0cJXL ": "image/jxl",
    b"fLaC": "audio/flac",
    b"PK\x03\x04": "application/x-zip",
}
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
}
_MARKS = {**_IMAGES, **_OTHERS}
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/avi"}


def address_of(content_sha256: str) -> str:
    """The address of a content in the signals table."""
    return f"{CONTENT}{content_sha256}"


def parse(content: bytes, content_sha256: str, *, now: datetime) -> list[Row]:
    """Rows of the signals table for what a file says of itself; none if it says nothing.

    Args:
        now: time of the reading.
    """
    place = address_of(content_sha256)
    answer = Answer(place, place, now, 200)
    kind = media_type(content)
    return [*_credentials(answer, content, kind), *_xmp(answer, content, kind), *_of_book(answer, content)]


def media_type(content: bytes) -> str:
    """The media type of a file by its first bytes; empty if it is none of those that are read."""
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "video/mp4")
    if content[:4] == b"RIFF":
        return _RIFF.get(content[8:12], "")
    begin = content[:4096]
    if b"<svg" in begin and _begins_svg(begin.removeprefix(b"\xef\xbb\xbf").lstrip()):
        return "image/svg+xml"
    if not content.startswith(tuple(_MARKS)):
        return ""
    return next(kind for mark, kind in _MARKS.items() if content.startswith(mark))


def _begins_svg(begin: bytes) -> bool:
    return begin.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<html" not in begin.lower()


# Content Credentials


@cache
def _context() -> Any:
    """A reader that asks nobody: neither for manifests that lie elsewhere, nor whether a certificate was revoked."""
    from c2pa import Context, Settings

    return Context(Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}))


def _credentials(answer: Answer, content: bytes, kind: str) -> Iterator[Row]:
    if b"c2pa" not in content and b"provenance" not in content:
        return
    if not kind:
        if b"jumb" in content and b"c2pa" in content and not _is_text(content):
            yield row(
                answer, C2PA, "train", says="a manifest", problem="Content Credentials in a kind of file that is not read"
            )
        return
    from c2pa import C2paError, Reader

    try:
        with Reader(kind, io.BytesIO(content), context=_context()) as reader:
            store, state = json.loads(reader.json()), str(reader.get_validation_state() or "")
    except C2paError as error:
        message = str(error)
        if not message.startswith(("ManifestNotFound", "NotSupported")):
            problem = f"Content Credentials that cannot be read: {message}"
            yield row(answer, C2PA, "train", says="a manifest", problem=problem)
        return
    except (ValueError, OSError) as error:
        yield row(answer, C2PA, "train", says="a manifest", problem=f"Content Credentials that cannot be read: {error}")
        return
    active = store.get("active_manifest")
    for name, manifest in (store.get("manifests") or {}).items():
        for assertion in manifest.get("assertions") or []:
            if ASSERTION.fullmatch(str(assertion.get("label"))):
                rows = _entries(answer, assertion, state)
                # What an ingredient allows is not allowed for the whole.
                yield from rows if name == active else (fields for fields in rows if fields["allowed"] is False)


def _entries(answer: Answer, assertion: Mapping[str, Any], state: str) -> Iterator[Row]:
    label, data = str(assertion["label"]), assertion.get("data")
    entries = data.get("entries", data) if isinstance(data, dict) else None
    if not isinstance(entries, dict) or not entries:
        yield row(answer, C2PA, "train", says=label, problem=f"{label} has no entries")
        return
    for name, entry in entries.items():
        stated = entry.get("use") if isinstance(entry, dict) else entry
        word = re.sub(r"[\s_-]", "", str(stated)).lower()
        use = ENTRIES.get(str(name).rpartition(".")[2])
        says = f"{label}: {name}: {stated}"
        terms = str(entry.get("constraint_info") or "") if isinstance(entry, dict) else ""
        if use is None or word not in {ALLOWED, FORBIDDEN, CONSTRAINED}:
            problem = (
                f"{name!r} is no use of the standard"
                if use is None
                else f"{stated!r} is none of allowed, notAllowed, constrained"
            )
            yield row(answer, C2PA, use or "train", says=says, problem=problem)
        elif word == ALLOWED and state != "Trusted":
            problem = "a permission counts only in a file that is as somebody trusted has signed it"
            yield row(answer, C2PA, use, says=says, problem=f"{problem}; this one is {state.lower() or 'not validated'}")
        else:
            yield row(answer, C2PA, use, says=says, allowed=word == ALLOWED, terms=terms)


# XMP


def _xmp(answer: Answer, content: bytes, kind: str) -> Iterator[Row]:
    said: set[tuple[str, str]] = set()
    found = packets(content, kind)
    quoted = "stands in a text, which may quote it" if found and not kind and _is_text(content) else ""
    for packet in found:
        if len(packet) > LARGEST_PACKET:
            yield row(answer, IPTC, "tdm", says="XMP", problem=f"XMP of {len(packet):,} bytes, which is not read")
            continue
        try:
            parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False)
            root = etree.fromstring(packet, parser)
        except (etree.LxmlError, ValueError) as error:
            if b"DataMining" in packet or b"tdm" in packet.lower():
                yield row(answer, IPTC, "tdm", says="XMP", problem=f"XMP that cannot be read: {error}")
            continue
        properties = list(_properties(root))
        policy = next((value for space, name, value in properties if _TDM_NAMESPACE in space and name == "policy"), "")
        terms = next((value for _, name, value in properties if name in {"OtherConstraints", "WebStatement"}), "")
        for space, name, value in properties:
            field = re.sub(r"[\W_]", "", name).lower()
            if (field, value) in said:
                continue
            if field == "datamining":
                fields = _plus(answer, value, terms, _odd(space, name, _PLUS_NAMESPACE, {"DataMining"}))
            elif field in {"reservation", "tdmreservation"} and ("tdm" in space.lower() or field != "reservation"):
                odd = _odd(space, name, _TDM_NAMESPACE, {"reservation", "tdm-reservation"})
                fields = _tdm(answer, f"XMP: tdm:reservation: {value}", value, policy, odd)
            elif field in _RIGHTS and _OF_TRAINING.search(value):
                problem = "speaks of training in words: record an opt-out of the owner if it reserves it"
                fields = row(answer, IPTC, "tdm", says=f"XMP: {name}: {value}", problem=problem)
            else:
                continue
            said.add((field, value))
            yield fields if not quoted else fields | {"allowed": None, "problem": _joined(quoted, fields["problem"])}


def _odd(space: str, name: str, namespace: str, names: AbstractSet[str]) -> str:
    """The problem of a field whose name or namespace is nearly the standard's; empty: it has the standard's."""
    return "" if namespace in space and name in names else f"{name!r} of {space!r} is no field of a standard"


def _plus(answer: Answer, value: str, terms: str, odd: str) -> Row:
    word = value.rstrip("/").rpartition("/")[2].upper()
    use, allowed = PLUS.get(word, ("tdm", None))
    problem = "" if word in PLUS else f"{value!r} is no value of PLUS's vocabulary"
    if not problem and not value.upper().startswith(("HTTP", "DMI-", "PLUS-")):
        problem = f"{value!r} is no address of PLUS's vocabulary"
    if word.startswith("DMI-PROHIBITED") and word not in PLUS:
        allowed = False  # a newer value, or a misspelt one
    allowed = None if allowed and odd else allowed
    problem = _joined(odd, problem)
    return row(answer, IPTC, use, says=f"XMP: plus:DataMining: {value}", allowed=allowed, terms=terms, problem=problem)


def _tdm(answer: Answer, says: str, value: str, policy: str, odd: str = "") -> Row:
    problem = "" if value in {"0", "1"} else "tdm:reservation has to be 0 or 1"
    allowed = None if problem or (value == "0" and odd) else value == "0"
    return row(answer, TDM, "tdm", says=says, allowed=allowed, terms=policy, problem=_joined(odd, problem))


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _of_book(answer: Answer, content: bytes) -> Iterator[Row]:
    """Rows of an EPUB's package: `tdm:reservation` and `tdm:policy` in its metadata (TDMRep)."""
    if not content.startswith(b"PK\x03\x04") or b".opf" not in content:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            names = [name for name in book.namelist() if name.lower().endswith(".opf")][:MOST_PACKAGES]
            packages = [book.open(name).read(LARGEST_PACKET) for name in names]
        roots = [etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True)) for data in packages]
    except (zipfile.BadZipFile, etree.LxmlError, OSError, ValueError, RuntimeError, NotImplementedError, zlib.error) as error:
        yield row(answer, TDM, "tdm", says="a package of an EPUB", problem=f"a package that cannot be read: {error}")
        return
    for root in roots:
        elements = [element for element in root.iter("{*}meta") if isinstance(element.tag, str)]
        stated = [
            (re.sub(r"[\W_]", "", element.get("property") or element.get("name") or "").lower(),
             (element.get("content") or element.text or "").strip())
            for element in elements
        ]  # fmt: skip
        policy = next((value for name, value in stated if name == "tdmpolicy"), "")
        for value in dict.fromkeys(value for name, value in stated if name == "tdmreservation"):
            yield _tdm(answer, f"EPUB: tdm:reservation: {value}", value, policy)


def _is_text(content: bytes) -> bool:
    """Whether a content is text by its bytes."""
    if b"\0" in content:
        return content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def packets(content: bytes, kind: str) -> list[bytes]:
    """The XMP packets of a file that may speak of mining: those that Pillow finds in an image, and all in the file's bytes."""
    found: dict[bytes, None] = {}
    if kind.startswith("image/") and kind != "image/svg+xml":
        for stated in _of_image(content):
            found |= dict.fromkeys(_scanned(stated))
    for data in _readings(content, kind):
        if b"RDF" in data or b"xmpmeta" in data:  # nearly all files have none
            found |= dict.fromkeys(_scanned(data))
    return [packet for packet in found if _SPEAKS.search(packet)]


def _scanned(data: bytes) -> Iterator[bytes]:
    """Yield the packets of some bytes; each byte is read once, however many packets do not end."""
    is_open: set[bytes] = set()
    at = 0
    while len(is_open) < MOST_OPEN and (start := _PACKET.search(data, at)):
        at, name = start.end(), start[1]
        if name in is_open:
            continue
        end = data.find(b"</" + name, at)
        end = data.find(b">", end) + 1 if end >= 0 else 0
        if not end:
            is_open.add(name)
            yield data[start.start() : start.start() + LARGEST_OPEN]
            continue
        at = end
        yield data[start.start() : end]


def _readings(content: bytes, kind: str) -> Iterator[bytes]:
    """Yield the bytes in which packets may stand: of the file, without NULs as UTF-16 and UTF-32 have them, and unpacked."""
    yield content
    if b"\0" in content and (any(mark in content for mark in _WIDE) or b"\0R\0\0\0D" in content):
        yield content.replace(b"\0", b"").decode("latin-1").encode()
    if kind == "image/jpeg":
        parts: dict[bytes, dict[int, bytes]] = {}
        for match in _EXTENSION.finditer(content):
            length, digest, offset = int.from_bytes(match[1]), match[2], int.from_bytes(match[3])
            parts.setdefault(digest, {})[offset] = content[match.end() : match.start() + 2 + length]
        for whole in parts.values():
            yield b"".join(whole[offset] for offset in sorted(whole))
    if kind == "application/pdf":
        for match, _ in zip(_METADATA.finditer(content), range(MOST_STREAMS), strict=False):
            try:
                yield zlib.decompressobj().decompress(content[match.end() : match.end() + LARGEST_PACKET], LARGEST_PACKET)
            except zlib.error:
                continue  # it is not packed, or in another way


def _of_image(content: bytes) -> Iterable[bytes]:
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            info = image.info
            if not info.get("xmp") and image.format == "PNG":
                image.load()  # XMP may stand after the pixels
            stated = info.get("xmp") or info.get("XML:com.adobe.xmp") or getattr(image, "tag_v2", {}).get(700)
            # As ImageMagick writes it: name, length, and the packet in hex.
            raw = info.get("Raw profile type xmp")
            if not stated and isinstance(raw, str):
                stated = bytes.fromhex("".join(raw.split()[2:]))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return
    if isinstance(stated, str):
        stated = stated.encode()
    if isinstance(stated, bytes):
        yield stated


def _properties(root: Any) -> Iterator[tuple[str, str, str]]:
    """Yield namespace, name and value of each property, which RDF writes as an attribute or as an element."""
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue
        for name, value in element.attrib.items():
            qualified = etree.QName(name)
            if not (qualified.localname == "resource" and "rdf-syntax" in (qualified.namespace or "")):
                yield qualified.namespace or "", qualified.localname, value.strip()
        tag = etree.QName(element)
        text = " ".join("".join(element.itertext()).split())
        within = element.iter() if not text else (element,)  # the resources of a bag
        resources = [v for e in within for n, v in e.attrib.items() if etree.QName(n).localname == "resource"]
        value = " ".join(resources) or text
        if value and "rdf-syntax" not in (tag.namespace or ""):
            yield tag.namespace or "", tag.localname, value
