"""The TDM Reservation Protocol of the W3C's community group: a file of the origin, headers, and meta elements.

It reserves text and data mining (`use` is `tdm`), which includes training. The first matching rule of the file counts. A
policy is the address of a licence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence

KIND = "tdmrep"
PATH = "/.well-known/tdmrep.json"
USE = "tdm"
RESERVATION, POLICY = "tdm-reservation", "tdm-policy"
# The letters of names that are meant for it.
_NAMES = re.compile(r"x?(tdm|textanddatamining)(rep)?(reserv(ations?|ed?)|rights(reserved)?|optout)?")
# 0: not reserved, so mining is allowed.
MEANING = {"0": True, "1": False}


def parse(answer: Answer) -> list[Row]:
    """Rows of a /.well-known/tdmrep.json, in the order of its rules."""
    if not answer.good:
        return [silence(answer, KIND, USE)]
    text, problem = answer.text()
    try:
        rules = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [silence(answer, KIND, USE, f"not JSON: {error}")]
    if isinstance(rules, dict):
        rules, problem = [rules], _joined(problem, "not a list of rules, but one")
    if not isinstance(rules, list):
        return [silence(answer, KIND, USE, "not a list of rules")]
    return [_rule(answer, entry, problem) for entry in rules] or [silence(answer, KIND, USE, problem)]


def parse_headers(answer: Answer) -> list[Row]:
    """Rows of a page's headers; they cover that page alone."""
    return _of_page(answer, answer.headers, "header") if answer.good else []


def parse_meta(answer: Answer, elements: Iterable[tuple[str, str]]) -> list[Row]:
    """Rows of a page's meta elements, `(name, content)`; they cover that page alone. Of several each is a row."""
    return _of_page(answer, elements, "meta")


def _of_page(answer: Answer, stated: Iterable[tuple[str, str]], where: str) -> list[Row]:
    values = [(name, value.strip()) for name, value in stated]
    terms = next((value for name, value in values if name == POLICY), None)
    rows = []
    for name, value in dict.fromkeys(values):
        if not _NAMES.fullmatch(_squeezed(name)) or not value:
            continue
        allowed = MEANING.get(value)
        problem = "" if allowed is not None else f"{RESERVATION} has to be 0 or 1"
        if name != RESERVATION:  # a misspelt name may reserve, and permits nothing
            allowed, problem = allowed and None, _joined(f"{name!r} should be {RESERVATION}", problem)
        rows.append(row(answer, KIND, USE, says=f"{where}: {name}: {value}", allowed=allowed, problem=problem, terms=terms))
    return rows


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _rule(answer: Answer, entry: Any, problem: str) -> Row:
    says = json.dumps(entry, ensure_ascii=False)
    if not isinstance(entry, dict):
        return row(answer, KIND, USE, says=says, problem=_joined(problem, "not a rule"))
    value, location, policy = entry.get(RESERVATION), entry.get("location"), entry.get(POLICY)
    allowed = MEANING.get(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if allowed is None:
        problem = _joined(problem, f"{RESERVATION} has to be 0 or 1")
    if not isinstance(location, str) or not location.strip():
        location, problem = "/", _joined(problem, "no location: read as the whole site")
    pattern = pattern_of(location.strip(), answer.about)
    if pattern is None:
        allowed, problem = None, _joined(problem, "speaks of another site, which does not count")
    terms = policy if isinstance(policy, str) else None
    scope = answer.about + (pattern or "/")
    return row(answer, KIND, USE, says=says, scope=scope, allowed=allowed, problem=problem, terms=terms)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
