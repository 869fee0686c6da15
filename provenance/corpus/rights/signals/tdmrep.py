"""The TDM Reservation Protocol of the W3C's community group: a file of the origin, headers, and meta elements.

It reserves text and data mining (`use` is `tdm`), which includes training. The first matching rule of the file counts. A
policy is the address of a licence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence
from provenance.corpus.rights.signals.robots import values_of

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
        rules = json.loads(text, object_pairs_hook=_Object)
    except (ValueError, RecursionError) as error:
        return [silence(answer, KIND, USE, f"not JSON: {error}")]
    if isinstance(rules, dict):
        rules, problem = [rules], _joined(problem, "not a list of rules, but one")
    if not isinstance(rules, list):
        return [silence(answer, KIND, USE, "not a list of rules")]
    return [row for entry in rules for row in _rule(answer, entry, problem)] or [silence(answer, KIND, USE, problem)]


class _Object(dict[str, Any]):
    """An object of JSON that remembers the names that it has twice; of two reservations the stricter stands."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        if RESERVATION in self.twice and any(str(value) == "1" for name, value in pairs if name == RESERVATION):
            self[RESERVATION] = 1


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


def _rule(answer: Answer, entry: Any, problem: str) -> list[Row]:
    says = json.dumps(entry, ensure_ascii=False)
    if not isinstance(entry, dict):
        return [row(answer, KIND, USE, says=says, problem=_joined(problem, "not a rule"))]
    twice = getattr(entry, "twice", ())
    problem = _joined(problem, f"has {', '.join(twice)} twice" if twice else "")
    value, location, policy = entry.get(RESERVATION), entry.get("location"), entry.get(POLICY)
    allowed = MEANING.get(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None
    if allowed is None:
        problem = _joined(problem, f"{RESERVATION} has to be 0 or 1")
    if isinstance(location, list) and location and all(isinstance(place, str) for place in location):
        problem = _joined(problem, "several locations, and a rule has one")
    else:
        location = [location]
    terms = policy if isinstance(policy, str) else None
    rows = []
    for place in location:
        if isinstance(place, str) and place.strip():
            places = values_of(place.strip())
        else:
            places = (("/", "no location: read as the whole site"),)
        for path, doubt in places:
            pattern = pattern_of(path, answer.about)
            elsewhere = "" if pattern else "speaks of another site, which does not count"
            # Where its place is in doubt, a rule may reserve, and permits nothing.
            counts = None if pattern is None or (allowed and doubt and isinstance(place, str)) else allowed
            scope = answer.about + (pattern or "/")
            problems = _joined(problem, doubt, elsewhere)
            rows.append(row(answer, KIND, USE, says=says, scope=scope, allowed=counts, problem=problems, terms=terms))
    return rows


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
