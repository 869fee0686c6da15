"""Spawning's ai.txt: permissions to train on files of a site, by suffix, media type or path, in the format of robots.txt.

It is about training, so rules for all agents count as much as rules for named agents, and rules that name no agent at all are
restrictions with a `problem`, as every line is that cannot be read.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from itertools import islice

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence
from provenance.corpus.rights.signals.robots import MOST_PROBLEMS, addressed, odd_lines, rules

KIND = "ai.txt"
PATH = "/ai.txt"
# Without the machine's own types, which differ.
TYPES = mimetypes.MimeTypes(filenames=()).types_map[True]
SUFFIX = re.compile(r"\*?\.[A-Za-z0-9]+")
MEDIA_TYPE = re.compile(r"(application|audio|font|image|model|text|video)/[^/ ]+")


def parse(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of an ai.txt, for all agents and for named ones among `agents`."""
    if not answer.good:
        return [silence(answer, KIND)]
    text, unread = answer.text()
    rows = []
    nobody: list[str] = []
    unaddressed = ((rule, nobody) for rule in rules(text) if rule.name in {"allow", "disallow"} and not rule.agents)
    for rule, addressees in [*addressed(text, agents), *unaddressed]:
        doubt = rule.problem or ("" if addressees else "a rule without a User-agent before it")
        allows = rule.name == "allow" or not rule.value
        allowed = None if allows and doubt else allows
        problem = "; ".join(filter(None, (unread, doubt)))
        for pattern in patterns(rule.value or "/", answer.about):
            scope = answer.about + pattern
            agents_named = ", ".join(addressees)
            says = f"{rule.line} (User-agent: {agents_named or 'none'})"
            rows.append(
                row(answer, KIND, "train", says=says, scope=scope, allowed=allowed, agents=agents_named, problem=problem)
            )
    rows += [
        row(answer, KIND, "train", says=line, problem="no line of an ai.txt") for line in islice(odd_lines(text), MOST_PROBLEMS)
    ]
    return rows or [silence(answer, KIND, problem=unread)]


def patterns(value: str, origin: str) -> list[str]:
    """The patterns of paths for a value: `*.jpg` is a suffix, `image/*` all suffixes of its types."""
    if SUFFIX.fullmatch(value):
        return [f"/*{value.lstrip('*')}$"]
    if MEDIA_TYPE.fullmatch(value):
        media_type = value.removesuffix("*").lower()
        matches = str.startswith if value.endswith("*") else str.__eq__
        return [f"/*{suffix}$" for suffix, kind in sorted(TYPES.items()) if matches(kind, media_type)]
    pattern = pattern_of(value, origin)
    return [] if pattern is None else [pattern]
