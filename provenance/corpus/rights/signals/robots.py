"""robots.txt (RFC 9309): permissions of crawlers.

Rules for all crawlers (`User-agent: *`) are about crawling: search engines, archives, load. Rules for a named agent that
collects for models are about training; their rows have that `use`.

Protego matches patterns (`verdicts`), but this module reads the file: Protego drops lines of later standards (`Content-Usage`,
`License`) and does not list the named agents. A test compares the two.
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
    """A line of a file with groups: its agents (empty outside of groups), name and value."""

    agents: frozenset[str]
    name: str
    value: str

    @property
    def line(self) -> str:
        """The line in its usual spelling."""
        return f"{self.name.title()}: {self.value}"


def rules(text: str) -> Iterator[Rule]:
    """Yield the lines of a robots.txt, or of a file in its format, in order."""
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
            agents = frozenset(group) if naming else agents  # shared by all rules of a group, which may name thousands
            naming = False
            yield Rule(agents, name, value)
        else:  # a line for the whole file, such as License; it ends no group
            yield Rule(frozenset(), name, value)


def token(agent: str) -> str:
    """The name of an agent for comparisons: in lower case, without version."""
    return agent.split("/", 1)[0].strip().lower()


def addressed(text: str, agents: Sequence[str]) -> Iterator[tuple[Rule, list[str]]]:
    """Yield the lines that allow or disallow, each with its agents among `agents` and `*`."""
    spelling = {token(agent): agent for agent in agents} | {EVERYBODY: EVERYBODY}
    names = frozenset(spelling)
    for rule in rules(text):
        if rule.name in {"allow", "disallow"} and (addressees := names & rule.agents):
            yield rule, sorted(spelling[name] for name in addressees)


def access(text: str, agents: Sequence[str], origin: str) -> dict[tuple[str, ...], list[tuple[bool, str, str]]]:
    """The rules for `*` and for each named agent: `(allowed, pattern, line)` by agents.

    Agents with the same rules share a key. An empty `Disallow:` allows everything.
    """
    by_agent: dict[str, list[tuple[bool, str, str]]] = {}
    for rule, addressees in addressed(text, agents):
        pattern = pattern_of(rule.value or "/", origin)
        if pattern is not None and (rule.value or rule.name == "disallow"):
            for name in addressees:
                by_agent.setdefault(name, []).append((rule.name == "allow" or not rule.value, pattern, rule.line))
    agents_of: dict[tuple[tuple[bool, str, str], ...], list[str]] = {}
    for name, entries in by_agent.items():
        agents_of.setdefault(tuple(dict.fromkeys(entries)), []).append(name)
    return {tuple(sorted(addressees)): list(entries) for entries, addressees in agents_of.items()}


def parse(answer: Answer, *, agents: Sequence[str] = ()) -> list[Row]:
    """Rows of a robots.txt: `crawl` for all agents, `train` for named ones among `agents`."""
    origin = answer.about
    if not answer.asked:
        return [silence(answer, KIND, "crawl")]
    if answer.status == 0 or answer.status >= 500:
        # RFC 9309, 2.3.1.4. The file may name agents, so this covers training, too.
        says = f"{answer.status or 'no answer'}: nothing may be crawled (RFC 9309, 2.3.1.4)"
        return [row(answer, KIND, use, says=says, allowed=False, scope=f"{origin}/") for use in ("crawl", "train")]
    if not answer.good:
        says = f"{answer.status}: everything may be crawled (RFC 9309, 2.3.1.3)"
        return [row(answer, KIND, "crawl", says=says, allowed=True, scope=f"{origin}/")]
    text, problem = answer.text()
    rows = []
    for names, entries in sorted(access(text, agents, origin).items()):
        model_agents = [name for name in names if name != EVERYBODY]
        for allowed, pattern, line in entries:
            for use, addressees in (("train", model_agents), ("crawl", [EVERYBODY] if EVERYBODY in names else [])):
                if addressees:
                    agents_named, scope = ", ".join(addressees), origin + pattern
                    says = f"{line} (User-agent: {agents_named})"
                    rows.append(
                        row(answer, KIND, use, says=says, scope=scope, allowed=allowed, agents=agents_named, problem=problem)
                    )
    return rows or [silence(answer, KIND, "crawl", problem)]
