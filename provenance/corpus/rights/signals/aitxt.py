"""Spawning's ai.txt: permissions to train on files of a site, by suffix, media type or path, in the format of robots.txt.

It is about training, so rules for all agents count as much as rules for named agents. Rules for agents that nobody has told us
of restrict, too, and permit nothing to others; rules that name no agent at all are restrictions with a `problem`, and so is
every line that cannot be read.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from functools import lru_cache
from heapq import nsmallest
from itertools import islice

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence
from provenance.corpus.rights.signals.robots import MOST_PROBLEMS, addressed, odd_lines, rules, values_of

KIND = "ai.txt"
PATH = "/ai.txt"
# Without the machine's own types, which differ.
TYPES = mimetypes.MimeTypes(filenames=()).types_map[True]
SUFFIX = re.compile(r"\*?\.[A-Za-z0-9]+")
_LIST = re.compile(r"\*?\.[{(](?P<names>[A-Za-z0-9., |]+)[)}]")
# Values that mean all files.
_EVERY = ("/", "*")
# Agents named in a row.
MOST_AGENTS = 5
MEDIA_TYPE = re.compile(r"(application|audio|font|image|model|text|video)/[^/ ]+")


def parse(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of an ai.txt, for all agents and for named ones among `agents`."""
    if not answer.good:
        return [silence(answer, KIND)]
    text, unread = answer.text()
    rows = []
    known = list(addressed(text, agents))
    spoken = {rule for rule, _ in known}
    others = (
        (rule, _first(rule.agents))
        for rule in dict.fromkeys(rules(text))
        if rule.name in {"allow", "disallow"} and rule not in spoken
    )
    for rule, addressees in [*known, *others]:
        agents_named = ", ".join(addressees)
        allows = rule.name == "allow" or not rule.value
        if allows and addressees and rule not in spoken:
            continue
        unaddressed = "" if addressees else "a rule without a User-agent before it"
        for value, unclear in values_of(rule.value) if rule.value else (("/", ""),):
            plain = value in _EVERY or _LIST.fullmatch(value) or SUFFIX.fullmatch(value) or MEDIA_TYPE.fullmatch(value)
            doubt = rule.problem or unaddressed or ("" if plain and "begin with" in unclear else unclear)
            allowed = None if allows and doubt else allows
            problem = "; ".join(filter(None, (unread, doubt)))
            says = f"{rule.line} (User-agent: {agents_named or 'none'})"
            rows += [
                row(
                    answer, KIND, "train", says=says, scope=answer.about + pattern, allowed=allowed, agents=agents_named,
                    problem=problem,
                )
                for pattern in patterns(value, answer.about)
            ]  # fmt: skip
    rows += [
        row(answer, KIND, "train", says=line, problem="no line of an ai.txt") for line in islice(odd_lines(text), MOST_PROBLEMS)
    ]
    return rows or [silence(answer, KIND, problem=unread)]


@lru_cache(maxsize=1024)
def _first(agents: frozenset[str]) -> list[str]:
    """The first agents by their names, of groups that may name thousands."""
    return nsmallest(MOST_AGENTS, agents)


def patterns(value: str, origin: str) -> list[str]:
    """The patterns of paths for a value: `*.jpg` is a suffix, `*.{jpg,png}` several, `image/*` all suffixes of its types."""
    if several := _LIST.fullmatch(value):
        return [pattern for name in several["names"].split(",") for pattern in patterns(f".{name.strip(' .')}", origin)]
    if f".{value.lower()}" in TYPES:
        value = f".{value}"  # `png`
    if SUFFIX.fullmatch(value):
        suffix = value.lstrip("*")
        return [f"/*{ending}$" for ending in dict.fromkeys((suffix, suffix.lower(), suffix.upper()))]
    if MEDIA_TYPE.fullmatch(value):
        media_type = value.removesuffix("*").lower()
        matches = str.startswith if value.endswith("*") else str.__eq__
        return [f"/*{suffix}$" for suffix, kind in sorted(TYPES.items()) if matches(kind, media_type)]
    pattern = pattern_of(value, origin)
    return [] if pattern is None else [pattern]
