"""Describe the corpus for catalogues of data sets: Croissant 1.1, with its fields on responsible AI.

MLCommons' own library makes and validates the description.
"""

from __future__ import annotations

import json
import warnings
from datetime import date, datetime, time
from typing import Any

import mlcroissant as mlc
import polars as pl

from provenance.core.errors import CheckFailed
from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts
from provenance.corpus.disclosures.inventory import Inventory
from provenance.corpus.shards import FrozenCorpus, Part

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PARQUET = "application/x-parquet"  # as the library spells it
# The library takes seconds for a thousand files, and its time grows faster than their number.
MOST_FILES = 500
MOST_LICENCES = 50
_TYPES = {"text": mlc.DataType.TEXT, "integer": mlc.DataType.INTEGER, "time": mlc.DataType.DATE}
# Columns of frozen examples: type and meaning. The content is left out: its bytes have no common format.
FIELDS = {
    "example_id": ("text", "the example"),
    "work_id": ("text", "the work that it is a piece of"),
    "content_sha256": ("text", "SHA-256 of the content"),
    "position": ("integer", "where in its work it stands"),
    "modality": ("text", "text, code, image or music"),
    "source_uri": ("text", "where the work was collected"),
    "acquired_at": ("time", "when it was collected"),
    "licence_spdx": ("text", "SPDX expression of the terms it came under"),
    "tokens": ("integer", "how many words, patches or events it has"),
}


def description(frozen: FrozenCorpus, inventory: Inventory, facts: Facts, on: date) -> dict[str, Any]:
    """Describe the corpus as JSON-LD, not validated yet.

    Paths of files start at the store's root or, for a public data set, at its address.
    """
    context = mlc.Context(conforms_to=CONFORMS_TO)
    shards = frozen.shards[:MOST_FILES]
    parts = {f"examples-{number:05d}": part for number, part in enumerate(shards)}
    parts |= {"claims": frozen.claims, "unmatched": frozen.unmatched}
    files = [_file(context, part, facts, name) for name, part in parts.items()]
    examples = mlc.FileSet(
        ctx=context,
        id="examples-files",
        name="examples-files",
        description="All shards of the training examples; a file's name is its SHA-256.",
        includes=[part.key for part in frozen.shards],
        encoding_formats=[PARQUET],
    )
    works, span = inventory.works, counts.collection_span(inventory.works)
    metadata = mlc.Metadata(
        ctx=context,
        name=facts.data.name,
        description=_summary(inventory, len(shards), len(frozen.shards)),
        version="1.0.0",
        date_published=datetime.combine(on, time.min),
        license=_licences(inventory),
        url=facts.data.url if facts.data.public else f"urn:sha256:{inventory.corpus}",
        cite_as=f"{facts.provider.name or facts.data.name}: {facts.data.name}, corpus {inventory.corpus}, {on}.",
        creators=[mlc.Organization(ctx=context, name=facts.provider.name)] if facts.provider.name else [],
        distribution=[*files, examples],
        record_sets=[_records(context)],
        data_collection=facts.processing.collection,
        data_collection_type=sorted({source.kind for source in facts.sources if source.name in set(works["source"])}) or None,
        data_collection_timeframe=[*span] if span else None,
        data_collection_missing_data=_missing(inventory),
        data_preprocessing_protocol=[facts.processing.governance] if facts.processing.governance else None,
        data_limitations=list(facts.data.limitations) or None,
        data_use_cases=list(facts.data.uses) or None,
        personal_sensitive_information=_personal(facts),
    )
    document: dict[str, Any] = json.loads(json.dumps(metadata.to_json(), default=str))
    return document


def check(document: dict[str, Any]) -> None:
    """Raise CheckFailed unless MLCommons' library reads the description without errors or warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # mlcroissant uses rdflib in a deprecated way
        try:
            read = mlc.Dataset(jsonld=document)
        except (mlc.ValidationError, ValueError) as error:
            raise CheckFailed(f"croissant.json is not valid: {str(error)[:500]}") from error
    if issues := [*read.metadata.ctx.issues.errors, *read.metadata.ctx.issues.warnings]:
        raise CheckFailed(f"croissant.json is not as it should be: {'; '.join(sorted(map(str, issues)))[:500]}")


def _file(context: mlc.Context, part: Part, facts: Facts, name: str) -> mlc.FileObject:
    root = f"{facts.data.url.rstrip('/')}/" if facts.data.public and facts.data.url else ""
    return mlc.FileObject(
        ctx=context,
        id=name,
        name=f"{name}.parquet",
        description=f"{part.rows:,} rows",
        content_url=f"{root}{part.key}",
        encoding_formats=[PARQUET],
        sha256=part.sha256,
    )


def _records(context: mlc.Context) -> mlc.RecordSet:
    fields = [
        mlc.Field(
            ctx=context,
            id=f"examples/{name}",
            name=name,
            description=meaning,
            data_types=[_TYPES[kind]],
            source=mlc.Source(ctx=context, file_set="examples-files", extract=mlc.Extract(ctx=context, column=name)),
        )
        for name, (kind, meaning) in FIELDS.items()
    ]
    return mlc.RecordSet(
        ctx=context,
        id="examples",
        name="examples",
        description="What the model was trained on, an example each.",
        key="examples/example_id",
        fields=fields,
    )


def _summary(inventory: Inventory, listed_files: int, files: int) -> str:
    sizes = ", ".join(
        f"{words:,} {counts.UNITS[m]} of {m}" if m in counts.UNITS else f"{examples:,} {counts.OTHER_UNITS} of {m}"
        for m, _, examples, words in inventory.sizes.iter_rows()
    )
    works = f"{inventory.works.height:,} works, {inventory.works['examples'].sum():,} examples: {sizes}."
    licences = inventory.works["licence"].n_unique()
    notes = [f"Of {files:,} files with examples the first {listed_files:,} are listed."] if listed_files < files else []
    notes += [f"Of {licences:,} licences the {MOST_LICENCES} most frequent are listed."] if licences > MOST_LICENCES else []
    return " ".join((f"Training corpus of a generative model, frozen as {inventory.corpus}. {works}", *notes))


def _licences(inventory: Inventory) -> list[str]:
    """Licences by number of works: an address for a single id, else the expression."""
    counts_of = inventory.works.filter(pl.col("licence").is_not_null()).group_by("licence").len()
    licences = counts_of.sort(pl.col("len"), pl.col("licence"), descending=[True, False]).head(MOST_LICENCES)["licence"]
    plain = licences.str.contains(r"^[A-Za-z0-9.-]+$") & ~licences.str.starts_with("LicenseRef-")
    texts = [f"https://spdx.org/licenses/{name}" if simple else name for name, simple in zip(licences, plain, strict=True)]
    return texts or ["NOASSERTION"]


def _missing(inventory: Inventory) -> str:
    works = inventory.works
    address, licence, day = (f"{works[name].null_count():,}" for name in ("source_uri", "licence", "last_acquired"))
    counts_text = f"{address} works have no address, {licence} works have no licence; {day} have no date of collection."
    return f"Of {works.height:,} works: {counts_text}"


def _personal(facts: Facts) -> list[str] | None:
    statements: dict[bool | None, str] = {
        True: "It has personal data.",
        False: "It has no personal data, by the word of its provider.",
    }
    texts = (statements.get(facts.processing.personal_data), facts.processing.personal_data_measures)
    return [text for text in texts if text] or None
