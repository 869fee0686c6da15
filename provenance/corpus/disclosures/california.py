"""The documentation that California requires from developers of generative AI (Civil Code, section 3111; Assembly Bill 2013).

In force since 1 January 2026; posted on the developer's website before a system, or a substantial modification of it, is made
publicly available to Californians. The twelve points of its subdivision (a) are the sections of the form.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl

from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts
from provenance.corpus.disclosures.forms import Table, fill, read_form
from provenance.corpus.disclosures.inventory import Inventory

FORM = read_form("california")
PROTECTED, FREE = "protected by copyright, or not known to be free of it", "in the public domain by its terms"


def documentation(inventory: Inventory, facts: Facts, on: date) -> dict[str, Any]:
    """The documentation of a corpus as a document of `FORM`.

    Works count as protected unless their terms certainly mean the public domain. Purchases, licences and synthetic data are
    affirmed where works are of such a source, and denied only where every work belongs to another.
    """
    span, works = counts.collection_span(inventory.works), inventory.works
    protected = inventory.copyrighted.height
    answers = {
        "purchased": _first(inventory.used("licensed") or None, facts.california.purchased, inventory.used("licensed")),
        "synthetic": _first(inventory.used("synthetic") or None, facts.california.synthetic, inventory.used("synthetic")),
    }
    counted = {
        "dataset": f"{facts.data.name}, SHA-256 of its manifest {inventory.corpus}",
        "sources": counts.by_source(inventory),
        "owners": _owners(works),
        "data_points": counts.by_modality(inventory),
        "types": _types(inventory, facts),
        "protected": protected > 0,
        "public_domain": protected == 0,
        "copyright": Table("Works by protection", ("Protection", "Works"), _protection(works.height, protected)),
        "licences": counts.by_licence(inventory),
        "collected": f"{span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}" if span else None,
    }
    tables = (counts.by_class(works), counts.by_place(inventory), counts.by_holder(inventory))
    return fill(FORM, facts, answers, counted, corpus=inventory.corpus, on=on, tables=tables)


def _first(*answers: bool | None) -> bool | None:
    return next((answer for answer in answers if answer is not None), None)


def _owners(works: pl.DataFrame) -> Table:
    """The owners of most words."""
    named = works.with_columns(pl.col("owners").fill_null("not known yet"))
    return counts.count_by(named, "owners", "Works by owner", "Owners", most=counts.MOST_FREQUENT)


def _types(inventory: Inventory, facts: Facts) -> list[str]:
    """What a data point of each modality is, with the provider's description where there is one."""
    described = {str(modality): text for modality, text in facts.model.content.items()}
    return [
        f"{modality}, counted in {counts.UNITS.get(modality, counts.OTHER_UNITS)}" + (f": {text}" if text else "")
        for modality in inventory.sizes["modality"]
        for text in (described.get(modality),)
    ]


def _protection(works: int, protected: int) -> tuple[tuple[str, int], ...]:
    return ((PROTECTED, protected), (FREE, works - protected))
