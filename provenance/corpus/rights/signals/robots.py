"""robots.txt (RFC 9309): which crawlers may fetch what.

What it says to crawlers in general (`User-agent: *`) is about crawling: search engines, archives, load. Only where it names an
agent that collects for models does it say something about training, and rows are for that `use` then.

The file is read here and not by Protego, which drops the lines that later standards have added to it (`Content-Usage`,
`License`), and does not tell whom a file names. Protego matches the patterns (`verdicts`), and a test holds the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence

KIND = "robots"
PATH = "/robots.txt"
EVERYBODY = "*"
GROUPED = ("allow", "disallow", "content-usage", "content-signal")


@dataclass(frozen=True)
class Rule:
    """A line of a file with groups: whom it is for (nobody where it stands in no group), its name and its value."""

    agents: frozenset[str]
    name: str
    value: str

    @property
    def line(self) -> str:
        """The line as it is usually spelt."""
        return f"{self.name.title()}: {self.value}"


def rules(text: str) -> Iterator[Rule]:
    """The lines of a robots.txt, or of a file that is written like one, in order."""
    group: set[str] = set()
    agents: frozenset[str] = frozenset()
    naming = False
    for line in re.split(r"[\r\n]+", text):
        name, colon, value = line.split("#", 1)[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            group = group if naming else set()
            group.add(token(value))
            naming = True
        elif name in GROUPED:
            agents = frozenset(group) if naming else agents  # one for all rules of a group, which may name thousands
            naming = False
            yield Rule(agents, name, value)
        else:  # of the whole file, such as License; it ends no group
            yield Rule(frozenset(), name, value)


def token(agent: str) -> str:
    """How an agent is compared: without case and version."""
    return agent.split("/", 1)[0].strip().lower()


def addressed(text: str, agents: Sequence[str]) -> Iterator[tuple[Rule, list[str]]]:
    """The lines that allow or disallow, and whom of everybody and of some agents each is for."""
    asked = {token(agent): agent for agent in agents} | {EVERYBODY: EVERYBODY}
    names = frozenset(asked)
    for rule in rules(text):
        if rule.name in {"allow", "disallow"} and (whom := names & rule.agents):
            yield rule, sorted(asked[name] for name in whom)


def access(text: str, agents: Sequence[str], origin: str) -> dict[tuple[str, ...], list[tuple[bool, str, str]]]:
    """For everybody and for each of the agents that is named: whether paths are allowed, their pattern, and the line.

    Agents with the same rules are one key. `Disallow:` with nothing allows everything.
    """
    found: dict[str, list[tuple[bool, str, str]]] = {}
    for rule, whom in addressed(text, agents):
        pattern = pattern_of(rule.value or "/", origin)
        if pattern is not None and (rule.value or rule.name == "disallow"):
            for name in whom:
                found.setdefault(name, []).append((rule.name == "allow" or not rule.value, pattern, rule.line))
    same: dict[tuple[tuple[bool, str, str], ...], list[str]] = {}
    for name, entries in found.items():
        same.setdefault(tuple(dict.fromkeys(entries)), []).append(name)
    return {tuple(sorted(whom)): list(entries) for entries, whom in same.items()}


def parse(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a robots.txt: `crawl` for everybody, `train` for those agents it names that collect for models."""
    origin = answer.about
    if not answer.asked:
        return [silence(answer, KIND, "crawl")]
    if answer.status == 0 or answer.status >= 500:
        # RFC 9309, 2.3.1.4. It may name agents, so it is about training, too.
        says = f"{answer.status or 'no answer'}: nothing may be crawled (RFC 9309, 2.3.1.4)"
        return [row(answer, KIND, use, says=says, allowed=False, scope=f"{origin}/") for use in ("crawl", "train")]
    if not answer.good:
        says = f"{answer.status}: everything may be crawled (RFC 9309, 2.3.1.3)"
        return [row(answer, KIND, "crawl", says=says, allowed=True, scope=f"{origin}/")]
    text, problem = answer.text()
    found = []
    for names, entries in sorted(access(text, agents, origin).items()):
        named = [name for name in names if name != EVERYBODY]
        for allowed, pattern, line in entries:
            for use, whom in (("train", named), ("crawl", [EVERYBODY] if EVERYBODY in names else [])):
                if whom:
                    agents_named, scope = ", ".join(whom), origin + pattern
                    says = f"{line} (User-agent: {agents_named})"
                    told = row(answer, KIND, use, says=says, scope=scope, allowed=allowed, agents=agents_named, problem=problem)
                    found.append(told)
    return found or [silence(answer, KIND, "crawl", problem)]
