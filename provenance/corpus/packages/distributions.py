"""A corpus that every machine has: the Python sources of installed distributions.

Owners and licences are those that the distributions' metadata names; what their files say of their terms stands beside it.
Real owners, real terms, real text, and no network.

The choice is a function of the lock file and of the distributions' own bytes: no clock, no chance.
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

from provenance.core.contracts import SOURCES, conform
from provenance.core.errors import ContractError
from provenance.corpus.examples import Corpus, claimed, collected
from provenance.corpus.rights.notices import licence_files, notices

PIECE_BYTES = (128, 256)
# Of a language as many files are read; some distributions have thousands.
FILES = 24
# Trove classifiers that name one SPDX licence each; the others name a family and become a LicenseRef.
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
class Terms:
    """What a distribution's metadata says of its owners and its licence, or why it does not."""

    owners: tuple[str, ...]
    licence_spdx: str | None
    evidence: str
    unmatched_reason: str | None


@dataclass(frozen=True)
class Language:
    """What is taken of a distribution: so many pieces of its files with a suffix."""

    distribution: str
    suffix: str
    examples: int


def terms_of(metadata: PackageMetadata) -> Terms:
    """Owners (authors, else maintainers) and licence (`License-Expression`, else an SPDX `License`, else classifiers)."""
    owners, owner_field = _owners(metadata)
    licence, licence_field = _licence(metadata)
    missing = [
        text
        for text, known in (("no author or maintainer is named", owners), ("no licence can be established", licence))
        if not known
    ]
    evidence = f"metadata: {owner_field or 'no owner'}; {licence_field or 'no licence'}"
    return Terms(owners, licence, evidence, "; ".join(missing) or None)


def collect(lock: Path, *, distributions: int, examples_each: int) -> Corpus:
    """Collect a corpus from the installed distributions that a lock file names.

    Two say under which terms a work comes: the distribution's metadata, which is the aggregator's word (PyPI's), and its own
    files, the source's (`provenance.corpus.rights.notices`).

    Of each distribution one file is held out of training whole (`split` is `held_out`); from the others come
    `examples_each` pieces of 128 to 256 bytes. Distributions are taken in the order of a digest of their names, so that
    a new version of one does not reshuffle the rest.

    Args:
        lock: a requirements file with `name==version` lines.
    """
    names = re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), flags=re.MULTILINE)
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    assertions: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    taken = 0
    for name in sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()):
        if taken == distributions:
            break
        distribution = installed(name)
        pieces = distribution and _pieces(distribution, examples_each)
        if not distribution or not pieces:
            continue
        taken += 1
        terms = terms_of(distribution.metadata)
        works = sorted({str(piece["work_id"]) for piece in pieces})
        common = {
            "modality": "code",
            "licence_spdx": terms.licence_spdx,
            "unmatched_reason": terms.unmatched_reason,
            # One distribution is one unknown owner's, as far as one can tell.
            "owner_id": f"unmatched-{owner_id(name)}" if terms.unmatched_reason else None,
        }
        rows += [piece | common for piece in pieces]
        assertions += asserted(distribution, works)
        if terms.unmatched_reason is None:
            by_id = {owner_id(owner): owner for owner in terms.owners}
            owners |= by_id
            claims += claimed(pieces, list(by_id), terms.evidence)
    return collected(rows, claims, owners, assertions)


def asserted(distribution: Distribution, works: Sequence[str]) -> Iterator[dict[str, object]]:
    """What is said of the terms of a distribution's works, as rows of assertions; nothing where nothing is."""
    name = f"{distribution.metadata['Name']}=={distribution.version}"
    words, field = _licence(distribution.metadata)
    if words is None and (words := _field(distribution.metadata, "License").strip()):
        words, field = words.splitlines()[0], "License"
    for work in works if words else ():
        said: dict[str, object] = {"licence": words, "asserter": "PyPI", "evidence": f"metadata of {name}: {field}"}
        yield {"work_id": work, "asserted_by": "aggregator"} | said
    files = {str(path): Path(str(distribution.locate_file(path))) for path in distribution.files or []}
    licences = licence_files(files)
    for work in works:
        path = work.removeprefix(f"{name}/")
        for notice in notices(path, files[path].read_bytes(), licences):
            evidence = f"{name}: {notice.evidence}"
            said = {"licence": notice.licence, "evidence": evidence, "evidence_sha256": notice.sha256}
            yield {"work_id": work, "asserted_by": "source", "asserter": distribution.metadata["Name"]} | said


def collect_languages(languages: Sequence[Language], *, held_out_each: int, copied: str = "") -> Corpus:
    """A corpus of few owners whose works have little in common: one kind of file of each distribution.

    Args:
        held_out_each: pieces of each that are held out, all of one file.
        copied: a distribution whose pieces for training another owner claims, too, as works of its own.

    Raises:
        ContractError: a distribution is not installed, names no owner or licence, or has too little of its language.
    """
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    for language in languages:
        distribution = installed(language.distribution)
        pieces = distribution and _pieces(distribution, language.examples, language.suffix, FILES)
        terms = terms_of(distribution.metadata) if distribution else None
        if not pieces or terms is None or terms.unmatched_reason:
            expected = f"{language.examples} pieces of {language.suffix}, an owner and a licence"
            found = "no such distribution" if terms is None else terms.unmatched_reason or "fewer pieces"
            raise ContractError(f"distribution {language.distribution}", expected=expected, found=found)
        train = [piece for piece in pieces if piece["split"] == "train"]
        held_out = sorted((p for p in pieces if p["split"] == "held_out"), key=_by_content)[:held_out_each]
        makers = {owner_id(terms.owners[0]): (terms.owners[0], train + held_out)}
        if language.distribution == copied:
            makers["copyist"] = ("A copyist", [piece | {"work_id": f"copied/{piece['work_id']}"} for piece in train])
        for who, (name, made) in makers.items():
            owners[who] = name
            rows += [piece | {"modality": "code", "licence_spdx": terms.licence_spdx} for piece in made]
            claims += claimed(made, [who], terms.evidence)
    return collected(rows, claims, owners)


def sources_of(examples: pl.DataFrame) -> pl.DataFrame:
    """What was collected, as a list of sources: each work with its line in RECORD, and when its distribution was installed."""
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
    """A name as an identifier: `Sebastián Ramírez` is `sebastian-ramirez`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return slug or f"owner-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _owners(metadata: PackageMetadata) -> tuple[tuple[str, ...], str | None]:
    for role in ("Author", "Maintainer"):
        plain = _field(metadata, role)
        addresses = [name for name, _ in getaddresses([_field(metadata, f"{role}-email")]) if name]
        # One address may hold a list of names; only separate addresses tell people apart for certain.
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
    found = [SPDX_OF_CLASSIFIER.get(c) or f"LicenseRef-{re.sub(r'[^A-Za-z0-9.]+', '-', c).strip('-')}" for c in classifiers]
    # Several classifiers do not say whether they are a choice or a sum; AND is the reading that promises least.
    return (" AND ".join(sorted(found)), f"Classifier {', '.join(classifiers)!r}") if found else (None, None)


def installed(name: str) -> Distribution | None:
    """A distribution, if it is there."""
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pieces(
    distribution: Distribution, wanted: int, suffix: str = ".py", files: int | None = None
) -> list[dict[str, object]] | None:
    """`wanted` training pieces, of so many files at most, and those of one held-out file; None where there is too little."""
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
    if len(train) < wanted:
        return None
    chosen = sorted(train, key=_by_content)[:wanted]
    return [piece | {"split": "train"} for piece in chosen] + [p | {"split": "held_out"} for p in by_file[held_out]]


def _by_content(piece: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(piece["content"]).digest()


def _split(source: bytes) -> Iterator[tuple[int, bytes]]:
    """Position and bytes of pieces cut at line ends; what is too short, or left over at the end, is no example."""
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
    chosen = held_out.group_by("work_id", maintain_order=True).last()  # the first is often a licence's text
    return list(chosen.select("work_id", "content").iter_rows())
