"""`noai` and `noimageai`, as pages say them to robots: in the header X-Robots-Tag, and in meta elements.

DeviantArt began it in 2022, and other platforms followed. A directive covers one page, or the one file to which the header
belongs, and speaks of training. `noimageai` is about the pictures of a page; it is read as of the page, since a work that was
collected there may be one. A header may name a robot before its directives (`GPTBot: noai`), and a meta element is for the
robot of its name, or for several with commas between them. Only robots that collect for models, and all robots together, count.
What reserves in some other spelling (`ai-training: disallow`, `noai` beside a name that is no robot's) is a row with a problem.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from provenance.corpus.rights.signals.responses import Answer, Row, row
from provenance.corpus.rights.signals.robots import EVERYBODY, QUOTES, agents_of, token

KIND = "noai"
HEADER = "x-robots-tag"
# As sites spell them, without signs between the letters.
REFUSALS = re.compile(
    r"no(gen(erative)?|image|art|text)*(ai|ml|llms?|tdm|gpts?|chatgpt|machinelearning|train(ing)?)"
    r"(art|images?|train(ing)?|(ro)?bots?|crawl(ers?|ing)?|scrap(ers?|ing)|use|please)*"
)
SURE = frozenset({"noai", "noimageai", "noml"})
# Names of headers that are meant for X-Robots-Tag.
_HEADERS = re.compile(r"(x[-_]?)?robots?([-_]?(tags?|meta))?")
# What forbids other things than training to a robot that collects for models, and may be meant of it.
_CLOSING = frozenset({"none", "disallow", "deny", "block", "noarchive", "nocache", "nocrawl"})
ALL_ROBOTS = frozenset({"robots", EVERYBODY})
# Names that are meant for all robots, and that no robot reads.
_ROBOTS = re.compile(r"(all|any|ai|every)?[-_ ]?(robots?|bots?|crawlers?|spiders?|scrapers?|agents?|user-?agents?)(\.txt)?")
_ROBOT = re.compile(r"bot\b|bot-|spider|crawler|slurp|agent|extended")
# Contents that refuse, beside a name that speaks of training; and preferences that do (`train-ai=n`).
_REFUSING = re.compile(
    r"(disallow(ed)?|no|none|n|false|0|off|deny|denied|block(ed)?|forbid(den)?|prohibit(ed)?|reserved?|refuse[ds]?|opt[-_ ]?out"
    r"|not[-_ ](allowed|permitted)|all rights reserved)"
)
_PREFERENCE = re.compile(r"\b(train|ai|genai|tdm|llm|ml)[\w-]*\s*[=:]\s*(n|no|0|false|disallow|deny|none)\b", re.IGNORECASE)
# What tells how a page was made, and what is read elsewhere.
_OTHER_NAMES = re.compile(r"tdm[-_]?(reservation|policy)|generated|assisted|content|disclosure|label|description|title")
# Names of elements with rights in words, and words that speak of training.
_RIGHTS = re.compile(r"rights|copyright|licen[cs]e|terms|usage|permission")
_OF_TRAINING = re.compile(r"(?-i:\bAI\b)|\btrain(ing)?\b|data.?mining|machine.?learning|\btdm\b|\bllms?\b", re.IGNORECASE)
# Directives that mention the same words and say nothing of training.
OTHERS = re.compile(r"(max-(snippet|image-preview|video-preview)|unavailable_after)\b", re.IGNORECASE)
_TRAINING = re.compile(r"(^|[^a-z])(ai|ml|llm|tdm|genai)([^a-z]|$)|train|(no|image)ai", re.IGNORECASE)


def parse_headers(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a page's or file's headers; they cover it alone."""
    if not answer.good:
        return []
    rows = []
    for name, value in answer.headers:
        if _HEADERS.fullmatch(name):
            odd = "" if name == HEADER else f"{name!r} is no header of a standard: read as X-Robots-Tag"
            for robot, directive in _addressed(value, agents):
                fresh = _row(answer, f"{'X-Robots-Tag' if not odd else name}: {value}", robot, directive, agents)
                rows += [fields | {"problem": "; ".join(filter(None, (odd, fields["problem"]))) or None} for fields in fresh]
    return rows


def parse_meta(answer: Answer, elements: Iterable[tuple[str, str]], *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a page's meta elements, `(name, content)`; they cover that page alone."""
    rows = []
    for name, content in elements:
        says, plain = f"meta: {name}: {content}", name.strip(QUOTES + " ")
        if plain == HEADER:
            for robot, directive in _addressed(content, agents):
                rows += _row(answer, says, robot, directive, agents)
            continue
        robots = _robots(plain, agents)
        for robot in robots:
            for directive in _directives(content):
                rows += _row(answer, says, robot, directive, agents)
        if robots:
            continue
        if any(map(_is_refusal, _directives(plain))):
            problem = (
                "" if content.strip().lower() not in {"0", "false", "no", "off"} else f"{content!r} takes back what it says"
            )
            rows.append(row(answer, KIND, "train", says=says, allowed=None if problem else False, problem=problem))
        elif problem := _odd(plain, content):
            meant = _ROBOTS.fullmatch(plain) or (_TRAINING.search(plain) and not _OTHER_NAMES.search(plain))
            rows.append(row(answer, KIND, "train", says=says, allowed=False if meant else None, problem=problem))
    return rows


def _robots(name: str, agents: Sequence[str]) -> list[str]:
    """The robots of a name that count: all of them, or those that collect for models."""
    named = agents_of(name)
    if named & ALL_ROBOTS:
        return [EVERYBODY]
    return [agent for agent in agents if token(agent) in named]


def _odd(name: str, content: str) -> str:
    """The problem of a meta element for no robot that we know, which may reserve; empty: it does not."""
    of_training = _TRAINING.search(name) and not _OTHER_NAMES.search(name)
    if of_training and _REFUSING.fullmatch(content.strip(QUOTES + " .!").lower()):
        return f"{name!r} is no name of a meta element that a standard has"
    if _RIGHTS.search(name) and _OF_TRAINING.search(content):
        return f"{name!r} speaks of training in words: record an opt-out of the owner if it reserves it"
    meant_for_all = _ROBOTS.fullmatch(name)
    if _ROBOT.search(name) and not meant_for_all:
        return ""  # for another robot
    if any(map(_is_refusal, _directives(content))) or _PREFERENCE.search(content):
        return f"{name!r} is the name of no robot" + (": read as robots" if meant_for_all else "")
    return ""


def _addressed(value: str, agents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the directives of a header, each with its robot: the last ones named before it, or all.

    Several robots have commas or blanks between them: `GPTBot, CCBot: noai`.
    """
    known = {"robots", EVERYBODY, *map(token, agents)}
    robots, waiting = [EVERYBODY], list[str]()
    for part in _directives(value):
        name, colon, directive = part.partition(":")
        if not colon and agents_of(part) <= known:
            waiting.append(part)
            continue
        names_robots = agents_of(name) & known or not (_TRAINING.search(name) or _TRAINING.search(_squeezed(name)))
        if colon and names_robots and not OTHERS.match(part):
            robots = [robot for names in [*waiting, name] for robot in (_robots(names, agents) or [names.strip()])]
        else:
            directive = part
        waiting.clear()
        for robot in dict.fromkeys(robots):
            yield robot, directive.strip()


def _row(answer: Answer, says: str, robot: str, directive: str, agents: Sequence[str]) -> list[Row]:
    """The row of one directive, if it speaks of training to all robots or to one that collects for models."""
    everybody = robot.lower() in ALL_ROBOTS
    if not everybody and token(robot) not in set(map(token, agents)):
        return []
    named = None if everybody else robot
    if _is_refusal(directive):
        problem = "" if _squeezed(directive) in SURE else f"{directive!r} is no known directive: read as noai"
        return [row(answer, KIND, "train", says=says, allowed=False, agents=named, problem=problem)]
    if not everybody and _squeezed(directive) in _CLOSING:
        problem = f"{directive!r} says nothing of training, to a robot that collects for models"
        return [row(answer, KIND, "train", says=says, agents=named, problem=problem)]
    if _TRAINING.search(directive) and not OTHERS.match(directive):
        return [row(answer, KIND, "train", says=says, agents=named, problem=f"{directive!r} is no known directive")]
    return []


def _directives(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;]", text) if part.strip()]


def _is_refusal(directive: str) -> bool:
    return REFUSALS.fullmatch(_squeezed(directive)) is not None


def _squeezed(text: str) -> str:
    """A directive without signs and blanks between its letters: `No-AI` is `noai`."""
    signs = r"[\s_.\[\]\u200b-\u200f\u2010-\u2014\u2060\ufeff\xad-]+"
    return re.sub(signs, "", unicodedata.normalize("NFKC", text)).strip(QUOTES).lower()
