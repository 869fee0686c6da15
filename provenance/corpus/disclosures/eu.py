"""The public summary of training content that Article 53(1)(d) of the AI Act asks of providers of general-purpose models.

Sections, their numbers and questions follow the European Commission's template of 24 July 2025. What the tables know is
filled in, what only the provider knows comes from the facts, and what nobody has said is marked and listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from provenance.core.errors import InputError
from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.forms import Answer, Form, Question, Section, Table, fill

if TYPE_CHECKING:
    from datetime import date

    from provenance.corpus.disclosures.facts import Facts
    from provenance.corpus.disclosures.inventory import Inventory

# Publicly available datasets of at least this part of all of them, in any modality, are listed one by one.
LARGE = 0.03
MILLION, BILLION = 10**6, 10**9
TRILLION = 10**12
_COMMENTS = "Additional comments (optional)"
_MODALITIES = "If yes, specify the modality(ies) of the content covered"

FORM = Form(
    "eu",
    "Public Summary of Training Content for general-purpose AI models",
    "Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act); template of the European Commission of 24 July 2025",
    (
        Section("1", "General information"),
        Section(
            "1.1",
            "Provider identification",
            (
                Question("provider", "Provider name and contact details", fact="provider.name, provider.contact"),
                Question(
                    "representative", "Authorised representative name and contact details", fact="provider.representative"
                ),
            ),
        ),
        Section(
            "1.2",
            "Model identification",
            (
                Question("models", "Versioned model name(s)", "list", "model.names"),
                Question("dependencies", "Model dependencies", fact="model.dependencies"),
                Question("placed_on", "Date of placement of the model on the Union market", "date", "model.placed_on"),
            ),
        ),
        Section(
            "1.3",
            "Modalities, overall training data size and other characteristics",
            (
                Question("sizes", "Modality and training data size", "table"),
                Question("content", "Types of content", "list", "model.content"),
                Question(
                    "latest", "Latest date of data acquisition/collection for model training", fact="model.collected_until"
                ),
                Question(
                    "continuous",
                    "Is the model continuously trained on new/dynamic data after this date?",
                    "yes_no",
                    "model.continuous",
                ),
                Question(
                    "languages",
                    "Description of the linguistic characteristics of the overall training data",
                    fact="model.languages",
                ),
                Question(
                    "characteristics",
                    "Other relevant characteristics of the overall training data",
                    fact="model.characteristics",
                    optional=True,
                ),
                Question("size_comments", _COMMENTS, optional=True),
            ),
        ),
        Section("2", "List of data sources"),
        Section(
            "2.1",
            "Publicly available datasets",
            (
                Question("public", "Have you used publicly available datasets to train the model?", "yes_no", "sources"),
                Question("public_modalities", _MODALITIES, "list", when=("public",)),
                Question("public_large", "List of large publicly available datasets", "table", when=("public",)),
                Question(
                    "public_other",
                    "General description of other publicly available datasets not listed above",
                    fact="sources.description",
                    when=("public",),
                ),
            ),
        ),
        Section("2.2", "Private non-publicly available datasets obtained from third parties"),
        Section(
            "2.2.1",
            "Datasets commercially licensed by rightsholders or their representatives",
            (
                Question(
                    "licensed",
                    "Have you concluded transactional commercial licensing agreement(s) with rightsholder(s) or with their "
                    "representatives?",
                    "yes_no",
                    "sources",
                ),
                Question("licensed_modalities", _MODALITIES, "list", when=("licensed",)),
            ),
        ),
        Section(
            "2.2.2",
            "Private datasets obtained from other third parties",
            (
                Question(
                    "private",
                    "Have you obtained private datasets from third parties that are not licensed as described in Section "
                    "2.2.1, such as data obtained from providers of private databases, or data intermediaries?",
                    "yes_no",
                    "sources",
                ),
                Question("private_modalities", _MODALITIES, "list", when=("private",)),
                Question(
                    "private_list",
                    "If publicly known, list private datasets from other third parties",
                    "table",
                    when=("private",),
                ),
                Question(
                    "private_description",
                    "General description of non-publicly known private datasets obtained from third parties",
                    fact="sources.description",
                    when=("private",),
                ),
            ),
        ),
        Section(
            "2.3",
            "Data crawled and scraped from online sources",
            (
                Question("crawled", "Were crawlers used by the provider or on behalf of?", "yes_no", "sources"),
                Question("crawlers", "Crawler name(s)/identifier(s)", "list", "crawling.names", when=("crawled",)),
                Question("crawler_purposes", "Purposes of the crawler(s)", fact="crawling.purposes", when=("crawled",)),
                Question(
                    "crawler_behaviour",
                    "General description of crawler behaviour",
                    fact="crawling.behaviour",
                    when=("crawled",),
                ),
                Question("crawled_period", "Period of data collection", fact="crawling.period", when=("crawled",)),
                Question(
                    "crawled_content",
                    "Comprehensive description of the type of content and online sources crawled",
                    fact="crawling.content",
                    when=("crawled",),
                ),
                Question("crawled_modalities", "Type of modality covered", "list", when=("crawled",)),
                Question("crawled_domains", "Summary of the most relevant domain names crawled", "table", when=("crawled",)),
            ),
        ),
        Section(
            "2.4",
            "User data",
            (
                Question(
                    "interactions",
                    "Was data from user interactions with the AI model (e.g. user input and prompts) used to train the model?",
                    "yes_no",
                    "user_data.interactions",
                ),
                Question(
                    "services",
                    "Was data collected from user interactions with the provider's other services or products used to train "
                    "the model?",
                    "yes_no",
                    "user_data.services",
                ),
                Question("user_data", "Works of the corpus that come from users (counted)", "table", optional=True),
                Question(
                    "user_description",
                    "If yes, provide a general description of the provider's services or products that were used to collect "
                    "the user data",
                    fact="user_data.description",
                    when=("interactions", "services"),
                ),
            ),
        ),
        Section(
            "2.5",
            "Synthetic data",
            (
                Question(
                    "synthetic",
                    "Was synthetic AI-generated data created by the provider or on their behalf to train the model?",
                    "yes_no",
                    "sources",
                ),
                Question("synthetic_modalities", "If yes, modality of the synthetic data", "list", when=("synthetic",)),
                Question(
                    "synthetic_models",
                    "General-purpose AI model(s) used to generate the synthetic data, if available on the market",
                    "list",
                    "synthetic.models",
                    when=("synthetic",),
                ),
                Question(
                    "synthetic_others",
                    "Information about other AI models, including the provider's own, used to generate synthetic data",
                    fact="synthetic.other_models",
                    optional=True,
                    when=("synthetic",),
                ),
            ),
        ),
        Section(
            "2.6",
            "Other sources of data",
            (
                Question(
                    "other",
                    "Have data sources other than those described in Sections 2.1 to 2.5 been used to train the model?",
                    "yes_no",
                    "sources",
                ),
                Question(
                    "other_description",
                    "If yes, provide a narrative description of these data sources and the data",
                    fact="sources.description",
                    when=("other",),
                ),
            ),
        ),
        Section("3", "Data processing aspects"),
        Section(
            "3.1",
            "Respect of reservation of rights from text and data mining exception or limitation",
            (
                Question(
                    "code_of_practice",
                    "Are you a Signatory to the Code of Practice for general-purpose AI models that includes commitments to "
                    "respect reservations of rights from the TDM exception or limitation?",
                    "yes_no",
                    "processing.code_of_practice",
                ),
                Question(
                    "reservations",
                    "Describe the measures implemented before model training to respect reservations of rights from the TDM "
                    "exception or limitation before and during data collection, including the opt-out protocols and solutions "
                    "honoured by the provider or, as applicable, by third parties from which datasets have been obtained",
                    fact="processing.reservations",
                ),
                Question("signals", "Signals that were read (counted)", "table"),
                Question("optouts", "Opt-outs in force (counted)", "table"),
                Question("clearance", "Works that the training of a model to come may use (counted)", "table"),
            ),
        ),
        Section(
            "3.2",
            "Removal of illegal content",
            (Question("illegal_content", "General description of measures taken", fact="processing.illegal_content"),),
        ),
        Section(
            "3.3",
            "Other information (optional)",
            (Question("other_information", "Other relevant information about data processing (optional)", optional=True),),
        ),
    ),
)

_SIZES = (
    ("Text", ("text", "code"), "words", (BILLION, 10 * TRILLION), ("1 billion tokens", "10 trillion tokens")),
    ("Image", ("image",), "images", (MILLION, BILLION), ("1 million images", "1 billion images")),
)


def summary(inventory: Inventory, facts: Facts, on: date) -> dict[str, Any]:
    """The summary of a corpus as a document of `FORM`."""
    measured = dict(zip(("signals", "optouts", "clearance"), counts.measures(inventory), strict=True))
    provided = {**_provided(facts), **_users(inventory, facts), "content": _content(inventory, facts)}
    answers = {key: Answer(value, "provider") for key, value in provided.items()}
    for key, value in {**_counted(inventory, facts), **measured}.items():
        if value is not None or key not in provided:
            answers[key] = Answer(value, "tables")
    tables = (
        counts.by_source(inventory),
        counts.by_class(inventory.works),
        counts.by_licence(inventory),
        counts.by_place(inventory),
        counts.by_holder(inventory),
    )
    return fill(FORM, answers, version=facts.version, corpus=inventory.corpus, on=on, tables=tables)


def _provided(facts: Facts) -> dict[str, Any]:
    model, processing = facts.model, facts.processing
    provider = (facts.provider.name, facts.provider.contact)
    cutoff = f"Knowledge cut-off: {model.knowledge_cutoff}." if model.knowledge_cutoff else None
    return {
        "provider": "; ".join(part for part in provider if part) if all(provider) else None,
        "representative": facts.provider.representative,
        "models": model.names or None,
        "dependencies": model.dependencies,
        "placed_on": model.placed_on,
        "latest": model.collected_until,
        "continuous": model.continuous,
        "languages": model.languages,
        "characteristics": " ".join(part for part in (model.characteristics, cutoff) if part) or None,
        "private_description": _described(facts, "private"),
        "crawlers": facts.crawling.names or None,
        "crawler_purposes": facts.crawling.purposes,
        "crawler_behaviour": facts.crawling.behaviour,
        "crawled_period": facts.crawling.period,
        "crawled_content": facts.crawling.content,
        "user_description": facts.user_data.description,
        "synthetic_models": facts.synthetic.models or None,
        "synthetic_others": facts.synthetic.other_models,
        "other_description": _described(facts, "other"),
        "code_of_practice": processing.code_of_practice,
        "reservations": processing.reservations,
        "illegal_content": processing.illegal_content,
        "other_information": processing.other,
    }


def _counted(inventory: Inventory, facts: Facts) -> dict[str, Any]:
    crawled, large, span = inventory.of_kind("crawled"), _large(inventory), counts.collected(inventory.works)
    kinds = ("public", "licensed", "private", "crawled", "synthetic", "other")
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
        "user_data": _datasets(inventory, facts, "user"),
    }


def _users(inventory: Inventory, facts: Facts) -> dict[str, bool | None]:
    """What the provider says of users' data; the tables may know that there is none, and that there is some."""
    said = {"interactions": facts.user_data.interactions, "services": facts.user_data.services}
    known = inventory.used("user")
    if known and set(said.values()) == {False}:
        found = f"{inventory.of_kind('user').height:,} works from sources of kind 'user'"
        hint = "Say which of the two it was, or correct the kind in [[sources]]."
        raise InputError("facts: user_data", expected="no works of users, as both answers say", found=found, hint=hint)
    return {key: False if value is None and known is False else value for key, value in said.items()}


def _sizes(inventory: Inventory) -> Table:
    found = {row["modality"]: row for row in inventory.sizes.iter_rows(named=True)}
    rows: list[tuple[str | int, ...]] = []
    for title, modalities, unit, (small, large), (low, high) in _SIZES:
        present = [found[modality] for modality in modalities if modality in found]
        if present:
            size = sum(row["examples" if unit == "images" else "words"] for row in present)
            band = f"Less than {low}" if size < small else f"{low} to {high}" if size <= large else f"More than {high}"
            rows.append((title, band[0].upper() + band[1:], size, unit, sum(row["works"] for row in present)))
    if "music" in found:
        row = found["music"]
        rows.append(("Other: music as notes", f"{row['words']:,} events", row["words"], "events", row["works"]))
    note = "Words are counted as the corpus is cut, not as the model's tokenizer does; code counts as text."
    return Table("Modality and training data size", ("Modality", "Size", "Counted", "Unit", "Works"), tuple(rows), note)


def _content(inventory: Inventory, facts: Facts) -> list[str] | None:
    """What the provider says of each modality that there is; nothing unless all of them are described."""
    said = dict(facts.model.content)
    described = [f"{modality}: {said[modality]}" for modality in inventory.sizes["modality"] if modality in said]
    return described if len(described) == inventory.sizes.height else None


def _modalities(works: pl.DataFrame) -> list[str] | None:
    return works["modality"].str.split("+").explode().unique().sort().to_list() or None


def _large(inventory: Inventory) -> list[str]:
    """Public datasets that are large in some modality."""
    works = inventory.of_kind("public")
    found = works.group_by("modality", "source").agg(pl.col("words").sum())
    large = found.filter(pl.col("words") >= LARGE * pl.col("words").sum().over("modality"))
    return large["source"].unique().sort().to_list()


def _datasets(inventory: Inventory, facts: Facts, kind: str, names: list[str] | None = None) -> Table | None:
    works = inventory.of_kind(kind)
    if works.is_empty():
        return None
    found = works.group_by("source").agg(
        modalities=pl.col("modality").str.split("+").explode().unique().sort().str.join(", "),
        works=pl.len(),
        words=pl.col("words").sum(),
        since=pl.col("first_acquired").min().dt.strftime("%m/%Y"),
        until=pl.col("last_acquired").max().dt.strftime("%m/%Y"),
    )
    by_name = {row["source"]: row for row in found.iter_rows(named=True)}
    rows = tuple(
        (
            source.name,
            source.link,
            source.description,
            row["modalities"],
            row["works"],
            row["words"],
            row["since"],
            row["until"],
        )
        for source in facts.sources
        if (row := by_name.get(source.name)) and (names is None or source.name in names)
    )
    columns = ("Dataset", "Link", "Description", "Modalities", "Works", "Words, patches or events", "Collected from", "to")
    return Table("Datasets", columns, rows)


def _small(inventory: Inventory, facts: Facts, large: list[str]) -> str | None:
    """What the provider says of the public datasets that are not large; nothing if one of them has no description."""
    used = set(inventory.of_kind("public")["source"])
    if not used:
        return None
    small = [source for source in facts.sources if source.name in used and source.name not in large]
    if any(source.description is None for source in small):
        return None
    return " ".join(f"{source.name}: {source.description}" for source in small) or "There are none."


def _described(facts: Facts, kind: str) -> str | None:
    """The descriptions of all sources of a kind; nothing if one of them has none."""
    found = [source for source in facts.sources if source.kind == kind]
    if any(source.description is None for source in found):
        return None
    return " ".join(f"{source.name}: {source.description}" for source in found) or None


def _period(works: pl.DataFrame) -> str | None:
    span = counts.collected(works)
    return f"{span[0]:%m/%Y} to {span[1]:%m/%Y}" if span else None
