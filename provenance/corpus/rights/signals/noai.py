"""`noai` and `noimageai`, as pages say them to robots: in the header X-Robots-Tag, and in meta elements.

DeviantArt began it in 2022, and other platforms followed. A directive covers one page, or the one file to which the header
belongs, and speaks of training. `noimageai` is about the pictures of a page; it is read as of the page, since a work that was
collected there may be one. A header may name a robot before its directives (`GPTBot: noai`), and a meta element is for the
robot of its name. Only robots that collect for models, and all robots together, count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from provenance.corpus.rights.signals.responses import Answer, Row, row
from provenance.corpus.rights.signals.robots import EVERYBODY, token

KIND = "noai"
HEADER = "x-robots-tag"
# As sites spell them, without signs between the letters.
REFUSALS = frozenset({"noai", "noimageai", "noml", "noaitraining", "notrain", "notraining", "nollm", "notdm"})
SURE = frozenset({"noai", "noimageai", "noml"})
ALL_ROBOTS = ("robots", EVERYBODY)
# Directives that mention the same words and say nothing of training.
OTHERS = re.compile(r"(max-(snippet|image-preview|video-preview)|unavailable_after)\b", re.IGNORECASE)
_TRAINING = re.compile(r"(^|[^a-z])(ai|ml|llm|tdm|genai)([^a-z]|$)|train|(no|image)ai", re.IGNORECASE)


def parse_headers(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a page's or file's headers; they cover it alone."""
    if not answer.good:
        return []
    rows = []
    for name, value in answer.headers:
        if name == HEADER:
            for robot, directive in _addressed(value, agents):
                rows += _row(answer, f"X-Robots-Tag: {value}", robot, directive, agents)
    return rows


def parse_meta(answer: Answer, elements: Iterable[tuple[str, str]], *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a page's meta elements, `(name, content)`; they cover that page alone."""
    rows = []
    for name, content in elements:
        if name == HEADER:
            for robot, directive in _addressed(content, agents):
                rows += _row(answer, f"meta: {name}: {content}", robot, directive, agents)
        elif name in ALL_ROBOTS or token(name) in map(token, agents):
            robot = EVERYBODY if name in ALL_ROBOTS else name
            for directive in _directives(content):
                rows += _row(answer, f"meta: {name}: {content}", robot, directive, agents)
        elif _squeezed(name) in REFUSALS:
            problem = (
                "" if content.strip().lower() not in {"0", "false", "no", "off"} else f"{content!r} takes back what it says"
            )
            rows.append(
                row(answer, KIND, "train", says=f"meta: {name}: {content}", allowed=None if problem else False, problem=problem)
            )
    return rows


def _addressed(value: str, agents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the directives of a header, each with its robot: the last one named before it, or all."""
    robot = EVERYBODY
    for part in _directives(value):
        name, colon, directive = part.partition(":")
        known = token(name) in {"robots", EVERYBODY, *map(token, agents)}
        if colon and not OTHERS.match(part) and (known or not _TRAINING.search(_squeezed(name))):
            robot = name.strip()
            yield robot, directive.strip()
        else:
            yield robot, part


def _row(answer: Answer, says: str, robot: str, directive: str, agents: Sequence[str]) -> list[Row]:
    """The row of one directive, if it speaks of training to all robots or to one that collects for models."""
    everybody = robot.lower() in ALL_ROBOTS
    if not everybody and token(robot) not in set(map(token, agents)):
        return []
    named = None if everybody else robot
    if _is_refusal(directive):
        problem = "" if _squeezed(directive) in SURE else f"{directive!r} is no known directive: read as noai"
        return [row(answer, KIND, "train", says=says, allowed=False, agents=named, problem=problem)]
    if _TRAINING.search(directive) and not OTHERS.match(directive):
        return [row(answer, KIND, "train", says=says, agents=named, problem=f"{directive!r} is no known directive")]
    return []


def _directives(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;]", text) if part.strip()]


def _is_refusal(directive: str) -> bool:
    return _squeezed(directive) in REFUSALS


def _squeezed(text: str) -> str:
    """A directive without signs and blanks between its letters: `No-AI` is `noai`."""
    return re.sub(r"[\s_\u2010-\u2014-]+", "", text).strip("\"'").lower()
