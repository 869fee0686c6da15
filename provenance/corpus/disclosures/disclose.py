"""Make the disclosures of a corpus, validate them, and only then write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from provenance.core.errors import InputError
from provenance.core.store import Store, sha256, to_csv
from provenance.core.tables import OPTOUTS, SIGNALS
from provenance.core.where import Where
from provenance.corpus import records
from provenance.corpus.disclosures import california, croissant, eu, forms, page, spdx, us
from provenance.corpus.disclosures import inventory as counts
from provenance.corpus.disclosures.facts import Facts, read_facts
from provenance.corpus.disclosures.inventory import Inventory
from provenance.corpus.rights.clearance import TRAIN, make_manifest, read_rights
from provenance.corpus.rights.sources.lists import registry_in_force
from provenance.corpus.shards import FrozenCorpus, corpus_in_force, find_frozen, later_than

IN_FORCE = "in force"
INDEX = "index.html"
# Files and their descriptions, in the order of the index.
FILES = {
    "eu.html": "public summary of training content (EU, AI Act), to read",
    "eu.json": "the same for machines",
    "eu.schema.json": "its JSON schema",
    "us.html": "copyrighted works and transparency (USA, two bills), to read",
    "us.json": "the same for machines",
    "us.schema.json": "its JSON schema",
    "us.csv": "every copyrighted work",
    "california.html": "documentation of training data (California, Civil Code 3111), to read",
    "california.json": "the same for machines",
    "california.schema.json": "its JSON schema",
    "croissant.html": "the corpus as a data set, to read",
    "croissant.json": "the same for machines (Croissant 1.1)",
    "spdx.html": "bill of materials, to read",
    "spdx.json": "the same for machines (SPDX 2.3)",
    "works.csv": "every work",
}


@dataclass(frozen=True)
class Subject:
    """The corpus of a disclosure, with inventory, facts and day."""

    frozen: FrozenCorpus
    inventory: Inventory
    facts: Facts
    on: date


def disclose(
    where: Where, what: str, out: Path, *, on: date, corpus: str = IN_FORCE, facts: Path | None = None
) -> dict[str, Any]:
    """Write the disclosures of a corpus to a folder, if all of them are valid.

    Args:
        what: `eu`, `california`, `us`, `croissant`, `spdx`, `csv` or `all`.
        on: their day; later records are ignored.
        corpus: digest of a frozen corpus, or `in force`.
        facts: a TOML file of the provider's facts.

    Returns:
        `corpus, on, files` (SHA-256 by name), `missing` (by form, the answers that the provider must complete) and `facts` (by
        form and missing answer, where the facts have it).

    Raises:
        InputError: the corpus does not exist, was not in force yet, or the facts cannot be read.
        CheckFailed: a document is not valid by its schema or standard.
    """
    provider_facts = read_facts(facts) if facts else Facts()
    frozen = _corpus(where.store, corpus)
    if early := later_than(where.store, frozen.digest, on):  # the document would not tell
        raise InputError("--on", expected="a day on which the corpus was in force", found=str(on), hint=early)
    subject = Subject(frozen, _inventory(where, frozen, provider_facts, on), provider_facts, on)
    missing: dict[str, list[str]] = {}
    places: dict[str, dict[str, str]] = {}
    files: dict[str, bytes] = {}
    for name in MAKERS if what == "all" else (what,):
        files.update(MAKERS[name](subject))
        if f"{name}.schema.json" in files:
            document = json.loads(files[f"{name}.json"])
            missing[name] = document["missing"]
            places[name] = forms.missing_facts(FORMS[name], document)
    if what == "all":
        files[INDEX] = page.index_page(
            [(name, text) for name, text in FILES.items() if name in files], subject.inventory, on.isoformat()
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}", expected="a folder, or a place for one", found=str(error.strerror)) from error
    for name, data in files.items():
        (out / name).write_bytes(data)
    digests = {name: sha256(data) for name, data in sorted(files.items())}
    return {"corpus": subject.inventory.corpus, "on": on.isoformat(), "files": digests, "missing": missing, "facts": places}


def _eu(subject: Subject) -> Iterator[tuple[str, bytes]]:
    document = eu.summary(subject.inventory, subject.facts, subject.on)
    yield from _form(eu.FORM, document, subject.inventory)


def _california(subject: Subject) -> Iterator[tuple[str, bytes]]:
    document = california.documentation(subject.inventory, subject.facts, subject.on)
    yield from _form(california.FORM, document, subject.inventory)


def _us(subject: Subject) -> Iterator[tuple[str, bytes]]:
    works = to_csv(counts.works_table(subject.inventory.copyrighted))
    document = us.notice(subject.inventory, subject.facts, subject.on, works_sha256=sha256(works))
    yield from _form(us.FORM, document, subject.inventory)
    yield us.WORKS, works


def _croissant(subject: Subject) -> Iterator[tuple[str, bytes]]:
    document = croissant.description(subject.frozen, subject.inventory, subject.facts, subject.on)
    croissant.check(document)
    yield "croissant.json", _json(document)
    yield "croissant.html", page.croissant_page(document, subject.inventory, subject.on.isoformat())


def _spdx(subject: Subject) -> Iterator[tuple[str, bytes]]:
    document = spdx.bill(subject.inventory, subject.facts, subject.on)
    spdx.check(document)
    yield "spdx.json", _json(document)
    yield "spdx.html", page.spdx_page(document, subject.inventory, subject.on.isoformat())
    yield from _csv(subject)


def _csv(subject: Subject) -> Iterator[tuple[str, bytes]]:
    yield spdx.WORKS, to_csv(counts.works_table(subject.inventory.works))


FORMS = {form.name: form for form in (eu.FORM, california.FORM, us.FORM)}
MAKERS: dict[str, Callable[[Subject], Iterator[tuple[str, bytes]]]] = {
    "eu": _eu,
    "california": _california,
    "us": _us,
    "croissant": _croissant,
    "spdx": _spdx,
    "csv": _csv,
}


def _form(form: forms.Form, document: dict[str, Any], inventory: Inventory) -> Iterator[tuple[str, bytes]]:
    forms.check(form, document)
    yield f"{form.name}.json", _json(document)
    yield f"{form.name}.schema.json", _json(forms.schema(form))
    yield f"{form.name}.html", page.form_page(document, f"{form.name}.json", inventory)


def _corpus(store: Store, digest: str) -> FrozenCorpus:
    return corpus_in_force(store) if digest == IN_FORCE else find_frozen(store, digest, "--corpus")


def _inventory(where: Where, frozen: FrozenCorpus, facts: Facts, on: date) -> Inventory:
    store = where.store
    known = datetime.combine(on, time.min, UTC) + timedelta(days=1, microseconds=-1)
    return counts.take_inventory(
        (store.read_table(shard.key, columns=counts.READ) for shard in frozen.shards),
        store.read_table(frozen.claims.key),
        store.read_table(frozen.owners.key),
        facts,
        corpus=frozen.digest,
        day=on,
        rights=read_rights(store, frozen),
        registry=registry_in_force(store, known),
        signals=records.read(store, SIGNALS, known=known),
        optouts=records.read(store, OPTOUTS, known=known),
        clearance=make_manifest(where, use=TRAIN, day=on, corpus=frozen)[1],
    )


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
