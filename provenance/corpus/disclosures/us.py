"""What two bills before the Congress of the United States would ask of who trains a model.

The Generative AI Copyright Disclosure Act (H.R. 7913, 118th Congress) asks for a notice to the Register of Copyrights, 30
days before consumers get the model; the AI Foundation Model Transparency Act (H.R. 8094, 119th) for public information, which
regulations would then detail. Neither was law when this was written. Questions are in the words of the bills, shortened.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts
from provenance.corpus.disclosures.forms import fill, read_form
from provenance.corpus.disclosures.inventory import Inventory

# Days before the release by which the notice must be there.
AHEAD = timedelta(days=30)
WORKS = "us.csv"

FORM = read_form("us")


def notice(inventory: Inventory, facts: Facts, on: date, *, works_sha256: str) -> dict[str, Any]:
    """The notice on a corpus as a document of `FORM`, with the digest of the file that lists the works (`WORKS`)."""
    model, listed, span = facts.model, inventory.copyrighted, counts.collected(inventory.works)
    said = {
        "file_by": model.released_on - AHEAD if model.released_on else None,
        "version": f"{model.version}, {model.released_on}" if model.version and model.released_on else None,
    }
    counted = {
        "dataset": f"{facts.data.name}, SHA-256 of its manifest {inventory.corpus}",
        "copyrighted": counts.by_class(listed, "Copyrighted works by what their terms allow", always=()),
        "works": f"{WORKS}: {listed.height:,} works, one on a line; SHA-256 {works_sha256}",
        "sources": counts.by_source(inventory),
        "size": counts.by_modality(inventory),
        "collected": f"{span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}" if span else None,
        "licences": counts.by_licence(inventory),
    }
    tables = (counts.by_place(inventory), counts.by_holder(inventory))
    return fill(FORM, facts, said, counted, corpus=inventory.corpus, on=on, tables=tables)
