"""AI preferences of the IETF: `Content-Usage` as a header and as a rule of robots.txt; and Cloudflare's `Content-Signal`.

draft-ietf-aipref-attach and draft-ietf-aipref-vocab: a dictionary of structured fields (RFC 9651) whose values are the tokens
`y` and `n`; other values are no preference, and a dictionary that cannot be parsed has none.
"""

from __future__ import annotations

import http_sf

from provenance.corpus.rights.signals import robots
from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence

KIND, SIGNAL = "content-usage", "content-signal"
MEANING = {"y": True, "n": False}
WORDS = {"yes": True, "no": False}


def preferences(text: str) -> tuple[dict[str, bool | None], str]:
    """What a dictionary of preferences allows, by its own labels; and why it cannot be read."""
    try:
        found = http_sf.parse(text.encode("ascii"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError) as error:
        return {}, f"not a dictionary of structured fields: {error}"
    if not isinstance(found, dict):
        return {}, "not a dictionary of structured fields"
    values = {label: value[0] if isinstance(value, tuple) else value for label, value in found.items()}
    return {label: MEANING.get(str(v)) if isinstance(v, http_sf.Token) else None for label, v in values.items()}, ""


def parse(answer: Answer) -> list[Row]:
    """Rows of a page's header, for that page alone."""
    text = answer.header("content-usage")
    if not text or not answer.good:
        return [silence(answer, KIND)]
    return _rows(answer, KIND, answer.about, text, says=f"Content-Usage: {text}")


def parse_robots(answer: Answer, *, agent: str = "") -> list[Row]:
    """Rows of a robots.txt, of the group that names the agent, or else of everybody's.

    Earlier drafts had rules without a path, and many files have them outside of any group; they are for everything and
    everybody. So are those of a path that may not be crawled: a wish that is stated is a wish.

    Args:
        agent: the product token that we fetch with.
    """
    if not answer.good:
        return []
    text, problem = answer.text()
    stated = [rule for rule in robots.rules(text) if rule.name in {KIND, SIGNAL}]
    mine = robots.token(agent)
    own = [rule for rule in stated if mine and mine in rule.agents]
    found: list[Row] = []
    for rule in own or [rule for rule in stated if not rule.agents or robots.EVERYBODY in rule.agents]:
        path, preference = _parted(rule.value)
        pattern = pattern_of(path, answer.about) or "/"
        scope = answer.about + pattern
        whom = agent if own else robots.EVERYBODY
        if rule.name == KIND:
            found += _rows(answer, KIND, scope, preference, says=rule.line, problem=problem, agents=whom)
        else:
            pairs = (part.partition("=") for part in preference.split(","))
            words = {label.strip().lower(): WORDS.get(value.strip().lower()) for label, _, value in pairs if label.strip()}
            found += [
                row(answer, SIGNAL, label, says=rule.line, scope=scope, allowed=allowed, problem=problem, agents=whom)
                for label, allowed in words.items()
            ]
    return found


def _parted(value: str) -> tuple[str, str]:
    """Path and preference of a rule."""
    if not value.startswith("/"):
        return "/", value
    path, *rest = value.split(maxsplit=1)
    return path, rest[0] if rest else ""


def _rows(answer: Answer, kind: str, scope: str, text: str, *, says: str, problem: str = "", agents: str = "") -> list[Row]:
    allowed, unread = preferences(text)
    if unread or not allowed:
        problem = "; ".join(part for part in (problem, unread) if part)
        return [row(answer, kind, "train", says=says, scope=scope, problem=problem, agents=agents)]
    return [
        row(answer, kind, label, says=says, scope=scope, allowed=value, problem=problem, agents=agents)
        for label, value in allowed.items()
    ]
