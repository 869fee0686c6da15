"""Collect a corpus of code: the sources of installed Python distributions.

Owners and licences come from the distributions' metadata, terms also from their files: real owners, real terms, real text, and
no network. The lock file and the distributions' bytes determine the choice; no clock, no chance.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.utils import getaddresses
from importlib.metadata import Distribution, PackageMetadata
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from provenance.core.checks import conform
from provenance.core.errors import ContractError
from provenance.core.tables import SOURCES
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus
from provenance.corpus.rights.notices import licence_files, notices

PIECE_BYTES = (128, 256)
# Files read for a language; some distributions have thousands.
FILES = 24
# Trove classifiers that name one SPDX licence; others name a family and become a LicenseRef.
SPDX_OF_CLASSIFIER = {
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "ISC License (ISCL)": "ISC",
    "The Unlicense (Unlicense)": "Unlicense",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "zlib/libpng License": "Zlib",
}


@dataclass(frozen=True)
class MetadataRights:
    """Owners and licence in a distribution's metadata, or the reason why they are missing."""

    owners: tuple[str, ...]
    licence_spdx: str | None
    evidence: str
    unmatched_reason: str | None


@dataclass(frozen=True)
class Language:
    """The pieces to take from a distribution's files with a suffix."""

    distribution: str
    suffix: str
    examples: int


def rights_in(metadata: PackageMetadata) -> MetadataRights:
    """Owners (authors, else maintainers) and licence (`License-Expression`, else an SPDX `License`, else classifiers)."""
    owners, owner_field = _owners(metadata)
    licence, licence_field = _licence(metadata)
    missing = [
        text
        for text, value in (("no author or maintainer is named", owners), ("no licence can be established", licence))
        if not value
    ]
    evidence = f"metadata: {owner_field or 'no owner'}; {licence_field or 'no licence'}"
    return MetadataRights(owners, licence, evidence, "; ".join(missing) or None)


def collect(lock: Path, *, distributions: int, examples_each: int) -> Corpus:
    """Collect a corpus from the installed distributions that a lock file names.

    A work's terms come from the distribution's metadata (asserted by the aggregator, PyPI) and from its own files (asserted by
    the source; `provenance.corpus.rights.notices`).

    One file of each distribution is held out of training whole (`split` is `held_out`); the others give `examples_each` pieces
    of 128 to 256 bytes. Distributions are ordered by a digest of their names, so that a new version of one does not
    reshuffle the rest.

    Args:
        lock: a requirements file with `name==version` lines.
    """
    names = re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), flags=re.MULTILINE)
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    assertions: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    count = 0
    for name in sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()):
        if count == distributions:
            break
        distribution = installed(name)
        pieces = distribution and _pieces(distribution, examples_each)
        if not distribution or not pieces:
            continue
        count += 1
        rights = rights_in(distribution.metadata)
        works = sorted({str(piece["work_id"]) for piece in pieces})
        common = {
            "modality": "code",
            "licence_spdx": rights.licence_spdx,
            "unmatched_reason": rights.unmatched_reason,
            # A distribution without a named owner counts as the work of one unknown owner.
            "owner_id": f"unmatched-{owner_id(name)}" if rights.unmatched_reason else None,
        }
        rows += [piece | common for piece in pieces]
        assertions += assertions_of(distribution, works)
        if rights.unmatched_reason is None:
            by_id = {owner_id(owner): owner for owner in rights.owners}
            owners |= by_id
            claims += equal_claims(pieces, list(by_id), rights.evidence)
    return make_corpus(rows, claims, owners, assertions)


def assertions_of(distribution: Distribution, works: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the assertions of terms of a distribution's works, as rows."""
    name = f"{distribution.metadata['Name']}=={distribution.version}"
    words, field = _licence(distribution.metadata)
    if words is None and (words := _field(distribution.metadata, "License").strip()):
        words, field = words.splitlines()[0], "License"
    for work in works if words else ():
        assertion: dict[str, object] = {"licence": words, "asserter": "PyPI", "evidence": f"metadata of {name}: {field}"}
        yield {"work_id": work, "asserted_by": "aggregator"} | assertion
    files = {str(path): Path(str(distribution.locate_file(path))) for path in distribution.files or []}
    licences = licence_files(files)
    for work in works:
        path = work.removeprefix(f"{name}/")
        for notice in notices(path, files[path].read_bytes(), licences):
            evidence = f"{name}: {notice.evidence}"
            assertion = {"licence": notice.licence, "evidence": evidence, "evidence_sha256": notice.sha256}
            yield {"work_id": work, "asserted_by": "source", "asserter": distribution.metadata["Name"]} | assertion


def collect_languages(languages: Sequence[Language], *, held_out_each: int, copied: str = "") -> Corpus:
    """Collect a corpus of few owners with dissimilar works: one kind of file from each distribution.

    Args:
        held_out_each: pieces of each that are held out, all of one file.
        copied: a distribution whose training pieces a second owner claims, too, as own works.

    Raises:
        ContractError: a distribution is not installed, names no owner or licence, or has too little of its language.
    """
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    for language in languages:
        distribution = installed(language.distribution)
        pieces = distribution and _pieces(distribution, language.examples, language.suffix, FILES)
        rights = rights_in(distribution.metadata) if distribution else None
        if not pieces or rights is None or rights.unmatched_reason:
            expected = f"{language.examples} pieces of {language.suffix}, an owner and a licence"
            found = "no such distribution" if rights is None else rights.unmatched_reason or "fewer pieces"
            raise ContractError(f"distribution {language.distribution}", expected=expected, found=found)
        train = [piece for piece in pieces if piece["split"] == "train"]
        held_out = sorted((p for p in pieces if p["split"] == "held_out"), key=_by_content)[:held_out_each]
        makers = {owner_id(rights.owners[0]): (rights.owners[0], train + held_out)}
        if language.distribution == copied:
            makers["copyist"] = ("A copyist", [piece | {"work_id": f"copied/{piece['work_id']}"} for piece in train])
        for owner, (name, pieces_of_owner) in makers.items():
            owners[owner] = name
            rows += [piece | {"modality": "code", "licence_spdx": rights.licence_spdx} for piece in pieces_of_owner]
            claims += equal_claims(pieces_of_owner, [owner], rights.evidence)
    return make_corpus(rows, claims, owners)


def sources_of(examples: pl.DataFrame) -> pl.DataFrame:
    """The works as a list of sources: each with its line in RECORD, and the time at which its distribution was installed."""
    rows = []
    works = examples.select("work_id", "source_uri").unique().sort("work_id")
    for name, group in groupby(works.iter_rows(), key=lambda row: row[0].partition("==")[0]):
        distribution = importlib.metadata.distribution(name)
        files = {str(path): path for path in distribution.files or []}
        record = next(path for path in files.values() if path.name == "RECORD")
        installed = Path(str(distribution.locate_file(record))).stat().st_mtime
        for work, uri in group:
            path = files[work.partition("/")[2]]
            digest = base64.urlsafe_b64decode(path.hash.value + "=").hex() if path.hash and path.hash.mode == "sha256" else None
            line = f"{path},{path.hash.mode}={path.hash.value},{path.size}" if path.hash else f"{path},,"
            rows.append(
                {
                    "source_uri": uri,
                    "acquired_at": datetime.fromtimestamp(installed, UTC),
                    "collector": "pip",
                    "evidence": f"RECORD of {name}: {line}",
                    "content_sha256": digest,
                }
            )
    return conform(SOURCES, pl.DataFrame(rows, infer_schema_length=None), "sources")


def owner_id(name: str) -> str:
    """A name as an id: `Sebastián Ramírez` becomes `sebastian-ramirez`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return slug or f"owner-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _owners(metadata: PackageMetadata) -> tuple[tuple[str, ...], str | None]:
    for role in ("Author", "Maintainer"):
        plain = _field(metadata, role)
        addresses = [name for name, _ in getaddresses([_field(metadata, f"{role}-email")]) if name]
        # One address may hold a list of names; only separate addresses certainly mean separate people.
        if plain and "@" not in plain:
            return (plain,), f"{role} {plain!r}"
        if addresses:
            return tuple(addresses), f"{role}-email {', '.join(addresses)!r}"
    return (), None


def _field(metadata: PackageMetadata, name: str) -> str:
    return str(make_header(decode_header((metadata.get_all(name) or [""])[0]))).strip()


def _licence(metadata: PackageMetadata) -> tuple[str | None, str | None]:
    for field in ("License-Expression", "License"):
        try:
            expression = canonicalize_license_expression(_field(metadata, field))
        except InvalidLicenseExpression:
            continue
        return str(expression), f"{field} {expression!r}"
    classifiers = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or [] if c.startswith("License :: OSI")]
    licences = [SPDX_OF_CLASSIFIER.get(c) or f"LicenseRef-{re.sub(r'[^A-Za-z0-9.]+', '-', c).strip('-')}" for c in classifiers]
    # Several classifiers may be alternatives or hold together; AND is the stricter reading.
    return (" AND ".join(sorted(licences)), f"Classifier {', '.join(classifiers)!r}") if licences else (None, None)


def installed(name: str) -> Distribution | None:
    """The installed distribution of a name, or None."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pieces(
    distribution: Distribution, count: int, suffix: str = ".py", files: int | None = None
) -> list[dict[str, object]] | None:
    """`count` training pieces from at most `files` files, and those of one held-out file; None if there are too few."""
    name = f"{distribution.metadata['Name']}=={distribution.version}"
    by_file: dict[str, list[dict[str, object]]] = {}
    paths = sorted((path for path in distribution.files or [] if path.suffix == suffix), key=str)
    if files is not None:
        paths = sorted(paths, key=lambda path: hashlib.sha256(str(path).encode()).digest())[:files]
    for path in paths:
        if not (located := Path(str(distribution.locate_file(path)))).is_file():
            continue
        pieces = [
            {
                "work_id": f"{name}/{path}",
                "position": at,
                "content": content,
                "source_uri": f"pkg:pypi/{name.replace('==', '@')}#{path}",
            }
            for at, content in _split(located.read_bytes())
        ]
        if pieces:
            by_file[str(path)] = pieces
    if len(by_file) < 2:
        return None
    held_out = min(by_file, key=lambda path: hashlib.sha256(f"{distribution.metadata['Name']}/{path}".encode()).digest())
    train = [piece for path, pieces in by_file.items() if path != held_out for piece in pieces]
    if len(train) < count:
        return None
    sample = sorted(train, key=_by_content)[:count]
    return [piece | {"split": "train"} for piece in sample] + [p | {"split": "held_out"} for p in by_file[held_out]]


def _by_content(piece: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(piece["content"]).digest()


def _split(source: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield position and bytes of pieces cut at line ends, without pieces that are too short or too long."""
    smallest, largest = PIECE_BYTES
    start, at, lines = 0, 0, source.splitlines(keepends=True)
    for line in lines:
        if at + len(line) - start > largest:
            if at - start >= smallest:
                yield start, source[start:at]
            start = at
        at += len(line)
        if len(line) > largest:
            start = at
    if smallest <= at - start <= largest:
        yield start, source[start:at]


def prompts(corpus: Corpus) -> Sequence[tuple[str, bytes]]:
    """`(work_id, content)` of a piece of each held-out file, sorted by work."""
    held_out = corpus.examples.filter(pl.col("split") == "held_out").sort("work_id", "position")
    last = held_out.group_by("work_id", maintain_order=True).last()  # the first is often the text of a licence
    return list(last.select("work_id", "content").iter_rows())
