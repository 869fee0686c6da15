"""Reservations in the files themselves: Content Credentials (C2PA, CAWG), and XMP with fields of PLUS and TDMRep.

They go with a file wherever it is copied, so their rows are about a content, `sha256:<digest>`, and not about an address.

- Content Credentials: the assertion `cawg.training-mining` (CAWG 1.1), before 2025 `c2pa.training-mining`: uses that are
  allowed, not allowed or constrained. A reservation counts whoever signed it, that of an ingredient, too. A permission counts
  only if the file is as it was signed, by somebody whom the reader trusts.
- PLUS, `plus:DataMining` (IPTC photo metadata 2023.1), with the values of PLUS's vocabulary.
- TDMRep, `tdm:reservation` and `tdm:policy`, as PDF files have them.

`c2pa` reads Content Credentials, without asking the network. XMP is found by Pillow in images, and in other files by its own
marks, as its standard (part 3) describes for readers that do not know a format.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
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
_PACKET = re.compile(rb"<((?:\w+:)?(?:xmpmeta|RDF))\b.*?</\1\s*>", re.DOTALL)
# Packets of a file, and bytes of one, that are read.
MOST_PACKETS, LARGEST_PACKET = 20, 2**20
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
    return [*_credentials(answer, content, kind), *_xmp(answer, content, kind)]


def media_type(content: bytes) -> str:
    """The media type of a file by its first bytes; empty if it is none of those that are read."""
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "video/mp4")
    if content[:4] == b"RIFF":
        return _RIFF.get(content[8:12], "")
    if content[:1024].lstrip().startswith((b"<svg", b"<?xml")) and b"<svg" in content[:4096]:
        return "image/svg+xml"
    return next((kind for mark, kind in {**_IMAGES, **_OTHERS}.items() if content.startswith(mark)), "")


# Content Credentials


@cache
def _context() -> Any:
    """A reader that asks nobody: neither for manifests that lie elsewhere, nor whether a certificate was revoked."""
    from c2pa import Context, Settings

    return Context(Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}))


def _credentials(answer: Answer, content: bytes, kind: str) -> Iterator[Row]:
    if not kind or (b"c2pa" not in content and b"provenance" not in content):
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
    for packet in packets(content, kind):
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
            if (name, value) in said:
                continue
            if _PLUS_NAMESPACE in space and name == "DataMining":
                said.add((name, value))
                yield _plus(answer, value, terms)
            elif _TDM_NAMESPACE in space and name in {"reservation", "tdm-reservation"}:
                said.add((name, value))
                problem = "" if value in {"0", "1"} else "tdm:reservation has to be 0 or 1"
                allowed = None if problem else value == "0"
                yield row(
                    answer, TDM, "tdm", says=f"XMP: tdm:reservation: {value}", allowed=allowed, terms=policy, problem=problem
                )


def _plus(answer: Answer, value: str, terms: str) -> Row:
    word = value.rstrip("/").rpartition("/")[2].upper()
    use, allowed = PLUS.get(word, ("tdm", None))
    problem = "" if word in PLUS else f"{value!r} is no value of PLUS's vocabulary"
    if not problem and not value.upper().startswith(("HTTP", "DMI-", "PLUS-")):
        problem = f"{value!r} is no address of PLUS's vocabulary"
    if word.startswith("DMI-PROHIBITED") and word not in PLUS:
        allowed = False  # a newer value, or a misspelt one
    return row(answer, IPTC, use, says=f"XMP: plus:DataMining: {value}", allowed=allowed, terms=terms, problem=problem)


def packets(content: bytes, kind: str) -> list[bytes]:
    """The XMP packets of a file, as Pillow finds them in an image or as they stand in the bytes of any other file."""
    found: dict[bytes, None] = {}
    if kind.startswith("image/") and kind != "image/svg+xml":
        found = dict.fromkeys(_of_image(content))
    for mark in (b"RDF", b"xmpmeta"):
        if not found and mark in content:
            matches = _PACKET.finditer(content) if kind else ()
            found = dict.fromkeys(match[0] for match, _ in zip(matches, range(MOST_PACKETS), strict=False))
    return [packet for packet in found if len(packet) <= LARGEST_PACKET]


def _of_image(content: bytes) -> Iterable[bytes]:
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            info = image.info
            if not info.get("xmp") and image.format == "PNG":
                image.load()  # XMP may stand after the pixels
            stated = info.get("xmp") or info.get("XML:com.adobe.xmp") or getattr(image, "tag_v2", {}).get(700)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return
    if isinstance(stated, str):
        stated = stated.encode()
    if isinstance(stated, bytes) and (match := _PACKET.search(stated)):
        yield match[0]


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
        resource = next((v for n, v in element.attrib.items() if etree.QName(n).localname == "resource"), "")
        value = resource or " ".join("".join(element.itertext()).split())
        if value and "rdf-syntax" not in (tag.namespace or ""):
            yield tag.namespace or "", tag.localname, value
