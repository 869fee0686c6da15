"""A bill of materials of the training data: SPDX 2.3, one package for each work or, in large corpora, for each place.

The SPDX project's library makes and validates it. (Its support of SPDX 3, which has a profile for data sets, is experimental.)
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any
from urllib.parse import urlsplit

import polars as pl
from license_expression import ExpressionError, LicenseExpression
from packageurl import PackageURL
from spdx_tools.common.spdx_licensing import spdx_licensing
from spdx_tools.spdx import model as bom
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
from spdx_tools.spdx.validation.uri_validators import url_pattern_ignore_case
from spdx_tools.spdx.writer.json.json_writer import write_document_to_stream

from provenance.core.errors import CheckFailed
from provenance.core.store import sha256
from provenance.corpus.disclosures.facts import Facts
from provenance.corpus.disclosures.inventory import NO_ADDRESS, Inventory

# The validator and readers of the format are slow with more packages.
MOST_PACKAGES = 1_000
WHOLE = "SPDXRef-Corpus"
WORKS = "works.csv"


def bill(inventory: Inventory, facts: Facts, on: date) -> dict[str, Any]:
    """Make the SPDX document of the corpus, not validated yet."""
    rows, grouping = _packages(inventory.works)
    packages = [_package(row) for row in rows]
    whole = bom.Package(
        spdx_id=WHOLE,
        name=facts.data.name,
        version=inventory.corpus,
        download_location=bom.SpdxNoAssertion(),
        files_analyzed=False,
        license_concluded=bom.SpdxNoAssertion(),
        license_declared=bom.SpdxNoAssertion(),
        copyright_text=bom.SpdxNoAssertion(),
        summary=f"{inventory.works.height:,} works, {inventory.works['examples'].sum():,} examples",
    )
    info = bom.CreationInfo(
        spdx_version="SPDX-2.3",
        spdx_id="SPDXRef-DOCUMENT",
        name=f"{facts.data.name}-{on}",
        document_namespace=f"https://spdx.org/spdxdocs/provenance-{inventory.corpus}-{on}",
        creators=[bom.Actor(bom.ActorType.TOOL, "provenance")],
        created=datetime.combine(on, time.min),
        document_comment=grouping,
    )
    relationships = [bom.Relationship("SPDXRef-DOCUMENT", bom.RelationshipType.DESCRIBES, WHOLE)]
    relationships += [bom.Relationship(WHOLE, bom.RelationshipType.CONTAINS, package.spdx_id) for package in packages]
    terms = [text for row in rows for text in (row["licence"], row["licence_declared"]) if text]
    document = bom.Document(
        info, [whole, *packages], relationships=relationships, extracted_licensing_info=_own_licences(terms)
    )
    stream = io.StringIO()
    write_document_to_stream(document, stream, validate=False)
    written_document: dict[str, Any] = json.loads(stream.getvalue())
    return written_document


def check(document: dict[str, Any]) -> None:
    """Raise CheckFailed, with the problems, unless the SPDX library reads the document and finds it valid."""
    try:
        problems = validate_full_spdx_document(JsonLikeDictParser().parse(document), "SPDX-2.3")
    except SPDXParsingError as error:
        raise CheckFailed(f"spdx.json cannot be read: {'; '.join(error.get_messages())[:500]}") from error
    if problems:
        messages = "; ".join(problem.validation_message for problem in problems[:3])
        raise CheckFailed(f"spdx.json is not valid: {messages[:500]}")


def _packages(works: pl.DataFrame) -> tuple[list[dict[str, Any]], str]:
    """The packages, sorted, and a sentence about the grouping of works."""
    if works.height <= MOST_PACKAGES:
        by_work = works.with_columns(name=pl.coalesce("title", "work_id"), works=pl.lit(1), key=pl.col("work_id"))
        return _package_rows(by_work), f"A package for each of {works.height:,} works. {WORKS} has the same as a table."
    terms = ("licence", "licence_declared", "licence_class", "asserted_by")
    grouped = _group(works, ("place", *terms)).with_columns(
        name="place", source_uri=pl.when(pl.col("place").str.starts_with("pkg:")).then("place"), key=_key("place", *terms)
    )
    grouping = f"{works.height:,} works are grouped by where they were collected and by their terms. {WORKS} has every work."
    if grouped.height <= MOST_PACKAGES:
        return _package_rows(grouped), grouping
    ordered = grouped.sort(pl.col("words"), pl.col("key"), descending=[True, False])
    rest = _group(ordered.tail(-MOST_PACKAGES), ("licence_class",), count="works").with_columns(
        name=pl.lit("all others, ") + pl.col("licence_class"),
        source_uri=pl.lit(None, pl.String),
        licence=pl.lit(None, pl.String),
        licence_declared=pl.lit(None, pl.String),
        asserted_by=pl.lit(""),
        key=_key("licence_class"),
    )
    groups = pl.concat([ordered.head(MOST_PACKAGES), rest], how="diagonal")
    remaining = grouped.height - MOST_PACKAGES
    cut = f"The {MOST_PACKAGES:,} groups with most words are listed; the other {remaining:,} are put together"
    return _package_rows(groups), f"{grouping} {cut} by class of licence, without their terms."


def _group(works: pl.DataFrame, by: Sequence[str], *, count: str | None = None) -> pl.DataFrame:
    no_owners = pl.lit(None, pl.String).alias("owners")
    size = pl.len().cast(pl.Int64) if count is None else pl.col(count).sum()
    return works.group_by(*by).agg(pl.col("examples", "words").sum(), works=size).with_columns(no_owners, conflict=pl.lit(""))


def _key(*names: str) -> pl.Expr:
    return pl.concat_str([pl.col(name).fill_null("") for name in names], separator="\n")


def _package_rows(packages: pl.DataFrame) -> list[dict[str, Any]]:
    names = ("key", "name", "source_uri", "licence", "licence_declared", "licence_class", "asserted_by", "conflict", "owners")
    return packages.select(*names, "works", "examples", "words").sort("key").to_dicts()


def _package(row: dict[str, Any]) -> bom.Package:
    comments = [f"{row['works']:,} works, {row['examples']:,} examples, {row['words']:,} words, patches or events."]
    comments += [f"Licence class: {row['licence_class']}."]
    comments += [f"Terms on the word of: {row['asserted_by']}."] if row["asserted_by"] else []
    unread = sorted({text for text in (row["licence"], row["licence_declared"]) if text and _expression(text) is None})
    licence_comments = [f"Terms as they came: {text}" for text in unread] + ([row["conflict"]] if row["conflict"] else [])
    return bom.Package(
        spdx_id=f"SPDXRef-{sha256(row['key'].encode())[:32]}",
        name=row["name"],
        download_location=_location(row["source_uri"]),
        files_analyzed=False,
        license_concluded=_terms(row["licence"]),
        license_declared=_terms(row["licence_declared"]),
        license_comment="\n".join(licence_comments) or None,
        copyright_text=bom.SpdxNoAssertion(),
        source_info=row["source_uri"],
        comment=" ".join(comments),
        external_references=_references(row["source_uri"]),
        attribution_texts=[f"Owners: {row['owners']}"] if row["owners"] else [],
    )


def _terms(text: str | None) -> LicenseExpression | bom.SpdxNoAssertion:
    parsed = _expression(text) if text else None
    return bom.SpdxNoAssertion() if parsed is None else parsed


@functools.cache
def _expression(text: str) -> LicenseExpression | None:
    """Parse an expression of SPDX ids and `LicenseRef-` ids; None for other words."""
    try:
        parsed = spdx_licensing.parse(text)
        unknown = spdx_licensing.validate(text).invalid_symbols
    except ExpressionError:
        return None
    return parsed if all(_is_own(symbol) for symbol in unknown) else None


def _is_own(symbol: str) -> bool:
    return re.fullmatch("LicenseRef-[A-Za-z0-9.-]+", symbol) is not None


def _own_licences(terms: Sequence[str]) -> list[bom.ExtractedLicensingInfo]:
    expressions = (parsed for text in set(terms) if (parsed := _expression(text)) is not None)
    names = sorted({symbol for parsed in expressions for symbol in map(str, parsed.symbols) if _is_own(symbol)})
    return [
        bom.ExtractedLicensingInfo(name, f"{name}: terms of their own; their text is not part of this document")
        for name in names
    ]


def _location(uri: str | None) -> str | bom.SpdxNoAssertion:
    """The address for downloads, if it is one for SPDX."""
    try:
        parts = urlsplit(uri or "")
    except ValueError:
        return bom.SpdxNoAssertion()
    if not uri or parts.scheme not in {"http", "https"} or not (uri.isascii() and uri.isprintable()) or " " in uri:
        return bom.SpdxNoAssertion()
    return uri if url_pattern_ignore_case.match(uri) else bom.SpdxNoAssertion()


def _references(uri: str | None) -> list[bom.ExternalPackageRef]:
    if uri is None or uri == NO_ADDRESS or not uri.startswith("pkg:"):
        return []
    try:
        locator = PackageURL.from_string(uri).to_string()
    except ValueError:
        return []
    return [bom.ExternalPackageRef(bom.ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", locator)]
