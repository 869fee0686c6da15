"""The notice that two bills before the Congress of the United States would require from those who train a model.

The Generative AI Copyright Disclosure Act (H.R. 7913, 118th Congress) asks for a notice to the Register of Copyrights, 30
days before consumers get the model; the AI Foundation Model Transparency Act (H.R. 8094, 119th) for public information, which
regulations would then specify. Neither was law when this was written. Questions use the words of the bills, shortened.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts
from provenance.corpus.disclosures.forms import fill, read_form
from provenance.corpus.disclosures.inventory import Inventory

# The notice is due so many days before the release.
AHEAD = timedelta(days=30)
WORKS = "us.csv"

FORM = read_form("us")


def notice(inventory: Inventory, facts: Facts, on: date, *, works_sha256: str) -> dict[str, Any]:
    """The notice on a corpus as a document of `FORM`, with the digest of the list of works (`WORKS`)."""
    model, copyrighted, span = facts.model, inventory.copyrighted, counts.collection_span(inventory.works)
    answers = {
        "file_by": model.released_on - AHEAD if model.released_on else None,
        "version": f"{model.version}, {model.released_on}" if model.version and model.released_on else None,
    }
    counted = {
        "dataset": f"{facts.data.name}, SHA-256 of its manifest {inventory.corpus}",
        "copyrighted": counts.by_class(copyrighted, "Copyrighted works by what their terms allow", always=()),
        "works": f"{WORKS}: {copyrighted.height:,} works, one on a line; SHA-256 {works_sha256}",
        "sources": counts.by_source(inventory),
        "size": counts.by_modality(inventory),
        "collected": f"{span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}" if span else None,
        "licences": counts.by_licence(inventory),
    }
    tables = (counts.by_place(inventory), counts.by_holder(inventory))
    return fill(FORM, facts, answers, counted, corpus=inventory.corpus, on=on, tables=tables)
