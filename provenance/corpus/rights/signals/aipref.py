"""AI preferences of the IETF: `Content-Usage` as a header and as a rule of robots.txt; and Cloudflare's `Content-Signal`.

draft-ietf-aipref-attach and draft-ietf-aipref-vocab: a dictionary of structured fields (RFC 9651) whose values are the tokens
`y` and `n`. Other values are no preference, and neither is a dictionary that cannot be parsed.
"""

from __future__ import annotations

import http_sf

from provenance.corpus.rights.signals import robots
from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence

KIND, SIGNAL = "content-usage", "content-signal"
MEANING = {"y": True, "n": False}
WORDS = {"yes": True, "no": False}
NOT_Y_OR_N = "the value has to be y or n, without quotes"
NEITHER = "the value has to be yes or no"


def preferences(text: str) -> tuple[dict[str, bool | None], str]:
    """The preferences of a dictionary, by its own labels; and the reason if it cannot be read."""
    try:
        dictionary = http_sf.parse(text.encode("ascii"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError) as error:
        return {}, f"not a dictionary of structured fields: {error}"
    if not isinstance(dictionary, dict):
        return {}, "not a dictionary of structured fields"
    values = {label: value[0] if isinstance(value, tuple) else value for label, value in dictionary.items()}
    return {label: MEANING.get(str(v)) if isinstance(v, http_sf.Token) else None for label, v in values.items()}, ""


def parse(answer: Answer) -> list[Row]:
    """Rows of a page's header; they cover that page alone."""
    text = answer.header("content-usage")
    if not text or not answer.good:
        return [silence(answer, KIND)]
    return _rows(answer, KIND, answer.about, text, says=f"Content-Usage: {text}")


def parse_robots(answer: Answer, *, agent: str = "") -> list[Row]:
    """Rows of a robots.txt: of the group that names our agent, else of the group for all.

    Earlier drafts had rules without a path, and many files have rules outside of groups; these cover all paths and agents. A
    preference for a path that must not be crawled counts as well.

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
    for rule in own or [rule for rule in rules if not rule.agents or robots.EVERYBODY in rule.agents]:
        path, preference = _split(rule.value)
        pattern = pattern_of(path, answer.about) or "/"
        scope = answer.about + pattern
        agents = agent if own else robots.EVERYBODY
        problem = "; ".join(filter(None, (unread, rule.problem)))
        if rule.name == KIND:
            fresh = _rows(answer, KIND, scope, preference, says=rule.line, problem=problem, agents=agents)
        else:
            pairs = (part.partition("=") for part in preference.split(","))
            stated = {label.strip().lower(): value.strip().lower() for label, _, value in pairs if label.strip()}
            words = {label: WORDS.get(value) for label, value in stated.items()}
            words_unread = {label for label, value in words.items() if value is None}
            fresh = [
                row(
                    answer, SIGNAL, label, says=rule.line, scope=scope, allowed=allowed, agents=agents,
                    problem=problem if label not in words_unread else "; ".join(filter(None, (problem, NEITHER))),
                )
                for label, allowed in words.items()
            ]  # fmt: skip
        # A rule whose name is misspelt may reserve, and permits nothing.
        rows += [fields | {"allowed": None} if rule.problem and fields["allowed"] else fields for fields in fresh]
    return rows


def _split(value: str) -> tuple[str, str]:
    """Split a rule into path and preference."""
    if not value.startswith("/"):
        return "/", value
    path, *preference = value.split(maxsplit=1)
    return path, preference[0] if preference else ""


def _rows(answer: Answer, kind: str, scope: str, text: str, *, says: str, problem: str = "", agents: str = "") -> list[Row]:
    allowed, unread = preferences(text)
    if unread or not allowed:
        problem = "; ".join(part for part in (problem, unread) if part)
        return [row(answer, kind, "train", says=says, scope=scope, problem=problem, agents=agents)]
    return [
        row(
            answer, kind, label, says=says, scope=scope, allowed=value, agents=agents,
            problem=problem if value is not None else "; ".join(filter(None, (problem, NOT_Y_OR_N))),
        )
        for label, value in allowed.items()
    ]  # fmt: skip
