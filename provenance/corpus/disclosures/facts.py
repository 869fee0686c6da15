"""The provider's facts about a model, from a TOML file such as `infra/settings/disclosure.toml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from provenance.core.errors import InputError
from provenance.core.toml import read_toml, validated

Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]
Modality = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Kind = Literal["public", "licensed", "private", "crawled", "user", "synthetic", "other"]
# Kinds of sources, in the order of the European Union's form.
KINDS: tuple[Kind, ...] = ("public", "licensed", "private", "crawled", "user", "synthetic", "other")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Provider(_Part):
    """The provider that places the model on the market.

    Attributes:
        representative: representative in the Union; `none needed` is an answer, too.
        sme: whether it is a small or medium-sized enterprise, which must name fewer domains.
    """

    name: Text | None = None
    contact: Text | None = None
    representative: Text | None = None
    sme: Flag = False


class Model(_Part):
    """The model, or several models trained on the same corpus.

    Attributes:
        dependencies: the models it was made from, with their own summaries; `none` is an answer, too.
        content: description of the content by modality (text, code, image, music, or another word of the corpus).
        continuous: whether training continues on newer data.
        released_on: day of the release to consumers in the United States.
        collected_until: the latest date of collection, MM/YYYY, if examples have none.
    """

    names: tuple[Text, ...] = ()
    version: Text | None = None
    dependencies: Text | None = None
    placed_on: date | None = None
    released_on: date | None = None
    knowledge_cutoff: Text | None = None
    collected_until: Annotated[str, Field(pattern=r"^(0[1-9]|1[0-2])/\d{4}$")] | None = None
    continuous: Flag | None = None
    content: dict[Modality, Text] = {}
    languages: Text | None = None
    characteristics: Text | None = None
    purposes: Text | None = None
    edits: Text | None = None
    incidents: Text | None = None
    frameworks: Text | None = None
    evaluation: Text | None = None
    compute: Text | None = None


class Source(_Part):
    """A source of works, matched by the beginnings of `source_uri`; an empty beginning matches all others."""

    name: Text
    kind: Kind
    match: Annotated[tuple[str, ...], Field(min_length=1)]
    link: Text | None = None
    description: Text | None = None


class Crawling(_Part):
    """The provider's crawlers; `period` is their time of collection if examples have no dates."""

    names: tuple[Text, ...] = ()
    purposes: Text | None = None
    behaviour: Text | None = None
    period: Text | None = None
    content: Text | None = None


class UserData(_Part):
    """Users' data in the training corpus."""

    interactions: Flag | None = None
    services: Flag | None = None
    description: Text | None = None


class Synthetic(_Part):
    """Models that made synthetic data."""

    models: tuple[Text, ...] = ()
    other_models: Text | None = None


class Processing(_Part):
    """The processing of the data."""

    code_of_practice: Flag | None = None
    reservations: Text | None = None
    illegal_content: Text | None = None
    governance: Text | None = None
    collection: Text | None = None
    inference: Text | None = None
    demographics: Text | None = None
    personal_data: Flag | None = None
    personal_data_measures: Text | None = None
    other: Text | None = None


class Data(_Part):
    """The data set; `public`: whether it is available on the internet, at `url`."""

    name: Text = "training-corpus"
    public: Flag | None = None
    url: Text | None = None
    limitations: tuple[Text, ...] = ()
    uses: tuple[Text, ...] = ()


class Comments(_Part):
    """Additional comments to sections of the European Union's form, each optional."""

    public: Text | None = None
    private: Text | None = None
    crawled: Text | None = None
    user: Text | None = None
    synthetic: Text | None = None
    other: Text | None = None
    reservations: Text | None = None


class California(_Part):
    """What California asks and no other form does (Civil Code, section 3111).

    Attributes:
        purpose: how the datasets further the intended purpose of the model.
        labels: the types of labels; `none` is an answer, too.
        marks_and_patents: data protected by trademark or patent; `none known` is an answer, too.
        purchased: whether datasets were purchased or licensed, where no source is of kind `licensed`.
        collected: the time of collection, if examples have no dates.
        ongoing: whether collection goes on.
        first_used: when the datasets were first used in development.
        synthetic: whether synthetic data is used in development, where no source is of that kind.
    """

    purpose: Text | None = None
    labels: Text | None = None
    marks_and_patents: Text | None = None
    purchased: Flag | None = None
    aggregate_consumer_information: Flag | None = None
    cleaning: Text | None = None
    collected: Text | None = None
    ongoing: Flag | None = None
    first_used: Text | None = None
    synthetic: Flag | None = None
    synthetic_purpose: Text | None = None


class Facts(_Part):
    """All facts; a missing fact is reported as missing, never guessed."""

    version: Text = "1.0"
    provider: Provider = Provider()
    model: Model = Model()
    sources: tuple[Source, ...] = ()
    crawling: Crawling = Crawling()
    user_data: UserData = UserData()
    synthetic: Synthetic = Synthetic()
    processing: Processing = Processing()
    data: Data = Data()
    comments: Comments = Comments()
    california: California = California()

    def answer(self, fact: str) -> Any:
        """The facts at `part.name`, or at several such places separated by commas; None if any is missing."""
        places = (place.strip().partition(".") for place in fact.split(","))
        values = [getattr(getattr(self, part, None), name, None) for part, _, name in places]
        if any(value in (None, ()) for value in values):
            return None
        return values[0] if len(values) == 1 else "; ".join(map(str, values))


def read_facts(path: Path) -> Facts:
    """Read the facts from a TOML file."""
    facts = validated(Facts, read_toml(path, "a file of facts about the model"), str(path))
    names = [source.name for source in facts.sources]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        where = f"{path}: sources.name"
        raise InputError(where, expected="a name that no other source has", found=repr(repeated[0]))
    if facts.data.public and not facts.data.url:
        raise InputError(f"{path}: data.url", expected="where the data set can be had, since data.public is true", found="none")
    return facts
