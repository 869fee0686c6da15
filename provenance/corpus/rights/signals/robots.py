"""robots.txt (RFC 9309): permissions of crawlers.

Rules for all crawlers (`User-agent: *`) are about crawling: search engines, archives, load. Rules for a named agent that
collects for models are about training; their rows have that `use`.

People misspell. What Google's parser accepts (github.com/google/robotstxt: `useragent`, `dissallow`, a blank for the colon) is
read as it is meant, and so are several agents on one line. Other names of lines that resemble a rule's name are read as
restrictions alone, with a `problem`: a permission must be spelt rightly. So are other words for "disallow" before a path, and
values that are no path. A line that speaks of training in some other way, that is no rule and stands in the group of a
collector for models, or that names nearly such a collector or its maker, is a row that says nothing but its problem.

Protego matches patterns (`verdicts`), but this module reads the file: Protego drops lines of later standards (`Content-Usage`,
`License`) and does not list the named agents. A test compares the two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice

from provenance.corpus.rights.signals.responses import Answer, Row, pattern_of, row, silence

KIND = "robots"
EMPTY = "Disallow: "
PATH = "/robots.txt"
EVERYBODY = "*"
# draft-canel-robots-ai-control: rules on training, for all agents of a group.
OF_TRAINING = {"disallowaitraining": "disallow", "allowaitraining": "allow"}
GROUPED = ("allow", "disallow", "content-usage", "content-signal", *OF_TRAINING)
# Spellings that Google's parser reads as the rule (robots.cc, kAllowFrequentTypos).
SPELLINGS = {
    **dict.fromkeys(("user-agent", "useragent", "user agent"), "user-agent"),
    **dict.fromkeys(("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"), "disallow"),
}
# Other names of lines, which resemble some rules and must not be taken for them.
OTHERS = ("sitemap", "site-map", "license", "crawl-delay", "host", "clean-param", "request-rate", "visit-time", "noindex")
# Those of them that people write as the only line of a group.
OF_GROUPS = ("crawl-delay", "request-rate", "visit-time", "clean-param", "noindex")
RULES = frozenset({"user-agent", *GROUPED, *OTHERS})
# How alike a name must be to the name of a rule, and an agent to one that we know.
ALIKE, AGENTS_ALIKE = 0.75, 0.85
# Signs that are typed for a hyphen, and invisible ones.
_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\uff0d", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\xad", "")
)
WIDE_COLON = "\uff1a"
_NEXT_RULE = re.compile(
    r"(?<!\bnot)(?<!\bno)\s(?=(?:user[- ]?agent|(?:dis)?allow)\s?:)|(?<=[^\W_]|[*/>])(?=(?:user-?agent|disallow)\s?:)",
    re.IGNORECASE,
)
# Ends of lines as text, and as elements of a page.
_WRITTEN_ENDS = re.compile(r"(?:\\r)?\\n|\\r|<br ?/?>|</?pre>", re.IGNORECASE)
_BLANKS = re.compile(r"\s{2,}")
_WITHOUT_COLON = re.compile(
    rf"({'|'.join(name.replace(' ', '[ ]') for name in (*SPELLINGS, 'allow'))})([\s=;.,]+)(\S.*)", re.IGNORECASE
)
# Other words for "disallow", before a path.
REFUSING = re.compile(
    r"(do |does )?(no|not|don'?t) ?(allow(ed)?|access)|(block|reject|prohibit)(ed)?|den(y|ied)|forbid(den)?|(exclude|refuse)d?"
)
# Addresses in an agent's name; they are no agents.
_ADDRESS = re.compile(r"\+?https?://[^\s;,)]*", re.IGNORECASE)
# What may stand between agents; a slash does, too, unless a version follows.
_BETWEEN_AGENTS = re.compile(r"(?:[\s,;|+()\[\]{}<>\"'`\u00ab\u00bb\u2018-\u201f\u3001\uff0c\uff1b&]|/(?![\dvVxX]|\s*$))+")
QUOTES = "\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb"
_QUOTED = re.compile(f"[{QUOTES}]")
# Values that people write for "everything".
EVERYTHING = frozenset({"all", "any", "yes", "true", "1", "on", "everything", "everywhere", "site", "root"}) | frozenset(
    {"\\", ".", "./", "./*", ".*", "*.*", "*/*", "**"}
)
# Signs around "/" and "*" that people take for a pattern, or that end a list.
_AROUND = re.compile(r"^[\^(\[{<]+|(?:[)\]}>;,:|!]|(?<=\.\*)\$)+$")
_WHOLE = frozenset({"/", "*", "/*"})
_SEVERAL = re.compile(r"\s*[,;|]?\s+(?=[/*])|[,;|](?=/)")
# Names of makers and models, which are no agents.
MAKERS = frozenset(
    {
        "openai",
        "anthropic",
        "claude",
        "chatgpt",
        "gpt",
        "gemini",
        "bard",
        "cohere",
        "mistral",
        "mistralai",
        "deepseek",
        "bytedance",
        "llama",
        "commoncrawl",
        "common-crawl",
        "meta-ai",
        "metaai",
        "huggingface",
        "stabilityai",
        "midjourney",
    }
)
_LINE_ENDS = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]+")
_PAGE = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)
# Longer lines are not looked at for what else they might mean, and no more such lines are reported than these.
LONGEST_LINE, MOST_PROBLEMS = 300, 20
# Words with which a line speaks of training.
_TRAINING = re.compile(
    r"no-?(image)?-?ai\b|\b(ai|llm|ml|tdm|genai)([-_ :=]|$)|train|text.?and.?data.?mining|machine.?learning", re.IGNORECASE
)


@dataclass(frozen=True)
class Rule:
    """A line of a file with groups: its agents (empty outside of groups), name and value.

    Attributes:
        problem: why the line may be meant otherwise; empty: it is spelt as crawlers read it.
    """

    agents: frozenset[str]
    name: str
    value: str
    problem: str = ""

    @property
    def line(self) -> str:
        """The line in its usual spelling."""
        return f"{self.name.title()}: {self.value}"


def rules(text: str) -> Iterator[Rule]:
    """Yield the lines of a robots.txt, or of a file in its format, in order."""
    group: set[str] = set()
    agents: frozenset[str] = frozenset()
    naming = False
    doubts = ""  # about the names of the group's agents
    other = ""  # a line of the group that is about no paths
    for line, written in _lines(text):
        fields = [(name, value, problem or written) for name, value, problem in _fields(line)]
        if naming and not _is_rule(fields) and (stated := _stated(line)):
            # Crawlers pass the line over, and read the rules of the next group as this one's.
            doubts = doubts or f"{stated[:LONGEST_LINE]!r} stands before it in its group, and is no rule"
        for name, value, problem in fields:
            if name == "user-agent":
                group, doubts = (group, doubts) if naming else (set(), "")
                if naming and other:
                    doubts = (
                        doubts or f"the group before it has {other!r} and no rules: crawlers read it as one with this group"
                    )
                other = ""
                group |= agents_of(value)
                doubts = doubts or problem or _other_letters(value)
                naming = True
            elif name in GROUPED:
                agents = frozenset(group) if naming else agents  # shared by all rules of a group, which may name thousands
                naming = False
                yield Rule(agents, name, value, problem or doubts)
            else:  # a line for the whole file, such as License; it ends no group
                other = name if name in OF_GROUPS else other
                yield Rule(frozenset(), name, value, problem)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file, with single blanks, and the problem of those whose end is written as text."""
    for line in _LINE_ENDS.split(text):
        pieces = [line] if line.lstrip().startswith("#") else _WRITTEN_ENDS.split(line)
        for piece in pieces:
            yield _BLANKS.sub(" ", piece), "" if len(pieces) == 1 else "an end of a line is written as text"


def _stated(line: str) -> str:
    """What a line says, without comments and blanks around it."""
    return " ".join(line.split("#", 1)[0].strip("\u200b\u200e\ufeff \t").split())


def _is_rule(fields: Iterable[tuple[str, str, str]]) -> bool:
    return any(name in RULES for name, _, _ in fields)


def _other_letters(value: str) -> str:
    """The problem of an agent in letters that only look like ASCII's, such as full-width ones; empty: there is none."""
    odd = any(sign.isalnum() and not sign.isascii() and unicodedata.normalize("NFKC", sign).isascii() for sign in value)
    return f"{value!r} is not in plain letters" if odd else ""


def _fields(line: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and problem of each rule on a line; none for a line that is no rule."""
    stated = line.split("#", 1)[0].strip().lstrip("\u200b\u200e\ufeff")
    for part in _NEXT_RULE.split(stated):
        problem = "several rules on one line" if part != stated else ""
        name, colon, value = part.partition(":")
        if not colon and (wide := part.partition(WIDE_COLON))[1]:
            name, colon, value = wide
            problem = problem or "a full-width colon"
        folded = unicodedata.normalize("NFKC", name)
        if folded != name:
            name, problem = folded, problem or f"{name!r} is not in plain letters"
        bare = _WITHOUT_COLON.fullmatch(part)
        if bare and (not colon or "/" in name or "=" in name):
            name, sign, value = bare.groups()
            # Google's parser takes a blank for the colon where one word follows.
            problem = problem or ("" if not sign.strip() and len(value.split()) == 1 else "a line without a colon")
        elif not colon:
            continue
        spelt, value = " ".join(name.translate(_SIGNS).lower().split()), value.strip()
        if REFUSING.fullmatch(re.sub("[_-]", " ", spelt)) and value.strip(QUOTES).startswith(("/", "*")):
            rule, doubt = "disallow", f"{spelt!r} is no name of a rule: read as 'disallow'"
        else:
            rule, doubt = _rule_of(spelt)
        yield rule, value, problem or doubt


@lru_cache(maxsize=4096)
def _rule_of(name: str) -> tuple[str, str]:
    """The rule that a line's name means, and the problem if the name only resembles it."""
    if name in SPELLINGS:
        return SPELLINGS[name], ""
    if name in GROUPED or name in OTHERS or len(name) > 30:
        return name, ""
    squeezed = re.sub(r"[-_ ]", "", name)
    known = [squeezed] if squeezed in OF_TRAINING else [*SPELLINGS, "allow", "content-usage", "content-signal", *OTHERS]
    name, stated = squeezed if squeezed in OF_TRAINING else name, name
    begins = [rule for rule in (*SPELLINGS, "allow") if name.startswith(rule)]
    near = get_close_matches(name.replace("_", "-"), known, n=1, cutoff=ALIKE) or begins[:1]
    meant = SPELLINGS.get(near[0], near[0]) if near else name
    if meant in OTHERS or meant == stated:
        return stated, ""
    return meant, f"{stated!r} is no name of a rule: read as {meant!r}, and permits nothing"


@lru_cache(maxsize=4096)
def agents_of(value: str) -> frozenset[str]:
    """The agents that a line names: one, or several with commas, semicolons, blanks, slashes or brackets between them."""
    plain = unicodedata.normalize("NFKC", value.translate(_SIGNS))
    parts = (part for part in _BETWEEN_AGENTS.split(_ADDRESS.sub(" ", plain)) if part)
    return frozenset(filter(None, map(token, (plain, *parts))))


def token(agent: str) -> str:
    """The name of an agent for comparisons: in lower case, without version, quotes and a final star."""
    name = agent.split("/", 1)[0].strip(" \t\"'").lower()
    return name if name == EVERYBODY else name.rstrip("*")


def addressed(text: str, agents: Sequence[str]) -> Iterator[tuple[Rule, list[str]]]:
    """Yield the lines that allow or disallow, each with its agents among `agents` and `*`."""
    spelling = {token(agent): agent for agent in agents} | {EVERYBODY: EVERYBODY}
    names = frozenset(spelling)
    for rule in rules(text):
        if rule.name in {"allow", "disallow"} and (addressees := names & rule.agents):
            yield rule, sorted(spelling[name] for name in addressees)


def access(text: str, agents: Sequence[str], origin: str) -> dict[tuple[str, ...], list[tuple[bool | None, str, str, str]]]:
    """The rules for `*` and for each named agent: `(allowed, pattern, line, problem)` by agents.

    Agents with the same rules share a key. An empty `Disallow:` without other rules allows everything; what is spelt so that
    its meaning is in doubt allows nothing.
    """
    by_agent: dict[str, list[tuple[bool | None, str, str, str]]] = {}
    for rule, addressees in addressed(text, agents):
        if not rule.value and rule.name == "allow":
            continue
        allows = rule.name == "allow" or not rule.value
        for value, doubt in values_of(rule.value):
            pattern = pattern_of(value or "/", origin)
            elsewhere = "" if pattern else f"{value!r} is an address of another site, which the file does not cover"
            problem = "; ".join(dict.fromkeys(filter(None, (rule.problem, doubt or elsewhere))))
            entries: list[tuple[bool | None, str, str, str]] = []
            if pattern is not None:
                entries.append((None if allows and problem else allows, pattern, rule.line, problem))
            if (doubt or elsewhere) and pattern != "/":  # it may be meant of all pages
                entries.append((None, "/", rule.line, problem))
            for name in addressees:
                by_agent.setdefault(name, []).extend(entries)
    agents_of_rules: dict[tuple[tuple[bool | None, str, str, str], ...], list[str]] = {}
    for name, stated in by_agent.items():
        # Beside other rules an empty Disallow says nothing.
        entries = [entry for entry in stated if entry[2] != EMPTY] or stated
        agents_of_rules.setdefault(tuple(dict.fromkeys(entries)), []).append(name)
    return {tuple(sorted(addressees)): list(entries) for entries, addressees in agents_of_rules.items()}


@lru_cache(maxsize=4096)
def values_of(value: str) -> tuple[tuple[str, str], ...]:
    """The patterns that the value of a rule means, each with its problem: `all` and its like mean the whole site.

    A value in quotes is read without them, and several paths with commas or blanks between them one by one.
    """
    shown, plain = repr(value[:LONGEST_LINE]), value.strip(QUOTES + " ")
    bare = _AROUND.sub("", plain)
    head, blank, tail = plain.partition(" ") if " " in plain else plain.partition("\t")
    if (
        plain.lower() in EVERYTHING
        or (bare != plain and (bare in _WHOLE or bare in EVERYTHING or bare == "/.*"))
        or (value and not plain)
    ):
        return (("/", f"{shown} is no path: read as the whole site"),)
    if len(value) <= LONGEST_LINE:
        paths = [path for path in (part.strip(QUOTES + " ,;|") for part in _SEVERAL.split(_QUOTED.sub(" ", plain))) if path]
        if len(paths) > 1 and all(path.startswith(("/", "*")) for path in paths):
            return tuple((path, f"{shown} is several paths, and a rule has one") for path in paths)
    if blank and (head in _WHOLE or (head.startswith(("/", "*")) and not tail[:1].isalnum())):
        return ((head, f"{shown} has a blank, which no path has: read as {head[:LONGEST_LINE]!r}"),)
    problem = f"{shown} is in quotes" if plain != value and value else ""
    if blank and plain.startswith(("/", "*")):
        problem = f"{shown} has a blank, which no path has"
    elif plain.startswith("/.*"):
        problem = f"{shown} may be meant of the whole site"
    elif plain and not plain.startswith(("/", "*", "$")) and "://" not in plain:
        problem = f"{shown} does not begin with / or *"
    return ((plain, problem),)


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
    text, unread = answer.text()
    rows = []
    for names, entries in sorted(access(text, agents, origin).items()):
        model_agents = [name for name in names if name != EVERYBODY]
        for allowed, pattern, line, doubt in entries:
            problem = "; ".join(filter(None, (unread, doubt)))
            for use, addressees in (("train", model_agents), ("crawl", [EVERYBODY] if EVERYBODY in names else [])):
                if addressees:
                    agents_named, scope = ", ".join(addressees), origin + pattern
                    says = f"{line} (User-agent: {agents_named})"
                    rows.append(
                        row(answer, KIND, use, says=says, scope=scope, allowed=allowed, agents=agents_named, problem=problem)
                    )
    rows += _on_training(answer, text, unread)
    odd = islice(_not_understood(text, agents), MOST_PROBLEMS)
    rows += [row(answer, KIND, "train", says=line, problem=problem) for line, problem in odd]
    if any(rule.name in {"allow", "disallow"} and not rule.agents for rule in rules(text)):
        problem = "rules without a User-agent before them, which crawlers do not read"
        rows.append(row(answer, KIND, "crawl", says="rules outside of groups", problem=problem))
    return rows or [silence(answer, KIND, "crawl", unread)]


def odd_lines(text: str) -> Iterator[str]:
    """Yield the lines of a file that are no rule, no comment and not blank; none of a page."""
    if not _PAGE.search(text[:1000]):
        for line, _ in _lines(text):
            stated = _stated(line)
            if stated and not _is_rule(_fields(stated)):
                yield stated[:LONGEST_LINE]


def _on_training(answer: Answer, text: str, unread: str) -> Iterator[Row]:
    """Yield rows of rules on training (`OF_TRAINING`): those for everybody, and those outside of groups."""
    for rule in rules(text):
        pattern = pattern_of(rule.value or "/", answer.about)
        if rule.name in OF_TRAINING and pattern is not None and (not rule.agents or EVERYBODY in rule.agents):
            allows = (OF_TRAINING[rule.name] == "allow") == bool(rule.value)
            yield row(
                answer, KIND, "train", says=rule.line, scope=answer.about + pattern, agents=EVERYBODY,
                allowed=None if allows and rule.problem else allows, problem="; ".join(filter(None, (unread, rule.problem))),
            )  # fmt: skip


def _not_understood(text: str, agents: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield lines that speak of training or of collectors for models, and are read as nothing; each with its problem."""
    if _PAGE.search(text[:1000]):
        return
    names = tuple(map(token, agents))
    seen: set[str] = set()
    told: set[tuple[str, frozenset[str]]] = set()
    group: frozenset[str] = frozenset()  # the collectors for models that the group names
    naming = ""  # the line that named the last of them, until a rule follows
    is_open = False
    for line, _ in _lines(text):
        stated = _stated(line)
        if not stated or len(stated) > LONGEST_LINE:
            continue
        fields = list(_fields(stated))
        is_rule = _is_rule(fields)
        for name, value, _ in fields:
            if name == "user-agent":
                named = agents_of(value) & set(names)
                group = group | named if is_open else named
                naming, is_open = (stated if named else naming), True
            elif name in GROUPED:
                naming, is_open = "", False
        if not is_rule and group and (stated, group) not in told:
            told.add((stated, group))
            yield stated, f"is no rule of a robots.txt, and stands in the group of {', '.join(sorted(group))}"
        if stated in seen:
            continue
        seen.add(stated)
        if not is_rule and not group and (_TRAINING.search(stated) or any(name in stated.lower() for name in names)):
            yield stated, "speaks of training or of an agent that collects for models, and is no rule of a robots.txt"
        for name, value, _ in fields:
            if name == "user-agent" and (odd := _odd_agent(value, names)):
                yield stated, odd
    if naming:
        yield naming, "names an agent that collects for models, and no rule follows"


@lru_cache(maxsize=65_536)
def _odd_agent(value: str, names: tuple[str, ...]) -> str:
    """The problem of a line whose agent is a pattern, or nearly one of some names; empty: there is none."""
    named = agents_of(value)
    if named & set(names) or named == {EVERYBODY} or len(value) > 60:
        return ""
    if any(sign.isalpha() and not sign.isascii() for sign in value):
        return f"{value!r} has letters that no agent's name has"
    if makers := sorted(named & MAKERS):
        return f"{makers[0]!r} is the name of a maker or a model, and of no agent that is known"
    if any("*" in name and name != EVERYBODY for name in named):
        return f"{value!r} is a pattern of agents, which no standard has"
    if _TRAINING.search(value):
        return f"{value!r} is the name of no agent that is known, and may mean all that collect for models"
    near = get_close_matches(token(value), names, n=1, cutoff=AGENTS_ALIKE)
    return f"{value!r} is nearly {near[0]!r}, and is read as another agent" if near else ""
