"""What two bills before the Congress of the United States would ask of who trains a model.

The Generative AI Copyright Disclosure Act (H.R. 7913, 118th Congress) asks for a notice to the Register of Copyrights, 30
days before consumers get the model; the AI Foundation Model Transparency Act (H.R. 8094, 119th) for public information, which
regulations would then detail. Neither was law when this was written. Questions are in the words of the bills, shortened.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.forms import Answer, Form, Question, Section, Table, fill

if TYPE_CHECKING:
    from datetime import date

    from provenance.corpus.disclosures.facts import Facts
    from provenance.corpus.disclosures.inventory import Inventory

# Days before the release by which the notice must be there.
AHEAD = timedelta(days=30)
WORKS = "us.csv"

FORM = Form(
    "us",
    "Copyrighted works in the training data, and transparency of the model",
    "Bills, not law: Generative AI Copyright Disclosure Act (H.R. 7913, 118th Congress, 2024); AI Foundation Model "
    "Transparency Act (H.R. 8094, 119th Congress, 2026)",
    (
        Section(
            "A",
            "Notice to the Register of Copyrights (Generative AI Copyright Disclosure Act)",
            (
                Question("provider", "Who creates or alters the training dataset", fact="provider.name, provider.contact"),
                Question("models", "The generative AI system", "list", "model.names"),
                Question("released_on", "When it is made available to consumers", "date", "model.released_on"),
                Question("file_by", "Last day to file the notice: 30 days before that", "date", "model.released_on"),
                Question("dataset", "The training dataset", fact="data.name"),
                Question("public", "Is the dataset publicly available on the internet?", "yes_no", "data.public"),
                Question("url", "The URL for the dataset", fact="data.url", when=("public",)),
                Question("copyrighted", "Summary of the copyrighted works used", "table"),
                Question("works", "The copyrighted works used, one by one", fact=WORKS),
            ),
        ),
        Section(
            "B",
            "Public information (AI Foundation Model Transparency Act)",
            (
                Question("sources", "Sources of training data", "table"),
                Question("collection", "How training data is collected", fact="processing.collection"),
                Question(
                    "inference", "Whether and how data is collected and retained during inference", fact="processing.inference"
                ),
                Question("size", "Size and composition of the training data", "table"),
                Question("collected", "When it was collected", optional=True),
                Question("licences", "Licences of the training data", "table"),
                Question("demographics", "Demographic information in it", fact="processing.demographics"),
                Question("languages", "Languages of it, and languages supported by the model", fact="model.languages"),
                Question("personal_data", "Does it have personal data?", "yes_no", "processing.personal_data"),
                Question(
                    "personal_data_measures",
                    "What is done about personal data",
                    fact="processing.personal_data_measures",
                    when=("personal_data",),
                ),
                Question("governance", "Data governance procedures", fact="processing.governance"),
                Question("purposes", "Intended purposes, foreseen limitations and risks", fact="model.purposes"),
                Question("edits", "Past edits to the model", fact="model.edits"),
                Question("version", "Version and date of release", fact="model.version, model.released_on"),
                Question("cutoff", "Knowledge cutoff date of the training data", fact="model.knowledge_cutoff"),
                Question("incidents", "Monitoring of and response to adverse incidents", fact="model.incidents"),
                Question("frameworks", "Efforts to align the model with standards and frameworks", fact="model.frameworks"),
                Question("evaluation", "Performance under evaluation, and precautions", fact="model.evaluation"),
                Question("compute", "Computational power used to train and operate the model", fact="model.compute"),
            ),
        ),
    ),
)


def notice(inventory: Inventory, facts: Facts, on: date, *, works_sha256: str) -> dict[str, Any]:
    """The notice on a corpus as a document of `FORM`.

    Args:
        works_sha256: of the file that lists the works (`WORKS`).
    """
    model, processing = facts.model, facts.processing
    who = (facts.provider.name, facts.provider.contact)
    listed, span = inventory.copyrighted, counts.collected(inventory.works)
    provided = {
        "provider": "; ".join(part for part in who if part) if all(who) else None,
        "models": model.names or None,
        "released_on": model.released_on,
        "file_by": model.released_on - AHEAD if model.released_on else None,
        "public": facts.data.public,
        "url": facts.data.url,
        "collection": processing.collection,
        "inference": processing.inference,
        "demographics": processing.demographics,
        "languages": model.languages,
        "personal_data": processing.personal_data,
        "personal_data_measures": processing.personal_data_measures,
        "governance": processing.governance,
        "purposes": model.purposes,
        "edits": model.edits,
        "version": f"{model.version}, {model.released_on}" if model.version and model.released_on else None,
        "cutoff": model.knowledge_cutoff,
        "incidents": model.incidents,
        "frameworks": model.frameworks,
        "evaluation": model.evaluation,
        "compute": model.compute,
    }
    counted: dict[str, str | Table | None] = {
        "dataset": f"{facts.data.name}, SHA-256 of its manifest {inventory.corpus}",
        "copyrighted": counts.by_class(listed, "Copyrighted works by what their terms allow", always=()),
        "works": f"{WORKS}: {listed.height:,} works, one on a line; SHA-256 {works_sha256}",
        "sources": counts.by_source(inventory),
        "size": counts.by_modality(inventory),
        "collected": f"{span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}" if span else None,
        "licences": counts.by_licence(inventory),
    }
    answers = {key: Answer(value, "provider") for key, value in provided.items()}
    answers |= {key: Answer(value, "tables") for key, value in counted.items()}
    tables = (counts.by_place(inventory), counts.by_holder(inventory))
    return fill(FORM, answers, version=facts.version, corpus=inventory.corpus, on=on, tables=tables)
