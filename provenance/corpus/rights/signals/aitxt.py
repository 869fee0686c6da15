"""Spawning's ai.txt: which files of a site may be trained on, by suffix, media type or path, written like a robots.txt.

It is about training, so what it says to everybody counts as what it says to agents by name.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence
from provenance.corpus.rights.signals.robots import addressed

KIND = "ai.txt"
PATH = "/ai.txt"
# Not those of the machine, which differ.
TYPES = mimetypes.MimeTypes(filenames=()).types_map[True]
SUFFIX = re.compile(r"\*?\.[A-Za-z0-9]+")
MEDIA_TYPE = re.compile(r"(application|audio|font|image|model|text|video)/[^/ ]+")


def parse(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of an ai.txt, for everybody and for those agents it names that collect for models."""
    if not answer.good:
        return [silence(answer, KIND)]
    text, problem = answer.text()
    found = []
    for rule, whom in addressed(text, agents):
        allowed = rule.name == "allow" or not rule.value
        for pattern in patterns(rule.value or "/", answer.about):
            scope = answer.about + pattern
            agents_named = ", ".join(whom)
            says = f"{rule.line} (User-agent: {agents_named})"
            found.append(
                row(answer, KIND, "train", says=says, scope=scope, allowed=allowed, agents=agents_named, problem=problem)
            )
    return found or [silence(answer, KIND, problem=problem)]


def patterns(value: str, origin: str) -> list[str]:
    """The patterns of paths that a value stands for: `*.jpg` ends there, `image/*` is all its suffixes."""
    if SUFFIX.fullmatch(value):
        return [f"/*{value.lstrip('*')}$"]
    if MEDIA_TYPE.fullmatch(value):
        wanted = value.removesuffix("*").lower()
        fits = str.startswith if value.endswith("*") else str.__eq__
        return [f"/*{suffix}$" for suffix, kind in sorted(TYPES.items()) if fits(kind, wanted)]
    pattern = pattern_of(value, origin)
    return [] if pattern is None else [pattern]
