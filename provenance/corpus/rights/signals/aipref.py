"""AI preferences of the IETF: `Content-Usage` as a header and as a rule of robots.txt; and Cloudflare's `Content-Signal`.

draft-ietf-aipref-attach and draft-ietf-aipref-vocab: a dictionary of structured fields (RFC 9651) whose values are the tokens
`y` and `n`. Other values are no preference, and neither is a dictionary that cannot be parsed.
"""

from __future__ import annotations

import re
from heapq import nsmallest
from typing import Any

import http_sf

from provenance.corpus.rights.signals import robots
from provenance.corpus.rights.signals.responses import USES, Answer, Row, pattern_of, row, silence

KIND, SIGNAL = "content-usage", "content-signal"
MEANING = {"y": True, "n": False}
WORDS = {"yes": True, "no": False}
# Labels of the standard, of its drafts, of RSL and of Content-Signal.
KNOWN = frozenset({*USES, "train", "ai-use", "ai-index", "search", "tdm", "bots", "all"})
# Letters of labels that speak of training.
_OF_TRAINING = re.compile(r"train|^(gen)?ai$|llm|machinelearning|(^|\W)ml$|tdm|datamining")
# Agents named in a row.
MOST_AGENTS = 5
NOT_Y_OR_N = "the value has to be y or n, without quotes"
NEITHER = "the value has to be yes or no"


def preferences(text: str) -> tuple[dict[str, bool | None], str]:
    """The preferences of a dictionary, by its own labels; and the reason if it cannot be read, or only in part."""
    try:
        dictionary = http_sf.parse(text.encode("ascii"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError) as error:
        return {}, f"not a dictionary of structured fields: {error}"
    if not isinstance(dictionary, dict):
        return {}, "not a dictionary of structured fields"
    items: dict[str, tuple[Any, Any]] = {
        label: value if isinstance(value, tuple) else (value, {}) for label, value in dictionary.items()
    }
    stated = {label: _meaning(value) for label, (value, _) in items.items()}
    # In `search=y; train-ai=n` what was meant for another preference is a parameter of the one before.
    within = {
        name: _meaning(value) for _, parameters in items.values() for name, value in parameters.items() if _is_training(name)
    }
    problem = f"{', '.join(within)} stands behind a semicolon, and preferences have commas between them" if within else ""
    return stated | {name: value for name, value in within.items() if value is False}, problem


def _meaning(value: object) -> bool | None:
    return MEANING.get(str(value)) if isinstance(value, http_sf.Token) else None


def _is_training(label: str) -> bool:
    return bool(_OF_TRAINING.search(re.sub(r"[\W_]", "", label.lower())))


def _label(label: str) -> tuple[str, str]:
    """The label that is meant, and the problem of one that no draft has and that speaks of training."""
    if label in KNOWN or not _is_training(label):
        return label, ""
    return "train", f"{label!r} is no label of the standard: read as training, and permits nothing"


def parse(answer: Answer) -> list[Row]:
    """Rows of a page's headers; they cover that page alone.

    A page's `Content-Signal`, which servers add by themselves, may reserve and permits nothing.
    """
    if not answer.good:
        return [silence(answer, KIND)]
    text, signal = answer.header(KIND), answer.header(SIGNAL)
    rows = _rows(answer, KIND, answer.about, text, says=f"Content-Usage: {text}") if text else []
    fresh = _signals(answer, answer.about, signal, says=f"Content-Signal: {signal}") if signal else []
    return [*rows, *(fields | {"allowed": fields["allowed"] and None} for fields in fresh)] or [silence(answer, KIND)]


def parse_robots(answer: Answer, *, agent: str = "") -> list[Row]:
    """Rows of a robots.txt: of the group that names our agent, else of the group for all.

    Beside the group for all, reservations count that name another agent: a site that reserves training to one collector has not
    agreed to a third. Earlier drafts had rules without a path, and many files have rules outside of groups; these cover all
    paths and agents. A preference for a path that must not be crawled counts as well.

    Args:
        agent: our product token.
    """
    if not answer.good:
        return []
    text, unread = answer.text()
    rules = [rule for rule in robots.rules(text) if rule.name in {KIND, SIGNAL}]
    own_token = robots.token(agent)
    own = [rule for rule in rules if own_token and own_token in rule.agents]
    rows: list[Row] = []
    of_others: set[tuple[str, str, str]] = set()
    for rule in own or rules:
        for_all = not rule.agents or robots.EVERYBODY in rule.agents
        if not own and not for_all:
            if (said := (rule.name, rule.value, rule.problem)) in of_others:
                continue
            of_others.add(said)
        path, preference = _split(rule.value)
        pattern = pattern_of(path, answer.about) or "/"
        scope = answer.about + pattern
        agents = agent if own else robots.EVERYBODY if for_all else ", ".join(nsmallest(MOST_AGENTS, rule.agents))
        problem = "; ".join(filter(None, (unread, rule.problem)))
        fresh = (
            _rows(answer, KIND, scope, preference, says=rule.line, problem=problem, agents=agents)
            if rule.name == KIND
            else _signals(answer, scope, preference, says=rule.line, problem=problem, agents=agents)
        )
        # A rule whose name is misspelt may reserve, and permits nothing.
        fresh = [fields | {"allowed": None} if rule.problem and fields["allowed"] else fields for fields in fresh]
        rows += fresh if own or for_all else [fields for fields in fresh if fields["allowed"] is False]
    return rows


def _split(value: str) -> tuple[str, str]:
    """Split a rule into path and preference."""
    if not value.startswith("/"):
        return "/", value
    path, *preference = value.split(maxsplit=1)
    return path, preference[0] if preference else ""


def _signals(answer: Answer, scope: str, text: str, *, says: str, problem: str = "", agents: str = "") -> list[Row]:
    """Rows of a Content-Signal: pairs of labels and `yes` or `no`, with commas between them."""
    pairs = (part.partition("=") for part in text.split(","))
    stated = {label.strip().lower(): value.strip().lower() for label, _, value in pairs if label.strip()}
    return [
        _row(answer, SIGNAL, label, WORDS.get(value), NEITHER, says=says, scope=scope, agents=agents, problem=problem)
        for label, value in stated.items()
    ]


def _rows(answer: Answer, kind: str, scope: str, text: str, *, says: str, problem: str = "", agents: str = "") -> list[Row]:
    allowed, unread = preferences(text)
    problem = "; ".join(part for part in (problem, unread) if part)
    if not allowed:
        return [row(answer, kind, "train", says=says, scope=scope, problem=problem, agents=agents)]
    return [
        _row(answer, kind, label, value, NOT_Y_OR_N, says=says, scope=scope, agents=agents, problem=problem)
        for label, value in allowed.items()
    ]


def _row(
    answer: Answer,
    kind: str,
    label: str,
    allowed: bool | None,
    unread: str,
    *,
    says: str,
    scope: str,
    agents: str,
    problem: str,
) -> Row:
    use, misspelt = _label(label)
    problems = (problem, misspelt, unread if allowed is None else "")
    allowed = None if allowed and misspelt else allowed
    return row(
        answer, kind, use, says=says, scope=scope, allowed=allowed, agents=agents, problem="; ".join(filter(None, problems))
    )
