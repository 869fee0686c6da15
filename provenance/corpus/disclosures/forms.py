"""Forms of laws: questions in sections, filled with answers from tables and provider.

A form is data, in a file of `templates/`. It defines the document, the JSON schema of the document, and the page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import jsonschema
from pydantic import TypeAdapter

from provenance.core.errors import CheckFailed
from provenance.corpus.disclosures.facts import Facts

TEMPLATES = Path(__file__).parent / "templates"
Kind = Literal["text", "yes_no", "list", "date", "table"]
Cell = str | int | None
ANSWERED = "answered"
TO_COMPLETE = "to be completed by the provider"
NOT_GIVEN = "not given"
NO_MATTER = "does not apply"
WAITS = "depends on an answer that is missing"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
DAY = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
WORDS = {"type": "string", "minLength": 1}
TABLE = {"$ref": "#/$defs/table"}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        fact: place of the answer in the provider's facts; empty: the tables answer it.
        optional: whether it needs no answer.
        when: keys of questions; this one applies only if one of them is answered with yes.
    """

    key: str
    text: str
    kind: Kind = "text"
    fact: str = ""
    optional: bool = False
    when: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section of a form, with its number in the form."""

    number: str
    title: str
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Form:
    """A form: `name` of its files, and as `basis` the law or bill that it follows."""

    name: str
    title: str
    basis: str
    sections: tuple[Section, ...]

    @property
    def questions(self) -> Iterator[Question]:
        """All questions, in order."""
        for section in self.sections:
            yield from section.questions


@dataclass(frozen=True)
class Table:
    """A table of texts and whole numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        """The table as JSON values."""
        return {"title": self.title, "columns": [*self.columns], "rows": [[*row] for row in self.rows], "note": self.note}


def read_form(name: str) -> Form:
    """Read a form from its file."""
    return TypeAdapter(Form).validate_python(tomllib.loads((TEMPLATES / f"{name}.toml").read_text(encoding="utf-8")))


def fill(
    form: Form,
    facts: Facts,
    stated: Mapping[str, Any],
    counted: Mapping[str, Any],
    *,
    corpus: str,
    on: date,
    tables: Sequence[Table] = (),
) -> dict[str, Any]:
    """Fill a form: a document of its answers, missing answers, and supporting tables.

    Args:
        facts: the provider's answers to questions with a `fact`.
        stated: other answers of the provider, by key.
        counted: answers from the tables, by key; they take precedence, except for None.
    """
    from_tables = {key: value for key, value in counted.items() if value is not None}
    answers = {question.key: facts.answer(question.fact) for question in form.questions} | dict(stated) | from_tables
    sections, missing = [], []
    for section in form.sections:
        rows = []
        for question in section.questions:
            status = _status(question, answers[question.key], [answers[key] for key in question.when])
            if status == TO_COMPLETE:
                missing.append(_name(section, question))
            answered = status == ANSWERED
            rows.append(
                {
                    "key": question.key,
                    "question": question.text,
                    "status": status,
                    "answer": _plain(answers[question.key]) if answered else None,
                    "said_by": ("tables" if question.key in from_tables else "provider") if answered else None,
                }
            )
        sections.append({"number": section.number, "title": section.title, "questions": rows})
    return {
        "form": form.title,
        "basis": form.basis,
        "version": facts.version,
        "last_update": on.isoformat(),
        "corpus": corpus,
        "missing": missing,
        "sections": sections,
        "tables": [table.plain for table in tables],
    }


def missing_facts(form: Form, document: Mapping[str, Any]) -> dict[str, str]:
    """The missing answers of a document, each with the places in the facts where the provider gives it."""
    places = {_name(section, question): question.fact for section in form.sections for question in section.questions}
    return {name: places[name] for name in document["missing"]}


def _name(section: Section, question: Question) -> str:
    return f"{section.number} {question.text}"


def schema(form: Form) -> dict[str, Any]:
    """The JSON schema of a form's document (draft 2020-12)."""
    sections = [
        _object(
            {
                "number": {"const": section.number},
                "title": {"const": section.title},
                "questions": _exactly([_question(question) for question in section.questions]),
            }
        )
        for section in form.sections
    ]
    properties = {
        "form": {"const": form.title},
        "basis": {"const": form.basis},
        "version": WORDS,
        "last_update": DAY,
        "corpus": SHA256,
        "missing": {"type": "array", "items": WORDS},
        "sections": _exactly(sections),
        "tables": {"type": "array", "items": TABLE},
    }
    return {"$schema": DRAFT, "title": form.title, **_object(properties), "$defs": {"table": _table()}}


def check(form: Form, document: dict[str, Any]) -> None:
    """Raise CheckFailed, with the place, unless a document is valid by its form's schema."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(form)).iter_errors(document))
    if error is not None:
        raise CheckFailed(f"{form.name}.json is not valid by its schema: {error.json_path}: {error.message[:500]}")


def _status(question: Question, answer: object, gates: Sequence[object]) -> str:
    if gates and all(gate is False for gate in gates):
        return NO_MATTER
    if answer is not None:
        return ANSWERED
    if question.optional:
        return NOT_GIVEN
    return TO_COMPLETE if not gates or any(gates) else WAITS


def _plain(value: object) -> object:
    if isinstance(value, Table):
        return value.plain
    if isinstance(value, date):
        return value.isoformat()
    return [*value] if isinstance(value, tuple) else value


def _question(question: Question) -> dict[str, Any]:
    kinds: dict[Kind, dict[str, Any]] = {
        "text": WORDS,
        "yes_no": {"type": "boolean"},
        "list": {"type": "array", "items": WORDS, "minItems": 1},
        "date": DAY,
        "table": TABLE,
    }
    without = [NOT_GIVEN if question.optional else TO_COMPLETE]
    without += [NO_MATTER] if question.when else []
    without += [WAITS] if question.when and not question.optional else []
    same = {"key": {"const": question.key}, "question": {"const": question.text}}
    return {
        "oneOf": [
            _object(
                same
                | {"status": {"const": ANSWERED}, "answer": kinds[question.kind], "said_by": {"enum": ["provider", "tables"]}}
            ),
            _object(same | {"status": {"enum": without}, "answer": {"type": "null"}, "said_by": {"type": "null"}}),
        ]
    }


def _table() -> dict[str, Any]:
    cell = {"type": ["string", "integer", "null"]}
    rows = {"type": "array", "items": {"type": "array", "items": cell}}
    return _object({"title": WORDS, "columns": {"type": "array", "items": WORDS}, "rows": rows, "note": {"type": "string"}})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _exactly(items: list[dict[str, Any]]) -> dict[str, Any]:
    if not items:
        return {"type": "array", "maxItems": 0}
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
