"""The public summary of training content required by Article 53(1)(d) of the AI Act from providers of general-purpose models.

Sections, numbers and questions follow the European Commission's template, C(2025) 8311 of 5 December 2025. Answers come from
the tables, else from the provider's facts; missing answers are marked and listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any

import polars as pl

from provenance.core.errors import InputError
from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts, Source
from provenance.corpus.disclosures.forms import Table, fill, read_form
from provenance.corpus.disclosures.inventory import Inventory

# Publicly available datasets with at least this part of all public words, in any modality, are listed one by one.
LARGE = 0.03
MILLION, BILLION = 10**6, 10**9
TRILLION = 10**12

FORM = read_form("eu")
_SIZES = (
    ("Text", ("text", "code"), "words", (BILLION, 10 * TRILLION), ("1 billion tokens", "10 trillion tokens")),
    ("Image", ("image",), "images", (MILLION, BILLION), ("1 million images", "1 billion images")),
)


def summary(inventory: Inventory, facts: Facts, on: date) -> dict[str, Any]:
    """The summary of a corpus as a document of `FORM`."""
    cutoff = f"Knowledge cut-off: {facts.model.knowledge_cutoff}." if facts.model.knowledge_cutoff else None
    answers = {
        **_users(inventory, facts),
        "content": _content(inventory, facts),
        "characteristics": " ".join(part for part in (facts.model.characteristics, cutoff) if part) or None,
        **{f"{kind}_description": _describe(s for s in facts.sources if s.kind == kind) for kind in ("private", "other")},
    }
    tables = (
        counts.by_source(inventory),
        counts.by_class(inventory.works),
        counts.by_licence(inventory),
        counts.by_place(inventory),
        counts.by_holder(inventory),
    )
    return fill(FORM, facts, answers, _count(inventory, facts), corpus=inventory.corpus, on=on, tables=tables)


def _count(inventory: Inventory, facts: Facts) -> dict[str, Any]:
    crawled, large, span = inventory.of_kind("crawled"), _large(inventory), counts.collection_span(inventory.works)
    kinds = ("public", "licensed", "private", "crawled", "synthetic", "other")
    of_users = _modalities(inventory.of_kind("user"))
    undated = inventory.works["last_acquired"].null_count()
    without = f"Of {undated:,} of {inventory.works.height:,} works the date is not known." if undated else None
    return {
        **{kind: inventory.used(kind) for kind in kinds},
        **{f"{kind}_modalities": _modalities(inventory.of_kind(kind)) for kind in kinds if kind != "other"},
        "sizes": _sizes(inventory),
        "latest": f"{span[1]:%m/%Y}" if span else None,
        "size_comments": without,
        "public_large": _datasets(inventory, facts, "public", large),
        "public_other": _small(inventory, facts, large),
        "private_list": _datasets(inventory, facts, "private"),
        "crawled_period": _period(crawled),
        "crawled_domains": counts.top_domains(crawled, sme=facts.provider.sme) if crawled.height else None,
        "user_modalities": of_users,
        "user_data": _datasets(inventory, facts, "user"),
        **dict(zip(("signals", "optouts", "clearance"), counts.measures(inventory), strict=True)),
    }


def _users(inventory: Inventory, facts: Facts) -> dict[str, bool | None]:
    """The provider's answers on users' data, checked against or completed from the tables."""
    answers = {"interactions": facts.user_data.interactions, "services": facts.user_data.services}
    is_used = inventory.used("user")
    if is_used and set(answers.values()) == {False}:
        works_found = f"{inventory.of_kind('user').height:,} works from sources of kind 'user'"
        hint = "Say which of the two it was, or correct the kind in [[sources]]."
        raise InputError("facts: user_data", expected="no works of users, as both answers say", found=works_found, hint=hint)
    return {key: False if value is None and is_used is False else value for key, value in answers.items()}


def _sizes(inventory: Inventory) -> Table:
    sizes = {row["modality"]: row for row in inventory.sizes.iter_rows(named=True)}
    rows: list[tuple[str | int, ...]] = []
    for title, modalities, unit, (small, large), (low, high) in _SIZES:
        present = [sizes[modality] for modality in modalities if modality in sizes]
        if present:
            size = sum(row["examples" if unit == "images" else "words"] for row in present)
            band = f"Less than {low}" if size < small else f"{low} to {high}" if size <= large else f"More than {high}"
            rows.append((title, band[0].upper() + band[1:], size, unit, sum(row["works"] for row in present)))
    if "music" in sizes:
        row = sizes["music"]
        rows.append(("Other: music as notes", f"{row['words']:,} events", row["words"], "events", row["works"]))
    for modality in sorted(sizes.keys() - counts.UNITS.keys()):
        row = sizes[modality]
        rows.append((f"Other: {modality}", f"{row['examples']:,} examples", row["examples"], "examples", row["works"]))
    note = "Words are counted as the corpus is cut, not as the model's tokenizer does; code counts as text."
    return Table("Modality and training data size", ("Modality", "Size", "Counted", "Unit", "Works"), tuple(rows), note)


def _content(inventory: Inventory, facts: Facts) -> list[str] | None:
    """The provider's descriptions of the corpus's modalities; None unless all are described."""
    descriptions = dict(facts.model.content)
    texts = [f"{modality}: {descriptions[modality]}" for modality in inventory.sizes["modality"] if modality in descriptions]
    return texts if len(texts) == inventory.sizes.height else None


def _modalities(works: pl.DataFrame) -> list[str] | None:
    return works["modality"].str.split("+").explode().unique().sort().to_list() or None


def _large(inventory: Inventory) -> list[str]:
    """Public datasets that are large in some modality."""
    works = inventory.of_kind("public")
    sizes = works.group_by("modality", "source").agg(pl.col("words").sum())
    large = sizes.filter(pl.col("words") >= LARGE * pl.col("words").sum().over("modality"))
    return large["source"].unique().sort().to_list()


def _datasets(inventory: Inventory, facts: Facts, kind: str, names: list[str] | None = None) -> Table | None:
    works = inventory.of_kind(kind)
    if works.is_empty():
        return None
    sums = works.group_by("source").agg(
        modalities=pl.col("modality").str.split("+").explode().unique().sort().str.join(", "),
        works=pl.len(),
        words=pl.col("words").sum(),
        since=pl.col("first_acquired").min().dt.strftime("%m/%Y"),
        until=pl.col("last_acquired").max().dt.strftime("%m/%Y"),
    )
    source_rows = [(s.name, s.link, s.description) for s in facts.sources if names is None or s.name in names]
    sources_table = pl.DataFrame(source_rows, schema=dict.fromkeys(("source", "link", "description"), pl.String), orient="row")
    rows = tuple(sources_table.join(sums, on="source", maintain_order="left").rows())
    columns = ("Dataset", "Link", "Description", "Modalities", "Works", "Words, patches or events", "Collected from", "to")
    return Table("Datasets", columns, rows)


def _small(inventory: Inventory, facts: Facts, large: list[str]) -> str | None:
    """The provider's descriptions of the public datasets that are not large; None if one is missing."""
    used = set(inventory.of_kind("public")["source"])
    if not used:
        return None
    small = [source for source in facts.sources if source.name in used and source.name not in large]
    return _describe(small) if small else "There are none."


def _describe(sources: Iterable[Source]) -> str | None:
    """The descriptions of sources; None without sources, or if one is missing."""
    texts = [source.description and f"{source.name}: {source.description}" for source in sources]
    return " ".join(filter(None, texts)) or None if all(texts) else None


def _period(works: pl.DataFrame) -> str | None:
    span = counts.collection_span(works)
    return f"{span[0]:%m/%Y} to {span[1]:%m/%Y}" if span else None
